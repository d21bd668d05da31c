//! Peers' messages: their form on the wire, and how it is written. [`sync_decode`](super::sync_decode) reads it.
//!
//! ```text
//! {"src": "n1", "dest": "n2", "body": {"type": "orset_ops", "v": 1, "from": "0000000000000000003", "vv": [0,4],
//!  "runs": [[0,2,[["apple"],["pear"],["apple",0,2]]]], "ids": ["0000000000000000003"], "msg_id": 17}}
//! ```
//!
//! says: the sender, incarnation …03, holds operations 1 to 4 of itself, and here are 2, 3 and 4: add "apple", add
//! "pear", remove from "apple" the tag …03/2. (The line is broken here for reading only.)
//!
//! # Format
//!
//! | type | payload |
//! |---|---|
//! | `orset_digest` | `vv` *vector*, `full` bool, `answer` bool |
//! | `orset_ops` | `vv` *vector*, `runs` `[run…]`, `answer` bool: whether it is the last of the answer, absent in a push and in a flush; `more` true: there would be more to ask for, in a last one only; `flush` true: in a flush only |
//! | `orset_ping`, `orset_pong`, `orset_ack`, `orset_hello` | `vv` *vector* |
//! | `orset_offer` | `key`, `vv` *vector* |
//! | `orset_pull` | `key`, `digest` *vector*, absent after the first pull, `have` `[[i,n,base64]…]`, absent if it is none, `offset` |
//! | `orset_part` | `key`, `offset`, `next` *offset*, absent in the last, `incarnations` `[[i,node] or [i,node,i,n]…]`, `records` `[[element,i,n]…]`, `live` `[[i,n,base64]…]` |
//! | `orset_gone` | `key` |
//!
//! - All: `v`, the version of this format, 1, and `from`, the sender's incarnation. A reader takes the keys in any order,
//!   since Maelstrom may change it.
//! - `ids`: every replica id of the message once, as 19 hexadecimal digits. An *i* is a position in it, an *n* a
//!   sequence number, and *i,n* next to each other are a dot.
//! - *vector*: `[i,n,i,n…]`. *key*: `[i,lsn,checksum,hash]`, the hash as 16 hexadecimal digits, since a parser on the way
//!   may put integers over 2^53 through a float. *offset*: `[stage,block,item]`.
//! - *run*: `[i,n,[op…]]`, operations n, n+1, … of one incarnation. The operations of a message are those of its runs, in
//!   order. *op*: `[element]` an add, `[element,i,n,i,n…]` a remove of these tags, `{"node":…}` or
//!   `{"node":…,"parent":[i,n]}` a start.
//! - `runs` of an answer, `records` and `live` may be [packed](super::packed): a text in place of the array. Pushes are
//!   not: they are short, and many.
//! - Elements are canonical JSON as it stands. No white space within a payload.
//!
//! # Caveat
//!
//! Numbers in elements pass a JSON parser on the way, where there is one (Maelstrom). It keeps the forms that it
//! itself gave to clients' requests, and other forms cannot reach a node behind it.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::crdt::{Dot, LiveBits, NodeId, Op, OpBody, ReplicaId, VersionVector};
use crate::replica::{PeerBody, PeerMessage, Purpose, Sign, StateContent, StateKey, StateOffset};

use super::packed::pack;
use super::text::{push_string, push_u64};

/// The version of the format of peers' messages.
pub const SYNC_VERSION: u64 = 1;

/// Bytes that a run takes around an operation, with a place of two digits.
const RUN_BYTES: usize = "[99,281474976710655,[]],".len();

/// About how many bytes an operation takes in a message, at most: in a run of its own, as the operations of several
/// replicas in turn are. In a longer run the others take [`Op::weight`]. The table of ids comes on top, with 22 bytes for
/// each replica.
pub fn op_size_hint(op: &Op) -> usize {
    RUN_BYTES + op.weight()
}

