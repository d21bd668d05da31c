//! `report.html` in headless Chromium: it renders, nothing is logged on the console, and every figure on it is that of
//! `results.json`. Without Chromium this says that it was skipped.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use orset::bench::checker::{CheckOptions, check};
use orset::bench::history::{
    Answer, End, Event, FORMAT, FaultAction, FaultKind, History, Line, Moment, Phase, Request, Run, Workload,
};
use orset::bench::{report, write_results};
use serde_json::{Value, json};

/// What would run if the page took an element for markup.
const NASTY: &str = "</script><img src=x onerror=\"console.error('injected')\"><!--";

fn chromium() -> Option<&'static str> {
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        let version = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    })
}

/// A run that lost an element with a nasty name.
fn write_run(dir: &Path) {
    let nodes = vec!["n0".to_owned(), "n1".to_owned()];
    let options = [("rate".to_owned(), json!(100.0)), ("bin".to_owned(), json!([NASTY]))].into();
    let started = "2026-01-01T00:00:00Z".to_owned();
    let run = Run { format: FORMAT, workload: Workload::OrSet, nodes, seed: 7, started, options };
    let mut history = History::new(run.clone());
    let mut lines = serde_json::to_string(&Line { index: 0, time_ns: 0, event: Event::Run(run) }).expect("JSON") + "\n";
    let mut messages = String::new();
    let mut push = |event: Event| {
        let index = history.next.index;
        let line = Line { index, time_ns: index as u64 * 3_000_000, event: event.clone() };
        lines += &(serde_json::to_string(&line).expect("JSON") + "\n");
        history.push(Moment { index, time_ns: line.time_ns }, event).expect("a history");
        let (src, dest) = if index.is_multiple_of(2) { ("c0", "n0") } else { ("n0", "n1") };
        let dropped = index.is_multiple_of(7).then_some("loss");
        let message = json!({"sent_ns": line.time_ns, "due_ns": line.time_ns + 1000, "dropped": dropped, "src": src, "dest": dest,
            "delivered_ns": if dropped.is_some() { None } else { Some(line.time_ns + 2000) }, "body": {"type": "t", "x": NASTY}});
        messages += &(message.to_string() + "\n");
        index
    };
    let process = || "c0".to_owned();
    let element = |number: u32| if number == 0 { json!(NASTY) } else { json!(number % 50) };
    let fault = |action: FaultAction| Event::Fault {
        fault: 0,
        kind: FaultKind::Partition,
        action,
        nodes: vec![],
        text: "halves".to_owned(),
    };
    for number in 0..400 {
        let request = Request::Add { element: element(number) };
        let node = format!("n{}", number % 2);
        let op = push(Event::Invoke { process: process(), node: node.clone(), phase: Phase::Main, request });
        let tag = Some(uuid::Uuid::from_u128(u128::from(number)).to_string());
        push(Event::Ok { op, process: process(), answer: Answer::Add { tag } });
        match number {
            100 => push(fault(FaultAction::Begin)),
            200 => push(fault(FaultAction::End)),
            _ => 0,
        };
    }
    push(Event::Phase { phase: Phase::Final });
    for node in ["n0", "n1"] {
        let op = push(Event::Invoke {
            process: process(),
            node: node.to_owned(),
            phase: Phase::Final,
            request: Request::Read,
        });
        let elements = (1..50).map(element).collect();
        push(Event::Ok { op, process: process(), answer: Answer::Read { elements } });
    }
    push(Event::End(End::default()));
    std::fs::write(dir.join("history.jsonl"), lines).expect("it can be written");
    std::fs::write(dir.join("messages.jsonl"), messages).expect("it can be written");
    write_results(dir, &check(&history, &CheckOptions::default())).expect("it can be written");
    report::write(dir, &history).expect("it can be written");
}

/// The text of an element that begins after `start`, without its markup.
fn text(page: &str, start: usize) -> String {
    let rest = &page[start..];
    let inner = &rest[..rest.find('<').expect("an end")];
    inner.replace("&lt;", "<").replace("&gt;", ">").replace("&nbsp;", "\u{a0}").replace("&amp;", "&")
}

#[test]
fn the_page_renders_in_chromium_and_its_figures_are_those_of_the_results() {
    let Some(chromium) = chromium() else {
        support::skipped("there is no Chromium to render report.html");
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    write_run(dir.path());
    let output = Command::new("timeout")
        .args(["120", chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .args(["--virtual-time-budget=10000", "--enable-logging=stderr", "--dump-dom"])
        .arg(format!("file://{}", dir.path().join("report.html").display()))
        .output()
        .expect("Chromium runs");
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let console: Vec<&str> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(console.is_empty(), "{console:?}");
    assert!(page.contains("data-rendered=\"true\"") && !page.contains("data-errors"), "not rendered: {said}");
    assert_eq!(page.matches("class=\"uplot").count(), 4, "all charts are there");

    let results = std::fs::read_to_string(dir.path().join("results.json")).expect("it is there");
    let results: Value = serde_json::from_str(&results).expect("JSON");
    assert_eq!(results["valid"], false, "{results}");
    let mut figures = BTreeSet::new();
    for (place, mark) in page.match_indices("data-figure=\"") {
        let pointer = &page[place + mark.len()..];
        let pointer = &pointer[..pointer.find('"').expect("an end")];
        let start = place + page[place..].find('>').expect("an end") + 1;
        let figure = results.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in results.json"));
        let shown = text(&page, start);
        let same = match figure {
            Value::String(figure) => shown == *figure,
            Value::Number(figure) => shown.parse::<f64>().ok() == figure.as_f64(),
            other => shown.parse::<Value>().ok().as_ref() == Some(other),
        };
        assert!(same, "{pointer}: the page says {shown}, results.json {figure}");
        figures.insert(pointer);
    }
    assert_eq!(figures.len(), leaves(&results), "every figure is on the page");
    assert!(page.matches("data-figure=\"/stats/all/count\"").count() == 2, "the first figures stand at the top, too");
    assert!(page.contains("lost-element") && page.contains("onerror"), "the anomaly is told, as text");
}

/// Single values of results.json outside of the anomalies.
fn leaves(value: &Value) -> usize {
    match value {
        Value::Object(fields) => {
            fields.iter().filter(|(name, _)| *name != "anomalies").map(|(_, inner)| leaves(inner)).sum()
        }
        Value::Array(values) => values.iter().map(leaves).sum(),
        _ => 1,
    }
}
