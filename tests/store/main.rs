//! A store by itself, on a simulated disk: what no crash is needed for.
//!
//! ```text
//! main        deltas, look-ups, counts, snapshots, state deltas
//! compaction  when a snapshot is due, where it may end, and what goes then
//! index       an index that is rebuilt, replaced, or behind
//! mirror      a small set is read from memory
//! rules       what a store asks of its index and of whoever compacts it, what it was earlier, and what it refuses
//! start       what a start clears away, counts and tells
//! watched     an index that says when it is read
//! ```

mod compaction;
mod index;
mod mirror;
mod rules;
mod start;
#[path = "../support/mod.rs"]
mod support;
mod watched;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use orset::crdt::{
    Base, Dot, Element, Entry, Incarnation, JoinCommit, JoinId, JoinPart, NodeId, OpBody, ReplicaId, Seq, VersionVector,
};
use orset::storage::disk::MemDisk;
use orset::storage::index::MemoryIndex;
use orset::storage::progress::{Progress, Stage};
use orset::storage::store::FeedBatch;
use orset::storage::{
    Counts, Index, IndexSource, MemorySource, NoIndex, Recovery, Snapshot, Store, StoreLimits, StoreOptions,
};
use support::on_disk;
use watched::Watched;

fn nodes(names: &[&str]) -> Vec<NodeId> {
    names.iter().map(|name| NodeId::new(name).unwrap()).collect()
}

fn open(limits: StoreLimits) -> Store {
    open_on(&MemDisk::default(), limits, &mut MemorySource).0
}

fn open_on(disk: &MemDisk, limits: StoreLimits, source: &mut dyn IndexSource) -> (Store, Recovery) {
    Store::open(options(disk, limits), source).unwrap()
}

/// Each start on a disk that was changed meanwhile has random numbers of its own.
fn options(disk: &MemDisk, limits: StoreLimits) -> StoreOptions {
    on_disk::options(disk, u128::from(disk.changes()) << 64, limits)
}

fn append(store: &mut Store, n: u64) {
    store.append_local(OpBody::Add(Element::from_canonical(n.to_string().as_bytes())));
}

fn add(store: &mut Store, n: u64) {
    append(store, n);
    store.commit().unwrap();
}

fn remove(store: &mut Store, n: u64) {
    let element = Element::from_canonical(n.to_string().as_bytes());
    let tags = store.tags(&element).unwrap();
    store.append_local(OpBody::Remove { element, tags });
    store.commit().unwrap();
}

/// The part of a state delta that brings the elements from 9,000 on, as many as `tags` says: from sequence number to sequence number.
fn part(tags: std::ops::Range<u64>) -> Entry {
    let there = ReplicaId::from_random(99);
    let record = |n: u64| (Element::from_canonical((9_000 + n).to_string().as_bytes()), Dot::new(there, Seq(n)));
    Entry::JoinPart(JoinPart { join: JoinId(5), records: tags.map(record).collect(), live: Vec::new() })
}

/// The end of the state delta whose last tag has this number.
fn commit_of(last: u64) -> Entry {
    let there = ReplicaId::from_random(99);
    let incarnation = Incarnation { node: NodeId::new("n2").unwrap(), parent: None };
    let (vv, incarnations) = ([(there, Seq(last))].into_iter().collect(), [(there, incarnation)].into_iter().collect());
    Entry::JoinCommit(JoinCommit { join: JoinId(5), vv, incarnations })
}

/// Takes in a state delta that brings so many elements.
fn join(store: &mut Store, elements: u64) {
    store.append_join(part(2..2 + elements)).unwrap();
    store.append_join(commit_of(1 + elements)).unwrap();
    store.commit().unwrap();
}

/// Brings the index up to everything, as the node's thread does.
fn feed(store: &mut Store) {
    for batch in store.take_feed() {
        let index = Arc::clone(store.index().unwrap());
        index.apply(&batch.changes, batch.position).unwrap();
        store.index_noted(batch.position.lsn);
        store.index_measured(index.disk_bytes());
    }
    store.maintain();
}

