//! State deltas: how somebody far behind catches up when the operations are no longer there to send.
//!
//! For a digest D the sender, from one snapshot with vector V, sends
//!
//! - the live records whose tags D does not cover, and
//! - for each incarnation a bitmap of the live dots that D does cover ([`LiveBits`]).
//!
//! The receiver drops its own tags that V covers and that are in neither: their removal is what it had missed. And it
//! adds the listed records that its own vector does not cover: a covered one that it does not have was removed here.
//! (Almeida, Shoker, Baquero, "Delta state replicated data types", 2018, section 7: causal delta-intervals.)
//!
//! A state delta arrives in parts. They are staged, and only the commit has effect: the context (V) is joined in the
//! same durable step as everything that it covers. (The bug class of delta_crdt_ex 65, Akka 22890, Akka.NET 8219.)

use std::collections::{BTreeMap, BTreeSet};

use super::element::Element;
use super::id::{Dot, ReplicaId, Seq, Tag};
use super::incarnations::Incarnations;
use super::version_vector::VersionVector;

/// Names one attempt to receive a state delta; random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JoinId(pub u64);

/// A stretch of one incarnation's live dots: bit i (lowest first) of byte j stands for sequence number
/// `first` + 8 j + i.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveBits {
    /// The incarnation.
    pub replica: ReplicaId,
    /// The sequence number of the first bit.
    pub first: Seq,
    /// The bits.
    pub bits: Vec<u8>,
}

impl LiveBits {
    /// The dots whose bits are set.
    pub fn dots(&self) -> impl Iterator<Item = Dot> + '_ {
        self.bits.iter().enumerate().flat_map(move |(j, byte)| {
            let set = (0..8).filter(move |i| byte >> i & 1 == 1);
            set.map(move |i| Dot::new(self.replica, Seq(self.first.0 + 8 * j as u64 + i)))
        })
    }
}

const CHUNK_BYTES: usize = 4096;
const CHUNK_DOTS: u64 = 8 * CHUNK_BYTES as u64;

/// A set of dots as bitmaps. Memory: 4 KiB for every stretch of 32,768 sequence numbers that has a dot in it, so a
/// dot far out (as a peer may make one up) costs no more than any other.
#[derive(Clone, Debug, Default)]
pub struct DotSet(BTreeMap<(ReplicaId, u64), Box<[u8]>>);

impl DotSet {
    /// The stretch, byte and bit of a dot.
    fn place(dot: Dot) -> Option<((ReplicaId, u64), usize, u64)> {
        let n = dot.seq.0.checked_sub(1)?;
        let byte = usize::try_from(n % CHUNK_DOTS / 8).expect("below 4096");
        Some(((dot.replica, n / CHUNK_DOTS), byte, n % 8))
    }

    /// Puts a dot in.
    ///
    /// # Panics
    /// If its sequence number is zero.
    pub fn insert(&mut self, dot: Dot) {
        let (chunk, byte, bit) = Self::place(dot).expect("sequence numbers start at 1");
        self.0.entry(chunk).or_insert_with(|| vec![0; CHUNK_BYTES].into())[byte] |= 1 << bit;
    }

    /// Whether a dot is in.
    pub fn contains(&self, dot: Dot) -> bool {
        let Some((chunk, byte, bit)) = Self::place(dot) else { return false };
        self.0.get(&chunk).is_some_and(|bytes| bytes[byte] >> bit & 1 == 1)
    }

    /// The bitmaps in pieces of at most `max_bytes`; stretches without a dot are left out.
    pub fn pieces(&self, max_bytes: usize) -> Vec<LiveBits> {
        let mut pieces: Vec<LiveBits> = Vec::new();
        for ((replica, chunk), bytes) in &self.0 {
            for (n, part) in bytes.chunks(max_bytes.min(CHUNK_BYTES)).enumerate() {
                let first = Seq(1 + chunk * CHUNK_DOTS + 8 * (n * max_bytes.min(CHUNK_BYTES)) as u64);
                let follows = |last: &&mut LiveBits| {
                    last.replica == *replica
                        && last.first.0 + 8 * last.bits.len() as u64 == first.0
                        && last.bits.len() + part.len() <= max_bytes
                };
                match pieces.last_mut().filter(follows) {
                    Some(last) => last.bits.extend_from_slice(part),
                    None => pieces.push(LiveBits { replica: *replica, first, bits: part.to_vec() }),
                }
            }
        }
        for piece in &mut pieces {
            let used = piece.bits.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            piece.bits.truncate(used);
        }
        pieces.retain(|piece| !piece.bits.is_empty());
        pieces
    }
}

/// Some of a state delta, as it goes into the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinPart {
    /// Which state delta.
    pub join: JoinId,
    /// Live records that the digest did not cover.
    pub records: Vec<(Element, Tag)>,
    /// Live dots that it did cover.
    pub live: Vec<LiveBits>,
}

impl JoinPart {
    /// About how many bytes it takes in the log.
    pub fn weight(&self) -> usize {
        weight(&self.records, &self.live)
    }
}

/// About how many bytes some of a state delta takes in a message or in the log.
pub fn weight(records: &[(Element, Tag)], live: &[LiveBits]) -> usize {
    let records: usize = records.iter().map(|(element, _)| element.as_bytes().len() + 24).sum();
    records + live.iter().map(|piece| piece.bits.len() + 24).sum::<usize>()
}

