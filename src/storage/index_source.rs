//! Where a store's index comes from: opened, or built anew.

use std::sync::Arc;

use super::index::{Index, IndexError, IndexPosition};
use crate::crdt::Records;

/// Opens and builds indexes. The index's position is compared with the log by whoever asks.
pub trait IndexSource: Send {
    /// The index that is there, if it may be trusted as far as can be told without the log. `clean` says that the store
    /// was closed in good order, the index made durable with it.
    ///
    /// # Errors
    /// Why it is of no use, for people.
    fn open(&mut self, clean: bool) -> Result<Arc<dyn Index>, String>;

    /// A new index of these records, in place of the one that is there (which goes on being readable by those who hold it).
    ///
    /// # Errors
    /// If it cannot be built.
    fn rebuild(&mut self, records: Records<'_>, position: IndexPosition) -> Result<Arc<dyn Index>, IndexError>;

    /// Takes note of how far the index has come, for those who must not open it.
    fn note(&mut self, position: IndexPosition);
}

/// No index at all: the store then reads its snapshot, and keeps everything after it in memory.
#[derive(Clone, Copy, Debug)]
pub struct NoIndex;

impl IndexSource for NoIndex {
    fn open(&mut self, _clean: bool) -> Result<Arc<dyn Index>, String> {
        Err("there is none".into())
    }

    fn rebuild(&mut self, _records: Records<'_>, _position: IndexPosition) -> Result<Arc<dyn Index>, IndexError> {
        Err(IndexError("not wanted".into()))
    }

    fn note(&mut self, _position: IndexPosition) {}
}
