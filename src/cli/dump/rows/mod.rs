//! What is shown of a store, in the form in which JSON has it and tables take it.
//!
//! An element is its canonical text as a JSON value: nothing is parsed into a number on the way.

mod entry;
mod summary;

use serde::Serialize;
use serde_json::value::RawValue;

pub use entry::{AnswerRow, EntryRow, What};
pub use summary::{IndexStateRow, ParentRow, ReplicaRow, SummaryRow};

use crate::crdt::{Dot, Incarnations, NodeId, Record, ReplicaId, Tag};
use crate::dump::View;
use crate::dump::diff::Absence;
use crate::dump::history::Event;
use crate::storage::Lsn;

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