/// The end of a state delta: what makes its parts count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinCommit {
    /// Which state delta.
    pub join: JoinId,
    /// The vector of the sender's snapshot.
    pub vv: VersionVector,
    /// The incarnations that the snapshot knew.
    pub incarnations: Incarnations,
}

/// The parts of a state delta that have come so far.
#[derive(Clone, Debug)]
pub struct Staged {
    /// Which state delta.
    pub join: JoinId,
    records: Vec<(Element, Tag)>,
    listed: BTreeSet<Tag>,
    live: DotSet,
}

impl Staged {
    /// Nothing yet.
    pub fn new(join: JoinId) -> Self {
        Self { join, records: Vec::new(), listed: BTreeSet::new(), live: DotSet::default() }
    }

    /// Takes in a part.
    pub fn add(&mut self, part: &JoinPart) {
        self.records.extend(part.records.iter().cloned());
        self.listed.extend(part.records.iter().map(|(_, tag)| *tag));
        for dot in part.live.iter().flat_map(LiveBits::dots) {
            self.live.insert(dot);
        }
    }

    /// Whether a record that is live here goes: `vv`, the sender's vector, covers its tag, and the sender did not
    /// have it any more.
    pub fn drops(&self, tag: Tag, vv: &VersionVector) -> bool {
        vv.covers(tag) && !self.live.contains(tag) && !self.listed.contains(&tag)
    }

    /// A listed tag that `vv`, the sender's vector, does not cover; there must be none.
    pub fn beyond(&self, vv: &VersionVector) -> Option<Tag> {
        self.listed.iter().find(|tag| !vv.covers(**tag)).copied()
    }

    /// The listed records that somebody who holds `vv` has never heard of.
    pub fn news<'a>(&'a self, vv: &'a VersionVector) -> impl Iterator<Item = &'a (Element, Tag)> {
        self.records.iter().filter(|(_, tag)| !vv.covers(*tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_far_out_costs_no_more_than_any_other() {
        let mut set = DotSet::default();
        let far = Dot::new(ReplicaId::from_random(3), Seq::MAX);
        set.insert(far);
        assert!(set.contains(far));
        let pieces = set.pieces(32 << 10);
        assert_eq!(pieces.iter().flat_map(LiveBits::dots).collect::<Vec<_>>(), [far]);
    }

    #[test]
    fn pieces_of_a_dot_set_hold_the_same_dots() {
        let mut set = DotSet::default();
        let dots: Vec<Dot> = [1, 8, 9, 64, 65, 1000, 32_768, 32_769, 100_000]
            .iter()
            .flat_map(|seq| [3, 4].map(|r| Dot::new(ReplicaId::from_random(r), Seq(*seq))))
            .collect();
        dots.iter().for_each(|dot| set.insert(*dot));
        for max_bytes in [1, 3, 4096] {
            let mut back: Vec<Dot> = set.pieces(max_bytes).iter().flat_map(|p| p.dots().collect::<Vec<_>>()).collect();
            back.sort_by_key(|dot| (dot.seq, dot.replica));
            assert_eq!(back, dots);
        }
        assert!(set.contains(dots[0]) && !set.contains(Dot::new(ReplicaId::from_random(3), Seq(2))));
    }

    #[test]
    fn pieces_are_as_long_as_they_may_be_and_end_with_the_last_dot() {
        let [a, b] = [3, 4].map(ReplicaId::from_random);
        let mut set = DotSet::default();
        // Two stretches side by side, and another one far from them.
        [1, 32_768, 32_769, 200_001].map(|seq| set.insert(Dot::new(a, Seq(seq))));
        set.insert(Dot::new(b, Seq(9)));
        let shape = |max_bytes: usize| -> Vec<(ReplicaId, u64, usize)> {
            set.pieces(max_bytes).iter().map(|piece| (piece.replica, piece.first.0, piece.bits.len())).collect()
        };
        let side_by_side = [(a, 1, 4097), (a, 196_609, 425), (b, 1, 2)];
        assert_eq!(shape(3 * CHUNK_BYTES), side_by_side);
        assert_eq!(shape(2 * CHUNK_BYTES), side_by_side);
        assert_eq!(shape(CHUNK_BYTES), [(a, 1, 4096), (a, 32_769, 1), (a, 196_609, 425), (b, 1, 2)]);
        assert_eq!(shape(1000), [(a, 1, 1), (a, 32_001, 96), (a, 32_769, 1), (a, 196_609, 425), (b, 1, 2)]);
    }

    #[test]
    fn a_part_weighs_what_is_in_it() {
        let tag = Dot::new(ReplicaId::from_random(3), Seq(2));
        let records = [3, 5].map(|n| (Element::from_canonical(&vec![b'1'; n]), tag)).to_vec();
        let live = [2, 7].map(|n| LiveBits { replica: tag.replica, first: Seq(1), bits: vec![1; n] }).to_vec();
        let part = JoinPart { join: JoinId(1), records, live };
        assert_eq!(part.weight(), (3 + 24) + (5 + 24) + (2 + 24) + (7 + 24));
    }
}
