//! Reading peers' messages. [`sync`](super::sync) says what they look like and writes them.
//!
//! ```text
//! {… "type":"orset_digest","v":1,"from":"0000000000000000003","vv":[0,4],"full":true,"answer":false,
//!     "ids":["0000000000000000003"] …}                     →  Digest { vv: {…03: 4}, full: true, answer: false }
//! the same with "vv":[1,4], [0], [0,0], [0,4,0,5], "v":2 …  →  an error that says so
//! ```
//!
//! # Invariants
//!
//! - A packed array is unpacked to a bounded length, and is then what it would have been unpacked.
//! - A message is taken whole or not at all, and what is taken is possible: operations pass [`Op::check`], places are in
//!   their table, sequence numbers in range, nothing is in a vector or table twice.
//! - Elements are made canonical anew, so a peer (or a parser on the way) cannot bring in a second form of one. They may
//!   be longer than this node's clients' may be, since the peer's bound may be a larger one; the other limits hold.
//!
//! # Caveats
//!
//! Decoded, a message takes several times the memory of its line. Whether it claims more than it carries is for the
//! replica to judge.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize as DeriveDeserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::crdt::chunk_hashes::HASH_BYTES;
use crate::crdt::{
    ChunkHashes, Dot, Element, Incarnation, LiveBits, NodeId, Op, OpBody, OpError, ReplicaId, Seq, Tag, VersionVector,
};
use crate::replica::{PeerBody, PeerMessage, Purpose, Sign, StateContent, StateKey, StateOffset};
use crate::storage::Lsn;

use super::canonical::{CanonicalError, Limits, canonical};
use super::decode::MAX_LINE_BYTES;
use super::packed::{PackError, unpack};
use super::request::Body;
use super::sync::SYNC_VERSION;
use super::text::clip;

