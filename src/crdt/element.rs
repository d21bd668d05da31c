//! Elements, and the keys under which their records are sorted.
//!
//! To this layer an element is its canonical bytes: two elements are equal if those are. (How JSON becomes canonical
//! is the protocol's business; all that is assumed here is that the bytes are text without control characters.)
//!
//! A **record** is one live (element, tag) pair. Its key, the same in the memtable, the snapshot and the index:
//!
//! ```text
//! element of up to 128 bytes:   element                 00  tag (16 bytes)
//! longer:                       first 128 bytes  01  sha-256 cut to 16 bytes  00  tag
//! ```
//!
//! 00 and 01 cannot occur in an element, so all records of an element are exactly those whose key starts with the
//! part before the tag. The order of the keys is the order of every read.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::id::{Dot, Tag};
use super::key_bytes::KeyBytes;

/// Elements of more bytes than this have a hash in their key.
pub const MAX_INLINE_BYTES: usize = 128;
const TAG_BYTES: usize = 16;
/// The longest key: of a long element.
const MAX_KEY_BYTES: usize = MAX_INLINE_BYTES + 1 + TAG_BYTES + 1 + TAG_BYTES;
const END: u8 = 0;
const HASHED: u8 = 1;

/// A set element: its canonical bytes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Element(Arc<[u8]>);

impl Element {
    /// The element with these canonical bytes.
    ///
    /// # Panics
    /// If there are control characters among them: the order of keys rests on that.
    pub fn from_canonical(bytes: &[u8]) -> Self {
        assert!(Self::is_text(bytes), "an element with control characters is not canonical");
        Self(bytes.into())
    }

    /// As [`Element::from_canonical`], for bytes that come from a disk or a peer.
    pub fn checked(bytes: &[u8]) -> Option<Self> {
        Self::is_text(bytes).then(|| Self(bytes.into()))
    }

    fn is_text(bytes: &[u8]) -> bool {
        !bytes.is_empty() && bytes.iter().all(|b| *b >= 0x20) && std::str::from_utf8(bytes).is_ok()
    }

    /// The canonical bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked when the element was made")
    }

    /// The part of a record's key that all records of this element share, and no others.
    pub fn key_prefix(&self) -> Vec<u8> {
        self.with_key_prefix(<[u8]>::to_vec)
    }

    /// Calls `look` with [`Element::key_prefix`], without an allocation.
    pub(super) fn with_key_prefix<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        self.with_key_room(|key, prefix_bytes| look(&key[..prefix_bytes]))
    }

    /// Makes the prefix of this element's keys, without an allocation: what is called gets it at the start of a buffer that
    /// has room for a tag after it.
    fn with_key_room<R>(&self, make: impl FnOnce(&mut [u8], usize) -> R) -> R {
        let mut key = [0; MAX_KEY_BYTES];
        let inline = self.0.len().min(MAX_INLINE_BYTES);
        key[..inline].copy_from_slice(&self.0[..inline]);
        let mut end = inline;
        if self.0.len() > MAX_INLINE_BYTES {
            key[end] = HASHED;
            key[end + 1..=end + TAG_BYTES].copy_from_slice(&Sha256::digest(&self.0)[..TAG_BYTES]);
            end += 1 + TAG_BYTES;
        }
        key[end] = END;
        make(&mut key, end + 1)
    }

    /// A key above all of this element's records, and above no other's that comes after them.
    pub fn key_after(&self) -> Vec<u8> {
        let mut key = self.key_prefix();
        // Nothing but a tag comes after `END`, and nothing in a key is between the two.
        if let Some(end) = key.last_mut() {
            *end = END + 1;
        }
        key
    }
}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The sort key of a record. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordKey(KeyBytes);

impl RecordKey {
    /// The key of the record (`element`, `tag`).
    pub fn new(element: &Element, tag: Tag) -> Self {
        element.with_key_room(|key, prefix_bytes| {
            key[prefix_bytes..prefix_bytes + TAG_BYTES].copy_from_slice(&tag.to_bytes());
            Self(KeyBytes::from(&key[..prefix_bytes + TAG_BYTES]))
        })
    }

    /// The key of `tag` under an element's [`Element::key_prefix`].
    pub fn from_prefix(prefix: &[u8], tag: Tag) -> Self {
        let mut key = [0; MAX_KEY_BYTES];
        let end = prefix.len() + TAG_BYTES;
        key[..prefix.len()].copy_from_slice(prefix);
        key[prefix.len()..end].copy_from_slice(&tag.to_bytes());
        Self(KeyBytes::from(&key[..end]))
    }

    /// What is before all keys that begin like this, and no key itself.
    pub(super) fn bound(bytes: &[u8]) -> Self {
        Self(KeyBytes::from(bytes))
    }

    /// Checks bytes that come from an index; `None` if they are no key.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (prefix, tag) = bytes.split_last_chunk::<TAG_BYTES>()?;
        Dot::from_bytes(*tag)?;
        let (end, element) = prefix.split_last()?;
        let hashed = element.len() == MAX_INLINE_BYTES + 1 + TAG_BYTES && element[MAX_INLINE_BYTES] == HASHED;
        let fits = !element.is_empty() && (element.len() <= MAX_INLINE_BYTES || hashed);
        let text = if hashed { &element[..MAX_INLINE_BYTES] } else { element };
        (*end == END && fits && text.iter().all(|b| *b >= 0x20)).then(|| Self(KeyBytes::from(bytes)))
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes of the heap it takes beyond its own size.
    pub(super) fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }

    /// The part that all records of the element share.
    pub fn prefix(&self) -> &[u8] {
        &self.0[..self.0.len() - TAG_BYTES]
    }

    /// The record's tag.
    pub fn tag(&self) -> Tag {
        let bytes = self.0.last_chunk::<TAG_BYTES>().expect("a key ends with a tag");
        Dot::from_bytes(*bytes).expect("checked when the key was made")
    }

    /// The element, if the key holds it whole (it has at most [`MAX_INLINE_BYTES`]).
    pub fn inline_element(&self) -> Option<&[u8]> {
        let element = &self.prefix()[..self.prefix().len() - 1];
        (element.len() <= MAX_INLINE_BYTES).then_some(element)
    }
}

