//! When a snapshot is due, where it may end, and what goes when it is there.

use orset::crdt::{Element, OpBody};
use orset::storage::disk::MemDisk;
use orset::storage::{Lsn, MemorySource, NoIndex, Store, StoreLimits};

use super::{add, commit_of, compact, join, open, open_on, part};

/// Segments of some ten additions, and a log that keeps little.
const SMALL: u64 = 400;

fn small(retention: u64) -> StoreLimits {
    StoreLimits {
        segment_bytes: SMALL,
        min_retention_bytes: retention,
        max_retention_bytes: retention,
        index_slack_bytes: u64::MAX,
        ..StoreLimits::default()
    }
}

/// Brings the index up to everything, and says that a kill would leave it there.
fn bring_up(store: &mut Store) {
    for batch in store.take_feed() {
        store.index().unwrap().apply(&batch.changes, batch.position).unwrap();
        store.index_noted(batch.position.lsn);
    }
    store.maintain();
}

fn covered(store: &Store) -> Lsn {
    store.snapshot().map_or(Lsn(0), |snapshot| snapshot.header().lsn)
}

#[test]
fn a_snapshot_is_due_when_half_of_what_the_log_keeps_is_new() {
    const RETENTION: u64 = 8000;
    let mut store = open_on(&MemDisk::default(), small(RETENTION), &mut NoIndex).0;
    let mut n = 0;
    while store.plan_compaction().unwrap().is_none() {
        add(&mut store, n);
        n += 1;
        assert!(n < 1000, "it never is");
    }
    let log = store.bytes().0;
    assert!((RETENTION / 2..RETENTION / 2 + 3 * SMALL).contains(&log), "{log} bytes");
}

#[test]
fn a_snapshot_is_due_when_there_are_sixty_four_segments_however_small() {
    let mut store = open_on(&MemDisk::default(), small(1 << 20), &mut NoIndex).0;
    let mut n = 0;
    while store.plan_compaction().unwrap().is_none() {
        add(&mut store, n);
        n += 1;
        assert!(n < 10_000, "it never is");
    }
    assert_eq!(store.manifest().segments.len(), 64 + 1, "and one that is written to");
}

/// Processes that live too briefly for their index to come along must not let the log grow for ever.
#[test]
fn a_snapshot_waits_for_the_index_until_twice_what_the_log_keeps_is_new() {
    const RETENTION: u64 = 8000;
    let mut store = open(small(RETENTION));
    let mut n = 0;
    while store.plan_compaction().unwrap().is_none() {
        add(&mut store, n);
        n += 1;
        assert!(n < 10_000, "it waits for ever");
    }
    let log = store.bytes().0;
    assert!((2 * RETENTION..2 * RETENTION + 3 * SMALL).contains(&log), "{log} bytes");
}

#[test]
fn the_log_keeps_as_many_segments_as_it_is_to() {
    const RETENTION: u64 = 8000;
    let mut store = open_on(&MemDisk::default(), small(RETENTION), &mut NoIndex).0;
    (0..600).for_each(|n| add(&mut store, n));
    store.want_snapshot();
    compact(&mut store);
    let log = store.bytes().0;
    assert!((RETENTION - 2 * SMALL..=RETENTION).contains(&log), "{log} bytes");
}

/// Who asks for it wants what he has just appended.
#[test]
fn a_snapshot_that_was_asked_for_has_what_waited_for_a_commit_then() {
    let mut store = open_on(&MemDisk::default(), small(1 << 20), &mut NoIndex).0;
    let mut n = 0;
    // Until a segment has just been closed: a snapshot could end there.
    while store.manifest().segments.len() < 3 {
        add(&mut store, n);
        n += 1;
    }
    (0..3).for_each(|k| _ = store.append_local(OpBody::Add(Element::from_canonical((n + k).to_string().as_bytes()))));
    store.want_snapshot();
    store.commit().unwrap();
    compact(&mut store);
    assert_eq!(covered(&store), store.lsn());
}

#[test]
fn a_snapshot_that_is_asked_for_is_not_made_of_less_than_was_asked_for() {
    let mut store = open(small(1 << 20));
    (0..100).for_each(|n| add(&mut store, n));
    bring_up(&mut store);
    let fed = store.lsn();
    (100..103).for_each(|n| add(&mut store, n));
    store.want_snapshot();
    assert!(store.plan_compaction().unwrap().is_none(), "the index is at {fed}");
    bring_up(&mut store);
    compact(&mut store);
    assert_eq!(covered(&store), store.lsn());
}

/// A store whose snapshot is of the middle of a state delta could not be read again.
#[test]
fn no_snapshot_ends_in_a_state_delta_although_the_index_has_come_so_far() {
    const RETENTION: u64 = 4000;
    let disk = MemDisk::default();
    let mut store = open_on(&disk, small(RETENTION), &mut MemorySource).0;
    let mut n = 0;
    while store.bytes().0 < RETENTION / 2 + 2 * SMALL {
        add(&mut store, n);
        n += 1;
    }
    bring_up(&mut store);
    let before = store.lsn();
    let segments = store.manifest().segments.len();
    for n in 0..6 {
        store.append_join(part(2 + 20 * n..22 + 20 * n)).unwrap();
        store.commit().unwrap();
    }
    assert!(store.manifest().segments.len() > segments + 1, "one ends in the middle of it");
    let middle = store.lsn();
    store.append_join(commit_of(121)).unwrap();
    store.commit().unwrap();
    for _ in 0..30 {
        add(&mut store, n);
        n += 1;
    }
    assert!(store.bytes().0 < 2 * RETENTION, "it still waits for the index");
    store.index_noted(middle);
    compact(&mut store);
    assert!(covered(&store) > Lsn(0) && covered(&store) <= before, "{} {before}", covered(&store));
    let count = |store: &Store| store.records(&[]).map(Result::unwrap).count() as u64;
    assert_eq!(count(&store), n + 120);
    assert_eq!(count(&open_on(&disk.after_kill(), small(RETENTION), &mut NoIndex).0), n + 120);
}

/// It is asked for several times a second.
#[test]
fn where_no_snapshot_is_due_nothing_is_written() {
    let disk = MemDisk::default();
    let limits = StoreLimits { max_join_changes: 1, ..small(1 << 20) };
    let mut store = open_on(&disk, limits, &mut MemorySource).0;
    (0..50).for_each(|n| add(&mut store, n));
    bring_up(&mut store);
    store.want_snapshot();
    compact(&mut store);
    let idle = |store: &mut Store, when: &str| {
        let before = disk.changes();
        assert!(store.plan_compaction().unwrap().is_none(), "{when}");
        assert_eq!(disk.changes(), before, "{when}");
    };
    idle(&mut store, "with a snapshot of everything");
    join(&mut store, 3);
    compact(&mut store);
    assert_eq!(store.state().memtable.joined(), 1);
    idle(&mut store, "while a state delta is laid over the index");
}

#[test]
fn a_second_snapshot_of_the_same_is_none_and_leaves_the_log_alone() {
    let mut store = open_on(&MemDisk::default(), small(1), &mut NoIndex).0;
    (0..50).for_each(|n| add(&mut store, n));
    store.want_snapshot();
    compact(&mut store);
    let segments = store.manifest().segments.clone();
    assert_eq!(segments.len(), 1, "nothing is in it yet");
    store.want_snapshot();
    assert!(store.plan_compaction().unwrap().is_none());
    assert_eq!(store.manifest().segments, segments);
}
