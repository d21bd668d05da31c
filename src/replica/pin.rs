//! A state delta on its way out: an open snapshot and what has been found in it.
//!
//! ```text
//! stage 0   the incarnations of the snapshot
//! stage 1   its records, block after block: those that the digest does not cover go out, the others into a bitmap
//! stage 2   that bitmap, or those chunks of it of which the receiver has other hashes
//! ```
//!
//! An offset says where a part starts, and so can be asked for again.

use std::sync::Arc;

use super::ReplicaConfig;
use super::message::{StateContent, StateKey, StateOffset};
use crate::crdt::join::weight;
use crate::crdt::{ChunkHashes, DotSet, LiveBits, VersionVector};
use crate::storage::{Snapshot, StoreError};

/// Incarnations in one part.
const INCARNATIONS_PER_PART: usize = 400;
/// Blocks looked through for one part: bounds the time that a pull takes when there is little to send.
const BLOCKS_PER_PART: u32 = 64;

const RECORDS: u8 = 1;
const LIVE: u8 = 2;

/// What is kept for one receiver.
pub(super) struct Pin {
    pub key: StateKey,
    snapshot: Arc<Snapshot>,
    digest: VersionVector,
    live: DotSet,
    /// Blocks whose live dots are in the bitmap.
    scanned: u32,
    /// Hashes of the receiver's chunks, if it wants the bits of those alone that differ.
    have: Vec<ChunkHashes>,
    /// What the parts of the last stage hold.
    pieces: Option<Vec<Vec<LiveBits>>>,
    pub last_pull_ms: u64,
    /// The last part has been sent.
    pub finished: bool,
}

type Part = (StateOffset, Option<StateOffset>, StateContent);

impl Pin {
    /// A state delta of a snapshot for somebody who holds `digest`.
    pub fn new(
        key: StateKey,
        snapshot: Arc<Snapshot>,
        digest: VersionVector,
        have: Vec<ChunkHashes>,
        now_ms: u64,
    ) -> Self {
        let (live, scanned, pieces, finished) = (DotSet::default(), 0, None, false);
        Self { key, snapshot, digest, live, scanned, have, pieces, last_pull_ms: now_ms, finished }
    }

    /// The next parts from `offset` on; none if the offset is not one that was given out.
    pub fn parts(&mut self, mut offset: StateOffset, config: &ReplicaConfig) -> Result<Vec<Part>, StoreError> {
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
        let pieces = self.pieces.get_or_insert_with(|| match &self.have[..] {
            [] => self.live.pieces(piece_bytes).into_iter().map(|piece| vec![piece]).collect(),
            have => grouped(self.live.differing(have), piece_bytes),
        });
        let piece = pieces.get(n as usize).cloned();
        if piece.is_none() && n > 0 {
            return None;
        }
        let more = n as usize + 1 < pieces.len();
        let next = more.then_some(StateOffset { stage: LIVE, block: n + 1, item: 0 });
        Some((next, StateContent { live: piece.unwrap_or_default(), ..StateContent::default() }))
    }
}

/// Pieces in groups of about so many bytes.
fn grouped(pieces: Vec<LiveBits>, max_bytes: usize) -> Vec<Vec<LiveBits>> {
    let mut groups: Vec<Vec<LiveBits>> = Vec::new();
    let mut bytes = 0;
    for piece in pieces {
        let weight = weight(&[], std::slice::from_ref(&piece));
        bytes += weight;
        match groups.last_mut().filter(|_| bytes <= max_bytes) {
            Some(group) => group.push(piece),
            None => {
                bytes = weight;
                groups.push(vec![piece]);
            }
        }
    }
    groups
}
