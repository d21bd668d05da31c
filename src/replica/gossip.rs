//! Anti-entropy: pushes, digests, deltas. (State deltas are in `transfer`.)
//!
//! - New operations of this incarnation are **pushed** to every peer, at once when the last push is a while ago.
//! - A **digest** says what its sender holds. Who holds more answers with operations; who holds less sends a digest of
//!   its own. Digests go to random peers, first to those that are not known to hold the same; the interval doubles
//!   while nobody differs.
//! - Every message carries its sender's vector. Who sees from it that it lacks something **pulls**, after a grace in
//!   which the push may still come.
//!
//! Pushes may be lost and vectors may be old: only digests and their answers matter for convergence.

use std::collections::BTreeMap;

use super::message::{LastAnswer, PeerBody, PeerMessage};
use super::{Replica, ReplicaConfig};
use crate::crdt::{NodeId, Op, Seq, Verdict, VersionVector};
use crate::storage::StoreError;

/// What an operation costs on the wire beyond its weight if it does not follow the one before it.
const RUN_BYTES: usize = 28;
/// How long pushes that are under way get before what is missing is pulled.
const GRACE_MS: u64 = 200;
/// A pull that brought nothing is repeated after this.
const RETRY_MS: u64 = 1_000;
/// So many times: what was heard of may have been lost with the only store that had it.
const MAX_PULLS: u32 = 10;

/// When to say what to whom.
pub(super) struct Gossip {
    random: u64,
    /// The last of this incarnation's operations that has been pushed.
    pushed: Seq,
    last_push_ms: u64,
    digest_at_ms: u64,
    digest_interval_ms: u64,
    /// Something is missing here: when to pull it, from whom, and what that peer held (`None`: not known).
    pull: Option<Pull>,
    /// Digests that are not answered yet, in full or not, and when they went out.
    asked: BTreeMap<NodeId, (u64, bool)>,
}

struct Pull {
    at_ms: u64,
    from: NodeId,
    wanted: Option<VersionVector>,
    tries: u32,
}

