//! What is shown of a store, in the form in which JSON has it and tables take it.
//!
//! An element is its canonical text as a JSON value: nothing is parsed into a number on the way.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::crdt::{
    Answer, Answered, Dot, Entry, Incarnations, JoinCommit, JoinPart, LiveBits, NodeId, OpBody, Record, ReplicaId, Seq,
    Tag,
};
use crate::dump::diff::Absence;
use crate::dump::history::Event;
use crate::dump::{LogItem, ReplicaSummary, Summary, View};
use crate::storage::index::NotedState;
use crate::storage::log::{Segment, segment};
use crate::storage::{Lsn, ReadForm};

/// Who knows the nodes behind replica ids.
pub trait Names {
    /// The node that an incarnation ran as.
    fn node_of(&self, replica: ReplicaId) -> Option<&NodeId>;
}

impl Names for View {
    fn node_of(&self, replica: ReplicaId) -> Option<&NodeId> {
        View::node_of(self, replica)
    }
}

impl Names for Incarnations {
    fn node_of(&self, replica: ReplicaId) -> Option<&NodeId> {
        self.get(replica).map(|incarnation| &incarnation.node)
    }
}

fn node_name(names: &dyn Names, replica: ReplicaId) -> Option<String> {
    names.node_of(replica).map(NodeId::to_string)
}

/// A text that is JSON, as the value that it is. Should it be none (an index may hold anything), as a string.
pub fn raw(text: &str) -> Box<RawValue> {
    let quoted = || serde_json::value::to_raw_value(text).expect("a string can be JSON");
    RawValue::from_string(text.to_owned()).unwrap_or_else(|_| quoted())
}

/// The elements of records in key order, one after the other.
#[derive(Default)]
pub struct ElementRows {
    prefix: Vec<u8>,
    text: String,
}

impl ElementRows {
    /// Goes on to the next record; says whether it is the first of its element.
    pub fn next(&mut self, record: &Record) -> bool {
        if record.key.prefix() == self.prefix {
            return false;
        }
        self.prefix.clear();
        self.prefix.extend_from_slice(record.key.prefix());
        self.text = String::from_utf8_lossy(record.element_bytes()).into_owned();
        true
    }

    /// The present element.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// A tag, and what it says by itself.
#[derive(Serialize, Debug)]
pub struct TagRow {
    pub tag: String,
    pub node: Option<String>,
    pub replica: String,
    pub seq: u64,
}

impl TagRow {
    pub fn new(names: &dyn Names, tag: Tag) -> Self {
        let (replica, seq) = (tag.replica.to_string(), tag.seq.0);
        Self { tag: tag.to_uuid().to_string(), node: node_name(names, tag.replica), replica, seq }
    }
}

/// The name of an operation.
#[derive(Serialize, Debug)]
pub struct DotRow {
    pub node: Option<String>,
    pub replica: String,
    pub seq: u64,
}

impl DotRow {
    pub fn new(names: &dyn Names, dot: Dot) -> Self {
        Self { node: node_name(names, dot.replica), replica: dot.replica.to_string(), seq: dot.seq.0 }
    }
}

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
    fn new(dot: Dot) -> Self {
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

fn join_name(join: u64) -> String {
    format!("{join:016x}")
}

/// The index about itself.
#[derive(Serialize, Debug)]
#[serde(untagged)]
pub enum IndexRow {
    /// It is open.
    Open { directory: String, closed: bool, lsn: u64, checksum: u32, elements: u64, tags: u64, trees: Vec<String> },
    /// It cannot be shown.
    Unavailable { unavailable: String },
}

/// What befell an element.
#[derive(Serialize, Debug)]
pub struct EventRow {
    pub lsn: u64,
    #[serde(flatten)]
    pub what: EventWhat,
}

/// See [`Event`].
#[derive(Serialize, Debug)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventWhat {
    Added(TagRow),
    Removed { by: DotRow, tags: Vec<TagRow> },
    Joined { join: String, added: Vec<TagRow>, removed: Vec<TagRow> },
}

impl EventRow {
    pub fn new(names: &dyn Names, lsn: Lsn, event: &Event) -> Self {
        let rows = |tags: &[Tag]| tags.iter().map(|tag| TagRow::new(names, *tag)).collect();
        let what = match event {
            Event::Added(tag) => EventWhat::Added(TagRow::new(names, *tag)),
            Event::Removed { by, tags } => EventWhat::Removed { by: DotRow::new(names, *by), tags: rows(tags) },
            Event::Joined { join, added, removed } => {
                EventWhat::Joined { join: join_name(join.0), added: rows(added), removed: rows(removed) }
            }
        };
        Self { lsn: lsn.0, what }
    }
}

/// A tag that only one of two stores has.
#[derive(Serialize, Debug)]
pub struct DifferenceRow {
    pub element: Box<RawValue>,
    #[serde(flatten)]
    pub tag: TagRow,
    /// The store that has it.
    pub only_in: String,
    /// The store that does not.
    pub not_in: String,
    #[serde(flatten)]
    pub why: WhyNot,
}

/// See [`Absence`].
#[derive(Serialize, Debug)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum WhyNot {
    Unheard,
    Removed {
        by: Option<DotRow>,
        #[serde(skip_serializing_if = "Option::is_none")]
        join: Option<String>,
    },
}

impl WhyNot {
    /// `names`: of the store that does not have the tag.
    pub fn new(names: &dyn Names, absence: Absence) -> Self {
        match absence {
            Absence::Unheard => Self::Unheard,
            Absence::Removed(by) => Self::Removed { by: Some(DotRow::new(names, by)), join: None },
            Absence::Joined(join) => Self::Removed { by: None, join: Some(join_name(join.0)) },
            Absence::Forgotten => Self::Removed { by: None, join: None },
        }
    }
}
