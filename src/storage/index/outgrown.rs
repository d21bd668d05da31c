//! When an index that never gives disk back is to be built anew.
//!
//! sled keeps the room of what was removed: a set that has lost nine tenths of its elements has an index as large as ever.
//! The remedy is a rebuild from a snapshot; this is the decision, as a pure function of sizes and counts.
//!
//! ```
//! use orset::storage::index::{IndexSize, is_outgrown};
//! let full = IndexSize { on_disk: 190 << 20, records: 1_000_000, record_bytes: 33, changes: Some(1_000_000), idle: true };
//! assert!(!is_outgrown(&full, 4 << 20));
//! assert!(is_outgrown(&IndexSize { records: 100_000, changes: Some(1_900_000), ..full }, 4 << 20));
//! ```
//!
//! # Why it cannot loop
//!
//! What was built by this process is not built again before as many changes have been fed to it as it has records, however
//! wrong the estimate of its size may be: a rebuild costs about as much as its records' changes, so all rebuilds together
//! cost at most as much as the changes themselves. An index of an earlier process, of which that number is not known, is
//! judged by the greater factor only, and at most once, since what replaces it is of this process.

/// What a record takes in sled beyond its key and value, right after a load in key order (measured: 200 bytes of disk for
/// keys of 33; a rebuild leaves 155).
pub(super) const OVERHEAD_BYTES: u64 = 167;
/// Anything above this many tenths of what the records should take is too much …
const FACTOR_WHEN_IDLE: u64 = 14;
/// … and while changes wait, or if nobody knows when it was built, this.
const FACTOR_WHEN_BUSY: u64 = 30;

/// An index' size, and what it should be judged by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexSize {
    /// Bytes of disk that it takes.
    pub on_disk: u64,
    /// How many records are in it.
    pub records: u64,
    /// How many bytes of key and value a record has, on average.
    pub record_bytes: u64,
    /// How many changes it has been fed since it was built; `None` if an earlier process has built it.
    pub changes: Option<u64>,
    /// Whether it has all changes that there are.
    pub idle: bool,
}

/// Whether the index takes so much more disk than its records that it should be built anew. Up to `slack_bytes` never
/// matter.
pub fn is_outgrown(size: &IndexSize, slack_bytes: u64) -> bool {
    let paid_for = size.changes.is_none_or(|changes| changes >= size.records);
    let factor = if size.idle && size.changes.is_some() { FACTOR_WHEN_IDLE } else { FACTOR_WHEN_BUSY };
    let expected = size.records.saturating_mul(size.record_bytes + OVERHEAD_BYTES);
    paid_for && size.on_disk > slack_bytes.saturating_add(expected.saturating_mul(factor) / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLACK: u64 = 4 << 20;

    /// A million records of 33 bytes, some changes after the load.
    fn loaded() -> IndexSize {
        IndexSize { on_disk: 200_000_000, records: 1_000_000, record_bytes: 33, changes: Some(1_000_000), idle: true }
    }

    #[test]
    fn what_a_load_leaves_is_not_outgrown_and_what_a_removal_leaves_is() {
        assert!(!is_outgrown(&loaded(), SLACK));
        assert!(is_outgrown(&IndexSize { records: 650_000, ..loaded() }, SLACK));
        assert!(is_outgrown(&IndexSize { records: 0, ..loaded() }, SLACK));
        assert!(!is_outgrown(&IndexSize { records: 0, on_disk: SLACK, ..loaded() }, SLACK), "within the slack");
    }

    #[test]
    fn while_changes_wait_and_after_a_restart_it_has_to_be_several_times_too_large() {
        for other in [IndexSize { idle: false, ..loaded() }, IndexSize { changes: None, ..loaded() }] {
            assert!(!is_outgrown(&IndexSize { records: 400_000, ..other }, SLACK), "{other:?}");
            assert!(is_outgrown(&IndexSize { records: 300_000, ..other }, SLACK), "{other:?}");
        }
    }

    /// Whatever the disk says: only as many rebuilds as changes pay for.
    #[test]
    fn a_size_that_never_shrinks_leads_to_no_more_rebuilds_than_the_changes_pay_for() {
        let (mut rebuilds, mut changes, mut fed) = (0, None, 0_u64);
        while fed < 1_000_000 {
            let size = IndexSize { on_disk: u64::MAX, records: 100_000, record_bytes: 33, changes, idle: true };
            if is_outgrown(&size, SLACK) {
                (rebuilds, changes) = (rebuilds + 1, Some(0));
            }
            changes = changes.map(|changes| changes + 1_000);
            fed += 1_000;
        }
        assert_eq!(rebuilds, 10, "one of the index of another process, and then one every 100,000 changes");
    }
}
