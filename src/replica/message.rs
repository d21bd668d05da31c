//! What a replica is asked and told, and what it says: plain values, with no trace of how they look on a wire.

use std::sync::Arc;

use uuid::Uuid;

use super::status::Status;
use crate::crdt::{
    AskedHash, ChunkHashes, Dot, Element, Incarnation, LiveBits, NodeId, Op, ReplicaId, RequestKey, Tag, VersionVector,
    join,
};
use crate::storage::{Counts, Lsn};

/// Whom a reply goes to, and what it replies to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// The client, as it named itself.
    pub client: Arc<str>,
    /// The request's `msg_id`.
    pub msg_id: i64,
    /// In which workload's words the request was put.
    pub style: Style,
    /// When the request may first have been waiting, in ms of the clock that `now_ms` is on.
    pub arrived_ms: u64,
}

/// The workload in whose words a request was put; its reply is put in the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// `or_set_add`, `or_set_remove`, `or_set_read`, and whatever belongs to no workload in particular.
    OrSet,
    /// `add`, and `read` (answered as [`Style::Broadcast`] on a node that was sent a topology).
    GSet,
    /// `broadcast`, `topology`.
    Broadcast,
}

/// What a client wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Add the element under a new tag.
    Add(Element),
    /// Remove the tags of the element that this replica sees.
    Remove(Element),
    /// Add each element under a new tag, in this order, behind one reply.
    AddMany(Vec<Element>),
    /// Remove the tags of each element that this replica sees, in this order, behind one reply.
    RemoveMany(Vec<Element>),
    /// Do this, unless a request of this name has been answered: then give the same answer again.
    Once(RequestKey, Write),
    /// Whether the element is there.
    Contains(Element),
    /// How many elements and tags there are.
    Size,
    /// How this node is.
    Status,
    /// The elements.
    Read,
    /// At most `limit` elements, in key order: the first ones, or those after `after`.
    Page {
        /// How many, at most; at least 1.
        limit: usize,
        /// The element before them, which need not be there (any more).
        after: Option<Element>,
    },
    /// From now on, `read` is broadcast's.
    Topology,
    /// The same JSON text back.
    Echo(Box<str>),
    /// A unique id; this is it.
    Generate(Uuid),
}

/// A request that changes the set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    /// As [`Request::Add`].
    Add(Element),
    /// As [`Request::Remove`].
    Remove(Element),
    /// As [`Request::AddMany`].
    AddMany(Vec<Element>),
    /// As [`Request::RemoveMany`].
    RemoveMany(Vec<Element>),
}

impl Write {
    /// The elements that it is about.
    pub fn elements(&self) -> &[Element] {
        match self {
            Self::Add(element) | Self::Remove(element) => std::slice::from_ref(element),
            Self::AddMany(elements) | Self::RemoveMany(elements) => elements,
        }
    }

    /// A hash of what it asks for.
    pub fn hash(&self) -> AskedHash {
        let kind: &[u8] = match self {
            Self::Add(_) => b"add",
            Self::Remove(_) => b"remove",
            Self::AddMany(_) => b"add many",
            Self::RemoveMany(_) => b"remove many",
        };
        AskedHash::of([kind].into_iter().chain(self.elements().iter().map(Element::as_bytes)))
    }
}

impl From<Write> for Request {
    fn from(write: Write) -> Self {
        match write {
            Write::Add(element) => Self::Add(element),
            Write::Remove(element) => Self::Remove(element),
            Write::AddMany(elements) => Self::AddMany(elements),
            Write::RemoveMany(elements) => Self::RemoveMany(elements),
        }
    }
}

/// What a client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// To `init`.
    Init,
    /// The element is in, under this tag.
    Added(Tag),
    /// These tags are gone.
    Removed(Vec<Tag>),
    /// The elements are in, under these tags, in the order of the request.
    AddedMany(Vec<Tag>),
    /// These tags are gone, by element, in the order of the request.
    RemovedMany(Vec<Vec<Tag>>),
    /// Whether the element is there.
    Contains(bool),
    /// How many elements and tags there are.
    Size(Counts),
    /// How this node is.
    Status(Box<Status>),
    /// The elements, in key order, each once.
    Elements(ElementList),
    /// A part of the elements: one reply in several messages, with nothing else said between them.
    Piece {
        /// The elements, in key order, each once and after those of the piece before.
        elements: ElementList,
        /// Whether the reply begins with this piece.
        first: bool,
        /// Whether it ends with this piece, which may have no elements.
        last: bool,
    },
    /// Some of them, in key order, each once.
    Page {
        /// The elements.
        elements: ElementList,
        /// Whether there are more after the last of these.
        more: bool,
    },
    /// The topology was taken note of.
    Topology,
    /// The text of the request.
    Echo(Box<str>),
    /// A unique id.
    Generated(Uuid),
    /// It did not work.
    Error {
        /// Maelstrom's code.
        code: ErrorCode,
        /// What went wrong, for people.
        text: String,
    },
}

/// Maelstrom's error codes that this node uses. All are definite: the operation did not and will not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCode {
    /// 10: an unknown request type.
    NotSupported,
    /// 11: not now.
    TemporarilyUnavailable,
    /// 12: the request makes no sense.
    MalformedRequest,
    /// 22: the node is not in the state that the request needs.
    PreconditionFailed,
}

impl ErrorCode {
    /// The number on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Self::NotSupported => 10,
            Self::TemporarilyUnavailable => 11,
            Self::MalformedRequest => 12,
            Self::PreconditionFailed => 22,
        }
    }
}

