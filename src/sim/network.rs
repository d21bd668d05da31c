//! The network: messages under way.
//!
//! Messages are encoded to their lines and decoded again (in long runs some of them, as that costs more than all the
//! rest), so what arrives is what a real node would have understood, and its size is the real one.

use std::collections::{BTreeMap, BTreeSet};

use crate::crdt::NodeId;
use crate::maelstrom::{Decoder, Incoming, Limits, encode};
use crate::replica::{Outgoing, PeerBody, PeerMessage};
use uuid::Uuid;

/// No message but one with a single operation is larger.
const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// What a test has in mind for a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It arrives.
    Deliver,
    /// It does not.
    Drop,
    /// It arrives, and once more.
    Twice,
    /// It arrives so many milliseconds later than it would.
    Late(u64),
}

/// A message that has arrived.
pub struct Arrival {
    /// The sender's name.
    pub from: NodeId,
    /// The receiver's name.
    pub to: NodeId,
    /// The message, as the receiver understands it.
    pub message: PeerMessage,
}

type Chooser = Box<dyn FnMut(&NodeId, &NodeId, &PeerMessage) -> Fate>;

/// See the module's text. Probabilities are in percent.
pub struct Network {
    /// How many are lost.
    pub loss: u64,
    /// How many arrive twice.
    pub duplication: u64,
    /// How many take as long as [`Network::late_ms`] says: past a restart of their receiver, perhaps.
    pub lateness: u64,
    /// How late those are: at least, and at most.
    pub late_ms: (u64, u64),
    /// How long the others take: at least, and at most.
    pub latency_ms: (u64, u64),
    /// Nothing gets from the first to the second.
    pub cuts: BTreeSet<(NodeId, NodeId)>,
    /// Overrides the dice, if set.
    pub chooser: Option<Chooser>,
    /// One of so many messages goes through its form on the wire.
    pub through_wire_every: u64,
    sent: BTreeMap<&'static str, u64>,
    under_way: BTreeMap<(u64, u64), Arrival>,
    serial: u64,
    rng: fastrand::Rng,
}

/// What kind of message it is.
pub fn kind(body: &PeerBody) -> &'static str {
    match body {
        PeerBody::Digest { .. } => "digest",
        PeerBody::Ops { .. } => "ops",
        PeerBody::Sign { .. } => "sign",
        PeerBody::Offer { .. } => "offer",
        PeerBody::Pull { .. } => "pull",
        PeerBody::Part { .. } => "part",
        PeerBody::Gone { .. } => "gone",
    }
}

impl Network {
    /// A good network.
    pub fn new(seed: u64) -> Self {
        Self {
            loss: 0,
            duplication: 0,
            lateness: 0,
            late_ms: (1_000, 20_000),
            through_wire_every: 1,
            latency_ms: (1, 5),
            cuts: BTreeSet::new(),
            chooser: None,
            sent: BTreeMap::new(),
            under_way: BTreeMap::new(),
            serial: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// How many messages were sent in all.
    pub fn total_sent(&self) -> u64 {
        self.sent.values().sum()
    }

    /// How many of a kind were sent.
    pub fn sent(&self, kind: &str) -> u64 {
        self.sent.get(kind).copied().unwrap_or(0)
    }

    /// Takes a message to deliver, or lose, or deliver twice.
    pub fn send(&mut self, now_ms: u64, from: &NodeId, to: &NodeId, message: PeerMessage) {
        *self.sent.entry(kind(&message.body)).or_default() += 1;
        self.serial += 1;
        let message = if self.serial.is_multiple_of(self.through_wire_every) {
            through_the_wire(self.serial, from, to, message)
        } else {
            message
        };
        let fate = match &mut self.chooser {
            Some(chooser) => chooser(from, to, &message),
            None if self.rng.u64(0..100) < self.loss => Fate::Drop,
            None if self.rng.u64(0..100) < self.duplication => Fate::Twice,
            None if self.rng.u64(0..100) < self.lateness => Fate::Late(self.rng.u64(self.late_ms.0..=self.late_ms.1)),
            None => Fate::Deliver,
        };
        if self.cuts.contains(&(from.clone(), to.clone())) {
            return;
        }
        let (copies, late) = match fate {
            Fate::Drop => (0, 0),
            Fate::Deliver => (1, 0),
            Fate::Twice => (2, 0),
            Fate::Late(ms) => (1, ms),
        };
        for _ in 0..copies {
            let at = now_ms + late + self.rng.u64(self.latency_ms.0..=self.latency_ms.1);
            self.serial += 1;
            let arrival = Arrival { from: from.clone(), to: to.clone(), message: message.clone() };
            self.under_way.insert((at, self.serial), arrival);
        }
    }

    /// Ends all faults: what is lost stays lost, and what is late stays late.
    pub fn heal(&mut self) {
        (self.loss, self.duplication, self.lateness, self.chooser) = (0, 0, 0, None);
        self.latency_ms = (1, 5);
        self.cuts.clear();
    }

    /// When the next message arrives.
    pub fn next_ms(&self) -> Option<u64> {
        self.under_way.first_key_value().map(|((at, _), _)| *at)
    }

    /// When the first message that is on its way to a node arrives.
    pub fn next_to(&self, to: &NodeId) -> Option<u64> {
        self.under_way.iter().find(|(_, arrival)| arrival.to == *to).map(|((at, _), _)| *at)
    }

    /// What has arrived by now. A cut also stops what is under way.
    pub fn arrived(&mut self, now_ms: u64) -> Vec<Arrival> {
        let later = self.under_way.split_off(&(now_ms + 1, 0));
        let arrived = std::mem::replace(&mut self.under_way, later);
        arrived.into_values().filter(|a| !self.cuts.contains(&(a.from.clone(), a.to.clone()))).collect()
    }

    /// Nothing is under way any more.
    pub fn drop_all(&mut self) {
        self.under_way.clear();
    }
}

/// The message as its receiver decodes it.
fn through_the_wire(msg_id: u64, from: &NodeId, to: &NodeId, message: PeerMessage) -> PeerMessage {
    let single = matches!(&message.body, PeerBody::Ops { ops, .. } if ops.len() == 1)
        || matches!(&message.body, PeerBody::Part { content, .. } if content.records.len() == 1);
    let outgoing = Outgoing::Peer { to: to.clone(), message };
    let mut line = Vec::new();
    encode(&mut line, from, msg_id, &outgoing);
    let Outgoing::Peer { message, .. } = outgoing else { unreachable!("made above") };
    let what = kind(&message.body);
    assert!(single || line.len() <= MAX_MESSAGE_BYTES, "a message ({what}) of {} bytes", line.len());
    let mut decoder = Decoder::new(Limits::default());
    match decoder.decode(line.trim_ascii_end(), 0, Uuid::nil) {
        Ok(Incoming::Peer { from: sender, dest, message: decoded }) => {
            assert!(
                sender == *from && dest == to.as_str() && decoded == message,
                "{message:?} came out as {decoded:?}"
            );
            decoded
        }
        other => panic!("{message:?} came out as {other:?}"),
    }
}
