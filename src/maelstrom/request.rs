//! The requests: what the body of a client's line asks for.
//!
//! ```text
//! or_set_add {element}  or_set_remove {element}  or_set_read     Style::OrSet
//! or_set_add_many {elements}  or_set_remove_many {elements}      Style::OrSet
//! or_set_contains {element}   or_set_read {limit, after}         Style::OrSet
//! or_set_size   or_set_status                                    Style::OrSet
//! add {element}         read                                     Style::GSet
//! broadcast {message}   topology {topology}                      Style::Broadcast
//! init {node_id, node_ids}    echo {echo}    generate            of no workload in particular: Style::OrSet
//! ```
//!
//! Requests that change the set may have a `request_id`, a text of 1 to 128 bytes. Other keys are ignored, whatever is in
//! them. An element is any JSON value, `null` too.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::crdt::{Element, NodeId, RequestKey};
use crate::replica::{ErrorCode, Request, Style, Write};

use super::canonical::{Limits, canonical, check_limits};

/// Longest `request_id`, in bytes of its text.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The body of a line, borrowed from it. A missing string is an empty one.
#[derive(Deserialize)]
pub(super) struct Body<'a> {
    #[serde(rename = "type", borrow, default)]
    pub kind: Cow<'a, str>,
    pub msg_id: Option<i64>,
    pub in_reply_to: Option<IgnoredAny>,
    /// The version of the sync protocol, of a peer's message.
    #[serde(borrow, default, deserialize_with = "present")]
    pub v: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    element: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    elements: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    request_id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    limit: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    after: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    message: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    echo: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    topology: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    node_id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    node_ids: Option<&'a RawValue>,
}

/// A value that is there, if it is `null` too.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads an object into a derived struct. By itself such a struct would take an array of its fields' values as well.
pub(super) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct ObjectOnly<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectOnly<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(members))
        }
    }

    deserializer.deserialize_map(ObjectOnly(PhantomData))
}

/// What a client asks for.
pub(super) enum Asked {
    /// That the process be a certain node.
    Init { node_id: NodeId, node_ids: Vec<NodeId> },
    /// Something of the replica.
    Request(Style, Request),
}

/// Why it does not get it.
pub(super) struct Refusal {
    pub code: ErrorCode,
    pub text: String,
}

/// Reads a client's body.
pub(super) fn asked(body: &Body, limits: &Limits, fresh_id: impl FnOnce() -> Uuid) -> Result<Asked, Refusal> {
    let ask = |style, request| Ok(Asked::Request(style, request));
    let of_present = &limits.of_present();
    let write = |style, write: Write| {
        let request = match body.request_id {
            None => write.into(),
            Some(json) => Request::Once(request_key(json)?, write),
        };
        Ok(Asked::Request(style, request))
    };
    match &*body.kind {
        "or_set_add" => write(Style::OrSet, Write::Add(element(body.element, "element", limits)?)),
        "or_set_remove" => write(Style::OrSet, Write::Remove(element(body.element, "element", of_present)?)),
        "or_set_add_many" => write(Style::OrSet, Write::AddMany(elements(body.elements, limits)?)),
        "or_set_remove_many" => write(Style::OrSet, Write::RemoveMany(elements(body.elements, of_present)?)),
        "or_set_size" => ask(Style::OrSet, Request::Size),
        "or_set_status" => ask(Style::OrSet, Request::Status),
        "or_set_contains" => ask(Style::OrSet, Request::Contains(element(body.element, "element", of_present)?)),
        "or_set_read" => ask(Style::OrSet, read(body, of_present)?),
        "add" => write(Style::GSet, Write::Add(element(body.element, "element", limits)?)),
        "read" => ask(Style::GSet, Request::Read),
        "broadcast" => write(Style::Broadcast, Write::Add(element(body.message, "message", limits)?)),
        "topology" => {
            let is_object = required(body.topology, "topology")?.get().starts_with('{');
            if is_object { ask(Style::Broadcast, Request::Topology) } else { Err(malformed("topology is no object")) }
        }
        "echo" => ask(Style::OrSet, Request::Echo(echo(body.echo, limits)?)),
        "generate" => ask(Style::OrSet, Request::Generate(fresh_id())),
        "init" => init(body),
        "" => Err(malformed("no type")),
        other => Err(Refusal { code: ErrorCode::NotSupported, text: format!("no request type {other:?} here") }),
    }
}

