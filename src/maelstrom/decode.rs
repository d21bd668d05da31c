//! A line that came in → what it says, or why it says nothing.
//!
//! ```
//! use orset::maelstrom::{Decoder, Limits};
//! let mut decoder = Decoder::new(Limits::default());
//! let line = br#"{"src":"c1","dest":"n1","body":{"type":"frobnicate","msg_id":3}}"#;
//! let reply = decoder.decode(line, 0, uuid::Uuid::new_v4).unwrap_err().reply.unwrap();
//! assert_eq!((&*reply.client, reply.msg_id, reply.code.number()), ("c1", 3, 10));
//! ```
//!
//! The common line is read in one pass, borrowed, with one allocation (the element's). Only when that fails, for
//! whatever reason, is the line looked at again, more leniently, for somebody to tell (the module `peek`).
//!
//! Keys that are not known are ignored, on top and in the body. A key that is, twice, makes the line malformed.

use std::borrow::Cow;

use serde::Deserialize;
use uuid::Uuid;

use crate::crdt::NodeId;
use crate::replica::{ErrorCode, PeerMessage, Request, Style, Ticket};

use super::canonical::Limits;
use super::clients::Clients;
use super::peek;
use super::rejection::{ErrorReply, Rejection};
use super::request::{Asked, Body, asked, object};
use super::sync_decode::peer_message;

/// Longest line that is read; of a longer one, see [`super::reject_overlong`].
pub const MAX_LINE_BYTES: usize = 16 << 20;

/// How the types of all messages between replicas begin.
pub(super) const PEER_TYPE_PREFIX: &str = "orset_";

/// What a line says. Whoever takes it compares `dest` with its own name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Incoming<'a> {
    /// The process is to be a certain node.
    Init {
        /// Who asked.
        ticket: Ticket,
        /// Whom it was sent to.
        dest: Cow<'a, str>,
        /// Which node it is to be.
        node_id: NodeId,
        /// All nodes, that one among them, in the order given.
        node_ids: Vec<NodeId>,
    },
    /// A client wants something.
    Request {
        /// Who asked.
        ticket: Ticket,
        /// Whom it was sent to.
        dest: Cow<'a, str>,
        /// What is wanted.
        request: Request,
    },
    /// Another replica says something.
    Peer {
        /// Which node it runs as.
        from: NodeId,
        /// Whom it was sent to.
        dest: Cow<'a, str>,
        /// What it says.
        message: PeerMessage,
    },
    /// A reply to something; this node asks for none, so there is nothing to do.
    Reply,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    src: Cow<'a, str>,
    #[serde(borrow, default)]
    dest: Cow<'a, str>,
    #[serde(borrow, deserialize_with = "object")]
    body: Body<'a>,
}

fn read_line(text: &str) -> Result<Line<'_>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let line = object(&mut deserializer)?;
    deserializer.end()?;
    Ok(line)
}

/// Reads lines.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    clients: Clients,
}

impl Decoder {
    /// One that holds clients' elements to these limits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, clients: Clients::new() }
    }

    /// Reads a line, with or without the line break at its end. `arrived_ms` goes into the [`Ticket`]; `fresh_id` gives
    /// the id for a `generate`, and is called for nothing else.
    ///
    /// # Errors
    /// If there is nothing to be done, or nothing that can be.
    pub fn decode<'a>(
        &mut self,
        line: &'a [u8],
        arrived_ms: u64,
        fresh_id: impl FnOnce() -> Uuid,
    ) -> Result<Incoming<'a>, Rejection> {
        if line.trim_ascii().is_empty() {
            return Err(Rejection::silent("a blank line"));
        }
        let Ok(text) = std::str::from_utf8(line) else { return Err(peek::reject(line, "not UTF-8")) };
        let Line { src, dest, body } =
            read_line(text).map_err(|error| peek::reject(line, &format!("not a message: {error}")))?;
        if src.is_empty() {
            return Err(Rejection::silent("no src"));
        }
        if body.in_reply_to.is_some() {
            return Ok(Incoming::Reply);
        }
        if body.kind.starts_with(PEER_TYPE_PREFIX) {
            return peer(text, &src, dest, &body, &self.limits);
        }
        let Some(msg_id) = body.msg_id else {
            return Err(Rejection::silent(&format!("{:?} from {src:?} without a msg_id", body.kind)));
        };
        let client = self.clients.get(&src);
        let reject = |code, text: String| {
            let dest = Some(dest.as_ref().into());
            Rejection::with_reply(&text.clone(), ErrorReply { client: client.clone(), msg_id, dest, code, text })
        };
        if dest.is_empty() {
            return Err(reject(ErrorCode::MalformedRequest, "no dest".to_owned()));
        }
        let asked = asked(&body, &self.limits, fresh_id).map_err(|refusal| reject(refusal.code, refusal.text))?;
        let ticket = |style| Ticket { client, msg_id, style, arrived_ms };
        Ok(match asked {
            Asked::Request(style, request) => Incoming::Request { ticket: ticket(style), dest, request },
            Asked::Init { node_id, node_ids } => {
                Incoming::Init { ticket: ticket(Style::OrSet), dest, node_id, node_ids }
            }
        })
    }
}

fn peer<'a>(
    line: &str,
    src: &str,
    dest: Cow<'a, str>,
    body: &Body,
    limits: &Limits,
) -> Result<Incoming<'a>, Rejection> {
    let reject = |why: String| Rejection::silent(&format!("{:?} from {src:?}: {why}", body.kind));
    let from = NodeId::new(src).ok_or_else(|| reject("no node id".to_owned()))?;
    let message = peer_message(line, body, limits).map_err(|error| reject(error.to_string()))?;
    Ok(Incoming::Peer { from, dest, message })
}
