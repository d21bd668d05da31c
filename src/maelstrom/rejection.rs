//! What becomes of a line that is no message: a word for the log, and an error for the client if it can be told who
//! asked.
//!
//! ```text
//! {"src":"c1","dest":"n1","body":{"type":"frobnicate","msg_id":3}}  →  error 10 to c1, in reply to 3
//! {"src":"c1","dest":"n1","body":{"type":"or_set_read"}}            →  only the log hears of it: there is no msg_id
//! ```

use std::sync::Arc;

use crate::replica::{ErrorCode, Outgoing, Reply, Style, Ticket};

use super::text::clip;

/// A line that nothing is done about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// The error that the sender is owed, if it can be told who that is and it can make use of one.
    pub reply: Option<ErrorReply>,
    /// What is wrong, for the log: one line of at most some 200 characters, no control characters.
    pub why: String,
}

/// An error on its way to whoever asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ErrorReply {
    /// Whom it goes to.
    pub client: Arc<str>,
    /// The request's `msg_id`.
    pub msg_id: i64,
    /// The request's `dest`, if it could be read: a node says nothing about requests to others.
    pub dest: Option<Box<str>>,
    /// Maelstrom's code.
    pub code: ErrorCode,
    /// What is wrong, for people.
    pub text: String,
}

impl ErrorReply {
    /// The reply to a request that came at `arrived_ms`.
    pub fn into_outgoing(self, arrived_ms: u64) -> Outgoing {
        let ticket = Ticket { client: self.client, msg_id: self.msg_id, style: Style::OrSet, arrived_ms };
        Outgoing::Reply { ticket, reply: Reply::Error { code: self.code, text: self.text } }
    }
}

impl Rejection {
    /// One that nobody is told of.
    pub(super) fn silent(why: &str) -> Self {
        Self { reply: None, why: clean(why) }
    }

    /// One that whoever asked is told of.
    pub(super) fn with_reply(why: &str, mut reply: ErrorReply) -> Self {
        reply.text = clean(&reply.text);
        let why = format!("{} {}: {}", clean(&reply.client), reply.msg_id, clean(why));
        Self { reply: Some(reply), why }
    }
}

/// Text that may quote a line: cut to a bearable length, and without control characters.
fn clean(text: &str) -> String {
    clip(text).replace(char::is_control, "\u{fffd}")
}
