//! Replicas in simulated time ([`orset::sim`]): seeded runs, and one story a test.
//!
//! ```text
//! chaos       seeded runs: faults of every kind, then healing, and everybody must agree with the oracle
//! scenarios   one story a test: wiped, rolled back, copied, restarted, early, foreign …
//! traffic     what agreement costs, in bytes and messages
//! transfers   state deltas: lost parts, restarts in the middle, both sides below each other's floor …
//! idle        how little is said when there is nothing to say
//! ```
//!
//! A failing seed prints its last steps and the command that replays it; `ORSET_SEED=n` runs one, `ORSET_SEEDS=n` so many.

mod chaos;
mod idle;
mod scenarios;
mod traffic;
mod transfers;
