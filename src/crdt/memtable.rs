//! What the operations since some point change, on top of a sorted base of records.
//!
//! A tag is added once and never again after its removal, so per key there are two kinds of change, and a
//! [`Change::Delete`] wins for good. That makes merging simple: a record is live if the base or the memtable has it and
//! the memtable does not delete it. In what order the two saw their changes does not matter, and it does no harm if the
//! base already has some of the memtable's changes.
//!
//! A state delta that changes too much for that is laid over both ([`Joined`]).
//!
//! There are two generations, so that the base can take over the elder in the background and memory is then freed in
//! one stroke: new changes always go to the younger.
//!
//! A change is only appended, to a batch that is shared with whoever brings the base up to date. It gets its place in a
//! tree when somebody is about to look things up ([`Memtable::sort`]), as that costs ten times as much: adds look nothing
//! up, nor does a set whose records are all in a [mirror](super::mirror).

use std::collections::BTreeMap;
use std::collections::btree_map::{Entry, Range};
use std::iter::Peekable;
use std::sync::Arc;

use super::element::{Element, Record, RecordKey};
use super::joined::Joined;

/// What becomes of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// It is added; with the element if the key does not hold it whole.
    Put(Option<Element>),
    /// It is removed, if it was there.
    Delete,
}

/// A base failed to deliver its records; what it says is for people.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BaseError(pub Box<dyn std::error::Error + Send + Sync>);

/// Records in key order, none twice.
pub type Records<'a> = Box<dyn Iterator<Item = Result<Record, BaseError>> + 'a>;

/// Changes in key order, none twice.
pub type Changes<'a> = Box<dyn Iterator<Item = (&'a RecordKey, &'a Change)> + 'a>;

/// Something with sorted records: a snapshot, an index, nothing.
pub trait Base {
    /// The records whose key is at least `from`, in key order.
    fn records(&self, from: &[u8]) -> Records<'_>;
}

/// The base that has no records.
#[derive(Clone, Copy, Debug)]
pub struct EmptyBase;

impl Base for EmptyBase {
    fn records(&self, _from: &[u8]) -> Records<'_> {
        Box::new(std::iter::empty())
    }
}

/// Changes in the order made. Whoever has them shares them.
pub type Batch = Arc<Vec<(RecordKey, Change)>>;

/// Changes, and what they cost.
#[derive(Clone, Debug, Default)]
struct Generation {
    sorted: BTreeMap<RecordKey, Change>,
    /// Those after them.
    appended: Vec<Batch>,
    /// How many are appended.
    unsorted: usize,
    bytes: usize,
}

impl Generation {
    /// Takes in a batch that costs so many bytes.
    fn append(&mut self, batch: Batch, bytes: usize) {
        if !batch.is_empty() {
            self.bytes += bytes;
            self.unsorted += batch.len();
            self.appended.push(batch);
        }
    }

    /// Gives a change, which is counted in `bytes` already, its place. Of a key's changes, the last one stays.
    fn place(&mut self, key: RecordKey, change: Change) {
        match self.sorted.entry(key) {
            Entry::Vacant(entry) => drop(entry.insert(change)),
            Entry::Occupied(mut entry) => {
                self.bytes -= weight(entry.key(), entry.get());
                entry.insert(change);
            }
        }
    }

    fn sort(&mut self) {
        for batch in std::mem::take(&mut self.appended) {
            Arc::unwrap_or_clone(batch).into_iter().for_each(|(key, change)| self.place(key, change));
        }
        self.unsorted = 0;
    }

    fn retain(&mut self, stays: impl Fn(&RecordKey) -> bool) {
        self.sort();
        self.sorted.retain(|key, change| {
            let stays = stays(key);
            self.bytes -= if stays { 0 } else { weight(key, change) };
            stays
        });
    }

    fn len(&self) -> usize {
        self.sorted.len() + self.unsorted
    }

    fn from(&self, from: &[u8]) -> Range<'_, RecordKey, Change> {
        self.sorted.range(RecordKey::bound(from)..)
    }
}

