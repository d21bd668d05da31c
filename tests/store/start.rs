//! What a start clears away, counts and tells.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use orset::crdt::{Element, OpBody, Records};
use orset::sim::index::Shelf;
use orset::storage::disk::{Disk, MemDisk};
use orset::storage::{
    Counts, Index, IndexError, IndexOutcome, IndexPosition, IndexSource, Lsn, MemorySource, NoIndex, Store, StoreLimits,
};

use super::on_disk::DIR;
use super::{add, compact, feed, join, nodes, open_on};

fn put(disk: &MemDisk, name: &str) -> PathBuf {
    let path = Path::new(DIR).join(name);
    disk.create(&path).unwrap().write_all_at(b"left", 0).unwrap();
    path
}

/// Closes the store in good order, as a node does.
fn close(mut store: Store, source: &mut dyn IndexSource) {
    store.release_index();
    let position = source.close().unwrap();
    store.close(position).unwrap();
}

#[test]
fn a_start_removes_what_processes_that_died_have_left_and_nothing_else() {
    let limits =
        StoreLimits { segment_bytes: 400, min_retention_bytes: 1, max_retention_bytes: 1, ..Default::default() };
    for clean in [false, true] {
        let disk = MemDisk::default();
        let mut store = open_on(&disk, limits, &mut NoIndex).0;
        (0..50).for_each(|n| add(&mut store, n));
        store.want_snapshot();
        compact(&mut store);
        (50..60).for_each(|n| add(&mut store, n));
        assert!(!store.manifest().segments.contains(&2), "the second segment has gone");
        if clean {
            store.close(None).unwrap();
        }
        let snapshot = store.snapshot().unwrap().path().to_path_buf();
        drop(store);
        let leftovers = [
            "log/0000000002.log",
            "log/0000000099.log.tmp",
            "snapshots/0000000000000000001.snap",
            "snapshots/0000000000000000099.snap.tmp",
            "manifest.tmp",
        ]
        .map(|name| put(&disk, name));
        let foreign = ["log/notes", "log/notes.tmp", "snapshots/notes", "snapshots/notes.tmp", "notes"]
            .map(|name| put(&disk, name));
        let store = open_on(&disk, limits, &mut NoIndex).0;
        assert_eq!(store.records(&[]).count(), 60);
        let files = disk.files();
        for path in leftovers {
            assert!(!files.contains_key(&path), "{} is still there", path.display());
        }
        for path in foreign.iter().chain([&snapshot]) {
            assert!(files.contains_key(path), "{} has gone", path.display());
        }
    }
}

#[test]
fn a_start_after_a_clean_stop_writes_nothing() {
    let (disk, shelf) = (MemDisk::default(), Shelf::default());
    let mut process = shelf.clone();
    let mut store = open_on(&disk, StoreLimits::default(), &mut process).0;
    (0..9).for_each(|n| add(&mut store, n));
    feed(&mut store);
    close(store, &mut process);
    let (files, changes) = (disk.files(), disk.changes());
    let mut process = shelf.clone();
    let (store, recovery) = open_on(&disk, StoreLimits::default(), &mut process);
    assert!(recovery.clean && recovery.index == IndexOutcome::Trusted);
    close(store, &mut process);
    assert!(disk.files() == files);
    assert!(disk.changes() <= changes + 1, "a manifest that was written aside is removed, if there is one");
}

/// An index that is not to be opened, and how far it had come by its last note.
struct Noted(u64);

impl IndexSource for Noted {
    fn open(&mut self, _clean: bool) -> Result<Arc<dyn Index>, String> {
        Err("not today".into())
    }

    fn rebuild(&mut self, records: Records<'_>, position: IndexPosition) -> Result<Arc<dyn Index>, IndexError> {
        MemorySource.rebuild(records, position)
    }

    fn note(&mut self, _position: IndexPosition) -> Result<(), IndexError> {
        Ok(())
    }

    fn noted(&self) -> Option<IndexPosition> {
        Some(IndexPosition { lsn: Lsn(self.0), checksum: 1 })
    }

    fn distrust(&mut self) {}

    fn close(&mut self) -> Result<Option<IndexPosition>, IndexError> {
        Ok(None)
    }
}

