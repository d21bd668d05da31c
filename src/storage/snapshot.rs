//! Snapshots: the live records and the causal context as of one LSN, in one file that is never changed.
//!
//! ```text
//! "ORSETSNP" (8)  version u32  nonce u128
//! blocks          crc32c u32 over (nonce, offset of the block, payload)  length u32  payload: records in key order
//! footer          envelope "ORSETFTR" { nonce, LSN, checksum of the frame there, own id, counts, replica ids, blocks }
//!                 and the context (vector, floor, incarnations)
//! footer's offset u64   crc32c of that u32
//! ```
//!
//! A record is what its element does not share with the record before it in the block, the place of its replica id in
//! the footer's list, and its sequence number. Blocks hold some 64 KiB and are checked at every read. The footer comes
//! last because only then are the counts known; the file gets its name only when all of it is durable.

pub mod remains;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bincode::{BorrowDecode, Decode, Encode};

use super::codec::{self, Context};
use super::disk::{self, Disk, DiskFile};
use super::envelope::{self, FORMAT_VERSION};
use super::error::StoreError;
use super::{Counts, Lsn};
use crate::crdt::{Base, BaseError, Dot, Element, Record, RecordKey, Records, ReplicaId, Seq, State};
use crate::planted::{self, Bug};

const MAGIC: [u8; 8] = *b"ORSETSNP";
const FOOTER_MAGIC: [u8; 8] = *b"ORSETFTR";
const PREAMBLE_BYTES: usize = 28;
const BLOCK_HEAD_BYTES: usize = 8;
const TRAILER_BYTES: usize = 12;
/// A block is closed when its payload has reached this size.
pub const BLOCK_BYTES: usize = 64 << 10;
/// The writer syncs every so many bytes, so that the disk's queue stays short for those who wait for the log.
const SYNC_EVERY_BYTES: usize = 1 << 20;

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

#[derive(Encode, BorrowDecode)]
struct RecordForm<'a> {
    shared: u32,
    rest: &'a [u8],
    replica: u32,
    seq: u64,
}

/// A snapshot, open for reading. It can be read also after its file has lost its name.
pub struct Snapshot {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    header: SnapshotHeader,
    counts: Counts,
    checksum: u32,
    nonce: u128,
    ids: Vec<ReplicaId>,
    blocks: Vec<Block>,
    bytes: u64,
}

