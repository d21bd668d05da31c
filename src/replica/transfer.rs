//! State deltas: for a peer that lacks operations which the log no longer has.
//!
//! The sender *offers* one when a digest comes from below its floor. The receiver *pulls* it, 16 parts at a time; with
//! the first pull its digest is frozen. Parts are staged, and logged so that a commit needs no memory of its own; only
//! the commit has effect ([`crate::crdt::join`]). Anything that does not match is discarded, and everything starts over
//! with the next digest. What a sender keeps for a receiver is an open snapshot and a bitmap, for at most two of them,
//! and 30 s after the last pull.

use super::arrival::Arrival;
use super::message::{PeerBody, StateContent, StateKey, StateOffset};
use super::{Replica, ReplicaConfig};
use crate::crdt::{
    DotSet, Entry, Incarnations, JoinCommit, JoinId, JoinPart, LiveBits, NodeId, ReplicaId, Seq, VersionVector,
};
use crate::planted::{self, Bug};
use crate::storage::{Snapshot, StoreError};
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
/// Incarnations in one part.
const INCARNATIONS_PER_PART: usize = 400;
/// Blocks looked through for one part: bounds the time that a pull takes when there is little to send.
const BLOCKS_PER_PART: u32 = 64;

/// Most entries in the vector and the incarnations of a state delta together: the commit is one frame.
const MAX_COMMIT_ENTRIES: usize = 60_000;

const START: StateOffset = StateOffset { stage: 0, block: 0, item: 0 };
const RECORDS: u8 = 1;
const LIVE: u8 = 2;

