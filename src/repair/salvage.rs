//! What can be proved of a store that refuses to start, as a new store.
//!
//! An operation may be taken in iff it is the next of its replica and everything that it refers to is held (invariant 4:
//! [`Op::judge`](crate::crdt::Op::judge)). That holds also behind a gap in the log, and it is all that is used here: the fold starts at the newest
//! snapshot that is sound from its first block to its last (else at nothing), takes in the readable operations in the
//! order of the log, and goes over those left until nothing more applies. The version vector that comes of it covers
//! exactly what was taken in.
//!
//! **Nothing else may go into the store.** A vector that claims an operation whose effect is missing tells every peer
//! that its live tags were removed here. So a snapshot with one bad block proves nothing, its vector included: which tags
//! were in that block nobody can say. And an operation that is put in behind a gap by force would be such a claim about
//! the gap. What was readable and could not be proved is handed out for people to look at; peers that have it bring it
//! back by themselves.
//!
//! **Answers to requests with a name** speak of operations. Behind a gap one would promise what may not be in the store,
//! so none is taken in there.
//!
//! **State deltas** (`JoinPart … JoinCommit`) are differences to what was held when they were asked for. They apply only
//! where the log is whole from the snapshot (or from its beginning) to the commit; behind a gap, never.
//!
//! The new store is one snapshot with that vector, which is its floor too, and an empty segment: a peer behind it gets a
//! state delta. It goes on under a replica id of its own, as every start does, whose parent is the last own operation
//! that was proved. What the peers hold beyond it they send, and the node says that it had been rolled back by so much.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::RepairError;
use super::new_store::{make_dirs, write_manifest};
use super::scan::{FoundSegment, Scan, Unreadable};
use crate::crdt::{
    Base, Dot, Element, EmptyBase, Entry, Incarnation, Incarnations, JoinCommit, JoinPart, NodeId, OpBody, Record,
    ReplicaId, Seq, State, Verdict,
};
use crate::storage::codec::{Batch, Context};
use crate::storage::disk::Disk;
use crate::storage::log::{LogWriter, SegmentHeader};
use crate::storage::manifest::Manifest;
use crate::storage::replay::{log_dir, snapshot_dir};
use crate::storage::snapshot::{self, Snapshot, SnapshotHeader};
use crate::storage::{Counts, Lsn, StoreError};

/// Something readable that is not in the new store.
#[derive(Clone, Copy, Debug)]
pub enum Unapplied<'a> {
    /// An entry of the log.
    Entry {
        /// Its file.
        path: &'a Path,
        /// Where its frame begins.
        offset: u64,
        /// Its place in the old log.
        lsn: Lsn,
        /// What it says.
        entry: &'a Entry,
    },
    /// A record of a snapshot.
    Record {
        /// Its file.
        path: &'a Path,
        /// Where its block begins.
        offset: u64,
        /// The record.
        record: &'a Record,
    },
    /// A record of a snapshot whose footer is lost, and with it the replica id of the record's tag. So it is not known
    /// whether the new store holds it.
    Orphan {
        /// Its file.
        path: &'a Path,
        /// Where its block begins.
        offset: u64,
        /// The element.
        element: &'a Element,
        /// The tag's sequence number.
        seq: Seq,
    },
}

/// Takes what was not applied, with the incarnations whose `Start` was readable.
pub type OnUnapplied<'a> = &'a mut dyn FnMut(Unapplied, &Incarnations) -> Result<(), StoreError>;

/// What became of a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Salvaged {
    /// Whose store it is.
    pub node: NodeId,
    /// The LSN of the snapshot that the fold started from; zero: from nothing.
    pub from_snapshot: Lsn,
    /// How much is in the new store.
    pub counts: Counts,
    /// Operations that the new store's vector covers.
    pub operations: u64,
    /// Entries and records that were handed out as not applied.
    pub unapplied: u64,
    /// What could not be read.
    pub unreadable: Vec<Unreadable>,
    /// LSNs that nothing readable has, though they were before others that are read.
    pub missing: Vec<(Lsn, Lsn)>,
}

/// What there is to be known beforehand.
pub struct Plan<'a> {
    /// Where the broken store's files are.
    pub from: &'a dyn Disk,
    /// Its directory.
    pub broken: &'a Path,
    /// Where the new store's files are to be.
    pub to: &'a dyn Disk,
    /// Its directory.
    pub new: &'a Path,
    /// Whose store it is, if that has to be said.
    pub node: Option<NodeId>,
    /// Random bits.
    pub entropy: &'a mut dyn FnMut() -> u128,
}

