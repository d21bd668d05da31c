//! How fast a durable add is, as a ratio to Redis' on the same disk in the same run; and what a million elements cost.
//!
//! ```text
//! cargo bench --bench redis                        everything
//! cargo bench --bench redis -- pipelined start     these parts (of: pipelined single million start)
//! ```
//!
//! Without `redis-server`, a word and no ratio. Both sides store elements of 16 bytes. Rounds of both sides alternate, and
//! a figure is the median of its rounds, since a shared disk has its moods.

mod support;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use support::direct::Direct;
use support::figures::Figure;
use support::redis::Redis;
use support::tests::temp_dir;
use support::{element, median, wanted_parts};

const PARTS: [&str; 4] = ["pipelined", "single", "million", "start"];
const ROUNDS: usize = 3;
const PIPELINED: u64 = 300_000;
const SINGLE: u64 = 20_000;
const MILLION: u64 = 1_000_000;
const COST_ADDS: u64 = 5_000;

fn main() {
    let Some(parts) = wanted_parts("redis", &PARTS) else { return };
    let redis = Redis::is_installed();
    for part in parts {
        match part {
            "pipelined" => pipelined(redis),
            "single" => single(redis),
            "million" => million(),
            _ => start(),
        }
    }
}

/// A figure as a ratio of rates, if there is something to compare with.
fn record_ratio(figure: Figure, ours: f64, redis: Option<f64>, at_least: f64) {
    let figure = figure.ours("adds/s", ours);
    match redis {
        Some(redis) => figure.peer("Redis", redis).at_least("ratio", ours / redis, at_least).record(),
        None => figure.record(),
    }
}

fn pipelined(redis: bool) {
    let dir = temp_dir();
    let commands = dir.path().join("commands");
    let mut out = BufWriter::new(File::create(&commands).expect("a temporary file"));
    for n in 0..PIPELINED {
        let member = element(n);
        write!(out, "*3\r\n$4\r\nSADD\r\n$1\r\ns\r\n${}\r\n{member}\r\n", member.len()).expect("room on the disk");
    }
    drop(out);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut node = Direct::start(&dir.path().join(round.to_string()));
        ours.push(PIPELINED as f64 / node.pipe(0..PIPELINED).as_secs_f64());
        drop(node);
        if redis {
            let redis = Redis::start();
            theirs.push(PIPELINED as f64 / redis.pipe(&commands, PIPELINED).as_secs_f64());
            assert_eq!(redis.answer("SCARD s"), Some(format!(":{PIPELINED}")));
        }
    }
    let figure = Figure::of(1, format!("pipelined: {PIPELINED} durable adds"));
    record_ratio(figure, median(ours), redis.then(|| median(theirs)), 1.0);
}

fn single(redis: bool) {
    let dir = temp_dir();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut node = Direct::start(&dir.path().join(round.to_string()));
        let start = Instant::now();
        (0..SINGLE).for_each(|n| node.add(&element(n)));
        ours.push(SINGLE as f64 / start.elapsed().as_secs_f64());
        drop(node);
        if redis {
            theirs.push(Redis::start().single(SINGLE));
        }
    }
    let figure = Figure::of(3, format!("single: {SINGLE} durable adds, one at a time"));
    record_ratio(figure, median(ours), redis.then(|| median(theirs)), 1.0);
}

fn million() {
    let dir = temp_dir();
    let big_dir = dir.path().join("big");
    let mut big = Direct::start(&big_dir);
    let took = big.pipe(0..MILLION);
    let resident = big.resident_mib();
    println!("{:<44} {:.0}/s", format!("million: load of {MILLION} elements"), MILLION as f64 / took.as_secs_f64());
    let figure = Figure::of(6, "resident while 1M elements are loaded").ours("MiB", resident);
    figure.at_most("MiB", resident, 160.0).record();
    drop(big);

    let mut first_replies = Vec::new();
    for round in 0..ROUNDS as u64 {
        let start = Instant::now();
        let mut node = Direct::start(&big_dir);
        let init_ms = start.elapsed().as_secs_f64() * 1e3;
        node.add(&element(MILLION + round));
        let add_ms = start.elapsed().as_secs_f64() * 1e3;
        println!("{:<44} init_ok {init_ms:.0} ms, first add {add_ms:.0} ms", "million: a restart from SIGKILL");
        first_replies.push(add_ms);
    }
    let figure = median(first_replies);
    Figure::of(5, "first add after SIGKILL, 1M elements").ours("ms", figure).at_most("ms", figure, 350.0).record();
    cost_at_a_million(dir.path(), &big_dir);
}

/// What an add costs with a million elements, relative to a thousand; rounds alternate.
fn cost_at_a_million(dir: &Path, big_dir: &Path) {
    let mut big = Direct::start(big_dir);
    let (mut medians, mut means) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mean = |costs: &[f64]| costs.iter().sum::<f64>() / costs.len() as f64;
    for round in 0..ROUNDS as u64 {
        let mut small = Direct::start(&dir.join(format!("small {round}")));
        small.pipe(0..1_000);
        let costs = [small.costs(1_000, COST_ADDS), big.costs(MILLION + 1_000 + round * COST_ADDS, COST_ADDS)];
        for (side, costs) in costs.into_iter().enumerate() {
            means[side].push(mean(&costs));
            medians[side].push(median(costs));
        }
    }
    for (name, [small, big]) in [("median", medians), ("mean", means)] {
        let (small, big) = (median(small), median(big));
        let figure = Figure::of(8, format!("{name} cost of an add at 1M elements")).ours("µs", big);
        figure.peer("at 1k", small).at_most("ratio", big / small, 1.3).record();
    }
}

fn start() {
    let dir = temp_dir();
    let times = (0..20).map(|n| {
        let start = Instant::now();
        let _node = Direct::start(&dir.path().join(n.to_string()));
        start.elapsed().as_secs_f64() * 1e3
    });
    let figure = median(times.collect());
    println!("{:<44} {figure:.1} ms", "start: an empty node to init_ok, median");
}
