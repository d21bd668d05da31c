//! Snapshots: the live records and the causal context as of one LSN, in one file that is never changed.
//!
//! ```text
//! "ORSETSNP" (8)  version u32  nonce u128
//! blocks          crc32c u32 over (nonce, offset of the block, payload)  length u32  payload: records in key order
//! answer blocks   the same, with the nonce's complement  payload: answers to requests with a name, oldest first
//! footer          envelope "ORSETFTR" { nonce, LSN, checksum of the frame there, own id, counts, replica ids, blocks },
//!                 the context (vector, floor, incarnations), and (since format 2) where the answer blocks are
//! footer's offset u64   crc32c of that u32
//! ```
//!
//! A record is what its element does not share with the record before it in the block, the place of its replica id in
//! the footer's list, and its sequence number. Blocks hold some 64 KiB and are checked at every read. The footer comes
//! last because only then are the counts known; the file gets its name only when all of it is durable.

mod reader;
pub mod remains;
mod writer;

use bincode::{BorrowDecode, Decode, Encode};

pub use reader::Snapshot;
pub use writer::{write, write_in_steps};

use super::Lsn;
use super::codec::Context;
use super::index::IndexPosition;
use crate::crdt::ReplicaId;

const MAGIC: [u8; 8] = *b"ORSETSNP";
const FOOTER_MAGIC: [u8; 8] = *b"ORSETFTR";
const PREAMBLE_BYTES: usize = 28;
const BLOCK_HEAD_BYTES: usize = 8;
const TRAILER_BYTES: usize = 12;
/// A block is closed when its payload has reached this size.
pub const BLOCK_BYTES: usize = 64 << 10;

/// The name of the snapshot at `lsn`.
pub fn file_name(lsn: Lsn) -> String {
    format!("{:020}.snap", lsn.0)
}

/// What a snapshot is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotHeader {
    /// The last LSN in it.
    pub lsn: Lsn,
    /// The checksum of the log frame that ends there.
    pub frame_checksum: u32,
    /// The store's own last replica id.
    pub own: Option<ReplicaId>,
    /// Vector, floor, incarnations.
    pub context: Context,
}

impl SnapshotHeader {
    /// Where an index stands that has just these records.
    pub fn position(&self) -> IndexPosition {
        IndexPosition { lsn: self.lsn, checksum: self.frame_checksum }
    }
}

#[derive(Encode, Decode)]
struct FooterForm {
    nonce: u128,
    lsn: u64,
    frame_checksum: u32,
    own: Option<u128>,
    elements: u64,
    tags: u64,
    ids: Vec<u128>,
    blocks: Vec<Block>,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct Block {
    offset: u64,
    payload_bytes: u32,
    records: u32,
    /// The first record's key.
    first_key: Vec<u8>,
}

/// Where a block of answers is.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct AnswerBlock {
    offset: u64,
    payload_bytes: u32,
    answers: u32,
}

/// The first format whose snapshots have answers.
const FORMAT_WITH_ANSWERS: u32 = 2;

#[derive(Encode, BorrowDecode)]
struct RecordForm<'a> {
    shared: u32,
    rest: &'a [u8],
    replica: u32,
    seq: u64,
}

fn preamble_bytes(version: u32, nonce: u128) -> Vec<u8> {
    [&MAGIC[..], &version.to_le_bytes(), &nonce.to_le_bytes()].concat()
}

/// The nonce of answer blocks: without a footer, nobody shall take one for a block of records.
fn answer_nonce(nonce: u128) -> u128 {
    !nonce
}

