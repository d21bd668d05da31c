//! What a replica says → one line.
//!
//! ```text
//! {"src": "n1", "dest": "c0", "body": {"type": "init_ok", "in_reply_to": 1, "msg_id": 0}}
//! {"src": "n1", "dest": "c1", "body": {"type": "or_set_read_ok", "in_reply_to": 4, "elements": ["a", {"b":1}], "msg_id": 9}}
//! ```
//!
//! Every line has that shape: the keys in the order src, dest, body; in the body type, in_reply_to, the payload, msg_id;
//! `", "` and `": "` between them. Elements and the payloads of peers' messages are canonical JSON, without white space.
//! A reply is in the words of the workload that the request was in, and has no key that they do not know: Maelstrom's
//! schemas are closed.

use std::fmt::Display;

use crate::crdt::{NodeId, Tag};
use crate::replica::{ElementList, Outgoing, Reply, Status, Style, Ticket};

use super::sync;
use super::text::{push_i64, push_string, push_u64, push_uuid};

/// Appends the line for a message from the node `src`, of which this is the `msg_id`-th (counted from 0).
pub fn encode(out: &mut Vec<u8>, src: &NodeId, msg_id: u64, outgoing: &Outgoing) {
    out.extend_from_slice(b"{\"src\": ");
    push_string(out, src.as_str());
    out.extend_from_slice(b", \"dest\": ");
    match outgoing {
        Outgoing::Reply { ticket, reply } => {
            push_string(out, &ticket.client);
            out.extend_from_slice(b", \"body\": {\"type\": \"");
            out.extend_from_slice(kind(reply, ticket.style).as_bytes());
            out.extend_from_slice(b"\", \"in_reply_to\": ");
            push_i64(out, ticket.msg_id);
            push_payload(out, ticket, reply);
        }
        Outgoing::Peer { to, message } => {
            push_string(out, to.as_str());
            out.extend_from_slice(b", \"body\": {");
            sync::push_members(out, message);
        }
    }
    out.extend_from_slice(b", \"msg_id\": ");
    push_u64(out, msg_id);
    out.extend_from_slice(b"}}\n");
}

/// The type on the wire.
const fn kind(reply: &Reply, style: Style) -> &'static str {
    match (reply, style) {
        (Reply::Init, _) => "init_ok",
        (Reply::Added(_), Style::OrSet) => "or_set_add_ok",
        (Reply::Added(_), Style::GSet) => "add_ok",
        (Reply::Added(_), Style::Broadcast) => "broadcast_ok",
        (Reply::Removed(_), _) => "or_set_remove_ok",
        (Reply::AddedMany(_), _) => "or_set_add_many_ok",
        (Reply::RemovedMany(_), _) => "or_set_remove_many_ok",
        (Reply::Contains(_), _) => "or_set_contains_ok",
        (Reply::Size(_), _) => "or_set_size_ok",
        (Reply::Status(_), _) => "or_set_status_ok",
        (Reply::Elements(_), Style::OrSet) | (Reply::Page { .. }, _) => "or_set_read_ok",
        (Reply::Elements(_), Style::GSet | Style::Broadcast) => "read_ok",
        (Reply::Topology, _) => "topology_ok",
        (Reply::Echo(_), _) => "echo_ok",
        (Reply::Generated(_), _) => "generate_ok",
        (Reply::Error { .. }, _) => "error",
    }
}

