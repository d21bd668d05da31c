//! One file's bytes, twice: as everybody reads them, and as they would be after a power cut.

/// What a disk writes in one piece.
pub const SECTOR_BYTES: usize = 512;

/// A change of a file that no sync has made durable yet.
#[derive(Clone, Debug)]
pub enum Change {
    /// This sector, as it was in the page cache after the write: all of it, and no further than the file's end.
    Sector {
        /// Counted from the file's beginning.
        number: usize,
        /// At most [`SECTOR_BYTES`].
        bytes: Vec<u8>,
    },
    /// The file reaches at least this far. What no sector fills is zeros.
    Grown(usize),
    /// The file was cut off here.
    Truncated(usize),
}

impl Change {
    /// What it takes up while it waits.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Change::Sector { bytes, .. } => size_of::<Change>() + bytes.len(),
            Change::Grown(_) | Change::Truncated(_) => size_of::<Change>(),
        }
    }
}

/// What the disk itself holds of a file. A sector can have got there before the length that makes it visible.
#[derive(Clone, Debug, Default)]
struct Durable {
    sectors: Vec<u8>,
    length: usize,
}

impl Durable {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Sector { number, bytes } => {
                let start = number * SECTOR_BYTES;
                let end = start + bytes.len();
                if self.sectors.len() < end {
                    self.sectors.resize(end, 0);
                }
                self.sectors[start..end].copy_from_slice(bytes);
            }
            Change::Grown(length) => self.length = self.length.max(*length),
            Change::Truncated(length) => {
                self.sectors.truncate(*length);
                self.length = *length;
            }
        }
    }

    fn content(&self) -> Vec<u8> {
        let mut content = self.sectors.clone();
        content.resize(self.length, 0);
        content
    }
}

/// A file's bytes. Each change carries a moment: these are given out by the disk, and order all its changes.
#[derive(Clone, Debug, Default)]
pub struct Content {
    bytes: Vec<u8>,
    durable: Durable,
    unsynced: Vec<(u64, Change)>,
}

impl Content {
    /// A file that is durable as it is.
    #[must_use]
    pub fn durable(bytes: Vec<u8>) -> Self {
        let durable = Durable { length: bytes.len(), sectors: bytes.clone() };
        Content { bytes, durable, unsynced: Vec::new() }
    }

    /// As everybody reads them.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What has not been synced, in order.
    #[must_use]
    pub fn unsynced(&self) -> &[(u64, Change)] {
        &self.unsynced
    }

    /// Writes, filling a gap before it with zeros. Gives how many bytes of memory the changes take.
    pub fn write(&mut self, offset: usize, data: &[u8], moment: &mut u64) -> usize {
        if data.is_empty() {
            return 0;
        }
        let (old_length, end) = (self.bytes.len(), offset + data.len());
        if end > old_length {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(data);
        let mut taken = 0;
        for number in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let sector_end = ((number + 1) * SECTOR_BYTES).min(self.bytes.len());
            let bytes = self.bytes[number * SECTOR_BYTES..sector_end].to_vec();
            taken += self.note(Change::Sector { number, bytes }, moment);
            // Sector after sector, each visible at once: a prefix of this is a write that was torn anywhere.
            let reaches = sector_end.min(end);
            if reaches > old_length {
                taken += self.note(Change::Grown(reaches), moment);
            }
        }
        taken
    }

    /// Cuts the file off, or fills it up with zeros.
    pub fn set_length(&mut self, length: usize, moment: &mut u64) -> usize {
        let change = match length.cmp(&self.bytes.len()) {
            std::cmp::Ordering::Less => Change::Truncated(length),
            std::cmp::Ordering::Equal => return 0,
            std::cmp::Ordering::Greater => Change::Grown(length),
        };
        self.bytes.resize(length, 0);
        self.note(change, moment)
    }

    fn note(&mut self, change: Change, moment: &mut u64) -> usize {
        let taken = change.bytes();
        self.unsynced.push((*moment, change));
        *moment += 1;
        taken
    }

    /// Makes durable what was changed before `moment`. Gives back the memory that it took.
    pub fn settle(&mut self, before: u64) -> usize {
        let count = self.unsynced.partition_point(|(moment, _)| *moment < before);
        let mut freed = 0;
        for (_, change) in self.unsynced.drain(..count) {
            freed += change.bytes();
            self.durable.apply(&change);
        }
        freed
    }

    /// What the disk holds after a power cut at which of the unsynced changes those for which `keep` says so had got
    /// there.
    pub fn cut(&mut self, keep: impl Fn(u64) -> bool) {
        for (moment, change) in std::mem::take(&mut self.unsynced) {
            if keep(moment) {
                self.durable.apply(&change);
            }
        }
        *self = Content::durable(self.durable.content());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_is_kept_as_the_page_cache_had_it() {
        let (mut content, mut moment) = (Content::default(), 0);
        content.write(0, b"first", &mut moment);
        content.write(5, b" second", &mut moment);
        // Only the second write got to the disk: its sector has what the first one had put there.
        content.cut(|moment| moment >= 2);
        assert_eq!(content.bytes(), b"first second");
    }

    #[test]
    fn a_length_without_its_sectors_is_zeros_and_a_sector_without_its_length_is_nothing() {
        let written = |keep: &dyn Fn(&Change) -> bool| {
            let (mut content, mut moment) = (Content::default(), 0);
            content.write(0, &[7; 1000], &mut moment);
            let kept: Vec<u64> = content.unsynced().iter().filter(|(_, c)| keep(c)).map(|(m, _)| *m).collect();
            content.cut(|moment| kept.contains(&moment));
            content.bytes().to_vec()
        };
        assert_eq!(written(&|change| matches!(change, Change::Grown(_))), [0; 1000]);
        assert_eq!(written(&|change| matches!(change, Change::Sector { .. })), Vec::<u8>::new());
        let torn = written(&|change| !matches!(change, Change::Sector { number: 0, .. }));
        assert_eq!((&torn[..512], &torn[512..]), (&[0; 512][..], &[7; 488][..]));
    }

    #[test]
    fn what_was_cut_off_does_not_come_back_when_the_file_grows_again() {
        let (mut content, mut moment) = (Content::durable(vec![7; 1000]), 0);
        content.set_length(10, &mut moment);
        content.set_length(1000, &mut moment);
        content.cut(|_| true);
        assert_eq!((&content.bytes()[..10], &content.bytes()[10..]), (&[7; 10][..], &[0; 990][..]));
    }
}
