//! State deltas: for a peer that lacks operations which the log no longer has.
//!
//! The sender *offers* one when a digest comes from below its floor. The receiver *pulls* it, 16 parts at a time; with
//! the first pull its digest is frozen. Parts are staged, and logged so that a commit needs no memory of its own; only
//! the commit has effect ([`crate::crdt::join`]). Anything that does not match is discarded, and everything starts over
//! with the next digest. What a sender keeps for a receiver is an open snapshot and a bitmap, for at most two of them,
//! and 30 s after the last pull.
//!
//! Where very many dots have been used up, the receiver sends hashes of the chunks of its own live dots first, and gets
//! the bits of those alone that differ ([`crate::crdt::chunk_hashes`]). What goes into its log is the whole bitmap.

use super::Replica;
use super::arrival::Arrival;
use super::message::{PeerBody, StateContent, StateKey, StateOffset};
use super::pin::Pin;
use crate::crdt::{
    ChunkHashes, DotSet, Entry, Incarnations, JoinCommit, JoinId, JoinPart, LiveBits, NodeId, ReplicaId, Seq,
    VersionVector,
};
use crate::planted::{self, Bug};
use crate::storage::StoreError;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A pull that is not answered is repeated after this …
const PULL_AGAIN_MS: u64 = 1_000;
/// … so many times.
const MAX_TRIES: u32 = 5;
/// After a state delta that has gone, another is asked for after this.
const AGAIN_MS: u64 = 200;
/// A pin is given up so long after the last pull.
const PIN_MS: u64 = 30_000;
const MAX_PINS: usize = 2;

/// Most entries in the vector and the incarnations of a state delta together: the commit is one frame.
const MAX_COMMIT_ENTRIES: usize = 60_000;

const START: StateOffset = StateOffset { stage: 0, block: 0, item: 0 };

/// A state delta on its way here.
pub(super) struct Receiving {
    from: NodeId,
    key: StateKey,
    vv: VersionVector,
    digest: VersionVector,
    join: JoinId,
    incarnations: Incarnations,
    /// The live dots here, if they are compared by hashes: the sender's, as far as its parts have come.
    own: Option<DotSet>,
    have: Vec<ChunkHashes>,
    next: StateOffset,
    /// Parts that came before one that goes before them: no more than one pull brings.
    early: BTreeMap<StateOffset, ArrivedPart>,
    /// Parts of the last pull still to come.
    expected: usize,
    deadline_ms: u64,
    tries: u32,
    arrival: Arrival,
}

/// What a part says: where the next one starts, and what is in it.
type ArrivedPart = (Option<StateOffset>, StateContent);

/// State deltas on their way out.
#[derive(Default)]
pub(super) struct Sending {
    pins: Vec<Pin>,
}

/// The hash of what a state delta is for: the digest, and the hashes of chunks that go with it. Two receivers that hold
/// the same may be served from one pin, but not if only one of them compares by hashes.
fn hash(vv: &VersionVector, have: &[ChunkHashes]) -> u64 {
    let mut hash = Sha256::new();
    for (replica, seq) in vv.iter() {
        hash.update(replica.to_u128().to_le_bytes());
        hash.update(seq.0.to_le_bytes());
    }
    for some in have {
        hash.update(some.replica.to_u128().to_le_bytes());
        hash.update(some.first.0.to_le_bytes());
        hash.update(&some.hashes);
    }
    let bytes: [u8; 32] = hash.finalize().into();
    u64::from_le_bytes(*bytes.first_chunk().expect("eight of 32 bytes"))
}

