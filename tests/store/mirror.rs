//! A small set is read from memory ([`orset::crdt::Mirror`]), and shows the same as what is stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use orset::crdt::{Element, OpBody, Record};
use orset::sim::index::Shelf;
use orset::storage::disk::MemDisk;
use orset::storage::{IndexSource, MemorySource, NoIndex, Store, StoreLimits};

use super::watched::Watched;
use super::{add, feed, join, open_on, remove};

/// A store, and how often its index has been read.
fn open(disk: &MemDisk, mirror_bytes: usize) -> (Store, Arc<AtomicUsize>) {
    open_with(disk, mirror_bytes, &mut MemorySource)
}

fn open_with(disk: &MemDisk, mirror_bytes: usize, source: &mut dyn IndexSource) -> (Store, Arc<AtomicUsize>) {
    let limits = StoreLimits { mirror_bytes, max_join_changes: 1, ..StoreLimits::default() };
    let mut store = open_on(disk, limits, source).0;
    let reads = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&reads);
    let index = Arc::clone(store.index().unwrap());
    store.swap_index(Watched::over(index, move |_| _ = counter.fetch_add(1, Ordering::Relaxed)));
    (store, reads)
}

fn element(n: u64) -> Element {
    Element::from_canonical(n.to_string().as_bytes())
}

fn put(store: &mut Store, n: u64) {
    add(store, n);
    settle(store);
}

fn take(store: &mut Store, n: u64) {
    if store.contains(&element(n)).unwrap() {
        remove(store, n);
    }
    settle(store);
}

/// Has the index and the mirror brought up to everything.
fn settle(store: &mut Store) {
    feed(store);
    while store.tend_mirror().unwrap() {}
}

/// Looks at everything, compares it with what is stored, and says whether the index was read for it.
fn reads_the_index(store: &Store, reads: &AtomicUsize) -> bool {
    let stored: Vec<Record> = store.stored_records(&[]).map(Result::unwrap).collect();
    let before = reads.load(Ordering::Relaxed);
    assert_eq!(store.records(&[]).map(Result::unwrap).collect::<Vec<_>>(), stored);
    for n in 0..40 {
        let prefix = element(n).key_prefix();
        let of_it = stored.iter().filter(|record| record.key.prefix() == prefix);
        let tags: Vec<_> = of_it.map(Record::tag).collect();
        assert_eq!(store.tags(&element(n)).unwrap(), tags);
        assert_eq!(store.contains(&element(n)).unwrap(), !tags.is_empty());
    }
    reads.load(Ordering::Relaxed) > before
}

#[test]
fn a_small_set_is_read_from_memory_and_shows_what_is_stored() {
    const SEED: u64 = 11;
    println!("seed {SEED}");
    let mut rng = fastrand::Rng::with_seed(SEED);
    let disk = MemDisk::default();
    for restart in 0..4 {
        let (mut store, reads) = open(&disk, 1 << 20);
        settle(&mut store);
        for step in 0..300 {
            let n = rng.u64(0..40);
            if rng.u8(0..3) == 0 {
                take(&mut store, n)
            } else {
                put(&mut store, n)
            }
            assert!(!reads_the_index(&store, &reads), "step {step} after start {restart}");
        }
    }
}

#[test]
fn a_set_that_outgrows_memory_is_read_from_the_index_until_it_is_small_again() {
    let (mut store, reads) = open(&MemDisk::default(), 20_000);
    (0..50).for_each(|n| put(&mut store, n));
    assert!(!reads_the_index(&store, &reads));
    (50..500).for_each(|n| put(&mut store, n));
    assert!(reads_the_index(&store, &reads));
    (20..500).for_each(|n| take(&mut store, n));
    settle(&mut store);
    assert!(!reads_the_index(&store, &reads));
}

#[test]
fn with_no_room_for_it_nothing_is_kept_in_memory() {
    let (mut store, reads) = open(&MemDisk::default(), 0);
    (0..5).for_each(|n| put(&mut store, n));
    assert!(reads_the_index(&store, &reads));
}

