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

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::element::{Element, Record, RecordKey};
use super::id::{Dot, ReplicaId, Seq, Tag};
use super::incarnations::Incarnations;
use super::memtable::{BaseError, Records, merged};
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

pub(super) const CHUNK_BYTES: usize = 512;
pub(super) const CHUNK_DOTS: u64 = 8 * CHUNK_BYTES as u64;

/// A set of dots as bitmaps. Memory: 512 bytes for every stretch of 4,096 sequence numbers that has a dot in it, so a
/// dot far out (as a peer may make one up) costs no more than any other.
#[derive(Clone, Debug, Default)]
pub struct DotSet(BTreeMap<(ReplicaId, u64), Box<[u8]>>);

impl DotSet {
    /// The stretch, byte and bit of a dot.
    fn place(dot: Dot) -> Option<((ReplicaId, u64), usize, u64)> {
        let n = dot.seq.0.checked_sub(1)?;
        let byte = usize::try_from(n % CHUNK_DOTS / 8).expect("below 512");
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

    /// The chunks that have a dot, in order: incarnation and number of each, and its bits.
    pub(super) fn chunks(&self) -> impl Iterator<Item = ((ReplicaId, u64), &[u8])> {
        self.0.iter().map(|(key, bits)| (*key, &**bits))
    }

    /// The bits of the chunk that starts at `first`, if that is where one starts and it has been touched.
    pub(super) fn chunk(&self, replica: ReplicaId, first: Seq) -> Option<&[u8]> {
        let n = first.0.checked_sub(1).filter(|n| n % CHUNK_DOTS == 0)?;
        self.0.get(&(replica, n / CHUNK_DOTS)).map(|bits| &**bits)
    }

    /// Puts the bits of a piece in place of those of the chunk that starts where the piece does.
    ///
    /// # Panics
    /// If the piece starts at sequence number zero.
    pub(super) fn put_chunk(&mut self, piece: &LiveBits) {
        let (chunk, ..) = Self::place(Dot::new(piece.replica, piece.first)).expect("sequence numbers start at 1");
        let mut bits = vec![0; CHUNK_BYTES];
        bits[..piece.bits.len()].copy_from_slice(&piece.bits);
        self.0.insert(chunk, bits.into());
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        self.0.len() * (CHUNK_BYTES + size_of::<(ReplicaId, u64)>() + size_of::<Box<[u8]>>())
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

/// Staged records that are somewhere else than in memory.
pub trait KeptRecords: Send + Sync {
    /// Reads them back, in the order in which they came.
    ///
    /// # Errors
    /// If they cannot be read.
    fn read(&self) -> Result<Vec<(Element, Tag)>, BaseError>;
}

/// A stretch of the listed records, in key order, that is kept somewhere else.
#[derive(Clone)]
struct Stretch {
    first: RecordKey,
    kept: Arc<dyn KeptRecords>,
}

impl fmt::Debug for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stretch({:?} …)", self.first)
    }
}

/// The parts of a state delta that have come so far. Senders list the records in key order, so that those that have come
/// can be kept elsewhere ([`Staged::keep`]) and still be read in order. Memory: what is not kept elsewhere, and bitmaps.
#[derive(Clone, Debug)]
pub struct Staged {
    /// Which state delta.
    pub join: JoinId,
    stretches: Vec<Stretch>,
    /// Those that are not kept elsewhere, in the order in which they came.
    records: Vec<(Element, Tag)>,
    /// The last record's key, while they come in key order.
    last: Option<RecordKey>,
    scattered: bool,
    listed: DotSet,
    /// The highest listed tags.
    highest: VersionVector,
    live: DotSet,
}

impl Staged {
    /// Nothing yet.
    pub fn new(join: JoinId) -> Self {
        Self {
            join,
            stretches: Vec::new(),
            records: Vec::new(),
            last: None,
            scattered: false,
            listed: DotSet::default(),
            highest: VersionVector::new(),
            live: DotSet::default(),
        }
    }

    /// Takes in a part.
    pub fn add(&mut self, part: &JoinPart) {
        for (element, tag) in &part.records {
            let key = RecordKey::new(element, *tag);
            self.scattered |= self.last.as_ref().is_some_and(|last| *last >= key);
            self.last = Some(key);
            self.listed.insert(*tag);
            self.highest.raise(tag.replica, tag.seq);
        }
        self.records.extend(part.records.iter().cloned());
        for dot in part.live.iter().flat_map(LiveBits::dots) {
            self.live.insert(dot);
        }
    }

