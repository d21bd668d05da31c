//! A store that is open: what a replica reads and writes.
//!
//! Entries are appended ([`Store::append_local`], [`Store::append_remote`]) and take effect in memory at once, and
//! [`Store::commit`] makes them durable. It alone hands out a [`Synced`], and without one nothing leaves the process.
//!
//! ```text
//! append ─► state (memtable) ─┐            ┌─► feed: batches for the index, taken by whoever owns the thread
//!        └► pending ─ commit ─► one frame ─┴─► recent: operations for peers that are nearly up to date
//! ```
//!
//! The store has no thread of its own. Feeding the index and compacting are steps that it offers
//! ([`Store::take_feed`], [`Store::plan_compaction`]) and whose outcome is reported back.

mod answered;
mod compact;
mod counts;
mod delta;
mod feed;
mod mirror;
mod open;
mod pending;
mod recent;
mod reserve;

use std::path::PathBuf;
use std::sync::Arc;

pub use answered::TooMuchAtOnce;
pub use delta::Delta;
pub use feed::FeedBatch;
pub use open::{IndexOutcome, Recovery};
pub use recent::OpCursor;
pub use reserve::path as reserve_path;

use super::Lsn;
use super::codec;
use super::disk::Disk;
use super::error::StoreError;
use super::index::{Index, IndexPosition};
use super::log::{LogWriter, Segment, SegmentHeader, leave_in_log};
use super::manifest::{CleanEnd, Manifest, ReadForm};
use super::replay::{JoinSpans, log_dir};
use super::snapshot::Snapshot;
use crate::crdt::{
    ApplyError, Base, Dot, Element, EmptyBase, Entry, NodeId, Op, OpBody, Records, ReplicaId, Seq, State, Tag, Verdict,
    VersionVector,
};
use crate::planted::{self, Bug};
use pending::Pending;
use recent::Recent;

/// Most operations in one frame.
pub const MAX_BATCH_OPS: usize = 1024;
/// A frame is closed when its operations weigh this much.
pub const MAX_BATCH_BYTES: usize = 4 << 20;
/// Random bits, 128 at a time: for replica ids and nonces, so they must be unpredictable in production.
pub type Entropy = Box<dyn FnMut() -> u128 + Send>;

/// Bounds and sizes.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// A segment is closed when it has reached this size.
    pub segment_bytes: u64,
    /// The log is kept up to the snapshot's size, but at least this …
    pub min_retention_bytes: u64,
    /// … and at most this.
    pub max_retention_bytes: u64,
    /// The store says that it is [saturated](Store::is_saturated) when the memtable has reached this size.
    pub memtable_bytes: usize,
    /// How much of the newest operations is kept in memory for peers.
    pub recent_bytes: usize,
    /// A state delta that changes more records than this is not worked into the memtable and the index: it is laid over
    /// them, and the index is rebuilt from the next snapshot.
    pub max_join_changes: usize,
    /// A set whose records take no more memory than this is kept in memory as a whole, too; 0: none is.
    pub mirror_bytes: usize,
    /// Up to this size the index is never [outgrown](super::index::is_outgrown).
    pub index_slack_bytes: u64,
    /// A start builds an index of at most so many records before it is done; a larger one is built while the store
    /// reads its snapshot.
    pub max_records_at_start: u64,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            segment_bytes: 2 << 20,
            min_retention_bytes: 4 << 20,
            max_retention_bytes: 64 << 20,
            memtable_bytes: 28 << 20,
            recent_bytes: 4 << 20,
            max_join_changes: 16_384,
            mirror_bytes: 14 << 20,
            index_slack_bytes: 2 << 20,
            max_records_at_start: 32_768,
        }
    }
}

/// Everything that a store is opened with.
pub struct StoreOptions {
    /// Where its files are.
    pub disk: Arc<dyn Disk>,
    /// Its directory.
    pub dir: PathBuf,
    /// Whose store it is.
    pub node: NodeId,
    /// Random bits.
    pub entropy: Entropy,
    /// Bounds and sizes.
    pub limits: StoreLimits,
}

/// Proof that everything appended so far is durable. Only [`Store::commit`] makes one.
#[derive(Debug)]
pub struct Synced(());

/// An open store. See the module's text.
pub struct Store {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    entropy: Entropy,
    limits: StoreLimits,
    manifest: Manifest,
    /// Closed segments, oldest first.
    closed: Vec<Segment>,
    active: Active,
    state: State,
    pending: Pending,
    lsn: Lsn,
    checksum: u32,
    incarnation: ReplicaId,
    own: Option<ReplicaId>,
    snapshot: Option<Arc<Snapshot>>,
    base: Arc<dyn Base + Send + Sync>,
    index: feed::IndexState,
    recent: Recent,
    /// There must be a snapshot at this LSN or later.
    snapshot_wanted: Option<Lsn>,
    compacting: bool,
    /// There are segments to be dropped that could not be with the snapshot.
    overdue: bool,
    joins: JoinSpans,
    /// How many records there were below the memtable when the set became too large for its mirror.
    outgrown_at: Option<u64>,
    poisoned: bool,
}

