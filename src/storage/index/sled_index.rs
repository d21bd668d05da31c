//! The index on sled.
//!
//! # Format
//!
//! One sled tree, `records`:
//!
//! ```text
//! record key            nothing, or the element's canonical bytes if the key holds only their hash
//! 00 "meta"             Meta: format version, LSN, checksum, elements, tags (bincode, standard configuration)
//! ```
//!
//! # Invariants
//!
//! - Every change of the records is one sled batch that replaces the meta value too, so a killed process leaves the
//!   state after some step, never one within a step. Which one is up to sled's buffers; [`SledIndex::flush`] hands
//!   them to the kernel.
//! - While a new one is being filled it has no meta value; it gets it last. One without is never opened.
//! - What is read is checked: a key that is none, or an element that is not its key's, is an error.
//!
//! # Caveats
//!
//! - sled takes one lock, the same for all databases of the process, for the length of a batch: a batch of 1,024
//!   records holds up every reader for some milliseconds. Smaller batches hold them up for less.
//! - sled's batches are hash maps: the order within one is not kept.
//! - Disk is never given back: see [`is_outgrown`](super::is_outgrown).

use std::fmt;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::crdt::{Base, BaseError, Change, Element, Record, RecordKey, Records};
use crate::storage::{Counts, Lsn};

use super::count::{count_changes, net_changes};
use super::sled_files::{META_KEY, Opened, bytes_on_disk, panic_text, sync_path, sync_tree};
use super::{Index, IndexError, IndexPosition};

/// The version of the meta value and of all that this module writes. An index of another version is rebuilt.
const FORMAT_VERSION: u16 = 1;

/// A bulk load takes in so many records in an order of its own ([`is_early`]), and then tells its progress …
const LOAD_RECORDS: usize = 1024;
/// … or as soon as they have long elements of so many bytes.
const LOAD_BYTES: usize = 256 << 10;
/// A leaf of sled has at most so many records …
const LEAF_RECORDS: usize = 16;
/// … and keeps so many when one more splits it (`should_split` and `split` in sled's `node.rs`).
const SPLIT_RECORDS: usize = 9;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Meta {
    version: u16,
    lsn: u64,
    checksum: u32,
    elements: u64,
    tags: u64,
}

impl Meta {
    fn new(position: IndexPosition, counts: Counts) -> Self {
        let (elements, tags) = (counts.elements, counts.tags);
        Self { version: FORMAT_VERSION, lsn: position.lsn.0, checksum: position.checksum, elements, tags }
    }

    fn encode(&self) -> Vec<u8> {
        bincode::serde::encode_to_vec(self, bincode::config::standard()).expect("numbers can be encoded")
    }

    /// `None` if it is garbled or of another version.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (meta, read): (Self, usize) = bincode::serde::decode_from_slice(bytes, bincode::config::standard()).ok()?;
        (meta.version == FORMAT_VERSION && read == bytes.len()).then_some(meta)
    }

    fn position(&self) -> IndexPosition {
        IndexPosition { lsn: Lsn(self.lsn), checksum: self.checksum }
    }

    fn counts(&self) -> Counts {
        Counts { elements: self.elements, tags: self.tags }
    }
}

/// See the module's text. Closed when dropped.
pub struct SledIndex {
    // Declared before the database: a tree must not outlive it.
    tree: sled::Tree,
    db: sled::Db,
    dir: PathBuf,
    meta: RwLock<Meta>,
    /// Held by whoever changes records.
    writer: Mutex<()>,
    /// Set before every change and cleared after it: what failed half-way is not tried again.
    broken: AtomicBool,
}

impl fmt::Debug for SledIndex {
    // Not derived: sled prints a whole tree.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledIndex").field("dir", &self.dir).field("meta", &self.meta()).finish_non_exhaustive()
    }
}

impl SledIndex {
    /// The index in a database that has one.
    pub(super) fn existing(opened: Opened, dir: &Path) -> Result<Self, IndexError> {
        let corrupt = |what: &str| IndexError::Corrupt { path: dir.to_path_buf(), what: what.into() };
        let bytes = opened.meta.as_ref().ok_or_else(|| corrupt("it has no position: it was never finished"))?;
        let meta = Meta::decode(bytes).ok_or_else(|| corrupt("its position is garbled, or of another version"))?;
        Ok(Self::with_meta(opened, dir, meta))
    }

    /// A new, empty index at LSN 0.
    pub(super) fn empty(opened: Opened, dir: &Path) -> Result<Self, IndexError> {
        let index = Self::blank(opened, dir)?;
        index.fill(Box::new(std::iter::empty()), IndexPosition::default(), &mut |_| {})?;
        Ok(index)
    }

