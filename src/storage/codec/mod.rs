//! Bytes of log frames: bincode's standard configuration (little-endian, variable-length integers).
//!
//! A frame's payload lists the replica ids that occur in it once; dots are (place in that list, sequence number). A
//! stretch of consecutive operations of one replica is a run, so that a local add costs its element and two bytes.
//! Elements are borrowed both ways. The layout is described in `docs/format.md`; a frozen store under
//! `tests/fixtures/` holds this code to it.

mod answered;
mod context;

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{BorrowDecode, Decode, Encode};

pub use answered::AnsweredForm;
pub use context::Context;

use super::Lsn;
use super::index::IndexPosition;
use crate::crdt::{
    Dot, Element, Entry, Incarnation, Incarnations, JoinCommit, JoinId, JoinPart, LiveBits, NodeId, Op, OpBody,
    ReplicaId, Seq, VersionVector,
};

/// No frame's payload and no other encoded piece is larger than this.
pub const MAX_PAYLOAD_BYTES: usize = 16 << 20;

/// The encoding of everything on disk.
pub const fn config() -> Configuration<LittleEndian, Varint, Limit<MAX_PAYLOAD_BYTES>> {
    bincode::config::standard().with_limit::<MAX_PAYLOAD_BYTES>()
}

/// Bytes with a good checksum that nevertheless mean nothing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Meaningless(pub &'static str);

/// A snapshot's footer lists its blocks, so it grows with the set: some 50 bytes for every 64 KiB.
pub const MAX_FOOTER_BYTES: usize = 1 << 30;

/// The encoding of a snapshot's footer.
pub const fn footer_config() -> Configuration<LittleEndian, Varint, Limit<MAX_FOOTER_BYTES>> {
    bincode::config::standard().with_limit::<MAX_FOOTER_BYTES>()
}

/// Decodes what [`footer_config`] encoded from the start of `bytes`, and says how many it took. A length in it that is
/// false costs little more than there is: no footer takes over 16 times its bytes in memory.
///
/// # Errors
/// If they are nothing of that form.
pub fn decode_footer<T: Decode<()>>(bytes: &[u8]) -> Result<(T, usize), bincode::error::DecodeError> {
    const SMALL_BYTES: usize = MAX_PAYLOAD_BYTES / 16;
    const LARGE_BYTES: usize = 16 * MAX_PAYLOAD_BYTES;
    if bytes.len() <= SMALL_BYTES {
        bincode::decode_from_slice(bytes, config())
    } else if bytes.len() <= MAX_PAYLOAD_BYTES {
        bincode::decode_from_slice(bytes, bincode::config::standard().with_limit::<LARGE_BYTES>())
    } else {
        bincode::decode_from_slice(bytes, footer_config())
    }
}

/// What a log frame says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// One group commit.
    Batch(Batch),
    /// The process stopped in good order here; everything before is durable, the index up to this place too.
    Clean(IndexPosition),
}

/// The entries of one group commit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// The LSN of the first entry; the others follow without gaps.
    pub first: Lsn,
    /// The store's own replica id as of these entries; `None` if it has never written.
    pub own: Option<ReplicaId>,
    /// At least one.
    pub entries: Vec<Entry>,
}

impl Batch {
    /// The LSN of the last entry.
    pub fn last(&self) -> Lsn {
        Lsn(self.first.0 + self.entries.len() as u64 - 1)
    }
}

#[derive(Encode, BorrowDecode)]
enum FrameForm<'a> {
    Batch { first: u64, own: Option<u32>, ids: Vec<u128>, entries: Vec<EntryForm<'a>> },
    Clean { lsn: u64, checksum: u32 },
}

/// A dot: the place of its replica id in the frame's list, and the sequence number.
type DotForm = (u32, u64);