impl Snapshot {
    /// Opens a snapshot and checks its frame: the blocks are checked when they are read.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Newer`], or what the file system says.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self, StoreError> {
        let (file, bytes) = open_file(disk, path)?;
        let damaged = |offset, what: &str| StoreError::damaged(path, offset, what);
        let preamble = read_range(file.as_ref(), path, 0, PREAMBLE_BYTES as u64)?;
        let trailer_at = bytes - TRAILER_BYTES as u64;
        let trailer = read_range(file.as_ref(), path, trailer_at, bytes)?;
        let offset = u64::from_le_bytes(trailer[..8].try_into().expect("eight bytes"));
        let expected = u32::from_le_bytes(trailer[8..].try_into().expect("four bytes"));
        if crc32c::crc32c(&trailer[..8]) != expected || offset > trailer_at {
            return Err(damaged(trailer_at, "the snapshot's last bytes are wrong"));
        }
        let footer = read_range(file.as_ref(), path, offset, trailer_at)?;
        let (snapshot, length) = Self::from_footer(file, path, bytes, offset, &footer)?;
        if preamble != preamble_bytes(snapshot.nonce) || footer.len() != length {
            return Err(damaged(0, "the snapshot's ends do not belong together"));
        }
        Ok(snapshot)
    }

    /// The snapshot in `file` whose footer begins `footer`, which lies at `offset`; and the footer's length.
    fn from_footer(
        file: Arc<dyn DiskFile>,
        path: &Path,
        bytes: u64,
        offset: u64,
        footer: &[u8],
    ) -> Result<(Self, usize), StoreError> {
        let damaged = |what: &str| StoreError::damaged(path, offset, what);
        let unwrapped = envelope::unwrap(footer, FOOTER_MAGIC, path, offset)?;
        let (form, length): (FooterForm, usize) =
            codec::decode_footer(unwrapped.body).map_err(|_| damaged("the footer cannot be decoded"))?;
        let (context, _) = Context::decode(&unwrapped.body[length..]).map_err(|e| damaged(e.0))?;
        // The writer sees to both, and all that reads records or serves deltas rests on them.
        let sorted = form.blocks.is_sorted_by(|a, b| a.first_key < b.first_key);
        if !sorted || !context.floor.is_within(&context.vv) {
            return Err(damaged("the footer contradicts itself"));
        }
        let id = |id: u128| ReplicaId::from_u128(id).ok_or_else(|| damaged("an impossible replica id"));
        let snapshot = Self {
            header: SnapshotHeader {
                lsn: Lsn(form.lsn),
                frame_checksum: form.frame_checksum,
                own: form.own.map(id).transpose()?,
                context,
            },
            counts: Counts { elements: form.elements, tags: form.tags },
            checksum: unwrapped.checksum,
            nonce: form.nonce,
            ids: form.ids.into_iter().map(id).collect::<Result<_, _>>()?,
            blocks: form.blocks,
            path: path.to_path_buf(),
            file,
            bytes,
        };
        Ok((snapshot, envelope::ENVELOPE_BYTES + unwrapped.body.len()))
    }

    /// What it is of.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// The set as of the snapshot, on top of it: the start of every fold.
    pub fn state(&self) -> State {
        let Context { vv, floor, incarnations } = self.header.context.clone();
        let mut state = State::default();
        (state.vv, state.floor, state.incarnations) = (vv, floor, incarnations);
        state
    }

    /// How much is in it.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The checksum of its footer: names its content.
    pub fn checksum(&self) -> u32 {
        self.checksum
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many blocks it has.
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// Reads every block and checks its checksum.
    ///
    /// # Errors
    /// If a block cannot be read or is damaged.
    pub fn check(&self) -> Result<(), StoreError> {
        (0..self.blocks.len()).try_for_each(|n| self.block_payload(n).map(drop))
    }

    fn block_payload(&self, n: usize) -> Result<Vec<u8>, StoreError> {
        let block = &self.blocks[n];
        let damaged = |what: &str| StoreError::damaged(&self.path, block.offset, what);
        let end = block.offset.checked_add(BLOCK_HEAD_BYTES as u64 + u64::from(block.payload_bytes));
        let end = end.filter(|end| *end <= self.bytes).ok_or_else(|| damaged("a block beyond the end"))?;
        let mut bytes = read_range(self.file.as_ref(), &self.path, block.offset, end)?;
        let payload = bytes.split_off(BLOCK_HEAD_BYTES);
        let length_matches = bytes[4..] == block.payload_bytes.to_le_bytes();
        if bytes[..4] != block_checksum(self.nonce, block.offset, &payload).to_le_bytes() || !length_matches {
            return Err(damaged("a block's checksum is wrong"));
        }
        Ok(payload)
    }

    /// The records of block `n`, in key order.
    ///
    /// # Errors
    /// If the block cannot be read or is damaged.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn block(&self, n: usize) -> Result<Vec<Record>, StoreError> {
        let block = &self.blocks[n];
        let damaged = |what: &str| StoreError::damaged(&self.path, block.offset, what);
        let records = self.decode_block(&self.block_payload(n)?).ok_or_else(|| damaged("a block cannot be decoded"))?;
        if records.len() != block.records as usize
            || records.first().map(|r| r.key.as_bytes()) != Some(&block.first_key)
        {
            return Err(damaged("a block is not the one that the footer lists"));
        }
        let next = self.blocks.get(n + 1).map(|next| next.first_key.as_slice());
        let before_next = |last: &Record| next.is_none_or(|next| last.key.as_bytes() < next);
        if !records.is_sorted_by(|a, b| a.key < b.key) || !records.last().is_none_or(before_next) {
            return Err(damaged("a block's records are out of order"));
        }
        Ok(records)
    }

    fn decode_block(&self, mut payload: &[u8]) -> Option<Vec<Record>> {
        let mut records = Vec::new();
        let mut element: Vec<u8> = Vec::new();
        let mut last: Option<(Element, Vec<u8>)> = None;
        while !payload.is_empty() {
            let (form, length): (RecordForm, usize) =
                bincode::borrow_decode_from_slice(payload, codec::config()).ok()?;
            payload = &payload[length..];
            if form.shared as usize > element.len() || !(1..=Seq::MAX.0).contains(&form.seq) {
                return None;
            }
            element.truncate(form.shared as usize);
            element.extend_from_slice(form.rest);
            let tag = Dot::new(*self.ids.get(form.replica as usize)?, Seq(form.seq));
            let (same, prefix) = match last.take() {
                Some((same, prefix)) if same.as_bytes() == element => (same, prefix),
                _ => {
                    let new = Element::checked(&element)?;
                    let prefix = new.key_prefix();
                    (new, prefix)
                }
            };
            let key = RecordKey::from_prefix(&prefix, tag);
            let long_element = key.inline_element().is_none().then(|| same.clone());
            records.push(Record { key, long_element });
            last = Some((same, prefix));
        }
        Some(records)
    }
}

