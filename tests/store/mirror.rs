//! A small set is read from memory ([`orset::crdt::Mirror`]), and shows the same as what is stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use orset::crdt::{Element, Record};
use orset::storage::disk::MemDisk;
use orset::storage::{MemorySource, Store, StoreLimits};

use super::watched::Watched;
use super::{add, feed, open_on, remove};

/// A store, and how often its index has been read.
fn open(disk: &MemDisk, mirror_bytes: usize) -> (Store, Arc<AtomicUsize>) {
    let limits = StoreLimits { mirror_bytes, ..StoreLimits::default() };
    let mut store = open_on(disk, limits, &mut MemorySource).0;
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
