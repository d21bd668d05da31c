//! An index that is rebuilt, replaced, or behind.

use std::sync::Arc;

use orset::crdt::{Dot, Element, Entry, Incarnation, JoinCommit, JoinId, JoinPart, NodeId, OpBody, ReplicaId, Seq};
use orset::sim::index::Shelf;
use orset::storage::disk::MemDisk;
use orset::storage::{
    Counts, IndexOutcome, IndexPosition, IndexSource, Lsn, MemorySource, NoIndex, Recovery, Store, StoreLimits,
};

use super::{add, build, compact, feed, join, open, open_on, remove};

/// A join with so many changes would be one huge step for the index: it is rebuilt from a snapshot instead, and what
/// comes meanwhile is neither lost nor applied twice.
#[test]
fn after_a_very_large_join_the_index_is_rebuilt_from_a_snapshot() {
    const RECORDS: u64 = 20_000;
    let mut store = open(StoreLimits::default());
    add(&mut store, 1);
    let (there, join) = (ReplicaId::from_random(99), JoinId(5));
    let record = |n: u64| (Element::from_canonical(format!("\"{n}\"").as_bytes()), Dot::new(there, Seq(n + 2)));
    let part = JoinPart { join, records: (0..RECORDS).map(record).collect(), live: Vec::new() };
    store.append_join(Entry::JoinPart(part)).unwrap();
    store.commit().unwrap();
    assert!(store.plan_compaction().unwrap().is_none(), "no snapshot in the middle of a state delta");
    let vv = [(there, Seq(RECORDS + 1))].into_iter().collect();
    let incarnation = Incarnation { node: NodeId::new("n2").unwrap(), parent: None };
    let incarnations = [(there, incarnation)].into_iter().collect();
    store.append_join(Entry::JoinCommit(JoinCommit { join, vv, incarnations })).unwrap();
    store.commit().unwrap();
    assert!(store.take_feed().is_empty(), "the index is not fed any more");
    add(&mut store, 2);
    assert_eq!(store.counts().unwrap().tags, RECORDS + 2, "counted without the index");
    let snapshot = store.plan_compaction().unwrap().expect("one is wanted").run().unwrap();
    add(&mut store, 3);
    store.install(snapshot).unwrap();
    let snapshot = store.take_rebuild().expect("a rebuild is due");
    let position = snapshot.header().position();
    store.swap_index(build(&snapshot));
    for batch in store.take_feed() {
        assert!(batch.position.lsn > position.lsn, "the new index has that already");
        store.index().unwrap().apply(&batch.changes, batch.position).unwrap();
    }
    store.maintain();
    assert_eq!(store.records(&[]).count() as u64, RECORDS + 3);
    assert_eq!(store.index().unwrap().counts().tags, RECORDS + 3);
    assert_eq!(store.index_lag(), 0);
}

/// A store with ten elements left of a hundred, whose index is waiting to be replaced.
fn outgrown() -> Store {
    let mut store = open(StoreLimits { index_slack_bytes: 0, ..StoreLimits::default() });
    (0..100).for_each(|n| add(&mut store, n));
    feed(&mut store);
    (10..100).for_each(|n| remove(&mut store, n));
    feed(&mut store);
    add(&mut store, 100);
    assert!(store.take_feed().is_empty(), "the index is not fed any more");
    store
}

/// sled never gives disk back.
#[test]
fn an_index_that_has_outgrown_its_records_is_rebuilt_once_and_nothing_is_lost() {
    let mut store = outgrown();
    let before = store.index().unwrap().disk_bytes();
    let snapshot = store.plan_compaction().unwrap().expect("one is wanted").run().unwrap();
    add(&mut store, 101);
    store.index_measured(u64::MAX);
    store.install(snapshot).unwrap();
    let snapshot = store.take_rebuild().expect("a rebuild is due: it needs no later snapshot, however large it is");
    store.swap_index(build(&snapshot));
    feed(&mut store);
    assert_eq!(store.index().unwrap().counts().tags, 12);
    assert_eq!(store.records(&[]).count(), 12);
    assert!(store.index().unwrap().disk_bytes() < before / 10);
    assert!(store.take_rebuild().is_none());
    store.index_measured(u64::MAX);
    add(&mut store, 102);
    assert!(!store.take_feed().is_empty(), "not again before as many changes as it has records");
}

