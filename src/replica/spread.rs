//! Pushes, flushes and words: the messages that [`super::relay`] finds due.
//!
//! They may be lost, and what they are made by may be out of date: only digests and their answers matter for
//! convergence. What a message carries and claims is always read from the store at that moment, and leaves when that is
//! durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Replica;
use super::gossip::cut;
use super::message::{PeerBody, Purpose, Sign};
use super::relay::{Flush, Place};
use crate::crdt::{NodeId, Op, VersionVector};
use crate::storage::{OpCursor, StoreError};

/// More than this is not sent again unasked.
const MAX_AGAIN_BYTES: usize = 4 << 10;

impl Replica {
    fn name(&self, place: Place) -> NodeId {
        self.relay.peer(place).name.clone()
    }

    pub(super) fn tick_relay(&mut self, now_ms: u64) {
        if self.may_speak() && !self.peers.is_empty() {
            let end = self.store.op_cursor();
            self.relay.tick(now_ms, end, || self.gossip.draw());
        }
    }

    pub(super) fn relay_wakeup_ms(&self) -> Option<u64> {
        if self.may_speak() && !self.peers.is_empty() { self.relay.next_wakeup_ms() } else { None }
    }

    /// Says what is due: as the relay, or to it.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub(super) fn spread(&mut self, now_ms: u64) -> Result<(), StoreError> {
        if !self.may_speak() || self.peers.is_empty() {
            return Ok(());
        }
        self.relay.settle(self.store.ops_since(self.relay.settled()), self.store.op_cursor());
        if self.relay.leads() {
            self.flush(now_ms)?;
        } else {
            self.push(now_ms);
            self.answer_pushes()?;
        }
        for (place, sign) in self.relay.take_words() {
            let (to, vv) = (self.name(place), self.store.compact_vv());
            self.send(&to, PeerBody::Sign { vv, sign });
        }
        Ok(())
    }

    /// Sends operations, in as many messages as it takes; at least one, with nothing but this node's vector.
    pub(super) fn send_ops(&mut self, to: &NodeId, vv: &VersionVector, ops: Vec<Op>, purpose: Purpose) {
        let messages = cut(ops, self.config.message_bytes);
        let last = messages.len() - 1;
        for (n, ops) in messages.into_iter().enumerate() {
            let purpose = match purpose {
                Purpose::Last | Purpose::LastOfMany if n < last => Purpose::Part,
                purpose => purpose,
            };
            self.send(to, PeerBody::Ops { vv: vv.clone(), ops, purpose });
        }
    }

    /// What `to` was not sent yet, is not known to hold, and nobody has spread; `None`: too much to be at hand.
    fn unspread(&self, to: Place) -> Option<impl Iterator<Item = &Op>> {
        let lacks = move |op: &&Op| !self.relay.is_spread(op.dot) && !self.relay.peer(to).known.covers(op.dot);
        Some(self.store.ops_since(self.relay.unsent_from(to))?.filter(lacks))
    }

    /// Pushes to the relay what nobody has spread, if there is such, and it is time.
    fn push(&mut self, now_ms: u64) {
        let (leader, end) = (self.relay.leader(), self.store.op_cursor());
        let anything = match self.unspread(leader) {
            Some(mut ops) => ops.next().is_some(),
            // Too many to be at hand: the relay will see from the vector that it is behind, and pull.
            None => !self.store.vv().is_within(&self.relay.peer(leader).known),
        };
        if !anything {
            self.relay.nothing_to_push(end);
        } else if self.relay.push_is_due(now_ms) {
            let ops = self.unspread(leader).into_iter().flatten().cloned().collect::<Vec<Op>>();
            self.relay.pushed(&ops, end, now_ms);
            let (to, vv) = (self.name(leader), self.store.compact_vv());
            self.send_ops(&to, &vv, ops, Purpose::Push);
        }
    }

    /// Flushes to everybody that is there what it lacks, if it is time.
    fn flush(&mut self, now_ms: u64) -> Result<(), StoreError> {
        let end = self.store.op_cursor();
        let due = self.relay.flush_is_due(end, now_ms);
        if due == Flush::Nothing {
            return Ok(());
        }
        let vv = Arc::new(self.store.vv().clone());
        for place in self.relay.present() {
            if self.relay.peer(place).unacknowledged.as_ref().is_some_and(|flushes| flushes.due) {
                self.flush_again(place, end)?;
                self.relay.peer_mut(place).flushed(&vv, now_ms);
            }
        }
        if due == Flush::Everything {
            self.flush_all(&vv, end, now_ms);
        }
        Ok(())
    }

    fn flush_all(&mut self, vv: &Arc<VersionVector>, end: OpCursor, now_ms: u64) {
        let compact = self.store.compact_vv();
        let mut anything = false;
        // What is new to those that were sent the same before: nearly always one list for all.
        let mut news: BTreeMap<OpCursor, Option<Vec<Op>>> = BTreeMap::new();
        for place in self.relay.present() {
            let from = self.relay.unsent_from(place);
            let news = news.entry(from).or_insert_with(|| {
                let ops = self.store.ops_since(from)?;
                Some(ops.filter(|op| !self.relay.is_spread(op.dot)).cloned().collect())
            });
            let peer = self.relay.peer(place);
            let (ops, lacks) = match news {
                Some(ops) => {
                    let ops: Vec<Op> = ops.iter().filter(|op| !peer.known.covers(op.dot)).cloned().collect();
                    let lacks = !ops.is_empty();
                    (ops, lacks)
                }
                // Too many to be at hand: they see from the vector that they are behind, and pull.
                None => (Vec::new(), !vv.is_within(&peer.known)),
            };
            let (to, owed) = (peer.name.clone(), peer.owed);
            let peer = self.relay.peer_mut(place);
            (peer.sent, peer.owed) = (end, false);
            if lacks {
                peer.flushed(vv, now_ms);
            }
            if lacks || owed {
                anything = true;
                self.send_ops(&to, &compact, ops, Purpose::Flush);
            }
        }
        self.relay.flushed(vv, end, anything, now_ms);
    }

    /// Flushes to one what it is not known to hold, whatever it was sent. Of who has not said a word yet nothing is
    /// known, and who lacks much is to ask for it.
    fn flush_again(&mut self, place: Place, end: OpCursor) -> Result<(), StoreError> {
        let known = &self.relay.peer(place).known;
        let mut ops = Vec::new();
        if !known.is_empty() && self.store.can_serve(known) {
            let delta = self.store.delta(known, MAX_AGAIN_BYTES)?;
            if delta.complete {
                ops = delta.ops;
            }
        }
        let peer = self.relay.peer_mut(place);
        (peer.sent, peer.owed) = (end, false);
        let (to, vv) = (self.name(place), self.store.compact_vv());
        self.send_ops(&to, &vv, ops, Purpose::Flush);
        Ok(())
    }

    /// A node that is no relay has been pushed to, twice, by somebody who does not hear the relay: once that has
    /// acknowledged everything, this node says so, and what there is.
    fn answer_pushes(&mut self) -> Result<(), StoreError> {
        let settled = self.relay.is_acknowledged() && self.relay.settled() == self.store.op_cursor();
        let owed: Vec<Place> = self.relay.peers().filter(|(_, peer)| peer.owed).map(|(place, _)| place).collect();
        for place in owed {
            if settled {
                self.flush_again(place, self.store.op_cursor())?;
            }
        }
        Ok(())
    }

    /// Takes a word.
    pub(super) fn on_sign(&mut self, from: &NodeId, vv: &VersionVector, sign: Sign, now_ms: u64) {
        let behind = self.learn(from, vv, false, now_ms);
        let (timers, place) = (self.relay.timers(), self.relay.place(from));
        let Some(place) = place else { return };
        let grace = match sign {
            Sign::Hello => {
                self.relay.forget(place);
                0
            }
            Sign::Ping => timers.answer() / 2,
            Sign::Pong | Sign::Ack => timers.grace(),
        };
        if behind {
            self.pull_after(from, vv, false, grace, now_ms);
        }
        if sign == Sign::Ping || (sign == Sign::Hello && !behind) {
            self.relay.say(place, Sign::Pong);
        }
    }
}
