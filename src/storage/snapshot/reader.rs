//! Reading a snapshot: its frame when it is opened, a block when somebody wants its records.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    AnswerBlock, BLOCK_HEAD_BYTES, Block, FOOTER_MAGIC, FORMAT_WITH_ANSWERS, FooterForm, PREAMBLE_BYTES, RecordForm,
    SnapshotHeader, TRAILER_BYTES, answer_nonce, block_checksum, preamble_bytes,
};
use crate::crdt::{Answers, Base, BaseError, Dot, Element, Record, RecordKey, Records, ReplicaId, Seq, State};
use crate::storage::codec::{self, AnsweredForm, Context, KnownIds};
use crate::storage::disk::{Disk, DiskFile};
use crate::storage::envelope;
use crate::storage::error::StoreError;
use crate::storage::progress::{Progress, Silent, Stage};
use crate::storage::{Counts, Lsn};

/// A snapshot, open for reading. It can be read also after its file has lost its name.
pub struct Snapshot {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    header: SnapshotHeader,
    counts: Counts,
    checksum: u32,
    nonce: u128,
    ids: Vec<ReplicaId>,
    pub(super) blocks: Vec<Block>,
    pub(super) answer_blocks: Vec<AnswerBlock>,
    version: u32,
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
        if crc32c::crc32c(&trailer[..8]) != expected {
            return Err(damaged(trailer_at, "the snapshot's last bytes are wrong"));
        }
        let footer = read_range(file.as_ref(), path, offset, trailer_at)?;
        let (snapshot, length) = Self::from_footer(file, path, bytes, offset, &footer)?;
        if preamble != preamble_bytes(snapshot.version, snapshot.nonce) || footer.len() != length {
            return Err(damaged(0, "the snapshot's ends do not belong together"));
        }
        Ok(snapshot)
    }

    /// The snapshot in `file` whose footer begins `footer`, which lies at `offset`; and the footer's length.
    pub(super) fn from_footer(
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
        let (context, context_bytes) = Context::decode(&unwrapped.body[length..]).map_err(|e| damaged(e.0))?;
        let answer_blocks = if unwrapped.version < FORMAT_WITH_ANSWERS {
            Vec::new()
        } else {
            let rest = &unwrapped.body[length + context_bytes..];
            match codec::decode_footer(rest) {
                Ok((blocks, read)) if read == rest.len() => blocks,
                _ => return Err(damaged("the footer's list of answers cannot be decoded")),
            }
        };
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
            answer_blocks,
            version: unwrapped.version,
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
    ///
    /// # Errors
    /// If the answers cannot be read or are damaged.
    pub fn state(&self) -> Result<State, StoreError> {
        let mut state = self.state_without_answers();
        state.answers = self.answers()?;
        Ok(state)
    }

    /// The same, without what was answered to requests.
    pub fn state_without_answers(&self) -> State {
        let Context { vv, floor, incarnations } = self.header.context.clone();
        let mut state = State::default();
        (state.vv, state.floor, state.incarnations) = (vv, floor, incarnations);
        state
    }

    /// What was answered to the store's last requests with a name.
    ///
    /// # Errors
    /// If a block cannot be read or is damaged.
    pub fn answers(&self) -> Result<Answers, StoreError> {
        let mut answers = Answers::default();
        let ids = KnownIds::from(self.ids.clone());
        for block in &self.answer_blocks {
            let damaged = |what: &str| StoreError::damaged(&self.path, block.offset, what);
            let payload = self.answer_payload(block)?;
            let (mut rest, mut count) = (payload.as_slice(), 0);
            while !rest.is_empty() {
                let (form, length): (AnsweredForm, usize) = bincode::decode_from_slice(rest, codec::config())
                    .map_err(|_| damaged("a block of answers cannot be decoded"))?;
                answers.push(form.meaning(&ids).map_err(|error| damaged(error.0))?);
                rest = &rest[length..];
                count += 1;
            }
            if count != block.answers {
                return Err(damaged("a block of answers is not the one that the footer lists"));
            }
        }
        Ok(answers)
    }

    fn answer_payload(&self, block: &AnswerBlock) -> Result<Vec<u8>, StoreError> {
        self.payload_at(block.offset, block.payload_bytes, answer_nonce(self.nonce))
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

    /// About how many bytes of key and element a record has, on average: seen at the blocks' first ones.
    pub fn record_bytes(&self) -> u64 {
        let keys = |block: &Block| u64::from(block.records) * block.first_key.len() as u64;
        let bytes = self.blocks.iter().map(|block| keys(block).max(u64::from(block.payload_bytes))).sum::<u64>();
        bytes.checked_div(self.counts.tags).unwrap_or(0)
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
        self.check_telling(&mut Silent)
    }

    /// The same, and tells `progress` of every block.
    ///
    /// # Errors
    /// As [`Snapshot::check`].
    pub fn check_telling(&self, progress: &mut dyn Progress) -> Result<(), StoreError> {
        let all = self.blocks.len() as u64;
        for n in 0..self.blocks.len() {
            self.block_payload(n)?;
            progress.step(Stage::CheckSnapshot, n as u64 + 1, all);
        }
        self.answer_blocks.iter().try_for_each(|block| self.answer_payload(block).map(drop))
    }

    fn block_payload(&self, n: usize) -> Result<Vec<u8>, StoreError> {
        let block = &self.blocks[n];
        self.payload_at(block.offset, block.payload_bytes, self.nonce)
    }

    fn payload_at(&self, offset: u64, payload_bytes: u32, nonce: u128) -> Result<Vec<u8>, StoreError> {
        let damaged = |what: &str| StoreError::damaged(&self.path, offset, what);
        let end = offset.checked_add(BLOCK_HEAD_BYTES as u64 + u64::from(payload_bytes));
        let end = end.filter(|end| *end <= self.bytes).ok_or_else(|| damaged("a block beyond the end"))?;
        let mut bytes = read_range(self.file.as_ref(), &self.path, offset, end)?;
        let payload = bytes.split_off(BLOCK_HEAD_BYTES);
        let length_matches = bytes[4..] == payload_bytes.to_le_bytes();
        if bytes[..4] != block_checksum(nonce, offset, &payload).to_le_bytes() || !length_matches {
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
pub(super) fn open_file(disk: &dyn Disk, path: &Path) -> Result<(Arc<dyn DiskFile>, u64), StoreError> {
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

pub(super) fn read_range(file: &dyn DiskFile, path: &Path, offset: u64, end: u64) -> Result<Vec<u8>, StoreError> {
    let length = end.checked_sub(offset).and_then(|length| usize::try_from(length).ok());
    let length = length.ok_or_else(|| StoreError::damaged(path, offset, "an impossible length"))?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).map_err(StoreError::io("read", path))?;
    Ok(bytes)
}

/// Checksums say that bytes are those that were written, and not that they made sense: what only another program, or a
/// bug in ours, would write.
#[cfg(test)]
mod tests {
    use super::super::{MAGIC, write};
    use super::*;
    use crate::storage::disk::MemDisk;
    use crate::storage::envelope::FORMAT_VERSION;

    fn records(count: u64) -> Vec<Record> {
        let element = |n: u64| Element::from_canonical(format!("\"element {n:06}\"").as_bytes());
        (0..count).map(|n| Record::new(&element(n), Dot::new(ReplicaId::from_random(1), Seq(2 + n)))).collect()
    }

    fn written(count: u64) -> Snapshot {
        let header = SnapshotHeader { lsn: Lsn(9), frame_checksum: 4, own: None, context: Context::default() };
        let records = Box::new(records(count).into_iter().map(Ok));
        write(&MemDisk::default(), Path::new("/"), &header, 77, records, &Answers::default()).unwrap()
    }

    #[test]
    fn a_block_must_be_the_one_that_the_footer_lists_and_end_before_the_next() {
        let mut snapshot = written(12_000);
        assert!(snapshot.blocks.len() > 1, "the test wants several blocks");
        let last = snapshot.block(0).unwrap().pop().unwrap().key.as_bytes().to_vec();
        let sound = snapshot.blocks.clone();
        snapshot.blocks[0].records += 1;
        assert!(snapshot.block(0).is_err(), "a record less");
        snapshot.blocks.clone_from(&sound);
        snapshot.blocks[0].first_key.push(0);
        assert!(snapshot.block(0).is_err(), "another first record");
        snapshot.blocks.clone_from(&sound);
        snapshot.blocks[1].first_key = last;
        assert!(snapshot.block(0).is_err(), "the next block begins with its last record");
    }

    #[test]
    fn a_record_that_shares_more_than_there_is_or_has_no_number_is_none() {
        let snapshot = written(1);
        let decoded = |shared: u32, seq: u64| {
            let forms = [(0, 2), (shared, seq)].map(|(shared, seq)| RecordForm { shared, rest: b"1", replica: 0, seq });
            let payload = forms.map(|form| bincode::encode_to_vec(form, codec::config()).unwrap()).concat();
            snapshot.decode_block(&payload).map(|records| records.len())
        };
        assert_eq!(decoded(1, 3), Some(2));
        assert_eq!(decoded(2, 3), None);
        assert_eq!(decoded(1, 0), None);
        assert_eq!(decoded(1, Seq::MAX.0 + 1), None);
    }

    /// The footer of a snapshot whose blocks begin with these keys, and something after it.
    fn footer(first_keys: &[&[u8]], after: &[u8]) -> Vec<u8> {
        let block = |key: &&[u8]| Block { offset: 28, payload_bytes: 0, records: 1, first_key: key.to_vec() };
        let blocks = first_keys.iter().map(block).collect();
        let form = FooterForm {
            nonce: 1,
            lsn: 9,
            frame_checksum: 4,
            own: None,
            elements: 2,
            tags: 2,
            ids: Vec::new(),
            blocks,
        };
        let mut body = bincode::encode_to_vec(form, codec::footer_config()).unwrap();
        Context::default().encode(&mut body);
        bincode::encode_into_std_write(Vec::<AnswerBlock>::new(), &mut body, codec::footer_config()).unwrap();
        body.extend_from_slice(after);
        let mut bytes = Vec::new();
        envelope::wrap(&mut bytes, FOOTER_MAGIC, FORMAT_VERSION, &body);
        bytes
    }

    #[test]
    fn a_footer_with_something_after_it_or_blocks_out_of_order_is_none() {
        let is_one = |first_keys: &[&[u8]], after: &[u8]| {
            let (disk, path) = (MemDisk::default(), Path::new("/snapshot"));
            let file = disk.create(path).unwrap();
            Snapshot::from_footer(file, path, 0, 0, &footer(first_keys, after)).is_ok()
        };
        assert!(is_one(&[b"a", b"b"], b""));
        assert!(!is_one(&[b"a", b"b"], b"more"));
        assert!(!is_one(&[b"b", b"a"], b""));
        assert!(!is_one(&[b"a", b"a"], b""), "the same record in two blocks");
    }

    /// Whoever looks for a footer in a damaged file must not take one for it that was brought there from elsewhere.
    #[test]
    fn a_footer_before_its_blocks_is_not_theirs() {
        let disk = MemDisk::default();
        let whole = written(3);
        let mut bytes = vec![0; whole.bytes as usize];
        whole.file.read_exact_at(&mut bytes, 0).unwrap();
        let at = bytes.windows(FOOTER_MAGIC.len()).rposition(|window| window == FOOTER_MAGIC).unwrap();
        let path = Path::new("/remains");
        for (before, found) in [(&bytes[..at], true), (&MAGIC[..], false)] {
            disk.create(path).unwrap().write_all_at(&[before, &bytes[at..]].concat(), 0).unwrap();
            disk.tamper(path, |bytes| *bytes.last_mut().unwrap() ^= 1);
            assert_eq!(Snapshot::open_remains(&disk, path).is_ok(), found);
        }
    }
}
