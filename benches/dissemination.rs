//! How many messages it takes to tell 25 nodes, and how long: real processes, 100 ms from node to node.
//!
//! ```text
//! cargo bench --bench dissemination                       everything (some ten minutes)
//! cargo bench --bench dissemination -- default idle       these parts (of: default frugal faults idle)
//! ```
//!
//! | part | of |
//! |---|---|
//! | `default` | Maelstrom's broadcast setting, 100 requests a second, half of them reads, as `orset test` runs it (target 11) |
//! | `frugal` | the same with `--flush-interval-ms 800 --leaf-wait-ms 300` (target 12) |
//! | `faults` | as `default`, with partitions and kills (target 13): the worst of three runs |
//! | `idle` | what is said when nothing happens, and a lone add after that (target 14) |
//!
//! The bench counts as Maelstrom does: messages between servers for each operation of a client's; and how long an element
//! takes until no read lacks it any more. `tests/replicas/dissemination.rs` has the same in virtual time.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use orset::bench::checker::{self, CheckOptions, Demand, Results, Validity};
use orset::bench::history::{FaultKind, Workload};
use orset::bench::{self, Distribution, Latency, Options, Progress, Status, Topology};
use support::figures::Figure;
use support::tests::cluster::Cluster;
use support::tests::router::Faults;

const PARTS: [&str; 4] = ["default", "frugal", "faults", "idle"];
const NODES: usize = 25;
const LATENCY_MS: u64 = 100;
const SECONDS: u64 = 60;
/// By then a cluster that was written to says only what an idle one says: digests go every 30 s.
const SETTLING: Duration = Duration::from_secs(100);
const IDLE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);

fn main() {
    let Some(wanted) = support::wanted_parts("dissemination", &PARTS) else { return };
    let dir = support::tests::temp_dir();
    for part in wanted {
        match part {
            "default" => {
                let results = run(dir.path(), &[], vec![], 11);
                record(11, "default setting", &results, [1.5, 300.0, 450.0]);
            }
            "frugal" => {
                let results = run(dir.path(), &["--flush-interval-ms", "800", "--leaf-wait-ms", "300"], vec![], 12);
                record(12, "frugal setting", &results, [0.75, 800.0, 1_400.0]);
            }
            "faults" => faults(dir.path()),
            _ => idle(),
        }
    }
}

/// Nobody watches.
struct Quiet;

impl Progress for Quiet {
    fn status(&mut self, _: &Status) {}

    fn note(&mut self, _: u64, _: &str) {}
}

/// One run of the bench.
fn run(dir: &Path, args: &[&str], nemesis: Vec<FaultKind>, seed: u64) -> Results {
    let args = ["serve", "--data-dir", "{data}"].iter().chain(args).map(Into::into).collect();
    let options = Options {
        retry: false,
        workload: Workload::Broadcast,
        bin: env!("CARGO_BIN_EXE_orset").into(),
        args,
        node_count: NODES,
        time_limit: Duration::from_secs(SECONDS),
        rate: 100.0,
        concurrency: 2 * NODES,
        latency: Latency { mean_ms: LATENCY_MS as f64, distribution: Distribution::Constant },
        topology: Topology::Grid,
        nemesis,
        nemesis_interval: Duration::from_secs(10),
        restart_init: true,
        log_stderr: false,
        seed,
        elements: 100,
        read_share: 0.5,
        remove_share: 0.0,
        recovery: Duration::from_secs(10),
        store: dir.to_path_buf(),
    };
    let finished = bench::run(&options, &mut Quiet).expect("a run");
    let results = checker::check(&finished.history, &CheckOptions { availability: Demand::None });
    assert_eq!(
        results.valid,
        Validity::Valid,
        "{:?} {:?}; see {}",
        results.anomalies,
        results.unknown,
        finished.dir.display()
    );
    results
}

fn messages_per_op(results: &Results) -> f64 {
    results.net.as_ref().expect("the run has ended").server_messages_per_op
}

