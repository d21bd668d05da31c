//! What happened in a run, as the clients and the nemesis saw it: the events of `history.jsonl`, one a line, in the order
//! in which they happened. The runner is one thread, so that order is exact.
//!
//! The shape is Jepsen's (`invoke`, then `ok`, `fail` or `info`, <https://jepsen.io/>, "Operations"), with two
//! differences: a completion names its invocation by index, and a reply that comes after its client has given up is a
//! second completion of the same operation, since a late reply is an answer all the same.

mod fold;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use fold::{Acknowledged, Fault, History, HistoryError, Life, Moment, Operation, Outcome};

/// The version of the file's format.
pub const FORMAT: u32 = 1;

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Place in the history, from 0.
    pub index: usize,
    /// Nanoseconds since the run began.
    pub time_ns: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Event {
    /// The first line: what is run.
    Run(Run),
    /// A client sends a request.
    Invoke {
        /// The client, `c0`, `c1`, …: has one operation in flight at most.
        process: String,
        /// The node that it sends to.
        node: String,
        /// The part of the run.
        phase: Phase,
        /// What it asks for.
        #[serde(flatten)]
        request: Request,
    },
    /// The node did it.
    Ok {
        /// Index of the invocation.
        op: usize,
        /// The client.
        process: String,
        /// What the node answered.
        #[serde(flatten)]
        answer: Answer,
    },
    /// It did not happen and will not: a definite error, or the node was down.
    Fail {
        /// Index of the invocation.
        op: usize,
        /// The client.
        process: String,
        /// Maelstrom's code.
        code: i64,
        /// What the node said.
        text: String,
    },
    /// It may have happened, or may happen yet: no answer in time, the node died, or an indefinite error.
    Info {
        /// Index of the invocation.
        op: usize,
        /// The client.
        process: String,
        /// What is known.
        text: String,
    },
    /// A request is sent once more, to the same node under the same name, as nobody had answered it.
    Again {
        /// Index of the invocation.
        op: usize,
        /// The client, another one.
        process: String,
    },
    /// Something happened to a node's process.
    Node {
        /// The node.
        node: String,
        /// What.
        #[serde(flatten)]
        change: NodeChange,
    },
    /// The nemesis begins or ends a fault.
    Fault {
        /// Counts the faults of a run, from 0; the same at the begin and at the end.
        fault: u64,
        /// Which kind.
        kind: FaultKind,
        /// Whether it begins or ends.
        action: FaultAction,
        /// The nodes that it hits; empty: all.
        nodes: Vec<String>,
        /// For people.
        text: String,
    },
    /// A part of the run begins. `final` begins when everything is healed and every node is told to start.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// The last line, unless the run was cut off.
    End(End),
}

/// What is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`FORMAT`].
    pub format: u32,
    /// Which requests the clients send, and which checker judges.
    pub workload: Workload,
    /// The nodes' ids.
    pub nodes: Vec<String>,
    /// What operations and faults are drawn from.
    pub seed: u64,
    /// When it began: RFC 3339, UTC.
    pub started: String,
    /// The command line's other options, as given or by default.
    pub options: BTreeMap<String, Value>,
}

/// Which requests the clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// `or_set_add`, `or_set_remove`, `or_set_read`.
    OrSet,
    /// `add`, `read`.
    GSet,
    /// `broadcast`, `read`.
    Broadcast,
    /// `echo`.
    Echo,
    /// `generate`.
    UniqueIds,
}

impl Workload {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Workload::OrSet => "or-set",
            Workload::GSet => "g-set",
            Workload::Broadcast => "broadcast",
            Workload::Echo => "echo",
            Workload::UniqueIds => "unique-ids",
        }
    }
}

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Operations beside faults, until the time limit.
    Main,
    /// Everything is healed and started: reads on every node until they agree.
    Final,
    /// Workload `or-set`: every element is removed on one node.
    Drain,
}

/// What a client asks for. Which message that is on the wire depends on the workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "kebab-case")]
pub enum Request {
    /// `or_set_add`, `add` or `broadcast`.
    Add {
        /// The element.
        element: Value,
    },
    /// `or_set_remove`.
    Remove {
        /// The element.
        element: Value,
    },
    /// `or_set_read` or `read`.
    Read,
    /// `echo`.
    Echo {
        /// To be sent back.
        echo: Value,
    },
    /// `generate`.
    Generate,
}

