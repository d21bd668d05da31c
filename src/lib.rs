//! `orset`: a durable replica of an observed-remove set that speaks Maelstrom's JSON lines.

pub mod bench;
pub mod child;
pub mod cli;
pub mod crdt;
pub mod dump;
pub mod maelstrom;
pub mod node;
pub mod planted;
pub mod repair;
pub mod replica;
pub mod sim;
pub mod storage;
pub mod supervise;