/// Whether anything is read to have the set in memory.
fn is_begun(store: &mut Store, reads: &AtomicUsize) -> bool {
    let before = reads.load(Ordering::Relaxed);
    settle(store);
    reads.load(Ordering::Relaxed) > before
}

/// It would be read in vain whenever there is nothing else to do.
#[test]
fn a_set_is_not_read_into_memory_unless_it_takes_half_of_the_room_at_most() {
    // A record counts as 128 bytes.
    for (records, begun) in [(70, true), (80, false), (500, false)] {
        let disk = MemDisk::default();
        let mut store = open_on(&disk, StoreLimits::default(), &mut NoIndex).0;
        (0..records).for_each(|n| add(&mut store, n));
        drop(store);
        let (mut store, reads) = open(&disk, 20_000);
        assert!(!is_begun(&mut store, &reads), "at the start, or not at all: {records} records");
        assert_eq!(reads_the_index(&store, &reads), !begun, "{records} records");
    }
}

#[test]
fn what_the_index_lacks_counts_too() {
    for (lacking, begun) in [(5, true), (300, false)] {
        let (disk, mut shelf) = (MemDisk::default(), Shelf::default());
        let mut store = open_on(&disk, StoreLimits::default(), &mut shelf).0;
        (0..5).for_each(|n| add(&mut store, n));
        feed(&mut store);
        (5..5 + lacking).for_each(|n| add(&mut store, n));
        drop(store);
        let (mut store, reads) = open_with(&disk, 20_000, &mut shelf);
        while store.tend_mirror().unwrap() {}
        assert_eq!(reads.load(Ordering::Relaxed), 0, "in vain: {lacking} changes");
        assert_eq!(reads_the_index(&store, &reads), !begun, "{lacking} changes");
    }
}

/// It may be the elements that are large: how many they are does not show that.
#[test]
fn a_set_of_large_elements_is_tried_again_when_it_has_half_as_many() {
    let (mut store, reads) = open(&MemDisk::default(), 20_000);
    let large = |n: u64| Element::from_canonical(format!("\"{n:02}{}\"", "x".repeat(1000)).as_bytes());
    settle(&mut store);
    for n in 0..30 {
        store.append_local(OpBody::Add(large(n)));
        store.commit().unwrap();
        feed(&mut store);
    }
    assert!(!is_begun(&mut store, &reads), "it has just become too large");
    for n in 0..25 {
        let tags = store.tags(&large(n)).unwrap();
        store.append_local(OpBody::Remove { element: large(n), tags });
        store.commit().unwrap();
        // Brought up, so that it is only the number of records that counts.
        feed(&mut store);
        if n < 5 {
            assert!(!is_begun(&mut store, &reads), "{n} removed");
        }
    }
    assert!(is_begun(&mut store, &reads));
    assert!(!reads_the_index(&store, &reads));
}

#[test]
fn until_all_of_it_is_in_memory_the_rest_is_read_from_the_index() {
    let disk = MemDisk::default();
    let mut store = open_on(&disk, StoreLimits::default(), &mut NoIndex).0;
    (0..2_000).for_each(|n| add(&mut store, n));
    drop(store);
    let (mut store, reads) = open(&disk, 1 << 20);
    assert!(store.tend_mirror().unwrap(), "the test wants several steps");
    let before = reads.load(Ordering::Relaxed);
    // The first in the order of the keys.
    for n in [0, 1, 10, 100] {
        assert_eq!((store.contains(&element(n)).unwrap(), store.tags(&element(n)).unwrap().len()), (true, 1));
    }
    assert_eq!(reads.load(Ordering::Relaxed), before, "they are in memory already");
    assert!(reads_the_index(&store, &reads));
    settle(&mut store);
    assert!(!reads_the_index(&store, &reads));
}

/// What it brings is in no list of changes that the mirror could take in.
#[test]
fn a_state_delta_that_is_laid_over_the_records_is_seen() {
    let (mut store, reads) = open(&MemDisk::default(), 1 << 20);
    (0..9).for_each(|n| put(&mut store, n));
    join(&mut store, 3);
    assert_eq!(store.state().memtable.joined(), 1);
    assert!(reads_the_index(&store, &reads));
    assert_eq!(store.records(&[]).count(), 12);
}
