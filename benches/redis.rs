//! How fast a durable add is, as a ratio to Redis' on the same disk in the same run.
//!
//! ```text
//! cargo bench --bench redis                        everything
//! cargo bench --bench redis -- pipelined mixed     these parts (of: pipelined mixed single reads stream)
//! ```
//!
//! Without `redis-server`, a word and no ratio. Both sides store elements of 16 bytes. Rounds of both sides alternate, and
//! a figure is the median of its rounds, since a shared disk has its moods.

mod support;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use support::direct::{self, Direct};
use support::figures::Figure;
use support::redis::Redis;
use support::tests::temp_dir;
use support::{element, median, wanted_parts};

const PARTS: [&str; 5] = ["pipelined", "mixed", "single", "reads", "stream"];
const ROUNDS: usize = 3;
const PIPELINED: u64 = 300_000;
const MIXED_ELEMENTS: u64 = 100_000;
const READS: usize = 21;
const SINGLE: u64 = 20_000;
const MILLION: u64 = 1_000_000;

fn main() {
    let Some(parts) = wanted_parts("redis", &PARTS) else { return };
    let redis = Redis::is_installed();
    for part in parts {
        match part {
            "pipelined" => pipelined(redis),
            "mixed" => mixed(redis),
            "single" => single(redis),
            "reads" => reads(redis),
            _ => stream(),
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

/// Redis' commands in a file, each with one member of the set `s`.
fn write_commands<'a>(path: &Path, commands: impl Iterator<Item = (&'a str, u64)>) {
    let mut out = BufWriter::new(File::create(path).expect("a temporary file"));
    for (command, n) in commands {
        let (member, length) = (element(n), command.len());
        write!(out, "*3\r\n${length}\r\n{command}\r\n$1\r\ns\r\n${}\r\n{member}\r\n", member.len())
            .expect("room on the disk");
    }
    out.flush().expect("room on the disk");
}

fn pipelined(redis: bool) {
    let dir = temp_dir();
    let commands = dir.path().join("commands");
    write_commands(&commands, (0..PIPELINED).map(|n| ("SADD", n)));
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

/// 60 % adds, 30 % removes and 10 % look-ups of elements drawn from those that are there at the start.
fn mixed(redis: bool) {
    let mut rng = fastrand::Rng::with_seed(5);
    let draw = |_| {
        let (number, kind) = (rng.u64(..MIXED_ELEMENTS), rng.u8(..10));
        (
            if kind < 6 {
                0
            } else if kind < 9 {
                1
            } else {
                2
            },
            number,
        )
    };
    let drawn: Vec<(usize, u64)> = (0..PIPELINED).map(draw).collect();
    let kinds = ["or_set_add", "or_set_remove", "or_set_contains"];
    let lines =
        direct::lines(drawn.iter().map(|(kind, n)| format!(r#""type":"{}","element":{}"#, kinds[*kind], element(*n))));
    let dir = temp_dir();
    let (load, commands) = (dir.path().join("load"), dir.path().join("commands"));
    write_commands(&load, (0..MIXED_ELEMENTS).map(|n| ("SADD", n)));
    write_commands(&commands, drawn.iter().map(|(kind, n)| (["SADD", "SREM", "SISMEMBER"][*kind], *n)));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut node = Direct::start(&dir.path().join(round.to_string()));
        node.pipe(0..MIXED_ELEMENTS);
        ours.push(PIPELINED as f64 / node.pipe_lines(&lines).as_secs_f64());
        drop(node);
        if redis {
            let redis = Redis::start();
            redis.pipe(&load, MIXED_ELEMENTS);
            theirs.push(PIPELINED as f64 / redis.pipe(&commands, PIPELINED).as_secs_f64());
        }
    }
    let figure = Figure::of(2, format!("mixed: {PIPELINED} adds, removes and look-ups over {MIXED_ELEMENTS}"));
    record_ratio(figure, median(ours), redis.then(|| median(theirs)), 0.8);
}

fn single(redis: bool) {
    let dir = temp_dir();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut adds, mut syncs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let data_dir = dir.path().join(round.to_string());
        let mut node = Direct::start(&data_dir);
        let before = log_bytes(&data_dir);
        let costs = node.costs(0, SINGLE);
        ours.push(SINGLE as f64 / costs.iter().sum::<f64>() * 1e6);
        let bytes_an_add = (log_bytes(&data_dir) - before) / SINGLE;
        drop(node);
        adds.push(median(costs));
        syncs.push(median(sync_costs(&dir.path().join(format!("bare {round}")), bytes_an_add)));
        if redis {
            theirs.push(Redis::start().single(SINGLE));
        }
    }
    let figure = Figure::of(3, format!("single: {SINGLE} durable adds, one at a time"));
    record_ratio(figure, median(ours), redis.then(|| median(theirs)), 1.0);
    let (add, sync) = (median(adds), median(syncs));
    let figure = Figure::of(3, "median of a durable add, one at a time").ours("µs", add);
    figure.peer("write and fdatasync of as many bytes", sync).at_most("ratio", add / sync, 1.5).record();
}

/// How large a node's log is.
fn log_bytes(data_dir: &Path) -> u64 {
    let files = std::fs::read_dir(data_dir.join("n1/log")).expect("a node has been here");
    files.map(|file| file.and_then(|file| file.metadata()).expect("it is there").len()).sum()
}

/// What it costs to append so many bytes to a file and sync them, each time, in µs.
fn sync_costs(path: &Path, bytes: u64) -> Vec<f64> {
    let mut file = File::create(path).expect("room on the disk");
    let content = vec![7; bytes as usize];
    let timed = |_| {
        let start = Instant::now();
        file.write_all(&content).and_then(|()| file.sync_data()).expect("room on the disk");
        start.elapsed().as_secs_f64() * 1e6
    };
    (0..SINGLE).map(timed).collect()
}

fn reads(redis: bool) {
    for elements in [10_000, 100_000] {
        let dir = temp_dir();
        let commands = dir.path().join("commands");
        write_commands(&commands, (0..elements).map(|n| ("SADD", n)));
        let mut node = Direct::start(&dir.path().join("node"));
        node.pipe(0..elements);
        let peer = redis.then(Redis::start);
        if let Some(redis) = &peer {
            redis.pipe(&commands, elements);
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..READS {
            let (took, shown) = node.read();
            assert_eq!(shown as u64, elements);
            ours.push(elements as f64 / took.as_secs_f64());
            if let Some(redis) = &peer {
                let times = redis.members(1, elements as usize, element(0).len());
                theirs.push(elements as f64 / times[0].as_secs_f64());
            }
        }
        let figure = Figure::of(4, format!("a whole read of {elements} elements"));
        let (ours, theirs) = (median(ours), peer.map(|_| median(theirs)));
        let figure = figure.ours("elements/s", ours);
        match theirs {
            Some(theirs) => figure.peer("Redis, SMEMBERS", theirs).at_least("ratio", ours / theirs, 0.5).record(),
            None => figure.record(),
        }
    }
}

/// What a read of a million elements takes beyond what the node has when it has read them once in pages.
fn stream() {
    let dir = temp_dir();
    let mut node = Direct::start(dir.path());
    node.pipe(0..MILLION);
    // Loading takes memory of its own; what a start has got, it has.
    drop(node);
    let mut node = Direct::start(dir.path());
    let mut after = String::new();
    for _ in 0..MILLION / 1_000 {
        let page = node.call(&format!(r#""type":"or_set_read","limit":1000{after}"#));
        let next = page.split_once("\"next\": ").and_then(|(_, rest)| rest.split_once(", \"msg_id\""));
        after = next.map(|(next, _)| format!(",\"after\":{next}")).unwrap_or_default();
    }
    let before = node.peak_mib();
    let (took, shown) = node.read();
    assert_eq!(shown as u64, MILLION);
    let more = node.peak_mib() - before;
    let figure = Figure::of(4, format!("memory for one read of {MILLION} elements")).ours("MiB", more);
    let line = format!(
        "beyond {before:.0} MiB; {:.2} s, {:.0} elements/s",
        took.as_secs_f64(),
        MILLION as f64 / took.as_secs_f64()
    );
    figure.at_most("MiB", more, 8.0).detail(line).record();
}
