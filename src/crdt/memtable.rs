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
//! While nobody looks anything up here, since all records are in a [mirror](super::mirror), changes are only
//! [appended](Memtable::append), which costs a tenth of finding the place for each.

use std::collections::BTreeMap;
use std::collections::btree_map::{Entry, Range};
use std::iter::Peekable;
use std::ops::Bound;
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

/// Changes, and what they cost.
#[derive(Clone, Debug, Default)]
struct Generation {
    sorted: BTreeMap<RecordKey, Change>,
    /// Those after them, in the order made.
    appended: Vec<(RecordKey, Change)>,
    bytes: usize,
}

impl Generation {
    fn insert(&mut self, key: RecordKey, change: Change) {
        match self.sorted.entry(key) {
            Entry::Vacant(entry) => {
                self.bytes += weight(entry.key(), &change);
                entry.insert(change);
            }
            Entry::Occupied(mut entry) => {
                self.bytes -= weight(entry.key(), entry.get());
                self.bytes += weight(entry.key(), &change);
                entry.insert(change);
            }
        }
    }

    fn append(&mut self, key: RecordKey, change: Change) {
        // It is in no tree.
        self.bytes +=
            weight(&key, &change) - share_of_nodes::<(RecordKey, Change)>() + size_of::<(RecordKey, Change)>();
        self.appended.push((key, change));
    }

    fn sort(&mut self) {
        if !self.appended.is_empty() {
            // Of a key's changes, the last one stays.
            self.sorted.append(&mut self.appended.drain(..).collect());
            self.appended = Vec::new();
            self.bytes = self.sorted.iter().map(|(key, change)| weight(key, change)).sum();
        }
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
        self.sorted.len() + self.appended.len()
    }

    fn from(&self, from: &[u8]) -> Range<'_, RecordKey, Change> {
        self.sorted.range::<[u8], _>((Bound::Included(from), Bound::Unbounded))
    }
}

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub struct Memtable {
    elder: Generation,
    younger: Generation,
    /// State deltas laid over it all, oldest first.
    joined: Vec<Arc<Joined>>,
}

/// What a map's entry costs beyond what it has on the heap: its share of B-tree nodes, which are two thirds full.
pub(super) const fn share_of_nodes<Entry>() -> usize {
    size_of::<Entry>() * 3 / 2
}

/// What a key and an element have on the heap.
pub(super) fn heap_bytes(key: &RecordKey, long_element: Option<&Element>) -> usize {
    key.heap_bytes() + long_element.map_or(0, |element| element.as_bytes().len())
}

/// What a change has on the heap.
fn heap_of(key: &RecordKey, change: &Change) -> usize {
    heap_bytes(key, if let Change::Put(long_element) = change { long_element.as_ref() } else { None })
}

/// What a change costs in a map.
fn weight(key: &RecordKey, change: &Change) -> usize {
    share_of_nodes::<(RecordKey, Change)>() + heap_of(key, change)
}

impl Memtable {
    /// Takes in a change.
    pub fn insert(&mut self, key: RecordKey, change: Change) {
        self.younger.sort();
        self.younger.insert(key, change);
    }

    /// Takes in a change in no time, but whoever looks something up then sorts all that were taken in like that.
    pub fn append(&mut self, key: RecordKey, change: Change) {
        self.younger.append(key, change);
    }

    /// Sorts what was [appended](Memtable::append).
    pub fn sort(&mut self) {
        self.elder.sort();
        self.younger.sort();
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        self.elder.bytes + self.younger.bytes + self.joined.iter().map(|joined| joined.bytes()).sum::<usize>()
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
        self.elder.retain(stays);
        self.younger.retain(stays);
    }

    /// The same state deltas laid over nothing else.
    #[must_use]
    pub fn without_changes(&self) -> Self {
        Self { joined: self.joined.clone(), ..Self::default() }
    }

    /// How many keys it has something to say about (one that is in both generations counts twice), beside the state
    /// deltas laid over it.
    pub fn len(&self) -> usize {
        self.elder.len() + self.younger.len()
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
        let appended: BTreeMap<&RecordKey, &Change> = [&self.elder, &self.younger]
            .into_iter()
            .flat_map(|generation| &generation.appended)
            .filter(|(key, _)| key.as_bytes() >= from)
            .map(|(key, change)| (key, change))
            .collect();
        if appended.is_empty() { Box::new(sorted) } else { Box::new(Overlaid::new(sorted, appended.into_iter())) }
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

/// Older and newer changes in key order; for a key in both, a deletion wins, and else they agree.
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
                let (_, change) = self.older.next()?;
                let newer = self.newer.next()?;
                Some(if *change == Change::Delete { (newer.0, change) } else { newer })
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

    const ENTRY: usize = share_of_nodes::<(RecordKey, Change)>();

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

    #[test]
    fn what_was_appended_is_seen_like_what_was_inserted() {
        const SEED: u64 = 3;
        println!("seed {SEED}");
        let mut rng = fastrand::Rng::with_seed(SEED);
        let records: Vec<Record> = (2..30).map(|seq| record(1 + seq as usize % 3 * 60, seq)).collect();
        let (mut inserted, mut appended) = (Memtable::default(), Memtable::default());
        for step in 0..2_000 {
            let Record { key, long_element } = &records[rng.usize(..records.len())];
            let removed = inserted.changes().any(|(k, change)| k == key && *change == Change::Delete);
            let change = if removed || rng.bool() { Change::Delete } else { Change::Put(long_element.clone()) };
            inserted.insert(key.clone(), change.clone());
            if rng.bool() {
                appended.append(key.clone(), change);
            } else {
                appended.insert(key.clone(), change);
            }
            match rng.u8(..40) {
                0 if inserted.has_elder() => [&mut inserted, &mut appended].map(Memtable::drop_elder),
                0 => [&mut inserted, &mut appended].map(Memtable::age),
                1 => [&mut inserted, &mut appended].map(Memtable::sort),
                _ => [(), ()],
            };
            let seen =
                |memtable: &Memtable| -> Vec<_> { memtable.changes().map(|(k, c)| (k.clone(), c.clone())).collect() };
            assert_eq!(seen(&inserted), seen(&appended), "step {step}");
            let from = records[rng.usize(..records.len())].key.as_bytes();
            let live = |memtable: &Memtable| memtable.over(&EmptyBase, from).map(Result::unwrap).collect::<Vec<_>>();
            assert_eq!(live(&inserted), live(&appended), "step {step}");
            assert!(appended.len() >= inserted.len());
        }
        appended.sort();
        assert_eq!((appended.bytes(), appended.len()), (inserted.bytes(), inserted.len()));
    }

    #[test]
    fn a_key_that_is_changed_again_weighs_what_its_last_change_does() {
        let long = record(500, 2);
        let mut memtable = Memtable::default();
        for _ in 0..2 {
            put(&mut memtable, &long);
            assert_eq!(memtable.bytes(), ENTRY + long.key.heap_bytes() + 500);
            memtable.insert(long.key.clone(), Change::Delete);
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
