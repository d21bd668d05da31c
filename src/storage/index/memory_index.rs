//! An index in memory: for simulated stores and as the model that the one on sled is held against.
//!
//! Deterministic: what it holds and the order in which it gives it depends on the calls alone. Nothing of it outlasts
//! its value, so [`Index::sync`] does nothing.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use crate::crdt::{Base, BaseError, Change, Element, Record, RecordKey, Records};
use crate::storage::Counts;

use super::count::{count_changes, net_changes};
use super::outgrown::OVERHEAD_BYTES;
use super::{Index, IndexError, IndexPosition};

/// Records are copied out in chunks of this many, so that no lock is held between two of them. The first chunk is
/// small: most iterators are for a look-up.
const FIRST_CHUNK_RECORDS: usize = 4;
const CHUNK_RECORDS: usize = 256;

/// See the module's text.
#[derive(Debug, Default)]
pub struct MemoryIndex(RwLock<Contents>);

#[derive(Debug, Default)]
struct Contents {
    records: BTreeMap<RecordKey, Option<Element>>,
    position: IndexPosition,
    counts: Counts,
    /// What all changes there ever were would take, as on a disk that gives nothing back.
    bytes_written: u64,
}

impl Contents {
    fn range<'a>(&'a self, from: Bound<&[u8]>) -> impl Iterator<Item = Record> + use<'a> {
        self.records
            .range::<[u8], _>((from, Bound::Unbounded))
            .map(|(key, long_element)| Record { key: key.clone(), long_element: long_element.clone() })
    }
}

impl Base for Contents {
    fn records(&self, from: &[u8]) -> Records<'_> {
        Box::new(self.range(Bound::Included(from)).map(Ok))
    }
}

impl MemoryIndex {
    fn read<R>(&self, look: impl FnOnce(&Contents) -> R) -> R {
        // Nothing panics half-way through a change, so a poisoned lock still guards sound contents.
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Base for MemoryIndex {
    fn records(&self, from: &[u8]) -> Records<'_> {
        let first = self.read(|contents| contents.range(Bound::Included(from)).take(FIRST_CHUNK_RECORDS).collect());
        Box::new(Chunks { index: self, chunk: first, given: 0 })
    }
}

/// An iterator that copies a chunk at a time.
struct Chunks<'a> {
    index: &'a MemoryIndex,
    chunk: Vec<Record>,
    given: usize,
}

impl Iterator for Chunks<'_> {
    type Item = Result<Record, BaseError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.given == self.chunk.len() {
            let last = self.chunk.pop()?;
            let after = Bound::Excluded(last.key.as_bytes());
            self.chunk = self.index.read(|contents| contents.range(after).take(CHUNK_RECORDS).collect());
            self.given = 0;
        }
        let record = self.chunk.get(self.given)?.clone();
        self.given += 1;
        Some(Ok(record))
    }
}

impl Index for MemoryIndex {
    fn position(&self) -> IndexPosition {
        self.read(|contents| contents.position)
    }

    fn counts(&self) -> Counts {
        self.read(|contents| contents.counts)
    }

    fn standing(&self) -> Result<(IndexPosition, Counts), IndexError> {
        Ok(self.read(|contents| (contents.position, contents.counts)))
    }

    fn disk_bytes(&self) -> u64 {
        0
    }

    fn apply(&self, changes: &[(RecordKey, Change)], position: IndexPosition) -> Result<(), IndexError> {
        let net = net_changes(changes);
        let mut contents = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let delta = count_changes(&*contents, net.iter().copied())?;
        contents.counts = delta.after(contents.counts).expect("counts in memory are exact");
        for (key, change) in net {
            match change {
                Change::Put(long_element) => contents.records.insert(key.clone(), long_element.clone()),
                Change::Delete => contents.records.remove(key),
            };
        }
        let bytes = |(key, _): &(RecordKey, Change)| key.as_bytes().len() as u64 + OVERHEAD_BYTES;
        contents.bytes_written += changes.iter().map(bytes).sum::<u64>();
        contents.position = position;
        Ok(())
    }

    fn sync(&self) -> Result<(), IndexError> {
        Ok(())
    }

    fn size_on_disk(&self) -> Result<u64, IndexError> {
        Ok(self.read(|contents| contents.bytes_written))
    }
}