impl Replica {
    /// Offers a state delta to a peer that holds `theirs`, or sees to it that there will be a snapshot to make it from.
    pub(super) fn offer(&mut self, to: &NodeId, theirs: &VersionVector) {
        let floor = &self.store.state().floor;
        let snapshot = self.store.snapshot().filter(|snapshot| floor.is_within(&snapshot.header().context.vv));
        let Some(snapshot) = snapshot else {
            // The peer's next digest will find one.
            self.store.want_snapshot();
            return;
        };
        let key = StateKey {
            sender: self.store.incarnation(),
            snapshot: snapshot.header().lsn,
            checksum: snapshot.checksum(),
            digest_hash: hash(theirs, &[]),
        };
        let mut vv = snapshot.header().context.vv.clone();
        if planted::is(Bug::ContextOverclaim) {
            vv = self.store.vv().clone();
        }
        self.send(to, PeerBody::Offer { key, vv });
    }

    pub(super) fn on_offer(
        &mut self,
        from: &NodeId,
        key: StateKey,
        vv: VersionVector,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        if self.receiving.is_some() || vv.is_within(self.store.vv()) {
            return Ok(());
        }
        let digest = self.store.vv().clone();
        let common: u64 = vv.iter().map(|(replica, seq)| seq.min(digest.get(replica)).0).sum();
        let own = (common > self.config.hashes_from_dots).then(|| self.live_within(&vv)).transpose()?;
        let have = own.as_ref().map(DotSet::hashes).unwrap_or_default();
        let key = StateKey { digest_hash: hash(&digest, &have), ..key };
        let receiving = Receiving {
            from: from.clone(),
            key,
            vv,
            digest,
            join: JoinId(if planted::is(Bug::SnapshotsMixed) { 1 } else { self.gossip.draw() }),
            incarnations: Incarnations::new(),
            // Without a chunk there is nothing to compare.
            own: own.filter(|_| !have.is_empty()),
            have,
            next: START,
            early: BTreeMap::new(),
            expected: 0,
            deadline_ms: 0,
            tries: 0,
            arrival: Arrival::began(now_ms),
        };
        self.receiving = Some(receiving);
        self.pull_parts(now_ms);
        Ok(())
    }

    /// The live dots that `vv` covers.
    fn live_within(&self, vv: &VersionVector) -> Result<DotSet, StoreError> {
        let mut live = DotSet::default();
        for record in self.store.records(&[]) {
            let tag = record?.tag();
            if vv.covers(tag) {
                live.insert(tag);
            }
        }
        Ok(live)
    }

    fn pull_parts(&mut self, now_ms: u64) {
        let Some(receiving) = &mut self.receiving else { return };
        receiving.expected = self.config.answer_messages;
        receiving.deadline_ms = now_ms + PULL_AGAIN_MS;
        let first = receiving.next == START;
        let digest = first.then(|| receiving.digest.clone());
        let have = if first { receiving.have.clone() } else { Vec::new() };
        let (to, key, offset) = (receiving.from.clone(), receiving.key, receiving.next);
        self.send(&to, PeerBody::Pull { key, digest, have, offset });
    }

    pub(super) fn on_pull(
        &mut self,
        from: &NodeId,
        key: StateKey,
        first: Option<(VersionVector, Vec<ChunkHashes>)>,
        offset: StateOffset,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let config = self.config;
        let Some(pin) = self.pin(key, first, now_ms) else {
            self.send(from, PeerBody::Gone { key });
            return Ok(());
        };
        let parts = pin.parts(offset, &config)?;
        let none = parts.is_empty();
        for (offset, next, content) in parts {
            self.send(from, PeerBody::Part { key, offset, next, content });
        }
        if none {
            self.send(from, PeerBody::Gone { key });
        }
        Ok(())
    }