/// Nothing is wrong with the one that is there, so nothing waits for another one.
#[test]
fn an_index_that_cannot_be_replaced_for_its_size_stays_in_use() {
    let fail_compaction = |store: &mut Store| {
        store.plan_compaction().unwrap().expect("one is wanted");
        store.compaction_failed();
    };
    let fail_rebuild = |store: &mut Store| {
        compact(store);
        store.take_rebuild().expect("a rebuild is due");
        store.rebuild_failed();
    };
    for fail in [&fail_compaction as &dyn Fn(&mut Store), &fail_rebuild] {
        let mut store = outgrown();
        fail(&mut store);
        feed(&mut store);
        assert_eq!(store.index().unwrap().counts().tags, 11);
        assert_eq!(store.index_lag(), 0);
    }
}

/// What is fed meanwhile would be in neither: not in the one that is built from an older snapshot, and the other goes.
#[test]
fn while_another_index_is_built_the_sound_one_is_not_fed_whatever_becomes_of_a_compaction() {
    let mut store = outgrown();
    compact(&mut store);
    let snapshot = store.take_rebuild().expect("a rebuild is due");
    add(&mut store, 101);
    store.want_snapshot();
    store.plan_compaction().unwrap().expect("one is wanted");
    store.compaction_failed();
    assert!(!store.has_feed() && store.take_feed().is_empty());
    store.swap_index(build(&snapshot));
    feed(&mut store);
    assert_eq!((store.index_lag(), store.index().unwrap().counts().tags), (0, 12));
}

/// sled is a little larger than its records while changes wait, and stays so when it has been quiet for long.
#[test]
fn an_index_twice_its_size_is_replaced_once_it_has_all_changes_and_not_before() {
    let limits = StoreLimits { index_slack_bytes: 0, ..StoreLimits::default() };
    let twice = |store: &Store| {
        let records = store.index().unwrap().counts().tags;
        // 167 bytes beside the key of each, which is taken to be 128 at most while there is no snapshot.
        2 * records * (167 + 128)
    };
    let mut store = open(limits);
    (0..100).for_each(|n| add(&mut store, n));
    feed(&mut store);
    for n in 0..20 {
        (0..1000).for_each(|k| {
            _ = store.append_local(OpBody::Add(Element::from_canonical((n * 1000 + k).to_string().as_bytes())))
        });
        store.commit().unwrap();
    }
    store.index_measured(twice(&store));
    assert!(store.has_feed(), "while it is behind by 20,000 changes it may be so large");
    for batch in store.take_feed() {
        store.index().unwrap().apply(&batch.changes, batch.position).unwrap();
    }
    add(&mut store, 100_000);
    store.index_measured(twice(&store));
    assert!(!store.has_feed(), "another one takes its place");
}

/// A snapshot ends where a state delta's parts do not: see the store's rules. Its records are in no snapshot meanwhile.
#[test]
fn while_a_state_delta_arrives_no_other_index_is_wanted() {
    let mut store = open(StoreLimits { index_slack_bytes: 0, ..StoreLimits::default() });
    (0..9).for_each(|n| add(&mut store, n));
    feed(&mut store);
    let (join, tag) = (JoinId(1), Dot::new(ReplicaId::from_random(9), Seq(2)));
    let records = vec![(Element::from_canonical(b"9"), tag)];
    store.append_join(Entry::JoinPart(JoinPart { join, records, live: Vec::new() })).unwrap();
    store.commit().unwrap();
    store.index_measured(u64::MAX);
    assert!(store.has_feed());
    store.discard_staged();
    store.index_measured(u64::MAX);
    assert!(!store.has_feed());
}