#[derive(Encode, BorrowDecode)]
enum EntryForm<'a> {
    Run {
        replica: u32,
        first: u64,
        bodies: Vec<BodyForm<'a>>,
    },
    JoinPart {
        join: u64,
        records: Vec<(&'a [u8], DotForm)>,
        live: Vec<(u32, u64, &'a [u8])>,
    },
    JoinCommit {
        join: u64,
        vv: Vec<DotForm>,
        incarnations: Vec<(u32, &'a str, Option<DotForm>)>,
    },
    /// Since format 2.
    Answered(AnsweredForm),
}

#[derive(Encode, BorrowDecode)]
enum BodyForm<'a> {
    Start { node: &'a str, parent: Option<DotForm> },
    Add(&'a [u8]),
    Remove { element: &'a [u8], tags: Vec<DotForm> },
}

/// The replica ids of a frame, in the order of their first occurrence. There are few, so they are searched.
#[derive(Default)]
pub struct Ids(Vec<u128>);

impl Ids {
    /// The ids, in order.
    pub fn into_list(self) -> Vec<u128> {
        self.0
    }

    /// The place of an id, which gets one if it has none yet.
    ///
    /// # Panics
    /// From 2^32 ids on.
    pub fn place(&mut self, replica: ReplicaId) -> u32 {
        let id = replica.to_u128();
        // The last ones are the likeliest.
        let place = self.0.iter().rposition(|known| *known == id).unwrap_or_else(|| {
            self.0.push(id);
            self.0.len() - 1
        });
        u32::try_from(place).expect("a frame holds fewer than 2^32 ids")
    }

    fn dot(&mut self, dot: Dot) -> DotForm {
        (self.place(dot.replica), dot.seq.0)
    }
}

/// Encodes a batch and appends it to `out`.
pub fn encode_batch(out: &mut Vec<u8>, first: Lsn, own: Option<ReplicaId>, entries: &[Entry]) {
    let mut ids = Ids::default();
    let own = own.map(|own| ids.place(own));
    let mut forms: Vec<EntryForm> = Vec::new();
    let mut run_end: Option<Dot> = None;
    for entry in entries {
        match entry {
            Entry::Op(op) => {
                let body = body_form(&mut ids, &op.body);
                let follows = run_end == Some(op.dot);
                match forms.last_mut() {
                    Some(EntryForm::Run { bodies, .. }) if follows => bodies.push(body),
                    _ => forms.push(EntryForm::Run {
                        replica: ids.place(op.dot.replica),
                        first: op.dot.seq.0,
                        bodies: vec![body],
                    }),
                }
                run_end = Some(Dot::new(op.dot.replica, op.dot.seq.next()));
            }
            Entry::JoinPart(part) => forms.push(part_form(&mut ids, part)),
            Entry::JoinCommit(commit) => forms.push(commit_form(&mut ids, commit)),
            Entry::Answered(answered) => forms.push(EntryForm::Answered(AnsweredForm::new(&mut ids, answered))),
        }
        if !matches!(entry, Entry::Op(_)) {
            run_end = None;
        }
    }
    append(out, &FrameForm::Batch { first: first.0, own, ids: ids.0, entries: forms });
}

/// Encodes the mark of a clean stop and appends it to `out`.
pub fn encode_clean(out: &mut Vec<u8>, index: IndexPosition) {
    append(out, &FrameForm::Clean { lsn: index.lsn.0, checksum: index.checksum });
}

fn append(out: &mut Vec<u8>, form: &FrameForm) {
    bincode::encode_into_std_write(form, out, config()).expect("a Vec takes everything");
}

fn body_form<'a>(ids: &mut Ids, body: &'a OpBody) -> BodyForm<'a> {
    match body {
        OpBody::Start { node, parent } => {
            BodyForm::Start { node: node.as_str(), parent: parent.map(|parent| ids.dot(parent)) }
        }
        OpBody::Add(element) => BodyForm::Add(element.as_bytes()),
        OpBody::Remove { element, tags } => {
            BodyForm::Remove { element: element.as_bytes(), tags: tags.iter().map(|tag| ids.dot(*tag)).collect() }
        }
    }
}

fn part_form<'a>(ids: &mut Ids, part: &'a JoinPart) -> EntryForm<'a> {
    EntryForm::JoinPart {
        join: part.join.0,
        records: part.records.iter().map(|(element, tag)| (element.as_bytes(), ids.dot(*tag))).collect(),
        live: part.live.iter().map(|l| (ids.place(l.replica), l.first.0, l.bits.as_slice())).collect(),
    }
}

