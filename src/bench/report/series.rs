//! What the charts show, as pure functions over the history.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::super::history::{Acknowledged, History, Moment, Outcome, Request};
use super::seconds;

/// So many operations are points in the chart of latencies, at most some more.
const LATENCY_POINTS: usize = 20_000;

/// Points by kind of operation: seconds since the run began, and milliseconds.
pub type Latencies = BTreeMap<&'static str, Vec<(f64, f64)>>;

/// Latencies of the operations that were answered well; how many of them are there, and how many there were. Of many,
/// every nth, and the slowest percent.
pub fn latencies(history: &History) -> (Latencies, usize, usize) {
    let mut all = Vec::new();
    for operation in &history.operations {
        if let Some((at, _)) = operation.ok() {
            let name = match operation.request {
                Request::Add { .. } => "add",
                Request::Remove { .. } => "remove",
                Request::Read => "read",
                Request::Echo { .. } => "echo",
                Request::Generate => "generate",
            };
            let ms = (at.time_ns - operation.invoked.time_ns) as f64 / 1e6;
            all.push((name, seconds(operation.invoked.time_ns), ms));
        }
    }
    let total = all.len();
    let step = total.div_ceil(LATENCY_POINTS).max(1);
    let mut sorted: Vec<f64> = all.iter().map(|(_, _, ms)| *ms).collect();
    sorted.sort_by(f64::total_cmp);
    let slow = sorted.get(total - total / 100 - usize::from(total > 0)).copied().unwrap_or(f64::MAX);
    let mut shown = Latencies::new();
    let mut count = 0;
    for (place, (name, s, ms)) in all.into_iter().enumerate() {
        if place % step == 0 || ms > slow {
            count += 1;
            // The scale is a logarithm.
            shown.entry(name).or_default().push((s, ms.max(0.001)));
        }
    }
    (shown, count, total)
}

/// Operations a second, by what became of them; each column as long as `s`.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    s: Vec<usize>,
    ok: Vec<u64>,
    fail: Vec<u64>,
    info: Vec<u64>,
}

/// Operations a second, by the second of their invocation.
pub fn rates(history: &History) -> Rates {
    let length = seconds(history.next.time_ns) as usize + 1;
    let column = || vec![0; length];
    let mut rates = Rates { s: (0..length).collect(), ok: column(), fail: column(), info: column() };
    for operation in &history.operations {
        let column = match operation.outcome {
            Outcome::Ok(..) => &mut rates.ok,
            Outcome::Fail(..) => &mut rates.fail,
            Outcome::Unknown(_) => &mut rates.info,
        };
        column[seconds(operation.invoked.time_ns) as usize] += 1;
    }
    rates
}

/// How long adds took to be everywhere.
#[derive(Debug, PartialEq, Serialize)]
pub struct Everywhere {
    /// Seconds since the run began, and milliseconds from the add's answer.
    points: Vec<(f64, f64)>,
    /// Elements that have a point.
    counted: usize,
    /// Acknowledged adds.
    adds: usize,
}