/// An index that was built at this start is as small as can be, whatever its size: else it would be built for ever.
#[test]
fn what_a_start_has_built_is_not_built_again_before_it_has_been_fed_as_many_changes_as_it_has_records() {
    let limits = StoreLimits { index_slack_bytes: 0, ..StoreLimits::default() };
    let disk = MemDisk::default();
    let mut store = open_on(&disk, limits, &mut NoIndex).0;
    (0..100).for_each(|n| add(&mut store, n));
    drop(store);
    let mut store = open_on(&disk, limits, &mut MemorySource).0;
    for n in 0..101 {
        add(&mut store, 1000 + n);
        let index = Arc::clone(store.index().unwrap());
        store.take_feed().iter().for_each(|batch| index.apply(&batch.changes, batch.position).unwrap());
        store.index_measured(u64::MAX);
        assert!(!store.has_feed());
    }
    assert_eq!(store.index().unwrap().counts().tags, 201);
}

/// An index that lacks a state delta that was laid over must not be fed past it.
#[test]
fn an_index_that_lacks_a_state_delta_is_not_fed_whatever_becomes_of_a_compaction() {
    let mut store = open(StoreLimits { max_join_changes: 1, ..StoreLimits::default() });
    join(&mut store, 3);
    assert!(!store.has_feed());
    store.plan_compaction().unwrap().expect("one is wanted");
    store.compaction_failed();
    add(&mut store, 1);
    assert!(!store.has_feed() && store.take_feed().is_empty());
    store.want_snapshot();
    compact(&mut store);
    let snapshot = store.take_rebuild().expect("a rebuild is due");
    store.swap_index(build(&snapshot));
    feed(&mut store);
    assert_eq!((store.index_lag(), store.index().unwrap().counts().tags), (0, 4));
}

/// The node runs on without one, and tries again after the next snapshot.
#[test]
fn a_store_whose_index_could_not_be_built_asks_for_one_after_the_next_snapshot() {
    let mut store = open_on(&MemDisk::default(), StoreLimits::default(), &mut NoIndex).0;
    (0..9).for_each(|n| add(&mut store, n));
    assert!(store.take_rebuild().is_none(), "there is no snapshot");
    store.want_snapshot();
    compact(&mut store);
    assert!(store.state().memtable.is_empty(), "the snapshot has everything");
    let snapshot = store.take_rebuild().expect("now there is one");
    store.swap_index(build(&snapshot));
    assert_eq!(store.index().unwrap().counts().tags, 9);
}

/// A snapshot that was begun before a state delta was laid over the records lacks it.
#[test]
fn without_an_index_a_state_delta_stays_laid_over_a_snapshot_that_lacks_it() {
    let limits = StoreLimits { max_join_changes: 1, ..StoreLimits::default() };
    let mut store = open_on(&MemDisk::default(), limits, &mut NoIndex).0;
    (0..9).for_each(|n| add(&mut store, n));
    store.want_snapshot();
    let snapshot = store.plan_compaction().unwrap().expect("one is wanted").run().unwrap();
    join(&mut store, 3);
    store.install(snapshot).unwrap();
    assert_eq!((store.records(&[]).count(), store.state().memtable.joined()), (12, 1));
    compact(&mut store);
    assert_eq!((store.records(&[]).count(), store.state().memtable.joined()), (12, 0));
}

/// Its position is where a kill would leave it: nobody has to note it before a snapshot may be made.
#[test]
fn a_snapshot_may_go_as_far_as_the_index_that_was_found_has_come() {
    let limits = StoreLimits { segment_bytes: 400, ..StoreLimits::default() };
    let (disk, mut shelf) = (MemDisk::default(), Shelf::default());
    let mut store = open_on(&disk, limits, &mut shelf).0;
    (0..50).for_each(|n| add(&mut store, n));
    feed(&mut store);
    let fed = store.lsn();
    drop(store);
    let (mut store, recovery) = open_on(&disk, limits, &mut shelf);
    assert_eq!(recovery.index, IndexOutcome::Trusted);
    store.want_snapshot();
    compact(&mut store);
    assert_eq!(store.snapshot().unwrap().header().lsn, fed);
}

