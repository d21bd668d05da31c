//! Bugs that are planted to see whether the tests find them.
//!
//! Nothing of this is in a program that was built without the feature `planted-bugs`: [`is`] is then the constant
//! `false`, and what depends on it is gone. With the feature, one bug at a time can be chosen for the whole process
//! (`orset sim --plant NAME`), and the place of each looks like this:
//!
//! ```text
//! if !planted::is(Bug::NoDirectorySync) {
//!     disk.sync_dir(dir)?;
//! }
//! ```
//!
//! Every layer may use this module, and it uses none. A bug whose place has to go is to be planted elsewhere, or given
//! up with a reason.

/// A bug that can be planted. What each does, and which invariant of the design it breaks, is in `Bug::about`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Bug {
    ReplyBeforeSync = 1,
    FailedSyncRetried,
    NoDirectorySync,
    SnapshotNotSynced,
    ContextOverclaim,
    DigestOverclaim,
    JoinPartByPart,
    JoinAgainstFirstPart,
    SnapshotsMixed,
    RemoveBeforeAdd,
    RemoveOfUnseenAdds,
    StartBeforeParent,
    OldReplicaId,
    ReplicaIdOfTheStore,
    IndexPositionAhead,
    IndexOfAnotherBoot,
    DamageTakenForTornTail,
    UnsyncedTrusted,
    DeltaFromBelowTheFloor,
    JoinKeepsFloor,
    TruncationKeepsFloor,
    GapInMemory,
    SegmentDroppedEarly,
    SnapshotEndsInJoin,
    ManifestAfterDeletion,
    AnswersNotInSnapshot,
    AnswerInAnotherFrame,
    MirrorSurvivesJoin,
}

/// Whether this bug is planted: never, in this build.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn is(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub use chosen::{About, chosen_bug, is, plant};

#[cfg(feature = "planted-bugs")]
mod chosen {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Bug;

    /// The bug that is planted in this process; zero: none.
    static CHOSEN: AtomicU8 = AtomicU8::new(0);

    /// Whether this bug is planted.
    pub fn is(bug: Bug) -> bool {
        CHOSEN.load(Ordering::Relaxed) == bug as u8
    }

    /// Plants a bug in this process, in place of the one that may be there; `None`: none.
    pub fn plant(bug: Option<Bug>) {
        CHOSEN.store(bug.map_or(0, |bug| bug as u8), Ordering::Relaxed);
    }

    /// The bug that is planted.
    pub fn chosen_bug() -> Option<Bug> {
        Bug::ALL.into_iter().find(|bug| is(*bug))
    }

