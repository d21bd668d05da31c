//! A store in figures.

use std::collections::BTreeSet;

use super::View;
use crate::crdt::{Dot, Entry, NodeId, OpBody, ReplicaId, Seq};
use crate::storage::codec::Batch;
use crate::storage::index::{IndexError, NotedState, noted_state};
use crate::storage::{Counts, Lsn, ReadForm, StoreError};

/// How many entries of each kind are in a log, repeated ones counted once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpCounts {
    /// Starts.
    pub starts: u64,
    /// Adds.
    pub adds: u64,
    /// Removes.
    pub removes: u64,
    /// Parts of state deltas.
    pub join_parts: u64,
    /// Ends of state deltas.
    pub join_commits: u64,
}

impl OpCounts {
    /// All together.
    pub fn total(&self) -> u64 {
        self.starts + self.adds + self.removes + self.join_parts + self.join_commits
    }
}

/// What is counted while the log is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogStatistics {
    ops: OpCounts,
    first: Option<Lsn>,
    last: Lsn,
}

impl LogStatistics {
    /// Counts the entries of a batch that have not been counted yet.
    pub fn batch(&mut self, batch: &Batch) {
        self.first.get_or_insert(batch.first);
        for (lsn, entry) in (batch.first.0..).map(Lsn).zip(&batch.entries) {
            if lsn <= self.last {
                continue;
            }
            self.last = lsn;
            let count = match entry {
                Entry::Op(op) => match op.body {
                    OpBody::Start { .. } => &mut self.ops.starts,
                    OpBody::Add(_) => &mut self.ops.adds,
                    OpBody::Remove { .. } => &mut self.ops.removes,
                },
                Entry::JoinPart(_) => &mut self.ops.join_parts,
                Entry::JoinCommit(_) => &mut self.ops.join_commits,
            };
            *count += 1;
        }
    }
}

/// A segment of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentSummary {
    /// Its number.
    pub counter: u64,
    /// The last LSN before it.
    pub after: Lsn,
    /// How many of its bytes count.
    pub bytes: u64,
    /// Whether it begins with the last batch of the one before it: that one was not closed in good order.
    pub repeats: bool,
}

/// What is known of an incarnation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaSummary {
    /// Its id.
    pub replica: ReplicaId,
    /// The node that it ran as, if its `Start` is held.
    pub node: Option<NodeId>,
    /// How many of its operations are held.
    pub held: Seq,
    /// How many of them the log may lack.
    pub floor: Seq,
    /// The last operation that its store held of the incarnation before it.
    pub parent: Option<Dot>,
}

/// A store in figures.
#[derive(Debug)]
pub struct Summary {
    /// The version of its format.
    pub format_version: u32,
    /// Whose store it is.
    pub node: NodeId,
    /// All nodes of the cluster; empty if `init` never came.
    pub nodes: Vec<NodeId>,
    /// The store's own last replica id; `None` if it has never written.
    pub own: Option<ReplicaId>,
    /// Which reply `read` gets.
    pub read_form: ReadForm,
    /// Whether the last stop was clean; not so while the node runs and has written.
    pub clean: bool,
    /// The last LSN that can be read.
    pub lsn: Lsn,
    /// The snapshot: its LSN, counts, bytes.
    pub snapshot: Option<(Lsn, Counts, u64)>,
    /// What `index.state` says: `None` if there is none.
    pub index: Result<Option<NotedState>, IndexError>,
    /// How much is in the set.
    pub counts: Counts,
    /// The first LSN in the log.
    pub first_lsn: Option<Lsn>,
    /// What is in the log.
    pub ops: OpCounts,
    /// The log's segments, oldest first.
    pub segments: Vec<SegmentSummary>,
    /// Bytes after the last good frame: cut short by a crash, or being written just now.
    pub torn_tail_bytes: u64,
    /// Every incarnation, by id: version vector, floor and parents in one.
    pub replicas: Vec<ReplicaSummary>,
}

impl Summary {
    /// The figures of a store.
    ///
    /// # Errors
    /// If the snapshot is damaged.
    pub fn of(view: &View) -> Result<Self, StoreError> {
        let (replay, manifest) = (&view.replay, &view.replay.manifest);
        let listed_last = manifest.segments.last().copied();
        let read_last = replay.log.segments.last().map(|segment| segment.header.counter);
        let snapshot = replay.snapshot.as_ref().map(|s| (s.header().lsn, s.counts(), s.bytes()));
        let segments = replay.log.segments.iter().map(|segment| SegmentSummary {
            counter: segment.header.counter,
            after: segment.header.lsn,
            bytes: segment.length,
            repeats: segment.header.repeats,
        });
        Ok(Self {
            format_version: view.format_version,
            node: manifest.node.clone(),
            nodes: manifest.nodes.clone(),
            own: replay.own,
            read_form: manifest.read_form,
            clean: replay.log.segments.is_empty() || replay.log.clean && read_last == listed_last,
            lsn: replay.lsn,
            snapshot,
            index: noted_state(&view.dir),
            counts: view.counts()?,
            first_lsn: view.statistics.first,
            ops: view.statistics.ops,
            segments: segments.collect(),
            torn_tail_bytes: replay.log.torn_tail_bytes,
            replicas: replicas(view),
        })
    }
}

fn replicas(view: &View) -> Vec<ReplicaSummary> {
    let state = &view.replay.state;
    let held = state.vv.iter().map(|(replica, _)| replica);
    let ids: BTreeSet<ReplicaId> = held.chain(state.incarnations.iter().map(|(replica, _)| replica)).collect();
    let of = |replica| ReplicaSummary {
        replica,
        node: view.node_of(replica).cloned(),
        held: state.vv.get(replica),
        floor: state.floor.get(replica),
        parent: state.incarnations.get(replica).and_then(|incarnation| incarnation.parent),
    };
    ids.into_iter().map(of).collect()
}