impl Base for Snapshot {
    fn records(&self, from: &[u8]) -> Records<'_> {
        // The block before the first one that starts later may hold the first record.
        let block = self.blocks.partition_point(|block| block.first_key.as_slice() <= from).saturating_sub(1);
        let blocks = (block..self.blocks.len()).flat_map(|n| match self.block(n) {
            Ok(records) => records.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(BaseError(Box::new(error)))],
        });
        let from = from.to_vec();
        Box::new(blocks.skip_while(move |record| matches!(record, Ok(r) if r.key.as_bytes() < from.as_slice())))
    }
}

/// Opens a snapshot's file, and says how long it is: long enough for its ends.
fn open_file(disk: &dyn Disk, path: &Path) -> Result<(Arc<dyn DiskFile>, u64), StoreError> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(StoreError::damaged(path, 0, "the manifest names this file, and it is missing"));
        }
        Err(error) => return Err(StoreError::io("open", path)(error)),
    };
    let bytes = file.len().map_err(StoreError::io("read", path))?;
    if bytes < (PREAMBLE_BYTES + TRAILER_BYTES) as u64 {
        return Err(StoreError::damaged(path, bytes, "the snapshot is cut off"));
    }
    Ok((file, bytes))
}

fn read_range(file: &dyn DiskFile, path: &Path, offset: u64, end: u64) -> Result<Vec<u8>, StoreError> {
    let length = end.checked_sub(offset).and_then(|length| usize::try_from(length).ok());
    let length = length.ok_or_else(|| StoreError::damaged(path, offset, "an impossible length"))?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).map_err(StoreError::io("read", path))?;
    Ok(bytes)
}

fn preamble_bytes(nonce: u128) -> Vec<u8> {
    [&MAGIC[..], &FORMAT_VERSION.to_le_bytes(), &nonce.to_le_bytes()].concat()
}

fn block_checksum(nonce: u128, offset: u64, payload: &[u8]) -> u32 {
    let place = crc32c::crc32c_append(crc32c::crc32c(&nonce.to_le_bytes()), &offset.to_le_bytes());
    crc32c::crc32c_append(place, payload)
}

/// Writes a snapshot of `records` (in key order, each once) into `dir`, durably.
///
/// # Errors
/// If the records cannot be read or the file cannot be written. No file has got its name then.
pub fn write(
    disk: &dyn Disk,
    dir: &Path,
    header: &SnapshotHeader,
    nonce: u128,
    records: Records<'_>,
) -> Result<Snapshot, StoreError> {
    let path = dir.join(file_name(header.lsn));
    let aside = disk::temporary(&path);
    let outcome = write_aside(disk, &aside, header, nonce, records);
    if outcome.is_err() {
        // Best effort: a leftover is removed at the next start anyway.
        let _ = disk.remove(&aside);
    }
    outcome?;
    disk.rename(&aside, &path).map_err(StoreError::io("rename", &path))?;
    disk.sync_dir(dir).map_err(StoreError::io("sync", dir))?;
    Snapshot::open(disk, &path)
}

fn write_aside(
    disk: &dyn Disk,
    aside: &Path,
    header: &SnapshotHeader,
    nonce: u128,
    records: Records<'_>,
) -> Result<(), StoreError> {
    let file = disk.create(aside).map_err(StoreError::io("create", aside))?;
    let mut out = Out { file, path: aside, offset: 0, pending: Vec::new() };
    out.put(&preamble_bytes(nonce))?;
    let mut blocks = BlockWriter { nonce, ..BlockWriter::default() };
    for record in records {
        blocks.add(&mut out, &record?)?;
    }
    blocks.close_block(&mut out)?;
    let footer_at = out.end();
    out.put(&blocks.footer(header))?;
    let offset = footer_at.to_le_bytes();
    out.put(&[&offset[..], &crc32c::crc32c(&offset).to_le_bytes()].concat())?;
    out.flush()
}

/// A file that is written from start to end.
struct Out<'a> {
    file: Arc<dyn DiskFile>,
    path: &'a Path,
    offset: u64,
    pending: Vec<u8>,
}

