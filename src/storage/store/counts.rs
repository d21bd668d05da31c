//! How much is in the set, without looking at all of it.
//!
//! The index and the snapshot know how much is in them, and what the memtable changes is counted by look-ups, one or two
//! for each change: while the index keeps up that is some thousand at most. Only where the memtable is large, or the
//! index moves on every time, or a large state delta has just come, is the whole set walked, which takes as long as a read of it.

use super::Store;
use crate::crdt::Records;
use crate::storage::Counts;
use crate::storage::error::StoreError;
use crate::storage::index::count_changes;

/// So many changes are counted by look-ups; for more, a walk is about as fast.
const MAX_LOOK_UPS: usize = 65_536;
/// The same of a set that is in memory.
const MAX_LOOK_UPS_IN_MEMORY: usize = 1_024;
/// So often it is tried to count between two steps of the index.
const TRIES: u32 = 3;

impl Store {
    /// How many elements and tags are in the set.
    ///
    /// # Errors
    /// If the index or snapshot cannot be read.
    pub fn counts(&self) -> Result<Counts, StoreError> {
        let memtable = &self.state.memtable;
        let most = if self.state.is_in_memory() { MAX_LOOK_UPS_IN_MEMORY } else { MAX_LOOK_UPS };
        let counted = match self.index.current() {
            // A state delta that is laid over the records is not in the list of changes.
            _ if memtable.joined() > 0 || memtable.len() > most => None,
            Some(index) => {
                let mut counted = None;
                for _ in 0..TRIES {
                    // Another thread feeds it. If it has moved, nobody knows which changes were there already.
                    let before = index.standing()?;
                    let delta = count_changes(self.base.as_ref(), memtable.changes())?;
                    if index.standing()? == before {
                        counted = delta.after(before.1);
                        break;
                    }
                }
                counted
            }
            // A look-up in a snapshot reads a whole block.
            None if memtable.len() > self.snapshot.as_ref().map_or(MAX_LOOK_UPS, |snapshot| snapshot.block_count()) => {
                None
            }
            None => count_changes(self.base.as_ref(), memtable.changes())?.after(self.index.below()),
        };
        match counted {
            Some(counts) => Ok(counts),
            None => count(self.records(&[])),
        }
    }
}

/// Counts records by reading them all.
pub(super) fn count(records: Records<'_>) -> Result<Counts, StoreError> {
    let mut counts = Counts::default();
    let mut last = Vec::new();
    for record in records {
        let record = record?;
        counts.tags += 1;
        if record.key.prefix() != last {
            counts.elements += 1;
            last.clear();
            last.extend_from_slice(record.key.prefix());
        }
    }
    Ok(counts)
}
