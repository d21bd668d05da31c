//! The verdict on a screen.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use super::super::plural;
use crate::bench::checker::{NodeFigures, Quantiles, Results, StatsOfKind, Validity};

/// So many anomalies are shown.
const SHOWN: usize = 6;

/// Prints the verdict and what it rests on, in some twenty lines.
pub fn print(results: &Results, dir: Option<&Path>) -> std::io::Result<()> {
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = write(&mut text, results, dir);
    super::super::unless_closed(std::io::stdout().write_all(text.as_bytes()))
}

fn write(out: &mut String, results: &Results, dir: Option<&Path>) -> std::fmt::Result {
    writeln!(out)?;
    writeln!(
        out,
        "  {:<12} {:>8} {:>8} {:>8} {:>8}   latency ms 0.5 / 0.99 / 1",
        "OPERATION", "COUNT", "OK", "REFUSED", "UNKNOWN"
    )?;
    for (f, stats) in &results.stats.by_f {
        line(out, f, stats)?;
    }
    line(out, "all", &results.stats.all)?;
    writeln!(out)?;
    writeln!(
        out,
        "  {:<12} {:.2} % answered well, {:.1} a second",
        "available",
        results.availability.ok_fraction * 100.0,
        results.stats.rate
    )?;
    let faults: Vec<String> = results.faults.iter().map(|(kind, count)| format!("{count} {}", kind.name())).collect();
    writeln!(out, "  {:<12} {}", "faults", if faults.is_empty() { "none".to_owned() } else { faults.join(", ") })?;
    let power = |of: fn(&NodeFigures) -> u64| results.node_events.values().map(of).sum::<u64>();
    let cuts = power(|node| node.power_cuts);
    if cuts > 0 {
        let (kept, forgotten) = (power(|node| node.unsynced_kept), power(|node| node.unsynced_forgotten));
        writeln!(out, "  {:<12} {cuts} cuts; {forgotten} unsynced changes of disks forgotten, {kept} kept", "power")?;
    }
    if let Some(net) = &results.net {
        let (all, servers, bytes) = (net.messages_per_op, net.server_messages_per_op, net.bytes_per_op);
        writeln!(
            out,
            "  {:<12} {all:.2} messages and {bytes:.0} bytes an operation, {servers:.2} of them between nodes",
            "network"
        )?;
        let late = net.late_us_p99 as f64 / 1000.0;
        writeln!(
            out,
            "  {:<12} 99 % of deliveries at most {late:.2} ms late; processor: bench {:.1} s, nodes {:.1} s",
            "bench", net.bench_cpu_s, net.nodes_cpu_s
        )?;
    }
    sets(out, results)?;
    for why in results.unknown.iter().take(SHOWN) {
        writeln!(out, "  {:<12} {why}", "unknown")?;
    }
    for anomaly in results.anomalies.iter().take(SHOWN) {
        writeln!(out, "  {:<12} {anomaly}", anomaly.kind.name())?;
    }
    let count: u64 = results.anomaly_counts.values().sum();
    if count > SHOWN as u64 {
        writeln!(out, "  {:<12} {} more anomalies, in results.json", "...", count - SHOWN as u64)?;
    }
    writeln!(out)?;
    let verdict = match results.valid {
        Validity::Valid => "VALID",
        Validity::Invalid => "INVALID",
        Validity::Unknown => "UNKNOWN",
    };
    let nodes = plural(results.nodes.len(), "node");
    write!(out, "{verdict}  {} on {nodes}, seed {}", results.workload.name(), results.seed)?;
    match dir {
        Some(dir) => writeln!(out, "\n{}", dir.join("report.html").display()),
        None => writeln!(out),
    }
}

fn line(out: &mut String, name: &str, stats: &StatsOfKind) -> std::fmt::Result {
    let latency = |of: Quantiles| format!("{:.2} / {:.2} / {:.1}", of.p50, of.p99, of.max);
    let latency = stats.latency_ms.map_or_else(String::new, latency);
    let StatsOfKind { count, ok_count, fail_count, info_count, .. } = stats;
    writeln!(out, "  {name:<12} {count:>8} {ok_count:>8} {fail_count:>8} {info_count:>8}   {latency}")
}

fn sets(out: &mut String, results: &Results) -> std::fmt::Result {
    let converged = |seconds: Option<f64>| {
        seconds.map_or_else(|| "no agreement".to_owned(), |s| format!("agreed {s:.2} s after the heal"))
    };
    if let Some(set) = &results.or_set {
        let (present, absent) = (set.must_be_present, set.must_be_absent);
        writeln!(
            out,
            "  {:<12} {}; {present} elements must be there, {absent} must not, {} undecided",
            "set",
            converged(set.converged_after_s),
            set.undecided
        )?;
        if let Some(drain) = &set.drain {
            let (expected, missing, back) = (drain.tags_expected, drain.tags_missing, drain.tags_resurrected);
            writeln!(out, "  {:<12} {expected} tags expected, {missing} missing, {back} back from the dead", "drain")?;
        }
    }
    if let Some(set) = &results.set_full {
        let (stable, lost, stale) = (set.stable_count, set.lost_count, set.stale_count);
        writeln!(
            out,
            "  {:<12} {}; {stable} stable, {lost} lost, {} never read, {stale} stale",
            "set",
            converged(set.converged_after_s),
            set.never_read_count
        )?;
        if set.undone_count > 0 {
            writeln!(out, "  {:<12} {} by wipes and rollbacks", "undone", set.undone_count)?;
        }
    }
    Ok(())
}
