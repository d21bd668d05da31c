//! Entries that wait for a commit, cut into the frames that they will be.
//!
//! Where a frame ends is decided when entries come: a request with a name and its answer must be durable together or not
//! at all, so they ask for room in one frame first.

use super::{MAX_BATCH_BYTES, MAX_BATCH_OPS};
use crate::crdt::Entry;

/// See the module's text.
#[derive(Default)]
pub struct Pending {
    entries: Vec<Entry>,
    bytes: usize,
    /// Where a new frame begins, but for the first.
    cuts: Vec<usize>,
    /// Bytes in the last frame.
    frame_bytes: usize,
}

impl Pending {
    /// Forgets all, but keeps the room for a next batch, which is likely to be as large.
    pub fn clear(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.clear();
        entries.shrink_to(MAX_BATCH_OPS + 1);
        *self = Self { entries, ..Self::default() };
    }

    /// Sees to it that the next `entries` entries, of `bytes` together, get into one frame. (One alone always does.)
    pub fn make_room(&mut self, entries: usize, bytes: usize) {
        let in_frame = self.entries.len() - self.cuts.last().copied().unwrap_or(0);
        let fits = in_frame + entries <= MAX_BATCH_OPS && self.frame_bytes + bytes <= MAX_BATCH_BYTES;
        if in_frame > 0 && !fits {
            self.begin_frame();
        }
    }

    /// What comes next begins a frame.
    pub fn begin_frame(&mut self) {
        self.cuts.push(self.entries.len());
        self.frame_bytes = 0;
    }

    /// Appends an entry.
    pub fn push(&mut self, entry: Entry) {
        let bytes = weight(&entry);
        self.make_room(1, bytes);
        self.entries.push(entry);
        self.frame_bytes += bytes;
        self.bytes += bytes;
    }

    /// The frames, in order.
    pub fn frames(&self) -> impl Iterator<Item = &[Entry]> {
        let ends = self.cuts.iter().copied().chain([self.entries.len()]);
        let mut start = 0;
        ends.map(move |end| &self.entries[std::mem::replace(&mut start, end)..end]).filter(|frame| !frame.is_empty())
    }

    /// How many entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// About how many bytes they take in the log.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is a frame's worth.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= MAX_BATCH_OPS || self.bytes >= MAX_BATCH_BYTES
    }
}

/// About how many bytes an entry takes in the log.
pub fn weight(entry: &Entry) -> usize {
    match entry {
        Entry::Op(op) => op.weight(),
        Entry::JoinPart(part) => part.weight(),
        Entry::JoinCommit(_) => 0,
        Entry::Answered(answered) => answered.weight(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crdt::{Dot, Element, Op, OpBody, ReplicaId, Seq};

    fn add(bytes: usize) -> Entry {
        let element = Element::from_canonical(&vec![b'1'; bytes]);
        Entry::Op(Op { dot: Dot::new(ReplicaId::from_random(1), Seq(2)), body: OpBody::Add(element) })
    }

    fn frames(pending: &Pending) -> Vec<usize> {
        pending.frames().map(<[Entry]>::len).collect()
    }

    #[test]
    fn a_frame_ends_after_so_many_entries_or_bytes() {
        let mut pending = Pending::default();
        assert!(frames(&pending).is_empty());
        (0..MAX_BATCH_OPS + 1).for_each(|_| pending.push(add(1)));
        assert_eq!(frames(&pending), [MAX_BATCH_OPS, 1]);
        let mut pending = Pending::default();
        [1, MAX_BATCH_BYTES, 1].into_iter().for_each(|bytes| pending.push(add(bytes)));
        assert_eq!(frames(&pending), [1, 1, 1], "one that is larger than a frame is alone in its own");
    }

    #[test]
    fn what_asked_for_room_is_not_parted() {
        let mut pending = Pending::default();
        (0..MAX_BATCH_OPS - 1).for_each(|_| pending.push(add(1)));
        pending.make_room(2, 2 * 9);
        (0..2).for_each(|_| pending.push(add(1)));
        assert_eq!(frames(&pending), [MAX_BATCH_OPS - 1, 2]);
        pending.make_room(2, MAX_BATCH_BYTES);
        assert_eq!(frames(&pending), [MAX_BATCH_OPS - 1, 2], "room alone is no frame");
        (0..2).for_each(|_| pending.push(add(1)));
        assert_eq!(frames(&pending), [MAX_BATCH_OPS - 1, 2, 2]);
    }

    #[test]
    fn it_says_how_much_waits() {
        let mut pending = Pending::default();
        assert!(pending.is_empty() && !pending.is_full());
        [1, 2].into_iter().for_each(|bytes| pending.push(add(bytes)));
        assert_eq!((pending.len(), pending.bytes()), (2, (8 + 1) + (8 + 2)));
        (3..MAX_BATCH_OPS).for_each(|_| pending.push(add(1)));
        assert!(!pending.is_full());
        pending.push(add(1));
        assert!(pending.is_full(), "so many entries");
        pending.begin_frame();
        pending.clear();
        assert!(pending.is_empty() && pending.bytes() == 0 && !pending.is_full());
        pending.push(add(1));
        assert_eq!((frames(&pending), pending.bytes()), (vec![1], 8 + 1));
        let mut pending = Pending::default();
        pending.push(add(MAX_BATCH_BYTES));
        assert!(pending.is_full(), "so many bytes");
    }

    #[test]
    fn a_frame_holds_as_many_bytes_as_it_may() {
        let mut pending = Pending::default();
        let half = MAX_BATCH_BYTES / 2 - 8;
        [half, half, 1].into_iter().for_each(|bytes| pending.push(add(bytes)));
        assert_eq!(frames(&pending), [2, 1]);
    }
}
