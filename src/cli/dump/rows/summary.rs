//! The summary of a store.

use serde::Serialize;

use crate::crdt::{Dot, NodeId};
use crate::dump::{ReplicaSummary, Summary};
use crate::storage::ReadForm;
use crate::storage::index::NotedState;
use crate::storage::log::segment;

/// See [`Summary`].
#[derive(Serialize, Debug)]
pub struct SummaryRow {
    pub format_version: u32,
    pub node: String,
    pub nodes: Vec<String>,
    pub replica: Option<String>,
    pub read_form: &'static str,
    pub clean_stop: bool,
    pub lsn: LsnRow,
    pub elements: u64,
    pub tags: u64,
    pub request_ids: usize,
    pub log: LogRow,
    pub snapshot: Option<SnapshotRow>,
    pub index_state: Option<IndexStateRow>,
    pub version_vector: Vec<ReplicaRow>,
}

#[derive(Serialize, Debug)]
pub struct LsnRow {
    pub last_readable: u64,
    pub snapshot: Option<u64>,
    pub index: Option<u64>,
}

#[derive(Serialize, Debug)]
pub struct LogRow {
    pub first_lsn: Option<u64>,
    pub ops: OpCountsRow,
    pub bytes: u64,
    pub torn_tail_bytes: u64,
    pub segments: Vec<SegmentRow>,
}

#[derive(Serialize, Debug)]
pub struct OpCountsRow {
    pub total: u64,
    pub start: u64,
    pub add: u64,
    pub remove: u64,
    pub join_part: u64,
    pub join_commit: u64,
    pub answer: u64,
}

#[derive(Serialize, Debug)]
pub struct SegmentRow {
    pub file: String,
    pub bytes: u64,
    pub after_lsn: u64,
    pub repeats_last_batch: bool,
}

#[derive(Serialize, Debug)]
pub struct SnapshotRow {
    pub lsn: u64,
    pub elements: u64,
    pub tags: u64,
    pub bytes: u64,
}

/// What `index.state` says, or why it says nothing.
#[derive(Serialize, Debug)]
#[serde(untagged)]
pub enum IndexStateRow {
    Noted { directory: String, lsn: u64, closed: bool },
    Bad { unusable: String },
}

impl IndexStateRow {
    fn noted(state: NotedState) -> Self {
        Self::Noted { directory: format!("index/{}", state.number), lsn: state.position.lsn.0, closed: state.closed }
    }
}

#[derive(Serialize, Debug)]
pub struct ReplicaRow {
    pub replica: String,
    pub node: Option<String>,
    pub held: u64,
    /// Absent where there is none: in a state delta.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<u64>,
    pub parent: Option<ParentRow>,
}

#[derive(Serialize, Debug)]
pub struct ParentRow {
    pub replica: String,
    pub seq: u64,
}

impl ParentRow {
    pub fn new(dot: Dot) -> Self {
        Self { replica: dot.replica.to_string(), seq: dot.seq.0 }
    }
}

impl SummaryRow {
    pub fn new(summary: &Summary) -> Self {
        let index_state = match &summary.index {
            Ok(state) => state.map(IndexStateRow::noted),
            Err(error) => Some(IndexStateRow::Bad { unusable: error.to_string() }),
        };
        let index_lsn = summary.index.as_ref().ok().and_then(|state| state.map(|state| state.position.lsn.0));
        Self {
            format_version: summary.format_version,
            node: summary.node.to_string(),
            nodes: summary.nodes.iter().map(NodeId::to_string).collect(),
            replica: summary.own.map(|own| own.to_string()),
            read_form: match summary.read_form {
                ReadForm::Value => "value",
                ReadForm::Messages => "messages",
            },
            clean_stop: summary.clean,
            lsn: LsnRow {
                last_readable: summary.lsn.0,
                snapshot: summary.snapshot.map(|(lsn, ..)| lsn.0),
                index: index_lsn,
            },
            elements: summary.counts.elements,
            tags: summary.counts.tags,
            request_ids: summary.answers,
            log: LogRow::new(summary),
            snapshot: summary.snapshot.map(|(lsn, counts, bytes)| SnapshotRow {
                lsn: lsn.0,
                elements: counts.elements,
                tags: counts.tags,
                bytes,
            }),
            index_state,
            version_vector: summary.replicas.iter().map(ReplicaRow::new).collect(),
        }
    }
}

impl LogRow {
    fn new(summary: &Summary) -> Self {
        let ops = summary.ops;
        let segments: Vec<SegmentRow> = summary
            .segments
            .iter()
            .map(|s| SegmentRow {
                file: segment::file_name(s.counter),
                bytes: s.bytes,
                after_lsn: s.after.0,
                repeats_last_batch: s.repeats,
            })
            .collect();
        Self {
            first_lsn: summary.first_lsn.map(|lsn| lsn.0),
            ops: OpCountsRow {
                total: ops.total(),
                start: ops.starts,
                add: ops.adds,
                remove: ops.removes,
                join_part: ops.join_parts,
                join_commit: ops.join_commits,
                answer: ops.answers,
            },
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            torn_tail_bytes: summary.torn_tail_bytes,
            segments,
        }
    }
}

impl ReplicaRow {
    fn new(replica: &ReplicaSummary) -> Self {
        Self {
            replica: replica.replica.to_string(),
            node: replica.node.as_ref().map(NodeId::to_string),
            held: replica.held.0,
            floor: Some(replica.floor.0),
            parent: replica.parent.map(ParentRow::new),
        }
    }
}