fn push_payload(out: &mut Vec<u8>, ticket: &Ticket, reply: &Reply) {
    match reply {
        Reply::Init | Reply::Topology => {}
        Reply::Added(tag) => {
            if ticket.style == Style::OrSet {
                push_key(out, "tag");
                push_uuid(out, tag.to_uuid());
            }
        }
        Reply::AddedMany(tags) => {
            push_key(out, "tags");
            push_tags(out, tags);
        }
        Reply::Removed(tags) => {
            push_key(out, "tags_removed");
            push_tags(out, tags);
        }
        Reply::RemovedMany(lists) => {
            push_key(out, "tags_removed");
            push_array(out, lists, |out, tags| push_tags(out, tags));
        }
        Reply::Contains(value) => {
            push_key(out, "value");
            out.extend_from_slice(if *value { b"true" } else { b"false" });
        }
        Reply::Size(counts) => {
            push_key(out, "elements");
            push_u64(out, counts.elements);
            push_key(out, "tags");
            push_u64(out, counts.tags);
        }
        Reply::Status(status) => push_status(out, status),
        Reply::Page { elements, more } => {
            push_key(out, "elements");
            push_elements(out, elements);
            // Left out at the end, as `null` would be an element.
            if let Some(last) = elements.last().filter(|_| *more) {
                push_key(out, "next");
                out.extend_from_slice(last);
            }
        }
        Reply::Elements(elements) => {
            push_key(
                out,
                match ticket.style {
                    Style::OrSet => "elements",
                    Style::GSet => "value",
                    Style::Broadcast => "messages",
                },
            );
            push_elements(out, elements);
        }
        Reply::Echo(json) => {
            push_key(out, "echo");
            out.extend_from_slice(json.as_bytes());
        }
        Reply::Generated(id) => {
            push_key(out, "id");
            push_uuid(out, *id);
        }
        Reply::Error { code, text } => {
            push_key(out, "code");
            push_u64(out, u64::from(code.number()));
            push_key(out, "text");
            push_string(out, text);
        }
    }
}

fn push_status(out: &mut Vec<u8>, status: &Status) {
    push_key(out, "vv");
    push_object(out, &status.vv, |out, incarnations| {
        push_object(out, incarnations.iter().map(|(replica, seq)| (replica, seq)), |out, seq| push_u64(out, seq.0));
    });
    let bytes = [("log", status.log_bytes), ("snapshot", status.snapshot_bytes), ("index", status.index_bytes)];
    for (key, number) in [("elements", status.counts.elements), ("tags", status.counts.tags), ("lsn", status.lsn.0)] {
        push_key(out, key);
        push_u64(out, number);
    }
    push_key(out, "bytes");
    push_object(out, bytes, push_u64);
    push_key(out, "index_lag");
    push_u64(out, status.index_lag);
    push_key(out, "peers");
    push_object(out, &status.peers, |out, peer| {
        let members = [("lacks", peer.lacks), ("ahead", peer.ahead), ("heard_ms_ago", peer.heard_ms_ago)];
        push_object(out, members, |out, number| match number {
            Some(number) => push_u64(out, number),
            None => out.extend_from_slice(b"null"),
        });
    });
}

/// An object whose keys need no escapes.
fn push_object<K: Display, V>(
    out: &mut Vec<u8>,
    members: impl IntoIterator<Item = (K, V)>,
    push: impl Fn(&mut Vec<u8>, V),
) {
    out.push(b'{');
    for (n, (key, value)) in members.into_iter().enumerate() {
        if n > 0 {
            out.extend_from_slice(b", ");
        }
        push_string(out, &key.to_string());
        out.extend_from_slice(b": ");
        push(out, value);
    }
    out.push(b'}');
}

fn push_key(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(b", \"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\": ");
}

fn push_tags(out: &mut Vec<u8>, tags: &[Tag]) {
    push_array(out, tags, |out, tag| push_uuid(out, tag.to_uuid()));
}

fn push_elements(out: &mut Vec<u8>, elements: &ElementList) {
    push_array(out, elements.iter(), |out, element| out.extend_from_slice(element));
}

fn push_array<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, push: impl Fn(&mut Vec<u8>, T)) {
    out.push(b'[');
    for (n, item) in items.into_iter().enumerate() {
        if n > 0 {
            out.extend_from_slice(b", ");
        }
        push(out, item);
    }
    out.push(b']');
}
