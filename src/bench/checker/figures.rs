//! What is counted of every run, whatever the workload: operations, availability, messages, the nodes' processes.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Anomaly, AnomalyKind, Availability, CheckOptions, Demand, Findings, NetFigures, NodeFigures, Quantiles, Results,
    Stats, StatsOfKind, Validity,
};
use crate::bench::clients::TIMEOUT_NS;
use crate::bench::history::{End, History, NodeChange, Operation, Outcome, Phase, Request};

/// The results that do not depend on the workload. The verdict is still to come.
pub(super) fn figures(history: &History, options: &CheckOptions, findings: &mut Findings) -> Results {
    match &history.end {
        None => findings.unknown("the history has no end: the run was cut off"),
        Some((_, End { interrupted: true, .. })) => findings.unknown("the run was interrupted"),
        Some(_) => {}
    }
    let stats = stats(history, findings);
    let operations = stats.all.count;
    Results {
        valid: Validity::Unknown,
        workload: history.run.workload,
        seed: history.run.seed,
        nodes: history.run.nodes.clone(),
        duration_s: history.next.time_ns as f64 / 1e9,
        anomalies: Vec::new(),
        anomaly_counts: BTreeMap::new(),
        unknown: Vec::new(),
        or_set: None,
        set_full: None,
        echo: None,
        unique_ids: None,
        availability: availability(&stats.all, options.availability, findings),
        stats,
        net: history.end.as_ref().map(|(_, end)| net(end, operations)),
        node_events: nodes(history, findings),
        faults: history.faults.iter().fold(BTreeMap::new(), |mut counts, fault| {
            *counts.entry(fault.kind).or_default() += 1;
            counts
        }),
    }
}

/// The name of a request in the figures.
fn name(request: &Request) -> &'static str {
    match request {
        Request::Add { .. } => "add",
        Request::Remove { .. } => "remove",
        Request::Read => "read",
        Request::Echo { .. } => "echo",
        Request::Generate => "generate",
    }
}

/// What became of the operations. As Jepsen's `stats`: a kind of operation of which none was answered well says that
/// nothing is known.
fn stats(history: &History, findings: &mut Findings) -> Stats {
    let mut kinds: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        kinds.entry(name(&operation.request)).or_default().push(operation);
    }
    let all: Vec<&Operation> = history.operations.iter().collect();
    let by_f: BTreeMap<String, StatsOfKind> = kinds.iter().map(|(f, of)| ((*f).to_owned(), stats_of(of))).collect();
    for (f, of_kind) in &by_f {
        if of_kind.ok_count == 0 {
            findings.unknown(format!("no {f} was answered well"));
        }
    }
    if all.is_empty() {
        findings.unknown("there are no operations");
    }
    let began = history.began(Phase::Main).map_or(0, |at| at.time_ns);
    let ended = history.began(Phase::Final).unwrap_or(history.next).time_ns;
    let main = all.iter().filter(|operation| operation.phase == Phase::Main).count();
    let seconds = ended.saturating_sub(began) as f64 / 1e9;
    Stats { all: stats_of(&all), by_f, rate: if seconds > 0.0 { main as f64 / seconds } else { 0.0 } }
}

fn stats_of(operations: &[&Operation]) -> StatsOfKind {
    let mut stats = StatsOfKind { count: operations.len() as u64, ..StatsOfKind::default() };
    let mut latencies = Vec::new();
    for operation in operations {
        match &operation.outcome {
            Outcome::Ok(at, _) => {
                let latency_ns = at.time_ns - operation.invoked.time_ns;
                stats.ok_count += 1;
                stats.late_count += u64::from(latency_ns > TIMEOUT_NS);
                latencies.push(latency_ns as f64 / 1e6);
            }
            Outcome::Fail(..) => stats.fail_count += 1,
            Outcome::Unknown(_) => stats.info_count += 1,
        }
    }
    stats.latency_ms = quantiles(latencies);
    stats
}

/// A distribution at Jepsen's points; `None` of nothing.
pub(super) fn quantiles(mut values: Vec<f64>) -> Option<Quantiles> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    // Jepsen's `frequency-distribution`: the value at floor(n × point), at most the last.
    let at = |point: f64| values[((values.len() as f64 * point) as usize).min(last)];
    Some(Quantiles { min: at(0.0), p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1.0) })
}

fn availability(all: &StatsOfKind, demand: Demand, findings: &mut Findings) -> Availability {
    let in_time = all.ok_count - all.late_count;
    let ok_fraction = if all.count == 0 { 0.0 } else { in_time as f64 / all.count as f64 };
    let demanded = match demand {
        Demand::None => 0.0,
        Demand::Total => 1.0,
        Demand::Share(share) => share,
    };
    if ok_fraction < demanded {
        findings.anomaly(AnomalyKind::Unavailable, || Anomaly {
            kind: AnomalyKind::Unavailable,
            text: format!("{in_time} of {} operations were answered well, {demanded} was demanded", all.count),
            operations: Vec::new(),
            node: None,
        });
    }
    Availability { ok_fraction, demand }
}