/// Makes the snapshot that is wanted.
fn compact(store: &mut Store) {
    let snapshot = store.plan_compaction().unwrap().expect("one is wanted").run().unwrap();
    store.install(snapshot).unwrap();
}

fn build(snapshot: &Snapshot) -> Arc<dyn Index> {
    MemorySource.rebuild(snapshot.records(&[]), snapshot.header().position()).unwrap()
}

/// What a start tells, and how often.
#[derive(Default)]
struct Told(Vec<(Stage, u64, u64)>);

impl Progress for Told {
    fn step(&mut self, stage: Stage, done: u64, all: u64) {
        self.0.push((stage, done, all));
    }
}

#[test]
fn a_start_tells_of_every_block_and_segment_how_far_it_is() {
    let disk = MemDisk::default();
    let limits = StoreLimits { segment_bytes: 400, min_retention_bytes: 2000, ..StoreLimits::default() };
    let mut store = open_on(&disk, limits, &mut MemorySource).0;
    for n in 0..200 {
        add(&mut store, n);
        if let Some(plan) = store.plan_compaction().unwrap() {
            store.install(plan.run().unwrap()).unwrap();
        }
        for batch in store.take_feed() {
            store.index().unwrap().apply(&batch.changes, batch.position).unwrap();
            store.index_noted(batch.position.lsn);
        }
    }
    let (blocks, segments) = (store.snapshot().unwrap().block_count() as u64, store.manifest().segments.len() as u64);
    assert!(blocks > 0 && segments > 3);
    let mut told = Told::default();
    Store::open_telling(options(&disk, limits), &mut MemorySource, &mut told).unwrap();
    for (stage, all) in [(Stage::CheckSnapshot, blocks), (Stage::CheckLog, segments), (Stage::ReadLog, segments)] {
        let steps: Vec<_> = told.0.iter().filter(|(of, ..)| *of == stage).map(|(_, done, all)| (*done, *all)).collect();
        assert_eq!(steps, (1..=all).map(|done| (done, all)).collect::<Vec<_>>(), "{stage:?}");
    }
}

/// The counts must be right between any two steps of the index, which another thread makes.
#[test]
fn the_size_is_exact_whatever_the_index_has_by_now() {
    let mut store = open(StoreLimits::default());
    let mut rng = fastrand::Rng::with_seed(7);
    let mut waiting = Vec::new();
    for _ in 0..400 {
        let element = Element::from_canonical(rng.u64(0..40).to_string().as_bytes());
        if rng.u64(0..3) == 0 {
            let tags = store.tags(&element).unwrap();
            if !tags.is_empty() {
                store.append_local(OpBody::Remove { element, tags });
            }
        } else {
            store.append_local(OpBody::Add(element));
        }
        if rng.bool() {
            store.commit().unwrap();
        }
        waiting.extend(store.take_feed());
        if rng.bool() && !waiting.is_empty() {
            let batch = waiting.remove(0);
            store.index().unwrap().apply(&batch.changes, batch.position).unwrap();
        }
        store.maintain();
        let records: Vec<_> = store.records(&[]).map(Result::unwrap).collect();
        let mut elements: Vec<_> = records.iter().map(|record| record.key.prefix()).collect();
        elements.dedup();
        let expected = Counts { elements: elements.len() as u64, tags: records.len() as u64 };
        assert_eq!(store.counts().unwrap(), expected);
    }
}

