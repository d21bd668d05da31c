//! One replica's store on disk.

pub mod index;

pub use index::{Index, IndexError, IndexHome, IndexPosition, MemoryIndex, SledIndex, Unusable};

/// The position of an entry in *this* store's log, local and remote ones alike, in the order applied: 1, 2, 3 …
/// Zero is before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The one after this.
    pub const fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// How much is in a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Elements with at least one live tag.
    pub elements: u64,
    /// Live tags.
    pub tags: u64,
}
