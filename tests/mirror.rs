//! A small set is read from memory ([`orset::crdt::Mirror`]), and shows the same as what is stored.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use orset::crdt::{Base, Change, Element, NodeId, OpBody, Record, RecordKey, Records};
use orset::storage::disk::MemDisk;
use orset::storage::index::MemoryIndex;
use orset::storage::{Counts, Index, IndexError, IndexPosition, IndexSource, Store, StoreLimits, StoreOptions};

/// An index that counts how often it is read, on a shelf that outlives the store.
struct Watched {
    index: MemoryIndex,
    reads: Arc<AtomicUsize>,
}

impl Base for Watched {
    fn records(&self, from: &[u8]) -> Records<'_> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.index.records(from)
    }
}

impl Index for Watched {
    fn position(&self) -> IndexPosition {
        self.index.position()
    }

    fn counts(&self) -> Counts {
        self.index.counts()
    }

    fn standing(&self) -> Result<(IndexPosition, Counts), IndexError> {
        self.index.standing()
    }

    fn disk_bytes(&self) -> u64 {
        self.index.disk_bytes()
    }

    fn apply(&self, changes: &[(RecordKey, Change)], position: IndexPosition) -> Result<(), IndexError> {
        self.index.apply(changes, position)
    }

    fn sync(&self) -> Result<(), IndexError> {
        self.index.sync()
    }
}

#[derive(Default)]
struct Source {
    reads: Arc<AtomicUsize>,
}

impl IndexSource for Source {
    fn open(&mut self, _clean: bool) -> Result<Arc<dyn Index>, String> {
        Err("it was in memory".into())
    }

    fn rebuild(&mut self, records: Records<'_>, position: IndexPosition) -> Result<Arc<dyn Index>, IndexError> {
        let index = MemoryIndex::default();
        let put = |record: Record| (record.key, Change::Put(record.long_element));
        let changes = records.map(|record| record.map(put)).collect::<Result<Vec<_>, _>>()?;
        index.apply(&changes, position)?;
        Ok(Arc::new(Watched { index, reads: Arc::clone(&self.reads) }))
    }

    fn note(&mut self, _position: IndexPosition) -> Result<(), IndexError> {
        Ok(())
    }

    fn distrust(&mut self) {}

    fn close(&mut self) -> Result<Option<IndexPosition>, IndexError> {
        Ok(None)
    }
}

fn open(disk: &MemDisk, source: &mut Source, mirror_bytes: usize) -> Store {
    let mut rng = fastrand::Rng::with_seed(disk.changes());
    let options = StoreOptions {
        disk: Arc::new(disk.clone()),
        dir: Path::new("/n1").to_path_buf(),
        node: NodeId::new("n1").unwrap(),
        entropy: Box::new(move || rng.u128(..)),
        limits: StoreLimits { mirror_bytes, ..StoreLimits::default() },
    };
    Store::open(options, source).unwrap().0
}

fn element(n: u64) -> Element {
    Element::from_canonical(n.to_string().as_bytes())
}

fn add(store: &mut Store, n: u64) {
    store.append_local(OpBody::Add(element(n)));
    settle(store);
}

fn remove(store: &mut Store, n: u64) {
    let tags = store.tags(&element(n)).unwrap();
    if !tags.is_empty() {
        store.append_local(OpBody::Remove { element: element(n), tags });
    }
    settle(store);
}

/// Makes everything durable, and has the index and the mirror brought up to it.
fn settle(store: &mut Store) {
    store.commit().unwrap();
    for batch in store.take_feed() {
        store.index().unwrap().apply(&batch.changes, batch.position).unwrap();
        store.index_noted(batch.position.lsn);
    }
    store.maintain();
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
    let (disk, mut source) = (MemDisk::default(), Source::default());
    for restart in 0..4 {
        let mut store = open(&disk, &mut source, 1 << 20);
        settle(&mut store);
        for step in 0..300 {
            let n = rng.u64(0..40);
            if rng.u8(0..3) == 0 {
                remove(&mut store, n)
            } else {
                add(&mut store, n)
            }
            assert!(!reads_the_index(&store, &source.reads), "step {step} after start {restart}");
        }
    }
}

#[test]
fn a_set_that_outgrows_memory_is_read_from_the_index_until_it_is_small_again() {
    let (disk, mut source) = (MemDisk::default(), Source::default());
    let mut store = open(&disk, &mut source, 20_000);
    (0..50).for_each(|n| add(&mut store, n));
    assert!(!reads_the_index(&store, &source.reads));
    (50..500).for_each(|n| add(&mut store, n));
    assert!(reads_the_index(&store, &source.reads));
    (20..500).for_each(|n| remove(&mut store, n));
    settle(&mut store);
    assert!(!reads_the_index(&store, &source.reads));
}

#[test]
fn with_no_room_for_it_nothing_is_kept_in_memory() {
    let (disk, mut source) = (MemDisk::default(), Source::default());
    let mut store = open(&disk, &mut source, 0);
    (0..5).for_each(|n| add(&mut store, n));
    assert!(reads_the_index(&store, &source.reads));
}
