//! How fast a durable add is, as a ratio to Redis' on the same disk in the same run.
//!
//! ```text
//! cargo bench --bench redis                        everything
//! cargo bench --bench redis -- pipelined           these parts (of: pipelined single)
//! ```
//!
//! Without `redis-server`, a word and no ratio. Both sides store elements of 16 bytes. Rounds of both sides alternate, and
//! a figure is the median of its rounds, since a shared disk has its moods.

mod support;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::time::Instant;

use support::direct::Direct;
use support::figures::Figure;
use support::redis::Redis;
use support::tests::temp_dir;
use support::{element, median, wanted_parts};

const PARTS: [&str; 2] = ["pipelined", "single"];
const ROUNDS: usize = 3;
const PIPELINED: u64 = 300_000;
const SINGLE: u64 = 20_000;

fn main() {
    let Some(parts) = wanted_parts("redis", &PARTS) else { return };
    let redis = Redis::is_installed();
    for part in parts {
        match part {
            "pipelined" => pipelined(redis),
            _ => single(redis),
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
