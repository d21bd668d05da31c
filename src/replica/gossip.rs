//! Digests, and the operations that answer them. ([`super::relay`] pushes, [`super::pulls`] asks, and state deltas are
//! in `transfer`.)
//!
//! - A **digest** says what its sender holds. Who holds more answers with operations; who holds less pulls. Digests go
//!   to random peers, first to those that are not known to hold the same; the interval doubles while nothing differs,
//!   and while operations are flushed digests wait. They are the safety net: whatever else is lost or wrong, they find it.
//! - What has been held for less than the **grace** is left out of an answer: pushes are bringing it. A digest that asks
//!   for an answer in any case, a *pull*, gets it, too; so does one of a node that this relay had suspected to be away,
//!   as nobody has pushed anything to it.
//! - Every message carries its sender's vector. Who sees from it that it lacks something pulls that, after a grace.
//!
//! Vectors may be old by the time they come: only what a message carries is ever merged.

use std::collections::{BTreeMap, VecDeque};

use super::message::{PeerBody, PeerMessage, Purpose, Sign};
use super::pulls::Pulls;
use super::relay::Place;
use super::{Replica, ReplicaConfig};
use crate::crdt::{Dot, NodeId, Op, ReplicaId, Seq, Verdict, VersionVector};
use crate::storage::{OpCursor, StoreError};

/// What an operation costs on the wire beyond its weight if it does not follow the one before it.
const RUN_BYTES: usize = 28;

/// While operations are flushed, a digest goes out after so many times the longest interval all the same.
const POSTPONED: u64 = 4;

/// When to say what to whom.
pub(super) struct Gossip {
    random: u64,
    digest_at_ms: u64,
    digest_interval_ms: u64,
    /// When the last one went out.
    last_digest_ms: u64,
    /// Where this node's operations ended at which time, as far back as the grace.
    ends: VecDeque<(u64, OpCursor)>,
    pub pulls: Pulls,
}

impl Gossip {
    pub fn new(random: u64, now_ms: u64, config: &ReplicaConfig) -> Self {
        Self {
            random,
            digest_at_ms: now_ms + config.digest_interval_ms,
            digest_interval_ms: config.digest_interval_ms,
            last_digest_ms: now_ms,
            ends: VecDeque::new(),
            pulls: Pulls::default(),
        }
    }

    /// The next random number (splitmix64).
    pub(super) fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }

    /// A random one of `from`.
    pub fn choose<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        let n = usize::try_from(self.below(from.len() as u64)).expect("an index");
        from.get(n).cloned()
    }

    /// Where the operations begin that have been held for less than `grace_ms`.
    fn young_from(&mut self, end: OpCursor, grace_ms: u64, now_ms: u64) -> OpCursor {
        self.note_end(end, grace_ms, now_ms);
        self.ends.front().map_or(end, |(_, end)| *end)
    }

    /// Takes note of where the operations end now: those after that are younger than this moment.
    fn note_end(&mut self, end: OpCursor, grace_ms: u64, now_ms: u64) {
        if self.ends.back().is_none_or(|(_, last)| *last != end) {
            self.ends.push_back((now_ms, end));
        }
        // The last one that is older than the grace stays: it is where the young ones begin.
        while self.ends.get(1).is_some_and(|(at, _)| at + grace_ms <= now_ms) {
            self.ends.pop_front();
        }
    }
}

impl Replica {
    pub(super) fn send(&mut self, to: &NodeId, body: PeerBody) {
        let tells = matches!(body, PeerBody::Digest { .. } | PeerBody::Ops { .. } | PeerBody::Sign { .. });
        if let Some(place) = self.relay.place(to).filter(|_| tells) {
            // Its vector acknowledges.
            self.relay.peer_mut(place).unanswered = None;
        }
        self.outbox.send(to, self.store.incarnation(), body);
    }

    /// Tells `to` what is held here; `answer` asks for a word back even if there is nothing to send.
    pub(super) fn send_digest(&mut self, to: &NodeId, full: bool, answer: bool) {
        let vv = if full { self.store.vv().clone() } else { self.store.compact_vv() };
        self.send(to, PeerBody::Digest { vv, full, answer });
    }