fn commit_form<'a>(ids: &mut Ids, commit: &'a JoinCommit) -> EntryForm<'a> {
    let incarnation = |ids: &mut Ids, replica, incarnation: &'a Incarnation| {
        let parent = incarnation.parent.map(|parent| ids.dot(parent));
        (ids.place(replica), incarnation.node.as_str(), parent)
    };
    EntryForm::JoinCommit {
        join: commit.join.0,
        vv: commit.vv.iter().map(|(replica, seq)| (ids.place(replica), seq.0)).collect(),
        incarnations: commit.incarnations.iter().map(|(id, i)| incarnation(ids, id, i)).collect(),
    }
}

/// Decodes a frame's payload.
///
/// # Errors
/// If the bytes are no frame. Every [`Op`] in the outcome has passed [`Op::check`].
pub fn decode_frame(payload: &[u8]) -> Result<Frame, Meaningless> {
    let (form, length): (FrameForm, usize) = bincode::borrow_decode_from_slice(payload, config())
        .map_err(|_| Meaningless("the payload cannot be decoded"))?;
    if length != payload.len() {
        return Err(Meaningless("bytes after the end of the payload"));
    }
    match form {
        FrameForm::Clean { lsn, checksum } => Ok(Frame::Clean(IndexPosition { lsn: Lsn(lsn), checksum })),
        FrameForm::Batch { first, own, ids, entries } => {
            let ids = KnownIds::new(&ids)?;
            let own = own.map(|own| ids.replica(own)).transpose()?;
            let mut decoded = Vec::with_capacity(entries.len());
            for entry in entries {
                ids.entry(entry, &mut decoded)?;
            }
            let possible = first > 0 && !decoded.is_empty() && first.checked_add(decoded.len() as u64).is_some();
            if !possible {
                return Err(Meaningless("a batch without entries or LSN"));
            }
            Ok(Frame::Batch(Batch { first: Lsn(first), own, entries: decoded }))
        }
    }
}

/// A list of replica ids that was read.
pub struct KnownIds(Vec<ReplicaId>);

impl From<Vec<ReplicaId>> for KnownIds {
    fn from(ids: Vec<ReplicaId>) -> Self {
        Self(ids)
    }
}

impl KnownIds {
    fn new(ids: &[u128]) -> Result<Self, Meaningless> {
        let known = ids.iter().map(|id| ReplicaId::from_u128(*id)).collect::<Option<_>>();
        known.map(Self).ok_or(Meaningless("a replica id of more than 74 bits"))
    }

    fn replica(&self, place: u32) -> Result<ReplicaId, Meaningless> {
        self.0.get(place as usize).copied().ok_or(Meaningless("a replica id that is not in the list"))
    }

    fn dot(&self, (place, seq): DotForm) -> Result<Dot, Meaningless> {
        if !(1..=Seq::MAX.0).contains(&seq) {
            return Err(Meaningless("a sequence number out of range"));
        }
        Ok(Dot::new(self.replica(place)?, Seq(seq)))
    }

    fn entry(&self, form: EntryForm, out: &mut Vec<Entry>) -> Result<(), Meaningless> {
        match form {
            EntryForm::Run { replica, first, bodies } => {
                for (n, body) in (0..).zip(bodies) {
                    let seq = first.checked_add(n).ok_or(Meaningless("a sequence number out of range"))?;
                    let op = Op { dot: self.dot((replica, seq))?, body: self.body(body)? };
                    op.check().map_err(|_| Meaningless("an impossible operation"))?;
                    out.push(Entry::Op(op));
                }
            }
            EntryForm::JoinPart { join, records, live } => out.push(Entry::JoinPart(JoinPart {
                join: JoinId(join),
                records: records
                    .into_iter()
                    .map(|(e, dot)| Ok((element(e)?, self.dot(dot)?)))
                    .collect::<Result<_, _>>()?,
                live: live.into_iter().map(|piece| self.live(piece)).collect::<Result<_, _>>()?,
            })),
            EntryForm::Answered(form) => out.push(Entry::Answered(form.meaning(self)?)),
            EntryForm::JoinCommit { join, vv, incarnations } => out.push(Entry::JoinCommit(JoinCommit {
                join: JoinId(join),
                vv: vv
                    .into_iter()
                    .map(|dot| self.dot(dot).map(|d| (d.replica, d.seq)))
                    .collect::<Result<VersionVector, _>>()?,
                incarnations: incarnations
                    .into_iter()
                    .map(|i| self.incarnation(i))
                    .collect::<Result<Incarnations, _>>()?,
            })),
        }
        Ok(())
    }

