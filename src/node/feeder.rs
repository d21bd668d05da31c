//! The index's own thread, so that no acknowledgement ever waits for sled.
//!
//! It takes what has come meanwhile in one go. How long changes are gathered before they come here is the loop's business:
//! batches of one operation each would make sled's final flush very long (measured: 8 to 10 s).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use rustix::thread::gettid;

use super::background::{Event, Events};
use crate::crdt::{Base, BaseError};
use crate::storage::index::{Index, IndexError, IndexPosition};
use crate::storage::store::FeedBatch;
use crate::storage::{IndexSource, Snapshot};

/// A batch for the index ends with the frame with which it has so many changes.
const ENOUGH_CHANGES: usize = 1024;
/// The thread yields to the loop, and to those who talk to it, where there is not a processor for each: nobody waits for it
/// until the memtable is full. (19 would be so little that whoever waits for one of sled's locks waited long.)
const NICENESS: i32 = 10;
/// After so many records of a rebuild it is told that it goes on.
const RECORDS_PER_EVENT: usize = 65_536;
/// How often `index.state` is brought up to date.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// How long a clean stop waits for the index to be closed.
const CLOSE_PATIENCE: Duration = Duration::from_secs(30);
/// So long it waits without a word.
const SILENT_CLOSE: Duration = Duration::from_secs(2);

enum Command {
    Feed(Vec<FeedBatch>),
    Rebuild(Arc<Snapshot>),
}

/// The thread, and what it is told.
pub struct Feeder {
    commands: Sender<Command>,
    closed: Receiver<Option<IndexPosition>>,
    /// Ends a rebuild that is under way.
    stopping: Arc<AtomicBool>,
}

impl Feeder {
    /// Starts the thread for an index that has just been opened or built, if there is one.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(source: Box<dyn IndexSource>, index: Option<Arc<dyn Index>>, events: Events) -> std::io::Result<Self> {
        let (commands, receiver) = std::sync::mpsc::channel();
        let noted_position = index.as_ref().map(|index| index.position()).unwrap_or_default();
        // What a start brings the index up to is noted at once: a process may not live for a second.
        let noted = Instant::now().checked_sub(NOTE_EVERY).unwrap_or_else(Instant::now);
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let worker = Worker { source, index, events, waiting: Vec::new(), noted, noted_position, stopping: stop };
        let (closing, closed) = std::sync::mpsc::channel();
        let run = move || {
            // Where that is not allowed, it only takes more from the loop.
            let _ = setpriority_process(Some(gettid()), NICENESS);
            // A loop that has not waited for it does not care.
            let _ = closing.send(worker.run(&receiver));
        };
        std::thread::Builder::new().name("index".into()).spawn(run)?;
        Ok(Self { commands, closed, stopping })
    }

    /// Hands over what is durable by now.
    pub fn feed(&self, batches: Vec<FeedBatch>) {
        if !batches.is_empty() {
            // If the thread is gone it has said why.
            let _ = self.commands.send(Command::Feed(batches));
        }
    }

    /// Has a new index built from a snapshot.
    pub fn rebuild(&self, snapshot: Arc<Snapshot>) {
        let _ = self.commands.send(Command::Rebuild(snapshot));
    }

    /// Brings the index up to everything that was fed, closes it durably, and says where it stands. Nobody else may
    /// hold the index any more. A rebuild is not waited for, and a thread that is stuck in sled is left behind: the next
    /// start then rebuilds the index.
    pub fn stop(self) -> Option<IndexPosition> {
        self.stopping.store(true, Ordering::Relaxed);
        drop(self.commands);
        if let Ok(closed) = self.closed.recv_timeout(SILENT_CLOSE) {
            return closed;
        }
        tracing::info!("stopping as soon as the index has what is new, and in at most {} s", CLOSE_PATIENCE.as_secs());
        self.closed.recv_timeout(CLOSE_PATIENCE - SILENT_CLOSE).ok().flatten()
    }
}

struct Worker {
    source: Box<dyn IndexSource>,
    index: Option<Arc<dyn Index>>,
    events: Events,
    waiting: Vec<FeedBatch>,
    /// When the index last outlived a kill of this process as it was, and where it stood then.
    noted: Instant,
    noted_position: IndexPosition,
    stopping: Arc<AtomicBool>,
}

impl Worker {
    fn run(mut self, commands: &Receiver<Command>) -> Option<IndexPosition> {
        match self.work(commands) {
            Ok(()) => {
                self.index = None;
                self.source.close().unwrap_or_else(|error| {
                    tracing::warn!("{error}");
                    None
                })
            }
            Err(error) => {
                self.source.distrust();
                self.events.send(Event::IndexFailed(error.to_string()));
                None
            }
        }
    }

    fn work(&mut self, commands: &Receiver<Command>) -> Result<(), IndexError> {
        loop {
            let unnoted = self.index.as_ref().is_some_and(|index| index.position() != self.noted_position);
            let note = unnoted.then(|| NOTE_EVERY.saturating_sub(self.noted.elapsed()));
            let replaced = !self.source.discard_replaced();
            let patience = note.or(replaced.then_some(NOTE_EVERY));
            let received = match patience {
                Some(patience) => commands.recv_timeout(patience),
                None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let mut next = match received {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            while let Some(command) = next {
                match command {
                    Command::Feed(batches) => self.waiting.extend(batches),
                    Command::Rebuild(snapshot) => self.rebuild(&snapshot),
                }
                next = commands.try_recv().ok();
            }
            self.apply()?;
        }
    }

    /// Applies everything that waits, in batches that end where a frame ends.
    fn apply(&mut self) -> Result<(), IndexError> {
        let Some(index) = self.index.clone() else {
            self.waiting.clear();
            return Ok(());
        };
        self.source.check_room()?;
        let at = index.position().lsn;
        let mut changes = Vec::new();
        let mut position = None;
        for batch in self.waiting.drain(..).filter(|batch| batch.position.lsn > at) {
            changes.extend(batch.changes.iter().cloned());
            position = Some(batch.position);
            if changes.len() >= ENOUGH_CHANGES {
                index.apply(&changes, batch.position)?;
                changes.clear();
                position = None;
                self.events.send(Event::IndexProgress);
            }
        }
        if let Some(position) = position {
            index.apply(&changes, position)?;
            self.events.send(Event::IndexProgress);
        }
        let position = index.position();
        if position != self.noted_position && self.noted.elapsed() >= NOTE_EVERY {
            (self.noted, self.noted_position) = (Instant::now(), position);
            self.source.note(position)?;
            self.events.send(Event::IndexNoted(position.lsn));
            self.events.send(Event::IndexMeasured(index.disk_bytes()));
        }
        Ok(())
    }

    fn rebuild(&mut self, snapshot: &Arc<Snapshot>) {
        let records = snapshot.records(&[]).enumerate().map(|(n, record)| {
            if self.stopping.load(Ordering::Relaxed) {
                return Err(BaseError("the node stops".into()));
            }
            if n % RECORDS_PER_EVENT == 0 {
                self.events.send(Event::IndexProgress);
            }
            record
        });
        match self.source.rebuild(Box::new(records), snapshot.header().position()) {
            Ok(index) => {
                self.index = Some(Arc::clone(&index));
                self.noted_position = IndexPosition::default();
                self.events.send(Event::IndexRebuilt(index));
            }
            Err(error) => self.events.send(Event::RebuildFailed(error.to_string())),
        }
    }
}
