//! The node: the loop that connects standard input, the replica, the log and standard output.
//!
//! ```text
//! lines, until stdin has no more or a batch is full → replica → one frame, one fdatasync → one write to stdout
//! ```
//!
//! That is group commit without a timer: one client at a time pays one sync an operation, a thousand pipelined adds
//! share one. Beside the loop there are two kinds of thread: one feeds the index, one at a time compacts.

pub mod background;
pub mod feeder;
pub mod input;
mod open;
mod output;
mod pace;
mod pipe;
mod progress;

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use uuid::Uuid;

use crate::crdt::NodeId;
use crate::maelstrom::{Decoder, Incoming, Limits, MAX_LINE_BYTES, reject_overlong};
use crate::replica::{Replica, ReplicaConfig, Ticket};
use crate::storage::{Store, StoreError, StoreLimits, StoreLock};
use background::{Event, Events};
use feeder::Feeder;
use input::{Line, LineBuffer, wait_readable};
use output::Output;
use pace::Urgency;

/// Lines handled between two commits, at most: reads cost no log, but their replies are kept until the commit.
const MAX_BATCH_LINES: usize = 4096;
/// A compaction that failed is not tried again before this.
const COMPACTION_RETRY: Duration = Duration::from_secs(30);
/// The index is given what is new not at once: waking its thread costs a single add a tenth and more, sled lets nobody look
/// anything up while it writes a batch, and it takes twice as much of the processor for an add as everything else does, which
/// a burst had better have for itself. It is given after this time, or when the memtable has little room left.
const FEED_INTERVAL: Duration = Duration::from_secs(1);
/// While the index has to catch up, the loop looks at least this often whether it has.
const SATURATED_WAIT: Duration = Duration::from_millis(20);
/// An index that everything waits for and that takes in nothing for so long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// Peers' messages kept before `init` has come, at most.
const MAX_EARLY_LINES: usize = 256;
/// A longer early line is dropped.
const MAX_EARLY_LINE_BYTES: usize = 64 << 10;

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Stores lie below this, each under its node's id.
    pub data_dir: PathBuf,
    /// Start from this node's store at once; `None`: wait for `init`.
    pub node_id: Option<NodeId>,
    /// Replies to requests older than this are dropped; 0: none are.
    pub reply_deadline_ms: u64,
    /// Bounds of elements.
    pub limits: Limits,
    /// Intervals of the replica.
    pub replica: ReplicaConfig,
    /// Bounds of the store.
    pub store: StoreLimits,
}

/// Why a node stopped before it should.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Standard input or output, or something else of the system's.
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
    /// The index cannot be written any more.
    #[error("{0}. Nothing is lost: start again, and the index is rebuilt")]
    Index(String),
}

/// Runs a node until its input ends, it is told to stop, or nobody reads its output any more.
///
/// # Errors
/// If the store cannot be opened or written, or standard input or output fails. Nothing that was acknowledged is lost.
pub fn run(options: NodeOptions) -> Result<(), NodeError> {
    let io = |what| move |error| NodeError::Io(what, error);
    let (waker, woken) = UnixStream::pair().map_err(io("cannot make a pipe"))?;
    let (stopper, stopped) = UnixStream::pair().map_err(io("cannot make a pipe"))?;
    for end in [&waker, &woken] {
        end.set_nonblocking(true).map_err(io("cannot make a pipe"))?;
    }
    for signal in [SIGTERM, SIGINT] {
        let end = stopper.try_clone().map_err(io("cannot make a pipe"))?;
        signal_hook::low_level::pipe::register(signal, end).map_err(io("cannot handle signals"))?;
    }
    let (sender, events) = std::sync::mpsc::channel();
    let started = Instant::now();
    let mut node = Node {
        decoder: Decoder::new(options.limits),
        running: None,
        output: Output::new(options.reply_deadline_ms),
        early: Vec::new(),
        line_number: 0,
        last_empty_ms: 1,
        arrived_ms: 1,
        feed_since: None,
        sender: Events::new(sender, waker),
        events,
        retry_compaction_at: None,
        urgency: Arc::default(),
        progress: (started, (false, 0)),
        started,
        options,
    };
    if let Some(id) = node.options.node_id.clone() {
        node.open(&id)?;
    }
    pipe::widen(std::io::stdin().as_fd());
    pipe::widen(std::io::stdout().as_fd());
    let mut lines = LineBuffer::new(MAX_LINE_BYTES);
    let outcome = node.serve(&mut lines, &woken, &stopped);
    node.finish(outcome, &stopped)
}