    fn body(&self, form: BodyForm) -> Result<OpBody, Meaningless> {
        Ok(match form {
            BodyForm::Start { node, parent } => {
                OpBody::Start { node: node_id(node)?, parent: parent.map(|dot| self.dot(dot)).transpose()? }
            }
            BodyForm::Add(bytes) => OpBody::Add(element(bytes)?),
            BodyForm::Remove { element: bytes, tags } => OpBody::Remove {
                element: element(bytes)?,
                tags: tags.into_iter().map(|tag| self.dot(tag)).collect::<Result<_, _>>()?,
            },
        })
    }

    fn live(&self, (replica, first, bits): (u32, u64, &[u8])) -> Result<LiveBits, Meaningless> {
        let end = first.checked_add(8 * bits.len() as u64).ok_or(Meaningless("a bitmap out of range"))?;
        if first == 0 || end > Seq::MAX.0 {
            return Err(Meaningless("a bitmap out of range"));
        }
        Ok(LiveBits { replica: self.replica(replica)?, first: Seq(first), bits: bits.to_vec() })
    }

    fn incarnation(
        &self,
        (replica, node, parent): (u32, &str, Option<DotForm>),
    ) -> Result<(ReplicaId, Incarnation), Meaningless> {
        let parent = parent.map(|dot| self.dot(dot)).transpose()?;
        Ok((self.replica(replica)?, Incarnation { node: node_id(node)?, parent }))
    }
}

fn element(bytes: &[u8]) -> Result<Element, Meaningless> {
    Element::checked(bytes).ok_or(Meaningless("an element that is no text"))
}

