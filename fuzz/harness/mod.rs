//! What the fuzzer and `tests/corpus.rs` do with an input. Each target is a function of bytes that panics when it has
//! found something; none is content with "it did not crash".
//!
//! | target | an input is | what must hold |
//! |---|---|---|
//! | [`protocol_line`] | a line, or the text of an element | canonical is idempotent and the same value; what is understood, written anew, is understood the same; a reply is one line of JSON and hits no other request |
//! | [`sync_message`] | lines of peers, for one replica | a message comes out as it went in; the replica claims nothing that it does not hold, and a restart finds what it had |
//! | [`log_segment`] | a segment, its parts, or damage to a sound one | what decodes comes out as it went in; damage is refused, or a prefix is read |
//! | [`snapshot`] | a snapshot, its parts, or damage to a sound one | what can be read can be written and read again; every damage is refused |
//! | [`manifest`] | a manifest, its body, or damage to a sound one | the same |
//!
//! Checksums keep a fuzzer out, so the three on disk have a form whose first byte says that the rest is to be sealed
//! with good ones ([`sealed`]). Every input has a bound on its [`memory`].

pub mod first_cases;
pub mod log_segment;
pub mod manifest;
pub mod memory;
pub mod protocol_line;
pub mod sealed;
pub mod snapshot;
pub mod sync_message;

/// A function that panics if it has found something.
pub type Target = fn(&[u8]);

/// The targets, by the names under which their cases lie in `cases/`.
pub const TARGETS: [(&str, Target); 5] = [
    ("protocol_line", protocol_line::protocol_line),
    ("sync_message", sync_message::sync_message),
    ("log_segment", log_segment::log_segment),
    ("snapshot", snapshot::snapshot),
    ("manifest", manifest::manifest),
];

/// Hands an input to a target, and holds it to the bound on memory.
pub fn run(target: Target, input: &[u8]) {
    memory::bounded(input.len(), || target(input));
}
