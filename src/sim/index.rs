//! The index of a simulated store: in memory, and yet there for the next process, as files are.
//!
//! When it is trusted is the rule of the real one ([`crate::storage::index::IndexHome`]) in small: after a kill, as the
//! page cache is whole; after a power cut only if the store was closed in good order and the index with it.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::crdt::Records;
use crate::storage::{Index, IndexError, IndexPosition, IndexSource, MemorySource};

/// Where a store's index lies. Clones are the same place.
#[derive(Clone, Default)]
pub struct Shelf(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    index: Option<Arc<dyn Index>>,
    /// Written in another boot than this.
    of_another_boot: bool,
    closed: bool,
}

impl Shelf {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics while holding the lock")
    }

    /// The power has gone.
    pub fn cut_power(&self) {
        self.state().of_another_boot = true;
    }
}

impl IndexSource for Shelf {
    fn open(&mut self, clean: bool) -> Result<Arc<dyn Index>, String> {
        let mut state = self.state();
        let trusted = !state.of_another_boot || (clean && state.closed);
        let index = state.index.clone().filter(|_| trusted).ok_or("there is none that can be trusted")?;
        (state.of_another_boot, state.closed) = (false, false);
        Ok(index)
    }

    fn rebuild(&mut self, records: Records<'_>, position: IndexPosition) -> Result<Arc<dyn Index>, IndexError> {
        let index = MemorySource.rebuild(records, position)?;
        *self.state() = State { index: Some(Arc::clone(&index)), ..State::default() };
        Ok(index)
    }

    fn note(&mut self, _position: IndexPosition) -> Result<(), IndexError> {
        Ok(())
    }

    fn distrust(&mut self) {
        self.state().index = None;
    }

    fn close(&mut self) -> Result<Option<IndexPosition>, IndexError> {
        let mut state = self.state();
        state.closed = true;
        Ok(state.index.as_ref().map(|index| index.position()))
    }
}