    /// Lets go of the records that have come since the last call, which `kept` has too. (Not if they do not come in key
    /// order, which no sender of ours does to us: then they stay in memory.)
    pub fn keep(&mut self, kept: impl FnOnce(JoinId, usize) -> Arc<dyn KeptRecords>) {
        if let Some((element, tag)) = self.records.first().filter(|_| !self.scattered) {
            let first = RecordKey::new(element, *tag);
            self.stretches.push(Stretch { first, kept: kept(self.join, self.records.len()) });
            self.records = Vec::new();
        }
    }

    /// Whether a record that is live here goes: `vv`, the sender's vector, covers its tag, and the sender did not
    /// have it any more.
    pub fn drops(&self, tag: Tag, vv: &VersionVector) -> bool {
        vv.covers(tag) && !self.live.contains(tag) && !self.listed.contains(tag)
    }

    /// A listed tag that `vv`, the sender's vector, does not cover; there must be none.
    pub fn beyond(&self, vv: &VersionVector) -> Option<Tag> {
        self.highest.iter().map(|(replica, seq)| Dot::new(replica, seq)).find(|tag| !vv.covers(*tag))
    }

    /// The listed records that somebody who holds `vv` has never heard of, in the order in which they came.
    ///
    /// # Panics
    /// If some are kept elsewhere: [`Staged::records`] has them all.
    pub fn news<'a>(&'a self, vv: &'a VersionVector) -> impl Iterator<Item = &'a (Element, Tag)> {
        assert!(self.stretches.is_empty(), "some of the records are kept elsewhere");
        self.records.iter().filter(|(_, tag)| !vv.covers(*tag))
    }

