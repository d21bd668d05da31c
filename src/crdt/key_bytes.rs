//! The bytes of a record's key: in place if they are few, else on the heap.
//!
//! A memtable holds hundreds of thousands of keys, and hands each on to the index's thread. In place, a key costs no
//! allocation, no pointer to follow when it is compared, and no memory that one thread takes and another frees.

use std::cmp::Ordering;
use std::ops::Deref;
use std::sync::Arc;

/// So many bytes are kept in place: the key of an element of up to 21 bytes.
const IN_PLACE: usize = 38;

/// Bytes that do not change. Cheap to clone.
#[derive(Clone)]
pub(super) enum KeyBytes {
    InPlace { length: u8, bytes: [u8; IN_PLACE] },
    Shared(Arc<[u8]>),
}

impl KeyBytes {
    /// How many bytes of the heap they take (with the allocation's header), all their clones together.
    pub(super) fn heap_bytes(&self) -> usize {
        const HEADER: usize = 3 * size_of::<usize>();
        match self {
            Self::InPlace { .. } => 0,
            Self::Shared(bytes) => HEADER + bytes.len(),
        }
    }
}

impl From<&[u8]> for KeyBytes {
    fn from(from: &[u8]) -> Self {
        if from.len() > IN_PLACE {
            return Self::Shared(from.into());
        }
        let mut bytes = [0; IN_PLACE];
        bytes[..from.len()].copy_from_slice(from);
        #[expect(clippy::cast_possible_truncation, reason = "just compared")]
        let length = from.len() as u8;
        Self::InPlace { length, bytes }
    }
}

impl Deref for KeyBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::InPlace { length, bytes } => &bytes[..usize::from(*length)],
            Self::Shared(bytes) => bytes,
        }
    }
}

impl PartialEq for KeyBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for KeyBytes {}

impl PartialOrd for KeyBytes {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for KeyBytes {
    fn cmp(&self, other: &Self) -> Ordering {
        let (Self::InPlace { length, bytes }, Self::InPlace { length: other_length, bytes: other_bytes }) =
            (self, other)
        else {
            return (**self).cmp(&**other);
        };
        // What comes after the end is zeros, and so not more than any byte there. (Eight at a time, as a look-up in a tree
        // consists of little else.)
        let words = WORDS_AT.map(|at| (word_at(bytes, at), word_at(other_bytes, at)));
        let differ = words.into_iter().find(|(one, other)| one != other);
        differ.map_or_else(|| length.cmp(other_length), |(one, other)| one.cmp(&other))
    }
}

/// Where eight bytes begin, so that all are seen; the last ones overlap those before them.
const WORDS_AT: [usize; 5] = [0, 8, 16, 24, IN_PLACE - 8];

fn word_at(bytes: &[u8; IN_PLACE], at: usize) -> u64 {
    u64::from_be_bytes(*bytes[at..].first_chunk().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_same_bytes_wherever_they_lie() {
        let all: Vec<u8> = (0..100).collect();
        for length in 0..all.len() {
            let bytes = KeyBytes::from(&all[..length]);
            assert_eq!(*bytes, all[..length]);
            assert_eq!(bytes.heap_bytes() > 0, length > IN_PLACE);
            assert_eq!(bytes.cmp(&KeyBytes::from(&all[..50])), length.cmp(&50));
            assert_eq!(bytes.cmp(&KeyBytes::from(&all[..20])), length.cmp(&20));
            assert!(bytes.clone() == bytes && bytes != KeyBytes::from(&all[1..=length]) || length == 0);
        }
        assert_eq!(size_of::<KeyBytes>(), 40);
    }

    #[test]
    fn their_order_is_that_of_the_bytes() {
        let mut all: Vec<Vec<u8>> = vec![Vec::new()];
        for length in 1..=IN_PLACE + 2 {
            // Ends in zeros, and one byte that is more or less than the other's, at each place.
            all.push(vec![0; length]);
            all.push((1..=length).map(|n| n as u8).collect());
            all.push((1..=length).map(|n| if n == length { 255 } else { n as u8 }).collect());
        }
        for a in &all {
            for b in &all {
                let (one, other) = (KeyBytes::from(&a[..]), KeyBytes::from(&b[..]));
                assert_eq!((one.cmp(&other), one == other), (a.cmp(b), a == b), "{a:?} {b:?}");
            }
        }
    }
}