/// The segment that is written to.
enum Active {
    /// None yet: nothing has been written since a clean stop. The vector is that of the log's end.
    NotYet(VersionVector),
    Open(LogWriter),
}

impl Store {
    /// What is held.
    pub fn vv(&self) -> &VersionVector {
        &self.state.vv
    }

    /// What is held, as a digest.
    pub fn compact_vv(&self) -> VersionVector {
        self.state.incarnations.compact(&self.state.vv)
    }

    /// The set and its causal context.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// This process start's id.
    pub fn incarnation(&self) -> ReplicaId {
        self.incarnation
    }

    /// What the manifest says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.snapshot.as_ref()
    }

    /// The last LSN that is durable.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The live tags of an element.
    ///
    /// # Errors
    /// If the index or snapshot cannot be read.
    pub fn tags(&self, element: &Element) -> Result<Vec<Tag>, StoreError> {
        Ok(self.state.tags(self.base.as_ref(), element)?)
    }

    /// Whether the element has a live tag.
    ///
    /// # Errors
    /// If the index or snapshot cannot be read.
    pub fn contains(&self, element: &Element) -> Result<bool, StoreError> {
        Ok(self.state.contains(self.base.as_ref(), element)?)
    }

    /// Sees to it that look-ups are fast, until the next operation. What they find is the same without it.
    pub fn prepare_look_ups(&mut self) {
        self.state.prepare_look_ups();
    }

    /// The live records in key order, from the key `from` on.
    pub fn records(&self, from: &[u8]) -> Records<'_> {
        self.state.records(self.base.as_ref(), from)
    }

    /// The same, as the index or snapshot and the changes since then have them: what a [mirror](crate::crdt::Mirror) must
    /// agree with.
    pub fn stored_records(&self, from: &[u8]) -> Records<'_> {
        self.state.memtable.over(self.base.as_ref(), from)
    }

    /// Makes an operation of this replica: durable after the next commit. The first one is preceded by the
    /// incarnation's `Start`.
    pub fn append_local(&mut self, body: OpBody) -> Dot {
        if self.state.vv.get(self.incarnation) == Seq(0) {
            let parent = self.own.map(|own| self.state.last_dot(own)).filter(|parent| parent.seq > Seq(0));
            self.own = Some(self.incarnation);
            self.append_own(OpBody::Start { node: self.manifest.node.clone(), parent });
        }
        self.append_own(body)
    }

    fn append_own(&mut self, body: OpBody) -> Dot {
        let dot = Dot::new(self.incarnation, self.state.vv.get(self.incarnation).next());
        let entry = Entry::Op(Op { dot, body });
        self.append(entry).expect("an operation of one's own follows from what is held, and needs no base");
        dot
    }

    /// Takes in an operation of somebody else's if it applies; says what became of it.
    pub fn append_remote(&mut self, op: Op) -> Verdict {
        let verdict = op.judge(&self.state.vv);
        if verdict == Verdict::Next {
            self.append(Entry::Op(op)).expect("it has just been judged, and an operation needs no base");
        }
        verdict
    }

    /// Takes in a part or the end of a state delta.
    ///
    /// # Errors
    /// If it does not follow, or the records cannot be read.
    pub fn append_join(&mut self, entry: Entry) -> Result<(), StoreError> {
        match self.append(entry) {
            Ok(()) => Ok(()),
            Err(ApplyError::Base(error)) => Err(error.into()),
            Err(error) => Err(StoreError::damaged(&self.dir, 0, format!("in memory: {error}"))),
        }
    }

    /// Forgets what has come of a state delta that will not be finished.
    pub fn discard_staged(&mut self) {
        if planted::is(Bug::SnapshotsMixed) {
            return;
        }
        self.state.discard_staged();
    }

    fn append(&mut self, entry: Entry) -> Result<(), ApplyError> {
        // Without peers nobody will ask for them.
        let recent_bytes = if self.manifest.nodes.len() > 1 { self.limits.recent_bytes } else { 0 };
        if recent_bytes > 0 {
            self.recent.prepare(&self.state.vv);
        }
        self.state.apply(self.base.as_ref(), &entry)?;
        self.joins.see(Lsn(self.lsn.0 + self.pending.len() as u64 + 1), &entry);
        match &entry {
            Entry::Op(op) => self.recent.push(op, recent_bytes),
            Entry::JoinCommit(_) => self.recent.clear(),
            Entry::JoinPart(_) | Entry::Answered(_) => {}
        }
        self.pending.push(entry);
        Ok(())
    }

    /// Whether a frame's worth of entries waits for a commit.
    pub fn is_batch_full(&self) -> bool {
        self.pending.is_full()
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// If that failed. The store is poisoned then: nothing may be acknowledged any more, and the process should end.
    pub fn commit(&mut self) -> Result<Synced, StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        if self.pending.is_empty() {
            return Ok(Synced(()));
        }
        let outcome = self.write_pending();
        self.bound_mirror();
        self.poisoned = outcome.is_err();
        outcome.map(|()| Synced(()))
    }

    fn write_pending(&mut self) -> Result<(), StoreError> {
        if let Active::NotYet(vv) = &self.active {
            let vv = vv.clone();
            self.open_segment(vv)?;
        }
        let mut pending = std::mem::take(&mut self.pending);
        let mut payload = Vec::with_capacity(pending.bytes() + 1024);
        let mut frames = Vec::new();
        for batch in pending.frames() {
            payload.clear();
            codec::encode_batch(&mut payload, self.lsn.next(), self.own, batch);
            let Active::Open(writer) = &mut self.active else { unreachable!("opened above") };
            let start = writer.segment().length;
            self.checksum = writer.append(&payload)?;
            self.lsn = Lsn(self.lsn.0 + batch.len() as u64);
            frames.push((start, writer.segment().length));
        }
        pending.clear();
        self.pending = pending;
        self.feed_fresh();
        let Active::Open(writer) = &self.active else { unreachable!("opened above") };
        let segment = writer.segment();
        leave_in_log(&mut self.state, &self.disk, &segment.path, segment.header.nonce, &frames);
        if writer.segment().length >= self.limits.segment_bytes {
            self.open_segment(self.state.vv.clone())?;
        }
        Ok(())
    }

    /// Closes the segment that is written to, if any, and starts the next, where `vv` is held.
    fn open_segment(&mut self, vv: VersionVector) -> Result<(), StoreError> {
        let previous = match &self.active {
            Active::Open(writer) => Some(writer.segment().clone()),
            Active::NotYet(_) => None,
        };
        let end = previous.as_ref().or(self.closed.last()).map(Segment::end);
        let counter = self.manifest.next_segment;
        let header =
            SegmentHeader { counter, nonce: (self.entropy)(), previous: end, lsn: self.lsn, vv, repeats: false };
        let writer = LogWriter::create(self.disk.as_ref(), &log_dir(&self.dir), header, None)?;
        self.manifest.segments.push(counter);
        self.manifest.next_segment = counter + 1;
        self.manifest.clean = None;
        self.manifest.own = self.own;
        self.manifest.write(self.disk.as_ref(), &self.dir)?;
        self.closed.extend(previous);
        self.active = Active::Open(writer);
        Ok(())
    }

    /// Takes note of the nodes of the cluster, durably.
    ///
    /// # Errors
    /// If the manifest cannot be written; the store is poisoned then.
    pub fn set_nodes(&mut self, nodes: &[NodeId]) -> Result<(), StoreError> {
        if self.manifest.nodes == nodes {
            return Ok(());
        }
        self.manifest.nodes = nodes.to_vec();
        self.write_manifest()
    }

    /// Takes note of the reply that `read` gets from now on, durably.
    ///
    /// # Errors
    /// If the manifest cannot be written; the store is poisoned then.
    pub fn set_read_form(&mut self, form: ReadForm) -> Result<(), StoreError> {
        if self.manifest.read_form == form {
            return Ok(());
        }
        self.manifest.read_form = form;
        self.write_manifest()
    }

    fn write_manifest(&mut self) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        let outcome = self.manifest.write(self.disk.as_ref(), &self.dir);
        self.poisoned = outcome.is_err();
        outcome
    }

    /// Lets go of the index, so that it can be closed. Records cannot be read any more.
    pub fn release_index(&mut self) {
        self.base = Arc::new(EmptyBase);
        self.index = feed::IndexState::default();
    }

    /// Closes the store in good order. The index, if given, has been brought up to `position` and made durable.
    ///
    /// # Errors
    /// If something cannot be written. Then it simply was no clean stop: nothing is lost.
    pub fn close(&mut self, index: Option<IndexPosition>) -> Result<(), StoreError> {
        self.commit()?;
        // Whatever becomes of the rest: what is on the disk after a part of it is not known.
        self.poisoned = true;
        let Active::Open(writer) = &mut self.active else { return Ok(()) };
        let current = IndexPosition { lsn: self.lsn, checksum: self.checksum };
        let index = index.filter(|position| *position == current);
        let mut payload = Vec::new();
        codec::encode_clean(&mut payload, index.unwrap_or_default());
        let checksum = writer.append(&payload)?;
        let segment = writer.segment().clone();
        self.manifest.clean = Some(CleanEnd {
            counter: segment.header.counter,
            length: segment.length,
            checksum,
            index: index.is_some(),
        });
        self.manifest.own = self.own;
        self.manifest.write(self.disk.as_ref(), &self.dir)
    }

    /// What is on the disk: bytes of the log and of the snapshot.
    pub fn bytes(&self) -> (u64, u64) {
        let active = if let Active::Open(writer) = &self.active { writer.segment().length } else { 0 };
        let log = active + self.closed.iter().map(|segment| segment.length).sum::<u64>();
        (log, self.snapshot.as_ref().map_or(0, |snapshot| snapshot.bytes()))
    }

    /// The index, if there is one.
    pub fn index(&self) -> Option<&Arc<dyn Index>> {
        self.index.current()
    }
}