/// What a node answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "kebab-case")]
pub enum Answer {
    /// The element is added.
    Add {
        /// `or_set_add`: the tag that it got.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<String>,
    },
    /// These tags are gone.
    Remove {
        /// As the node named them.
        tags: Vec<String>,
    },
    /// What the set holds.
    Read {
        /// In the node's order.
        elements: Vec<Value>,
    },
    /// What was sent.
    Echo {
        /// As it came back.
        echo: Value,
    },
    /// A new id.
    Generate {
        /// As it came.
        id: Value,
    },
}

/// What happened to a node's process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum NodeChange {
    /// A process was started.
    Started {
        /// Its process id.
        pid: u32,
    },
    /// It is ready: `init_ok` has come, or `init` is not sent again.
    Ready,
    /// SIGKILL. Nothing that it sends after this moment counts, all that it sent before does.
    Killed,
    /// It ended by itself.
    Exited {
        /// Its exit code or signal, for people.
        status: String,
    },
    /// It wrote a line that is not a message, or one to nobody.
    BadLine {
        /// What is wrong.
        text: String,
        /// The line's beginning.
        line: String,
    },
    /// A copy of its store was taken while it was down.
    Copied,
    /// Its store was deleted while it was down.
    Wiped,
    /// Its store was set back to the last copy while it was down.
    RolledBack,
    /// The power of its machine was cut. If its process was alive, `killed` stands right before.
    PowerCut {
        /// How many changes of its disk that it had not synced had got there all the same.
        kept: u64,
        /// How many are forgotten.
        forgotten: u64,
    },
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// SIGKILL of one or more nodes, and a restart on the same store.
    Kill,
    /// SIGKILL of all nodes at once, and restarts on the same stores.
    KillAll,
    /// SIGSTOP of one or more nodes for a while.
    Pause,
    /// Some nodes cannot reach some others: halves, one against all, majority ring, one-way.
    Partition,
    /// Messages between nodes are lost now and then.
    Loss,
    /// Messages between nodes arrive twice now and then.
    Duplicate,
    /// Messages between nodes take ten times as long.
    Slow,
    /// A node is killed and loses its store.
    Wipe,
    /// A node is killed and comes back with an older copy of its store.
    Rollback,
    /// The power of one or more nodes is cut: they are killed and lose what they had not synced, or a part of it.
    Power,
    /// The power of all nodes is cut at once.
    PowerAll,
}

impl FaultKind {
    /// Whether it cuts the power, so that the nodes' stores must lie on disks that forget.
    #[must_use]
    pub fn cuts_power(self) -> bool {
        matches!(self, FaultKind::Power | FaultKind::PowerAll)
    }

    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::Kill => "kill",
            FaultKind::KillAll => "kill-all",
            FaultKind::Pause => "pause",
            FaultKind::Partition => "partition",
            FaultKind::Loss => "loss",
            FaultKind::Duplicate => "duplicate",
            FaultKind::Slow => "slow",
            FaultKind::Wipe => "wipe",
            FaultKind::Rollback => "rollback",
            FaultKind::Power => "power",
            FaultKind::PowerAll => "power-all",
        }
    }
}

/// Whether a fault begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultAction {
    /// It begins.
    Begin,
    /// It ends.
    End,
}

/// What only the runner knows at a run's end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// The run was cut short by a signal.
    #[serde(default)]
    pub interrupted: bool,
    /// What went over the network.
    pub net: Net,
    /// Processor time of the bench itself, in seconds.
    pub bench_cpu_s: f64,
    /// Processor time of all the nodes' processes together, in seconds.
    pub nodes_cpu_s: f64,
}

/// What went over the network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Net {
    /// Messages sent between nodes.
    pub server_messages: u64,
    /// Their bytes, as lines.
    pub server_bytes: u64,
    /// Messages sent between nodes and clients, both ways.
    pub client_messages: u64,
    /// Their bytes, as lines.
    pub client_bytes: u64,
    /// Between nodes: lost by the fault `loss`.
    pub lost: u64,
    /// Between nodes: delivered twice by the fault `duplicate`.
    pub duplicated: u64,
    /// Between nodes: dropped by a partition.
    pub partitioned: u64,
    /// Dropped since the receiver was down.
    pub to_dead: u64,
    /// Messages delivered.
    pub delivered: u64,
    /// How long after its due time a message was handed to the node's pipe, in microseconds: median.
    pub late_us_p50: u64,
    /// … 99th percentile.
    pub late_us_p99: u64,
    /// … worst.
    pub late_us_max: u64,
}
