//! The page as Markdown.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::figures::{Figure, number};
use super::machine::machine;

/// The targets, in the order of their numbers, 1 to 15.
pub const TARGETS: [&str; 15] = [
    "a burst of 300,000 pipelined durable adds through stdin/stdout: at least as fast as Redis' `--pipe` with `appendfsync always`",
    "the same, 60 % add, 30 % remove, 10 % contains over 100,000 elements: at least 0.8 × Redis",
    "one client, one durable add at a time: at least as fast as Redis; median at most 1.5 × a bare fdatasync of as many bytes",
    "a whole read of 10,000 and 100,000 elements: at least 0.5 × Redis' SMEMBERS; one of a million streams in bounded memory",
    "the first right answer after SIGKILL: at most 0.35 s with a million elements, 1.5 s with ten; 5 s after a power cut",
    "resident memory: at most 160 MiB while a million are loaded, 64 MiB idle after a restart, 450 MiB with ten million",
    "disk after compaction, a million elements of 16 bytes: at most 250 MiB; under 40 MiB after 90 % are removed",
    "an add at ten million elements: at most 1.3 × one at a thousand; its 99.9th percentile while compacting at most 2 × a bare fdatasync's",
    "two replicas of a million that differ by 1,000 operations: at most 1.25 × the operations' own bytes + 4 KiB, one round trip",
    "the same when both logs have been cut: at most 300 KiB, at most 4 round trips, memory bounded",
    "Maelstrom's broadcast, 25 nodes, rate 100, latency 100 ms: at most 1.5 messages an operation, median 300 ms, maximum 450 ms",
    "the same with the frugal setting: at most 0.75 messages an operation, median 0.8 s, maximum 1.4 s",
    "the same as 11 under partitions and kills of any node: all stable within 3 s of the heal, at most 2.5 messages an operation",
    "an idle cluster of 25: at most 0.1 messages a second a node; a lone add is everywhere in 250 ms",
    "100,000 adds and removes in process, beside crdts (Orswot), automerge, loro and yrs: fewer bytes to sync 1 % than each",
];

/// The whole page. `drawn` are the targets that have a plot.
pub fn page(figures: &[Figure], drawn: &[u8], remarks: &[(u8, &str)]) -> String {
    let mut page = String::from("# Benchmarks\n\n");
    page += "Made by `benches/all`, which runs every benchmark in a release build and then writes this page and its plots; \
             only the remarks are written by hand (`benches/report/remarks.md`). Figures are to be read beside those of \
             their peers from the same run: absolute times are this machine's.\n\n";
    page += "| | |\n|---|---|\n";
    for (name, value) in machine() {
        line(&mut page, format_args!("| {name} | {value} |"));
    }
    page += "\n## All of them\n\n![each figure relative to its target](benchmarks/overview.svg)\n\n";
    summary(&mut page, figures);
    for (n, target) in (1..).zip(TARGETS) {
        section(&mut page, n, target, figures, drawn.contains(&n), remarks);
    }
    page
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(page, "{text}").expect("a string takes all");
}

/// What is met, missed, and not measured.
fn summary(page: &mut String, figures: &[Figure]) {
    let bound = |met: bool| {
        let all = figures.iter().filter(move |f| f.bound.as_ref().is_some_and(|bound| bound.met() == met));
        all.collect::<Vec<_>>()
    };
    let (met, missed) = (bound(true), bound(false));
    line(
        page,
        format_args!("{} figures with a target: {} met, {} missed.", met.len() + missed.len(), met.len(), missed.len()),
    );
    let measured: BTreeSet<u8> = figures.iter().map(|f| f.target).collect();
    let not: Vec<String> = (1..=15).filter(|n| !measured.contains(n)).map(|n: u8| n.to_string()).collect();
    if !not.is_empty() {
        line(page, format_args!("\nNot measured in this run: {}.", not.join(", ")));
    }
    if !missed.is_empty() {
        page.push_str("\nMissed (the remarks below say why):\n\n");
        for figure in missed {
            let of = figure.bound.as_ref().expect("it has one");
            let what = format!("{}: {} {}", figure.what, number(of.figure), of.of);
            let sign = if of.at_least { "≥" } else { "≤" };
            line(page, format_args!("- {}: {what}, target {sign} {}", figure.target, number(of.bound)));
        }
    }
}

fn section(page: &mut String, n: u8, target: &str, figures: &[Figure], drawn: bool, remarks: &[(u8, &str)]) {
    line(page, format_args!("\n## {n}: {target}\n"));
    let figures: Vec<&Figure> = figures.iter().filter(|figure| figure.target == n).collect();
    if figures.is_empty() {
        page.push_str("Not measured in this run.\n");
    } else {
        page.push_str("| what | orset | beside it | held against the target | |\n|---|---|---|---|---|\n");
        for figure in &figures {
            row(page, figure);
        }
        for figure in figures.iter().filter(|figure| !figure.details.is_empty()) {
            line(page, format_args!("\n{}:\n", figure.what));
            figure.details.iter().for_each(|detail| line(page, format_args!("- {detail}")));
        }
    }
    if drawn {
        line(page, format_args!("\n![target {n}](benchmarks/target-{n:02}.svg)"));
    }
    for (_, remark) in remarks.iter().filter(|(number, _)| *number == n) {
        line(page, format_args!("\n{remark}"));
    }
}

fn row(page: &mut String, figure: &Figure) {
    let peer = |(name, value): &(String, f64)| format!("{name}: {}", number(*value));
    let peers: Vec<String> = figure.peers.iter().map(peer).collect();
    let ours = format!("{} {}", number(figure.ours), figure.unit);
    let (held, verdict) = match &figure.bound {
        None => (String::new(), ""),
        Some(bound) => {
            let sign = if bound.at_least { "≥" } else { "≤" };
            let held = format!("{} {}, target {sign} {}", number(bound.figure), bound.of, number(bound.bound));
            (held, if bound.met() { "met" } else { "**missed**" })
        }
    };
    line(page, format_args!("| {} | {ours} | {} | {held} | {verdict} |", figure.what, peers.join("; ")));
}
