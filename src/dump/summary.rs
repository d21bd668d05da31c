//! A store in figures.

use std::collections::{BTreeMap, BTreeSet};

use super::View;
use crate::crdt::{Dot, Entry, Incarnations, NodeId, OpBody, ReplicaId, Seq};
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
    /// Answers to requests with a name.
    pub answers: u64,
}

impl OpCounts {
    /// All together.
    pub fn total(&self) -> u64 {
        self.starts + self.adds + self.removes + self.join_parts + self.join_commits + self.answers
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
                Entry::Answered(_) => &mut self.ops.answers,
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
    /// How many requests with a name would be known again.
    pub answers: usize,
    /// The first LSN in the log.
    pub first_lsn: Option<Lsn>,
    /// What is in the log.
    pub ops: OpCounts,
    /// The log's segments, oldest first.
    pub segments: Vec<SegmentSummary>,
    /// Bytes after the last good frame: cut short by a crash, or being written just now.
    pub torn_tail_bytes: u64,
    /// Every incarnation: version vector, floor and parents in one. By node, parents before children.
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
            answers: replay.state.answers.len(),
            first_lsn: view.statistics.first,
            ops: view.statistics.ops,
            segments: segments.collect(),
            torn_tail_bytes: replay.log.torn_tail_bytes,
            replicas: replicas(view),
        })
    }
}

/// By node, and among one node's incarnations parents before children; then by id.
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
    let ages = ages(&state.incarnations);
    let mut replicas: Vec<ReplicaSummary> = ids.into_iter().map(of).collect();
    replicas.sort_by_cached_key(|row| (row.node.clone(), ages.get(&row.replica).copied(), row.replica));
    replicas
}

/// How many ancestors each incarnation has. No `Start` can make a cycle; if there were one, it would be cut somewhere.
fn ages(incarnations: &Incarnations) -> BTreeMap<ReplicaId, u64> {
    let mut ages = BTreeMap::new();
    for (replica, _) in incarnations.iter() {
        let mut line = vec![replica];
        let mut seen = BTreeSet::from([replica]);
        let oldest = loop {
            let youngest_known = line.last().and_then(|last| ages.get(last)).copied();
            if let Some(age) = youngest_known {
                line.pop();
                break age + 1;
            }
            let parent = line.last().and_then(|last| incarnations.get(*last)?.parent).map(|parent| parent.replica);
            match parent.filter(|parent| seen.insert(*parent)) {
                Some(parent) => line.push(parent),
                None => break 0,
            }
        };
        ages.extend((oldest..).zip(line.into_iter().rev()).map(|(age, replica)| (replica, age)));
    }
    ages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crdt::Incarnation;

    #[test]
    fn parents_are_older_than_their_children_whatever_their_ids() {
        let id = ReplicaId::from_random;
        let incarnation = |parent: Option<u128>| Incarnation {
            node: NodeId::new("n1").unwrap(),
            parent: parent.map(|parent| Dot::new(id(parent), Seq(1))),
        };
        // 5 ─ 1 ─ 3, a fork 5 ─ 2, a child 9 of somebody unknown, and a cycle that cannot be.
        let family = [(1, Some(5)), (2, Some(5)), (3, Some(1)), (5, None), (9, Some(8)), (6, Some(7)), (7, Some(6))];
        let ages = ages(&family.into_iter().map(|(replica, parent)| (id(replica), incarnation(parent))).collect());
        let of = |replica| ages.get(&id(replica)).copied();
        assert_eq!([of(5), of(1), of(2), of(3), of(9)], [Some(0), Some(1), Some(1), Some(2), Some(1)]);
        assert_eq!([of(6), of(7)].iter().flatten().count(), 2);
    }
}