/// Puts what can be proved of a broken store into a new one, durably but for the names of its directories.
///
/// # Errors
/// [`StoreError::Newer`], [`RepairError::NoNode`], or what the file system says.
pub fn salvage(plan: Plan, on_unapplied: OnUnapplied) -> Result<Salvaged, RepairError> {
    let scan = Scan::read(plan.from, plan.broken)?;
    let mut fold = Fold::new(&scan);
    fold.run(&scan)?;
    let node = node_of(&plan, &scan, &fold).ok_or_else(|| RepairError::NoNode(plan.broken.to_path_buf()))?;
    let unapplied = fold.hand_out(&scan, on_unapplied)?;
    let written = write(plan, &scan, &fold, node.clone())?;
    Ok(Salvaged {
        node,
        from_snapshot: fold.base.map_or(Lsn(0), |snapshot| snapshot.header().lsn),
        counts: written.counts(),
        operations: fold.state.vv.iter().map(|(_, seq)| seq.0).sum(),
        unapplied,
        unreadable: scan.unreadable,
        missing: scan.missing,
    })
}

/// Whose store it is: as told, as the manifest says, as the node ran when it wrote, or as the directory is called.
fn node_of(plan: &Plan, scan: &Scan, fold: &Fold) -> Option<NodeId> {
    let by_manifest = || scan.manifest.as_ref().map(|manifest| manifest.node.clone());
    let by_log = || fold.owns.iter().rev().find_map(|own| fold.known.get(*own)).map(|i| i.node.clone());
    let by_name = || NodeId::new(plan.broken.file_name()?.to_str()?);
    plan.node.clone().or_else(by_manifest).or_else(by_log).or_else(by_name)
}

/// The fold that invariant 4 allows.
struct Fold<'a> {
    state: State,
    base: Option<&'a Snapshot>,
    /// What the log says up to here is in the snapshot.
    start: Lsn,
    /// Up to here the log is whole; `None` behind the first gap.
    whole: Option<Lsn>,
    /// Up to here it was whole before the first gap.
    whole_until: Lsn,
    /// Every incarnation whose `Start` can be read.
    known: Incarnations,
    /// The store's own replica ids, in the order in which it took them.
    owns: Vec<ReplicaId>,
}

impl<'a> Fold<'a> {
    fn new(scan: &'a Scan) -> Self {
        let base = scan.snapshots.iter().find(|found| found.bad_blocks.is_empty()).map(|found| &found.snapshot);
        let (mut state, mut whole) = (State::default(), Some(Lsn(0)));
        let mut owns = Vec::from_iter(scan.manifest.as_ref().and_then(|manifest| manifest.own));
        if let Some(snapshot) = base {
            let header = snapshot.header();
            state = snapshot.state_without_answers();
            // Without them a request may be done twice; no reason to give up the set.
            state.answers = snapshot.answers().unwrap_or_default();
            // A snapshot from elsewhere is as true as any, but this log does not go on from it.
            let fits = |found: &FoundSegment| {
                found.header.as_ref().is_some_and(|h| h.lsn == header.lsn && h.vv == header.context.vv)
            };
            whole = scan.segments.iter().any(fits).then_some(header.lsn);
            owns.extend(header.own);
        }
        let known = state.incarnations.clone();
        let start = whole.unwrap_or_default();
        Self { state, base, start, whole, whole_until: start, known, owns }
    }

