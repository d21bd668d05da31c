//! The index of a simulated store: in memory, and yet there for the next process, as files are.
//!
//! When it is trusted is the rule of the real one ([`crate::storage::index::IndexHome`]) in small: after a kill, as the
//! page cache is whole; after a power cut only if the store was closed in good order and the index with it.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::crdt::Records;
use crate::storage::index::is_of_this_boot;
use crate::storage::{Index, IndexError, IndexPosition, IndexSource, MemorySource};

/// Where a store's index lies. Clones are the same place, each for another process.
#[derive(Default)]
pub struct Shelf {
    place: Arc<Mutex<State>>,
    /// The index there was opened or built by this one: no other is this one's to close.
    is_open: bool,
}

impl Clone for Shelf {
    fn clone(&self) -> Self {
        Self { place: Arc::clone(&self.place), is_open: false }
    }
}

#[derive(Default)]
struct State {
    index: Option<Arc<dyn Index>>,
    /// How often the power had gone when it was opened last …
    written: u64,
    /// … and by now.
    boot: u64,
    closed: bool,
}

impl Shelf {
    fn state(&self) -> MutexGuard<'_, State> {
        self.place.lock().expect("nobody panics while holding the lock")
    }

    /// The power has gone. An index that was open has lost some of its records and does not show it, as sled may have;
    /// `choice` draws which.
    ///
    /// # Panics
    /// Never: an index in memory can be read.
    pub fn cut_power(&self, choice: u64) {
        let mut state = self.state();
        state.boot += 1;
        let mut rng = fastrand::Rng::with_seed(choice);
        if let Some(index) = state.index.clone().filter(|_| !state.closed) {
            let left = index.records(&[]).filter(|_| rng.bool());
            let left = MemorySource.rebuild(Box::new(left), index.position());
            state.index = Some(left.expect("it is in memory"));
        }
    }
}

impl IndexSource for Shelf {
    fn open(&mut self, clean: bool) -> Result<Arc<dyn Index>, String> {
        let mut state = self.state();
        let (written, now) = (state.written.to_string(), state.boot.to_string());
        let trusted = clean && state.closed || is_of_this_boot(Some(&written), Some(&now));
        let index = state.index.clone().filter(|_| trusted).ok_or("there is none that can be trusted")?;
        (state.written, state.closed) = (state.boot, false);
        drop(state);
        self.is_open = true;
        Ok(index)
    }

    fn rebuild(&mut self, records: Records<'_>, position: IndexPosition) -> Result<Arc<dyn Index>, IndexError> {
        let index = MemorySource.rebuild(records, position)?;
        let mut state = self.state();
        *state = State { index: Some(Arc::clone(&index)), written: state.boot, boot: state.boot, closed: false };
        drop(state);
        self.is_open = true;
        Ok(index)
    }

    fn note(&mut self, _position: IndexPosition) -> Result<(), IndexError> {
        Ok(())
    }

    fn distrust(&mut self) {
        self.state().index = None;
    }

    fn close(&mut self) -> Result<Option<IndexPosition>, IndexError> {
        if !self.is_open {
            return Ok(None);
        }
        let mut state = self.state();
        state.closed = true;
        Ok(state.index.as_ref().map(|index| index.position()))
    }
}