#[test]
fn what_the_index_has_is_not_kept_in_memory() {
    let mut store = open(StoreLimits::default());
    (0..50).for_each(|n| add(&mut store, n));
    feed(&mut store);
    // What came while the first change was on its way goes with the next step.
    feed(&mut store);
    store.maintain();
    assert!(store.state().memtable.is_empty(), "{} changes", store.state().memtable.len());
    assert_eq!(store.state().memtable.bytes(), 0);
    assert_eq!(store.records(&[]).count(), 50);
}

/// Measured: what an index lacked was one step of 56,000 changes, and sled took 250 MB for it.
#[test]
fn what_the_index_lacks_at_a_start_is_fed_in_steps_that_end_where_frames_end() {
    let (disk, mut shelf) = (MemDisk::default(), Shelf::default());
    let (mut store, _) = open_on(&disk, StoreLimits::default(), &mut shelf);
    let mut ends = Vec::new();
    const FRAME: usize = 128;
    for n in 0..40 {
        for k in 0..FRAME {
            let element = Element::from_canonical((n * FRAME + k).to_string().as_bytes());
            store.append_local(OpBody::Add(element));
        }
        store.commit().unwrap();
        ends.push(store.lsn());
    }
    remove(&mut store, 170);
    ends.push(store.lsn());
    drop(store);
    let (mut store, recovery) = open_on(&disk, StoreLimits::default(), &mut shelf);
    assert_eq!(recovery.index, IndexOutcome::Trusted);
    let batches = store.take_feed();
    assert_eq!(batches.iter().map(|batch| batch.changes.len()).sum::<usize>(), 40 * FRAME + 1);
    let (last, steps) = batches.split_last().unwrap();
    assert!(last.changes.len() < 1024 + FRAME);
    assert!(steps.iter().all(|batch| (1024..1024 + FRAME).contains(&batch.changes.len())), "of many frames each");
    assert!(batches.iter().all(|batch| ends.contains(&batch.position.lsn)));
    let live = store.records(&[]).map(Result::unwrap).collect::<Vec<_>>();
    for batch in batches {
        store.index().unwrap().apply(&batch.changes, batch.position).unwrap();
    }
    assert_eq!(store.index_lag(), 0);
    assert_eq!(store.index().unwrap().records(&[]).map(Result::unwrap).collect::<Vec<_>>(), live);
}

/// A store with a hundred elements and no index, whose start leaves building one for later; and how it was.
fn rebuilding() -> (Store, Recovery) {
    rebuilding_within(StoreLimits::default().memtable_bytes)
}

fn rebuilding_within(memtable_bytes: usize) -> (Store, Recovery) {
    let limits = StoreLimits { segment_bytes: 400, max_records_at_start: 10, memtable_bytes, ..StoreLimits::default() };
    let disk = MemDisk::default();
    let mut store = open_on(&disk, limits, &mut NoIndex).0;
    (0..90).for_each(|n| add(&mut store, n));
    store.want_snapshot();
    compact(&mut store);
    (90..100).for_each(|n| add(&mut store, n));
    drop(store);
    open_on(&disk, limits, &mut MemorySource)
}

fn check_hundred(store: &Store, more: u64, when: &str) {
    assert_eq!(store.records(&[]).map(Result::unwrap).count() as u64, 100 + more, "{when}");
    assert_eq!(store.counts().unwrap(), Counts { elements: 100 + more, tags: 100 + more }, "{when}");
    for n in 0..100 + more {
        assert!(store.contains(&Element::from_canonical(n.to_string().as_bytes())).unwrap(), "{when}: {n}");
    }
}

/// The index that has just been swapped in lacks the end, and is given it.
fn catches_up(store: &mut Store, more: u64) {
    check_hundred(store, more, "with an index that lacks the end");
    feed(store);
    check_hundred(store, more, "with all in it");
    assert_eq!((store.index_lag(), store.index().unwrap().counts().tags), (0, 100 + more));
}

