//! What two replicas say to each other until they agree: bytes, round trips, memory.
//!
//! ```text
//! cargo bench --bench sync                      everything
//! cargo bench --bench sync -- ops truncated     these parts (of: ops truncated copy sparse)
//! ```
//!
//! | part | of |
//! |---|---|
//! | `ops` | two stores of a million elements that differ by 1,000 operations (target 9) |
//! | `truncated` | the same, when the logs no longer have them (target 10): a state delta |
//! | `copy` | an empty store that is given all of it: what the receiver's memory comes to |
//! | `sparse` | `truncated`, where ten times as many dots were used up as are live: what the bitmaps come to |
//!
//! Real stores in one process; the network counts the lines that the program would write. Only the times are the
//! machine's.

mod support;

#[path = "support/pair.rs"]
mod pair;

use std::path::{Path, PathBuf};
use std::time::Instant;

use orset::crdt::{Element, Op, OpBody};
use orset::storage::StoreLimits;
use pair::{NAMES, Pair, build_equal, copy_dir};
use peak_alloc::PeakAlloc;
use support::figures::Figure;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const PARTS: [&str; 4] = ["ops", "truncated", "copy", "sparse"];
const ELEMENTS: u64 = 1_000_000;
const DIFFERENCES: usize = 1_000;
/// Dots used up for each that is live, in `sparse`.
const SPARSENESS: u64 = 10;
const MIB: f64 = 1024.0 * 1024.0;
/// What a message costs beside operations: the bound's other part.
const SPARE_BYTES: f64 = 4096.0;

fn main() {
    let Some(wanted) = support::wanted_parts("sync", &PARTS) else { return };
    let dir = support::tests::temp_dir();
    let equal = wanted.iter().any(|part| *part != "sparse").then(|| {
        let started = Instant::now();
        let dirs = build_equal(dir.path(), ELEMENTS, |store, n| {
            store.append_local(OpBody::Add(element(n)));
        });
        println!("two stores of {ELEMENTS} elements: {:.0} s", started.elapsed().as_secs_f64());
        dirs
    });
    for part in wanted {
        let room = dir.path().join(part);
        match (part, &equal) {
            ("ops", Some(dirs)) => ops(&room, dirs),
            ("truncated", Some(dirs)) => truncated(&room, dirs, "1M elements"),
            ("copy", Some(dirs)) => copy(&room, dirs),
            _ => sparse(&room),
        }
    }
}

/// An element of 16 bytes; as numbers go up the elements lie here and there in key order.
fn element(n: u64) -> Element {
    let scattered = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8;
    Element::from_canonical(format!("\"{scattered:014x}\"").as_bytes())
}

/// What operations are of themselves: the element and 16 bytes for an add, 16 for a tag removed.
fn own_bytes(ops: &[Op]) -> usize {
    let own = |op: &Op| match &op.body {
        OpBody::Add(element) => element.as_bytes().len() + 16,
        OpBody::Remove { tags, .. } => 16 * tags.len(),
        OpBody::Start { .. } => 0,
    };
    ops.iter().map(own).sum()
}

/// Copies of the two stores, open.
fn open(room: &Path, dirs: &[PathBuf; 2], limits: StoreLimits) -> Pair {
    let copies = [0, 1].map(|n| room.join(NAMES[n]));
    (0..2).for_each(|n| copy_dir(&dirs[n], &copies[n]));
    Pair::open(&copies, limits)
}

/// So many changes of node `n`'s that are spread over the whole set: new elements, and old ones removed. `changed` counts
/// them, so that none is changed twice.
fn scattered(pair: &Pair, n: usize, changed: &mut u64, adds: usize, removes: usize) -> Vec<OpBody> {
    let store = pair.nodes[n].replica.store();
    let first = *changed;
    *changed += adds.max(removes) as u64;
    let new = (first..first + adds as u64).map(|k| OpBody::Add(element(ELEMENTS + k)));
    let old = (first..first + removes as u64).map(|k| {
        let element = element(k * 1_009 % ELEMENTS);
        let tags = store.tags(&element).expect("the index can be read");
        assert_eq!(tags.len(), 1, "each element was added once");
        OpBody::Remove { element, tags }
    });
    let (mut new, mut old, mut mixed) = (new, old, Vec::new());
    // In turn, as far as they go.
    while mixed.len() < adds + removes {
        mixed.extend(new.next());
        mixed.extend(old.next());
    }
    mixed
}

/// Target 9.
fn ops(room: &Path, dirs: &[PathBuf; 2]) {
    let mut pair = open(room, dirs, StoreLimits::default());
    let mixes = [("600 adds, 400 removes", 600, 400), ("adds", DIFFERENCES, 0), ("removes", 0, DIFFERENCES)];
    let mut changed = 0;
    for (what, adds, removes) in mixes {
        difference(&mut pair, &mut changed, what, &[(0, adds, removes)]);
    }
    difference(&mut pair, &mut changed, "500 on either side, 300 adds, 200 removes", &[(0, 300, 200), (1, 300, 200)]);
}

