//! Writes the history while it grows, and keeps it.

use std::io;
use std::time::Instant;

use super::super::files::{LineFile, RunDir};
use super::super::history::{Event, History, Line, Moment, Run};

/// Writes the history while it grows.
pub struct Recorder {
    /// All of it so far.
    pub history: History,
    file: LineFile,
    started: Instant,
}

impl Recorder {
    /// Begins `history.jsonl`.
    ///
    /// # Errors
    /// As the system has it.
    pub fn create(dir: &RunDir, run: Run) -> io::Result<Self> {
        let file = LineFile::create(&dir.path().join("history.jsonl"))?;
        let first = Line { index: 0, time_ns: 0, event: Event::Run(run.clone()) };
        file.put(serde_json::to_vec(&first)?);
        Ok(Recorder { history: History::new(run), file, started: Instant::now() })
    }

    /// Nanoseconds since the run began.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Something happened now. Gives its index.
    ///
    /// # Errors
    /// If it cannot follow, which is a bug of the bench.
    pub fn record(&mut self, event: Event) -> io::Result<usize> {
        let index = self.history.next.index;
        let line = Line { index, time_ns: self.now_ns(), event };
        self.file.put(serde_json::to_vec(&line)?);
        self.history.push(Moment { index, time_ns: line.time_ns }, line.event).map_err(io::Error::other)?;
        Ok(index)
    }

    /// Whether a write has failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.file.has_failed()
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// If anything could not be written.
    pub fn close(mut self) -> io::Result<History> {
        self.file.close()?;
        Ok(self.history)
    }
}
