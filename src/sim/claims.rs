//! What messages to peers say, held against what their sender holds and against the book.

use super::book::Book;
use super::rules::Rule;
use crate::crdt::{Dot, OpBody, Seq, VersionVector};
use crate::replica::{PeerBody, PeerMessage, StateContent};

/// Checks a message of somebody who holds `held`.
///
/// # Panics
/// If it claims more than its sender holds, or carries what nobody has made (invariant 3).
pub fn check_message(book: &Book, held: &VersionVector, message: &PeerMessage) {
    let within = |vv: &VersionVector, what: &str| {
        Rule::Context.must(vv.is_within(held), || format!("{what} says {vv:?} of somebody who holds {held:?}"));
    };
    match &message.body {
        PeerBody::Digest { vv, full: true, .. } => within(vv, "a digest"),
        PeerBody::Digest { vv, full: false, .. } => within(&book.expand(vv), "a digest"),
        PeerBody::Ops { vv, ops, .. } => {
            within(&book.expand(vv), "a message with operations");
            for op in ops {
                let made = book.get(op.dot) == Some(op);
                Rule::Context.must(made && held.covers(op.dot), || format!("{op:?} was sent, and is not held so"));
            }
        }
        PeerBody::Sign { vv, .. } => within(&book.expand(vv), "a word"),
        PeerBody::Offer { vv, .. } => within(vv, "an offer"),
        PeerBody::Pull { digest, .. } => digest.iter().for_each(|vv| within(vv, "a pull")),
        PeerBody::Part { content, .. } => check_part(book, held, content),
        PeerBody::Gone { .. } => {}
    }
}

fn check_part(book: &Book, held: &VersionVector, content: &StateContent) {
    for (element, tag) in &content.records {
        let made = book.get(*tag).is_some_and(|op| op.body == OpBody::Add(element.clone()));
        Rule::Context.must(made && held.covers(*tag), || format!("{element:?} {tag} was sent, and is not held so"));
    }
    for dot in content.live.iter().flat_map(crate::crdt::LiveBits::dots) {
        let made = book.get(dot).is_some_and(|op| matches!(op.body, OpBody::Add(_)));
        Rule::Context.must(made && held.covers(dot), || format!("{dot} is said to be live, and is not held"));
    }
    for (replica, incarnation) in &content.incarnations {
        let start = book.get(Dot::new(*replica, Seq(1))).map(|op| &op.body);
        let same = |body: &OpBody| match body {
            OpBody::Start { node, parent } => *node == incarnation.node && *parent == incarnation.parent,
            _ => false,
        };
        Rule::Context.must(start.is_some_and(same), || format!("{replica} was not started as {incarnation:?}"));
    }
}