/// Why a peer's line is none of its messages.
#[derive(Debug, Error)]
pub enum SyncError {
    /// Another version of the format.
    #[error("version {0} of the sync protocol, not {SYNC_VERSION}")]
    Version(String),
    /// No such message.
    #[error("no such message")]
    Type,
    /// Something is missing.
    #[error("no {0}")]
    Missing(&'static str),
    /// Something has another form.
    #[error(transparent)]
    Form(#[from] serde_json::Error),
    /// Not 19 hexadecimal digits below 2^74.
    #[error("{0:?} is no replica id")]
    ReplicaId(String),
    /// The same thing twice in a table or vector.
    #[error("{0} is there twice")]
    Twice(ReplicaId),
    /// A place beyond the table of replica ids.
    #[error("place {0} is not in the table of replica ids")]
    Place(u64),
    /// Zero, or over [`Seq::MAX`].
    #[error("sequence number {0} is out of range")]
    Seq(u64),
    /// A list of pairs with half a pair at its end.
    #[error("half a dot")]
    HalfDot,
    /// An element that is none.
    #[error("an element: {0}")]
    Element(#[from] CanonicalError),
    /// No node id.
    #[error("{0:?} is no node id")]
    NodeId(String),
    /// An operation that nobody can have made.
    #[error("operation {0}: {1}")]
    Op(Dot, OpError),
    /// Operations that are sent for two purposes at once.
    #[error("answer, more and flush do not go together like this")]
    Purpose,
    /// Not 16 hexadecimal digits, or not whole hashes.
    #[error("a hash that is none")]
    Hash,
    /// A bitmap that is not base64.
    #[error("a bitmap: {0}")]
    Bitmap(#[from] base64::DecodeError),
    /// A text in place of an array that is not a packed one.
    #[error(transparent)]
    Packed(#[from] PackError),
}

#[derive(DeriveDeserialize)]
struct Line<'a> {
    #[serde(borrow)]
    body: Wire<'a>,
}

/// The members of all types of messages; each type takes its own.
#[derive(DeriveDeserialize)]
struct Wire<'a> {
    #[serde(borrow, default)]
    from: Cow<'a, str>,
    #[serde(borrow, default)]
    ids: Vec<&'a str>,
    vv: Option<Vec<u64>>,
    full: Option<bool>,
    answer: Option<bool>,
    more: Option<bool>,
    flush: Option<bool>,
    #[serde(borrow)]
    runs: Option<&'a RawValue>,
    #[serde(borrow)]
    key: Option<(u64, u64, u32, &'a str)>,
    digest: Option<Vec<u64>>,
    #[serde(borrow)]
    have: Option<Vec<(u64, u64, &'a str)>>,
    offset: Option<WireOffset>,
    next: Option<WireOffset>,
    #[serde(borrow)]
    incarnations: Option<Vec<WireIncarnation<'a>>>,
    #[serde(borrow)]
    records: Option<&'a RawValue>,
    #[serde(borrow)]
    live: Option<&'a RawValue>,
}

type Run<'a> = (u64, u64, Vec<WireOp<'a>>);
type WireOffset = (u8, u32, u32);

/// [element] or [element,i,n,i,n…], or an object.
enum WireOp<'a> {
    Change(&'a RawValue, Vec<u64>),
    Start(WireStart<'a>),
}

#[derive(DeriveDeserialize)]
struct WireStart<'a> {
    #[serde(borrow)]
    node: Cow<'a, str>,
    parent: Option<(u64, u64)>,
}

/// [i,node] or [i,node,i,n].
struct WireIncarnation<'a>(u64, &'a str, Vec<u64>);

/// Reads the message in a line, of whose body the type and version are known.
pub(super) fn peer_message(line: &str, body: &Body, limits: &Limits) -> Result<PeerMessage, SyncError> {
    let version = body.v.ok_or(SyncError::Missing("v"))?.get();
    if version.parse() != Ok(SYNC_VERSION) {
        return Err(SyncError::Version(clip(version)));
    }
    let Line { body: wire } = serde_json::from_str(line)?;
    let reader = Reader { ids: id_table(&wire.ids)?, limits: Limits { max_element_bytes: MAX_LINE_BYTES, ..*limits } };
    Ok(PeerMessage { from: replica_id(&wire.from)?, body: reader.body(&body.kind, wire)? })
}

fn replica_id(text: &str) -> Result<ReplicaId, SyncError> {
    ReplicaId::parse(text).ok_or_else(|| SyncError::ReplicaId(clip(text)))
}

fn id_table(texts: &[&str]) -> Result<Vec<ReplicaId>, SyncError> {
    let ids = texts.iter().map(|text| replica_id(text)).collect::<Result<Vec<_>, _>>()?;
    let mut seen = BTreeSet::new();
    match ids.iter().find(|id| !seen.insert(**id)) {
        Some(twice) => Err(SyncError::Twice(*twice)),
        None => Ok(ids),
    }
}

fn seq(number: u64) -> Result<Seq, SyncError> {
    if (1..=Seq::MAX.0).contains(&number) { Ok(Seq(number)) } else { Err(SyncError::Seq(number)) }
}

fn node(text: &str) -> Result<NodeId, SyncError> {
    NodeId::new(text).ok_or_else(|| SyncError::NodeId(clip(text)))
}

fn checked(dot: Dot, body: OpBody) -> Result<Op, SyncError> {
    let op = Op { dot, body };
    op.check().map_err(|error| SyncError::Op(dot, error))?;
    Ok(op)
}

fn purpose(wire: &Wire) -> Result<Purpose, SyncError> {
    match (wire.answer, wire.more.unwrap_or(false), wire.flush.unwrap_or(false)) {
        (None, false, false) => Ok(Purpose::Push),
        (None, false, true) => Ok(Purpose::Flush),
        (Some(false), false, false) => Ok(Purpose::Part),
        (Some(true), true, false) => Ok(Purpose::LastOfMany),
        (Some(true), false, false) => Ok(Purpose::Last),
        _ => Err(SyncError::Purpose),
    }
}

/// The text of an array that may be packed.
fn array(json: &RawValue) -> Result<Cow<'_, str>, SyncError> {
    if !json.get().starts_with('"') {
        return Ok(Cow::Borrowed(json.get()));
    }
    let text: Cow<'_, str> = serde_json::from_str(json.get())?;
    Ok(Cow::Owned(unpack(&text)?))
}

fn offset((stage, block, item): WireOffset) -> StateOffset {
    StateOffset { stage, block, item }
}

/// Makes values of what stands on the wire.
struct Reader {
    ids: Vec<ReplicaId>,
    limits: Limits,
}

impl Reader {
    fn body(&self, kind: &str, wire: Wire) -> Result<PeerBody, SyncError> {
        use SyncError::Missing;
        let vv = || self.vector(wire.vv.as_deref().ok_or(Missing("vv"))?);
        let key = || self.key(wire.key.ok_or(Missing("key"))?);
        Ok(match kind {
            "orset_digest" => PeerBody::Digest {
                vv: vv()?,
                full: wire.full.ok_or(Missing("full"))?,
                answer: wire.answer.ok_or(Missing("answer"))?,
            },
            "orset_ops" => PeerBody::Ops {
                vv: vv()?,
                purpose: purpose(&wire)?,
                ops: self.ops(serde_json::from_str(&array(wire.runs.ok_or(Missing("runs"))?)?)?)?,
            },
            "orset_ping" => PeerBody::Sign { vv: vv()?, sign: Sign::Ping },
            "orset_pong" => PeerBody::Sign { vv: vv()?, sign: Sign::Pong },
            "orset_ack" => PeerBody::Sign { vv: vv()?, sign: Sign::Ack },
            "orset_hello" => PeerBody::Sign { vv: vv()?, sign: Sign::Hello },
            "orset_offer" => PeerBody::Offer { key: key()?, vv: vv()? },
            "orset_pull" => PeerBody::Pull {
                key: key()?,
                digest: wire.digest.as_deref().map(|digest| self.vector(digest)).transpose()?,
                have: self.hashes(wire.have.unwrap_or_default())?,
                offset: offset(wire.offset.ok_or(Missing("offset"))?),
            },
            "orset_part" => PeerBody::Part {
                key: key()?,
                offset: offset(wire.offset.ok_or(Missing("offset"))?),
                next: wire.next.map(offset),
                content: StateContent {
                    incarnations: self.incarnations(wire.incarnations.ok_or(Missing("incarnations"))?)?,
                    records: self.records(serde_json::from_str(&array(wire.records.ok_or(Missing("records"))?)?)?)?,
                    live: self.live(serde_json::from_str(&array(wire.live.ok_or(Missing("live"))?)?)?)?,
                },
            },
            "orset_gone" => PeerBody::Gone { key: key()? },
            _ => return Err(SyncError::Type),
        })
    }

    fn replica(&self, place: u64) -> Result<ReplicaId, SyncError> {
        let id = usize::try_from(place).ok().and_then(|place| self.ids.get(place));
        id.copied().ok_or(SyncError::Place(place))
    }

    fn dot(&self, place: u64, number: u64) -> Result<Dot, SyncError> {
        Ok(Dot::new(self.replica(place)?, seq(number)?))
    }

    /// The dots of a flat list.
    fn dots(&self, flat: &[u64]) -> Result<Vec<Dot>, SyncError> {
        let (pairs, rest) = flat.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(SyncError::HalfDot);
        }
        pairs.iter().map(|[place, number]| self.dot(*place, *number)).collect()
    }

    fn vector(&self, flat: &[u64]) -> Result<VersionVector, SyncError> {
        let mut vv = VersionVector::new();
        for dot in self.dots(flat)? {
            if vv.get(dot.replica) > Seq(0) {
                return Err(SyncError::Twice(dot.replica));
            }
            vv.raise(dot.replica, dot.seq);
        }
        Ok(vv)
    }

    fn element(&self, json: &RawValue) -> Result<Element, SyncError> {
        Ok(canonical(json.get(), &self.limits)?)
    }

    fn ops(&self, runs: Vec<Run>) -> Result<Vec<Op>, SyncError> {
        let mut ops = Vec::with_capacity(runs.iter().map(|(_, _, run)| run.len()).sum());
        for (place, first, run) in runs {
            let first = self.dot(place, first)?;
            for (number, op) in (first.seq.0..).zip(run) {
                ops.push(self.op(Dot::new(first.replica, seq(number)?), op)?);
            }
        }
        Ok(ops)
    }

    fn op(&self, dot: Dot, op: WireOp) -> Result<Op, SyncError> {
        let body = match op {
            WireOp::Change(element, tags) if tags.is_empty() => OpBody::Add(self.element(element)?),
            WireOp::Change(element, tags) => {
                OpBody::Remove { element: self.element(element)?, tags: self.dots(&tags)? }
            }
            WireOp::Start(start) => {
                let parent = start.parent.map(|(place, number)| self.dot(place, number)).transpose()?;
                OpBody::Start { node: node(&start.node)?, parent }
            }
        };
        checked(dot, body)
    }

    fn key(&self, (sender, snapshot, checksum, hash): (u64, u64, u32, &str)) -> Result<StateKey, SyncError> {
        let is_hash = hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        let digest_hash = u64::from_str_radix(hash, 16).ok().filter(|_| is_hash).ok_or(SyncError::Hash)?;
        Ok(StateKey { sender: self.replica(sender)?, snapshot: Lsn(snapshot), checksum, digest_hash })
    }

    /// What an incarnation says is what its `Start` said, so it is checked as one.
    fn incarnations(&self, wire: Vec<WireIncarnation>) -> Result<Vec<(ReplicaId, Incarnation)>, SyncError> {
        let incarnation = |WireIncarnation(place, name, parent): WireIncarnation| {
            let start = Dot::new(self.replica(place)?, Seq(1));
            let parent = match self.dots(&parent)?[..] {
                [] => None,
                [parent] => Some(parent),
                [..] => return Err(SyncError::Op(start, OpError::Parent)),
            };
            let node = node(name)?;
            checked(start, OpBody::Start { node: node.clone(), parent })?;
            Ok((start.replica, Incarnation { node, parent }))
        };
        wire.into_iter().map(incarnation).collect()
    }

    /// A record's tag is the dot of an add, so it is checked as one.
    fn records(&self, wire: Vec<(&RawValue, u64, u64)>) -> Result<Vec<(Element, Tag)>, SyncError> {
        let record = |(element, place, number)| {
            let element = self.element(element)?;
            let tag = self.dot(place, number)?;
            checked(tag, OpBody::Add(element.clone()))?;
            Ok((element, tag))
        };
        wire.into_iter().map(record).collect()
    }

    fn hashes(&self, wire: Vec<(u64, u64, &str)>) -> Result<Vec<ChunkHashes>, SyncError> {
        let hashes = |(place, first, hashes): (u64, u64, &str)| {
            let first = self.dot(place, first)?;
            let hashes = BASE64.decode(hashes)?;
            if hashes.is_empty() || hashes.len() % HASH_BYTES != 0 {
                return Err(SyncError::Hash);
            }
            Ok(ChunkHashes { replica: first.replica, first: first.seq, hashes })
        };
        wire.into_iter().map(hashes).collect()
    }

    fn live(&self, wire: Vec<(u64, u64, &str)>) -> Result<Vec<LiveBits>, SyncError> {
        let live = |(place, first, bits): (u64, u64, &str)| {
            let first = self.dot(place, first)?;
            let bits = BASE64.decode(bits)?;
            if let Some(last) = bits.iter().rposition(|byte| *byte != 0) {
                seq(first.seq.0 + 8 * last as u64 + u64::from(bits[last].ilog2()))?;
            }
            Ok(LiveBits { replica: first.replica, first: first.seq, bits })
        };
        wire.into_iter().map(live).collect()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for WireOp<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WireOpVisitor)
    }
}

struct WireOpVisitor;

impl<'de> Visitor<'de> for WireOpVisitor {
    type Value = WireOp<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an operation")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let element = items.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
        Ok(WireOp::Change(element, rest(items)?))
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
        WireStart::deserialize(MapAccessDeserializer::new(members)).map(WireOp::Start)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for WireIncarnation<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(WireIncarnationVisitor)
    }
}

struct WireIncarnationVisitor;

impl<'de> Visitor<'de> for WireIncarnationVisitor {
    type Value = WireIncarnation<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an incarnation")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let place = items.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
        let node = items.next_element()?.ok_or_else(|| A::Error::invalid_length(1, &self))?;
        Ok(WireIncarnation(place, node, rest(items)?))
    }
}

/// The numbers that are left of an array.
fn rest<'de, A: SeqAccess<'de>>(mut items: A) -> Result<Vec<u64>, A::Error> {
    let mut numbers = Vec::new();
    while let Some(number) = items.next_element()? {
        numbers.push(number);
    }
    Ok(numbers)
}
