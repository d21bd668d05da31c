//! A state delta that changes very much, laid over the records rather than worked into them.
//!
//! What it changes is the same in whatever order it is seen: the records of its list that were news come in, and those
//! that it drops go, for good. So it need not become so many changes in a [memtable](super::memtable::Memtable): it is
//! asked at every record that passes, and its own are read from where they are kept. Memory: its bitmaps.
//!
//! ```text
//! base ∪ changes ∪ news of the state delta, without what it drops
//! ```

use std::sync::Arc;

use super::element::Record;
use super::id::Tag;
use super::join::Staged;
use super::memtable::{Base, BaseError, Records};
use super::version_vector::VersionVector;

/// See the module's text.
#[derive(Debug)]
pub struct Joined {
    staged: Staged,
    /// The sender's vector.
    vv: VersionVector,
    /// What was held here when it was committed: a listed record that this covers is no news.
    held: VersionVector,
}

impl Joined {
    pub(super) fn new(staged: Staged, vv: VersionVector, held: VersionVector) -> Arc<Self> {
        Arc::new(Self { staged, vv, held })
    }

    /// Whether a record is gone.
    pub fn drops(&self, tag: Tag) -> bool {
        self.staged.drops(tag, &self.vv)
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        self.staged.bytes()
    }
}

impl Base for Joined {
    /// The news.
    fn records(&self, from: &[u8]) -> Records<'_> {
        let news = |record: &Result<Record, BaseError>| !matches!(record, Ok(r) if self.held.covers(r.tag()));
        Box::new(self.staged.records(from).filter(news))
    }
}