    /// What is kept for the state delta `key`, or can be made for it.
    fn pin(
        &mut self,
        key: StateKey,
        first: Option<(VersionVector, Vec<ChunkHashes>)>,
        now_ms: u64,
    ) -> Option<&mut Pin> {
        let pins = &mut self.sending.pins;
        pins.retain(|pin| now_ms < pin.last_pull_ms + PIN_MS);
        if !pins.iter().any(|pin| pin.key == key) {
            let snapshot = self.store.snapshot()?;
            let current = key.snapshot == snapshot.header().lsn && key.checksum == snapshot.checksum();
            let (digest, have) = first.filter(|(digest, have)| hash(digest, have) == key.digest_hash)?;
            if key.sender != self.store.incarnation() || !current {
                return None;
            }
            if pins.len() >= MAX_PINS {
                // One whose last part has been sent is kept only in case that part was lost.
                let finished = pins.iter().position(|pin| pin.finished)?;
                pins.remove(finished);
            }
            let snapshot = Arc::clone(snapshot);
            pins.push(Pin::new(key, snapshot, digest, have, now_ms));
        }
        let pin = pins.iter_mut().find(|pin| pin.key == key)?;
        pin.last_pull_ms = now_ms;
        Some(pin)
    }

    pub(super) fn on_part(
        &mut self,
        from: &NodeId,
        key: StateKey,
        offset: StateOffset,
        next: Option<StateOffset>,
        content: StateContent,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let Some(receiving) = self.receiving.as_mut().filter(|r| r.key == key && r.from == *from) else {
            return Ok(());
        };
        if offset < receiving.next {
            return Ok(());
        }
        if let Some(why) = receiving.objection(&content, offset, next) {
            tracing::warn!("dropped a state delta from {from}: {why}");
            self.give_up();
            return Ok(());
        }
        if offset > receiving.next {
            // The network has put it before another. It is kept, and shows that the sender lives.
            receiving.tries = 0;
            if receiving.early.len() < self.config.answer_messages {
                receiving.early.insert(offset, (next, content));
            }
            return Ok(());
        }
        let mut arrived = Some((offset, next, content));
        while let Some((offset, next, content)) = arrived {
            self.take_part(offset, next, content, now_ms)?;
            let early = self.receiving.as_mut().and_then(|r| Some((r.next, r.early.remove(&r.next)?)));
            arrived = early.map(|(offset, (next, content))| (offset, next, content));
        }
        Ok(())
    }

    /// Stages the part that is next.
    fn take_part(
        &mut self,
        offset: StateOffset,
        next: Option<StateOffset>,
        content: StateContent,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let Some(receiving) = &mut self.receiving else { return Ok(()) };
        if let Some(how_far) = receiving.arrival.came(content.records.len(), now_ms) {
            tracing::info!("a state delta from {}: {how_far}", receiving.from);
        }
        receiving.incarnations.join(&content.incarnations.into_iter().collect());
        let mut live = content.live;
        if let Some(own) = &mut receiving.own {
            // They go into the log with those that are the same, at the end.
            for piece in live.drain(..) {
                own.replace(&piece);
            }
        }
        let part = JoinPart { join: receiving.join, records: content.records, live };
        let first = offset == START;
        receiving.tries = 0;
        receiving.expected = receiving.expected.saturating_sub(1);
        receiving.deadline_ms = now_ms + PULL_AGAIN_MS;
        if first || !part.records.is_empty() || !part.live.is_empty() {
            self.store.append_join(Entry::JoinPart(part))?;
        }
        let Some(receiving) = &mut self.receiving else { return Ok(()) };
        match next {
            None => self.finish_receiving(now_ms)?,
            Some(next) => {
                receiving.next = next;
                if receiving.expected == 0 {
                    self.pull_parts(now_ms);
                }
            }
        }
        Ok(())
    }

