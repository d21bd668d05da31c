//! `results.json`: its shape. Names and meanings stay, new fields may come.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::bench::history::{FaultKind, Workload};

/// The verdict over a run, and what it rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The verdict.
    pub valid: Validity,
    /// Which requests the clients sent.
    pub workload: Workload,
    /// What operations and faults were drawn from.
    pub seed: u64,
    /// The nodes' ids.
    pub nodes: Vec<String>,
    /// From the first line of the history to the last, in seconds.
    pub duration_s: f64,
    /// What is wrong: the first ones of each kind.
    pub anomalies: Vec<Anomaly>,
    /// How often each kind was found.
    pub anomaly_counts: BTreeMap<AnomalyKind, u64>,
    /// What could not be judged, and why.
    pub unknown: Vec<String>,
    /// Workload `or-set`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub or_set: Option<OrSetFigures>,
    /// Workloads `g-set` and `broadcast`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_full: Option<SetFullFigures>,
    /// Workload `echo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo: Option<EchoFigures>,
    /// Workload `unique-ids`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_ids: Option<UniqueIdsFigures>,
    /// What became of the operations.
    pub stats: Stats,
    /// Which share of the operations was answered well.
    pub availability: Availability,
    /// What went over the network; not known of a run that was cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<NetFigures>,
    /// What happened to each node's process, by its id.
    pub node_events: BTreeMap<String, NodeFigures>,
    /// How many faults of each kind there were.
    pub faults: BTreeMap<FaultKind, u64>,
}

impl Results {
    /// The exit code of a command that judges: 0 valid, 1 invalid, 2 unknown.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.valid {
            Validity::Valid => 0,
            Validity::Invalid => 1,
            Validity::Unknown => 2,
        }
    }
}

/// A verdict, in JSON as Jepsen writes it: `true`, `false` or `"unknown"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// Everything was judged and nothing is wrong.
    Valid,
    /// Something is wrong.
    Invalid,
    /// Nothing that was judged is wrong, but something could not be judged.
    Unknown,
}

impl Serialize for Validity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Validity::Valid => serializer.serialize_bool(true),
            Validity::Invalid => serializer.serialize_bool(false),
            Validity::Unknown => serializer.serialize_str("unknown"),
        }
    }
}

impl<'de> Deserialize<'de> for Validity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Bool(true) => Ok(Validity::Valid),
            Value::Bool(false) => Ok(Validity::Invalid),
            Value::String(text) if text == "unknown" => Ok(Validity::Unknown),
            _ => Err(serde::de::Error::custom("neither true, false nor \"unknown\"")),
        }
    }
}

/// Something that no correct node does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// Which rule is broken.
    pub kind: AnomalyKind,
    /// What happened, for people.
    pub text: String,
    /// The lines of the history that prove it, by their `index`: invocations, or what happened to a node.
    pub operations: Vec<usize>,
    /// The node that did it, if that can be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        // People count lines from 1.
        let lines: Vec<String> = self.operations.iter().map(|index| (index + 1).to_string()).collect();
        match lines.as_slice() {
            [] => Ok(()),
            [line] => write!(f, " (line {line})"),
            lines => write!(f, " (lines {})", lines.join(", ")),
        }
    }
}

/// The rules that can be broken. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnomalyKind {
    /// Two adds got the same tag, or one reply names a tag twice.
    DuplicateTag,
    /// A tag is not a UUID, or an add's reply has none.
    NotAUuid,
    /// A remove names a tag that is not of its element.
    ForeignTag,
    /// A remove names a tag whose add was invoked only after it.
    TagFromTheFuture,
    /// Two removes on one node, one after the other, name the same tag.
    RemovedTwice,
    /// A request that was asked for again got another answer than the first time.
    AnotherAnswer,
    /// A node does not know an add that it had acknowledged.
    MissedOwnAdd,
    /// A read holds an element that nobody had added.
    ElementFromNowhere,
    /// A read holds an element all tags of which were removed.
    ResurrectedElement,
    /// A final read lacks an element that has a tag which nobody removed.
    LostElement,
    /// The drain names a tag that a remove had taken before.
    ResurrectedTag,
    /// The drain never names a tag that nobody removed.
    LostTag,
    /// The nodes' final reads differ.
    NoAgreement,
    /// A read holds an element twice.
    DuplicateElement,
    /// An echo is not what was sent.
    WrongEcho,
    /// An id was given twice.
    DuplicateId,
    /// A node's process ended by itself.
    NodeExited,
    /// A node wrote a line that is not a message, or one to nobody.
    BadLine,
    /// Fewer operations than demanded were answered well.
    Unavailable,
}

