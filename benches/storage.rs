//! What many elements cost: restarts, memory, disk, and the time of an add.
//!
//! ```text
//! cargo bench --bench storage                       everything
//! cargo bench --bench storage -- million disk       these parts (of: start million disk compaction ten_million)
//! ```
//!
//! | part | target | |
//! |---|---|---|
//! | `start` | | an empty node, until `init_ok` |
//! | `million` | 5, 6, 8 | restarts after SIGKILL and after a power cut, memory, an add beside a million elements |
//! | `disk` | 7 | a million elements, then 90 % of them removed |
//! | `compaction` | 8 | single adds while a compaction runs, beside bare writes with fdatasync |
//! | `ten_million` | 5, 6, 8 | the same with ten million: some minutes, 3 GB of disk |
//!
//! Elements have 16 bytes. A restart after a power cut is one under another boot id, as the kernel gives at each boot.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use support::direct::Direct;
use support::figures::Figure;
use support::tests::temp_dir;
use support::{element, median, quantile, wanted_parts};

const PARTS: [&str; 5] = ["start", "million", "disk", "compaction", "ten_million"];
const ROUNDS: usize = 3;
const MILLION: u64 = 1_000_000;
/// Single adds of a round whose cost is compared.
const COST_ADDS: u64 = 5_000;
/// Adds that make a compaction due at a million elements.
const BURST: u64 = 300_000;
/// So many adds have to have met a compaction, for the 99.9th percentile to say something.
const SAMPLES: usize = 20_000;

