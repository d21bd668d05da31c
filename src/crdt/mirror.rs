//! All records of a small set, in memory.
//!
//! While a set is small there is no need to look anything up on a disk: the mirror holds every live record, in key order,
//! and takes in each change as it is made. It says the same as the [memtable](super::memtable) over its base, and so it may
//! be dropped at any moment, and is when the set outgrows it.
//!
//! A mirror of an empty set is whole at once. Any other is filled from the records, some at a time and in key order; up to
//! where that has come, it can be asked.

use std::collections::BTreeMap;

use super::element::{Element, Record, RecordKey};
use super::memtable::{BaseError, Change, Records, heap_bytes};

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub struct Mirror {
    /// Key → the element, if the key does not hold it whole.
    records: BTreeMap<RecordKey, Option<Element>>,
    bytes: usize,
    /// The first key that it does not know of; `None`: it is whole.
    unknown_from: Option<Vec<u8>>,
}

/// What a record costs: its share of B-tree nodes, which are two thirds full, and what it has on the heap.
fn weight(key: &RecordKey, long_element: Option<&Element>) -> usize {
    size_of::<(RecordKey, Option<Element>)>() * 3 / 2 + heap_bytes(key, long_element)
}

impl Mirror {
    /// Of a set without records.
    pub fn of_nothing() -> Self {
        Self::default()
    }

    /// One that knows nothing yet.
    pub fn unfilled() -> Self {
        Self { unknown_from: Some(Vec::new()), ..Self::default() }
    }

    /// Whether it has all records.
    pub fn is_whole(&self) -> bool {
        self.unknown_from.is_none()
    }

    /// The first key that it does not know of, unless it is whole.
    pub fn unknown_from(&self) -> Option<&[u8]> {
        self.unknown_from.as_deref()
    }

    /// Whether it has all records whose key begins with `prefix`, which ends as an
    /// [element's prefix](Element::key_prefix) does.
    pub fn knows(&self, prefix: &[u8]) -> bool {
        // No element's prefix is the beginning of another's, so all its keys are below the first unknown one, or that one is
        // among them.
        self.unknown_from.as_ref().is_none_or(|from| prefix < from.as_slice() && !from.starts_with(prefix))
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes in a change of the set.
    pub fn change(&mut self, key: &RecordKey, change: &Change) {
        if self.unknown_from.as_ref().is_some_and(|from| key.as_bytes() >= from.as_slice()) {
            return;
        }
        match change {
            Change::Put(long_element) => self.put(key.clone(), long_element.clone()),
            Change::Delete => {
                if let Some(long_element) = self.records.remove(key) {
                    self.bytes -= weight(key, long_element.as_ref());
                }
            }
        }
    }

    fn put(&mut self, key: RecordKey, long_element: Option<Element>) {
        let bytes = weight(&key, long_element.as_ref());
        if self.records.insert(key, long_element).is_none() {
            self.bytes += bytes;
        }
    }

    /// Takes in the next `count` of `records`: the set's, from [`Mirror::unknown_from`] on.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn fill(&mut self, records: Records<'_>, count: usize) -> Result<(), BaseError> {
        for (taken, record) in records.enumerate() {
            let record = record?;
            if taken == count {
                self.unknown_from = Some(record.key.as_bytes().to_vec());
                return Ok(());
            }
            self.put(record.key, record.long_element);
        }
        self.unknown_from = None;
        Ok(())
    }

    /// The keys that begin with `prefix`, in order; all of them if it [knows](Mirror::knows) them.
    pub fn keys_with<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = &'a RecordKey> {
        self.from(prefix).map(|(key, _)| key).take_while(move |key| key.prefix() == prefix)
    }

    /// The records from the key `from` on, in key order; all of them if it is whole.
    pub fn records(&self, from: &[u8]) -> Records<'_> {
        let record =
            |(key, long): (&RecordKey, &Option<Element>)| Record { key: key.clone(), long_element: long.clone() };
        Box::new(self.from(from).map(move |entry| Ok(record(entry))))
    }

    fn from(&self, from: &[u8]) -> impl Iterator<Item = (&RecordKey, &Option<Element>)> + use<'_> {
        self.records.range(RecordKey::bound(from)..)
    }
}

#[cfg(test)]
mod tests {
    use super::super::id::{Dot, ReplicaId, Seq};
    use super::*;

    fn record(element: &str, seq: u64) -> Record {
        Record::new(&Element::from_canonical(element.as_bytes()), Dot::new(ReplicaId::from_random(5), Seq(seq)))
    }

    fn put(record: &Record) -> Change {
        Change::Put(record.long_element.clone())
    }

    fn all(records: &[Record]) -> Records<'_> {
        Box::new(records.iter().cloned().map(Ok))
    }

    #[test]
    fn it_answers_for_what_it_has_been_told_of() {
        let [one, again, two, three] = [("1", 2), ("1", 3), ("2", 4), ("3", 5)].map(|(text, seq)| record(text, seq));
        let records = [one.clone(), again.clone(), two.clone(), three.clone()];
        let mut mirror = Mirror::unfilled();
        assert!(!mirror.knows(one.key.prefix()));
        mirror.fill(all(&records), 1).unwrap();
        assert!(!mirror.knows(one.key.prefix()), "one of its two records is missing");
        mirror.fill(all(&records[1..]), 1).unwrap();
        assert!(mirror.knows(one.key.prefix()) && !mirror.knows(two.key.prefix()) && !mirror.is_whole());
        assert_eq!(mirror.keys_with(one.key.prefix()).collect::<Vec<_>>(), [&one.key, &again.key]);
        // What it does not know of yet will come with the records.
        mirror.change(&three.key, &Change::Delete);
        mirror.change(&one.key, &Change::Delete);
        mirror.fill(all(&records[2..3]), 9).unwrap();
        assert!(mirror.is_whole() && mirror.unknown_from().is_none());
        let shown: Vec<Record> = mirror.records(&[]).map(Result::unwrap).collect();
        assert_eq!(shown, [again.clone(), two.clone()]);
        assert_eq!(mirror.records(two.key.prefix()).map(Result::unwrap).collect::<Vec<_>>(), [two]);
    }

    #[test]
    fn its_size_is_that_of_what_is_there() {
        let long = record(&"7".repeat(500), 2);
        let mut mirror = Mirror::of_nothing();
        for _ in 0..2 {
            mirror.change(&long.key, &put(&long));
        }
        assert!(mirror.bytes() > 500 && mirror.bytes() < 1000);
        for _ in 0..2 {
            mirror.change(&long.key, &Change::Delete);
        }
        assert_eq!(mirror.bytes(), 0);
    }

    #[test]
    fn records_that_cannot_be_read_do_not_make_it_whole() {
        let mut mirror = Mirror::unfilled();
        let broken: Records<'_> = Box::new([Ok(record("1", 2)), Err(BaseError("broken".into()))].into_iter());
        assert!(mirror.fill(broken, 9).is_err() && !mirror.is_whole());
    }
}