impl AnomalyKind {
    /// Every kind.
    pub const ALL: [AnomalyKind; 19] = [
        AnomalyKind::DuplicateTag,
        AnomalyKind::NotAUuid,
        AnomalyKind::ForeignTag,
        AnomalyKind::TagFromTheFuture,
        AnomalyKind::RemovedTwice,
        AnomalyKind::AnotherAnswer,
        AnomalyKind::MissedOwnAdd,
        AnomalyKind::ElementFromNowhere,
        AnomalyKind::ResurrectedElement,
        AnomalyKind::LostElement,
        AnomalyKind::ResurrectedTag,
        AnomalyKind::LostTag,
        AnomalyKind::NoAgreement,
        AnomalyKind::DuplicateElement,
        AnomalyKind::WrongEcho,
        AnomalyKind::DuplicateId,
        AnomalyKind::NodeExited,
        AnomalyKind::BadLine,
        AnomalyKind::Unavailable,
    ];

    /// As in `results.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            AnomalyKind::DuplicateTag => "duplicate-tag",
            AnomalyKind::NotAUuid => "not-a-uuid",
            AnomalyKind::ForeignTag => "foreign-tag",
            AnomalyKind::TagFromTheFuture => "tag-from-the-future",
            AnomalyKind::RemovedTwice => "removed-twice",
            AnomalyKind::AnotherAnswer => "another-answer",
            AnomalyKind::MissedOwnAdd => "missed-own-add",
            AnomalyKind::ElementFromNowhere => "element-from-nowhere",
            AnomalyKind::ResurrectedElement => "resurrected-element",
            AnomalyKind::LostElement => "lost-element",
            AnomalyKind::ResurrectedTag => "resurrected-tag",
            AnomalyKind::LostTag => "lost-tag",
            AnomalyKind::NoAgreement => "no-agreement",
            AnomalyKind::DuplicateElement => "duplicate-element",
            AnomalyKind::WrongEcho => "wrong-echo",
            AnomalyKind::DuplicateId => "duplicate-id",
            AnomalyKind::NodeExited => "node-exited",
            AnomalyKind::BadLine => "bad-line",
            AnomalyKind::Unavailable => "unavailable",
        }
    }
}

impl fmt::Display for AnomalyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the checker of workload `or-set` counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OrSetFigures {
    /// Different elements that a client tried to add.
    pub elements: u64,
    /// Adds that got a tag.
    pub adds_acknowledged: u64,
    /// Adds without an answer: they may have happened.
    pub adds_unanswered: u64,
    /// Removes that were answered.
    pub removes_acknowledged: u64,
    /// … with at least one tag.
    pub removes_with_tags: u64,
    /// Removes without an answer.
    pub removes_unanswered: u64,
    /// Reads that were answered.
    pub reads_acknowledged: u64,
    /// Tags that removes named and no answered add had got.
    pub tags_of_unanswered_adds: u64,
    /// Acknowledged adds that a wipe or a rollback may have undone.
    pub adds_at_risk: u64,
    /// … that another node had seen, so that they had to survive all the same.
    pub adds_witnessed: u64,
    /// Acknowledged removes that a wipe or a rollback may have undone.
    pub removes_at_risk: u64,
    /// Elements that must be in the final reads.
    pub must_be_present: u64,
    /// Elements that must not.
    pub must_be_absent: u64,
    /// Elements of which the history does not say.
    pub undecided: u64,
    /// Elements that were in the final reads, if these agree.
    pub final_elements: Option<u64>,
    /// How long after the heal, in seconds, the last node began to answer what it answers in the end; `None`: the final
    /// reads do not agree, or there are none.
    pub converged_after_s: Option<f64>,
    /// The drain; `None`: there was none.
    pub drain: Option<DrainFigures>,
}

/// What the drain showed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DrainFigures {
    /// Removes that were answered.
    pub removes: u64,
    /// Tags that they named.
    pub tags_removed: u64,
    /// Tags that had to be among them.
    pub tags_expected: u64,
    /// … and were not.
    pub tags_missing: u64,
    /// Tags that must not have been among them, and were.
    pub tags_resurrected: u64,
}

/// What Jepsen's `set-full` counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SetFullFigures {
    /// Elements that a client tried to add.
    pub attempt_count: u64,
    /// Adds that were answered.
    pub acknowledged_count: u64,
    /// Elements that every read holds from some moment on.
    pub stable_count: u64,
    /// Elements that no read holds from some moment on, though they were known.
    pub lost_count: u64,
    /// All others: no read began after they were known, or they never were (no answer, and no read shows them).
    pub never_read_count: u64,
    /// Elements that no read holds from some moment on, as a wipe or a rollback may have taken the only store that held
    /// them.
    #[serde(default)]
    pub undone_count: u64,
    /// Stable elements that a read lacked which began after they were known.
    pub stale_count: u64,
    /// Elements that a read held twice.
    pub duplicated_count: u64,
    /// The lost elements: the first ones.
    pub lost: Vec<Value>,
    /// The elements that were never read: the first ones.
    pub never_read: Vec<Value>,
    /// The elements that took longest until every read held them.
    pub worst_stale: Vec<Stale>,
    /// Milliseconds from the moment at which an element was known to the one from which every read held it.
    pub stable_latencies: Option<Quantiles>,
    /// Milliseconds from the moment at which an element was known to the one from which no read held it.
    pub lost_latencies: Option<Quantiles>,
    /// As for workload `or-set`.
    pub converged_after_s: Option<f64>,
}

