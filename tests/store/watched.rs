//! An index that says when it is read.

use std::sync::Arc;

use orset::crdt::{Base, Change, RecordKey, Records};
use orset::storage::{Counts, Index, IndexError, IndexPosition};

type BeforeRead = Box<dyn Fn(&dyn Index) + Send + Sync>;

/// An index, and what is done whenever somebody begins to read its records.
pub struct Watched {
    index: Arc<dyn Index>,
    before_read: BeforeRead,
}

impl Watched {
    /// `index`, with something to be done before each reading.
    pub fn over(index: Arc<dyn Index>, before_read: impl Fn(&dyn Index) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { index, before_read: Box::new(before_read) })
    }
}

impl Base for Watched {
    fn records(&self, from: &[u8]) -> Records<'_> {
        (self.before_read)(self.index.as_ref());
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
