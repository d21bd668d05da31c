//! How a store of one format becomes a store of the next: one file a step.
//!
//! This is a part of [`crate::storage`], mounted there by its path, and lies at the top of the repository because it
//! outlives whatever the code in `src/` becomes. The format of a store is the version that its manifest is written in;
//! a directory without a manifest has format [`NO_STORE`], and step 1 makes a store of it. Opening a store runs the
//! steps that its format lacks, oldest first; a store of a later format is refused before any step is asked for.
//!
//! ```text
//! NO_STORE (0) ── 0001 the first format ──► 1 ── 0002 answers to named requests ──► 2 = FORMAT_VERSION, what this
//!                                                                                     program writes
//! ```
//!
//! # Rules for a step
//!
//! - It is a function of its arguments: no clock, no randomness, nothing from outside the store.
//! - It may be run again: a process killed half-way leaves the old format, because the manifest, which says which
//!   format it is, is replaced last and in one step.
//! - It writes its format by itself and for ever, not by way of types that describe today's. Only the
//!   [envelope](super::envelope), which is the same in all versions, is shared.
//! - A frozen store of the format that it makes lies under `tests/fixtures/format-<n>/`, with what must be read from it.

#[path = "0001_first_format.rs"]
mod first_format;
#[path = "0002_request_ids.rs"]
mod request_ids;

use std::path::Path;

use super::disk::{self, Disk};
use super::error::StoreError;
use super::manifest::Manifest;
use crate::crdt::NodeId;

/// The format of a directory that is no store yet.
pub const NO_STORE: u32 = 0;

/// What a step works on.
pub struct Context<'a> {
    /// Where the store's files are.
    pub disk: &'a dyn Disk,
    /// Its directory.
    pub dir: &'a Path,
    /// Whose store is to be made, for the step that makes one. Later steps find that in the manifest.
    pub node: Option<&'a NodeId>,
}

/// A step from one format to the next.
pub struct Step {
    /// The format that it finds.
    pub from: u32,
    /// The format that it leaves.
    pub to: u32,
    /// What that format brings, for people.
    pub name: &'static str,
    /// Does it.
    pub run: fn(&Context) -> Result<(), StoreError>,
}

/// Steps, oldest first: each begins where the one before it ends.
#[derive(Clone, Copy)]
pub struct Registry<'a> {
    /// The steps.
    pub steps: &'a [Step],
}

/// All steps that there are; the last ends at [`FORMAT_VERSION`](super::envelope::FORMAT_VERSION).
pub const TODAY: Registry = Registry {
    steps: &[
        Step { from: NO_STORE, to: 1, name: "the first format", run: first_format::run },
        Step { from: 1, to: 2, name: "answers to requests with a request_id", run: request_ids::run },
    ],
};

impl<'a> Registry<'a> {
    /// The format that the steps lead to.
    pub fn latest(&self) -> u32 {
        self.steps.last().map_or(NO_STORE, |step| step.to)
    }

    /// The steps that a store of this format needs, in order.
    pub fn pending(&self, format: u32) -> impl Iterator<Item = &'a Step> + use<'a> {
        self.steps.iter().filter(move |step| step.from >= format)
    }

    /// The format of what is in `dir`.
    ///
    /// # Errors
    /// [`StoreError::Newer`] for a store of a format that the steps do not lead to, [`StoreError::Damaged`], or what the
    /// file system says.
    pub fn format_of(&self, disk: &dyn Disk, dir: &Path) -> Result<u32, StoreError> {
        let path = Manifest::path(dir);
        match disk::read(disk, &path) {
            Ok(bytes) => Manifest::format_version(&bytes, &path, self.latest()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(NO_STORE),
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    /// The format of the store in `dir`, of which at least something must be there.
    ///
    /// # Errors
    /// As [`Registry::format_of`]; [`StoreError::Damaged`] if the manifest is missing.
    pub fn format_of_store(&self, disk: &dyn Disk, dir: &Path) -> Result<u32, StoreError> {
        match self.format_of(disk, dir)? {
            NO_STORE => Err(StoreError::damaged(&Manifest::path(dir), 0, "it is missing, although there is a store")),
            format => Ok(format),
        }
    }

    /// Runs the steps that the store in `dir` lacks, with a word for each; makes a store for `node` where there is none.
    /// Returns the format that it found.
    ///
    /// # Errors
    /// As [`Registry::format_of`], and what the steps say. A store without its manifest is damage if there is no `node`.
    pub fn bring_up(&self, disk: &dyn Disk, dir: &Path, node: Option<&NodeId>) -> Result<u32, StoreError> {
        let found = if node.is_some() { self.format_of(disk, dir)? } else { self.format_of_store(disk, dir)? };
        for step in self.pending(found) {
            if found != NO_STORE {
                tracing::info!("{}: from format {} to {}: {}", dir.display(), step.from, step.to, step.name);
            }
            (step.run)(&Context { disk, dir, node })?;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::envelope::FORMAT_VERSION;
    use super::*;

    #[test]
    fn the_steps_lead_from_nothing_to_todays_format_without_a_gap() {
        let ends: Vec<(u32, u32)> = TODAY.steps.iter().map(|step| (step.from, step.to)).collect();
        let expected: Vec<(u32, u32)> = (NO_STORE..FORMAT_VERSION).map(|from| (from, from + 1)).collect();
        assert_eq!(ends, expected);
        assert!(TODAY.steps.iter().all(|step| !step.name.is_empty()));
    }

    #[test]
    fn a_store_runs_the_steps_that_it_lacks_and_no_others() {
        assert_eq!(TODAY.pending(NO_STORE).count(), TODAY.steps.len());
        assert_eq!(TODAY.pending(FORMAT_VERSION).count(), 0);
    }
}