/// An element that some reads lacked for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stale {
    /// The element.
    pub element: Value,
    /// The add, by the index of its invocation.
    pub add: usize,
    /// The last read that lacked it, by the index of its invocation.
    pub last_absent: usize,
    /// Milliseconds from the moment at which it was known.
    pub stable_latency: f64,
}

/// What the checker of workload `echo` counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EchoFigures {
    /// Answers compared.
    pub compared: u64,
    /// Answers that differ from what was sent.
    pub wrong: u64,
}

/// What Jepsen's `unique-ids` counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UniqueIdsFigures {
    /// Requests.
    pub attempted_count: u64,
    /// Answers.
    pub acknowledged_count: u64,
    /// Ids that came more than once.
    pub duplicated_count: u64,
    /// Some of them with how often they came; the ids as JSON texts.
    pub duplicated: BTreeMap<String, u64>,
    /// The least and the greatest id by their JSON texts.
    pub range: Option<(Value, Value)>,
}

/// What became of the operations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// All of them.
    pub all: StatsOfKind,
    /// By what was asked: `add`, `remove`, `read`, `echo`, `generate`.
    pub by_f: BTreeMap<String, StatsOfKind>,
    /// Operations a second, from the first line to the end of the phase `main`.
    pub rate: f64,
}

/// What became of the operations of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatsOfKind {
    /// How many there were.
    pub count: u64,
    /// Answered well, perhaps late.
    pub ok_count: u64,
    /// … of them after the client had given up.
    pub late_count: u64,
    /// Known not to have happened.
    pub fail_count: u64,
    /// Nobody knows.
    pub info_count: u64,
    /// Milliseconds from the invocation to the answer, of those answered well.
    pub latency_ms: Option<Quantiles>,
}

/// A distribution, by Jepsen's points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// The least.
    #[serde(rename = "0")]
    pub min: f64,
    /// The median.
    #[serde(rename = "0.5")]
    pub p50: f64,
    /// 95th percentile.
    #[serde(rename = "0.95")]
    pub p95: f64,
    /// 99th percentile.
    #[serde(rename = "0.99")]
    pub p99: f64,
    /// The greatest.
    #[serde(rename = "1")]
    pub max: f64,
}

/// Which share of the operations must be answered well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Demand {
    /// Any.
    #[default]
    None,
    /// All.
    Total,
    /// At least this one, from 0 to 1.
    Share(f64),
}

impl std::str::FromStr for Demand {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse::<f64>()) {
            ("total", _) => Ok(Demand::Total),
            ("none", _) => Ok(Demand::None),
            (_, Ok(share)) if (0.0..=1.0).contains(&share) => Ok(Demand::Share(share)),
            _ => Err("\"total\", or a number from 0 to 1".to_owned()),
        }
    }
}

/// Which share of the operations was answered well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Availability {
    /// Answered well while the client waited, by all.
    pub ok_fraction: f64,
    /// What was demanded.
    pub demand: Demand,
}

/// What went over the network, per operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NetFigures {
    /// Messages between nodes.
    pub server_messages: u64,
    /// Their bytes.
    pub server_bytes: u64,
    /// Messages between nodes and clients.
    pub client_messages: u64,
    /// Their bytes.
    pub client_bytes: u64,
    /// All messages per operation.
    pub messages_per_op: f64,
    /// Messages between nodes per operation.
    pub server_messages_per_op: f64,
    /// All bytes per operation.
    pub bytes_per_op: f64,
    /// Bytes between nodes per operation.
    pub server_bytes_per_op: f64,
    /// Messages delivered to nodes.
    pub delivered: u64,
    /// Between nodes: lost by the fault `loss`.
    pub lost: u64,
    /// Between nodes: delivered twice by the fault `duplicate`.
    pub duplicated: u64,
    /// Between nodes: dropped by a partition.
    pub partitioned: u64,
    /// Dropped since the receiver was down.
    pub to_dead: u64,
    /// How long after its due time a message was handed to the node's pipe, in microseconds: median.
    pub late_us_p50: u64,
    /// … 99th percentile.
    pub late_us_p99: u64,
    /// … worst.
    pub late_us_max: u64,
    /// Processor time of the bench itself, in seconds.
    pub bench_cpu_s: f64,
    /// Processor time of all the nodes' processes together, in seconds.
    pub nodes_cpu_s: f64,
}

/// What happened to a node's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFigures {
    /// How often it was started.
    pub starts: u64,
    /// How often it was killed.
    pub kills: u64,
    /// How often it ended by itself.
    pub exits: u64,
    /// How many lines it wrote that are not messages.
    pub bad_lines: u64,
    /// How often its store was deleted.
    pub wipes: u64,
    /// How often its store was set back to a copy.
    pub rollbacks: u64,
    /// How often its power was cut.
    #[serde(default)]
    pub power_cuts: u64,
    /// Changes of its disk, not synced, that were there all the same after those cuts.
    #[serde(default)]
    pub unsynced_kept: u64,
    /// … and that were not.
    #[serde(default)]
    pub unsynced_forgotten: u64,
}