    /// A new index that is no index until [`SledIndex::fill`] is done.
    pub(super) fn blank(opened: Opened, dir: &Path) -> Result<Self, IndexError> {
        if !opened.tree.is_empty() {
            return Err(IndexError::Corrupt { path: dir.to_path_buf(), what: "a new database is not empty".into() });
        }
        Ok(Self::with_meta(opened, dir, Meta::new(IndexPosition::default(), Counts::default())))
    }

    fn with_meta(opened: Opened, dir: &Path, meta: Meta) -> Self {
        Self {
            tree: opened.tree,
            db: opened.db,
            dir: dir.to_path_buf(),
            meta: RwLock::new(meta),
            writer: Mutex::new(()),
            broken: AtomicBool::new(false),
        }
    }

    /// The directory that it is in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The names of all trees in the database: the one with the records, and sled's own.
    pub fn tree_names(&self) -> Vec<String> {
        self.db.tree_names().iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// Hands everything to the kernel, so that it outlasts this process (not a power cut: see [`Index::sync`]).
    ///
    /// # Errors
    /// If sled fails.
    pub fn flush(&self) -> Result<(), IndexError> {
        self.guard("flush", || self.db.flush().map(drop))
    }

    /// Puts in all of `records` and only then the position.
    ///
    /// Nobody reads it meanwhile, so no step need be atomic: single inserts take a fifth less time of the processor than
    /// batches of 1,024, and half of what batches of 16,384 take (which need 150 rather than 250 bytes of disk a record,
    /// but three times the memory). Nor do they hold up the readers of another index, as batches would.
    pub(super) fn fill(
        &self,
        records: Records<'_>,
        position: IndexPosition,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), IndexError> {
        let mut counts = Counts::default();
        let mut previous: Option<RecordKey> = None;
        let (mut waiting, mut long_bytes) = (Vec::with_capacity(LOAD_RECORDS), 0);
        for record in records {
            let record = record?;
            if previous.as_ref().is_some_and(|previous| *previous >= record.key) {
                return Err(self.corrupt(format!("it was to be built from unsorted records: {:?}", record.key)));
            }
            let same_element = previous.as_ref().is_some_and(|previous| previous.prefix() == record.key.prefix());
            counts.elements += u64::from(!same_element);
            counts.tags += 1;
            previous = Some(record.key.clone());
            long_bytes += value_of(record.long_element.as_ref()).len();
            waiting.push(record);
            if waiting.len() == LOAD_RECORDS || long_bytes >= LOAD_BYTES {
                self.load(&mut waiting)?;
                long_bytes = 0;
                progress(counts.tags);
            }
        }
        self.load(&mut waiting)?;
        // sled recovers its log up to some point and no further, so with this all that came before is there.
        let meta = Meta::new(position, counts);
        self.guard("load records", || self.tree.insert(META_KEY, meta.encode()))?;
        self.set_meta(meta);
        progress(counts.tags);
        Ok(())
    }

    /// Puts in these records, which are in key order and behind all that are there.
    fn load(&self, records: &mut Vec<Record>) -> Result<(), IndexError> {
        for early in [true, false] {
            for (_, record) in records.iter().enumerate().filter(|(n, _)| is_early(*n) == early) {
                let value = value_of(record.long_element.as_ref());
                self.guard("load records", || self.tree.insert(record.key.as_bytes(), value))?;
            }
        }
        records.clear();
        Ok(())
    }

    /// The tree itself, to put in what cannot be right.
    #[cfg(test)]
    pub(super) fn tree(&self) -> &sled::Tree {
        &self.tree
    }

    fn meta(&self) -> Meta {
        *self.meta.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_meta(&self, meta: Meta) {
        *self.meta.write().unwrap_or_else(PoisonError::into_inner) = meta;
    }

    /// Calls sled, and makes an error of its panic.
    fn guard<R>(&self, action: &'static str, call: impl FnOnce() -> sled::Result<R>) -> Result<R, IndexError> {
        guard(&self.dir, action, call)
    }

    fn corrupt(&self, what: String) -> IndexError {
        IndexError::Corrupt { path: self.dir.clone(), what }
    }
}

fn guard<R>(dir: &Path, action: &'static str, call: impl FnOnce() -> sled::Result<R>) -> Result<R, IndexError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(source)) => Err(IndexError::Sled { action, path: dir.to_path_buf(), source }),
        Err(panic) => Err(IndexError::Panicked { action, path: dir.to_path_buf(), what: panic_text(&*panic) }),
    }
}

fn value_of(long_element: Option<&Element>) -> &[u8] {
    long_element.map_or(&[], Element::as_bytes)
}

/// Whether the record number `n` of a bulk load goes in before its neighbours.
///
/// In key order a leaf is never put into again once it has been split, so each ends with nine records of sixteen. With nine
/// of every sixteen put in before the other seven, those fill the leaves just up to where they would be split again: that
/// takes a fifth of the instructions less (callgrind: 18,000 rather than 22,400 a record), and a fifth of the disk.
fn is_early(n: usize) -> bool {
    (n + 1) * SPLIT_RECORDS / LEAF_RECORDS > n * SPLIT_RECORDS / LEAF_RECORDS
}

impl Base for SledIndex {
    fn records(&self, from: &[u8]) -> Records<'_> {
        let start = if from <= META_KEY { Bound::Excluded(META_KEY) } else { Bound::Included(from) };
        let scan = self.tree.range::<&[u8], _>((start, Bound::Unbounded));
        Box::new(Scan { scan: Some(scan), dir: &self.dir })
    }
}