fn malformed(text: impl Into<String>) -> Refusal {
    Refusal { code: ErrorCode::MalformedRequest, text: text.into() }
}

fn required<'a>(field: Option<&'a RawValue>, name: &str) -> Result<&'a RawValue, Refusal> {
    field.ok_or_else(|| malformed(format!("no {name}")))
}

fn element(field: Option<&RawValue>, name: &str, limits: &Limits) -> Result<Element, Refusal> {
    let json = required(field, name)?.get();
    canonical(json, limits).map_err(|error| malformed(format!("{name}: {error}")))
}

/// Several elements, in the order given; one may be there several times.
fn elements(field: Option<&RawValue>, limits: &Limits) -> Result<Vec<Element>, Refusal> {
    let json = required(field, "elements")?.get();
    let listed: Vec<&RawValue> = serde_json::from_str(json).map_err(|_| malformed("elements is no array"))?;
    listed.into_iter().map(|json| element(Some(json), "elements", limits)).collect()
}

/// The key of a request's name.
fn request_key(json: &RawValue) -> Result<RequestKey, Refusal> {
    let name: Option<Cow<str>> = serde_json::from_str(json.get()).ok();
    let name = name.filter(|name| (1..=MAX_REQUEST_ID_BYTES).contains(&name.len()));
    let name = name.ok_or_else(|| malformed(format!("request_id is no text of 1 to {MAX_REQUEST_ID_BYTES} bytes")))?;
    Ok(RequestKey::of(&name))
}

/// All of the set, or, with a `limit`, a page of it.
fn read(body: &Body, limits: &Limits) -> Result<Request, Refusal> {
    // `null` is an element like any other; the first page has no `after`.
    let after = body.after.map(|json| element(Some(json), "after", limits)).transpose()?;
    match body.limit {
        None if after.is_some() => Err(malformed("after without a limit")),
        None => Ok(Request::Read),
        Some(json) => match serde_json::from_str::<u64>(json.get()) {
            Ok(limit) if limit > 0 => Ok(Request::Page { limit: usize::try_from(limit).unwrap_or(usize::MAX), after }),
            _ => Err(malformed("limit is no whole number above 0")),
        },
    }
}

/// An echo goes back as it came, but for line breaks between its tokens: they would break the line.
fn echo(field: Option<&RawValue>, limits: &Limits) -> Result<Box<str>, Refusal> {
    let json = required(field, "echo")?.get();
    check_limits(json, limits).map_err(|error| malformed(format!("echo: {error}")))?;
    Ok(if json.contains(['\r', '\n']) { json.replace(['\r', '\n'], " ").into() } else { json.into() })
}

fn init(body: &Body) -> Result<Asked, Refusal> {
    let node_id = node(required(body.node_id, "node_id")?).ok_or_else(|| malformed("node_id is no node id"))?;
    let listed = required(body.node_ids, "node_ids")?;
    let listed: Option<Vec<&RawValue>> = serde_json::from_str(listed.get()).ok();
    let node_ids: Option<Vec<NodeId>> = listed.and_then(|ids| ids.into_iter().map(node).collect());
    let node_ids = node_ids.ok_or_else(|| malformed("node_ids is no array of node ids"))?;
    if node_ids.contains(&node_id) {
        Ok(Asked::Init { node_id, node_ids })
    } else {
        Err(malformed("node_id is not among node_ids"))
    }
}

fn node(json: &RawValue) -> Option<NodeId> {
    let text: String = serde_json::from_str(json.get()).ok()?;
    NodeId::new(&text)
}