struct Node {
    options: NodeOptions,
    decoder: Decoder,
    running: Option<Running>,
    output: Output,
    /// Peers' lines that came before `init`.
    early: Vec<Vec<u8>>,
    line_number: u64,
    /// When standard input was last known to be empty: what is read later may have been waiting since.
    last_empty_ms: u64,
    /// Since when what was read last may have been waiting.
    arrived_ms: u64,
    sender: Events,
    events: Receiver<Event>,
    retry_compaction_at: Option<Instant>,
    /// Tells the compaction that is under way to hurry.
    urgency: Arc<Urgency>,
    /// Since when the index has not been given everything.
    feed_since: Option<Instant>,
    /// Whether everything waited for the index when that was last looked at, how far behind it was, and since when.
    progress: (Instant, (bool, u64)),
    started: Instant,
}

/// What there is once the node knows who it is.
struct Running {
    id: NodeId,
    replica: Replica,
    feeder: Feeder,
    /// Kept until everything else is closed.
    lock: Arc<StoreLock>,
}

/// Why the loop ended.
enum Ended {
    /// The input ended, or a signal came.
    InGoodOrder,
    /// Nobody reads the output any more.
    OutputClosed,
}

impl Node {
    /// Milliseconds since the start, at least 1.
    fn now_ms(&self) -> u64 {
        ms_since(self.started)
    }

    fn serve(&mut self, lines: &mut LineBuffer, woken: &UnixStream, stopped: &UnixStream) -> Result<Ended, NodeError> {
        let stdin = std::io::stdin();
        loop {
            let waiting = self.handle_lines(lines)?;
            self.drain_events()?;
            let closed = self.commit(stopped)?;
            if closed {
                return Ok(Ended::OutputClosed);
            }
            self.background_steps(false)?;
            let tending = !waiting && self.tend_mirror()?;
            let reading = self.is_reading();
            if lines.has_ended() && !waiting && !reading {
                return Ok(Ended::InGoodOrder);
            }
            let saturated = self.running.as_ref().is_some_and(|r| r.replica.store().is_saturated());
            let input = (!saturated && !waiting && !lines.has_ended()).then(|| stdin.as_fd());
            let timeout = match (waiting, saturated) {
                _ if reading || tending => Some(Duration::ZERO),
                (true, false) => Some(Duration::ZERO),
                (_, true) => Some(self.timeout().unwrap_or(SATURATED_WAIT).min(SATURATED_WAIT)),
                (false, false) => self.timeout(),
            };
            let asked_ms = self.now_ms();
            let ready = wait_readable([input, Some(woken.as_fd()), Some(stopped.as_fd())], timeout)
                .map_err(|error| NodeError::Io("cannot wait for input", error))?;
            if input.is_some() {
                let now_ms = self.now_ms();
                if !ready[0] {
                    self.last_empty_ms = now_ms;
                } else if now_ms > asked_ms {
                    // It has waited, so it was empty then. (Or something else took the time: then this is too late by no
                    // more than the time that the loop took for what it read before.)
                    self.last_empty_ms = asked_ms;
                }
            }
            if ready[1] {
                let _ = (&mut &*woken).read(&mut [0; 256]);
            }
            if ready[2] {
                return Ok(Ended::InGoodOrder);
            }
            if ready[0] {
                self.fill(lines)?;
            }
        }
    }

    fn fill(&mut self, lines: &mut LineBuffer) -> Result<(), NodeError> {
        let now_ms = self.now_ms();
        self.arrived_ms = self.last_empty_ms;
        let all = lines.fill(std::io::stdin().as_fd());
        if all.map_err(|error| NodeError::Io("cannot read standard input", error))? {
            self.last_empty_ms = now_ms;
        }
        Ok(())
    }

    /// Has a small set read into memory; says whether there is more to read.
    fn tend_mirror(&mut self) -> Result<bool, NodeError> {
        let Some(running) = &mut self.running else { return Ok(false) };
        Ok(running.replica.store_mut().tend_mirror()?)
    }