/// An iterator over records that ends after its first error.
struct Scan<'a> {
    scan: Option<sled::Iter>,
    dir: &'a Path,
}

impl Scan<'_> {
    fn record(&self, key: &[u8], value: &[u8]) -> Result<Record, IndexError> {
        let corrupt = |what: &str| IndexError::Corrupt {
            path: self.dir.to_path_buf(),
            what: format!("{what} (key {})", key.escape_ascii()),
        };
        let key = RecordKey::parse(key).ok_or_else(|| corrupt("a key that is no record's"))?;
        if key.inline_element().is_some() {
            return match value {
                [] => Ok(Record { key, long_element: None }),
                _ => Err(corrupt("a record with more than its key")),
            };
        }
        let element = Element::checked(value).ok_or_else(|| corrupt("a record without its element"))?;
        if element.key_prefix() != key.prefix() {
            return Err(corrupt("a record with another record's element"));
        }
        Ok(Record { key, long_element: Some(element) })
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Record, BaseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let scan = self.scan.as_mut()?;
        let found = guard(self.dir, "read", || scan.next().transpose());
        let record = match found {
            Ok(None) => return None,
            Ok(Some((key, value))) => self.record(&key, &value),
            Err(error) => Err(error),
        };
        if record.is_err() {
            self.scan = None;
        }
        Some(record.map_err(BaseError::from))
    }
}

impl Index for SledIndex {
    fn position(&self) -> IndexPosition {
        self.meta().position()
    }

    fn counts(&self) -> Counts {
        self.meta().counts()
    }

    fn standing(&self) -> Result<(IndexPosition, Counts), IndexError> {
        let bytes = self.guard("read", || self.tree.get(META_KEY))?;
        let meta = bytes.and_then(|bytes| Meta::decode(&bytes));
        let meta = meta.ok_or_else(|| self.corrupt("its position is gone, or garbled".into()))?;
        Ok((meta.position(), meta.counts()))
    }

    fn disk_bytes(&self) -> u64 {
        // Where that cannot be told it is of no consequence.
        bytes_on_disk(&self.dir).unwrap_or(0)
    }

    fn apply(&self, changes: &[(RecordKey, Change)], position: IndexPosition) -> Result<(), IndexError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if self.broken.swap(true, Ordering::Relaxed) {
            return Err(self.corrupt("it was given up when an earlier change failed".into()));
        }
        let net = net_changes(changes);
        let delta = count_changes(self, net.iter().copied())?;
        let before = self.counts();
        let counts = delta
            .after(before)
            .ok_or_else(|| self.corrupt(format!("it counts {before:?}, and {delta:?} more than that is removed")))?;
        let meta = Meta::new(position, counts);
        let mut batch = sled::Batch::default();
        for (key, change) in net {
            match change {
                Change::Put(long_element) => batch.insert(key.as_bytes(), value_of(long_element.as_ref())),
                Change::Delete => batch.remove(key.as_bytes()),
            }
        }
        batch.insert(META_KEY, meta.encode());
        self.guard("write a batch", || self.tree.apply_batch(batch))?;
        self.set_meta(meta);
        self.broken.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn sync(&self) -> Result<(), IndexError> {
        self.flush()?;
        sync_tree(&self.dir)?;
        // The directory's own name is in its parent.
        self.dir.parent().map_or(Ok(()), sync_path)
    }
}