    fn finish_receiving(&mut self, now_ms: u64) -> Result<(), StoreError> {
        let Some(receiving) = self.receiving.take() else { return Ok(()) };
        let Receiving { from, vv, incarnations, join, own, arrival, .. } = receiving;
        if let Some(how_far) = arrival.ended() {
            tracing::info!("a state delta from {from}: {how_far}");
        }
        let known = |replica| incarnations.get(replica).or(self.store.state().incarnations.get(replica)).is_some();
        if !vv.iter().all(|(replica, _)| known(replica)) {
            tracing::warn!("dropped a state delta from {from}: it does not say what all its incarnations are");
            self.store.discard_staged();
            return Ok(());
        }
        if MAX_COMMIT_ENTRIES < vv.len() + incarnations.len() {
            tracing::warn!("dropped a state delta from {from}: it has too many incarnations");
            self.store.discard_staged();
            return Ok(());
        }
        for piece in own.iter().flat_map(|own| own.pieces(self.config.message_bytes)) {
            let part = JoinPart { join, records: Vec::new(), live: vec![piece] };
            self.store.append_join(Entry::JoinPart(part))?;
        }
        self.store.append_join(Entry::JoinCommit(JoinCommit { join, vv, incarnations }))?;
        self.settle_parked();
        self.merged();
        tracing::info!("merged a state delta from {from}");
        self.caught_up(now_ms)?;
        // What has happened there since the snapshot is in its log.
        self.send_digest(&from, false, true);
        Ok(())
    }

    pub(super) fn on_gone(&mut self, from: &NodeId, incarnation: ReplicaId, key: StateKey, now_ms: u64) {
        if incarnation != key.sender {
            // The sender has restarted, or it is a copy that runs beside it under the same name. Parts tell: if one
            // more comes, the sender lives; if none comes until the deadline, it does not.
            if let Some(receiving) = self.receiving.as_mut().filter(|r| r.key == key && r.from == *from) {
                receiving.tries = MAX_TRIES;
            }
            return;
        }
        if let Some(gone) = self.receiving.take_if(|r| r.key == key && r.from == *from) {
            self.store.discard_staged();
            // Not at once: a sender that has no room for another receiver would be asked as fast as the network goes.
            self.pull_after(from, &gone.vv, true, AGAIN_MS, now_ms);
        }
    }

    fn give_up(&mut self) {
        self.receiving = None;
        self.store.discard_staged();
    }

    pub(super) fn tick_transfer(&mut self, now_ms: u64) {
        self.sending.pins.retain(|pin| now_ms < pin.last_pull_ms + PIN_MS);
        let Some(receiving) = &mut self.receiving else { return };
        if now_ms < receiving.deadline_ms {
            return;
        }
        receiving.tries += 1;
        if receiving.tries > MAX_TRIES {
            self.give_up();
        } else {
            self.pull_parts(now_ms);
        }
    }

    pub(super) fn transfer_wakeup_ms(&self) -> Option<u64> {
        self.receiving.as_ref().map(|receiving| receiving.deadline_ms)
    }
}

impl Receiving {
    /// Why a part cannot be one of this state delta. Checked before anything is kept: a bitmap far out of range would
    /// else cost any amount of memory.
    fn objection(
        &self,
        content: &StateContent,
        offset: StateOffset,
        next: Option<StateOffset>,
    ) -> Option<&'static str> {
        let (vv, digest) = (&self.vv, &self.digest);
        if next.is_some_and(|next| next <= offset) {
            return Some("it does not go on");
        }
        if !content.records.iter().all(|(_, tag)| vv.covers(*tag) && !digest.covers(*tag)) {
            return Some("a record that it cannot know, or that was not asked for");
        }
        let in_range = |piece: &LiveBits| {
            let held = vv.get(piece.replica).min(digest.get(piece.replica));
            piece.first <= held
                && piece.bits.len() as u64 <= (held.0 - piece.first.0) / 8 + 1
                && piece.dots().all(|dot| dot.seq <= held)
        };
        if !content.live.iter().all(in_range) {
            return Some("live dots that it cannot know, or that were not asked about");
        }
        if self.own.as_ref().is_some_and(|own| !content.live.iter().all(|piece| own.has_chunk_of(piece))) {
            return Some("live dots of a chunk that was not asked about");
        }
        let mut incarnations = content.incarnations.iter();
        let known = |(replica, _): &(crate::crdt::ReplicaId, _)| vv.get(*replica) > Seq(0);
        (!incarnations.all(known)).then_some("an incarnation that it cannot know")
    }
}