fn node_id(text: &str) -> Result<NodeId, Meaningless> {
    NodeId::new(text).ok_or(Meaningless("an impossible node id"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crdt::{Answer, Answered, AskedHash, RequestKey, TagList};

    fn id(n: u128) -> ReplicaId {
        ReplicaId::from_random(n << 60 | n)
    }

    fn answered(answer: Answer) -> Entry {
        let (key, asked) = (RequestKey::of("a name"), AskedHash::of([&b"add"[..]]));
        Entry::Answered(Answered { key, asked, answer })
    }

    fn entries() -> Vec<Entry> {
        let apple = Element::from_canonical(br#""apple""#);
        let node = NodeId::new("n1").unwrap();
        let op = |replica, seq, body| Entry::Op(Op { dot: Dot::new(id(replica), Seq(seq)), body });
        let parent = Some(Dot::new(id(2), Seq(9)));
        vec![
            op(1, 1, OpBody::Start { node: node.clone(), parent }),
            op(1, 2, OpBody::Add(apple.clone())),
            op(3, 7, OpBody::Add(apple.clone())),
            op(3, 8, OpBody::Remove { element: apple.clone(), tags: vec![Dot::new(id(3), Seq(7))] }),
            Entry::JoinPart(JoinPart {
                join: JoinId(5),
                records: vec![(apple, Dot::new(id(4), Seq(2)))],
                live: vec![LiveBits { replica: id(1), first: Seq(1), bits: vec![0, 255] }],
            }),
            op(3, 9, OpBody::Add(Element::from_canonical(b"1"))),
            answered(Answer::Added([Dot::new(id(3), Seq(9))].into_iter().collect())),
            answered(Answer::AddedMany([Dot::new(id(3), Seq(8)), Dot::new(id(3), Seq(9))].into_iter().collect())),
            answered(Answer::Removed(TagList::default())),
            answered(Answer::RemovedMany(
                vec![TagList::default(), [Dot::new(id(5), Seq(2))].into_iter().collect()].into(),
            )),
            Entry::JoinCommit(JoinCommit {
                join: JoinId(5),
                vv: [(id(4), Seq(2)), (id(1), Seq(16))].into_iter().collect(),
                incarnations: [(id(4), Incarnation { node, parent })].into_iter().collect(),
            }),
        ]
    }

    #[test]
    fn a_batch_comes_back_as_it_went_in() {
        let mut bytes = Vec::new();
        encode_batch(&mut bytes, Lsn(41), Some(id(1)), &entries());
        let batch = Batch { first: Lsn(41), own: Some(id(1)), entries: entries() };
        assert_eq!(decode_frame(&bytes).unwrap(), Frame::Batch(batch));
    }

    #[test]
    fn an_answer_that_cannot_have_been_given_is_refused() {
        let dot = |seq| Dot::new(id(1), Seq(seq));
        let scattered: TagList = (1..=16_385).map(|n| dot(2 * n)).collect();
        let at_most: TagList = scattered.iter().skip(1).collect();
        for (answer, is_good) in [
            (Answer::AddedMany(TagList::from_runs([(dot(2), 16_384)]).unwrap()), true),
            (Answer::AddedMany(TagList::from_runs([(dot(2), 16_385)]).unwrap()), false),
            (Answer::Removed(at_most), true),
            (Answer::Removed(scattered), false),
            (Answer::RemovedMany(vec![TagList::default(); 16_385].into()), false),
        ] {
            let mut bytes = Vec::new();
            encode_batch(&mut bytes, Lsn(1), None, &[answered(answer)]);
            assert_eq!(decode_frame(&bytes).is_ok(), is_good);
        }
    }

    #[test]
    fn a_local_add_costs_its_element_and_two_bytes() {
        let add = |seq| {
            let body = OpBody::Add(Element::from_canonical(b"12345678"));
            Entry::Op(Op { dot: Dot::new(id(1), Seq(seq)), body })
        };
        let size = |n: u64| {
            let mut bytes = Vec::new();
            encode_batch(&mut bytes, Lsn(1), None, &(2..2 + n).map(add).collect::<Vec<_>>());
            bytes.len()
        };
        assert_eq!(size(101) - size(100), 10);
    }

    #[test]
    fn no_cut_or_flipped_payload_makes_it_panic() {
        let mut bytes = Vec::new();
        encode_batch(&mut bytes, Lsn(41), Some(id(1)), &entries());
        for cut in 0..bytes.len() {
            assert!(decode_frame(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = decode_frame(&flipped);
        }
    }

    #[test]
    fn a_batch_that_nobody_can_have_written_is_refused() {
        let decoded = |first, entries: &[Entry]| {
            let mut bytes = Vec::new();
            encode_batch(&mut bytes, Lsn(first), None, entries);
            decode_frame(&bytes)
        };
        assert!(decoded(1, &entries()).is_ok());
        assert!(decoded(0, &entries()).is_err(), "LSNs begin at 1");
        assert!(decoded(1, &[]).is_err(), "no entries");
        assert!(decoded(u64::MAX, &entries()).is_err(), "beyond the last LSN");
    }

    #[test]
    fn a_bitmap_lies_within_the_sequence_numbers() {
        let decoded = |first, bytes| {
            let live = vec![LiveBits { replica: id(1), first: Seq(first), bits: vec![1; bytes] }];
            let part = Entry::JoinPart(JoinPart { join: JoinId(5), records: Vec::new(), live });
            let mut bytes = Vec::new();
            encode_batch(&mut bytes, Lsn(1), None, &[part]);
            decode_frame(&bytes)
        };
        let last = Seq::MAX.0;
        assert!(decoded(1, 3).is_ok() && decoded(last - 16, 2).is_ok());
        assert!(decoded(0, 3).is_err(), "sequence numbers begin at 1");
        assert!(decoded(last - 16, 3).is_err() && decoded(last, 1).is_err() && decoded(u64::MAX, 1).is_err());
    }

    /// Found by fuzzing snapshots: a few hundred bytes took 470 MB.
    #[test]
    fn a_footer_with_a_false_length_is_refused_before_there_is_room_for_it() {
        // 2^24 replica ids, of which there is none: 256 MiB.
        let bytes = [252, 0, 0, 0, 1];
        let short = bincode::error::DecodeError::LimitExceeded;
        assert_eq!(decode_footer::<Vec<u128>>(&bytes).unwrap_err().to_string(), short.to_string());
        // In a larger one, 2^25 of them.
        let bytes = [&[252, 0, 0, 0, 2][..], &vec![0; 2 << 20]].concat();
        assert_eq!(decode_footer::<Vec<u128>>(&bytes).unwrap_err().to_string(), short.to_string());
        for count in [1, 100_000, 3_000_000] {
            let ids = vec![1_u128 << 70; count];
            let bytes = bincode::encode_to_vec(&ids, footer_config()).unwrap();
            assert_eq!(decode_footer(&bytes).unwrap(), (ids, bytes.len()), "{count} ids");
        }
    }
}