    /// Takes a peer's message. One that makes no sense is dropped whole, with a word on stderr.
    ///
    /// # Errors
    /// If the store fails; the process should end then.
    pub fn peer(&mut self, from: &NodeId, message: PeerMessage, now_ms: u64) -> Result<(), StoreError> {
        self.hear_a_line(now_ms);
        if let Some(why) = self.objection(from, &message) {
            tracing::warn!("dropped a message from {from}: {why}");
            return Ok(());
        }
        self.pass(now_ms);
        let Some(place) = self.relay.place(from) else { return Ok(()) };
        let led = self.relay.leads();
        let asks = matches!(message.body, PeerBody::Digest { .. });
        let pings = matches!(message.body, PeerBody::Sign { sign: Sign::Ping, .. });
        let peer = self.relay.peer(place);
        let before = peer.held_by(message.from).filter(|_| pings || peer.suspected.is_some()).cloned();
        let back = self.relay.heard(place, message.from, now_ms, self.store.op_cursor());
        let said = message.body.vector().filter(|_| back || pings).map(|(vv, full)| (vv.clone(), full, before));
        match message.body {
            PeerBody::Digest { vv, full, answer } => {
                let everything = full || answer || (back && led);
                self.on_digest(from, &vv, full, answer, everything, now_ms)?;
            }
            PeerBody::Ops { vv, ops, purpose } => self.on_ops(from, place, &vv, ops, purpose, now_ms)?,
            PeerBody::Sign { vv, sign } => self.on_sign(from, &vv, sign, now_ms),
            PeerBody::Offer { key, vv } => self.on_offer(from, key, vv, now_ms)?,
            PeerBody::Pull { key, digest, have, offset } => {
                self.on_pull(from, key, digest.zip(Some(have)), offset, now_ms)?;
            }
            PeerBody::Part { key, offset, next, content } => self.on_part(from, key, offset, next, content, now_ms)?,
            PeerBody::Gone { key } => self.on_gone(from, message.from, key, now_ms),
        }
        if back {
            self.gossip.pulls.hurry(from, now_ms);
        }
        let Some((vv, full, before)) = said else { return Ok(()) };
        let expanded = self.expand(&vv, full);
        let answered = asks && expanded.is_some();
        // If it names somebody unknown here, it holds that, and what it held before.
        if let Some(theirs) = expanded.or_else(|| before.map(|before| joined(before, &vv))) {
            if back {
                self.welcome(from, place, &theirs, answered, now_ms)?;
            } else {
                self.answer_ping(from, place, &theirs, now_ms)?;
            }
        }
        Ok(())
    }

    /// Whether a peer that holds `theirs` lacks something, and the log has it.
    fn can_help(&self, theirs: &VersionVector) -> bool {
        !self.store.vv().is_within(theirs) && self.store.can_serve(theirs)
    }

    /// A greeting would make a node that is back ask for what it lacks. One that has just said what it holds is sent
    /// that at once instead, or has been, if it is `answered`.
    fn welcome(
        &mut self,
        from: &NodeId,
        place: Place,
        theirs: &VersionVector,
        answered: bool,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        if self.can_help(theirs) && self.relay.spare(place, Sign::Hello) && !answered {
            self.send_delta(from, theirs, true, now_ms)?;
        }
        Ok(())
    }

    /// Who pings the relay has not been reached by it: what it lacks, beside what is just being flushed, is an answer, too.
    fn answer_ping(
        &mut self,
        from: &NodeId,
        place: Place,
        theirs: &VersionVector,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        if self.relay.leads() && self.can_help(theirs) && self.send_delta(from, theirs, false, now_ms)? {
            self.relay.spare(place, Sign::Pong);
        }
        Ok(())
    }