/// What `act` says on stderr.
fn said(act: impl FnOnce()) -> String {
    let lines = tempfile::NamedTempFile::new().unwrap();
    let file = Mutex::new(lines.reopen().unwrap());
    let subscriber = tracing_subscriber::fmt().with_writer(file).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, act);
    std::fs::read_to_string(lines.path()).unwrap()
}

/// Where a log ends at a frame's end, nothing else can tell that it was longer once.
#[test]
fn a_log_that_is_shorter_than_what_the_index_was_fed_is_told_of() {
    // The start of the replica is an operation too: the log ends at 10.
    for (noted, lost) in [(1, false), (9, false), (10, false), (11, true), (99, true)] {
        let disk = MemDisk::default();
        let mut store = open_on(&disk, StoreLimits::default(), &mut NoIndex).0;
        (0..9).for_each(|n| add(&mut store, n));
        drop(store);
        let said = said(|| drop(open_on(&disk, StoreLimits::default(), &mut Noted(noted))));
        assert_eq!(said.contains("durable operations are missing from the end of the log"), lost, "{noted}: {said}");
    }
}

#[test]
fn a_disk_with_too_little_room_for_the_next_start_is_told_of() {
    for (room, little) in [(None, false), (Some(1 << 20), true)] {
        let disk = MemDisk::default();
        disk.set_capacity(room);
        let said = said(|| drop(open_on(&disk, StoreLimits::default(), &mut NoIndex)));
        assert_eq!(said.contains("the disk is nearly full"), little, "{said}");
    }
}

/// After a power cut the index is believed only if the log says that it was closed with it.
#[test]
fn a_clean_stop_speaks_of_the_index_only_if_it_had_everything() {
    for (behind, closed) in [(0, true), (1, false)] {
        let (disk, shelf) = (MemDisk::default(), Shelf::default());
        let mut process = shelf.clone();
        let mut store = open_on(&disk, StoreLimits::default(), &mut process).0;
        (0..9).for_each(|n| add(&mut store, n));
        feed(&mut store);
        (0..behind).for_each(|n| add(&mut store, 9 + n));
        close(store, &mut process);
        shelf.cut_power(3);
        let (store, recovery) = open_on(&disk, StoreLimits::default(), &mut shelf.clone());
        assert_eq!(recovery.index == IndexOutcome::Trusted, closed, "{:?}", recovery.index);
        assert_eq!(store.records(&[]).count() as u64, 9 + behind);
    }
}

#[test]
fn only_the_first_start_is_fresh() {
    let disk = MemDisk::default();
    for fresh in [true, false, false] {
        let (mut store, recovery) = open_on(&disk, StoreLimits::default(), &mut NoIndex);
        assert_eq!(recovery.fresh, fresh);
        add(&mut store, 1);
    }
}

/// Whom to ask for what was missed, before any client is answered.
#[test]
fn a_start_knows_the_nodes_that_were_named_last() {
    let disk = MemDisk::default();
    for names in [&["n1", "n2"][..], &["n1", "n2", "n3"], &["n1"]] {
        let mut store = open_on(&disk, StoreLimits::default(), &mut NoIndex).0;
        store.set_nodes(&nodes(names)).unwrap();
        drop(store);
        let store = open_on(&disk, StoreLimits::default(), &mut NoIndex).0;
        assert_eq!(store.manifest().nodes, nodes(names));
    }
}

#[test]
fn a_start_builds_an_index_of_so_many_records_before_it_is_done_and_a_larger_one_later() {
    let disk = MemDisk::default();
    let mut store = open_on(&disk, StoreLimits::default(), &mut NoIndex).0;
    (0..9).for_each(|n| add(&mut store, n));
    store.want_snapshot();
    compact(&mut store);
    drop(store);
    for (max_records_at_start, later) in [(8, true), (9, false), (10, false)] {
        let limits = StoreLimits { max_records_at_start, ..StoreLimits::default() };
        let (store, recovery) = open_on(&disk, limits, &mut MemorySource);
        assert_eq!(matches!(recovery.index, IndexOutcome::Rebuilding(_)), later, "{max_records_at_start}");
        assert_eq!(store.records(&[]).count(), 9);
    }
}

