//! The observed-remove set itself: pure values and functions.
//!
//! This layer owns what the set *means*: [dots and tags](id), [operations](op) and the rule by which they apply, the
//! [version vector](version_vector), [state deltas](join), and the [fold](state) of a log into a set. It knows no files,
//! no clock, no randomness, no JSON and no peers.
//!
//! # How it works
//!
//! Every add and every remove is an operation with a dot. An add's dot is the tag of the element's record; a remove
//! names the tags that its replica saw. The live records are all adds less all removes, and a version vector says which
//! operations went into them. An add concurrent with a remove is not among the tags that the remove names, so it wins.
//!
//! # Invariants
//!
//! - An operation applies if and only if it is the next of its replica and everything it refers to is held
//!   ([`Op::judge`]). A tag that the vector covers and that has no record was removed: there are no tombstones.
//! - A vector is joined only together with what it covers ([`State::apply`] of a [`JoinCommit`]).
//!
//! # References
//!
//! - Shapiro, Preguiça, Baquero, Zawirski, "A comprehensive study of CRDTs", 2011, section 3.3.5 (OR-Set).
//! - Bieniusa et al., "An optimized conflict-free replicated set", 2012 (no tombstones).
//! - Almeida, Shoker, Baquero, "Delta state replicated data types", 2018.

pub mod answers;
pub mod chunk_hashes;
pub mod element;
pub mod id;
pub mod incarnations;
pub mod join;
pub mod joined;
mod key_bytes;
pub mod memtable;
pub mod mirror;
pub mod op;
pub mod state;
pub mod version_vector;

pub use answers::{Answer, Answered, Answers, AskedHash, MAX_ANSWER_TAGS, RequestKey, TagList};
pub use chunk_hashes::ChunkHashes;
pub use element::{Element, MAX_INLINE_BYTES, Record, RecordKey};
pub use id::{Dot, NodeId, ReplicaId, Seq, Tag};
pub use incarnations::{Incarnation, Incarnations, UnknownReplica};
pub use join::{DotSet, JoinCommit, JoinId, JoinPart, KeptRecords, LiveBits};
pub use joined::Joined;
pub use memtable::{Base, BaseError, Batch, Change, EmptyBase, Memtable, Records};
pub use mirror::Mirror;
pub use op::{MAX_REMOVE_TAGS, Op, OpBody, OpError, Verdict};
pub use state::{ApplyError, Entry, State};
pub use version_vector::VersionVector;
