"use strict";
const errors = [];
window.addEventListener("error", (event) => { errors.push(event.message); document.body.dataset.errors = errors.join("; "); });

const data = JSON.parse(document.getElementById("data").textContent);
const results = data.results;
const byId = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");
const COLOURS = { light: ["#0d74ce", "#c62a2f", "#18794e", "#946800", "#8347b9", "#cb4a00", "#107d98", "#c2298a"],
                  dark: ["#70b8ff", "#ff9592", "#3dd68c", "#ffca16", "#d19dff", "#ffa057", "#4ccce6", "#ff8dcc"] };
const colour = (place) => COLOURS[dark.matches ? "dark" : "light"][place % 8];

function element(parent, name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.append(made);
  return made;
}

// The verdict, and every figure of results.json under its JSON pointer.
function showFigures() {
  const verdict = results.valid === true ? "valid" : results.valid === false ? "invalid" : "unknown";
  byId("verdict").textContent = verdict.toUpperCase() + ": " + results.workload + " on " + results.nodes.length + " nodes";
  byId("verdict").className = verdict;
  byId("what").textContent = "seed " + results.seed + ", started " + data.started + ". " +
    Object.entries(data.options).filter(([, value]) => value !== null && String(value) !== "")
      .map(([name, value]) => name + " " + (Array.isArray(value) ? value.join(" ") : value)).join(", ");
  document.title = verdict + ": orset test -w " + results.workload;
  showHeadline();
  const general = {};
  for (const [name, value] of Object.entries(results)) {
    if (name === "anomalies") continue;
    if (value !== null && typeof value === "object" && !Array.isArray(value)) group(name, { [name]: value });
    else general[name] = value;
  }
  group("general", general);
}

// What one wants to know first: figures by their JSON pointers, and what they count. Those that a run has not are left out.
const HEADLINE = [
  ["/stats/all/count", "operations"], ["/stats/all/ok_count", "answered well"], ["/stats/all/fail_count", "refused"], ["/stats/all/info_count", "unknown"],
  ["/stats/all/latency_ms/0.5", "ms median latency"], ["/or_set/converged_after_s", "s from the heal to agreement"], ["/set_full/converged_after_s", "s from the heal to agreement"],
  ["/set_full/stable_count", "stable"], ["/set_full/lost_count", "lost"],
  ["/or_set/drain/tags_expected", "tags expected in the drain"], ["/or_set/drain/tags_missing", "missing"], ["/or_set/drain/tags_resurrected", "back from the dead"],
  ["/net/server_messages_per_op", "messages between nodes an operation"],
];

function showHeadline() {
  const at = (pointer) => pointer.slice(1).split("/").reduce((value, key) => value?.[key], results);
  for (const [pointer, what] of HEADLINE) {
    const figure = at(pointer);
    if (figure === undefined || figure === null) continue;
    const box = element(byId("headline"), "span");
    element(box, "strong", JSON.stringify(figure), { "data-figure": pointer });
    element(box, "span", " " + what);
  }
}

function group(title, value) {
  const rows = [];
  flatten(value, "", "", rows);
  if (rows.length === 0) return;
  const box = element(byId("figures"), "details");
  box.open = true;
  element(box, "summary", title.replaceAll("_", " "));
  const table = element(box, "table");
  for (const [pointer, name, figure] of rows) {
    const row = element(table, "tr");
    element(row, "th", name.replaceAll("_", " "), { scope: "row" });
    element(row, "td", typeof figure === "string" ? figure : JSON.stringify(figure), { "data-figure": pointer });
  }
}

function flatten(value, pointer, name, rows) {
  if (value === null || typeof value !== "object") { rows.push([pointer, name, value]); return; }
  for (const [key, inner] of Object.entries(value)) {
    const step = key.replaceAll("~", "~0").replaceAll("/", "~1");
    flatten(inner, pointer + "/" + step, pointer.includes("/") ? name + " " + key : key, rows);
  }
}

function showAnomalies() {
  const place = byId("anomalies");
  if (results.anomalies.length > 0) element(place, "h2", "Anomalies");
  for (const anomaly of results.anomalies) {
    const box = element(place, "div", undefined, { class: "anomaly" });
    element(box, "strong", anomaly.kind, { class: "invalid" });
    element(box, "span", " " + (anomaly.node ? anomaly.node + ": " : "") + anomaly.text);
    element(box, "pre", anomaly.operations.map((line) => data.lines[line] ?? "line " + (line + 1)).join("\n"));
  }
}

