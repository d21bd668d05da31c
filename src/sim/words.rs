//! Requests, replies and messages in words, short enough for a line.

use super::network::kind;
use crate::crdt::VersionVector;
use crate::replica::{PeerBody, Reply, Request};

/// Of longer texts the beginning is enough.
const SHORT: usize = 24;

fn short(text: &str) -> &str {
    text.get(..SHORT).unwrap_or(text)
}

/// What a client wants.
pub fn request(request: &Request) -> String {
    match request {
        Request::Add(element) => format!("add {}", short(element.as_str())),
        Request::Remove(element) => format!("remove {}", short(element.as_str())),
        Request::Once(key, write) => {
            format!("{} once, as {}", self::request(&write.clone().into()), &key.to_string()[..4])
        }
        other => format!("{other:?}").to_lowercase(),
    }
}

/// What it is told.
pub fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Added(tag) => format!("added as {tag}"),
        Reply::Removed(tags) => {
            let tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
            format!("removed [{}]", tags.join(" "))
        }
        Reply::Elements(list) => {
            let texts: Vec<_> = list.iter().map(String::from_utf8_lossy).collect();
            let texts: Vec<&str> = texts.iter().map(|text| short(text)).collect();
            format!("there are {}", texts.join(" "))
        }
        other => format!("{other:?}"),
    }
}

fn vector(vv: &VersionVector) -> String {
    let entry = |(replica, seq): (crate::crdt::ReplicaId, _)| format!("{}:{seq}", &replica.to_string()[..4]);
    vv.iter().map(entry).collect::<Vec<_>>().join(" ")
}

/// What a node says to another.
pub fn message(body: &PeerBody) -> String {
    match body {
        PeerBody::Digest { vv, full, .. } => {
            format!("{} digest {{{}}}", if *full { "a full" } else { "a" }, vector(vv))
        }
        PeerBody::Ops { ops, answer, .. } => {
            let to = if answer.is_some() { "in answer " } else { "" };
            match (ops.first(), ops.last()) {
                (Some(first), Some(last)) => format!("{to}{} operations, {} to {}", ops.len(), first.dot, last.dot),
                _ => format!("{to}no operations"),
            }
        }
        PeerBody::Part { offset, next, content, .. } => {
            let (records, live) = (content.records.len(), content.live.len());
            let last = if next.is_none() { "the last part" } else { "a part" };
            format!("{last} at {}.{}.{}: {records} records, {live} bitmaps", offset.stage, offset.block, offset.item)
        }
        other => format!("{} {}", if kind(other) == "offer" { "an" } else { "a" }, kind(other)),
    }
}