fn net(end: &End, operations: u64) -> NetFigures {
    let net = &end.net;
    let per_op = |count: u64| if operations == 0 { 0.0 } else { count as f64 / operations as f64 };
    NetFigures {
        server_messages: net.server_messages,
        server_bytes: net.server_bytes,
        client_messages: net.client_messages,
        client_bytes: net.client_bytes,
        messages_per_op: per_op(net.server_messages + net.client_messages),
        server_messages_per_op: per_op(net.server_messages),
        bytes_per_op: per_op(net.server_bytes + net.client_bytes),
        server_bytes_per_op: per_op(net.server_bytes),
        delivered: net.delivered,
        lost: net.lost,
        duplicated: net.duplicated,
        partitioned: net.partitioned,
        to_dead: net.to_dead,
        late_us_p50: net.late_us_p50,
        late_us_p99: net.late_us_p99,
        late_us_max: net.late_us_max,
        bench_cpu_s: end.bench_cpu_s,
        nodes_cpu_s: end.nodes_cpu_s,
    }
}

fn nodes(history: &History, findings: &mut Findings) -> BTreeMap<String, NodeFigures> {
    let mut figures: BTreeMap<String, NodeFigures> =
        history.run.nodes.iter().map(|node| (node.clone(), NodeFigures::default())).collect();
    let mut never_ready: BTreeSet<&str> = BTreeSet::new();
    for life in &history.lives {
        let node = &history.run.nodes[life.node];
        let Some(of_node) = figures.get_mut(node) else { continue };
        let mut wrong = |kind: AnomalyKind, text: String| {
            let (operations, node) = (vec![life.at.index], Some(node.clone()));
            findings.anomaly(kind, || Anomaly { kind, text, operations, node });
        };
        match &life.change {
            NodeChange::Started { .. } => {
                of_node.starts += 1;
                never_ready.insert(node);
            }
            NodeChange::Killed => of_node.kills += 1,
            NodeChange::Exited { status } => {
                of_node.exits += 1;
                wrong(AnomalyKind::NodeExited, format!("{node} ended by itself: {status}"));
            }
            NodeChange::BadLine { text, line } => {
                of_node.bad_lines += 1;
                wrong(AnomalyKind::BadLine, format!("{node}: {text}: {line:?}"));
            }
            NodeChange::Wiped => of_node.wipes += 1,
            NodeChange::RolledBack => of_node.rollbacks += 1,
            NodeChange::Ready => {
                never_ready.remove(node.as_str());
            }
            NodeChange::PowerCut { kept, forgotten } => {
                of_node.power_cuts += 1;
                of_node.unsynced_kept += kept;
                of_node.unsynced_forgotten += forgotten;
            }
            NodeChange::Copied => {}
        }
    }
    if history.began(Phase::Final).is_some() {
        for node in never_ready {
            findings.unknown(format!("{node} did not answer init after its last start"));
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::history::{Event, FORMAT, Moment, Run, Workload};

    #[test]
    fn a_node_that_does_not_come_back_leaves_the_verdict_open() {
        let open = |back: bool| {
            let (ids, options) = (vec!["n0".to_owned()], BTreeMap::new());
            let (format, workload, started) = (FORMAT, Workload::Echo, String::new());
            let mut history = History::new(Run { format, workload, nodes: ids, seed: 1, started, options });
            let starts =
                [NodeChange::Started { pid: 1 }, NodeChange::Ready, NodeChange::Killed, NodeChange::Started { pid: 2 }];
            let changes = starts.into_iter().chain(back.then_some(NodeChange::Ready));
            let events = changes.map(|change| Event::Node { node: "n0".to_owned(), change });
            for event in events.chain([Event::Phase { phase: Phase::Final }]) {
                let at = Moment { index: history.next.index, time_ns: 0 };
                history.push(at, event).expect("a history");
            }
            let mut findings = Findings::default();
            nodes(&history, &mut findings);
            findings.validity()
        };
        assert_eq!((open(false), open(true)), (Validity::Unknown, Validity::Valid));
    }

    #[test]
    fn quantiles_are_jepsens() {
        assert_eq!(quantiles(vec![]), None);
        let found = quantiles((0..100).rev().map(f64::from).collect()).expect("there are values");
        assert_eq!((found.min, found.p50, found.p95, found.p99, found.max), (0.0, 50.0, 95.0, 99.0, 99.0));
    }
}