fn difference(pair: &mut Pair, changed: &mut u64, what: &str, sides: &[(usize, usize, usize)]) {
    pair.cut = true;
    for (n, adds, removes) in sides {
        let bodies = scattered(pair, *n, changed, *adds, *removes);
        pair.write(*n, bodies);
    }
    let own: usize = sides.iter().map(|(n, ..)| own_bytes(&pair.ahead(*n))).sum();
    pair.heal();
    pair.converge();
    let bound = 1.25 * own as f64 + SPARE_BYTES;
    Figure::of(9, format!("1,000 operations apart: {what}"))
        .ours("bytes", pair.traffic.bytes() as f64)
        .at_most("bytes", pair.traffic.bytes() as f64, bound)
        .detail(format!("the operations' own: {own} bytes; {}", pair.traffic.story()))
        .detail(format!("{} round trip(s) after the first digest", pair.traffic.round_trips()))
        .record();
    let trips = pair.traffic.round_trips() as f64;
    Figure::of(9, format!("round trips: {what}"))
        .ours("round trips", trips)
        .at_most("round trips", trips, 1.0)
        .record();
}

/// The logs keep next to nothing.
fn forgetful() -> StoreLimits {
    StoreLimits { segment_bytes: 64 << 10, min_retention_bytes: 1, max_retention_bytes: 1, ..StoreLimits::default() }
}

/// Target 10.
fn truncated(room: &Path, dirs: &[PathBuf; 2], what: &str) {
    let mut pair = open(room, dirs, forgetful());
    let bodies = scattered(&pair, 0, &mut 0, DIFFERENCES / 2, DIFFERENCES / 2);
    pair.write(0, bodies);
    (0..2).for_each(|n| pair.truncate(n));
    let [sender, receiver] = [0, 1].map(|n| pair.nodes[n].replica.store());
    assert!(!sender.can_serve(receiver.vv()) && sender.vv() != receiver.vv(), "the log has them");
    let (peak, took) = transfer(&mut pair);
    Figure::of(10, format!("1,000 scattered differences, {what}, logs truncated"))
        .ours("KiB", pair.traffic.bytes() as f64 / 1024.0)
        .at_most("KiB", pair.traffic.bytes() as f64 / 1024.0, 300.0)
        .detail(pair.traffic.story())
        .detail(format!("{took:.1} s of work on both sides, compaction included"))
        .record();
    let trips = pair.traffic.round_trips() as f64;
    Figure::of(10, format!("round trips, {what}"))
        .ours("round trips", trips)
        .at_most("round trips", trips, 4.0)
        .record();
    Figure::of(10, format!("memory of both sides, {what}"))
        .ours("MiB", peak)
        .detail("heap at its highest, above what it was before the first digest or is at the end, whichever is less")
        .record();
}

/// What the heap rose by in MiB until the two agreed, and the seconds. Where some of what was there before goes meanwhile (an
/// index's cache does), it is above what is there afterwards: else that would be taken for room that nothing needed.
fn transfer(pair: &mut Pair) -> (f64, f64) {
    pair.heal();
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let started = Instant::now();
    pair.converge();
    let seconds = started.elapsed().as_secs_f64();
    ((HEAP.peak_usage() - before.min(HEAP.current_usage())) as f64 / MIB, seconds)
}

/// An empty store gets everything.
fn copy(room: &Path, dirs: &[PathBuf; 2]) {
    let copies = [0, 1].map(|n| room.join(NAMES[n]));
    copy_dir(&dirs[0], &copies[0]);
    let mut pair = Pair::open(&copies, forgetful());
    pair.truncate(0);
    let (peak, took) = transfer(&mut pair);
    Figure::of(10, "a full copy of 1M elements: memory of both sides")
        .ours("MiB", peak)
        .detail(format!("{:.1} MiB in {}", pair.traffic.bytes() as f64 / MIB, pair.traffic.story()))
        .detail(format!(
            "{} round trips after the first digest, {took:.1} s of work on both sides",
            pair.traffic.round_trips()
        ))
        .record();
}

/// Ten dots used up for each that is live.
fn sparse(room: &Path) {
    let started = Instant::now();
    let passing = Element::from_canonical(b"\"passing\"");
    let mut rng = fastrand::Rng::with_seed(10);
    let dirs = build_equal(room, ELEMENTS, |store, n| {
        store.append_local(OpBody::Add(element(n)));
        // At random, so that the bitmaps have no pattern that a compressor could see.
        let passing_adds = rng.u64(1..2 * SPARSENESS - 3);
        let tags = (0..passing_adds).map(|_| store.append_local(OpBody::Add(passing.clone()))).collect();
        store.append_local(OpBody::Remove { element: passing.clone(), tags });
    });
    println!("two stores of {ELEMENTS} elements of {SPARSENESS}: {:.0} s", started.elapsed().as_secs_f64());
    truncated(&room.join("copies"), &dirs, "1M live of 10M dots");
}
