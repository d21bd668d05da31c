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

use super::message::{Outgoing, PeerBody, PeerMessage, Reply, Ticket};
use crate::crdt::{NodeId, Op, ReplicaId};
use crate::storage::Synced;

/// Messages that wait for the log.
#[derive(Debug, Default)]
pub struct Outbox {
    messages: Vec<Outgoing>,
    bytes: usize,
}

/// What a message costs beyond what it carries.
const MESSAGE_OVERHEAD_BYTES: usize = 128;

impl Outbox {
    /// Puts a reply in.
    pub(super) fn reply(&mut self, ticket: Ticket, reply: Reply) {
        self.bytes += MESSAGE_OVERHEAD_BYTES
            + match &reply {
                Reply::Elements(elements) | Reply::Page { elements, .. } => elements.bytes(),
                Reply::Removed(tags) | Reply::AddedMany(tags) => 40 * tags.len(),
                Reply::RemovedMany(lists) => lists.iter().map(|tags| 40 * tags.len() + 8).sum(),
                Reply::Echo(text) => text.len(),
                Reply::Status(status) => status.weight(),
                _ => 0,
            };
        self.messages.push(Outgoing::Reply { ticket, reply });
    }

    /// Puts a message to a peer in.
    pub(super) fn send(&mut self, to: &NodeId, from: ReplicaId, body: PeerBody) {
        self.bytes += MESSAGE_OVERHEAD_BYTES
            + match &body {
                PeerBody::Ops { ops, .. } => ops.iter().map(Op::weight).sum(),
                PeerBody::Part { content, .. } => content.weight(),
                _ => 0,
            };
        self.messages.push(Outgoing::Peer { to: to.clone(), message: PeerMessage { from, body } });
    }

    /// Takes everything out: it may leave now.
    pub fn release(&mut self, _everything_before_is: Synced) -> Vec<Outgoing> {
        self.bytes = 0;
        std::mem::take(&mut self.messages)
    }

    /// About how many bytes wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}
