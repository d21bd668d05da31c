//! How far something long has come.
//!
//! This layer has no clock, so it tells every step, and whoever listens decides what to say and when.

use std::path::{Path, PathBuf};

/// What takes so long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Checking the snapshot; counted in blocks.
    CheckSnapshot,
    /// Checking the log; counted in segments.
    CheckLog,
    /// Folding the log; counted in segments.
    ReadLog,
}

/// Somebody who wants to know.
pub trait Progress {
    /// `done` of `all` (as far as that is known) are done.
    fn step(&mut self, stage: Stage, done: u64, all: u64);
}

/// Nobody does.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn step(&mut self, _stage: Stage, _done: u64, _all: u64) {}
}

/// Counts the segments of a log on their way past.
pub(super) struct Segments<'a> {
    progress: &'a mut dyn Progress,
    stage: Stage,
    all: u64,
    /// The present one.
    path: PathBuf,
    seen: u64,
}

impl<'a> Segments<'a> {
    /// For a log of about so many segments.
    pub fn new(progress: &'a mut dyn Progress, stage: Stage, all: usize) -> Self {
        Self { progress, stage, all: all as u64, path: PathBuf::new(), seen: 0 }
    }

    /// A frame of the segment `path` goes past.
    pub fn pass(&mut self, path: &Path) {
        if self.path != path {
            self.path = path.to_path_buf();
            self.seen += 1;
            self.progress.step(self.stage, self.seen, self.all.max(self.seen));
        }
    }
}