/// The type on the wire.
const fn kind(body: &PeerBody) -> &'static str {
    match body {
        PeerBody::Digest { .. } => "orset_digest",
        PeerBody::Ops { .. } => "orset_ops",
        PeerBody::Sign { sign, .. } => match sign {
            Sign::Ping => "orset_ping",
            Sign::Pong => "orset_pong",
            Sign::Ack => "orset_ack",
            Sign::Hello => "orset_hello",
        },
        PeerBody::Offer { .. } => "orset_offer",
        PeerBody::Pull { .. } => "orset_pull",
        PeerBody::Part { .. } => "orset_part",
        PeerBody::Gone { .. } => "orset_gone",
    }
}

/// Appends the members of a message's body, from its type to its payload.
pub(super) fn push_members(out: &mut Vec<u8>, message: &PeerMessage) {
    let mut writer = Writer { out, ids: Vec::new(), places: BTreeMap::new() };
    writer.text("\"type\": \"");
    writer.text(kind(&message.body));
    writer.text("\"");
    writer.key("v");
    writer.number(SYNC_VERSION);
    writer.key("from");
    writer.replica_id(message.from);
    writer.payload(&message.body);
    writer.id_table();
}

/// Writes a payload, and gathers the replica ids in it.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    ids: Vec<ReplicaId>,
    places: BTreeMap<ReplicaId, u64>,
}

