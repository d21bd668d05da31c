//! The entries of a log.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{DotRow, Names, ParentRow, ReplicaRow, join_name, raw};
use crate::crdt::{Answer, Answered, Dot, Entry, JoinCommit, JoinPart, LiveBits, OpBody, ReplicaId, Seq, Tag};
use crate::dump::LogItem;
use crate::storage::Lsn;
use crate::storage::log::{Segment, segment};

/// Something in the log, with its place.
#[derive(Serialize, Debug)]
pub struct EntryRow {
    pub segment: String,
    pub offset: u64,
    pub lsn: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub repeated: bool,
    #[serde(flatten)]
    pub dot: Option<DotRow>,
    #[serde(flatten)]
    pub what: What,
}

/// What an entry of the log says.
#[derive(Serialize, Debug)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum What {
    Start { parent: Option<ParentRow> },
    Add { tag: String, element: Box<RawValue> },
    Remove { tags: Vec<String>, element: Box<RawValue> },
    JoinPart { join: String, records: Vec<JoinRecordRow>, live: Vec<LiveRow> },
    JoinCommit { join: String, version_vector: Vec<ReplicaRow> },
    Answer(AnswerRow),
    Clean { index_lsn: Option<u64>, counts: bool },
}

/// What was answered to a request with a name.
#[derive(Serialize, Debug)]
pub struct AnswerRow {
    /// The hash of its `request_id`: SHA-256, the first 16 bytes.
    pub request: String,
    /// To what sort of request.
    pub to: &'static str,
    /// The tags in the answer.
    pub tags: Vec<String>,
}

impl AnswerRow {
    pub fn new(answered: &Answered) -> Self {
        let to = match &answered.answer {
            Answer::Added(_) => "add",
            Answer::AddedMany(_) => "add_many",
            Answer::Removed(_) => "remove",
            Answer::RemovedMany(_) => "remove_many",
        };
        let tags: Vec<Tag> = answered.answer.tags().collect();
        Self { request: answered.key.to_string(), to, tags: uuids(&tags) }
    }
}

/// A record in a part of a state delta.
#[derive(Serialize, Debug)]
pub struct JoinRecordRow {
    pub tag: String,
    pub element: Box<RawValue>,
}

/// Tags of one incarnation that were live at the sender, as runs of sequence numbers.
#[derive(Serialize, Debug)]
pub struct LiveRow {
    pub replica: String,
    pub seqs: Vec<(u64, u64)>,
}

impl LiveRow {
    fn new(live: &LiveBits) -> Self {
        let mut seqs: Vec<(u64, u64)> = Vec::new();
        for Dot { seq: Seq(seq), .. } in live.dots() {
            match seqs.last_mut() {
                Some((_, last)) if *last + 1 == seq => *last = seq,
                _ => seqs.push((seq, seq)),
            }
        }
        Self { replica: live.replica.to_string(), seqs }
    }
}

fn uuids(tags: &[Tag]) -> Vec<String> {
    tags.iter().map(|tag| tag.to_uuid().to_string()).collect()
}

impl EntryRow {
    pub fn new(names: &dyn Names, segment: &Segment, offset: u64, item: &LogItem) -> Self {
        let segment = segment::file_name(segment.header.counter);
        match item {
            LogItem::Entry { lsn, entry, repeated } => {
                Self { repeated: *repeated, ..Self::of(names, segment, offset, *lsn, entry) }
            }
            LogItem::Clean { index, counts } => {
                let index_lsn = (index.lsn > Lsn(0)).then_some(index.lsn.0);
                let what = What::Clean { index_lsn, counts: *counts };
                Self { segment, offset, lsn: None, repeated: false, dot: None, what }
            }
        }
    }

    /// An entry in a frame at `offset` of a segment.
    pub fn of(names: &dyn Names, segment: String, offset: u64, lsn: Lsn, entry: &Entry) -> Self {
        let (dot, what) = What::new(names, entry);
        Self { segment, offset, lsn: Some(lsn.0), repeated: false, dot, what }
    }
}

impl What {
    fn new(names: &dyn Names, entry: &Entry) -> (Option<DotRow>, Self) {
        let op = match entry {
            Entry::Op(op) => op,
            Entry::JoinPart(part) => return (None, Self::part(part)),
            Entry::JoinCommit(commit) => return (None, Self::commit(commit)),
            Entry::Answered(answered) => return (None, Self::Answer(AnswerRow::new(answered))),
        };
        let what = match &op.body {
            OpBody::Start { parent, .. } => Self::Start { parent: parent.map(ParentRow::new) },
            OpBody::Add(element) => Self::Add { tag: op.dot.to_uuid().to_string(), element: raw(element.as_str()) },
            OpBody::Remove { element, tags } => Self::Remove { tags: uuids(tags), element: raw(element.as_str()) },
        };
        (Some(DotRow::new(names, op.dot)), what)
    }

    fn part(part: &JoinPart) -> Self {
        let record = |(element, tag): &(crate::crdt::Element, Tag)| JoinRecordRow {
            tag: tag.to_uuid().to_string(),
            element: raw(element.as_str()),
        };
        Self::JoinPart {
            join: join_name(part.join.0),
            records: part.records.iter().map(record).collect(),
            live: part.live.iter().map(LiveRow::new).collect(),
        }
    }

    fn commit(commit: &JoinCommit) -> Self {
        let mut rows: BTreeMap<ReplicaId, ReplicaRow> = BTreeMap::new();
        for (replica, Seq(held)) in commit.vv.iter() {
            let row = ReplicaRow { replica: replica.to_string(), node: None, held, floor: None, parent: None };
            rows.insert(replica, row);
        }
        for (replica, incarnation) in commit.incarnations.iter() {
            let row = rows.entry(replica).or_insert_with(|| ReplicaRow {
                replica: replica.to_string(),
                node: None,
                held: 0,
                floor: None,
                parent: None,
            });
            row.node = Some(incarnation.node.to_string());
            row.parent = incarnation.parent.map(ParentRow::new);
        }
        Self::JoinCommit { join: join_name(commit.join.0), version_vector: rows.into_values().collect() }
    }
}