impl Out<'_> {
    fn end(&self) -> u64 {
        self.offset + self.pending.len() as u64
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= SYNC_EVERY_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.file.write_all_at(&self.pending, self.offset).map_err(StoreError::io("write", self.path))?;
        if !planted::is(Bug::SnapshotNotSynced) {
            self.file.sync().map_err(StoreError::io("sync", self.path))?;
        }
        self.offset += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

#[derive(Default)]
struct BlockWriter {
    nonce: u128,
    ids: Vec<u128>,
    payload: Vec<u8>,
    records: u32,
    first_key: Vec<u8>,
    element: Vec<u8>,
    last_prefix: Vec<u8>,
    blocks: Vec<Block>,
    counts: Counts,
}

impl BlockWriter {
    fn add(&mut self, out: &mut Out, record: &Record) -> Result<(), StoreError> {
        let (tag, element) = (record.tag(), record.element_bytes());
        self.counts.tags += 1;
        if self.last_prefix != record.key.prefix() {
            self.counts.elements += 1;
            self.last_prefix = record.key.prefix().to_vec();
        }
        if self.records == 0 {
            self.first_key = record.key.as_bytes().to_vec();
            self.element.clear();
        }
        let shared = element.iter().zip(&self.element).take_while(|(a, b)| a == b).count();
        let form = RecordForm {
            shared: u32::try_from(shared).expect("elements are small"),
            rest: &element[shared..],
            replica: self.place(tag.replica),
            seq: tag.seq.0,
        };
        bincode::encode_into_std_write(form, &mut self.payload, codec::config()).expect("a Vec takes everything");
        self.element.clear();
        self.element.extend_from_slice(element);
        self.records += 1;
        if self.payload.len() >= BLOCK_BYTES { self.close_block(out) } else { Ok(()) }
    }

    fn place(&mut self, replica: ReplicaId) -> u32 {
        let id = replica.to_u128();
        let place = self.ids.iter().rposition(|known| *known == id).unwrap_or_else(|| {
            self.ids.push(id);
            self.ids.len() - 1
        });
        u32::try_from(place).expect("fewer than 2^32 incarnations")
    }

    fn close_block(&mut self, out: &mut Out) -> Result<(), StoreError> {
        if self.records == 0 {
            return Ok(());
        }
        let offset = out.end();
        let payload_bytes = u32::try_from(self.payload.len()).expect("blocks are small");
        out.put(&block_checksum(self.nonce, offset, &self.payload).to_le_bytes())?;
        out.put(&payload_bytes.to_le_bytes())?;
        out.put(&self.payload)?;
        let first_key = std::mem::take(&mut self.first_key);
        self.blocks.push(Block { offset, payload_bytes, records: self.records, first_key });
        self.payload.clear();
        self.records = 0;
        Ok(())
    }

    fn footer(self, header: &SnapshotHeader) -> Vec<u8> {
        let form = FooterForm {
            nonce: self.nonce,
            lsn: header.lsn.0,
            frame_checksum: header.frame_checksum,
            own: header.own.map(ReplicaId::to_u128),
            elements: self.counts.elements,
            tags: self.counts.tags,
            ids: self.ids,
            blocks: self.blocks,
        };
        let mut body = bincode::encode_to_vec(form, codec::footer_config()).expect("a Vec takes everything");
        header.context.encode(&mut body);
        let mut bytes = Vec::new();
        envelope::wrap(&mut bytes, FOOTER_MAGIC, FORMAT_VERSION, &body);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::MemDisk;
    use super::*;

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
        write(disk, Path::new("/"), &header, 77, Box::new(records().into_iter().map(Ok))).unwrap()
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
            let snapshot = write(&disk, Path::new("/"), header, 77, Box::new(records.into_iter().map(Ok)))?;
            (0..snapshot.block_count()).try_for_each(|n| snapshot.block(n).map(drop))
        };
        let mut few = records()[..3].to_vec();
        assert!(write(&header(3), few.clone()).is_ok());
        assert!(write(&header(4), few.clone()).is_err(), "a floor above the vector");
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
            (0..snapshot.block_count()).try_for_each(|n| snapshot.block(n).map(drop))
        };
        assert!(read(&mut |_| ()).is_ok());
        for at in (0..bytes.len()).step_by(53).chain(bytes.len() - 200..bytes.len()).chain(0..200) {
            assert!(read(&mut |b| b[at] ^= 0x10).is_err(), "byte {at}");
            assert!(read(&mut |b| b.truncate(at)).is_err(), "cut at {at}");
        }
    }
}
