//! Pulls: asking for what is missing here.
//!
//! Who sees from a peer's vector that it holds more asks it, by a digest that wants an answer, unless the operations
//! have come by then, or are among those that somebody else has been asked for: what many hold is asked of one, and what
//! only one holds of that one. Who does not answer in three round trips is given up for somebody else.

use std::collections::BTreeMap;

use super::Replica;
use crate::crdt::{NodeId, VersionVector};

/// So many times: what was heard of may have been lost with the only store that had it.
const MAX_TRIES: u32 = 10;

/// See the module's text.
#[derive(Default)]
pub struct Pulls(BTreeMap<NodeId, Pull>);

/// What a peer holds more than is held here.
struct Pull {
    /// When it is asked; or when the answer must have come.
    at_ms: u64,
    asked: bool,
    /// What it holds, as it said it: in full, or compact.
    wanted: VersionVector,
    full: bool,
    /// How many have been asked in vain.
    tries: u32,
}

impl Pulls {
    /// Who has been away is asked now.
    pub fn hurry(&mut self, from: &NodeId, now_ms: u64) {
        if let Some(pull) = self.0.get_mut(from).filter(|pull| !pull.asked) {
            pull.at_ms = now_ms;
        }
    }

    /// Some of an answer has come.
    pub fn hears_a_part(&mut self, from: &NodeId, answer_until_ms: u64) {
        if let Some(pull) = self.0.get_mut(from).filter(|pull| pull.asked) {
            pull.at_ms = answer_until_ms;
        }
    }

    /// The answer has come.
    pub fn is_answered(&mut self, from: &NodeId) {
        if self.0.get(from).is_some_and(|pull| pull.asked) {
            self.0.remove(from);
        }
    }

    pub fn next_wakeup_ms(&self) -> Option<u64> {
        self.0.values().map(|pull| pull.at_ms).min()
    }
}

impl Replica {
    /// `from` holds `vv`, it says, and not all of that is held here: it is asked after `grace_ms`, if it still is not.
    pub(super) fn pull_after(&mut self, from: &NodeId, vv: &VersionVector, full: bool, grace_ms: u64, now_ms: u64) {
        let at_ms = now_ms + grace_ms;
        let new = || Pull { at_ms, asked: false, wanted: VersionVector::new(), full, tries: 0 };
        let pull = self.gossip.pulls.0.entry(from.clone()).or_insert_with(new);
        if !pull.asked {
            pull.at_ms = pull.at_ms.min(at_ms);
        }
        (pull.wanted, pull.full) = (vv.clone(), full);
    }

    fn is_missing(&self, pull: &Pull) -> bool {
        self.expand(&pull.wanted, pull.full).is_none_or(|wanted| !wanted.is_within(self.store.vv()))
    }

    /// Until when somebody else may bring what `pull` wants.
    fn is_being_brought(&self, pull: &Pull) -> Option<u64> {
        let wanted = self.expand(&pull.wanted, pull.full).unwrap_or_else(|| pull.wanted.clone());
        let brings = |other: &&Pull| {
            let held = self.expand(&other.wanted, other.full).unwrap_or_else(|| other.wanted.clone());
            other.asked
                && wanted.iter().all(|(replica, seq)| seq <= held.get(replica).max(self.store.vv().get(replica)))
        };
        self.gossip.pulls.0.values().filter(brings).map(|other| other.at_ms).min()
    }

    /// Asks for what is due.
    pub(super) fn tick_pulls(&mut self, now_ms: u64) {
        while let Some(from) = self.due_pull(now_ms) {
            let Some(pull) = self.gossip.pulls.0.remove(&from) else { return };
            if !self.is_missing(&pull) {
                continue;
            }
            if !pull.asked {
                match self.is_being_brought(&pull) {
                    Some(until_ms) => {
                        let pull = Pull { at_ms: until_ms, ..pull };
                        self.gossip.pulls.0.insert(from, pull);
                    }
                    None => self.ask(from, pull, now_ms),
                }
            } else if pull.tries < MAX_TRIES {
                let other = self.somebody_else(&from);
                self.ask(other, Pull { tries: pull.tries + 1, ..pull }, now_ms);
            } else {
                self.parking.clear();
            }
        }
    }

    /// Those that have been asked in vain come first, since others wait for them.
    fn due_pull(&self, now_ms: u64) -> Option<NodeId> {
        let due = self.gossip.pulls.0.iter().filter(|(_, pull)| now_ms >= pull.at_ms);
        due.max_by_key(|(_, pull)| pull.asked).map(|(from, _)| from.clone())
    }

    fn ask(&mut self, from: NodeId, pull: Pull, now_ms: u64) {
        let compact = self.store.compact_vv();
        let known = self.relay.place(&from).map(|place| &self.relay.peer(place).known);
        // Who does not know everybody in it cannot tell what a compact vector means.
        let full = !known.is_some_and(|known| compact.iter().all(|(replica, _)| known.get(replica).0 > 0));
        self.send_digest(&from, full, true);
        let pull = Pull { asked: true, at_ms: now_ms + self.relay.timers().answer(), ..pull };
        self.gossip.pulls.0.insert(from, pull);
    }

    /// Somebody else, who is not suspected to be away, and holds more than this node, if there is such.
    fn somebody_else(&mut self, but: &NodeId) -> NodeId {
        let peers = || self.relay.peers().filter(|(_, peer)| peer.name != *but);
        let present = || peers().filter(|(_, peer)| peer.suspected.is_none());
        let holds_more = |known: &VersionVector| !known.is_within(self.store.vv());
        let mut candidates: Vec<NodeId> =
            present().filter(|(_, peer)| holds_more(&peer.known)).map(|(_, peer)| peer.name.clone()).collect();
        if candidates.is_empty() {
            candidates = present().map(|(_, peer)| peer.name.clone()).collect();
        }
        self.gossip.choose(&candidates).unwrap_or_else(|| but.clone())
    }
}
