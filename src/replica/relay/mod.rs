//! Who passes operations on, to whom, and what becomes of it. It is about speed and the number of messages only: what is
//! right does not depend on any of it.
//!
//! ```text
//! leaf ──push──► relay ──flush, every F──► every other node
//!      ◄──flush: what is acknowledged has been spread──
//! ```
//!
//! The **relay** is the first node of the cluster that is not suspected to be away, oneself included; everybody else is a
//! **leaf**. Each node finds that out for itself, and they may disagree for a while: it costs messages.
//!
//! - A leaf *pushes* what the relay is not known to hold, and nobody has spread, at once, or after W. If that is not
//!   acknowledged in time, and the relay was silent, the leaf suspects it, and pushes to the next.
//! - A relay *flushes* what is new to everybody that is not known to hold it: at once if the last flush is F ago. What it
//!   flushes and hears nothing of it sends again, and after four times suspects whoever has not said a word.
//! - Suspects are *probed*. Whoever is heard is no suspect any more; a relay then *greets* it, and all other suspects,
//!   since partitions heal for many at once. Who is greeted asks for what it lacks; whose word has just shown what that
//!   is, is sent it instead. So is who pings the relay.
//! - A push to me, or a flush from a node that is no relay to me, shows that others suspect those before it: whoever of
//!   them was not heard lately is suspected here, too.
//!
//! # Invariants
//!
//! - *Acknowledged* means that a relay's flush covers it, and that leaves only with or after the flush of the operation to
//!   everybody. So an acknowledged operation does not depend on one relay's life any more.
//! - What is sent again starts from what the receiver is *known* to hold, never from what it was sent.
//!
//! This module keeps count, and says when something is due; [`super::spread`] makes the messages. Times are arguments.

mod peer;
#[cfg(test)]
mod tests;
mod timers;

use std::sync::Arc;

pub use peer::Peer;
pub use timers::Timers;

use super::ReplicaConfig;
use super::message::Sign;
use crate::crdt::{Dot, NodeId, Op, ReplicaId, VersionVector};
use crate::storage::OpCursor;

/// A leaf that suspects the relay pings so many who might follow it.
const CANDIDATES: usize = 4;

/// A place in the list of the cluster's nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place(usize);

/// See the module's text.
pub struct Relay {
    timers: Timers,
    /// All nodes in the cluster's order, this one too.
    nodes: Vec<Peer>,
    me: Place,
    /// The relay, as this node sees it.
    leader: Place,
    /// What has been sent to everybody, as far as is known here.
    spread: VersionVector,
    /// Everything before has been spread.
    settled: OpCursor,
    pushing: Pushing,
    flushing: Flushing,
    /// Words that are to be said.
    words: Vec<(Place, Sign)>,
    greet_at_ms: Option<u64>,
}

/// What a leaf has to do with the relay.
#[derive(Default)]
struct Pushing {
    /// Since when there is something to push.
    unsent_since_ms: Option<u64>,
    last_ms: Option<u64>,
    /// The relay is a new one, or has lost what it was sent: it does not wait.
    hurry: bool,
    waiting: Option<Waiting>,
    wakeup_ms: Option<u64>,
}

/// Pushed, and not acknowledged.
struct Waiting {
    since_ms: u64,
    pushed: VersionVector,
}

/// What a relay has to do with the leaves.
#[derive(Default)]
struct Flushing {
    last_ms: Option<u64>,
    /// Everything before has been flushed.
    end: OpCursor,
    wakeup_ms: Option<u64>,
}

impl Relay {
    /// Of a node that starts with `vv`: what it wrote before is taken to be spread, or else digests find it.
    pub fn new(config: &ReplicaConfig, vv: &VersionVector) -> Self {
        Self {
            timers: Timers::new(config),
            nodes: Vec::new(),
            me: Place(0),
            leader: Place(0),
            spread: vv.clone(),
            settled: OpCursor::default(),
            pushing: Pushing::default(),
            flushing: Flushing::default(),
            words: Vec::new(),
            greet_at_ms: None,
        }
    }

    /// These are the nodes of the cluster.
    pub fn set_nodes(&mut self, me: &NodeId, nodes: &[NodeId]) {
        let mut before = std::mem::take(&mut self.nodes);
        let mut names = nodes.to_vec();
        if !names.contains(me) {
            names.push(me.clone());
        }
        let me = names.iter().position(|name| name == me).unwrap_or_default();
        self.nodes = names
            .into_iter()
            .map(|name| match before.iter().position(|peer| peer.name == name) {
                Some(place) => before.swap_remove(place),
                None => Peer::new(name),
            })
            .collect();
        self.me = Place(me);
        self.leader = self.first();
    }