impl Gossip {
    pub fn new(random: u64, now_ms: u64, config: &ReplicaConfig) -> Self {
        Self {
            random,
            pushed: Seq(0),
            last_push_ms: 0,
            digest_at_ms: now_ms + config.digest_interval_ms,
            digest_interval_ms: config.digest_interval_ms,
            pull: None,
            asked: BTreeMap::new(),
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

    /// Up to `count` different ones of `from`, in random order.
    pub fn choose(&mut self, from: &[NodeId], count: usize) -> Vec<NodeId> {
        let mut rest: Vec<NodeId> = from.to_vec();
        let mut chosen = Vec::new();
        while chosen.len() < count && !rest.is_empty() {
            let n = usize::try_from(self.below(rest.len() as u64)).expect("an index");
            chosen.push(rest.swap_remove(n));
        }
        chosen
    }
}

impl Replica {
    fn send(&mut self, to: &NodeId, body: PeerBody) {
        self.outbox.send(to, self.store.incarnation(), body);
    }

    pub(super) fn send_to_peer(&mut self, to: &NodeId, body: PeerBody) {
        self.send(to, body);
    }

    /// Tells `to` what is held here; `answer` asks for a word back even if there is nothing to send.
    pub(super) fn send_digest(&mut self, to: &NodeId, full: bool, answer: bool) {
        let vv = if full { self.store.vv().clone() } else { self.store.compact_vv() };
        self.send(to, PeerBody::Digest { vv, full, answer });
    }

    fn send_ops(&mut self, to: &NodeId, ops: Vec<Op>, answer: bool) {
        let vv = self.store.compact_vv();
        let messages = cut(ops, self.config.message_bytes);
        let last = messages.len() - 1;
        for (n, ops) in messages.into_iter().enumerate() {
            let answer = answer.then_some(LastAnswer(n == last));
            self.send(to, PeerBody::Ops { vv: vv.clone(), ops, answer });
        }
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
        self.heard.hear(from, now_ms);
        match message.body {
            PeerBody::Digest { vv, full, answer } => self.on_digest(from, &vv, full, answer, now_ms),
            PeerBody::Ops { vv, ops, answer } => self.on_ops(from, &vv, ops, answer, now_ms),
            PeerBody::Offer { key, vv } => self.on_offer(from, key, vv, now_ms),
            PeerBody::Pull { key, digest, have, offset } => {
                self.on_pull(from, key, digest.zip(Some(have)), offset, now_ms)
            }
            PeerBody::Part { key, offset, next, content } => self.on_part(from, key, offset, next, content, now_ms),
            PeerBody::Gone { key } => {
                self.on_gone(from, message.from, key, now_ms);
                Ok(())
            }
        }
    }

    /// Why a message cannot be taken at its word.
    fn objection(&self, from: &NodeId, message: &PeerMessage) -> Option<&'static str> {
        if !self.peers.contains(from) {
            return Some("it is from no node of this cluster");
        }
        let (own, held) = (self.store.incarnation(), self.store.vv().get(self.store.incarnation()));
        let (vv, ops): (Option<&VersionVector>, &[Op]) = match &message.body {
            PeerBody::Digest { vv, .. } | PeerBody::Offer { vv, .. } => (Some(vv), &[]),
            PeerBody::Ops { vv, ops, .. } => (Some(vv), ops),
            PeerBody::Pull { digest, .. } => (digest.as_ref(), &[]),
            PeerBody::Part { .. } | PeerBody::Gone { .. } => (None, &[]),
        };
        let claims = vv.is_some_and(|vv| vv.get(own) > held);
        let invents = ops.iter().any(|op| op.dot.replica == own && op.dot.seq > held);
        (claims || invents).then_some("it claims operations of this process that this process has not made")
    }

    fn on_digest(
        &mut self,
        from: &NodeId,
        vv: &VersionVector,
        full: bool,
        answer: bool,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let theirs = if full { Ok(vv.clone()) } else { self.store.state().incarnations.expand(vv) };
        let Ok(theirs) = theirs else {
            // They hold something of somebody unknown here. In full, they can tell what that somebody's Start is.
            self.send_digest(from, true, false);
            return Ok(());
        };
        let behind = !theirs.is_within(self.store.vv());
        self.know(from, theirs.clone(), now_ms);
        if !self.store.vv().is_within(&theirs) {
            self.send_delta(from, &theirs)?;
        } else if full || answer {
            // Two strangers that answered full vectors with digests only would greet for ever.
            self.send_ops(from, Vec::new(), true);
        }
        if behind {
            // Two that lack something of each other would answer digests with digests as fast as the network goes. But
            // a full one may be the answer to a compact one that could not be understood.
            let waits = |(at, was_full): &(u64, bool)| now_ms < at + RETRY_MS && (*was_full || !full);
            if !self.gossip.asked.get(from).is_some_and(waits) {
                self.pull_now(from, Some(theirs), full, now_ms);
            }
        } else {
            self.caught_up()?;
        }
        Ok(())
    }

    /// Sends what a peer that holds `theirs` lacks, or an offer if the log no longer has it.
    fn send_delta(&mut self, to: &NodeId, theirs: &VersionVector) -> Result<(), StoreError> {
        if !self.store.can_serve(theirs) {
            self.offer(to, theirs);
            return Ok(());
        }
        let delta = self.store.delta(theirs, self.config.answer_messages * self.config.message_bytes)?;
        self.send_ops(to, delta.ops, true);
        Ok(())
    }

    fn on_ops(
        &mut self,
        from: &NodeId,
        vv: &VersionVector,
        ops: Vec<Op>,
        answer: Option<LastAnswer>,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let mut progress = false;
        for op in ops {
            match op.judge(self.store.vv()) {
                Verdict::Known => {}
                Verdict::Next => {
                    self.store.append_remote(op);
                    progress = true;
                }
                Verdict::Early => self.parking.park(op),
            }
        }
        self.settle_parked();
        if progress {
            self.merged();
        }
        let theirs = self.store.state().incarnations.expand(vv).ok();
        let behind = theirs.as_ref().is_none_or(|theirs| !theirs.is_within(self.store.vv()));
        if let Some(theirs) = &theirs {
            self.know(from, theirs.clone(), now_ms);
        }
        let last = answer == Some(LastAnswer(true));
        if last {
            self.gossip.asked.remove(from);
            self.caught_up()?;
        }
        match (behind, last && progress) {
            // There is more where that came from.
            (true, true) => self.pull_now(from, theirs, false, now_ms),
            (true, false) => self.pull_later(from, theirs, now_ms),
            (false, _) => {}
        }
        Ok(())
    }

    /// Applies what has been parked, as far as it applies by now.
    pub(super) fn settle_parked(&mut self) {
        while let Some(op) = self.parking.take_next(self.store.vv()) {
            self.store.append_remote(op);
        }
    }

    /// Takes note of what a peer holds.
    fn know(&mut self, peer: &NodeId, theirs: VersionVector, now_ms: u64) {
        if theirs != *self.store.vv() {
            self.gossip.digest_interval_ms = self.config.digest_interval_ms;
            let soon = now_ms + self.config.digest_interval_ms;
            self.gossip.digest_at_ms = self.gossip.digest_at_ms.min(soon);
        }
        self.known.insert(peer.clone(), theirs);
    }

    /// Asks `from` for what is missing here.
    fn pull_now(&mut self, from: &NodeId, wanted: Option<VersionVector>, full: bool, now_ms: u64) {
        self.send_digest(from, full, false);
        self.gossip.asked.insert(from.clone(), (now_ms, full));
        self.gossip.pull = Some(Pull { at_ms: now_ms + RETRY_MS, from: from.clone(), wanted, tries: 0 });
    }

    /// Asks `from` in a while, if it is still missing then.
    pub(super) fn pull_later(&mut self, from: &NodeId, wanted: Option<VersionVector>, now_ms: u64) {
        if self.gossip.pull.is_none() {
            self.gossip.pull = Some(Pull { at_ms: now_ms + GRACE_MS, from: from.clone(), wanted, tries: 0 });
        }
    }

    /// Pushes this incarnation's new operations, if there are any and it is time.
    pub(super) fn push(&mut self, now_ms: u64) {
        let newest = self.store.vv().get(self.store.incarnation());
        if newest == self.gossip.pushed || !self.push_is_due(now_ms) {
            return;
        }
        // Too many to be at hand: the peers see from the vector that they are behind, and pull.
        let ops = self.store.own_ops_after(self.gossip.pushed).unwrap_or_default();
        (self.gossip.pushed, self.gossip.last_push_ms) = (newest, now_ms);
        for peer in self.peers.clone() {
            self.send_ops(&peer, ops.clone(), false);
        }
        let soon = now_ms + self.config.digest_interval_ms;
        self.gossip.digest_interval_ms = self.config.digest_interval_ms;
        self.gossip.digest_at_ms = self.gossip.digest_at_ms.min(soon);
    }

    fn push_is_due(&self, now_ms: u64) -> bool {
        let waited = self.gossip.last_push_ms == 0 || now_ms >= self.gossip.last_push_ms + self.config.push_interval_ms;
        self.may_speak() && !self.peers.is_empty() && waited
    }

    pub(super) fn tick_gossip(&mut self, now_ms: u64) {
        if !self.may_speak() || self.peers.is_empty() {
            return;
        }
        self.tick_pull(now_ms);
        if now_ms >= self.gossip.digest_at_ms {
            self.send_due_digest(now_ms);
        }
    }

    fn tick_pull(&mut self, now_ms: u64) {
        let Some(pull) = &self.gossip.pull else { return };
        let satisfied = pull.wanted.as_ref().is_some_and(|wanted| wanted.is_within(self.store.vv()));
        if satisfied && self.parking.is_empty() {
            self.gossip.pull = None;
        } else if now_ms >= pull.at_ms {
            let Some(pull) = self.gossip.pull.take() else { return };
            self.send_digest(&pull.from, false, false);
            // Once more, unless something comes of it; then from somebody else.
            let again = pull.wanted.is_some() && pull.tries < MAX_PULLS;
            if let Some(other) = self.gossip.choose(&self.peers, 1).pop().filter(|_| again) {
                let (wanted, tries) = (pull.wanted, pull.tries + 1);
                self.gossip.pull = Some(Pull { at_ms: now_ms + RETRY_MS, from: other, wanted, tries });
            } else {
                self.parking.clear();
            }
        }
    }

    fn send_due_digest(&mut self, now_ms: u64) {
        let own = self.store.vv();
        let differing = |peer: &&NodeId| self.known.get(*peer) != Some(own);
        let differing: Vec<NodeId> = self.peers.iter().filter(differing).cloned().collect();
        let (candidates, answer) = if differing.is_empty() { (self.peers.clone(), false) } else { (differing, true) };
        for peer in self.gossip.choose(&candidates, 1) {
            self.send_digest(&peer, false, answer);
        }
        let base = self.config.digest_interval_ms;
        let interval = &mut self.gossip.digest_interval_ms;
        *interval = if answer { base } else { (*interval * 2).clamp(base, self.config.digest_max_ms.max(base)) };
        // 20 % more or less, so that the nodes do not all speak at once.
        let interval = *interval;
        let jitter = self.gossip.below(interval * 2 / 5);
        self.gossip.digest_at_ms = now_ms + interval * 4 / 5 + jitter;
    }

    pub(super) fn gossip_wakeup_ms(&self) -> Option<u64> {
        if !self.may_speak() || self.peers.is_empty() {
            return None;
        }
        let unpushed = self.store.vv().get(self.store.incarnation()) != self.gossip.pushed;
        let push = unpushed.then_some(self.gossip.last_push_ms + self.config.push_interval_ms);
        let pull = self.gossip.pull.as_ref().map(|pull| pull.at_ms);
        [Some(self.gossip.digest_at_ms), push, pull].into_iter().flatten().min()
    }
}

/// Cuts operations into messages of about `message_bytes`; at least one message, if an empty one.
fn cut(ops: Vec<Op>, message_bytes: usize) -> Vec<Vec<Op>> {
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
