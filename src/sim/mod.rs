//! Deterministic simulation: replicas and their stores in virtual time, on simulated disks, over a simulated network.
//! The very code of the node below its event loop, driven by plain numbers that are all drawn from one seed.
//!
//! ```text
//! run       one seed: clients and faults of every kind, then healing, and everybody must agree with the oracle
//! chaos     what befalls the nodes, step by step
//! cluster   the event loop, and what may be done to a node
//! slot      one replica on one disk
//! network   latency, loss, duplication, cuts; every message goes through its form on the wire
//! oracle    what clients were told, and what follows from it
//! story     what happened, in words
//! ```
//!
//! ```
//! use orset::sim::{Options, run};
//! let tally = run(&Options { seed: 7, nodes: 3, steps: 20 }).map_err(|failure| failure.what)?;
//! assert_eq!(run(&Options { seed: 7, nodes: 3, steps: 20 }).map_err(|failure| failure.what)?, tally);
//! # Ok::<(), String>(())
//! ```
//!
//! What must not be is a panic: of a checker here, which says which rule was broken, or of the product's own assertions.
//! [`run`] catches it.

pub mod chaos;
pub mod cluster;
pub mod network;
pub mod oracle;
mod run;
pub mod slot;
pub mod story;

pub use run::{Failure, Options, Tally, run};