    /// How long everything takes.
    pub fn timers(&self) -> Timers {
        self.timers
    }

    /// Where a node stands.
    pub fn place(&self, name: &NodeId) -> Option<Place> {
        self.nodes.iter().position(|peer| peer.name == *name).map(Place)
    }

    /// A node.
    pub fn peer(&self, place: Place) -> &Peer {
        &self.nodes[place.0]
    }

    /// A node.
    pub fn peer_mut(&mut self, place: Place) -> &mut Peer {
        &mut self.nodes[place.0]
    }

    /// All other nodes.
    pub fn peers(&self) -> impl Iterator<Item = (Place, &Peer)> {
        let me = self.me;
        self.nodes.iter().enumerate().map(|(place, peer)| (Place(place), peer)).filter(move |(place, _)| *place != me)
    }

    fn suspects(&self) -> impl Iterator<Item = Place> {
        self.peers().filter(|(_, peer)| peer.suspected.is_some()).map(|(place, _)| place)
    }

    /// The other nodes that are not suspected.
    pub fn present(&self) -> Vec<Place> {
        self.peers().filter(|(_, peer)| peer.suspected.is_none()).map(|(place, _)| place).collect()
    }

    fn first(&self) -> Place {
        let first = self.nodes.iter().position(|peer| peer.suspected.is_none());
        Place(first.unwrap_or(self.me.0)).min(self.me)
    }

    /// The relay.
    pub fn leader(&self) -> Place {
        self.leader
    }

    /// Whether this node is the relay.
    pub fn leads(&self) -> bool {
        self.leader == self.me
    }

    /// Looks who is the relay now.
    fn elect(&mut self) {
        let leader = self.first();
        if leader == self.leader {
            return;
        }
        let led = self.leads();
        self.leader = leader;
        self.pushing.waiting = None;
        if led {
            for peer in &mut self.nodes {
                (peer.unacknowledged, peer.owed) = (None, false);
            }
        }
        if self.leads() {
            self.flushing.end = self.settled;
        } else {
            self.forget(leader);
        }
    }

    /// What `to` was sent may be lost.
    pub fn forget(&mut self, to: Place) {
        self.nodes[to.0].sent = self.settled;
        if to == self.leader {
            (self.pushing.waiting, self.pushing.hurry) = (None, true);
        }
    }

    fn suspect(&mut self, place: Place, now_ms: u64, random: u64) {
        let after = self.timers.probe(true, random);
        let peer = &mut self.nodes[place.0];
        (peer.suspected, peer.ping_until_ms) = (Some(now_ms + after), None);
        (peer.unacknowledged, peer.owed) = (None, false);
    }

    /// Others take `place` for the relay.
    fn suspect_before(&mut self, place: Place, now_ms: u64, random: u64) {
        let since_ms = now_ms.saturating_sub(self.timers.unheard());
        for earlier in (0..place.0).map(Place) {
            let peer = self.peer(earlier);
            if earlier != self.me && peer.suspected.is_none() && !peer.heard_since(since_ms) {
                self.suspect(earlier, now_ms, random);
            }
        }
        self.elect();
    }

    /// Something has come from `from`. Says whether it had been suspected to be away.
    pub fn heard(&mut self, from: Place, incarnation: ReplicaId, now_ms: u64, end: OpCursor) -> bool {
        let led = self.leads();
        let back = self.peer(from).suspected.is_some();
        let other_process = self.peer_mut(from).heard(incarnation, now_ms);
        if other_process {
            self.forget(from);
        }
        if back && led {
            self.greet(from, now_ms, end);
            for suspect in self.suspects().collect::<Vec<_>>() {
                self.greet(suspect, now_ms, end);
            }
        }
        self.elect();
        back
    }

    /// Tells a node that this one is there; it asks for what there is by now, so that it is sent what comes after.
    fn greet(&mut self, to: Place, now_ms: u64, end: OpCursor) {
        let recently = now_ms.saturating_sub(self.timers.ping());
        let peer = &mut self.nodes[to.0];
        if peer.greeted_ms.is_none_or(|at| at < recently) {
            (peer.greeted_ms, peer.sent) = (Some(now_ms), end);
            self.words.push((to, Sign::Hello));
        }
    }

    /// Takes a word back that was to be said to `to`, since it is sent what that would make it ask for; says whether
    /// there was one.
    pub fn spare(&mut self, to: Place, sign: Sign) -> bool {
        let at = self.words.iter().position(|word| *word == (to, sign));
        at.map(|at| self.words.remove(at)).is_some()
    }

    /// A word that is to be said to `to`.
    pub fn say(&mut self, to: Place, sign: Sign) {
        self.words.push((to, sign));
    }

