//! What can be read of a snapshot that is damaged.
//!
//! Everything that a snapshot says is in its footer and its blocks; what else there is (the first bytes, and the last
//! ones that say where the footer begins) only leads there. So a footer is looked for everywhere in the file, and a
//! snapshot with a sound footer and sound blocks is sound, whatever became of its ends.

use std::path::Path;

use super::reader::{open_file, read_range};
use super::{BLOCK_HEAD_BYTES, FOOTER_MAGIC, PREAMBLE_BYTES, RecordForm, Snapshot, block_checksum};
use crate::crdt::{Element, Seq};
use crate::storage::codec;
use crate::storage::disk::Disk;
use crate::storage::error::StoreError;

/// Where a block begins, and the elements in it with the sequence numbers of their tags.
pub type OrphanBlock = (u64, Vec<(Element, Seq)>);

impl Snapshot {
    /// Opens what is left of a snapshot: as [`Snapshot::open`], but wherever in the file a sound footer is.
    ///
    /// # Errors
    /// If there is none, the file is of a later version, or cannot be read.
    pub fn open_remains(disk: &dyn Disk, path: &Path) -> Result<Self, StoreError> {
        let error = match Self::open(disk, path) {
            Err(error @ StoreError::Damaged { .. }) => error,
            outcome => return outcome,
        };
        let Ok((file, length)) = open_file(disk, path) else { return Err(error) };
        let bytes = read_range(file.as_ref(), path, 0, length)?;
        // The last one first: an element may contain what looks like one.
        for (at, _) in bytes.windows(FOOTER_MAGIC.len()).enumerate().rev().filter(|(_, w)| *w == FOOTER_MAGIC) {
            match Self::from_footer(file.clone(), path, length, at as u64, &bytes[at..]) {
                Ok((snapshot, _)) if snapshot.lists_blocks_before(at as u64) => return Ok(snapshot),
                Err(newer @ StoreError::Newer { .. }) => return Err(newer),
                Ok(_) | Err(_) => {}
            }
        }
        Err(error)
    }

    /// The records of a snapshot without a footer, block by block from the first on until one is bad. Whose tags they are
    /// only the footer said.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn orphans(disk: &dyn Disk, path: &Path) -> Result<Vec<OrphanBlock>, StoreError> {
        let Ok((file, length)) = open_file(disk, path) else { return Ok(Vec::new()) };
        let bytes = read_range(file.as_ref(), path, 0, length)?;
        let nonce = bytes[PREAMBLE_BYTES - size_of::<u128>()..PREAMBLE_BYTES].try_into().expect("sixteen bytes");
        let nonce = u128::from_le_bytes(nonce);
        let (mut blocks, mut at) = (Vec::new(), PREAMBLE_BYTES);
        while let Some(head) = bytes[at..].first_chunk::<BLOCK_HEAD_BYTES>() {
            let (checksum, size) = head.split_at(4);
            let size = u32::from_le_bytes(size.try_into().expect("four bytes")) as usize;
            let payload = bytes.get(at + BLOCK_HEAD_BYTES..at + BLOCK_HEAD_BYTES + size);
            let good = |payload: &&[u8]| block_checksum(nonce, at as u64, payload).to_le_bytes() == checksum;
            let Some(records) = payload.filter(good).and_then(orphaned_records) else { break };
            blocks.push((at as u64, records));
            at += BLOCK_HEAD_BYTES + size;
        }
        Ok(blocks)
    }

    fn lists_blocks_before(&self, footer: u64) -> bool {
        let end =
            |offset: u64, payload_bytes: u32| offset.checked_add(BLOCK_HEAD_BYTES as u64 + u64::from(payload_bytes));
        let answers = self.answer_blocks.iter().map(|block| (block.offset, block.payload_bytes));
        let mut blocks = self.blocks.iter().map(|block| (block.offset, block.payload_bytes)).chain(answers);
        blocks.all(|(offset, payload_bytes)| end(offset, payload_bytes).is_some_and(|end| end <= footer))
    }

    /// Where block `n` begins.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn block_offset(&self, n: usize) -> u64 {
        self.blocks[n].offset
    }
}

fn orphaned_records(mut payload: &[u8]) -> Option<Vec<(Element, Seq)>> {
    let (mut records, mut element) = (Vec::new(), Vec::new());
    while !payload.is_empty() {
        let (form, length): (RecordForm, usize) = bincode::borrow_decode_from_slice(payload, codec::config()).ok()?;
        payload = &payload[length..];
        element.truncate(form.shared as usize);
        element.extend_from_slice(form.rest);
        records.push((Element::checked(&element)?, Seq(form.seq)));
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::super::{SnapshotHeader, TRAILER_BYTES, write};
    use super::*;
    use crate::crdt::{Answers, Dot, Record, ReplicaId};
    use crate::storage::Lsn;
    use crate::storage::codec::Context;
    use crate::storage::disk::MemDisk;

    #[test]
    fn damage_to_the_ends_costs_nothing_and_damage_to_the_footer_everything() {
        let disk = MemDisk::default();
        let header = SnapshotHeader { lsn: Lsn(9), frame_checksum: 4, own: None, context: Context::default() };
        // An element that contains the magic bytes of a footer.
        let element = Element::from_canonical(b"\"ORSETFTR\"");
        let answers = Answers::default();
        let records = [Ok(Record::new(&element, Dot::new(ReplicaId::from_random(1), Seq(2))))];
        let path = write(&disk, Path::new("/"), &header, 77, Box::new(records.into_iter()), &answers)
            .unwrap()
            .path()
            .to_path_buf();
        let whole = disk.files().remove(&path).unwrap();
        // Where it says itself: the footer lists first keys, so the magic bytes are in it too.
        let footer = usize::from(*whole[whole.len() - TRAILER_BYTES..].first().unwrap());
        for at in 0..whole.len() {
            disk.tamper(&path, |bytes| {
                bytes.clone_from(&whole);
                bytes[at] ^= 0x10;
            });
            let found = Snapshot::open_remains(&disk, &path).map(|s| s.block(0).map(|records| records.len()).ok());
            let expected = if at < PREAMBLE_BYTES || at >= whole.len() - TRAILER_BYTES {
                Some(Some(1))
            } else if at < footer {
                Some(None)
            } else {
                None
            };
            assert_eq!(found.ok(), expected, "byte {at}");
            // The nonce, and the block with its head: what it takes to read the elements without a footer.
            let readable = at < 12 || at >= footer;
            let orphans = Snapshot::orphans(&disk, &path).unwrap();
            let elements: Vec<_> = orphans.into_iter().flat_map(|(_, records)| records).collect();
            let all = [(element.clone(), Seq(2))];
            assert_eq!(elements, if readable { &all[..] } else { &[] }, "byte {at}");
        }
    }
}