impl Writer<'_> {
    fn text(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn number(&mut self, number: u64) {
        push_u64(self.out, number);
    }

    fn key(&mut self, key: &str) {
        self.text(", \"");
        self.text(key);
        self.text("\": ");
    }

    fn flag(&mut self, flag: bool) {
        self.text(if flag { "true" } else { "false" });
    }

    /// `[…]` around what `item` writes of each, and commas between.
    fn array<T>(&mut self, items: impl IntoIterator<Item = T>, mut item: impl FnMut(&mut Self, T)) {
        self.text("[");
        for (n, it) in items.into_iter().enumerate() {
            if n > 0 {
                self.text(",");
            }
            item(self, it);
        }
        self.text("]");
    }

    /// An array, packed if that makes it shorter.
    fn packed_array<T>(&mut self, items: impl IntoIterator<Item = T>, item: impl FnMut(&mut Self, T)) {
        let start = self.out.len();
        self.array(items, item);
        if let Some(text) = pack(&self.out[start..]) {
            self.out.truncate(start);
            self.text("\"");
            self.text(&text);
            self.text("\"");
        }
    }

    fn replica_id(&mut self, id: ReplicaId) {
        self.text(&format!("\"{id}\""));
    }

    fn id_table(&mut self) {
        self.key("ids");
        let ids = std::mem::take(&mut self.ids);
        self.array(ids, Self::replica_id);
    }

    /// The place of an id in the table.
    fn place(&mut self, id: ReplicaId) {
        let next = self.ids.len() as u64;
        let place = *self.places.entry(id).or_insert(next);
        if place == next {
            self.ids.push(id);
        }
        self.number(place);
    }

    fn dot(&mut self, dot: Dot) {
        self.place(dot.replica);
        self.text(",");
        self.number(dot.seq.0);
    }

    fn vector(&mut self, key: &str, vv: &VersionVector) {
        self.key(key);
        self.array(vv.iter(), |writer, (replica, seq)| writer.dot(Dot::new(replica, seq)));
    }

    fn payload(&mut self, body: &PeerBody) {
        match body {
            PeerBody::Digest { vv, full, answer } => {
                self.vector("vv", vv);
                self.key("full");
                self.flag(*full);
                self.key("answer");
                self.flag(*answer);
            }
            PeerBody::Ops { vv, ops, purpose } => {
                self.vector("vv", vv);
                let pushed = matches!(purpose, Purpose::Push | Purpose::Flush);
                self.ops(ops, !pushed);
                let flags: &[(&str, bool)] = match purpose {
                    Purpose::Push => &[],
                    Purpose::Flush => &[("flush", true)],
                    Purpose::Part => &[("answer", false)],
                    Purpose::LastOfMany => &[("answer", true), ("more", true)],
                    Purpose::Last => &[("answer", true)],
                };
                for (key, flag) in flags {
                    self.key(key);
                    self.flag(*flag);
                }
            }
            PeerBody::Sign { vv, sign: _ } => self.vector("vv", vv),
            PeerBody::Offer { key, vv } => {
                self.state_key(key);
                self.vector("vv", vv);
            }
            PeerBody::Pull { key, digest, have, offset } => {
                self.state_key(key);
                if let Some(digest) = digest {
                    self.vector("digest", digest);
                }
                if !have.is_empty() {
                    self.key("have");
                    self.array(have, |writer, some| writer.bytes(Dot::new(some.replica, some.first), &some.hashes));
                }
                self.offset("offset", offset);
            }
            PeerBody::Part { key, offset, next, content } => {
                self.state_key(key);
                self.offset("offset", offset);
                if let Some(next) = next {
                    self.offset("next", next);
                }
                self.content(content);
            }
            PeerBody::Gone { key } => self.state_key(key),
        }
    }

    fn ops(&mut self, ops: &[Op], packed: bool) {
        self.key("runs");
        let follows = |a: &Op, b: &Op| a.dot.replica == b.dot.replica && a.dot.seq.next() == b.dot.seq;
        let runs = ops.chunk_by(follows);
        if packed { self.packed_array(runs, Self::run) } else { self.array(runs, Self::run) }
    }

    fn run(&mut self, run: &[Op]) {
        self.text("[");
        self.dot(run[0].dot);
        self.text(",");
        self.array(run, |writer, op| writer.op(&op.body));
        self.text("]");
    }

    fn op(&mut self, op: &OpBody) {
        match op {
            OpBody::Add(element) => {
                self.text("[");
                self.out.extend_from_slice(element.as_bytes());
                self.text("]");
            }
            OpBody::Remove { element, tags } => {
                self.text("[");
                self.out.extend_from_slice(element.as_bytes());
                for tag in tags {
                    self.text(",");
                    self.dot(*tag);
                }
                self.text("]");
            }
            OpBody::Start { node, parent } => {
                self.text("{\"node\":");
                self.node(node);
                if let Some(parent) = parent {
                    self.text(",\"parent\":[");
                    self.dot(*parent);
                    self.text("]");
                }
                self.text("}");
            }
        }
    }

    fn node(&mut self, node: &NodeId) {
        push_string(self.out, node.as_str());
    }

    fn state_key(&mut self, key: &StateKey) {
        self.key("key");
        self.text("[");
        self.place(key.sender);
        for number in [key.snapshot.0, u64::from(key.checksum)] {
            self.text(",");
            self.number(number);
        }
        self.text(&format!(",\"{:016x}\"]", key.digest_hash));
    }

    fn offset(&mut self, key: &str, offset: &StateOffset) {
        self.key(key);
        let numbers = [u64::from(offset.stage), u64::from(offset.block), u64::from(offset.item)];
        self.array(numbers, Self::number);
    }

    fn content(&mut self, content: &StateContent) {
        self.key("incarnations");
        self.array(&content.incarnations, |writer, (replica, incarnation)| {
            writer.text("[");
            writer.place(*replica);
            writer.text(",");
            writer.node(&incarnation.node);
            if let Some(parent) = incarnation.parent {
                writer.text(",");
                writer.dot(parent);
            }
            writer.text("]");
        });
        self.key("records");
        self.packed_array(&content.records, |writer, (element, tag)| {
            writer.text("[");
            writer.out.extend_from_slice(element.as_bytes());
            writer.text(",");
            writer.dot(*tag);
            writer.text("]");
        });
        self.key("live");
        self.packed_array(&content.live, |writer, some: &LiveBits| {
            writer.bytes(Dot::new(some.replica, some.first), &some.bits);
        });
    }

    /// Bytes about dots from this one on.
    fn bytes(&mut self, first: Dot, bytes: &[u8]) {
        self.text("[");
        self.dot(first);
        self.text(",\"");
        self.text(&BASE64.encode(bytes));
        self.text("\"]");
    }
}
