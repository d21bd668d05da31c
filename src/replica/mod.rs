//! The replica.

pub mod message;

pub use message::*;