/// A batch begins with room for as many changes as the one before it had, and at most for so many.
const MAX_ROOM: usize = 1024;

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub struct Memtable {
    elder: Generation,
    younger: Generation,
    /// The changes of the batch that is not [taken](Memtable::take_batch) yet …
    open: Vec<(RecordKey, Change)>,
    /// … of which the first so many have their place in the younger generation …
    placed: usize,
    /// … and what the others cost.
    open_bytes: usize,
    /// State deltas laid over it all, oldest first.
    joined: Vec<Arc<Joined>>,
}

/// What a key and an element have on the heap.
pub(super) fn heap_bytes(key: &RecordKey, long_element: Option<&Element>) -> usize {
    key.heap_bytes() + long_element.map_or(0, |element| element.as_bytes().len())
}

/// What a change costs. (In a tree it is half as much again: nodes are two thirds full.)
fn weight(key: &RecordKey, change: &Change) -> usize {
    let long_element = if let Change::Put(long_element) = change { long_element.as_ref() } else { None };
    size_of::<(RecordKey, Change)>() + heap_bytes(key, long_element)
}

fn total_weight(changes: &[(RecordKey, Change)]) -> usize {
    changes.iter().map(|(key, change)| weight(key, change)).sum()
}

impl Memtable {
    /// Takes in a change.
    pub fn insert(&mut self, key: RecordKey, change: Change) {
        self.open_bytes += weight(&key, &change);
        self.open.push((key, change));
    }

    /// What has come since the last time.
    pub fn take_batch(&mut self) -> Batch {
        if self.placed > 0 {
            self.place_open();
        }
        let next = Vec::with_capacity(self.open.len().min(MAX_ROOM));
        let mut changes = std::mem::replace(&mut self.open, next);
        changes.shrink_to_fit();
        let batch = Arc::new(changes);
        if self.placed == 0 {
            self.younger.append(Arc::clone(&batch), self.open_bytes);
        }
        (self.placed, self.open_bytes) = (0, 0);
        batch
    }

    /// How many changes have come since a batch was taken.
    pub fn not_taken(&self) -> usize {
        self.open.len()
    }

    /// Gives every change its place: whoever looks things up, again and again, is to have this done before. What is found is
    /// the same.
    pub fn sort(&mut self) {
        self.elder.sort();
        self.younger.sort();
        self.place_open();
    }

    fn place_open(&mut self) {
        if self.placed == self.open.len() {
            return;
        }
        // What is in the tree is older than what is not.
        self.younger.sort();
        self.younger.bytes += self.open_bytes;
        for (key, change) in &self.open[self.placed..] {
            self.younger.place(key.clone(), change.clone());
        }
        (self.placed, self.open_bytes) = (self.open.len(), 0);
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        self.elder.bytes
            + self.younger.bytes
            + self.open_bytes
            + self.joined.iter().map(|joined| joined.bytes()).sum::<usize>()
    }

    /// Lays a state delta over what there is and will be.
    pub(super) fn lay(&mut self, joined: Arc<Joined>) {
        self.joined.push(joined);
    }

    /// How many state deltas are laid over it.
    pub fn joined(&self) -> usize {
        self.joined.len()
    }

    /// Forgets the oldest `count` of the state deltas laid over it: the base has all of them, and everything before them.
    /// What they drop goes with them, or it would be back.
    pub fn drop_joined(&mut self, count: usize) {
        let joined: Vec<Arc<Joined>> = self.joined.drain(..count).collect();
        let stays = |key: &RecordKey| !joined.iter().any(|joined| joined.drops(key.tag()));
        self.place_open();
        self.elder.retain(stays);
        self.younger.retain(stays);
    }

    /// Forgets all changes but those of these batches and of the one that is not taken yet: the base has the others.
    pub fn keep_only(&mut self, batches: impl Iterator<Item = Batch>) {
        (self.elder, self.younger, self.placed) = (Generation::default(), Generation::default(), 0);
        self.open_bytes = total_weight(&self.open);
        for batch in batches {
            let bytes = total_weight(&batch);
            self.younger.append(batch, bytes);
        }
    }

    /// How many changes there are, beside the state deltas laid over it. (Of the changes of one key that have their place in
    /// a generation, one is left.)
    pub fn len(&self) -> usize {
        self.elder.len() + self.younger.len() + self.open.len() - self.placed
    }

    /// Whether it changes nothing, beside the state deltas laid over it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the younger generation the elder.
    ///
    /// # Panics
    /// If there is an elder: it must have been dropped first.
    pub fn age(&mut self) {
        assert!(!self.has_elder(), "the elder generation is still needed");
        self.place_open();
        self.elder = std::mem::take(&mut self.younger);
    }