    /// Why a message cannot be taken at its word.
    fn objection(&self, from: &NodeId, message: &PeerMessage) -> Option<&'static str> {
        if !self.peers.contains(from) {
            return Some("it is from no node of this cluster");
        }
        let (own, held) = (self.store.incarnation(), self.store.vv().get(self.store.incarnation()));
        let (vv, ops): (Option<&VersionVector>, &[Op]) = match &message.body {
            PeerBody::Digest { vv, .. } | PeerBody::Offer { vv, .. } | PeerBody::Sign { vv, .. } => (Some(vv), &[]),
            PeerBody::Ops { vv, ops, .. } => (Some(vv), ops),
            PeerBody::Pull { digest, .. } => (digest.as_ref(), &[]),
            PeerBody::Part { .. } | PeerBody::Gone { .. } => (None, &[]),
        };
        let claims = vv.is_some_and(|vv| vv.get(own) > held);
        let invents = ops.iter().any(|op| op.dot.replica == own && op.dot.seq > held);
        (claims || invents).then_some("it claims operations of this process that this process has not made")
    }

    /// The vector that a peer's message means; `None` if it names somebody who is not known here.
    pub(super) fn expand(&self, vv: &VersionVector, full: bool) -> Option<VersionVector> {
        if full { Some(vv.clone()) } else { self.store.state().incarnations.expand(vv).ok() }
    }

    /// Takes note of what a peer holds, by its own word; says whether something of that is missing here.
    pub(super) fn learn(&mut self, from: &NodeId, vv: &VersionVector, full: bool, now_ms: u64) -> bool {
        let theirs = self.expand(vv, full);
        let behind = theirs.as_ref().is_none_or(|theirs| !theirs.is_within(self.store.vv()));
        // What they say of strangers is true, too; it is only not all.
        let theirs = theirs.unwrap_or_else(|| vv.clone());
        if theirs != *self.store.vv() {
            self.gossip.digest_interval_ms = self.config.digest_interval_ms;
            let soon = now_ms + self.config.digest_interval_ms;
            self.gossip.digest_at_ms = self.gossip.digest_at_ms.min(soon);
        }
        if let Some(place) = self.relay.place(from) {
            self.relay.peer_mut(place).holds(theirs);
        }
        behind
    }

    fn on_digest(
        &mut self,
        from: &NodeId,
        vv: &VersionVector,
        full: bool,
        answer: bool,
        everything: bool,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let behind = self.learn(from, vv, full, now_ms);
        match self.expand(vv, full) {
            Some(theirs) if !self.store.vv().is_within(&theirs) => {
                self.send_delta(from, &theirs, everything, now_ms)?;
            }
            Some(_) if full || answer => {
                // Two strangers that answered full vectors with digests only would greet for ever.
                let vv = self.store.compact_vv();
                self.send_ops(from, &vv, Vec::new(), Purpose::Last);
            }
            // They hold something of somebody unknown here. In full, they can tell what that somebody's Start is.
            None if answer => self.send_digest(from, true, true),
            _ => {}
        }
        if behind {
            self.pull_after(from, vv, full, self.relay.timers().grace(), now_ms);
        } else {
            self.caught_up(now_ms)?;
        }
        Ok(())
    }

    /// Sends what a peer that holds `theirs` lacks, or an offer if the log no longer has it; without `everything`, what
    /// pushes are bringing is left out. Says whether there was anything to send.
    fn send_delta(
        &mut self,
        to: &NodeId,
        theirs: &VersionVector,
        everything: bool,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        if !self.store.can_serve(theirs) {
            self.offer(to, theirs);
            return Ok(true);
        }
        let mut delta = self.store.delta(theirs, self.config.answer_messages * self.config.message_bytes)?;
        if !everything {
            let young = self.young(now_ms);
            delta.ops.retain(|op| !young.covers(op.dot));
            if delta.ops.is_empty() {
                return Ok(false);
            }
        }
        let purpose = if delta.complete { Purpose::Last } else { Purpose::LastOfMany };
        let vv = self.store.compact_vv();
        self.send_ops(to, &vv, delta.ops, purpose);
        Ok(true)
    }

    /// The operations that have been held for less than the grace.
    fn young(&mut self, now_ms: u64) -> Young {
        let (end, grace) = (self.store.op_cursor(), self.relay.timers().grace());
        let from = self.gossip.young_from(end, grace, now_ms);
        let mut first = BTreeMap::new();
        for op in self.store.ops_since(from).into_iter().flatten() {
            first.entry(op.dot.replica).or_insert(op.dot.seq);
        }
        Young(first)
    }

    fn on_ops(
        &mut self,
        from: &NodeId,
        place: Place,
        vv: &VersionVector,
        ops: Vec<Op>,
        purpose: Purpose,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let (loaded, mut progress, mut early) = (!ops.is_empty(), false, false);
        for op in ops {
            match op.judge(self.store.vv()) {
                Verdict::Known => {}
                Verdict::Next => {
                    self.store.append_remote(op);
                    progress = true;
                }
                Verdict::Early => {
                    self.parking.park(op);
                    early = true;
                }
            }
        }
        self.settle_parked();
        if progress {
            self.merged();
        }
        let behind = self.learn(from, vv, false, now_ms);
        let timers = self.relay.timers();
        let random = self.gossip.draw();
        match purpose {
            Purpose::Push => self.relay.pushed_here(place, progress || early, now_ms, random),
            Purpose::Flush => {
                let spread = self.expand(vv, false).unwrap_or_else(|| vv.clone());
                self.relay.flushed_here(place, &spread, loaded, now_ms, random);
                self.postpone_digest(now_ms);
            }
            Purpose::Part => {
                self.gossip.pulls.hears_a_part(from, now_ms + timers.answer());
                return Ok(());
            }
            Purpose::LastOfMany | Purpose::Last => {
                self.gossip.pulls.is_answered(from);
                self.caught_up(now_ms)?;
            }
        }
        if behind {
            let grace = match purpose {
                Purpose::LastOfMany => 0,
                // A flush without operations that shows that there are some: they are to be asked for.
                _ if early || (purpose == Purpose::Flush && !loaded) => timers.overtaking(),
                _ => timers.grace(),
            };
            self.pull_after(from, vv, false, grace, now_ms);
        }
        Ok(())
    }

    /// Applies what has been parked, as far as it applies by now.
    pub(super) fn settle_parked(&mut self) {
        while let Some(op) = self.parking.take_next(self.store.vv()) {
            self.store.append_remote(op);
        }
    }

    /// Operations are being flushed: whoever lacks something sees that from their vectors.
    pub(super) fn postpone_digest(&mut self, now_ms: u64) {
        let gossip = &mut self.gossip;
        let latest = gossip.last_digest_ms + POSTPONED * self.config.digest_max_ms;
        let later = (now_ms + self.config.digest_interval_ms).min(latest);
        gossip.digest_at_ms = gossip.digest_at_ms.max(later);
    }

    pub(super) fn tick_gossip(&mut self, now_ms: u64) {
        if !self.may_speak() || self.peers.is_empty() {
            return;
        }
        let (end, grace) = (self.store.op_cursor(), self.relay.timers().grace());
        self.gossip.note_end(end, grace, now_ms);
        self.tick_pulls(now_ms);
        if now_ms >= self.gossip.digest_at_ms {
            self.send_due_digest(now_ms);
        }
    }

    fn send_due_digest(&mut self, now_ms: u64) {
        let own = self.store.vv();
        let (differing, same): (Vec<_>, Vec<_>) =
            self.relay.peers().map(|(place, peer)| (place, peer.known != *own)).partition(|(_, differs)| *differs);
        let candidates = if differing.is_empty() { same } else { differing };
        if let Some((place, _)) = self.gossip.choose(&candidates) {
            let to = self.relay.peer(place).name.clone();
            self.send_digest(&to, false, false);
        }
        let base = self.config.digest_interval_ms;
        let gossip = &mut self.gossip;
        let interval = gossip.digest_interval_ms;
        // 20 % more or less, so that the nodes do not all speak at once.
        let jitter = gossip.below(interval * 2 / 5);
        gossip.digest_at_ms = now_ms + interval * 4 / 5 + jitter;
        gossip.last_digest_ms = now_ms;
        // It is set back when something differs.
        gossip.digest_interval_ms = (interval * 2).clamp(base, self.config.digest_max_ms.max(base));
    }

    pub(super) fn gossip_wakeup_ms(&self) -> Option<u64> {
        if !self.may_speak() || self.peers.is_empty() {
            return None;
        }
        [Some(self.gossip.digest_at_ms), self.gossip.pulls.next_wakeup_ms()].into_iter().flatten().min()
    }
}

fn joined(mut vv: VersionVector, other: &VersionVector) -> VersionVector {
    vv.join(other);
    vv
}

/// Operations by where those of each replica begin.
struct Young(BTreeMap<ReplicaId, Seq>);

impl Young {
    fn covers(&self, dot: Dot) -> bool {
        self.0.get(&dot.replica).is_some_and(|first| dot.seq >= *first)
    }
}

/// Cuts operations into messages of about `message_bytes`; at least one message, if an empty one.
pub(super) fn cut(ops: Vec<Op>, message_bytes: usize) -> Vec<Vec<Op>> {
    let mut messages = vec![Vec::new()];
    let (mut bytes, mut next) = (0, None);
    for op in ops {
        let run = if next == Some(op.dot) { 0 } else { RUN_BYTES };
        let weight = op.weight() + run;
        let message = messages.last_mut().expect("never empty");
        next = Some(crate::crdt::Dot::new(op.dot.replica, op.dot.seq.next()));
        if bytes + weight > message_bytes && !message.is_empty() {
            bytes = 0;
            messages.push(vec![op]);
        } else {
            message.push(op);
        }
        bytes += weight;
    }
    messages
}