/// The line on stderr that tells what was found.
#[test]
fn a_start_counts_what_the_index_lacks_if_that_is_little_and_says_how_much_it_is_if_not() {
    for (lacking, uncounted) in [(4096, 0), (4097, 4097)] {
        let (disk, mut shelf) = (MemDisk::default(), Shelf::default());
        let mut store = open_on(&disk, StoreLimits::default(), &mut shelf).0;
        (0..9).for_each(|n| add(&mut store, n));
        feed(&mut store);
        (0..lacking).for_each(|n| {
            store.append_local(OpBody::Add(Element::from_canonical((100 + n).to_string().as_bytes())));
        });
        store.commit().unwrap();
        drop(store);
        let recovery = open_on(&disk, StoreLimits::default(), &mut shelf).1;
        let counted = 9 + lacking - uncounted;
        assert_eq!(recovery.counts, Counts { elements: counted, tags: counted });
        assert_eq!(recovery.uncounted_changes as u64, uncounted);
    }
}

/// What people are told is how they find out what was wrong.
#[test]
fn a_start_says_why_it_did_not_use_the_index() {
    let why = |prepare: &dyn Fn(&MemDisk, &mut Store, &mut Shelf)| {
        let limits = StoreLimits { max_join_changes: 1, ..StoreLimits::default() };
        let (disk, mut shelf) = (MemDisk::default(), Shelf::default());
        let mut store = open_on(&disk, limits, &mut shelf).0;
        (0..9).for_each(|n| add(&mut store, n));
        feed(&mut store);
        prepare(&disk, &mut store, &mut shelf);
        drop(store);
        match open_on(&disk, limits, &mut shelf).1.index {
            IndexOutcome::Rebuilt(why) => why,
            other => format!("{other:?}"),
        }
    };
    assert_eq!(why(&|_, _, _| ()), "Trusted");
    let joined = |_: &MemDisk, store: &mut Store, _: &mut Shelf| join(store, 3);
    assert_eq!(why(&joined), "it lacks a state delta with very many changes");
    let elsewhere = |lsn: u64| {
        move |_: &MemDisk, _: &mut Store, shelf: &mut Shelf| {
            let position = IndexPosition { lsn: Lsn(lsn), checksum: 1 };
            shelf.rebuild(Box::new(std::iter::empty()), position).unwrap();
        }
    };
    // The start of the replica is an operation too: the log ends at 10.
    for lsn in [5, 10] {
        assert_eq!(why(&elsewhere(lsn)), "it is not what the log says");
    }
    for lsn in [11, 100] {
        assert_eq!(why(&elsewhere(lsn)), "it is ahead of the log");
    }
}

/// Without an index nothing else would ever free the bitmaps of a state delta that is laid over the records.
#[test]
fn a_start_that_finds_a_large_state_delta_and_has_no_index_asks_for_a_snapshot() {
    let limits = StoreLimits { max_join_changes: 1, ..StoreLimits::default() };
    let disk = MemDisk::default();
    let mut store = open_on(&disk, limits, &mut MemorySource).0;
    add(&mut store, 1);
    join(&mut store, 3);
    drop(store);
    let mut store = open_on(&disk, limits, &mut NoIndex).0;
    assert_eq!(store.state().memtable.joined(), 1);
    compact(&mut store);
    assert_eq!((store.state().memtable.joined(), store.records(&[]).count()), (0, 4));
    drop(store);
    let mut store = open_on(&disk, limits, &mut NoIndex).0;
    assert!(store.plan_compaction().unwrap().is_none(), "nothing is laid over the snapshot");
}

/// A state delta of exactly as many changes is worked in, one of more is laid over.
#[test]
fn a_state_delta_is_laid_over_the_records_if_it_changes_more_than_so_many() {
    for (elements, laid) in [(1, 0), (4, 0), (5, 0), (6, 1), (9, 1)] {
        let limits = StoreLimits { max_join_changes: 5, ..StoreLimits::default() };
        let mut store = open_on(&MemDisk::default(), limits, &mut MemorySource).0;
        join(&mut store, elements);
        assert_eq!(store.state().memtable.joined(), laid, "{elements}");
        assert_eq!(store.records(&[]).count() as u64, elements);
        let index = Arc::clone(store.index().unwrap());
        store.take_feed().iter().for_each(|batch| index.apply(&batch.changes, batch.position).unwrap());
        assert_eq!(index.counts().tags, if laid == 0 { elements } else { 0 }, "{elements}");
    }
}
