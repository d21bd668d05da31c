//! Which stretches of two sets of dots are the same, told by hashes.
//!
//! Where many more dots were used up than are live, bitmaps are long and cannot be compressed. Somebody who has such a
//! set of his own sends a hash of each of its chunks, and gets the bits of those alone that are not the same.
//!
//! ```
//! use orset::crdt::{Dot, DotSet, ReplicaId, Seq};
//! let dot = |n| Dot::new(ReplicaId::from_random(1), Seq(n));
//! let (mut mine, mut theirs) = (DotSet::default(), DotSet::default());
//! for n in [1, 70, 10_000] {
//!     mine.insert(dot(n));
//! }
//! for n in [1, 70, 50_000] {
//!     theirs.insert(dot(n));
//! }
//! let pieces = theirs.differing(&mine.hashes());
//! assert_eq!(pieces.len(), 1, "that of 10,000; of 50,000 nobody has asked");
//! assert!(pieces[0].bits.is_empty() && mine.replace(&pieces[0]));
//! assert!(mine.contains(dot(70)) && !mine.contains(dot(10_000)));
//! ```

use sha2::{Digest, Sha256};

use super::id::{ReplicaId, Seq};
use super::join::{CHUNK_BYTES, CHUNK_DOTS, DotSet, LiveBits};

/// Bytes of one hash. Nobody chooses bits to deceive, and of a million chunks two in 2^48 are the same by chance.
pub const HASH_BYTES: usize = 6;

/// Hashes of consecutive chunks of one incarnation's dots, each of which has a dot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkHashes {
    /// The incarnation.
    pub replica: ReplicaId,
    /// The first sequence number of the first chunk.
    pub first: Seq,
    /// The hashes, end to end.
    pub hashes: Vec<u8>,
}

fn hash(bits: &[u8]) -> [u8; HASH_BYTES] {
    let digest: [u8; 32] = Sha256::digest(bits).into();
    *digest.first_chunk().expect("six of 32 bytes")
}

impl DotSet {
    /// The hashes of all chunks that have a dot.
    pub fn hashes(&self) -> Vec<ChunkHashes> {
        let mut all: Vec<ChunkHashes> = Vec::new();
        for ((replica, chunk), bits) in self.chunks() {
            let first = Seq(1 + chunk * CHUNK_DOTS);
            let follows = |last: &&mut ChunkHashes| {
                let count = (last.hashes.len() / HASH_BYTES) as u64;
                last.replica == replica && last.first.0 + count * CHUNK_DOTS == first.0
            };
            match all.last_mut().filter(follows) {
                Some(last) => last.hashes.extend(hash(bits)),
                None => all.push(ChunkHashes { replica, first, hashes: hash(bits).into() }),
            }
        }
        all
    }

    /// The bits of each chunk that is not what its hash in `theirs` says: one piece a chunk, without a bit if there is no
    /// dot here.
    pub fn differing(&self, theirs: &[ChunkHashes]) -> Vec<LiveBits> {
        let mut pieces = Vec::new();
        for some in theirs {
            let starts = (some.first.0..).step_by(usize::try_from(CHUNK_DOTS).expect("some thousand"));
            for (first, theirs) in starts.map(Seq).zip(some.hashes.chunks(HASH_BYTES)) {
                let bits = self.chunk(some.replica, first).unwrap_or(&[0; CHUNK_BYTES]);
                if hash(bits) != theirs {
                    let used = bits.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                    pieces.push(LiveBits { replica: some.replica, first, bits: bits[..used].to_vec() });
                }
            }
        }
        pieces
    }

    /// Whether a piece is about one chunk that has a dot here.
    pub fn has_chunk_of(&self, piece: &LiveBits) -> bool {
        piece.bits.len() <= CHUNK_BYTES && self.chunk(piece.replica, piece.first).is_some()
    }

    /// Puts a piece in place of the chunk that it is about. Whether there is one.
    pub fn replace(&mut self, piece: &LiveBits) -> bool {
        let is_there = self.has_chunk_of(piece);
        if is_there {
            self.put_chunk(piece);
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::super::id::Dot;
    use super::*;

    fn set(dots: &[(u128, u64)]) -> DotSet {
        let mut set = DotSet::default();
        dots.iter().for_each(|(replica, seq)| set.insert(Dot::new(ReplicaId::from_random(*replica), Seq(*seq))));
        set
    }

    #[test]
    fn hashes_of_chunks_side_by_side_go_together() {
        let dots = [(3, 1), (3, CHUNK_DOTS + 1), (3, 2 * CHUNK_DOTS + 1), (3, 5 * CHUNK_DOTS), (4, 5 * CHUNK_DOTS + 1)];
        let all = set(&dots).hashes();
        let shape: Vec<_> = all.iter().map(|some| (some.replica, some.first.0, some.hashes.len())).collect();
        let [a, b] = [3, 4].map(ReplicaId::from_random);
        let (first, last) = (4 * CHUNK_DOTS + 1, 5 * CHUNK_DOTS + 1);
        assert_eq!(shape, [(a, 1, 3 * HASH_BYTES), (a, first, HASH_BYTES), (b, last, HASH_BYTES)]);
        let one = &all[0].hashes[..HASH_BYTES];
        assert_eq!(one, &all[0].hashes[HASH_BYTES..2 * HASH_BYTES], "the same bits");
        assert_ne!(one, all[1].hashes, "other bits");
    }

    #[test]
    fn what_differs_takes_the_place_of_what_was_there_and_nothing_else_does() {
        let beyond = CHUNK_DOTS + 70;
        let mut mine = set(&[(3, 1), (3, 9), (3, beyond), (4, 1)]);
        let theirs = set(&[(3, 1), (3, 9), (3, CHUNK_DOTS + 2)]);
        let pieces = theirs.differing(&mine.hashes());
        let shape: Vec<_> = pieces.iter().map(|piece| (piece.replica, piece.first.0, piece.bits.clone())).collect();
        let [a, b] = [3, 4].map(ReplicaId::from_random);
        assert_eq!(shape, [(a, CHUNK_DOTS + 1, vec![2]), (b, 1, vec![])]);
        for piece in &pieces {
            assert!(mine.has_chunk_of(piece) && mine.replace(piece));
        }
        assert_eq!(mine.pieces(CHUNK_BYTES), theirs.pieces(CHUNK_BYTES));
        let piece = |first, bits: usize| LiveBits { replica: a, first: Seq(first), bits: vec![1; bits] };
        assert!(mine.has_chunk_of(&piece(1, CHUNK_BYTES)));
        for strange in [piece(1, CHUNK_BYTES + 1), piece(2, 1), piece(0, 1), piece(7 * CHUNK_DOTS + 1, 1)] {
            assert!(!mine.has_chunk_of(&strange) && !mine.replace(&strange), "{}", strange.first.0);
        }
    }
}