fn main() {
    let Some(parts) = wanted_parts("storage", &PARTS) else { return };
    for part in parts {
        match part {
            "start" => start(),
            "million" => million(),
            "disk" => disk(),
            "compaction" => compaction(),
            _ => ten_million(),
        }
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
    println!("start: an empty node to init_ok, median {figure:.1} ms");
}

fn million() {
    let dir = temp_dir();
    let store = dir.path().join("big");
    let mut node = Direct::start(&store);
    let rate = MILLION as f64 / node.pipe(0..MILLION).as_secs_f64();
    let peak = node.peak_mib();
    let figure = Figure::of(6, "memory while 1M elements are loaded, peak").ours("MiB", peak);
    figure.at_most("MiB", peak, 160.0).detail(format!("loaded at {rate:.0} adds/s")).record();
    drop(node);

    let under_load = first_answer(&store, &[]).0;
    settle(&Direct::start(&store));
    let (answers, idle) = restarts(&store);
    let figure = Figure::of(5, "SIGKILL to the first or_set_contains, 1M elements").ours("s", answers);
    let detail = format!("killed just when the last add was answered: {under_load:.2} s");
    figure.at_most("s", answers, 0.35).detail(detail).record();
    Figure::of(6, "memory, idle after a restart, 1M elements").ours("MiB", idle).at_most("MiB", idle, 64.0).record();

    let rebuilt = (0..ROUNDS).map(|round| {
        let boot = format!("boot {round}");
        first_answer(&store, &[("ORSET_BOOT_ID", &boot)]).0
    });
    let rebuilt = median(rebuilt.collect());
    let figure = Figure::of(5, "power cut to the first or_set_contains, 1M elements").ours("s", rebuilt);
    figure.at_most("s", rebuilt, 5.0).detail("the index is rebuilt meanwhile").record();
    cost_of_an_add(dir.path(), &store, MILLION, "1M");
}

fn ten_million() {
    let dir = temp_dir();
    let store = dir.path().join("big");
    let mut node = Direct::start(&store);
    let rate = (10 * MILLION) as f64 / node.pipe(0..10 * MILLION).as_secs_f64();
    println!("ten_million: loaded at {rate:.0} adds/s, peak of {:.0} MiB in memory", node.peak_mib());
    settle(&node);
    drop(node);
    let (answers, idle) = restarts(&store);
    let figure = Figure::of(5, "SIGKILL to the first or_set_contains, 10M elements").ours("s", answers);
    figure.at_most("s", answers, 1.5).record();
    let figure = Figure::of(6, "memory, idle after a restart, 10M elements").ours("MiB", idle);
    figure.at_most("MiB", idle, 450.0).record();
    cost_of_an_add(dir.path(), &store, 10 * MILLION, "10M");
    println!("ten_million: disk {}", words(&disk_mib(&store)));
}

/// The time from a restart after SIGKILL to the first answer, and the memory when all is quiet thereafter.
fn restarts(store: &Path) -> (f64, f64) {
    let rounds = (0..ROUNDS).map(|_| {
        let (answer, node) = first_answer(store, &[]);
        settle(&node);
        (answer, node.resident_mib())
    });
    let (answers, idle): (Vec<f64>, Vec<f64>) = rounds.unzip();
    (median(answers), median(idle))
}

/// How long a node takes from its start to a right answer, in seconds.
fn first_answer(store: &Path, variables: &[(&str, &str)]) -> (f64, Direct) {
    let start = Instant::now();
    let mut node = Direct::start_with(store, variables);
    let reply = node.call(&format!(r#""type":"or_set_contains","element":{}"#, element(MILLION / 2)));
    let took = start.elapsed().as_secs_f64();
    assert!(reply.replace(" ", "").contains(r#""value":true"#), "{reply}");
    (took, node)
}

/// Waits until the node has nothing left to do: a second without any use of the processor.
fn settle(node: &Direct) {
    let (mut ticks, mut since) = (node.processor_ticks(), Instant::now());
    while since.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(50));
        let now = node.processor_ticks();
        if now > ticks + 1 {
            (ticks, since) = (now, Instant::now());
        }
    }
}

/// What an add costs with so many elements, relative to a thousand; rounds alternate.
fn cost_of_an_add(dir: &Path, big_dir: &Path, elements: u64, name: &str) {
    let mut big = Direct::start(big_dir);
    settle(&big);
    let (mut small_costs, mut big_costs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS as u64 {
        let mut small = Direct::start(&dir.join(format!("small {round}")));
        small.pipe(0..1_000);
        settle(&small);
        small_costs.push(median(small.costs(1_000, COST_ADDS)));
        big_costs.push(median(big.costs(elements + 1_000 + round * COST_ADDS, COST_ADDS)));
    }
    let (small, big) = (median(small_costs), median(big_costs));
    let figure = Figure::of(8, format!("an add at {name} elements, median")).ours("µs", big);
    figure.peer("at 1k", small).at_most("ratio", big / small, 1.3).record();
}

fn disk() {
    let dir = temp_dir();
    let store = dir.path().join("store");
    let mut node = Direct::start(&store);
    node.pipe(0..MILLION);
    settle(&node);
    let full = disk_mib(&store);
    let all: f64 = full.values().sum();
    let figure = Figure::of(7, "disk with 1M elements, after compaction").ours("MiB", all);
    figure.at_most("MiB", all, 250.0).detail(words(&full)).record();

    let gone = (0..MILLION).filter(|n| n % 10 != 0);
    let took = node.pipe_all("or_set_remove", gone, MILLION - MILLION / 10);
    settle(&node);
    let left = disk_mib(&store);
    let all: f64 = left.values().sum();
    let figure = Figure::of(7, "disk after 90 % of 1M elements are removed").ours("MiB", all).at_most("MiB", all, 40.0);
    figure.detail(words(&left)).detail(format!("removed in {:.1} s", took.as_secs_f64())).record();
}

/// What a store takes of the disk, by the parts that its directory has.
fn disk_mib(data_dir: &Path) -> BTreeMap<String, f64> {
    let parts = fs::read_dir(data_dir.join("n1")).expect("a store").flatten();
    let mib = |path: &Path| bytes_on_disk(path) as f64 / f64::from(1 << 20);
    parts.map(|part| (part.file_name().to_string_lossy().into_owned(), mib(&part.path()))).collect()
}

fn bytes_on_disk(path: &Path) -> u64 {
    // Files come and go while a node runs.
    let Ok(found) = fs::symlink_metadata(path) else { return 0 };
    let below = fs::read_dir(path).into_iter().flatten().flatten();
    found.blocks() * 512 + below.map(|entry| bytes_on_disk(&entry.path())).sum::<u64>()
}

fn words(parts: &BTreeMap<String, f64>) -> String {
    let name = |part: &str| if part == "index" { "index (sled)".to_owned() } else { part.to_owned() };
    let words: Vec<String> = parts.iter().map(|(part, mib)| format!("{} {mib:.1}", name(part))).collect();
    format!("in MiB: {}", words.join(", "))
}

/// Single adds and bare writes by turns, as long as the node writes a snapshot.
fn compaction() {
    let dir = temp_dir();
    let store = dir.path().join("store");
    let mut node = Direct::start(&store);
    node.pipe(0..MILLION);
    settle(&node);
    let mut bare = File::create(dir.path().join("bare")).expect("a temporary file");
    let (mut next, mut compactions, mut stretch) = (MILLION, 0, Duration::ZERO);
    let (mut adds, mut syncs) = (Vec::new(), Vec::new());
    while adds.len() < SAMPLES {
        node.pipe(next..next + BURST);
        next += BURST;
        let patience = Instant::now();
        while !is_compacting(&store) {
            assert!(patience.elapsed() < Duration::from_secs(120), "no compaction after {BURST} adds");
            node.add(&element(next));
            next += 1;
        }
        let begun = Instant::now();
        while is_compacting(&store) {
            adds.extend(node.costs(next, 1));
            next += 1;
            let start = Instant::now();
            bare.write_all(&[b'x'; 64]).and_then(|()| bare.sync_data()).expect("room on the disk");
            syncs.push(start.elapsed().as_secs_f64() * 1e6);
        }
        compactions += 1;
        stretch += begun.elapsed();
    }
    let (add, sync) = (quantile(&mut adds, 0.999), quantile(&mut syncs, 0.999));
    let figure = Figure::of(8, "a single add while compacting, 99.9th percentile").ours("µs", add);
    figure
        .peer("bare fdatasync", sync)
        .at_most("ratio", add / sync, 2.0)
        .detail(format!("medians: {:.0} and {:.0} µs", quantile(&mut adds, 0.5), quantile(&mut syncs, 0.5)))
        .detail(format!(
            "{} adds during {compactions} compactions that took {:.1} s",
            adds.len(),
            stretch.as_secs_f64()
        ))
        .record();
}

/// Whether a snapshot is being written: the file has another name until it is whole.
fn is_compacting(data_dir: &Path) -> bool {
    let files = fs::read_dir(data_dir.join("n1/snapshots")).into_iter().flatten().flatten();
    files.into_iter().any(|file| file.file_name().as_encoded_bytes().ends_with(b".tmp"))
}