fn block_checksum(nonce: u128, offset: u64, payload: &[u8]) -> u32 {
    let place = crc32c::crc32c_append(crc32c::crc32c(&nonce.to_le_bytes()), &offset.to_le_bytes());
    crc32c::crc32c_append(place, payload)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::disk::{MemDisk, RealDisk};
    use super::super::{Counts, StoreError};
    use super::*;
    use crate::crdt::{Answer, Answered, Answers, AskedHash, Base, Dot, Element, Record, RequestKey, Seq, TagList};

    fn records() -> Vec<Record> {
        let id = |n| ReplicaId::from_random(n);
        let mut records: Vec<Record> = (0..12_000u64)
            .map(|n| {
                let element = Element::from_canonical(format!("\"element {}\"", n / 2).as_bytes());
                Record::new(&element, Dot::new(id(u128::from(n % 3)), Seq(2 + n)))
            })
            .collect();
        let long = Element::from_canonical(&vec![b'5'; 3000]);
        records.push(Record::new(&long, Dot::new(id(1), Seq(2))));
        records.sort_by(|a, b| a.key.cmp(&b.key));
        records
    }

    fn written(disk: &MemDisk) -> Snapshot {
        let header = SnapshotHeader {
            lsn: Lsn(9),
            frame_checksum: 4,
            own: Some(ReplicaId::from_random(1)),
            context: Context::default(),
        };
        write(disk, Path::new("/"), &header, 77, Box::new(records().into_iter().map(Ok)), &answers()).unwrap()
    }

    /// More than one block of them.
    fn answers() -> Answers {
        let mut answers = Answers::default();
        for n in 0..3_000u64 {
            let tags: TagList =
                (0..n % 4).map(|m| Dot::new(ReplicaId::from_random(u128::from(m) + 8), Seq(n + 2))).collect();
            let asked = AskedHash::of([n.to_string().as_bytes()]);
            answers.push(Answered { key: RequestKey::of(&n.to_string()), asked, answer: Answer::Removed(tags) });
        }
        answers
    }

    #[test]
    fn a_snapshot_gives_back_the_answers_in_their_order() {
        let snapshot = written(&MemDisk::default());
        let (_, full) = snapshot.answer_blocks.split_last().unwrap();
        assert!(!full.is_empty(), "the test wants several blocks");
        assert!(full.iter().all(|block| (BLOCK_BYTES..BLOCK_BYTES + 200).contains(&(block.payload_bytes as usize))));
        assert_eq!(snapshot.answers().unwrap(), answers());
        assert_eq!(snapshot.state().unwrap().answers, answers());
    }

    #[test]
    fn a_snapshot_gives_back_its_records_from_any_key_on() {
        let (snapshot, records) = (written(&MemDisk::default()), records());
        assert!(snapshot.block_count() > 1, "the test wants several blocks");
        assert_eq!(snapshot.counts(), Counts { elements: 6001, tags: 12_001 });
        for n in (0..records.len()).step_by(997) {
            let from: Vec<Record> = snapshot.records(records[n].key.as_bytes()).map(Result::unwrap).collect();
            assert_eq!(from, records[n..]);
        }
        assert_eq!(snapshot.records(&[]).count(), records.len());
        assert_eq!(snapshot.records(b"~").count(), 0);
    }

    /// Checksums say that bytes are those that were written, and not that they made sense.
    #[test]
    fn records_out_of_order_and_a_floor_above_the_vector_are_refused() {
        let disk = MemDisk::default();
        let header = |floor: u64| SnapshotHeader {
            lsn: Lsn(9),
            frame_checksum: 4,
            own: None,
            context: Context {
                vv: [(ReplicaId::from_random(1), Seq(3))].into_iter().collect(),
                floor: [(ReplicaId::from_random(1), Seq(floor))].into_iter().collect(),
                ..Context::default()
            },
        };
        let write = |header: &SnapshotHeader, records: Vec<Record>| {
            let records = Box::new(records.into_iter().map(Ok));
            let snapshot = write(&disk, Path::new("/"), header, 77, records, &Answers::default())?;
            (0..snapshot.block_count()).try_for_each(|n| snapshot.block(n).map(drop))
        };
        let mut few = records()[..3].to_vec();
        assert!(write(&header(3), few.clone()).is_ok());
        assert!(write(&header(4), few.clone()).is_err(), "a floor above the vector");
        few.insert(1, few[1].clone());
        assert!(write(&header(3), few.clone()).is_err(), "twice in a block");
        few.remove(1);
        few.swap(1, 2);
        assert!(write(&header(3), few).is_err(), "out of order in a block");
        let mut many = records();
        assert!(write(&header(3), many.clone()).is_ok());
        many.rotate_left(1);
        assert!(write(&header(3), many).is_err(), "out of order between blocks");
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_seen_when_the_snapshot_is_read() {
        let disk = MemDisk::default();
        let path = written(&disk).path().to_path_buf();
        let bytes = disk.files().remove(&path).unwrap();
        let read = |change: &mut dyn FnMut(&mut Vec<u8>)| {
            disk.tamper(&path, |b| {
                *b = bytes.clone();
                change(b);
            });
            let snapshot = Snapshot::open(&disk, &path)?;
            snapshot.answers()?;
            (0..snapshot.block_count()).try_for_each(|n| snapshot.block(n).map(drop))
        };
        assert!(read(&mut |_| ()).is_ok());
        for at in (0..bytes.len()).step_by(149).chain(bytes.len() - 200..bytes.len()).chain(0..200) {
            assert!(read(&mut |b| b[at] ^= 0x10).is_err(), "byte {at}");
            let cut = read(&mut |b| b.truncate(at));
            assert!(matches!(cut, Err(StoreError::Damaged { .. })), "cut at {at}: {cut:?}");
        }
    }

    #[test]
    fn a_snapshot_that_cannot_be_read_is_not_taken_for_one_that_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(file_name(Lsn(1)));
        assert!(matches!(Snapshot::open(&RealDisk, &path), Err(StoreError::Damaged { .. })));
        std::os::unix::fs::symlink(&path, &path).unwrap();
        assert!(matches!(Snapshot::open(&RealDisk, &path), Err(StoreError::Io { .. })), "it leads to itself");
    }

    #[test]
    fn a_snapshot_says_how_large_its_records_are_and_which_bytes_it_is() {
        let disk = MemDisk::default();
        let snapshot = written(&disk);
        let bytes = disk.files().remove(snapshot.path()).unwrap();
        let footer = bytes.windows(FOOTER_MAGIC.len()).rposition(|window| window == FOOTER_MAGIC).unwrap();
        let checksum =
            crate::storage::envelope::unwrap(&bytes[footer..], FOOTER_MAGIC, snapshot.path(), 0).unwrap().checksum;
        assert_eq!(snapshot.checksum(), checksum);
        // Keys: 11 to 14 bytes of element, one that ends it, and 16 of tag.
        assert!((28..32).contains(&snapshot.record_bytes()), "{}", snapshot.record_bytes());
        assert_eq!(snapshot.block_offset(0), PREAMBLE_BYTES as u64);
        let second = snapshot.block_offset(1);
        assert_eq!(second, (PREAMBLE_BYTES + BLOCK_HEAD_BYTES) as u64 + u64::from(snapshot.blocks[0].payload_bytes));
        snapshot.check().unwrap();
        let at = usize::try_from(second).unwrap() + BLOCK_HEAD_BYTES;
        disk.tamper(snapshot.path(), |bytes| bytes[at] ^= 1);
        assert!(snapshot.check().is_err());
    }
}