#[test]
fn the_size_is_exact_also_while_the_index_moves_on() {
    // With few changes it is counted again, and with many the whole set is walked in the end.
    for count in [2, 100] {
        let mut store = open(StoreLimits::default());
        let elements = |n: u64| Element::from_canonical((n % 30).to_string().as_bytes());
        for n in 0..count {
            store.append_local(OpBody::Add(elements(n)));
            store.commit().unwrap();
        }
        let waiting: Mutex<VecDeque<FeedBatch>> = Mutex::new(store.take_feed().into());
        // It takes in a batch whenever somebody begins to read it, as its thread may.
        store.swap_index(Watched::over(Arc::new(MemoryIndex::default()), move |index| {
            if let Some(batch) = waiting.lock().unwrap().pop_front() {
                index.apply(&batch.changes, batch.position).unwrap();
            }
        }));
        assert_eq!(store.counts().unwrap(), Counts { elements: count.min(30), tags: count });
    }
}

/// Somebody may ask for it all the time.
#[test]
fn the_size_of_a_set_that_the_index_has_all_of_is_known_without_reading_it() {
    let mut store = open(StoreLimits::default());
    (0..50).for_each(|n| add(&mut store, n));
    feed(&mut store);
    let reads = Arc::new(AtomicUsize::new(0));
    let (counter, index) = (Arc::clone(&reads), Arc::clone(store.index().unwrap()));
    store.swap_index(Watched::over(index, move |_| _ = counter.fetch_add(1, Ordering::Relaxed)));
    store.maintain();
    assert_eq!(store.counts().unwrap(), Counts { elements: 50, tags: 50 });
    assert_eq!(reads.load(Ordering::Relaxed), 0);
}