/// Of every element the first add, if it was answered: how long after its answer a read of every node had shown the
/// element. `None` for a workload without reads.
pub fn everywhere(history: &History) -> Option<Everywhere> {
    let mut first_adds: HashMap<String, (Moment, Option<Moment>)> = HashMap::new();
    let mut shown: HashMap<String, Vec<Option<u64>>> = HashMap::new();
    let nodes = history.run.nodes.len();
    let (mut adds, mut reads) = (0, 0);
    for operation in &history.operations {
        match (&operation.request, operation.acknowledged()) {
            (Request::Add { element }, answer) => {
                adds += usize::from(answer.is_some());
                let first = (operation.invoked, answer.map(|(at, _)| at));
                first_adds.entry(element.to_string()).or_insert(first);
            }
            (_, Some((at, Acknowledged::Read(elements)))) => {
                reads += 1;
                for element in elements.iter().map(ToString::to_string).collect::<HashSet<_>>() {
                    let nodes = shown.entry(element).or_insert_with(|| vec![None; nodes]);
                    let known = &mut nodes[operation.node];
                    *known = Some(known.map_or(at.time_ns, |known| known.min(at.time_ns)));
                }
            }
            _ => {}
        }
    }
    if reads == 0 {
        return None;
    }
    let mut points = Vec::new();
    for (element, (invoked, answered)) in first_adds {
        let everywhere = shown.get(&element).and_then(|nodes| nodes.iter().copied().collect::<Option<Vec<u64>>>());
        if let (Some(answered), Some(last)) = (answered, everywhere.and_then(|nodes| nodes.into_iter().max())) {
            points.push((seconds(invoked.time_ns), last.saturating_sub(answered.time_ns) as f64 / 1e6));
        }
    }
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Some(Everywhere { counted: points.len(), points, adds })
}

/// Counts a second, by name.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct PerSecond {
    s: Vec<usize>,
    types: BTreeMap<String, Vec<u64>>,
}

impl PerSecond {
    /// Nothing yet, over so many seconds.
    pub fn new(length_s: f64) -> Self {
        PerSecond { s: (0..=length_s as usize).collect(), types: BTreeMap::new() }
    }

    /// One more.
    pub fn add(&mut self, name: &str, at_s: f64) {
        let length = self.s.len();
        if !self.types.contains_key(name) {
            self.types.insert(name.to_owned(), vec![0; length]);
        }
        if let Some(count) = self.types.get_mut(name).and_then(|counts| counts.get_mut(at_s as usize)) {
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::history::{Answer, Event, FORMAT, Phase, Run, Workload};
    use super::*;

    /// Adds x on n0 at 1 s, answered at 2 s; reads show it on n0 at 3 s and on n1 at 5 s.
    fn history(shown_on_n1: bool) -> History {
        let nodes = vec!["n0".to_owned(), "n1".to_owned()];
        let (started, options) = (String::new(), [].into());
        let run = Run { format: FORMAT, workload: Workload::GSet, nodes, seed: 1, started, options };
        let mut history = History::new(run);
        let mut push = |second: u64, event: Event| {
            let at = Moment { index: history.next.index, time_ns: second * 1_000_000_000 };
            history.push(at, event).expect("a history");
        };
        let process = || "c0".to_owned();
        let invoke = |node: &str, request: Request| Event::Invoke {
            process: process(),
            node: node.to_owned(),
            phase: Phase::Main,
            request,
        };
        let read = |held: bool| Answer::Read { elements: if held { vec![json!("x")] } else { vec![] } };
        push(1, invoke("n0", Request::Add { element: json!("x") }));
        push(2, Event::Ok { op: 1, process: process(), answer: Answer::Add { tag: None } });
        for (second, node, held) in [(3, "n0", true), (4, "n1", false), (5, "n1", shown_on_n1)] {
            push(second, invoke(node, Request::Read));
            let op = 1 + 2 * (second as usize - 2);
            push(second, Event::Ok { op, process: process(), answer: read(held) });
        }
        history
    }

    #[test]
    fn an_add_is_everywhere_once_a_read_of_every_node_has_shown_it() {
        let found = everywhere(&history(true)).expect("there are reads");
        assert_eq!(found, Everywhere { points: vec![(1.0, 3000.0)], counted: 1, adds: 1 });
        let found = everywhere(&history(false)).expect("there are reads");
        assert_eq!(found, Everywhere { points: vec![], counted: 0, adds: 1 });
    }

    #[test]
    fn every_operation_is_in_the_charts() {
        let (points, shown, total) = latencies(&history(true));
        assert_eq!((shown, total), (4, 4));
        assert_eq!(points["add"], [(1.0, 1000.0)]);
        assert_eq!(rates(&history(true)).ok, [0, 1, 0, 1, 1, 1]);
    }
}
