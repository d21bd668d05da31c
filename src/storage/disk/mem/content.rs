//! A file's bytes: as written, and as they would be after a power cut.

use std::io;

const SECTOR_BYTES: usize = 512;

/// See the module's text.
#[derive(Clone, Default)]
pub struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Behind the bytes there are zeros up to this length, which take up room on the disk.
    allocated: u64,
    durable_allocated: u64,
    /// Writes that no sync has made durable yet, oldest first.
    unsynced: Vec<Write>,
    /// Writes that no later sync will make durable, as one of them has failed.
    forgotten: Vec<Write>,
}

#[derive(Clone)]
struct Write {
    time: u64,
    offset: usize,
    bytes: Vec<u8>,
}

impl Content {
    pub fn len(&self) -> u64 {
        self.allocated.max(self.bytes.len() as u64)
    }

    /// What it takes up.
    pub fn blocks(&self) -> u64 {
        self.len()
    }

    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(usize::try_from(self.len()).expect("files fit memory"), 0);
        bytes
    }

    pub fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset + buf.len() as u64 > self.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let from = usize::try_from(offset).map_err(io::Error::other)?.min(self.bytes.len());
        let written = &self.bytes[from..(from + buf.len()).min(self.bytes.len())];
        buf[..written.len()].copy_from_slice(written);
        buf[written.len()..].fill(0);
        Ok(())
    }

    pub fn write(&mut self, time: u64, data: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        put(&mut self.bytes, data, offset);
        self.unsynced.push(Write { time, offset, bytes: data.to_vec() });
        Ok(())
    }

    pub fn allocate(&mut self, bytes: u64) {
        self.allocated = self.allocated.max(bytes);
    }

    pub fn sync(&mut self) {
        for write in self.unsynced.drain(..) {
            put(&mut self.durable, &write.bytes, write.offset);
        }
        self.durable_allocated = self.allocated;
    }

    /// A sync has failed.
    pub fn forget_to_sync(&mut self) {
        self.forgotten.append(&mut self.unsynced);
    }

    pub fn is_durable(&self) -> bool {
        self.bytes == self.durable
    }

    pub fn tamper(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.to_vec();
        change(&mut bytes);
        *self = Self { durable: bytes.clone(), bytes, ..Self::default() };
    }

    /// When the bytes were written that may be lost.
    pub fn unsynced_times(&self) -> impl Iterator<Item = u64> + '_ {
        self.unsynced.iter().chain(&self.forgotten).map(|write| write.time)
    }

    /// After a power cut: of what was not synced, what `keep` says.
    pub fn lose(&mut self, keep: &mut dyn FnMut() -> bool) {
        let mut left = std::mem::take(&mut self.durable);
        if self.bytes != left {
            // The length is metadata of its own: it may have got to the disk without the bytes (which then are zeros).
            if self.bytes.len() > left.len() && keep() {
                left.resize(self.bytes.len(), 0);
            }
            for start in (0..left.len().min(self.bytes.len())).step_by(SECTOR_BYTES) {
                let end = (start + SECTOR_BYTES).min(left.len()).min(self.bytes.len());
                if self.bytes[start..end] != left[start..end] && keep() {
                    left[start..end].copy_from_slice(&self.bytes[start..end]);
                }
            }
        }
        let allocated = if self.allocated == self.durable_allocated || keep() { self.allocated } else { 0 };
        self.be(left, allocated);
    }

    /// After a power cut: of what was not synced, the writes before `end`, and of the one at `end` the first sectors.
    pub fn lose_from(&mut self, end: u64, part: u64) {
        let mut left = std::mem::take(&mut self.durable);
        let mut writes: Vec<Write> = self.forgotten.drain(..).chain(self.unsynced.drain(..)).collect();
        writes.sort_by_key(|write| write.time);
        for write in writes.iter().filter(|write| write.time <= end) {
            let whole_sectors = SECTOR_BYTES * usize::try_from(part % 8).expect("below 8");
            let kept = if write.time < end { write.bytes.len() } else { whole_sectors.min(write.bytes.len()) };
            if kept > 0 {
                put(&mut left, &write.bytes[..kept], write.offset);
            }
        }
        self.be(left, self.durable_allocated);
    }

    fn be(&mut self, bytes: Vec<u8>, allocated: u64) {
        *self = Self { durable: bytes.clone(), bytes, allocated, durable_allocated: allocated, ..Self::default() };
    }
}

fn put(bytes: &mut Vec<u8>, data: &[u8], offset: usize) {
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}