    /// Forgets the elder generation: the base has all of it.
    pub fn drop_elder(&mut self) {
        self.elder = Generation::default();
    }

    /// Whether there is an elder generation.
    pub fn has_elder(&self) -> bool {
        self.elder.len() > 0
    }

    /// All changes in key order, each key once.
    pub fn changes(&self) -> Changes<'_> {
        self.changes_from(&[])
    }

    fn changes_from<'a>(&'a self, from: &[u8]) -> Changes<'a> {
        let sorted = Overlaid::new(self.elder.from(from), self.younger.from(from));
        let batches = self.elder.appended.iter().chain(&self.younger.appended).map(|batch| &batch[..]);
        let unsorted = batches.chain([&self.open[self.placed..]]).flatten();
        let mut unsorted: Vec<&(RecordKey, Change)> = unsorted.filter(|(key, _)| key.as_bytes() >= from).collect();
        if unsorted.is_empty() {
            return Box::new(sorted);
        }
        // Of a key's changes, the last one stays: the sort keeps their order, and of equal ones the first is kept.
        unsorted.reverse();
        unsorted.sort_by_key(|(key, _)| key);
        unsorted.dedup_by_key(|(key, _)| key);
        Box::new(Overlaid::new(sorted, unsorted.into_iter().map(|(key, change)| (key, change))))
    }

    /// The live records on top of `base` from the key `from` on, in key order.
    pub fn over<'a>(&'a self, base: &'a dyn Base, from: &[u8]) -> Records<'a> {
        let mut records = base.records(from);
        for joined in &self.joined {
            records = merged(records, joined.records(from));
        }
        if !self.is_empty() {
            records = Box::new(Live { base: records.peekable(), changes: self.changes_from(from).peekable() });
        }
        if self.joined.is_empty() {
            return records;
        }
        let stays = |record: &Record| !self.joined.iter().any(|joined| joined.drops(record.tag()));
        Box::new(records.filter(move |record| record.as_ref().map_or(true, stays)))
    }
}

/// Two streams in key order as one; a record that is in both comes once.
pub(super) fn merged<'a>(one: Records<'a>, other: Records<'a>) -> Records<'a> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    Box::new(std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(Ok(a)), Some(Ok(b))) if a.key > b.key => other.next(),
        (Some(Ok(a)), Some(Ok(b))) if a.key == b.key => {
            other.next();
            one.next()
        }
        (None, _) | (Some(Ok(_)), Some(Err(_))) => other.next(),
        _ => one.next(),
    }))
}

/// Older and newer changes in key order; of a key that is in both, the newer.
struct Overlaid<I: Iterator, J: Iterator> {
    older: Peekable<I>,
    newer: Peekable<J>,
}

impl<I: Iterator, J: Iterator> Overlaid<I, J> {
    fn new(older: I, newer: J) -> Self {
        Self { older: older.peekable(), newer: newer.peekable() }
    }
}

impl<'a, I, J> Iterator for Overlaid<I, J>
where
    I: Iterator<Item = (&'a RecordKey, &'a Change)>,
    J: Iterator<Item = (&'a RecordKey, &'a Change)>,
{
    type Item = (&'a RecordKey, &'a Change);

    fn next(&mut self) -> Option<Self::Item> {
        match (self.older.peek(), self.newer.peek()) {
            (Some((older, _)), Some((newer, _))) if older < newer => self.older.next(),
            (Some((older, _)), Some((newer, _))) if older == newer => {
                self.older.next();
                self.newer.next()
            }
            (Some(_), None) => self.older.next(),
            _ => self.newer.next(),
        }
    }
}

/// Base and changes merged.
struct Live<'a> {
    base: Peekable<Records<'a>>,
    changes: Peekable<Changes<'a>>,
}

