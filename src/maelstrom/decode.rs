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
//! The common line is read in one pass, borrowed, with one allocation (the element's): by the module `quick` if it asks
//! about one plain element, else by serde_json. Only when that fails, for whatever reason, is the line looked at again,
//! more leniently, for somebody to tell (the module `peek`).
//!
//! Keys that are not known are ignored, on top and in the body. A key that is, twice, makes the line malformed.

use std::borrow::Cow;

use serde::Deserialize;
use uuid::Uuid;

use crate::crdt::NodeId;
use crate::replica::{ErrorCode, PeerMessage, Request, Style, Ticket};

use super::canonical::{Limits, canonical};
use super::clients::Clients;
use super::peek;
use super::quick::{self, Verb};
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
        match self.decode_quick(line, arrived_ms) {
            Some(incoming) => Ok(incoming),
            None => self.decode_any(line, arrived_ms, fresh_id),
        }
    }

    /// The common request, if it is one and keeps to the limits.
    fn decode_quick<'a>(&mut self, line: &'a [u8], arrived_ms: u64) -> Option<Incoming<'a>> {
        let quick = quick::read(line)?;
        let element = canonical(quick.element, &self.limits).ok()?;
        let (style, request) = match quick.verb {
            Verb::Add(style) => (style, Request::Add(element)),
            Verb::Remove => (Style::OrSet, Request::Remove(element)),
            Verb::Contains => (Style::OrSet, Request::Contains(element)),
        };
        let ticket = Ticket { client: self.clients.get(quick.src), msg_id: quick.msg_id, style, arrived_ms };
        Some(Incoming::Request { ticket, dest: Cow::Borrowed(quick.dest), request })
    }

    fn decode_any<'a>(
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tokens of which lines are made that are nearly such as `quick` reads.
    const TOKENS: [&str; 46] = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        " ",
        "\t",
        "\r",
        "\n",
        "\"src\"",
        "\"dest\"",
        "\"body\"",
        "\"id\"",
        "\"type\"",
        "\"msg_id\"",
        "\"element\"",
        "\"message\"",
        "\"in_reply_to\"",
        "\"elements\"",
        "\"limit\"",
        "\"or_set_add\"",
        "\"or_set_remove\"",
        "\"or_set_contains\"",
        "\"add\"",
        "\"broadcast\"",
        "\"orset_ops\"",
        "\"c1\"",
        "\"n1\"",
        "\"\"",
        "\"\\u0061\"",
        "\"é\"",
        "\"a b\"",
        "\"a\tb\"",
        "0",
        "-0",
        "7",
        "-12",
        "07",
        "1.0",
        "1e3",
        "9223372036854775807",
        "9223372036854775808",
        "null",
        "true",
        "x",
    ];

    const PLAIN: [&str; 3] = [
        r#"{ "src" : "c1" , "dest" : "n1" , "body" : { "type" : "or_set_add" , "msg_id" : 7 , "element" : "ab" } }"#,
        r#"{ "id" : 0 , "body" : { "element" : -12 , "type" : "or_set_remove" , "msg_id" : 0 } , "dest" : "n1" , "src" : "c1" }"#,
        r#"{ "src" : "c1" , "dest" : "n1" , "body" : { "type" : "broadcast" , "msg_id" : -12 , "message" : "é" } }"#,
    ];

    /// Exchanges, puts in or leaves out a token of a line.
    fn change(tokens: &mut Vec<&str>, at: usize, token: usize, how: u8) {
        match how {
            0 => tokens[at] = TOKENS[token],
            1 => tokens.insert(at, TOKENS[token]),
            _ => drop(tokens.remove(at)),
        }
    }

    /// What is read quickly is what the general reader reads.
    fn agree(line: &[u8]) {
        let limits = Limits { max_element_bytes: 5, ..Limits::default() };
        if let Some(quick) = Decoder::new(limits).decode_quick(line, 5) {
            let general = Decoder::new(limits).decode_any(line, 5, Uuid::nil);
            assert_eq!(general, Ok(quick), "{}", String::from_utf8_lossy(line));
        }
    }

    /// Found by a stranger: what was there when the limit was lowered could not be removed, nor a page be asked for after it.
    #[test]
    fn what_is_longer_than_what_may_be_added_can_be_asked_for_and_removed() {
        let mut decoder = Decoder::new(Limits { max_element_bytes: 5, ..Limits::default() });
        let mut code = |body: &str| {
            let line = format!(r#"{{"src":"c1","dest":"n1","body":{{{body},"msg_id":1}}}}"#);
            decoder.decode(line.as_bytes(), 5, Uuid::nil).err().is_some()
        };
        for refused in [r#""type":"or_set_add","element":"long""#, r#""type":"or_set_add_many","elements":["long"]"#] {
            assert!(code(refused), "{refused}");
        }
        for taken in [
            r#""type":"or_set_remove","element":"long""#,
            r#""type":"or_set_remove_many","elements":["long"]"#,
            r#""type":"or_set_contains","element":"long""#,
            r#""type":"or_set_read","limit":1,"after":"long""#,
        ] {
            assert!(!code(taken), "{taken}");
        }
    }

    #[test]
    fn what_differs_from_a_plain_request_in_one_token_is_read_the_same_by_both() {
        for plain in PLAIN {
            let tokens: Vec<&str> = plain.split(' ').collect();
            for at in 0..tokens.len() {
                for (token, how) in (0..TOKENS.len()).flat_map(|token| (0..3).map(move |how| (token, how))) {
                    let mut tokens = tokens.clone();
                    change(&mut tokens, at, token, how);
                    agree(tokens.join("").as_bytes());
                    agree(tokens.join(" ").as_bytes());
                }
            }
        }
    }

    fn lines() -> impl Strategy<Value = Vec<u8>> {
        let changes = prop::collection::vec((any::<prop::sample::Index>(), 0..TOKENS.len(), 0..3u8), 0..4);
        (prop::sample::select(PLAIN.to_vec()), changes, any::<bool>()).prop_map(|(plain, changes, spaced)| {
            let mut tokens: Vec<&str> = plain.split(' ').collect();
            for (at, token, how) in changes {
                let at = at.index(tokens.len());
                change(&mut tokens, at, token, how);
            }
            tokens.join(if spaced { " " } else { "" }).into_bytes()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn and_what_differs_in_several_and_in_a_byte(
            line in lines(),
            broken in any::<Option<(prop::sample::Index, u8)>>(),
        ) {
            let mut line = line;
            if let Some((at, byte)) = broken {
                let at = at.index(line.len().max(1));
                line.get_mut(at).into_iter().for_each(|place| *place = byte);
            }
            agree(&line);
        }
    }

    #[test]
    fn plain_requests_are_read_quickly() {
        for body in [
            r#""type":"or_set_add","msg_id":2,"element":"apple""#,
            r#""msg_id":-2,"element":"apple pie","type":"or_set_remove""#,
            r#""type": "or_set_contains", "msg_id": 2, "element": -17"#,
            r#""type":"add","msg_id":0,"element":0"#,
            r#""type":"broadcast","message":"é","msg_id":9223372036854775807"#,
        ] {
            for line in [
                format!(r#"{{"src":"c1","dest":"n1","body":{{{body}}}}}"#),
                format!("{{\"id\": 4, \"body\": {{{body}}} , \"src\": \"c1\",\t\"dest\": \"n1\"}}\r"),
            ] {
                let mut decoder = Decoder::new(Limits::default());
                let quick = decoder.decode_quick(line.as_bytes(), 5);
                assert_eq!(quick, decoder.decode_any(line.as_bytes(), 5, Uuid::nil).ok(), "{line}");
                assert!(quick.is_some(), "{line}");
            }
        }
    }
}