// Charts.
const plots = [];
function shade(plot) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.fillStyle = dark.matches ? "rgba(255,149,146,.13)" : "rgba(198,42,47,.09)";
  for (const fault of data.faults) {
    const left = Math.max(plot.valToPos(fault.begin_s, "x", true), bbox.left);
    const right = Math.min(plot.valToPos(fault.end_s, "x", true), bbox.left + bbox.width);
    if (right > left) ctx.fillRect(left, bbox.top, right - left, bbox.height);
  }
  ctx.restore();
}

function chart(title, columns, names, options = {}) {
  const place = element(byId("charts"), "div", undefined, { class: "chart" });
  if (columns[0].length === 0) { element(place, "p", title + ": nothing to show", { class: "soft" }); return; }
  const axis = { stroke: css("--soft"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line") } };
  const series = [{ label: "s", value: (_, x) => x === null ? "" : x.toFixed(2) }];
  names.forEach((name, number) => series.push({
    label: name, stroke: colour(number), width: options.points ? 0 : 1.5,
    paths: options.points ? () => null : undefined,
    points: { show: options.points, size: 4, stroke: colour(number), fill: colour(number) },
    value: (_, y) => y === null || y === undefined ? "" : String(Math.round(y * 100) / 100),
  }));
  const width = Math.max(place.clientWidth - 24, 260);
  const plot = new uPlot({ title, width, height: 260, series, scales: { x: { time: false }, y: options.log ? { distr: 3 } : { range: (_, low, high) => [0, Math.max(high * 1.05, 1)] } },
    axes: [{ ...axis }, { ...axis, size: 64 }], hooks: { drawClear: [shade] } }, columns, place);
  plots.push([plot, place]);
}

// Points of several kinds on one time axis.
function aligned(kinds) {
  const all = Object.keys(kinds).flatMap((name, kind) => kinds[name].map(([x, y]) => [x, y, kind])).sort((a, b) => a[0] - b[0]);
  const columns = [all.map(([x]) => x), ...Object.keys(kinds).map(() => new Array(all.length).fill(null))];
  all.forEach(([, y, kind], place) => { columns[kind + 1][place] = y; });
  return columns;
}

function showCharts() {
  byId("charts").replaceChildren();
  plots.length = 0;
  const cut = data.latency_of < data.latency_total ? " (" + data.latency_of + " of " + data.latency_total + " operations, evenly chosen, and the slowest)" : "";
  chart("latency of operations, ms" + cut, aligned(data.latency), Object.keys(data.latency), { points: true, log: true });
  chart("operations a second, by outcome", [data.rate.s, data.rate.ok, data.rate.fail, data.rate.info], ["ok", "refused", "unknown"]);
  if (data.everywhere) {
    const { points, counted, adds } = data.everywhere;
    chart("ms from an add's answer until a read of every node had shown its element (first adds of " + counted + " elements; the others of " + adds + " acknowledged adds are not shown: added before, or not seen everywhere)",
      aligned({ "until everywhere": points }), ["until everywhere"], { points: true });
  }
  const types = Object.keys(data.message_types.types);
  chart("messages a second, by type", [data.message_types.s, ...types.map((name) => data.message_types.types[name])], types);
}

// The message diagram.
const view = { from: 0, to: 1 };
let spots = [];
function draw() {
  const canvas = byId("diagram"), scale = devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * scale; canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale); pen.clearRect(0, 0, width, height);
  pen.font = "11px system-ui, sans-serif";
  const lanes = new Map(data.lanes.map((name, place) => [name, 24 + (height - 40) * (data.lanes.length === 1 ? .5 : place / (data.lanes.length - 1))]));
  const x = (s) => 44 + (width - 54) * (s - view.from) / (view.to - view.from);
  for (const [name, y] of lanes) {
    pen.strokeStyle = css("--line"); pen.beginPath(); pen.moveTo(40, y); pen.lineTo(width, y); pen.stroke();
    pen.fillStyle = css("--text"); pen.fillText(name, 4, y + 4);
  }
  pen.fillStyle = css("--soft");
  for (let step = 0; step <= 6; step++) {
    const s = view.from + (view.to - view.from) * step / 6;
    pen.fillText(s.toFixed(view.to - view.from < .1 ? 4 : 2) + " s", Math.min(x(s), width - 44), 12);
  }
  spots = [];
  const types = [...new Set(data.messages.map((message) => message.type))];
  for (const message of data.messages) {
    const end = message.delivered_s ?? message.due_s;
    const [x1, y1, x2, y2] = [x(message.sent_s), lanes.get(message.src_lane), x(end), lanes.get(message.dest_lane)];
    if (x2 < 40 || x1 > width) continue;
    pen.strokeStyle = pen.fillStyle = colour(types.indexOf(message.type));
    pen.globalAlpha = message.dropped ? .5 : .85;
    pen.beginPath(); pen.moveTo(x1, y1); pen.lineTo(x2, y2); pen.stroke();
    if (message.dropped) {
      pen.beginPath(); pen.moveTo(x2 - 4, y2 - 4); pen.lineTo(x2 + 4, y2 + 4); pen.moveTo(x2 + 4, y2 - 4); pen.lineTo(x2 - 4, y2 + 4); pen.stroke();
    } else { pen.beginPath(); pen.arc(x2, y2, 2.2, 0, 7); pen.fill(); }
    spots.push([x1, y1, x2, y2, message]);
  }
  pen.globalAlpha = 1;
}

function near(x, y) {
  let best = null, least = 64;
  for (const [x1, y1, x2, y2, message] of spots) {
    const [dx, dy] = [x2 - x1, y2 - y1];
    const along = Math.min(1, Math.max(0, ((x - x1) * dx + (y - y1) * dy) / (dx * dx + dy * dy || 1)));
    const distance = (x - x1 - along * dx) ** 2 + (y - y1 - along * dy) ** 2;
    if (distance < least) [best, least] = [message, distance];
  }
  return best;
}

function zoom(factor, at = .5) {
  const middle = view.from + (view.to - view.from) * at, length = (view.to - view.from) * factor;
  view.from = middle - length * at; view.to = view.from + length;
  draw();
}
function move(share) { const by = (view.to - view.from) * share; view.from += by; view.to += by; draw(); }
function whole() {
  const times = data.messages.flatMap((message) => [message.sent_s, message.delivered_s ?? message.due_s]);
  view.from = times.reduce((a, b) => Math.min(a, b), Infinity); view.to = times.reduce((a, b) => Math.max(a, b), -Infinity);
  if (!(view.to > view.from)) { view.from = 0; view.to = 1; }
  draw();
}

function showDiagram() {
  byId("shown").textContent = data.messages.length + " of " + data.messages_total;
  whole();
  const canvas = byId("diagram");
  const share = (event) => (event.offsetX - 44) / (canvas.clientWidth - 54);
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(event.deltaY > 0 ? 1.25 : .8, share(event)); }, { passive: false });
  let held = null;
  canvas.addEventListener("pointerdown", (event) => { held = event.offsetX; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", () => { held = null; });
  canvas.addEventListener("pointermove", (event) => {
    if (held !== null) { move((held - event.offsetX) / (canvas.clientWidth - 54)); held = event.offsetX; return; }
    const message = near(event.offsetX, event.offsetY);
    if (message) byId("message").textContent = message.src + " → " + message.dest + "  sent " + message.sent_s.toFixed(4) + " s, " +
      (message.dropped ? "dropped: " + message.dropped : "delivered " + message.delivered_s.toFixed(4) + " s") + (message.duplicate ? ", second copy" : "") + "\n" + message.body;
  });
  canvas.addEventListener("keydown", (event) => {
    const keys = { "+": () => zoom(.8), "-": () => zoom(1.25), ArrowLeft: () => move(-.2), ArrowRight: () => move(.2) };
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });
  byId("in").onclick = () => zoom(.5); byId("out").onclick = () => zoom(2);
  byId("left").onclick = () => move(-.3); byId("right").onclick = () => move(.3); byId("all").onclick = whole;
}

showFigures(); showAnomalies(); showCharts(); showDiagram();
dark.addEventListener("change", () => { showCharts(); draw(); });
let resized = 0;
addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => { for (const [plot, place] of plots) plot.setSize({ width: Math.max(place.clientWidth - 24, 260), height: 260 }); draw(); }, 100); });
document.body.dataset.rendered = String(errors.length === 0);
