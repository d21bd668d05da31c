//! `report.html`: one page that needs no network. Its data stand in it as JSON, `results.json` word for word; its script
//! draws them with uPlot (`uplot/`).

mod series;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::history::{FaultKind, History};
use series::{Everywhere, Latencies, PerSecond, Rates};

const PAGE: &str = include_str!("page.html");
const PAGE_JS: &str = include_str!("page.js");
const UPLOT_JS: &str = include_str!("uplot/uPlot.iife.min.js");
const UPLOT_CSS: &str = include_str!("uplot/uPlot.min.css");

/// So many messages are in the diagram.
const SHOWN_MESSAGES: usize = 1000;
/// So much of a message's body is shown, in bytes.
const SHOWN_BYTES: usize = 400;

/// What the page's script gets.
#[derive(Serialize)]
struct Data<'a> {
    results: &'a Value,
    started: &'a str,
    options: &'a BTreeMap<String, Value>,
    faults: Vec<FaultSpan>,
    latency: Latencies,
    latency_of: usize,
    latency_total: usize,
    rate: Rates,
    everywhere: Option<Everywhere>,
    message_types: PerSecond,
    lanes: Vec<String>,
    messages: Vec<Message>,
    messages_total: u64,
    /// The lines of the history that anomalies name.
    lines: BTreeMap<usize, String>,
}

#[derive(Serialize)]
struct FaultSpan {
    kind: FaultKind,
    text: String,
    begin_s: f64,
    end_s: f64,
}

/// A line of `messages.jsonl`.
#[derive(Deserialize)]
struct Logged<'a> {
    sent_ns: u64,
    due_ns: u64,
    delivered_ns: Option<u64>,
    #[serde(default)]
    dropped: Option<String>,
    #[serde(default)]
    duplicate: bool,
    src: String,
    dest: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Deserialize)]
struct Typed {
    #[serde(rename = "type", default)]
    kind: Option<String>,
}

#[derive(Serialize)]
struct Message {
    sent_s: f64,
    due_s: f64,
    delivered_s: Option<f64>,
    dropped: Option<String>,
    duplicate: bool,
    src: String,
    dest: String,
    src_lane: String,
    dest_lane: String,
    #[serde(rename = "type")]
    kind: String,
    body: String,
}

/// Writes `report.html` into a run's directory, from its `history.jsonl`, `messages.jsonl` and `results.json`.
///
/// # Errors
/// As the system has it, or if a file is not what the bench writes.
pub fn write(dir: &Path, history: &History) -> io::Result<()> {
    let results: Value = serde_json::from_reader(BufReader::new(File::open(dir.join("results.json"))?))?;
    let (latency, latency_of, latency_total) = series::latencies(history);
    let (message_types, messages, messages_total) = messages(&dir.join("messages.jsonl"), history)?;
    let end_ns = history.next.time_ns;
    let faults = history.faults.iter().map(|fault| FaultSpan {
        kind: fault.kind,
        text: fault.text.clone(),
        begin_s: seconds(fault.begin.time_ns),
        end_s: seconds(fault.end.map_or(end_ns, |end| end.time_ns)),
    });
    let data = Data {
        started: &history.run.started,
        options: &history.run.options,
        faults: faults.collect(),
        latency,
        latency_of,
        latency_total,
        rate: series::rates(history),
        everywhere: series::everywhere(history),
        message_types,
        lanes: history.run.nodes.iter().cloned().chain(["clients".to_owned()]).collect(),
        messages,
        messages_total,
        lines: lines(&dir.join("history.jsonl"), &results)?,
        results: &results,
    };
    // Inside a script element nothing but `<` can end it.
    let data = serde_json::to_string(&data)?.replace('<', "\\u003c");
    let parts =
        [("/*UPLOT_CSS*/", UPLOT_CSS), ("/*UPLOT_JS*/", UPLOT_JS), ("/*PAGE_JS*/", PAGE_JS), ("/*DATA*/", &data)];
    let mut page = String::with_capacity(PAGE.len() + PAGE_JS.len() + UPLOT_JS.len() + UPLOT_CSS.len() + data.len());
    let mut rest = PAGE;
    while let Some((place, (mark, text))) = parts.iter().filter_map(|part| Some((rest.find(part.0)?, part))).min() {
        page.push_str(&rest[..place]);
        page.push_str(text);
        rest = &rest[place + mark.len()..];
    }
    page.push_str(rest);
    std::fs::write(dir.join("report.html"), page)
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The lines of the history that prove an anomaly.
fn lines(path: &Path, results: &Value) -> io::Result<BTreeMap<usize, String>> {
    let anomalies = results["anomalies"].as_array().into_iter().flatten();
    let named = anomalies.flat_map(|anomaly| anomaly["operations"].as_array().into_iter().flatten());
    let named: HashSet<usize> = named.filter_map(Value::as_u64).filter_map(|line| usize::try_from(line).ok()).collect();
    let mut lines = BTreeMap::new();
    if named.is_empty() {
        return Ok(lines);
    }
    for (number, line) in BufReader::new(File::open(path)?).lines().enumerate() {
        let line = line?;
        if named.contains(&number) {
            lines.insert(number, shortened(&line));
        }
    }
    Ok(lines)
}

fn shortened(text: &str) -> String {
    if text.len() <= SHOWN_BYTES {
        return text.to_owned();
    }
    format!("{}… ({} bytes)", &text[..boundary(text)], text.len())
}

/// Where a text can be cut.
fn boundary(text: &str) -> usize {
    (0..=SHOWN_BYTES).rev().find(|place| text.is_char_boundary(*place)).unwrap_or(0)
}

/// Messages a second by type, the first ones whole, and how many there were. The file is read once, line by line.
fn messages(path: &Path, history: &History) -> io::Result<(PerSecond, Vec<Message>, u64)> {
    let mut per_second = PerSecond::new(seconds(history.next.time_ns));
    let mut first = Vec::new();
    let mut total = 0;
    let mut input = BufReader::new(File::open(path)?);
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 && line.ends_with('\n') {
        let logged: Logged = serde_json::from_str(&line)?;
        // What nodes say to each other is theirs: the bench only needs a name for it.
        let typed = serde_json::from_str(logged.body.get());
        let kind = typed.ok().and_then(|typed: Typed| typed.kind).unwrap_or_else(|| "without a type".to_owned());
        total += 1;
        if !logged.duplicate {
            per_second.add(&kind, seconds(logged.sent_ns));
        }
        if first.len() < SHOWN_MESSAGES {
            let lane = |name: &str| {
                let known = history.run.nodes.iter().any(|node| node == name);
                if known { name.to_owned() } else { "clients".to_owned() }
            };
            first.push(Message {
                sent_s: seconds(logged.sent_ns),
                due_s: seconds(logged.due_ns),
                delivered_s: logged.delivered_ns.map(seconds),
                dropped: logged.dropped,
                duplicate: logged.duplicate,
                src_lane: lane(&logged.src),
                dest_lane: lane(&logged.dest),
                src: logged.src,
                dest: logged.dest,
                kind,
                body: shortened(logged.body.get()),
            });
        }
        line.clear();
    }
    Ok((per_second, first, total))
}
