//! Writing a snapshot: aside, synced every MiB, and under its name only when all of it is durable.

use std::path::Path;
use std::sync::Arc;

use super::{
    AnswerBlock, BLOCK_BYTES, Block, FOOTER_MAGIC, FooterForm, RecordForm, Snapshot, SnapshotHeader, answer_nonce,
    block_checksum, file_name, preamble_bytes,
};
use crate::crdt::{Answered, Answers, Record, Records, ReplicaId};
use crate::planted::{self, Bug};
use crate::storage::Counts;
use crate::storage::codec::{self, AnsweredForm, Ids};
use crate::storage::disk::{self, Disk, DiskFile};
use crate::storage::envelope::{self, FORMAT_VERSION};
use crate::storage::error::StoreError;

/// The writer syncs every so many bytes, so that the disk's queue stays short for those who wait for the log.
const SYNC_EVERY_BYTES: usize = 1 << 20;

/// Writes a snapshot of `records` (in key order, each once) and `answers` into `dir`, durably.
///
/// # Errors
/// If the records cannot be read or the file cannot be written. No file has got its name then.
pub fn write(
    disk: &dyn Disk,
    dir: &Path,
    header: &SnapshotHeader,
    nonce: u128,
    records: Records<'_>,
    answers: &Answers,
) -> Result<Snapshot, StoreError> {
    write_in_steps(disk, dir, header, nonce, records, answers, &mut || {})
}

/// The same, with a pause after every MiB.
///
/// # Errors
/// As [`write()`].
pub fn write_in_steps(
    disk: &dyn Disk,
    dir: &Path,
    header: &SnapshotHeader,
    nonce: u128,
    records: Records<'_>,
    answers: &Answers,
    pause: &mut dyn FnMut(),
) -> Result<Snapshot, StoreError> {
    let path = dir.join(file_name(header.lsn));
    let aside = disk::temporary(&path);
    let outcome = write_aside(disk, &aside, header, nonce, records, answers, pause);
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
    answers: &Answers,
    pause: &mut dyn FnMut(),
) -> Result<(), StoreError> {
    let file = disk.create(aside).map_err(StoreError::io("create", aside))?;
    let mut out = Out { file, path: aside, offset: 0, pending: Vec::new(), pause };
    out.put(&preamble_bytes(FORMAT_VERSION, nonce))?;
    let mut blocks = BlockWriter { nonce, ..BlockWriter::default() };
    for record in records {
        blocks.add(&mut out, &record?)?;
    }
    blocks.close_block(&mut out)?;
    for answered in answers.iter() {
        blocks.add_answer(&mut out, answered)?;
    }
    blocks.close_answers(&mut out)?;
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
    /// Called after every MiB.
    pause: &'a mut dyn FnMut(),
}

impl Out<'_> {
    fn end(&self) -> u64 {
        self.offset + self.pending.len() as u64
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= SYNC_EVERY_BYTES {
            self.flush()?;
            (self.pause)();
        }
        Ok(())
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
    ids: Ids,
    payload: Vec<u8>,
    records: u32,
    first_key: Vec<u8>,
    element: Vec<u8>,
    last_prefix: Vec<u8>,
    blocks: Vec<Block>,
    counts: Counts,
    answers: u32,
    answer_blocks: Vec<AnswerBlock>,
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
            replica: self.ids.place(tag.replica),
            seq: tag.seq.0,
        };
        bincode::encode_into_std_write(form, &mut self.payload, codec::config()).expect("a Vec takes everything");
        self.element.clear();
        self.element.extend_from_slice(element);
        self.records += 1;
        if self.payload.len() >= BLOCK_BYTES { self.close_block(out) } else { Ok(()) }
    }

    fn close_block(&mut self, out: &mut Out) -> Result<(), StoreError> {
        if self.records == 0 {
            return Ok(());
        }
        let (offset, payload_bytes) = self.put_payload(out, self.nonce)?;
        let first_key = std::mem::take(&mut self.first_key);
        self.blocks.push(Block { offset, payload_bytes, records: self.records, first_key });
        self.records = 0;
        Ok(())
    }

    fn add_answer(&mut self, out: &mut Out, answered: &Answered) -> Result<(), StoreError> {
        let form = AnsweredForm::new(&mut self.ids, answered);
        bincode::encode_into_std_write(form, &mut self.payload, codec::config()).expect("a Vec takes everything");
        self.answers += 1;
        if self.payload.len() >= BLOCK_BYTES { self.close_answers(out) } else { Ok(()) }
    }

    fn close_answers(&mut self, out: &mut Out) -> Result<(), StoreError> {
        if self.answers == 0 {
            return Ok(());
        }
        let (offset, payload_bytes) = self.put_payload(out, answer_nonce(self.nonce))?;
        self.answer_blocks.push(AnswerBlock { offset, payload_bytes, answers: std::mem::take(&mut self.answers) });
        Ok(())
    }

    /// Writes a block with what there is of its payload; says where it is, and how long the payload.
    fn put_payload(&mut self, out: &mut Out, nonce: u128) -> Result<(u64, u32), StoreError> {
        let offset = out.end();
        let payload_bytes = u32::try_from(self.payload.len()).expect("blocks are small");
        out.put(&block_checksum(nonce, offset, &self.payload).to_le_bytes())?;
        out.put(&payload_bytes.to_le_bytes())?;
        out.put(&self.payload)?;
        self.payload.clear();
        Ok((offset, payload_bytes))
    }

    fn footer(self, header: &SnapshotHeader) -> Vec<u8> {
        let form = FooterForm {
            nonce: self.nonce,
            lsn: header.lsn.0,
            frame_checksum: header.frame_checksum,
            own: header.own.map(ReplicaId::to_u128),
            elements: self.counts.elements,
            tags: self.counts.tags,
            ids: self.ids.into_list(),
            blocks: self.blocks,
        };
        let mut body = bincode::encode_to_vec(form, codec::footer_config()).expect("a Vec takes everything");
        header.context.encode(&mut body);
        bincode::encode_into_std_write(self.answer_blocks, &mut body, codec::footer_config())
            .expect("a Vec takes everything");
        let mut bytes = Vec::new();
        envelope::wrap(&mut bytes, FOOTER_MAGIC, FORMAT_VERSION, &body);
        bytes
    }
}