    /// What there is to know about a bug.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct About {
        /// Its name on the command line.
        pub name: &'static str,
        /// What goes wrong.
        pub what: &'static str,
        /// The number of the invariant that it breaks, see `docs/testing.md`.
        pub invariant: u8,
        /// The simulation finds it within so many seeds, wherever it starts.
        pub within_seeds: u64,
    }

    impl Bug {
        /// All, in the order of the invariants that they break.
        pub const ALL: [Bug; 28] = [
            Bug::SegmentDroppedEarly,
            Bug::SnapshotEndsInJoin,
            Bug::ManifestAfterDeletion,
            Bug::MirrorSurvivesJoin,
            Bug::ReplyBeforeSync,
            Bug::NoDirectorySync,
            Bug::SnapshotNotSynced,
            Bug::ContextOverclaim,
            Bug::DigestOverclaim,
            Bug::JoinPartByPart,
            Bug::JoinAgainstFirstPart,
            Bug::SnapshotsMixed,
            Bug::DeltaFromBelowTheFloor,
            Bug::JoinKeepsFloor,
            Bug::TruncationKeepsFloor,
            Bug::GapInMemory,
            Bug::RemoveBeforeAdd,
            Bug::RemoveOfUnseenAdds,
            Bug::StartBeforeParent,
            Bug::OldReplicaId,
            Bug::ReplicaIdOfTheStore,
            Bug::IndexPositionAhead,
            Bug::IndexOfAnotherBoot,
            Bug::DamageTakenForTornTail,
            Bug::UnsyncedTrusted,
            Bug::FailedSyncRetried,
            Bug::AnswersNotInSnapshot,
            Bug::AnswerInAnotherFrame,
        ];

        /// The bug of this name.
        pub fn named(name: &str) -> Option<Bug> {
            Self::ALL.into_iter().find(|bug| bug.about().name == name)
        }

        /// What there is to know about it.
        pub const fn about(self) -> About {
            let (name, invariant, within_seeds, what) = match self {
                Bug::SegmentDroppedEarly => {
                    ("segment-dropped-early", 1, 100, "compaction drops a segment that the snapshot does not cover yet")
                }
                Bug::SnapshotEndsInJoin => (
                    "snapshot-ends-in-join",
                    1,
                    100,
                    "a snapshot ends between a state delta's first part and its commit",
                ),
                Bug::ManifestAfterDeletion => {
                    ("manifest-after-deletion", 1, 100, "segments are deleted before the manifest stops naming them")
                }
                Bug::ReplyBeforeSync => (
                    "reply-before-sync",
                    2,
                    100,
                    "a frame is synced only with the one after it, and its replies leave before",
                ),
                Bug::NoDirectorySync => {
                    ("no-directory-sync", 2, 100, "no sync of the directory after a file was renamed into place")
                }
                Bug::SnapshotNotSynced => {
                    ("snapshot-not-synced", 2, 100, "a snapshot gets its name before its bytes are synced")
                }
                Bug::ContextOverclaim => (
                    "context-overclaim",
                    3,
                    100,
                    "a state delta comes with the store's vector in place of its snapshot's",
                ),
                Bug::DigestOverclaim => {
                    ("digest-overclaim", 3, 1000, "who holds a Start is taken to hold all that its parent ever did")
                }
                Bug::JoinPartByPart => {
                    ("join-part-by-part", 3, 100, "a state delta's records and their dots count before its commit")
                }
                Bug::JoinAgainstFirstPart => (
                    "join-against-first-part",
                    3,
                    200,
                    "what a state delta adds is judged by the vector at its first part, not at its commit",
                ),
                Bug::SnapshotsMixed => (
                    "snapshots-mixed",
                    3,
                    100,
                    "the parts of a state delta that was given up count for the next one, of another snapshot",
                ),
                Bug::DeltaFromBelowTheFloor => {
                    ("delta-below-floor", 3, 100, "operations are sent to who lacks some that the log no longer has")
                }
                Bug::JoinKeepsFloor => ("join-keeps-floor", 3, 100, "a join does not raise the floor"),
                Bug::TruncationKeepsFloor => {
                    ("truncation-keeps-floor", 3, 100, "dropping segments does not raise the floor")
                }
                Bug::GapInMemory => (
                    "gap-in-memory",
                    3,
                    100,
                    "the newest operations in memory are taken to reach further back than they do",
                ),
                Bug::RemoveBeforeAdd => ("remove-before-add", 4, 100, "a remove applies before the add that it saw"),
                Bug::RemoveOfUnseenAdds => {
                    ("remove-of-unseen-adds", 4, 100, "a remove also takes away adds that the remover had not seen")
                }
                Bug::StartBeforeParent => {
                    ("start-before-parent", 4, 100, "a Start applies before the operations of its parent")
                }
                Bug::OldReplicaId => {
                    ("old-replica-id", 5, 100, "a restart goes on under the replica id that its store names")
                }
                Bug::ReplicaIdOfTheStore => {
                    ("replica-id-of-the-store", 5, 100, "the new replica id is computed from what is in the store")
                }
                Bug::IndexPositionAhead => (
                    "index-position-ahead",
                    6,
                    100,
                    "the first of several index batches brings the position of the last",
                ),
                Bug::IndexOfAnotherBoot => {
                    ("index-of-another-boot", 6, 100, "an index that was not closed is trusted after a power cut")
                }
                Bug::DamageTakenForTornTail => (
                    "damage-taken-for-torn-tail",
                    7,
                    100,
                    "a bad frame with a good one after it is cut off like a torn tail",
                ),
                Bug::UnsyncedTrusted => {
                    ("unsynced-trusted", 8, 100, "recovery goes on without making what it has read durable")
                }
                Bug::FailedSyncRetried => {
                    ("failed-sync-retried", 8, 100, "a failed sync is retried, and then believed")
                }
                Bug::AnswersNotInSnapshot => {
                    ("answers-not-in-snapshot", 14, 100, "a snapshot is made without the answers to named requests")
                }
                Bug::AnswerInAnotherFrame => (
                    "answer-in-another-frame",
                    14,
                    100,
                    "the answer to a named request is made durable after the operation, and not with it",
                ),
                Bug::MirrorSurvivesJoin => {
                    ("mirror-survives-join", 1, 100, "a small set in memory is kept beside a join that it has not seen")
                }
            };
            About { name, what, invariant, within_seeds }
        }
    }
}
