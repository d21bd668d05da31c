//! What a store asks of its index and of whoever compacts it, what it was earlier, and what it refuses; on a simulated disk.

use std::path::Path;

use orset::crdt::{Dot, Element, Entry, JoinId, JoinPart, ReplicaId, Seq};
use orset::storage::disk::{Disk, MemDisk};
use orset::storage::manifest::Manifest;
use orset::storage::store::MAX_BATCH_OPS;
use orset::storage::{Lsn, NoIndex, Replay, Store, StoreError, StoreLimits};

use super::on_disk::DIR;
use super::{add, append, compact, feed, open, open_on, options};

#[test]
fn the_index_is_fed_what_it_lacks() {
    let mut store = open(StoreLimits { index_slack_bytes: 0, ..StoreLimits::default() });
    assert!(!store.has_feed() && store.index_lag() == 0);
    add(&mut store, 1);
    assert!(store.has_feed());
    let lag = store.index_lag();
    assert!(lag > 0);
    let batches = store.take_feed();
    assert!(!store.has_feed() && store.index_lag() == lag, "they have been taken, and are not there yet");
    for batch in batches {
        store.index().unwrap().apply(&batch.changes, batch.position).unwrap();
    }
    assert_eq!(store.index_lag(), 0);
    store.index_measured(u64::MAX);
    add(&mut store, 2);
    assert!(!store.has_feed(), "another one takes its place");
}

#[test]
fn a_store_without_an_index_feeds_none() {
    let mut store = open_on(&MemDisk::default(), StoreLimits::default(), &mut NoIndex).0;
    (0..100).for_each(|n| add(&mut store, n));
    assert!(!store.has_feed() && store.take_feed().is_empty() && !store.is_saturated());
}

#[test]
fn a_memtable_is_filled_by_so_many_changes_and_four_times_as_many_while_the_index_is_rebuilt() {
    let limits = StoreLimits { memtable_bytes: 10_000, index_slack_bytes: 0, ..StoreLimits::default() };
    let mut store = open(limits);
    let mut until = |is_reached: fn(&Store) -> bool| {
        (0..10_000)
            .find(|n| {
                add(&mut store, 1000 + n);
                is_reached(&store)
            })
            .unwrap()
            + 1
    };
    let nearly = until(Store::is_nearly_saturated);
    let whole = nearly + until(Store::is_saturated);
    assert!((7 * whole / 8..=7 * whole / 8 + 1).contains(&nearly), "{nearly} {whole}");
    let mut store = open(limits);
    (0..whole).for_each(|n| add(&mut store, 1000 + n));
    let batches = store.take_feed();
    for batch in &batches[..batches.len() / 2] {
        store.index().unwrap().apply(&batch.changes, batch.position).unwrap();
    }
    store.index_measured(u64::MAX);
    assert!(!store.is_saturated(), "it is rebuilt, so there is room");
    let more = (0..10_000)
        .find(|n| {
            add(&mut store, 5000 + n);
            store.is_saturated()
        })
        .unwrap();
    assert!((3 * whole..5 * whole).contains(&more), "{whole} {more}");
}

#[test]
fn a_batch_is_full_when_a_frame_is() {
    let mut store = open(StoreLimits::default());
    let full = (0..2 * MAX_BATCH_OPS)
        .find(|n| {
            append(&mut store, *n as u64);
            store.is_batch_full()
        })
        .unwrap();
    assert!((MAX_BATCH_OPS - 3..MAX_BATCH_OPS).contains(&full), "{full}");
    store.commit().unwrap();
    assert!(!store.is_batch_full());
}

#[test]
fn an_index_that_was_let_go_is_read_no_more() {
    let mut store = open(StoreLimits::default());
    add(&mut store, 1);
    store.release_index();
    assert!(store.index().is_none());
}

#[test]
fn there_is_one_compaction_at_a_time_and_none_into_a_state_delta() {
    let mut store = open(StoreLimits::default());
    add(&mut store, 1);
    let (join, tag) = (JoinId(1), Dot::new(ReplicaId::from_random(9), Seq(2)));
    let records = vec![(Element::from_canonical(b"2"), tag)];
    store.append_join(Entry::JoinPart(JoinPart { join, records, live: Vec::new() })).unwrap();
    store.commit().unwrap();
    feed(&mut store);
    store.want_snapshot();
    assert!(store.plan_compaction().unwrap().is_none(), "parts of a state delta are there");
    store.discard_staged();
    assert!(store.plan_compaction().unwrap().is_some());
    assert!(store.compaction_is_urgent(), "somebody waits for it");
    assert!(store.plan_compaction().unwrap().is_none(), "one is under way");
}

#[test]
fn a_compaction_is_urgent_once_the_log_grows_faster_than_snapshots_are_made() {
    let limits = StoreLimits { segment_bytes: 400, min_retention_bytes: 4000, ..StoreLimits::default() };
    let mut store = open_on(&MemDisk::default(), limits, &mut NoIndex).0;
    let planned = (0..1000).find(|n| {
        add(&mut store, *n);
        store.plan_compaction().unwrap().is_some()
    });
    assert!(planned.is_some() && !store.compaction_is_urgent(), "half of what is kept is new");
    (0..200).for_each(|n| add(&mut store, n));
    assert!(store.compaction_is_urgent());
}

#[test]
fn a_store_can_be_read_as_it_was_after_each_entry() {
    let disk = MemDisk::default();
    let mut store = open_on(&disk, StoreLimits::default(), &mut NoIndex).0;
    for frame in 0..3 {
        (0..4).for_each(|n| append(&mut store, 10 * frame + n));
        store.commit().unwrap();
    }
    let manifest = Manifest::read(&disk, Path::new(DIR)).unwrap().unwrap();
    // The first entry is the incarnation's start.
    for last in 0..=13 {
        let replay = Replay::read_until(&disk, Path::new(DIR), manifest.clone(), Lsn(last)).unwrap();
        let count = replay.state.records(replay.snapshot_base().as_ref(), &[]).count();
        assert_eq!((replay.lsn, count as u64), (Lsn(last), last.saturating_sub(1)));
    }
}

#[test]
fn a_snapshot_whose_log_is_gone_is_refused() {
    let disk = MemDisk::default();
    let mut store = open_on(&disk, StoreLimits::default(), &mut NoIndex).0;
    (0..9).for_each(|n| add(&mut store, n));
    store.want_snapshot();
    compact(&mut store);
    drop(store);
    let dir = Path::new(DIR);
    assert!(Store::open(options(&disk.after_kill(), StoreLimits::default()), &mut NoIndex).is_ok());
    let mut manifest = Manifest::read(&disk, dir).unwrap().unwrap();
    manifest.segments.clear();
    manifest.write(&disk, dir).unwrap();
    for path in disk.files().into_keys().filter(|path| path.extension() == Some("log".as_ref())) {
        disk.remove(&path).unwrap();
    }
    let refused = Store::open(options(&disk, StoreLimits::default()), &mut NoIndex);
    assert!(matches!(refused, Err(StoreError::Damaged { .. })));
}
