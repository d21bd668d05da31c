//! The test bench: runs any Maelstrom node binary as Maelstrom does, with kills, restarts and removes beside it, and
//! judges what the clients saw.
//!
//! ```text
//! generator → clients → network → node processes        (one thread, one poll loop)
//!                 ↘ history.jsonl → checkers → results.json, report.html
//! ```
//!
//! The runner writes a [`history`]; everything after it is a pure function over that file, so a saved one can be judged
//! again.

pub mod checker;
mod clients;
mod files;
mod generator;
pub mod history;
mod nemesis;
mod network;
mod node;
mod options;
pub mod power;
mod priority;
pub mod report;
mod run;
mod wire;

pub use files::write_results;
pub use options::{Distribution, Latency, Options, Topology};
pub use run::{Finished, Progress, RunError, Status, run};