impl Iterator for Live<'_> {
    type Item = Result<Record, BaseError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((key, change)) = self.changes.peek().copied() else {
                return self.base.next();
            };
            match self.base.peek() {
                Some(Err(_)) => return self.base.next(),
                Some(Ok(record)) if record.key < *key => return self.base.next(),
                Some(Ok(record)) if record.key == *key => drop(self.base.next()),
                _ => {}
            }
            self.changes.next();
            if let Change::Put(long_element) = change {
                return Some(Ok(Record { key: key.clone(), long_element: long_element.clone() }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::element::Element;
    use super::super::id::{Dot, ReplicaId, Seq};
    use super::super::join::{JoinId, Staged};
    use super::super::version_vector::VersionVector;
    use super::*;

    const ENTRY: usize = size_of::<(RecordKey, Change)>();

    fn record(element_bytes: usize, seq: u64) -> Record {
        Record::new(&Element::from_canonical(&vec![b'1'; element_bytes]), Dot::new(ReplicaId::from_random(5), Seq(seq)))
    }

    fn put(memtable: &mut Memtable, record: &Record) {
        memtable.insert(record.key.clone(), Change::Put(record.long_element.clone()));
    }

    #[test]
    fn its_size_is_that_of_both_generations_and_the_elder_goes_as_a_whole() {
        let [short, long, newer] = [(3, 2), (500, 3), (4, 4)].map(|(bytes, seq)| record(bytes, seq));
        let size = |record: &Record| ENTRY + record.key.heap_bytes();
        let mut memtable = Memtable::default();
        assert!(memtable.is_empty() && memtable.bytes() == 0);
        put(&mut memtable, &short);
        put(&mut memtable, &long);
        let elder_bytes = size(&short) + size(&long) + 500;
        assert_eq!((memtable.bytes(), memtable.len(), memtable.has_elder()), (elder_bytes, 2, false));
        memtable.age();
        assert_eq!((memtable.bytes(), memtable.len(), memtable.has_elder()), (elder_bytes, 2, true));
        put(&mut memtable, &newer);
        assert_eq!((memtable.bytes(), memtable.len()), (elder_bytes + size(&newer), 3));
        memtable.drop_elder();
        assert_eq!((memtable.bytes(), memtable.len(), memtable.has_elder()), (size(&newer), 1, false));
        let keys: Vec<_> = memtable.changes().map(|(key, _)| key.clone()).collect();
        assert_eq!(keys, [newer.key]);
    }

    /// What a memtable must say, from lists alone.
    #[derive(Default)]
    struct Lists {
        elder: Vec<(RecordKey, Change)>,
        younger: Vec<(RecordKey, Change)>,
        open: Vec<(RecordKey, Change)>,
    }

    impl Lists {
        fn seen(&self) -> BTreeMap<RecordKey, Change> {
            self.elder.iter().chain(&self.younger).chain(&self.open).cloned().collect()
        }
    }

    #[test]
    fn a_change_is_seen_whether_it_has_its_place_or_not_and_whatever_has_gone() {
        const SEED: u64 = 3;
        println!("seed {SEED}");
        let mut rng = fastrand::Rng::with_seed(SEED);
        let records: Vec<Record> = (2..30).map(|seq| record(1 + seq as usize % 3 * 60, seq)).collect();
        let (mut lists, mut last) = (Lists::default(), Batch::default());
        // One that is sorted at every step, and one that is sorted now and then.
        let mut memtables = [Memtable::default(), Memtable::default()];
        for step in 0..5_000 {
            let Record { key, long_element } = &records[rng.usize(..records.len())];
            let removed = lists.seen().get(key) == Some(&Change::Delete);
            let change = if removed || rng.bool() { Change::Delete } else { Change::Put(long_element.clone()) };
            memtables.iter_mut().for_each(|memtable| memtable.insert(key.clone(), change.clone()));
            lists.open.push((key.clone(), change));
            let doing = rng.u8(..60);
            if doing == 0 && memtables[0].has_elder() {
                memtables.iter_mut().for_each(Memtable::drop_elder);
                lists.elder.clear();
            } else if doing < 8 {
                for memtable in &mut memtables {
                    last = memtable.take_batch();
                    assert_eq!(*last, lists.open, "step {step}");
                }
                lists.younger.append(&mut lists.open);
            }
            if doing == 1 && !memtables[0].has_elder() {
                memtables.iter_mut().for_each(Memtable::age);
                lists.elder = std::mem::take(&mut lists.younger);
            } else if doing == 8 {
                // As when a snapshot is read from instead, while a batch is being made.
                memtables.iter_mut().for_each(|memtable| memtable.keep_only([Arc::clone(&last)].into_iter()));
                lists = Lists { younger: last.to_vec(), open: lists.open, ..Lists::default() };
            }
            memtables[0].sort();
            if doing == 9 {
                memtables[1].sort();
            }
            let from = records[rng.usize(..records.len())].key.as_bytes();
            for memtable in &memtables {
                let seen: BTreeMap<_, _> =
                    memtable.changes().map(|(key, change)| (key.clone(), change.clone())).collect();
                assert_eq!(seen, lists.seen(), "step {step}");
                let live = memtable.over(&EmptyBase, from).map(|record| record.unwrap().key);
                let wanted = lists
                    .seen()
                    .into_iter()
                    .filter(|(key, change)| key.as_bytes() >= from && *change != Change::Delete);
                assert!(live.eq(wanted.map(|(key, _)| key)), "step {step}");
                assert_eq!(memtable.not_taken(), lists.open.len());
            }
        }
        memtables[1].sort();
        assert_eq!(memtables[0].len(), memtables[1].len());
    }

    #[test]
    fn a_batch_is_not_there_twice() {
        let [first, later] = [(3, 2), (4, 3)].map(|(bytes, seq)| record(bytes, seq));
        let mut memtable = Memtable::default();
        for sorted in [false, true] {
            put(&mut memtable, &first);
            if sorted {
                memtable.sort();
            }
            put(&mut memtable, &later);
            let batch = memtable.take_batch();
            assert_eq!(
                (batch.len(), Arc::strong_count(&batch)),
                (2, if sorted { 1 } else { 2 }),
                "shared, or in the tree"
            );
            assert_eq!((memtable.len(), memtable.bytes(), memtable.not_taken()), (2, 2 * ENTRY, 0));
            memtable.keep_only(std::iter::empty());
            assert!(memtable.is_empty() && memtable.bytes() == 0);
        }
        assert!(memtable.take_batch().is_empty() && memtable.is_empty());
    }

    #[test]
    fn a_key_that_is_changed_again_weighs_what_its_last_change_does() {
        let long = record(500, 2);
        let mut memtable = Memtable::default();
        for _ in 0..2 {
            put(&mut memtable, &long);
            memtable.sort();
            assert_eq!(memtable.bytes(), ENTRY + long.key.heap_bytes() + 500);
            memtable.insert(long.key.clone(), Change::Delete);
            memtable.sort();
            assert_eq!(memtable.bytes(), ENTRY + long.key.heap_bytes());
        }
        assert!(long.key.heap_bytes() > 128, "its first bytes, a hash and a tag do not fit in place");
        assert_eq!(record(3, 2).key.heap_bytes(), 0);
    }

    #[test]
    fn what_a_state_delta_drops_weighs_nothing_once_it_is_in_the_base() {
        let [dropped, also_dropped, stays] = [(500, 2), (3, 3), (4, 9)].map(|(bytes, seq)| record(bytes, seq));
        let mut memtable = Memtable::default();
        put(&mut memtable, &dropped);
        memtable.age();
        put(&mut memtable, &also_dropped);
        put(&mut memtable, &stays);
        // The sender holds numbers up to 3, and lists none of them.
        let vv: VersionVector = [(ReplicaId::from_random(5), Seq(3))].into_iter().collect();
        memtable.lay(Joined::new(Staged::new(JoinId(1)), vv, VersionVector::new()));
        memtable.drop_joined(1);
        assert_eq!((memtable.len(), memtable.joined()), (1, 0));
        assert_eq!(memtable.bytes(), ENTRY + stays.key.heap_bytes());
    }

    /// A base whose second record cannot be read.
    struct Broken(Record);

    impl Base for Broken {
        fn records(&self, _from: &[u8]) -> Records<'_> {
            Box::new([Ok(self.0.clone()), Err(BaseError("broken".into()))].into_iter())
        }
    }

    #[test]
    fn a_base_that_cannot_be_read_is_not_passed_over() {
        let [first, later] = [(1, 2), (9, 3)].map(|(bytes, seq)| record(bytes, seq));
        let (base, mut memtable) = (Broken(first.clone()), Memtable::default());
        put(&mut memtable, &later);
        let mut records = memtable.over(&base, &[]);
        assert_eq!(records.next().unwrap().unwrap(), first);
        assert!(records.next().unwrap().is_err());
    }
}