/// Records messages and latencies against what they may be: an operation, and median and most in ms.
fn record(target: u8, setting: &str, results: &Results, [messages, median, most]: [f64; 3]) {
    let figures = results.set_full.as_ref().expect("its workload");
    let latencies = figures.stable_latencies.as_ref().expect("some are stable");
    let net = results.net.as_ref().expect("the run has ended");
    let of = |what: &str| format!("{setting}: {what}");
    Figure::of(target, of("messages between servers an operation"))
        .ours("messages", messages_per_op(results))
        .at_most("messages", messages_per_op(results), messages)
        .detail(format!("{} messages, {} operations", net.server_messages, results.stats.all.count))
        .detail(format!("messages went at most {} µs late, 99 % of them {} µs", net.late_us_max, net.late_us_p99))
        .record();
    for (what, found, bound) in [("median", latencies.p50, median), ("most", latencies.max, most)] {
        Figure::of(target, of(&format!("until every read shows an element, {what}")))
            .ours("ms", found)
            .at_most("ms", found, bound)
            .record();
    }
}

/// Partitions and kills: the worst of three runs.
fn faults(dir: &Path) {
    let runs: Vec<Results> =
        (0..3).map(|n| run(dir, &[], vec![FaultKind::Partition, FaultKind::Kill], 130 + n)).collect();
    let worst = |of: fn(&Results) -> f64| runs.iter().map(of).fold(0.0, f64::max);
    let converged = worst(|results| {
        let figures = results.set_full.as_ref().expect("its workload");
        figures.converged_after_s.expect("a valid run has converged")
    });
    let kills = |only: Option<&str>| -> u64 {
        let of_run = |results: &Results| -> u64 {
            results
                .node_events
                .iter()
                .filter(|(node, _)| only.is_none_or(|only| only == *node))
                .map(|(_, n)| n.kills)
                .sum()
        };
        runs.iter().map(of_run).sum()
    };
    let happened = format!("{} kills in three runs, {} of them of n0, the relay", kills(None), kills(Some("n0")));
    Figure::of(13, "partitions and kills: until all nodes agree after the heal")
        .ours("s", converged)
        .at_most("s", converged, 3.0)
        .detail(&happened)
        .record();
    let messages = worst(messages_per_op);
    Figure::of(13, "partitions and kills: messages between servers an operation")
        .ours("messages", messages)
        .at_most("messages", messages, 2.5)
        .detail(happened)
        .record();
}

/// Says nothing for a while, and then adds something at the relay, and at others.
fn idle() {
    let names: Vec<String> = (0..NODES).map(|n| format!("n{n}")).collect();
    let ids: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut cluster = Cluster::started(14, &ids, &[]);
    let (min_delay_ms, max_delay_ms) = (LATENCY_MS, LATENCY_MS);
    cluster.router.set(Faults { min_delay_ms, max_delay_ms, ..Faults::default() });
    for id in &ids {
        cluster.add(id, &format!("\"from {id}\""));
    }
    std::thread::sleep(SETTLING);
    let before = cluster.router.passed();
    std::thread::sleep(IDLE);
    let said = (cluster.router.passed() - before) as f64 / IDLE.as_secs_f64() / NODES as f64;
    Figure::of(14, "idle: messages a second of each of 25 nodes")
        .ours("messages/s", said)
        .at_most("messages/s", said, 0.1)
        .record();
    let worst = ["n7", "n0", "n24"].map(|id| lone_add(&mut cluster, id)).into_iter().fold(0.0, f64::max);
    Figure::of(14, "a lone add after idleness: until all 25 nodes have it")
        .ours("ms", worst)
        .at_most("ms", worst, 250.0)
        .detail("the worst of three, added at n7, n0 and n24")
        .record();
}

/// Milliseconds from the answer to an add until every node has it.
fn lone_add(cluster: &mut Cluster, at: &str) -> f64 {
    let element = format!("\"alone at {at}\"");
    cluster.add(at, &element);
    let added = Instant::now();
    let mut lack = cluster.names();
    while !lack.is_empty() {
        let asked: Vec<(String, i64)> = lack
            .drain(..)
            .map(|name| {
                let msg_id = cluster.send(&name, &format!("\"type\":\"or_set_contains\",\"element\":{element}"));
                (name, msg_id)
            })
            .collect();
        for (name, msg_id) in asked {
            if cluster.reply(&name, msg_id).body["value"] != true {
                lack.push(name);
            }
        }
        if !lack.is_empty() {
            std::thread::sleep(LOOK);
        }
    }
    let took = added.elapsed().as_secs_f64() * 1e3;
    std::thread::sleep(Duration::from_secs(10));
    took
}