    /// The listed records from the key `from` on, in key order.
    pub fn records<'a>(&'a self, from: &[u8]) -> Records<'a> {
        let from = from.to_vec();
        let mut held: Vec<Record> = self.records.iter().map(|(element, tag)| Record::new(element, *tag)).collect();
        held.retain(|record| record.key.as_bytes() >= from.as_slice());
        held.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        held.dedup_by(|a, b| a.key == b.key);
        // The one before may reach into the range.
        let start = self.stretches.partition_point(|stretch| stretch.first.as_bytes() <= from.as_slice());
        let kept = self.stretches[start.saturating_sub(1)..].iter().flat_map(|stretch| match stretch.kept.read() {
            Ok(records) => records.iter().map(|(element, tag)| Ok(Record::new(element, *tag))).collect(),
            Err(error) => vec![Err(error)],
        });
        let in_range = move |record: &Result<Record, BaseError>| !matches!(record, Ok(record) if record.key.as_bytes() < from.as_slice());
        merged(Box::new(kept.filter(in_range)), Box::new(held.into_iter().map(Ok)))
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        let stretches = self.stretches.iter().map(|s| s.first.as_bytes().len() + 64).sum::<usize>();
        stretches + weight(&self.records, &[]) + self.listed.bytes() + self.live.bytes()
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
        [1, 4_096, 4_097, 25_001].into_iter().for_each(|seq| set.insert(Dot::new(a, Seq(seq))));
        set.insert(Dot::new(b, Seq(9)));
        let shape = |max_bytes: usize| -> Vec<(ReplicaId, u64, usize)> {
            set.pieces(max_bytes).iter().map(|piece| (piece.replica, piece.first.0, piece.bits.len())).collect()
        };
        let side_by_side = [(a, 1, 513), (a, 24_577, 54), (b, 1, 2)];
        assert_eq!(shape(3 * CHUNK_BYTES), side_by_side);
        assert_eq!(shape(2 * CHUNK_BYTES), side_by_side);
        assert_eq!(shape(CHUNK_BYTES), [(a, 1, 512), (a, 4_097, 1), (a, 24_577, 54), (b, 1, 2)]);
        assert_eq!(shape(125), [(a, 1, 1), (a, 4_001, 12), (a, 4_097, 1), (a, 24_577, 54), (b, 1, 2)]);
    }

    #[test]
    fn a_part_weighs_what_is_in_it() {
        let tag = Dot::new(ReplicaId::from_random(3), Seq(2));
        let records = [3, 5].map(|n| (Element::from_canonical(&vec![b'1'; n]), tag)).to_vec();
        let live = [2, 7].map(|n| LiveBits { replica: tag.replica, first: Seq(1), bits: vec![1; n] }).to_vec();
        let part = JoinPart { join: JoinId(1), records, live };
        assert_eq!(part.weight(), (3 + 24) + (5 + 24) + (2 + 24) + (7 + 24));
    }

    #[test]
    fn a_dot_set_says_how_much_memory_it_takes() {
        let mut set = DotSet::default();
        assert_eq!(set.bytes(), 0);
        for seq in [1, CHUNK_DOTS, 1 + CHUNK_DOTS] {
            set.insert(Dot::new(ReplicaId::from_random(3), Seq(seq)));
        }
        let chunk = CHUNK_BYTES + size_of::<(ReplicaId, u64)>() + size_of::<Box<[u8]>>();
        assert_eq!(set.bytes(), 2 * chunk);
    }

    /// Records that a test keeps.
    struct Kept(Vec<(Element, Tag)>);

    impl KeptRecords for Kept {
        fn read(&self) -> Result<Vec<(Element, Tag)>, BaseError> {
            Ok(self.0.clone())
        }
    }

    #[test]
    fn a_staged_state_delta_takes_less_memory_once_its_records_are_kept_elsewhere() {
        let replica = ReplicaId::from_random(3);
        let records: Vec<_> =
            [2, 3].map(|n| (Element::from_canonical(&vec![b'1'; n]), Dot::new(replica, Seq(n as u64)))).to_vec();
        let live = vec![LiveBits { replica, first: Seq(1 + CHUNK_DOTS), bits: vec![1] }];
        let mut staged = Staged::new(JoinId(1));
        staged.add(&JoinPart { join: JoinId(1), records: records.clone(), live });
        // One chunk that is listed, and one that is live.
        let bitmaps = 2 * (CHUNK_BYTES + size_of::<(ReplicaId, u64)>() + size_of::<Box<[u8]>>());
        assert_eq!(staged.bytes(), (2 + 24) + (3 + 24) + bitmaps);
        let first = RecordKey::new(&records[0].0, records[0].1).as_bytes().len();
        staged.keep(|_, _| Arc::new(Kept(records.clone())));
        assert_eq!(staged.bytes(), first + 64 + bitmaps);
        assert_eq!(format!("{:?}", staged.stretches), format!("[Stretch({:?} …)]", staged.stretches[0].first));
        assert_eq!(staged.records(&[]).count(), 2);
        let joined = super::super::Joined::new(staged, VersionVector::new(), VersionVector::new());
        assert_eq!(joined.bytes(), first + 64 + bitmaps);
    }

    #[test]
    fn news_is_what_nobody_has_heard_of() {
        let replica = ReplicaId::from_random(3);
        let records = [2, 3].map(|n| (Element::from_canonical(b"1"), Dot::new(replica, Seq(n)))).to_vec();
        let mut staged = Staged::new(JoinId(1));
        staged.add(&JoinPart { join: JoinId(1), records: records.clone(), live: Vec::new() });
        let vv = [(replica, Seq(2))].into_iter().collect();
        assert_eq!(staged.news(&vv).collect::<Vec<_>>(), [&records[1]]);
        assert_eq!(staged.news(&VersionVector::new()).count(), 2);
    }

    #[test]
    fn a_record_that_came_again_is_read_once() {
        let replica = ReplicaId::from_random(3);
        let records = [2, 3].map(|n| (Element::from_canonical(b"1"), Dot::new(replica, Seq(n)))).to_vec();
        let part =
            |records: &[(Element, Tag)]| JoinPart { join: JoinId(1), records: records.to_vec(), live: Vec::new() };
        let mut staged = Staged::new(JoinId(1));
        staged.add(&part(&records[..1]));
        staged.keep(|_, _| Arc::new(Kept(records[..1].to_vec())));
        staged.add(&part(&records));
        let tags: Vec<Tag> = staged.records(&[]).map(|record| record.unwrap().tag()).collect();
        assert_eq!(tags, [records[0].1, records[1].1]);
    }
}