    fn base(&self) -> &'a dyn Base {
        self.base.map_or(&EmptyBase, |snapshot| snapshot)
    }

    fn run(&mut self, scan: &Scan) -> Result<(), StoreError> {
        scan.each_batch(|_, _, batch| self.batch(batch))?;
        self.state.discard_staged();
        // What was early may apply now: over and over, until nothing more does.
        loop {
            let before = self.state.vv.clone();
            scan.each_batch(|_, _, batch| batch.entries.iter().try_for_each(|entry| self.by_itself(entry)))?;
            if self.state.vv == before {
                return Ok(());
            }
        }
    }

    fn batch(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if batch.own != self.owns.last().copied() {
            self.owns.extend(batch.own);
        }
        for (lsn, entry) in (batch.first.0..).map(Lsn).zip(&batch.entries) {
            if let Entry::Op(op) = entry
                && let OpBody::Start { node, parent } = &op.body
            {
                self.known.insert(op.dot.replica, Incarnation { node: node.clone(), parent: *parent });
            }
            let whole = self.whole;
            if whole.is_some_and(|at| lsn <= at) {
                continue;
            }
            if whole.is_some_and(|at| lsn == at.next()) && self.state.apply(self.base(), entry).is_ok() {
                (self.whole, self.whole_until) = (Some(lsn), lsn);
                continue;
            }
            // Nobody knows what was in the gap: perhaps parts of the state delta that is arriving.
            self.whole = None;
            self.state.discard_staged();
            self.by_itself(entry)?;
        }
        Ok(())
    }

    /// Takes in an operation for what it says by itself, wherever in the log it stood.
    fn by_itself(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let Entry::Op(op) = entry else { return Ok(()) };
        if op.judge(&self.state.vv) == Verdict::Next {
            let applied = self.state.apply(self.base(), entry);
            assert!(applied.is_ok(), "an operation that was decoded and is the next applies: {applied:?}");
        }
        Ok(())
    }

    /// Hands out what can be read and is not held.
    fn hand_out(&self, scan: &Scan, on_unapplied: OnUnapplied) -> Result<u64, StoreError> {
        // A state delta whose end is covered has been taken in, or is in the snapshot.
        let mut held = BTreeSet::new();
        scan.each_batch(|_, _, batch| {
            let commits = batch.entries.iter().filter_map(|entry| match entry {
                Entry::JoinCommit(commit) if commit.vv.is_within(&self.state.vv) => Some(commit.join),
                _ => None,
            });
            held.extend(commits);
            Ok::<(), StoreError>(())
        })?;
        let (mut count, mut seen, mut last) = (0, BTreeSet::new(), self.start);
        scan.each_batch(|segment, frame, batch| {
            for (lsn, entry) in (batch.first.0..).map(Lsn).zip(&batch.entries) {
                let not_held = match entry {
                    Entry::Op(op) => !self.state.vv.covers(op.dot) && seen.insert(op.dot),
                    Entry::Answered(_) => lsn > last.max(self.whole_until),
                    // A repeated batch has LSNs that were seen.
                    Entry::JoinPart(JoinPart { join, .. }) | Entry::JoinCommit(JoinCommit { join, .. }) => {
                        lsn > last && !held.contains(join)
                    }
                };
                if not_held {
                    count += 1;
                    let (path, offset) = (segment.path.as_path(), frame.offset);
                    on_unapplied(Unapplied::Entry { path, offset, lsn, entry }, &self.known)?;
                }
            }
            last = last.max(batch.last());
            Ok::<(), StoreError>(())
        })?;
        for found in &scan.snapshots {
            count += self.hand_out_records(&found.snapshot, &found.bad_blocks, &mut seen, on_unapplied)?;
        }
        scan.each_orphan(|path, offset, element, seq| {
            count += 1;
            on_unapplied(Unapplied::Orphan { path, offset, element, seq }, &self.known)
        })?;
        Ok(count)
    }

    fn hand_out_records(
        &self,
        snapshot: &Snapshot,
        bad_blocks: &[usize],
        seen: &mut BTreeSet<Dot>,
        on_unapplied: OnUnapplied,
    ) -> Result<u64, StoreError> {
        let mut count = 0;
        for block in (0..snapshot.block_count()).filter(|block| !bad_blocks.contains(block)) {
            for record in snapshot.block(block)? {
                if !self.state.vv.covers(record.tag()) && seen.insert(record.tag()) {
                    count += 1;
                    let (path, offset) = (snapshot.path(), snapshot.block_offset(block));
                    on_unapplied(Unapplied::Record { path, offset, record: &record }, &self.known)?;
                }
            }
        }
        Ok(count)
    }
}

fn write(plan: Plan, scan: &Scan, fold: &Fold, node: NodeId) -> Result<Arc<Snapshot>, StoreError> {
    let Plan { to, new, entropy, .. } = plan;
    make_dirs(to, new)?;
    let (state, vv) = (&fold.state, fold.state.vv.clone());
    // As the old log's, so that what is handed out with its old LSN is never later.
    let lsn = scan.last.max(Lsn(1));
    let own = fold.owns.iter().rev().copied().find(|own| vv.get(*own) > Seq(0));
    let context = Context { vv: vv.clone(), floor: vv.clone(), incarnations: state.incarnations.clone() };
    let header = SnapshotHeader { lsn, frame_checksum: 0, own, context };
    let records = state.records(fold.base(), &[]);
    let snapshot = snapshot::write(to, &snapshot_dir(new), &header, entropy(), records, &state.answers)?;
    let counter = 1;
    let segment = SegmentHeader { counter, nonce: entropy(), previous: None, lsn, vv, repeats: false };
    LogWriter::create(to, &log_dir(new), segment, None)?;
    let mut manifest = Manifest::new(node);
    if let Some(old) = &scan.manifest {
        (manifest.nodes, manifest.read_form) = (old.nodes.clone(), old.read_form);
    }
    (manifest.own, manifest.snapshot) = (own, Some(lsn));
    (manifest.segments, manifest.next_segment) = (vec![counter], counter + 1);
    write_manifest(to, new, &manifest.encode())?;
    Ok(Arc::new(snapshot))
}