    /// Whether a reply goes out in pieces. Then nothing is waited for: the next piece is made when the last is written.
    fn is_reading(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.replica.is_reading())
    }

    fn timeout(&self) -> Option<Duration> {
        let wakeup = self.running.as_ref().and_then(|running| running.replica.next_wakeup_ms());
        let replica = wakeup.map(|at| Duration::from_millis(at.saturating_sub(self.now_ms())));
        let compaction = self.retry_compaction_at.map(|at| at.saturating_duration_since(Instant::now()));
        let feed = self.feed_since.map(|since| FEED_INTERVAL.saturating_sub(since.elapsed()));
        [replica, compaction, feed].into_iter().flatten().min()
    }

    /// Handles the lines that are there, until a batch is full; says whether there are more.
    fn handle_lines(&mut self, lines: &mut LineBuffer) -> Result<bool, NodeError> {
        for _ in 0..MAX_BATCH_LINES {
            if self.running.as_ref().is_some_and(|r| r.replica.is_batch_full() || r.replica.store().is_saturated()) {
                return Ok(true);
            }
            let Some(line) = lines.next_line() else { return Ok(false) };
            self.line_number += 1;
            match line {
                Line::Whole(line) => self.handle_line(line)?,
                Line::Overlong(prefix) => self.reject(reject_overlong(prefix)),
            }
        }
        Ok(true)
    }

    fn handle_line(&mut self, line: &[u8]) -> Result<(), NodeError> {
        let now_ms = self.now_ms();
        let decoded = self.decoder.decode(line, self.arrived_ms, Uuid::new_v4);
        let incoming = match decoded {
            Ok(incoming) => incoming,
            Err(rejection) => {
                self.reject(rejection);
                return Ok(());
            }
        };
        let own = self.running.as_ref().map(|running| running.id.as_str());
        let dest = match &incoming {
            Incoming::Init { dest, .. } | Incoming::Request { dest, .. } | Incoming::Peer { dest, .. } => dest,
            Incoming::Reply => return Ok(()),
        };
        if own.is_some_and(|own| own != dest.as_ref()) && !matches!(incoming, Incoming::Init { .. }) {
            tracing::warn!("line {}: for {dest}, not for this node; nothing done", self.line_number);
            return Ok(());
        }
        match incoming {
            Incoming::Init { ticket, node_id, node_ids, .. } => self.init(ticket, &node_id, &node_ids),
            Incoming::Request { ticket, dest, request } => match &mut self.running {
                Some(running) => Ok(running.replica.client(ticket, request, now_ms)?),
                None => {
                    self.output.refuse_early(&dest, ticket);
                    Ok(())
                }
            },
            Incoming::Peer { from, message, .. } => match &mut self.running {
                Some(running) => Ok(running.replica.peer(&from, message, now_ms)?),
                None => {
                    if self.early.len() < MAX_EARLY_LINES && line.len() <= MAX_EARLY_LINE_BYTES {
                        self.early.push(line.to_vec());
                    }
                    Ok(())
                }
            },
            Incoming::Reply => Ok(()),
        }
    }

    fn reject(&mut self, rejection: crate::maelstrom::Rejection) {
        tracing::warn!("line {}: {}", self.line_number, rejection.why);
        let Some(reply) = rejection.reply else { return };
        let own = self.running.as_ref().map(|running| running.id.as_str());
        if reply.dest.as_deref().is_some_and(|dest| own.is_some_and(|own| own != dest)) {
            return;
        }
        let dest = reply.dest.clone();
        let outgoing = reply.into_outgoing(self.arrived_ms);
        match &mut self.running {
            Some(running) => running.replica.refuse(outgoing),
            // Who nobody has called anything yet has no name to answer under.
            None => {
                if let Some(dest) = dest {
                    self.output.write_early(&dest, &outgoing);
                }
            }
        }
    }

    fn init(&mut self, ticket: Ticket, node_id: &NodeId, node_ids: &[NodeId]) -> Result<(), NodeError> {
        if self.running.is_none() {
            self.open(node_id)?;
        }
        let Some(running) = &mut self.running else { unreachable!("opened above") };
        running.replica.init(ticket, node_id, node_ids)?;
        for line in std::mem::take(&mut self.early) {
            self.handle_line(&line)?;
        }
        Ok(())
    }

    /// Makes everything durable, and lets out what may leave then. Says whether nobody reads it any more.
    fn commit(&mut self, stopped: &UnixStream) -> Result<bool, NodeError> {
        let now_ms = self.now_ms();
        if let Some(running) = &mut self.running {
            running.replica.tick(now_ms)?;
            let messages = running.replica.commit(now_ms)?;
            let now_ms = ms_since(self.started);
            self.output.add(&running.id, &messages, now_ms);
            running.replica.reuse(messages);
        }
        self.output.flush(stopped.as_fd()).map_err(|error| NodeError::Io("cannot write to standard output", error))
    }

    fn drain_events(&mut self) -> Result<(), NodeError> {
        while let Ok(event) = self.events.try_recv() {
            let Some(running) = &mut self.running else { continue };
            let store = running.replica.store_mut();
            match event {
                Event::IndexProgress => {
                    store.maintain();
                    self.progress.0 = Instant::now();
                }
                Event::IndexNoted(lsn) => store.index_noted(lsn),
                Event::IndexMeasured(bytes) => store.index_measured(bytes),
                Event::IndexFailed(why) => return Err(NodeError::Index(why)),
                Event::IndexRebuilt(index) => {
                    tracing::info!("the index has been rebuilt from the snapshot at LSN {}", index.position().lsn);
                    store.swap_index(index);
                }
                Event::RebuildFailed(why) => {
                    tracing::warn!("the index could not be rebuilt: {why}");
                    store.rebuild_failed();
                }
                Event::Compacted(outcome) => match *outcome {
                    Ok(snapshot) => store.install(snapshot)?,
                    Err(error) => {
                        tracing::warn!("no new snapshot could be made: {error}");
                        store.compaction_failed();
                        self.retry_compaction_at = Some(Instant::now() + COMPACTION_RETRY);
                    }
                },
            }
        }
        Ok(())
    }

    /// Hands work to the threads: all that there is for the index, or what is due.
    fn background_steps(&mut self, all: bool) -> Result<(), NodeError> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let store = running.replica.store_mut();
        store.maintain();
        let progress = (store.is_saturated(), store.index_lag());
        if !progress.0 || progress != self.progress.1 {
            self.progress = (Instant::now(), progress);
        } else if self.progress.0.elapsed() > STUCK_AFTER {
            return Err(NodeError::Index("the index has taken in nothing for a minute".into()));
        }
        if all || is_feed_due(&mut self.feed_since, store) {
            running.feeder.feed(store.take_feed());
            self.feed_since = None;
        }
        if let Some(snapshot) = store.take_rebuild() {
            running.feeder.rebuild(snapshot);
        }
        if store.compaction_is_urgent() {
            self.urgency.raise();
        }
        if self.retry_compaction_at.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        self.retry_compaction_at = None;
        if let Some(plan) = store.plan_compaction()? {
            let events = self.sender.try_clone().map_err(|error| NodeError::Io("cannot make a pipe", error))?;
            self.urgency = Arc::default();
            let urgency = Arc::clone(&self.urgency);
            let run = move || events.send(Event::Compacted(Box::new(pace::run(plan, &urgency))));
            let thread = std::thread::Builder::new().name("compaction".into()).spawn(run);
            thread.map_err(|error| NodeError::Io("cannot start a thread", error))?;
        }
        Ok(())
    }

    /// Answers what is held, writes the mark of a clean stop, and closes everything.
    fn finish(mut self, outcome: Result<Ended, NodeError>, stopped: &UnixStream) -> Result<(), NodeError> {
        let ended = outcome?;
        while let (Ended::InGoodOrder, Some(running)) = (&ended, &mut self.running) {
            let more = running.replica.answer_held()?;
            let closed = self.commit(stopped)?;
            self.background_steps(true)?;
            if closed || !more && !self.is_reading() {
                break;
            }
        }
        let Some(Running { mut replica, feeder, lock, .. }) = self.running.take() else { return Ok(()) };
        feeder.feed(replica.store_mut().take_feed());
        replica.store_mut().release_index();
        let index = feeder.stop();
        replica.store_mut().close(index)?;
        drop(lock);
        match self.output.late() {
            0 => {}
            1 => tracing::info!("1 reply was too late and not sent"),
            late => tracing::info!("{late} replies were too late and not sent"),
        }
        Ok(())
    }
}

/// Whether the index is to be given what is new; `since`: when that was first found not to be due.
fn is_feed_due(since: &mut Option<Instant>, store: &Store) -> bool {
    if !store.has_feed() {
        return false;
    }
    let waited = since.get_or_insert_with(Instant::now).elapsed();
    waited >= FEED_INTERVAL || store.is_nearly_saturated()
}

/// Milliseconds since then, at least 1.
fn ms_since(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}
