//! What can be read of a snapshot that is damaged.
//!
//! Everything that a snapshot says is in its footer and its blocks; what else there is (the first bytes, and the last
//! ones that say where the footer begins) only leads there. So a footer is looked for everywhere in the file, and a
//! snapshot with a sound footer and sound blocks is sound, whatever became of its ends.

use std::path::Path;

use super::{BLOCK_HEAD_BYTES, FOOTER_MAGIC, Snapshot, open_file, read_range};
use crate::storage::disk::Disk;
use crate::storage::error::StoreError;

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

    fn lists_blocks_before(&self, footer: u64) -> bool {
        let end =
            |block: &super::Block| block.offset.checked_add(BLOCK_HEAD_BYTES as u64 + u64::from(block.payload_bytes));
        self.blocks.iter().all(|block| end(block).is_some_and(|end| end <= footer))
    }

    /// Where block `n` begins.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn block_offset(&self, n: usize) -> u64 {
        self.blocks[n].offset
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SnapshotHeader, write};
    use super::*;
    use crate::crdt::{Dot, Element, Record, ReplicaId, Seq};
    use crate::storage::Lsn;
    use crate::storage::codec::Context;
    use crate::storage::disk::MemDisk;

    #[test]
    fn damage_to_the_ends_costs_nothing_and_damage_to_the_footer_everything() {
        let disk = MemDisk::default();
        let header = SnapshotHeader { lsn: Lsn(9), frame_checksum: 4, own: None, context: Context::default() };
        // An element that contains the magic bytes of a footer.
        let element = Element::from_canonical(b"\"ORSETFTR\"");
        let records = [Ok(Record::new(&element, Dot::new(ReplicaId::from_random(1), Seq(2))))];
        let path =
            write(&disk, Path::new("/"), &header, 77, Box::new(records.into_iter())).unwrap().path().to_path_buf();
        let whole = disk.files().remove(&path).unwrap();
        let footer = whole.windows(8).rposition(|bytes| *bytes == FOOTER_MAGIC).unwrap();
        for at in 0..whole.len() {
            disk.tamper(&path, |bytes| {
                bytes.clone_from(&whole);
                bytes[at] ^= 0x10;
            });
            let found = Snapshot::open_remains(&disk, &path).map(|s| s.block(0).map(|records| records.len()).ok());
            let expected = if at < 28 || at >= whole.len() - 12 {
                Some(Some(1))
            } else if at < footer {
                Some(None)
            } else {
                None
            };
            assert_eq!(found.ok(), expected, "byte {at}");
        }
    }
}
