//! The one way out.
//!
//! Whatever a replica wants to say is put into its [`Outbox`], and it comes out only against a [`Synced`], which only
//! the store's commit makes. So no reply, push or digest can leave before everything that it may speak of is durable:
//! the wrong order does not compile.
//!
//! ```compile_fail
//! let outbox = orset::replica::outbox::Outbox::default();
//! outbox.messages; // private: there is no other way to them than `release`
//! ```

use std::collections::VecDeque;

use super::message::{Outgoing, PeerBody, PeerMessage, Reply, Ticket};
use crate::crdt::{NodeId, Op, ReplicaId};
use crate::storage::Synced;

/// Messages that wait for the log.
#[derive(Debug, Default)]
pub struct Outbox {
    messages: Vec<Outgoing>,
    bytes: usize,
    /// What waits for the end of a reply in pieces, while there is one under way.
    behind: Option<VecDeque<Waiting>>,
    behind_bytes: usize,
}

/// What waits for the end of a reply in pieces.
#[derive(Debug)]
pub(super) enum Waiting {
    /// Something to be said.
    Message(Outgoing),
    /// A whole read that has not been begun.
    Read(Ticket),
}

/// Room for so many messages is kept.
const MAX_KEPT_MESSAGES: usize = 4096;

/// What a message costs beyond what it carries.
const MESSAGE_OVERHEAD_BYTES: usize = 128;

/// About how many bytes a message takes.
fn weight(message: &Outgoing) -> usize {
    let carried = match message {
        Outgoing::Reply { reply, .. } => match reply {
            Reply::Elements(elements) | Reply::Piece { elements, .. } | Reply::Page { elements, .. } => {
                elements.bytes()
            }
            Reply::Removed(tags) | Reply::AddedMany(tags) => 40 * tags.len(),
            Reply::RemovedMany(lists) => lists.iter().map(|tags| 40 * tags.len() + 8).sum(),
            Reply::Echo(text) => text.len(),
            Reply::Status(status) => status.weight(),
            _ => 0,
        },
        Outgoing::Peer { message, .. } => match &message.body {
            PeerBody::Ops { ops, .. } => ops.iter().map(Op::weight).sum(),
            PeerBody::Part { content, .. } => content.weight(),
            _ => 0,
        },
    };
    MESSAGE_OVERHEAD_BYTES + carried
}

impl Outbox {
    /// Puts a reply in.
    pub(super) fn reply(&mut self, ticket: Ticket, reply: Reply) {
        self.put(Outgoing::Reply { ticket, reply });
    }

    /// Puts a message to a peer in.
    pub(super) fn send(&mut self, to: &NodeId, from: ReplicaId, body: PeerBody) {
        self.put(Outgoing::Peer { to: to.clone(), message: PeerMessage { from, body } });
    }

    /// Puts a message in, behind the reply in pieces if there is one under way.
    pub(super) fn put(&mut self, message: Outgoing) {
        if self.behind.is_some() {
            return self.wait(Waiting::Message(message));
        }
        self.bytes += weight(&message);
        self.messages.push(message);
    }

    /// From now on everything waits, but for pieces.
    pub(super) fn hold_back(&mut self) {
        self.behind.get_or_insert_default();
    }

    /// Puts in a piece of the reply that everything waits for.
    pub(super) fn go_on(&mut self, ticket: Ticket, piece: Reply) {
        let message = Outgoing::Reply { ticket, reply: piece };
        self.bytes += weight(&message);
        self.messages.push(message);
    }

    /// Puts something behind the reply in pieces.
    pub(super) fn wait(&mut self, waiting: Waiting) {
        self.behind_bytes += match &waiting {
            Waiting::Message(message) => weight(message),
            Waiting::Read(_) => MESSAGE_OVERHEAD_BYTES,
        };
        self.behind.get_or_insert_default().push_back(waiting);
    }

    /// Nothing waits any more: what has waited so far, in its order.
    pub(super) fn stop_holding_back(&mut self) -> VecDeque<Waiting> {
        self.behind_bytes = 0;
        self.behind.take().unwrap_or_default()
    }

    /// Takes everything out that does not wait for something else: it may leave now.
    pub fn release(&mut self, _everything_before_is: Synced) -> Vec<Outgoing> {
        self.bytes = 0;
        std::mem::take(&mut self.messages)
    }

    /// Takes back what [`Outbox::release`] gave, once it has been said: the next batch is likely to be as large.
    pub fn reuse(&mut self, mut said: Vec<Outgoing>) {
        if self.messages.is_empty() {
            said.clear();
            said.shrink_to(MAX_KEPT_MESSAGES);
            self.messages = said;
        }
    }

    /// About how many bytes wait.
    pub fn bytes(&self) -> usize {
        self.bytes + self.behind_bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.behind.as_ref().is_none_or(VecDeque::is_empty)
    }
}
