//! When a store keeps all of its records in memory: while they are few.
//!
//! Then nothing is looked up in the index, which costs a look-up some 13,000 instructions and lets nobody in while a batch is
//! written. The store begins a [mirror](crate::crdt::Mirror) when the set is small, has it filled whenever there is nothing
//! else to do, and drops it when it has become too large.

use super::Store;
use crate::crdt::{MAX_INLINE_BYTES, Mirror};
use crate::storage::error::StoreError;

/// So many records are read in one step: about a millisecond.
const FILLED_AT_ONCE: usize = 512;

impl Store {
    /// Does the next step to have a small set in memory; says whether there is more to do. To be called when there is nothing
    /// more urgent.
    ///
    /// # Errors
    /// If the index or snapshot cannot be read.
    pub fn tend_mirror(&mut self) -> Result<bool, StoreError> {
        if self.state.mirror.is_none() && self.is_small() {
            self.state.mirror = Some(Mirror::unfilled());
        }
        self.state.fill_mirror(self.base.as_ref(), FILLED_AT_ONCE)?;
        self.bound_mirror();
        Ok(self.state.mirror.is_some() && !self.state.is_in_memory())
    }

    /// Drops the mirror if it has become too large.
    pub(super) fn bound_mirror(&mut self) {
        if self.state.mirror.as_ref().is_some_and(|mirror| mirror.bytes() > self.limits.mirror_bytes) {
            self.state.mirror = None;
            self.outgrown_at = Some(self.stored_tags());
        }
    }

    /// Whether all records are likely to fit, with room to grow.
    fn is_small(&self) -> bool {
        let (most, tags) = (self.limits.mirror_bytes as u64 / 2, self.stored_tags());
        // It may be the elements that are large: what was too much once has to become much less.
        let less_than_before = self.outgrown_at.is_none_or(|outgrown| tags <= outgrown / 2);
        let memtable = &self.state.memtable;
        most > 0
            && less_than_before
            && memtable.joined() == 0
            && tags * MAX_INLINE_BYTES as u64 + memtable.bytes() as u64 <= most
    }

    /// How many records there are below the memtable.
    fn stored_tags(&self) -> u64 {
        self.index.current().map_or(self.index.below(), |index| index.counts()).tags
    }
}