    /// The words that are to be said.
    pub fn take_words(&mut self) -> Vec<(Place, Sign)> {
        std::mem::take(&mut self.words)
    }

    /// Somebody takes this node for the relay, and has pushed something; `news` if there was anything new in it.
    pub fn pushed_here(&mut self, from: Place, news: bool, now_ms: u64, random: u64) {
        if !self.leads() {
            self.suspect_before(self.me, now_ms, random);
        }
        // Who is no relay passes it on, and that will be acknowledged by who is. If not, it will be pushed once more.
        let owed = self.leads() || !news;
        self.peer_mut(from).owed |= owed;
    }

    /// A relay that holds `vv` has flushed; `loaded` if there were operations in it.
    pub fn flushed_here(&mut self, from: Place, vv: &VersionVector, loaded: bool, now_ms: u64, random: u64) {
        if from > self.leader && !self.leads() {
            self.suspect_before(from, now_ms, random);
        }
        if loaded {
            let unanswered = &mut self.peer_mut(from).unanswered;
            *unanswered = Some((unanswered.map_or(now_ms, |(first_ms, _)| first_ms), now_ms));
        }
        if let Some(waiting) = &mut self.pushing.waiting {
            let news = |replica: ReplicaId| vv.get(replica) > self.spread.get(replica);
            if waiting.pushed.is_within(vv) {
                self.pushing.waiting = None;
            } else if waiting.pushed.iter().any(|(replica, _)| news(replica)) {
                waiting.since_ms = now_ms;
            }
        }
        self.spread.join(vv);
    }

