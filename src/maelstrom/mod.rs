//! Maelstrom's JSON lines: what a line says, and how what a replica says is put into one.
//!
//! This layer knows the replica's [messages](crate::replica::message) and JSON. It does no I/O and has no clock, threads
//! or randomness: the moment at which a line came and the ids that `generate` gives are arguments.
//!
//! ```
//! use orset::crdt::{Dot, NodeId, ReplicaId, Seq};
//! use orset::maelstrom::{Decoder, Incoming, Limits, encode};
//! use orset::replica::{Outgoing, Reply, Request};
//!
//! let line = br#"{"src":"c1","dest":"n1","body":{"type":"or_set_add","msg_id":2,"element":"apple"}}"#;
//! let incoming = Decoder::new(Limits::default()).decode(line, 0, uuid::Uuid::new_v4).unwrap();
//! let Incoming::Request { ticket, request: Request::Add(element), .. } = incoming else { panic!() };
//! assert_eq!(element.as_str(), r#""apple""#);
//!
//! let reply = Reply::Added(Dot::new(ReplicaId::from_random(7), Seq(3)));
//! let mut out = Vec::new();
//! encode(&mut out, &NodeId::new("n1").unwrap(), 0, &Outgoing::Reply { ticket, reply });
//! assert_eq!(
//!     String::from_utf8(out).unwrap(),
//!     concat!(
//!         r#"{"src": "n1", "dest": "c1", "body": {"type": "or_set_add_ok", "in_reply_to": 2, "#,
//!         r#""tag": "00000000-0003-8000-8000-000000000007", "msg_id": 0}}"#,
//!         "\n"
//!     )
//! );
//! ```
//!
//! # Invariants
//!
//! - Whatever bytes come, decoding ends in a value or a [`Rejection`]: never in a panic, never in a deep recursion.
//! - What is encoded is exactly one line: one JSON object, one newline, at its end.
//! - Nothing goes out that makes Maelstrom deaf (nesting, numbers and keys are bounded where they come in).
//! - Peers' messages, replies and errors are never answered with an error, so two nodes cannot argue for ever.

pub mod canonical;
mod clients;
pub mod decode;
pub mod encode;
pub mod packed;
mod peek;
mod quick;
mod rejection;
mod request;
pub mod sync;
pub mod sync_decode;
mod text;

pub use canonical::{CanonicalError, LARGEST_ELEMENT_BYTES, Limits, canonical};
pub use decode::{Decoder, Incoming, MAX_LINE_BYTES};
pub use encode::encode;
pub use peek::reject_overlong;
pub use rejection::{ErrorReply, Rejection};
pub use sync::{SYNC_VERSION, op_size_hint};
pub use sync_decode::SyncError;
