//! Names for incarnations and their operations: [`ReplicaId`], [`Seq`], [`Dot`], [`Tag`], [`NodeId`].
//!
//! A dot (replica id, sequence number) names one operation. An add's dot *is* the tag that the client gets, written as
//! a UUIDv8 (RFC 9562, section 5.8): 48 bits of sequence number, the version, 12 bits of replica id, the variant,
//! 62 bits of replica id. So a tag says where it came from, and nothing has to be looked up.
//!
//! ```
//! use orset::crdt::{Dot, ReplicaId, Seq};
//! let dot = Dot { replica: ReplicaId::from_random(7), seq: Seq(3) };
//! let tag = dot.to_uuid();
//! assert_eq!(tag.to_string(), "00000000-0003-8000-8000-000000000007");
//! assert_eq!(Dot::from_uuid(tag), Some(dot));
//! ```

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

const REPLICA_BITS: u32 = 74;
const LOW_BITS: u32 = 62;

/// The random name of one incarnation (one process start that writes): 74 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(u128);

impl ReplicaId {
    /// The id made of the low 74 of `random`'s bits.
    pub const fn from_random(random: u128) -> Self {
        Self(random & ((1 << REPLICA_BITS) - 1))
    }

    /// The id as a number below 2^74.
    pub const fn to_u128(self) -> u128 {
        self.0
    }

    /// The id of that number; `None` from 2^74 on.
    pub const fn from_u128(number: u128) -> Option<Self> {
        if number >> REPLICA_BITS == 0 { Some(Self(number)) } else { None }
    }

    /// Reads the form that [`fmt::Display`] writes: 19 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 19 || !text.bytes().all(digits) {
            return None;
        }
        Self::from_u128(u128::from_str_radix(text, 16).ok()?)
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:019x}", self.0)
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A sequence number within one incarnation: 1, 2, 3 … without gaps; at most [`Seq::MAX`]. Zero means "none yet".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

impl Seq {
    /// The largest sequence number that a tag has room for.
    pub const MAX: Seq = Seq((1 << 48) - 1);

    /// The number after this one.
    pub const fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of one operation. Ordered by replica id, then sequence number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// The incarnation that made the operation.
    pub replica: ReplicaId,
    /// Its place among that incarnation's operations.
    pub seq: Seq,
}

/// The dot of an add, in its role as the unique tag that the add returned.
pub type Tag = Dot;

impl Dot {
    /// The dot of `replica`'s `seq`-th operation.
    pub const fn new(replica: ReplicaId, seq: Seq) -> Self {
        Self { replica, seq }
    }

    /// The dot as a UUIDv8.
    ///
    /// # Panics
    /// If the sequence number is over [`Seq::MAX`]; no dot with such a number is ever made.
    pub fn to_uuid(self) -> Uuid {
        assert!(self.seq <= Seq::MAX, "sequence number {} does not fit a tag", self.seq);
        let (replica, seq) = (self.replica.0, u128::from(self.seq.0));
        let low = replica & ((1 << LOW_BITS) - 1);
        let high = replica >> LOW_BITS;
        Uuid::from_u128(seq << 80 | 8 << 76 | high << 64 | 0b10 << 62 | low)
    }

    /// The 16 bytes of [`Dot::to_uuid`].
    pub fn to_bytes(self) -> [u8; 16] {
        *self.to_uuid().as_bytes()
    }

    /// The dot that a UUID stands for; `None` for one that is not of version 8 and the RFC's variant.
    pub fn from_uuid(tag: Uuid) -> Option<Self> {
        let bits = tag.as_u128();
        if bits >> 76 & 0xf != 8 || bits >> 62 & 0b11 != 0b10 {
            return None;
        }
        let low = bits & ((1 << LOW_BITS) - 1);
        let high = bits >> 64 & 0xfff;
        let seq = u64::try_from(bits >> 80).expect("128 - 80 = 48 bits");
        Some(Self { replica: ReplicaId(high << LOW_BITS | low), seq: Seq(seq) })
    }

    /// The dot of these 16 bytes, see [`Dot::from_uuid`].
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        Self::from_uuid(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.replica, self.seq)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A node's name in messages (`n1`). A name for routing only: what identifies an incarnation is its [`ReplicaId`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Longest node id, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Checks a node id: it also names the store's directory, so it is 1 to 128 bytes of ASCII letters, digits,
    /// `.`, `_`, `-`, and does not begin with a dot.
    pub fn new(text: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let fits = (1..=Self::MAX_BYTES).contains(&text.len());
        (fits && !text.starts_with('.') && text.bytes().all(allowed)).then(|| Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_carries_every_bit_of_its_dot() {
        for bit in 0..REPLICA_BITS {
            let dot = Dot::new(ReplicaId::from_random(1 << bit), Seq(1));
            assert_eq!(Dot::from_uuid(dot.to_uuid()), Some(dot), "replica bit {bit}");
        }
        for bit in 0..48 {
            let dot = Dot::new(ReplicaId::from_random(u128::MAX), Seq(1 << bit));
            assert_eq!(Dot::from_uuid(dot.to_uuid()), Some(dot), "sequence bit {bit}");
            assert_eq!(dot.to_uuid().get_version_num(), 8);
            assert_eq!(dot.to_uuid().get_variant(), uuid::Variant::RFC4122);
        }
    }

    #[test]
    fn a_random_uuid_is_no_tag() {
        assert_eq!(Dot::from_uuid(Uuid::new_v4()), None);
    }

    #[test]
    fn replica_ids_read_back_what_they_write_and_nothing_else() {
        let id = ReplicaId::from_random(u128::MAX);
        assert_eq!(ReplicaId::parse(&id.to_string()), Some(id));
        for bad in ["", "7", "fffffffffffffffffff", "000000000000000000G", "+00000000000000000f"] {
            assert_eq!(ReplicaId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_node_id_never_leaves_its_data_directory() {
        for bad in ["", ".", "..", "../x", "a/b", ".hidden", "a\0", "ä", "a b"] {
            assert_eq!(NodeId::new(bad), None, "{bad:?}");
        }
        assert!(NodeId::new("n1").is_some());
    }

    #[test]
    fn what_failed_tests_show_of_names() {
        let (replica, node) = (ReplicaId::from_random(5), NodeId::new("n1").unwrap());
        let dot = Dot::new(replica, Seq(7));
        let expected = format!("{replica} 7 {dot} n1");
        assert_eq!(format!("{replica:?} {:?} {dot:?} {node:?}", dot.seq), expected);
        assert!(expected.len() > 20, "{expected}");
    }
}
