//! Replicas in simulated time ([`orset::sim`]): seeded runs, and one story a test.
//!
//! ```text
//! chaos       seeded runs: faults of every kind, then healing, and everybody must agree with the oracle
//! scenarios   one story a test: wiped, rolled back, copied, restarted, early, foreign …
//! traffic     what agreement costs, in bytes and messages
//! trips       how many round trips it takes
//! transfers   state deltas: lost parts, restarts in the middle, both sides below each other's floor …
//! dissemination  how many messages it takes to tell everybody, and how long
//! idle        how little is said when there is nothing to say
//! ```
//!
//! A failing seed prints its last steps and the command that replays it; `ORSET_SEED=n` runs one, `ORSET_SEEDS=n` so many.

mod chaos;
mod dissemination;
mod idle;
mod scenarios;
mod traffic;
mod transfers;
mod trips;

use orset::storage::StoreLimits;

/// Logs are kept whole: what is missed comes as operations.
const LARGE: StoreLimits = StoreLimits {
    segment_bytes: 1 << 20,
    min_retention_bytes: 4 << 20,
    max_retention_bytes: 64 << 20,
    memtable_bytes: 32 << 20,
    recent_bytes: 1 << 20,
    max_join_changes: 16_384,
    mirror_bytes: 1 << 20,
    index_slack_bytes: 4 << 20,
    max_records_at_start: 32_768,
};