impl Borrow<[u8]> for RecordKey {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", String::from_utf8_lossy(self.prefix()), self.tag())
    }
}

/// One live (element, tag) pair under its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Where it sorts; holds the tag.
    pub key: RecordKey,
    /// The element, where the key does not hold it whole.
    pub long_element: Option<Element>,
}

impl Record {
    /// The record (`element`, `tag`).
    pub fn new(element: &Element, tag: Tag) -> Self {
        let long = element.as_bytes().len() > MAX_INLINE_BYTES;
        Self { key: RecordKey::new(element, tag), long_element: long.then(|| element.clone()) }
    }

    /// The element's canonical bytes.
    pub fn element_bytes(&self) -> &[u8] {
        match &self.long_element {
            Some(element) => element.as_bytes(),
            None => self.key.inline_element().expect("a record without a long element has a short one"),
        }
    }

    /// The element.
    pub fn element(&self) -> Element {
        match &self.long_element {
            Some(element) => element.clone(),
            None => Element(self.element_bytes().into()),
        }
    }

    /// The tag.
    pub fn tag(&self) -> Tag {
        self.key.tag()
    }
}

#[cfg(test)]
mod tests {
    use super::super::id::{ReplicaId, Seq};
    use super::*;

    fn tag(seq: u64) -> Tag {
        Dot::new(ReplicaId::from_random(5), Seq(seq))
    }

    #[test]
    fn an_elements_records_are_exactly_those_under_its_prefix() {
        // Numbers are the canonical texts that can be prefixes of one another, also across the 128 bytes.
        let elements: Vec<Element> =
            [1, 2, 127, 128, 129, 130, 500].iter().map(|n| Element::from_canonical(&vec![b'1'; *n])).collect();
        for a in &elements {
            for b in &elements {
                let key = RecordKey::new(b, tag(1));
                assert_eq!(key.as_bytes().starts_with(&a.key_prefix()), a == b, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn a_record_gives_back_its_element_and_tag() {
        for n in [1, 128, 129, 5000] {
            let element = Element::from_canonical(&vec![b'7'; n]);
            let record = Record::new(&element, tag(9));
            assert_eq!((record.element(), record.tag()), (element, tag(9)));
            assert_eq!(RecordKey::parse(record.key.as_bytes()), Some(record.key));
        }
    }

    #[test]
    fn bytes_that_are_no_key_are_refused() {
        let good = RecordKey::new(&Element::from_canonical(b"1"), tag(1));
        for cut in 0..good.as_bytes().len() {
            assert_eq!(RecordKey::parse(&good.as_bytes()[..cut]), None, "{cut}");
        }
        let parses = |prefix: &[u8]| RecordKey::parse(&[prefix, &tag(1).to_bytes()].concat()).is_some();
        let long = |n: usize| [&vec![b'1'; n][..], &[END]].concat();
        let hashed = |text: &[u8], mark: u8| [text, &[mark], &[0; TAG_BYTES], &[END]].concat();
        assert!(parses(&[b'1', END]) && parses(&long(MAX_INLINE_BYTES)), "whole elements");
        assert!(parses(&hashed(&[b'1'; MAX_INLINE_BYTES], HASHED)), "a long element, by its hash");
        assert!(!parses(&[END]), "no element");
        assert!(!parses(b"12") && !parses(&[b'1', END, b'2']), "no end, or too late");
        assert!(!parses(&[b'\n', END]) && !parses(&[b'1', b'\n', END]), "control characters");
        assert!(!parses(&long(MAX_INLINE_BYTES + 1)), "too long to be whole");
        assert!(!parses(&long(MAX_INLINE_BYTES + 1 + TAG_BYTES)), "as long as a hashed one, and none");
        assert!(!parses(&hashed(&[b'1'; MAX_INLINE_BYTES], b'1')), "a hash without its mark");
        assert!(!parses(&hashed(&[b'1'; MAX_INLINE_BYTES - 1], HASHED)), "a hash too early");
        assert!(!parses(&hashed(&[b'\n'; MAX_INLINE_BYTES], HASHED)), "control characters before the hash");
    }

    #[test]
    fn an_elements_records_end_before_the_key_after_it() {
        for (element, later) in [(&b"1"[..], &b"12"[..]), (b"12", b"13"), (&[b'1'; 500], &[b'2'; 500])] {
            let [element, later] = [element, later].map(Element::from_canonical);
            let after = element.key_after();
            let last = Dot::new(ReplicaId::from_random(u128::MAX), Seq::MAX);
            assert!(RecordKey::new(&element, last).as_bytes() < after.as_slice(), "{element:?}");
            assert!(RecordKey::new(&later, tag(1)).as_bytes() > after.as_slice(), "{later:?}");
            assert_eq!(after.len(), element.key_prefix().len());
        }
    }

    #[test]
    fn what_failed_tests_show_of_a_key() {
        let element = Element::from_canonical(b"12");
        let text = format!("{:?}", RecordKey::new(&element, tag(9)));
        assert!(text.starts_with("12") && text.ends_with(&format!(" {}", tag(9))), "{text}");
        assert_eq!(format!("{element:?}"), "12");
    }
}