/// Many elements in little memory: their canonical bytes end to end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ElementList {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl ElementList {
    /// Appends an element's canonical bytes.
    pub fn push(&mut self, element: &[u8]) {
        self.bytes.extend_from_slice(element);
        self.ends.push(self.bytes.len());
    }

    /// The last element's canonical bytes.
    pub fn last(&self) -> Option<&[u8]> {
        let before = self.ends.len().checked_sub(2).map_or(0, |n| self.ends[n]);
        self.ends.last().map(|end| &self.bytes[before..*end])
    }

    /// Their canonical bytes, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// How many bytes they take.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + self.ends.len() * size_of::<usize>()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// What a replica says to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerMessage {
    /// The sender's incarnation.
    pub from: ReplicaId,
    /// What it says.
    pub body: PeerBody,
}

/// See `docs/sync-protocol.md` for who sends what when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerBody {
    /// What the sender holds. A receiver that holds more sends it.
    Digest {
        /// What the sender holds: in full, or compact (see [`crate::crdt::Incarnations::compact`]).
        vv: VersionVector,
        /// Whether `vv` is in full.
        full: bool,
        /// Whether an answer is wanted, even if there is nothing to send, and with the newest operations too, which
        /// pushes may be bringing. In full, it always is.
        answer: bool,
    },
    /// Operations that the receiver may lack.
    Ops {
        /// What the sender holds, compact. About the sender; never merged into the receiver's own vector.
        vv: VersionVector,
        /// The operations, in an order in which they apply.
        ops: Vec<Op>,
        /// What they are sent for.
        purpose: Purpose,
    },
    /// A word without operations.
    Sign {
        /// What the sender holds, compact. About the sender, as in all messages.
        vv: VersionVector,
        /// Which word.
        sign: Sign,
    },
    /// The log no longer has what the receiver lacks; here is a state delta that it can pull.
    Offer {
        /// Which.
        key: StateKey,
        /// The vector of the snapshot, in full.
        vv: VersionVector,
    },
    /// The next parts of a state delta, please.
    Pull {
        /// Which.
        key: StateKey,
        /// The digest that it is made for, in full; in the first pull only.
        digest: Option<VersionVector>,
        /// Hashes of the receiver's own live dots, in the first pull only: bits are wanted of those chunks alone that are
        /// not the same. None: of all.
        have: Vec<ChunkHashes>,
        /// Where to go on.
        offset: StateOffset,
    },
    /// A part of a state delta.
    Part {
        /// Which.
        key: StateKey,
        /// Where the part starts.
        offset: StateOffset,
        /// Where the next one starts; `None`: this was the last.
        next: Option<StateOffset>,
        /// What is in it.
        content: StateContent,
    },
    /// There is no such state delta any more: start over.
    Gone {
        /// Which.
        key: StateKey,
    },
}

impl PeerBody {
    /// What the sender says that it holds, and whether that is in full; `None`: this kind of message does not say it.
    pub fn vector(&self) -> Option<(&VersionVector, bool)> {
        match self {
            Self::Digest { vv, full, .. } => Some((vv, *full)),
            Self::Ops { vv, .. } | Self::Sign { vv, .. } => Some((vv, false)),
            Self::Offer { .. } | Self::Pull { .. } | Self::Part { .. } | Self::Gone { .. } => None,
        }
    }
}

/// What operations are sent for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// They are new, and the receiver is to spread them: it is taken for the relay.
    Push,
    /// The sender is the relay, and spreads them. Everything that its vector covers has been spread.
    Flush,
    /// They answer a digest, and more messages of this answer follow.
    Part,
    /// This is the last message of an answer, which was as much as an answer may be: there is more.
    LastOfMany,
    /// This is the last message of an answer.
    Last,
}

/// What can be said without operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sign {
    /// Say something.
    Ping,
    /// Here I am.
    Pong,
    /// What was flushed has come.
    Ack,
    /// Here I am again: ask me for what you lack, and forget what you sent me that I do not hold.
    Hello,
}

/// Names a state delta.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateKey {
    /// The sender's incarnation.
    pub sender: ReplicaId,
    /// The sender's snapshot.
    pub snapshot: Lsn,
    /// The checksum of that snapshot's header.
    pub checksum: u32,
    /// The hash of the digest that it is for, and of the chunk hashes that go with it.
    pub digest_hash: u64,
}

/// A place in a state delta.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct StateOffset {
    /// Incarnations, then records, then bitmaps.
    pub stage: u8,
    /// The block of the snapshot, or the number of the piece.
    pub block: u32,
    /// The record in the block.
    pub item: u32,
}

/// Some of a state delta.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StateContent {
    /// Incarnations that the snapshot knows.
    pub incarnations: Vec<(ReplicaId, Incarnation)>,
    /// Live records that the digest does not cover.
    pub records: Vec<(Element, Dot)>,
    /// Live dots that it does cover.
    pub live: Vec<LiveBits>,
}

impl StateContent {
    /// About how many bytes it takes in a message or in the log.
    pub fn weight(&self) -> usize {
        join::weight(&self.records, &self.live) + 160 * self.incarnations.len()
    }
}

/// One message on its way out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outgoing {
    /// To a client.
    Reply {
        /// Whom it goes to.
        ticket: Ticket,
        /// What it says.
        reply: Reply,
    },
    /// To a peer.
    Peer {
        /// Which.
        to: NodeId,
        /// What it says.
        message: PeerMessage,
    },
}

impl Outgoing {
    /// Whether this is a piece of a reply and there are more of them.
    pub fn has_more_pieces(&self) -> bool {
        matches!(self, Self::Reply { reply: Reply::Piece { last: false, .. }, .. })
    }
}
