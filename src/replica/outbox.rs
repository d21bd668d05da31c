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
use crate::crdt::{NodeId, ReplicaId};
use crate::storage::Synced;

/// Messages that wait for the log.
#[derive(Debug, Default)]
pub struct Outbox {
    messages: Vec<Outgoing>,
}

impl Outbox {
    /// Puts a reply in.
    pub(super) fn reply(&mut self, ticket: Ticket, reply: Reply) {
        self.messages.push(Outgoing::Reply { ticket, reply });
    }

    /// Puts a message to a peer in.
    pub(super) fn send(&mut self, to: &NodeId, from: ReplicaId, body: PeerBody) {
        self.messages.push(Outgoing::Peer { to: to.clone(), message: PeerMessage { from, body } });
    }

    /// Takes everything out: it may leave now.
    pub fn release(&mut self, _everything_before_is: Synced) -> Vec<Outgoing> {
        std::mem::take(&mut self.messages)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}