/// Found by reading: operations made while the node had no peers were left out of the list of recent ones, and later
/// ones were put behind the gap.
#[test]
fn a_delta_has_no_gap_where_the_cluster_was_smaller_for_a_while() {
    let mut store = open(StoreLimits { recent_bytes: 60, ..StoreLimits::default() });
    for (names, n) in [(&["n1", "n2"][..], 1), (&["n1"], 2), (&["n1", "n2"], 3)] {
        store.set_nodes(&nodes(names)).unwrap();
        add(&mut store, n);
    }
    let delta = store.delta(&VersionVector::new(), 1 << 20).unwrap();
    assert_eq!(delta.ops.iter().map(|op| op.dot.seq.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(delta.complete);
    // Beyond the bound the oldest go, one after the other.
    (10..50).for_each(|n| add(&mut store, n));
    assert_eq!(store.delta(&VersionVector::new(), 1 << 20).unwrap().ops.len(), 44);
}

#[test]
fn a_delta_is_cut_at_the_bound_and_says_so() {
    let mut store = open(StoreLimits::default());
    store.set_nodes(&nodes(&["n1", "n2"])).unwrap();
    (0..100).for_each(|n| add(&mut store, n));
    let mut held = VersionVector::new();
    let mut rounds = 0;
    loop {
        let delta = store.delta(&held, 200).unwrap();
        delta.ops.iter().for_each(|op| held.advance(op.dot));
        rounds += 1;
        if delta.complete {
            break;
        }
    }
    assert_eq!(held, *store.vv());
    assert!(rounds > 3, "{rounds} rounds");
}

#[test]
fn an_element_is_contained_if_it_has_a_tag_and_not_if_only_a_later_one_has() {
    let mut store = open(StoreLimits::default());
    let element = |text: &str| Element::from_canonical(text.as_bytes());
    assert!(!store.contains(&element("1")).unwrap());
    add(&mut store, 12);
    assert!(store.contains(&element("12")).unwrap());
    for other in ["1", "11", "123", "2"] {
        assert!(!store.contains(&element(other)).unwrap(), "{other}");
    }
    let tags = store.tags(&element("12")).unwrap();
    store.append_local(OpBody::Remove { element: element("12"), tags });
    store.commit().unwrap();
    assert!(!store.contains(&element("12")).unwrap(), "it was removed");
}

#[test]
fn what_is_on_the_disk_is_the_files_lengths() {
    let disk = MemDisk::default();
    let limits = StoreLimits { segment_bytes: 400, ..StoreLimits::default() };
    let mut store = open_on(&disk, limits, &mut MemorySource).0;
    let lengths = |part: &str| -> u64 {
        let files = disk.files().into_iter().filter(|(path, _)| path.parent().is_some_and(|dir| dir.ends_with(part)));
        files.map(|(_, content)| content.len() as u64).sum()
    };
    assert_eq!(store.bytes(), (0, 0));
    add(&mut store, 1);
    assert!(store.bytes().0 > 0);
    assert_eq!(store.bytes(), (lengths("log"), 0));
    (2..100).for_each(|n| add(&mut store, n));
    store.want_snapshot();
    add(&mut store, 100);
    for batch in store.take_feed() {
        store.index().unwrap().apply(&batch.changes, batch.position).unwrap();
        store.index_noted(batch.position.lsn);
    }
    compact(&mut store);
    assert!(store.bytes().1 > 0);
    assert_eq!(store.bytes(), (lengths("log"), lengths("snapshots")));
}

/// Found by reading: a snapshot that was wanted and had to wait for the index closed a segment at every commit.
#[test]
fn a_snapshot_that_has_to_wait_for_the_index_does_not_chop_up_the_log() {
    let mut store = open(StoreLimits::default());
    add(&mut store, 0);
    store.want_snapshot();
    for n in 1..50 {
        add(&mut store, n);
        assert!(store.plan_compaction().unwrap().is_none(), "the index has nothing yet");
    }
    assert_eq!(store.manifest().segments.len(), 2);
    for batch in store.take_feed() {
        store.index().unwrap().apply(&batch.changes, batch.position).unwrap();
        store.index_noted(batch.position.lsn);
    }
    let snapshot = store.plan_compaction().unwrap().expect("now it may be made").run().unwrap();
    assert_eq!(snapshot.counts().tags, 2, "of what there was when the segment was closed");
}

/// Found by the simulation: where a state delta lay across the ends of all closed segments, a snapshot that a peer waited
/// for was not made before something new was written.
#[test]
fn a_snapshot_is_made_although_a_state_delta_lies_across_the_ends_of_the_segments() {
    let mut store = open(StoreLimits { segment_bytes: 400, ..StoreLimits::default() });
    let (there, join) = (ReplicaId::from_random(99), JoinId(5));
    for n in 2..5 {
        let record = (Element::from_canonical(&[b'1'; 400]), Dot::new(there, Seq(n)));
        store.append_join(Entry::JoinPart(JoinPart { join, records: vec![record], live: Vec::new() })).unwrap();
        store.commit().unwrap();
        store.want_snapshot();
    }
    let incarnation = Incarnation { node: NodeId::new("n2").unwrap(), parent: None };
    let (vv, incarnations) = ([(there, Seq(4))].into_iter().collect(), [(there, incarnation)].into_iter().collect());
    store.append_join(Entry::JoinCommit(JoinCommit { join, vv, incarnations })).unwrap();
    store.commit().unwrap();
    assert_eq!(store.manifest().segments.len(), 4, "three closed in the middle of it, and one that is written to");
    for batch in store.take_feed() {
        store.index().unwrap().apply(&batch.changes, batch.position).unwrap();
        store.index_noted(batch.position.lsn);
    }
    let snapshot = store.plan_compaction().unwrap().expect("it is wanted, and may be made").run().unwrap();
    assert_eq!(snapshot.counts().tags, 3);
}

#[test]
fn a_compaction_offers_a_pause_after_every_segment_and_every_mib() {
    let mut store = open(StoreLimits { segment_bytes: 1 << 20, ..StoreLimits::default() });
    // Nothing that one shares with the next, so that the snapshot is as large as the elements.
    let text = |n: u64| format!("\"{:0>64}{:a>30000}\"", n.reverse_bits(), "");
    for n in 0..100 {
        store.append_local(OpBody::Add(Element::from_canonical(text(n).as_bytes())));
        store.commit().unwrap();
    }
    store.want_snapshot();
    feed(&mut store);
    assert!(!store.compaction_is_urgent(), "none is under way");
    let plan = store.plan_compaction().unwrap().expect("it is wanted");
    assert!(store.compaction_is_urgent(), "somebody waits for it");
    let mut pauses = 0;
    let snapshot = plan.run_in_steps(&mut || pauses += 1).unwrap();
    assert_eq!(pauses, 3 + (snapshot.bytes() >> 20), "three segments, and the MiB of {} bytes", snapshot.bytes());
    store.install(snapshot).unwrap();
    assert!(!store.compaction_is_urgent());
}

/// The records of a state delta that is laid over stay in the log: what is in memory is its bitmaps, wherever it is folded.
#[test]
fn a_large_state_delta_takes_little_memory_and_its_segments_stay_while_it_is_read_from_them() {
    const RECORDS: u64 = 20_000;
    const MOST_BYTES: usize = 64 << 10;
    let limits = StoreLimits {
        segment_bytes: 64 << 10,
        min_retention_bytes: 1,
        max_retention_bytes: 1,
        max_join_changes: 10,
        ..StoreLimits::default()
    };
    let disk = MemDisk::default();
    let mut store = open_on(&disk, limits, &mut MemorySource).0;
    (0..3).for_each(|n| add(&mut store, n));
    let (there, join) = (ReplicaId::from_random(99), JoinId(5));
    let record = |n: u64| (Element::from_canonical(format!("\"{n:014}\"").as_bytes()), Dot::new(there, Seq(n + 2)));
    for first in (0..RECORDS).step_by(500) {
        let records = (first..first + 500).map(record).collect();
        store.append_join(Entry::JoinPart(JoinPart { join, records, live: Vec::new() })).unwrap();
        store.commit().unwrap();
    }
    let vv = [(there, Seq(RECORDS + 1))].into_iter().collect();
    let incarnation = Incarnation { node: NodeId::new("n2").unwrap(), parent: None };
    let incarnations = [(there, incarnation)].into_iter().collect();
    store.append_join(Entry::JoinCommit(JoinCommit { join, vv, incarnations })).unwrap();
    // One of the new ones goes again, in the same frame; and another, later.
    let remove = |store: &mut Store, n: u64| {
        let (element, tag) = record(n);
        assert_eq!(store.tags(&element).unwrap(), [tag]);
        store.append_local(OpBody::Remove { element, tags: vec![tag] });
    };
    remove(&mut store, 7);
    store.commit().unwrap();
    remove(&mut store, 15_000);
    store.commit().unwrap();
    let live = RECORDS as usize + 3 - 2;
    let check = |store: &Store, what: &str| {
        assert_eq!(store.records(&[]).map(Result::unwrap).count(), live, "{what}");
        assert_eq!(store.counts().unwrap().tags, live as u64, "{what}");
        assert!(store.contains(&record(19_999).0).unwrap() && !store.contains(&record(7).0).unwrap(), "{what}");
        assert!(store.state().memtable.bytes() < MOST_BYTES, "{what}: {} bytes", store.state().memtable.bytes());
    };
    check(&store, "joined");
    let joined = disk.after_kill();
    check(&open_on(&joined, limits, &mut NoIndex).0, "read again, without an index");
    check(&open_on(&joined, limits, &mut MemorySource).0, "read again, with a new index");

    let segments = store.manifest().segments.len();
    compact(&mut store);
    check(&store, "with a snapshot");
    assert!(store.manifest().segments.len() >= segments, "it is still read from them");
    let snapshot = store.take_rebuild().expect("a rebuild is due");
    store.swap_index(build(&snapshot));
    check(&store, "with a new index");
    assert_eq!(store.state().memtable.joined(), 0, "the index has it now");
    assert!(store.plan_compaction().unwrap().is_none());
    assert!(store.manifest().segments.len() < segments / 2, "and the segments go");
    check(&open_on(&disk.after_kill(), limits, &mut NoIndex).0, "read from the snapshot");
}
