//! Whole reads, a piece at a time.
//!
//! A set may be larger than the memory that a reply may take. So a reply that would be longer than
//! [`ReplicaConfig::read_piece_bytes`](super::ReplicaConfig) is made in pieces: a walk in key order, one piece for each
//! [`commit`](Replica::commit) (the first two come together), as fast as whoever drives the replica gets rid of them.
//! Only the key at which the walk goes on is kept in between.
//!
//! ```text
//! read of {1 2 3 4 5 6}:   commit → [1, 2, 3, 4    + 7, − 5    commit → , 6, 7    commit → ]    what else there was to say
//! ```
//!
//! # Invariants
//!
//! - A piece is put into the outbox before the sync that lets it out, so it shows nothing that is not durable.
//! - What is there from the request to the last piece is in the reply, once: the walk passes every key once, upwards.
//!   What is never there in that time is not in it. What comes or goes meanwhile may be in it or not.
//! - Nothing is said between two pieces of a reply. Other messages wait in the outbox, which counts them; a second
//!   whole read waits as a request, and is begun when its turn comes.

use super::outbox::Waiting;
use super::{ElementList, Replica, Reply, Ticket};
use crate::crdt::Element;
use crate::storage::StoreError;

/// A reply of which there is more to come.
pub(super) struct Reading {
    ticket: Ticket,
    /// The first key that has not been looked at.
    from: Vec<u8>,
}

/// Some elements in key order.
struct Walked {
    elements: ElementList,
    /// Where there are more.
    next: Option<Vec<u8>>,
}

impl Replica {
    /// Whether a reply is under way: each commit brings its next piece.
    pub fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Answers a whole read, or begins to.
    pub(super) fn read(&mut self, ticket: Ticket) -> Result<(), StoreError> {
        if self.is_reading() {
            self.outbox.wait(Waiting::Read(ticket));
            return Ok(());
        }
        let Walked { elements, next } = self.walk_piece(&[])?;
        match next {
            None => self.outbox.reply(ticket, Reply::Elements(elements)),
            Some(from) => {
                self.outbox.reply(ticket.clone(), Reply::Piece { elements, first: true, last: false });
                self.outbox.hold_back();
                self.reading = Some(Reading { ticket, from });
            }
        }
        Ok(())
    }

    /// Puts the next piece of the reply that is under way into the outbox; after the last one, what has waited for it.
    pub(super) fn read_on(&mut self) -> Result<(), StoreError> {
        let Some(Reading { ticket, from }) = self.reading.take() else { return Ok(()) };
        let Walked { elements, next } = self.walk_piece(&from)?;
        self.outbox.go_on(ticket.clone(), Reply::Piece { elements, first: false, last: next.is_none() });
        if let Some(from) = next {
            self.reading = Some(Reading { ticket, from });
            return Ok(());
        }
        for waiting in self.outbox.stop_holding_back() {
            match waiting {
                // Behind a read that has just begun they wait again.
                Waiting::Message(message) => self.outbox.put(message),
                Waiting::Read(ticket) => self.read(ticket)?,
            }
        }
        Ok(())
    }

    /// At most `limit` elements after `after`.
    pub(super) fn page(&mut self, limit: usize, after: Option<&Element>) -> Result<Reply, StoreError> {
        let from = after.map_or_else(Vec::new, Element::key_after);
        let Walked { elements, next } = self.walk(from, |elements| elements.len() == limit)?;
        Ok(Reply::Page { elements, more: next.is_some() })
    }

    fn walk_piece(&mut self, from: &[u8]) -> Result<Walked, StoreError> {
        let enough = self.config.read_piece_bytes;
        self.walk(from.to_vec(), |elements| elements.bytes() >= enough)
    }

    /// The elements from the key `from` on, each once, until there are enough.
    fn walk(&mut self, from: Vec<u8>, is_enough: impl Fn(&ElementList) -> bool) -> Result<Walked, StoreError> {
        let mut elements = ElementList::default();
        let mut last = Vec::new();
        self.store.prepare_look_ups();
        for record in self.store.records(&from) {
            let record = record?;
            if record.key.prefix() != last {
                last.clear();
                last.extend_from_slice(record.key.prefix());
                if is_enough(&elements) {
                    return Ok(Walked { elements, next: Some(last) });
                }
                elements.push(record.element_bytes());
            }
        }
        Ok(Walked { elements, next: None })
    }
}