/// Found by `orset sim` when rebuilds took time: after a power cut and a clean stop before the index was rebuilt, the old
/// one was trusted.
#[test]
fn who_stops_before_the_index_is_rebuilt_closes_no_other() {
    let shelf = Shelf::default();
    let position = IndexPosition { lsn: Lsn(1), checksum: 1 };
    shelf.clone().rebuild(Box::new(std::iter::empty()), position).unwrap();
    shelf.cut_power(1);
    let mut process = shelf.clone();
    assert!(process.open(true).is_err());
    assert_eq!(process.close().unwrap(), None);
    assert!(shelf.clone().open(true).is_err());
    let mut process = shelf.clone();
    process.rebuild(Box::new(std::iter::empty()), position).unwrap();
    assert_eq!(process.close().unwrap(), Some(position));
    shelf.cut_power(2);
    assert!(shelf.clone().open(true).is_ok());
}

/// A rebuild takes seconds for a million records.
#[test]
fn a_start_does_not_wait_for_a_large_index_to_be_built() {
    let (mut store, recovery) = rebuilding();
    assert!(matches!(recovery.index, IndexOutcome::Rebuilding(_)), "{recovery:?}");
    assert_eq!(recovery.counts.tags + recovery.uncounted_changes as u64, 100);
    check_hundred(&store, 0, "from the snapshot");
    let snapshot = store.take_rebuild().expect("a rebuild is due at once");
    assert!(store.take_rebuild().is_none(), "one at a time");
    add(&mut store, 100);
    assert!(!store.has_feed());
    check_hundred(&store, 1, "while it is built");
    store.swap_index(build(&snapshot));
    catches_up(&mut store, 1);
}

/// The changes between the two snapshots were in neither the memtable nor the index.
#[test]
fn a_snapshot_that_comes_while_the_first_index_is_built_from_an_older_one_loses_nothing() {
    for fails in [false, true] {
        let mut store = rebuilding().0;
        let old = store.take_rebuild().expect("a rebuild is due");
        add(&mut store, 100);
        store.want_snapshot();
        compact(&mut store);
        assert!(store.take_rebuild().is_none(), "one at a time");
        add(&mut store, 101);
        check_hundred(&store, 2, "with a newer snapshot");
        if fails {
            store.rebuild_failed();
            check_hundred(&store, 2, "on the newer snapshot");
            let snapshot = store.take_rebuild().expect("it is tried again");
            assert!(snapshot.header().lsn > old.header().lsn);
            store.rebuild_failed();
            assert!(store.take_rebuild().is_none(), "not again from the same one");
            store.swap_index(build(&snapshot));
        } else {
            store.swap_index(build(&old));
        }
        catches_up(&mut store, 2);
    }
}

/// What comes meanwhile stays in memory, which is bounded all the same.
#[test]
fn while_the_first_index_is_built_there_is_room_for_so_much_and_no_more() {
    let mut store = rebuilding().0;
    let snapshot = store.take_rebuild().expect("a rebuild is due");
    let text = "x".repeat(1 << 20);
    let mut n = 0;
    while !store.is_saturated() {
        store.append_local(OpBody::Add(Element::from_canonical(format!("\"{n:04}{text}\"").as_bytes())));
        store.commit().unwrap();
        n += 1;
        assert!(n < 1000, "no bound");
    }
    let most = 4 * StoreLimits::default().memtable_bytes;
    assert!((most..most + (2 << 20)).contains(&store.state().memtable.bytes()));
    store.swap_index(build(&snapshot));
    feed(&mut store);
    assert!(!store.is_saturated());
}

/// What the snapshot lacked at the start is in memory already.
#[test]
fn while_the_first_index_is_built_there_is_room_beside_what_the_log_gave() {
    let mut store = rebuilding_within(100).0;
    store.take_rebuild().expect("a rebuild is due");
    assert!(store.state().memtable.bytes() > 4 * 100 && !store.is_saturated());
    for n in 100..110 {
        add(&mut store, n);
    }
    assert!(store.is_saturated());
}
