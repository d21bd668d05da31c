//! Replicas on simulated disks, over a simulated network, in simulated time: the very code of the node below its event
//! loop, driven by plain numbers.
//!
//! ```text
//! chaos       seeded runs: faults of every kind, then healing, and everybody must agree with the oracle
//! scenarios   one story a test: wiped, rolled back, copied, restarted, early, foreign …
//! transfers   state deltas: lost parts, restarts in the middle, both sides below each other's floor …
//! idle        how little is said when there is nothing to say
//! ─────────
//! cluster     the event loop, and what may be done to a node
//! slot        one replica on one disk
//! network     latency, loss, duplication, cuts; every message goes through its form on the wire
//! oracle      what clients were told, and what follows from it
//! ```
//!
//! A failing run prints its seed and its last steps; `ORSET_SEED=n cargo test --test replicas chaos` replays it, and
//! `ORSET_SEEDS=n` runs that many.

mod chaos;
mod cluster;
mod idle;
mod network;
mod oracle;
mod scenarios;
mod slot;
mod transfers;