    /// Moves on past what has been spread. `ops` are those from [`Relay::settled`] on.
    pub fn settle<'a>(&mut self, ops: Option<impl Iterator<Item = &'a Op>>, end: OpCursor) {
        match ops {
            Some(mut ops) => {
                let spread = ops.by_ref().take_while(|op| self.spread.covers(op.dot)).count();
                self.settled = self.settled.after(spread);
            }
            // It is not at hand any more; who lacks it will see that from a vector.
            None => self.settled = end,
        }
    }

    /// Everything before has been spread.
    pub fn settled(&self) -> OpCursor {
        self.settled
    }

    /// From where on `to` may have to be sent something.
    pub fn unsent_from(&self, to: Place) -> OpCursor {
        self.peer(to).sent.max(self.settled)
    }

    /// Whether an operation has been spread.
    pub fn is_spread(&self, dot: Dot) -> bool {
        self.spread.covers(dot)
    }

    /// There is something to push: says whether it is time to.
    pub fn push_is_due(&mut self, now_ms: u64) -> bool {
        let pushing = &mut self.pushing;
        let since_ms = *pushing.unsent_since_ms.get_or_insert(now_ms);
        let pause_ms = pushing.last_ms.map_or(0, |last| last + self.timers.push_pause());
        let at_ms = (since_ms + self.timers.wait()).max(pause_ms);
        let due = pushing.hurry || now_ms >= at_ms;
        pushing.wakeup_ms = (!due).then_some(at_ms);
        due
    }

    /// There is nothing (more) to push.
    pub fn nothing_to_push(&mut self, end: OpCursor) {
        let leader = self.leader;
        self.peer_mut(leader).sent = end;
        (self.pushing.unsent_since_ms, self.pushing.wakeup_ms, self.pushing.hurry) = (None, None, false);
    }

    /// These have been pushed.
    pub fn pushed(&mut self, ops: &[Op], end: OpCursor, now_ms: u64) {
        self.nothing_to_push(end);
        self.pushing.last_ms = Some(now_ms);
        if ops.is_empty() {
            return;
        }
        let none = || Waiting { since_ms: now_ms, pushed: VersionVector::new() };
        let waiting = self.pushing.waiting.get_or_insert_with(none);
        for op in ops {
            waiting.pushed.raise(op.dot.replica, op.dot.seq);
        }
    }

    /// Whether everything that was pushed is acknowledged.
    pub fn is_acknowledged(&self) -> bool {
        self.pushing.waiting.is_none()
    }

    /// Whether a flush is due, if there is anything to flush; `end`: where the next operation will be.
    pub fn flush_is_due(&mut self, end: OpCursor, now_ms: u64) -> Flush {
        self.flushing.wakeup_ms = None;
        let again = self.peers().any(|(_, peer)| peer.unacknowledged.as_ref().is_some_and(|flushes| flushes.due));
        let owed = self.peers().any(|(_, peer)| peer.owed);
        if end == self.flushing.end && !owed {
            return if again { Flush::AgainOnly } else { Flush::Nothing };
        }
        let at_ms = self.flushing.last_ms.map_or(0, |last| last + self.timers.flush(self.nodes.len() - 1));
        if now_ms >= at_ms {
            return Flush::Everything;
        }
        // What is sent again acknowledges too, so it must not go before.
        self.flushing.wakeup_ms = Some(at_ms);
        Flush::Nothing
    }

    /// Everybody has been flushed everything by somebody who holds `vv`; `anything`: somebody lacked something.
    pub fn flushed(&mut self, vv: &Arc<VersionVector>, end: OpCursor, anything: bool, now_ms: u64) {
        if anything {
            self.flushing.last_ms = Some(now_ms);
        }
        (self.flushing.end, self.settled) = (end, end);
        self.spread.join(vv);
    }

    /// This node has started, and may speak. The first one of the cluster greets the others soon.
    pub fn start(&mut self, now_ms: u64) {
        if self.me == Place(0) && self.nodes.len() > 1 {
            self.greet_at_ms = Some(now_ms + self.timers.greet());
        }
    }

    /// This node is about to stop: what it has to say it says now.
    pub fn stop(&mut self) {
        (self.pushing.hurry, self.flushing.last_ms) = (true, None);
    }

    /// This node has heard what it had missed.
    pub fn caught_up(&mut self, now_ms: u64) {
        self.greet_at_ms = self.greet_at_ms.map(|_| now_ms);
    }

    /// Does what is due.
    pub fn tick(&mut self, now_ms: u64, end: OpCursor, mut random: impl FnMut() -> u64) {
        if self.greet_at_ms.take_if(|at| now_ms >= *at).is_some() {
            let others: Vec<Place> = self.peers().map(|(place, _)| place).collect();
            others.into_iter().for_each(|other| self.greet(other, now_ms, end));
        }
        for place in self.peers().map(|(place, _)| place).collect::<Vec<_>>() {
            self.tick_peer(place, now_ms, random());
        }
        self.tick_waiting(now_ms, random());
        self.elect();
    }

    fn tick_peer(&mut self, place: Place, now_ms: u64, random: u64) {
        let (timers, leads) = (self.timers, self.leads());
        let peer = &mut self.nodes[place.0];
        if peer.ping_until_ms.is_some_and(|until| now_ms >= until) {
            return self.suspect(place, now_ms, random);
        }
        if peer.suspected.take_if(|at| now_ms >= *at).is_some() {
            peer.suspected = Some(now_ms + timers.probe(leads, random));
            return self.words.push((place, Sign::Ping));
        }
        if peer.ack_at_ms(timers).is_some_and(|at| now_ms >= at) {
            peer.unanswered = None;
            self.words.push((place, Sign::Ack));
        }
        if let Some(flushes) = &mut peer.unacknowledged
            && flushes.resend_at_ms(timers).is_some_and(|at| now_ms >= at)
            && flushes.send_again()
        {
            self.suspect(place, now_ms, random);
        }
    }

    /// Looks whether the relay has acknowledged in time what was pushed.
    fn tick_waiting(&mut self, now_ms: u64, random: u64) {
        let timers = self.timers;
        let due = |waiting: &mut Waiting| now_ms >= waiting.since_ms + timers.patience();
        let Some(waiting) = self.pushing.waiting.take_if(due) else { return };
        let leader = self.leader;
        if self.peer(leader).heard_since(waiting.since_ms + timers.silence()) {
            return self.forget(leader);
        }
        self.suspect(leader, now_ms, random);
        self.elect();
        let later = self.present().into_iter().filter(|place| *place > leader);
        for candidate in later.take(CANDIDATES).collect::<Vec<_>>() {
            self.peer_mut(candidate).ping_until_ms = Some(now_ms + timers.ping());
            self.words.push((candidate, Sign::Ping));
        }
    }

    /// When [`Relay::tick`] has something to do, or a push or flush is due.
    pub fn next_wakeup_ms(&self) -> Option<u64> {
        let timers = self.timers;
        let of_peer = |peer: &Peer| {
            let resend = peer.unacknowledged.as_ref().and_then(|flushes| flushes.resend_at_ms(timers));
            [peer.ping_until_ms, peer.suspected, peer.ack_at_ms(timers), resend].into_iter().flatten().min()
        };
        let peers = self.peers().filter_map(|(_, peer)| of_peer(peer)).min();
        let waiting = self.pushing.waiting.as_ref().map(|waiting| waiting.since_ms + timers.patience());
        let spreading = if self.leads() { self.flushing.wakeup_ms } else { self.pushing.wakeup_ms };
        [self.greet_at_ms, peers, waiting, spreading].into_iter().flatten().min()
    }
}

/// What a relay has to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// Nothing, or not now.
    Nothing,
    /// What has not been acknowledged, to some.
    AgainOnly,
    /// That, and what is new, to all.
    Everything,
}