/// A state delta on its way here.
pub(super) struct Receiving {
    from: NodeId,
    key: StateKey,
    vv: VersionVector,
    digest: VersionVector,
    join: JoinId,
    incarnations: Incarnations,
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

struct Pin {
    key: StateKey,
    snapshot: Arc<Snapshot>,
    digest: VersionVector,
    live: DotSet,
    /// Blocks whose live dots are in the bitmap.
    scanned: u32,
    pieces: Option<Vec<LiveBits>>,
    last_pull_ms: u64,
    /// The last part has been sent.
    finished: bool,
}

fn hash(vv: &VersionVector) -> u64 {
    let mut hash = Sha256::new();
    for (replica, seq) in vv.iter() {
        hash.update(replica.to_u128().to_le_bytes());
        hash.update(seq.0.to_le_bytes());
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
            digest_hash: hash(theirs),
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
        let key = StateKey { digest_hash: hash(&digest), ..key };
        let receiving = Receiving {
            from: from.clone(),
            key,
            vv,
            digest,
            join: JoinId(if planted::is(Bug::SnapshotsMixed) { 1 } else { self.gossip.draw() }),
            incarnations: Incarnations::new(),
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

    fn pull_parts(&mut self, now_ms: u64) {
        let Some(receiving) = &mut self.receiving else { return };
        receiving.expected = self.config.answer_messages;
        receiving.deadline_ms = now_ms + PULL_AGAIN_MS;
        let digest = (receiving.next == START).then(|| receiving.digest.clone());
        let (to, body) =
            (receiving.from.clone(), PeerBody::Pull { key: receiving.key, digest, offset: receiving.next });
        self.send(&to, body);
    }

    pub(super) fn on_pull(
        &mut self,
        from: &NodeId,
        key: StateKey,
        digest: Option<VersionVector>,
        offset: StateOffset,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let config = self.config;
        let Some(pin) = self.pin(key, digest, now_ms) else {
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
    fn pin(&mut self, key: StateKey, digest: Option<VersionVector>, now_ms: u64) -> Option<&mut Pin> {
        let pins = &mut self.sending.pins;
        pins.retain(|pin| now_ms < pin.last_pull_ms + PIN_MS);
        if !pins.iter().any(|pin| pin.key == key) {
            let snapshot = self.store.snapshot()?;
            let current = key.snapshot == snapshot.header().lsn && key.checksum == snapshot.checksum();
            let digest = digest.filter(|digest| hash(digest) == key.digest_hash)?;
            if key.sender != self.store.incarnation() || !current {
                return None;
            }
            if pins.len() >= MAX_PINS {
                // One whose last part has been sent is kept only in case that part was lost.
                let finished = pins.iter().position(|pin| pin.finished)?;
                pins.remove(finished);
            }
            let snapshot = Arc::clone(snapshot);
            let live = DotSet::default();
            let (scanned, pieces, finished) = (0, None, false);
            pins.push(Pin { key, snapshot, digest, live, scanned, pieces, last_pull_ms: now_ms, finished });
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
        let part = JoinPart { join: receiving.join, records: content.records, live: content.live };
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
        let Receiving { from, vv, incarnations, join, arrival, .. } = receiving;
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
        let mut incarnations = content.incarnations.iter();
        let known = |(replica, _): &(crate::crdt::ReplicaId, _)| vv.get(*replica) > Seq(0);
        (!incarnations.all(known)).then_some("an incarnation that it cannot know")
    }
}

type Part = (StateOffset, Option<StateOffset>, StateContent);

impl Pin {
    /// The next parts from `offset` on; none if the offset is not one that was given out.
    fn parts(&mut self, mut offset: StateOffset, config: &ReplicaConfig) -> Result<Vec<Part>, StoreError> {
        let mut parts = Vec::new();
        while parts.len() < config.answer_messages {
            let Some((next, content)) = self.part(offset, config.message_bytes)? else { return Ok(Vec::new()) };
            parts.push((offset, next, content));
            match next {
                Some(next) => offset = next,
                None => {
                    self.finished = true;
                    break;
                }
            }
        }
        Ok(parts)
    }

    fn part(
        &mut self,
        offset: StateOffset,
        message_bytes: usize,
    ) -> Result<Option<(Option<StateOffset>, StateContent)>, StoreError> {
        match offset.stage {
            0 => Ok(self.incarnations_part(offset.block)),
            RECORDS => self.records_part(offset, message_bytes),
            LIVE => Ok(self.live_part(offset.block, message_bytes / 2)),
            _ => Ok(None),
        }
    }

    fn incarnations_part(&self, chunk: u32) -> Option<(Option<StateOffset>, StateContent)> {
        let all = &self.snapshot.header().context.incarnations;
        let from = chunk as usize * INCARNATIONS_PER_PART;
        if from > all.len() {
            return None;
        }
        let some = all.iter().skip(from).take(INCARNATIONS_PER_PART);
        let incarnations = some.map(|(replica, incarnation)| (replica, incarnation.clone())).collect();
        let next = if from + INCARNATIONS_PER_PART < all.len() {
            StateOffset { stage: 0, block: chunk + 1, item: 0 }
        } else {
            StateOffset { stage: RECORDS, block: 0, item: 0 }
        };
        Some((Some(next), StateContent { incarnations, ..StateContent::default() }))
    }

    fn records_part(
        &mut self,
        offset: StateOffset,
        message_bytes: usize,
    ) -> Result<Option<(Option<StateOffset>, StateContent)>, StoreError> {
        let blocks = u32::try_from(self.snapshot.block_count()).expect("fewer than 2^32 blocks");
        let mut content = StateContent::default();
        let (mut block, mut item, mut bytes) = (offset.block, offset.item as usize, 0);
        while block < blocks && block < offset.block.saturating_add(BLOCKS_PER_PART) {
            let records = self.snapshot.block(block as usize)?;
            for record in records.iter().skip(item) {
                let tag = record.tag();
                if self.digest.covers(tag) {
                    self.live.insert(tag);
                } else {
                    bytes += record.element_bytes().len() + 24;
                    if bytes > message_bytes && !content.records.is_empty() {
                        let at = StateOffset { stage: RECORDS, block, item: u32::try_from(item).expect("in a block") };
                        return Ok(Some((Some(at), content)));
                    }
                    content.records.push((record.element(), tag));
                }
                item += 1;
            }
            if block == self.scanned {
                self.scanned += 1;
            }
            (block, item) = (block + 1, 0);
        }
        let next = if block < blocks {
            StateOffset { stage: RECORDS, block, item: 0 }
        } else {
            StateOffset { stage: LIVE, block: 0, item: 0 }
        };
        Ok(Some((Some(next), content)))
    }

    fn live_part(&mut self, n: u32, piece_bytes: usize) -> Option<(Option<StateOffset>, StateContent)> {
        if self.scanned as usize != self.snapshot.block_count() {
            return None;
        }
        let pieces = self.pieces.get_or_insert_with(|| self.live.pieces(piece_bytes));
        let piece = pieces.get(n as usize).cloned();
        if piece.is_none() && n > 0 {
            return None;
        }
        let more = n as usize + 1 < pieces.len();
        let next = more.then_some(StateOffset { stage: LIVE, block: n + 1, item: 0 });
        Some((next, StateContent { live: piece.into_iter().collect(), ..StateContent::default() }))
    }
}
