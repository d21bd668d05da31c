//! Messages as text: what the bench sends, and what it takes from a node. As strict as Maelstrom: a line that would make
//! Maelstrom deaf to the node is a bad line here.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::history::{Answer, Request, Workload};

/// A line from a node.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FromNode<'a> {
    /// Who says it.
    pub src: String,
    /// To whom.
    pub dest: String,
    /// Maelstrom allows it.
    #[serde(default)]
    #[allow(dead_code, reason = "only its type is checked")]
    id: Option<i64>,
    /// As it stands.
    #[serde(borrow)]
    pub body: &'a RawValue,
}

/// Reads a line from a node.
///
/// # Errors
/// Why Maelstrom would not take it.
pub fn parse(line: &[u8]) -> Result<FromNode<'_>, String> {
    let message: FromNode = serde_json::from_slice(line).map_err(|error| format!("not a message: {error}"))?;
    if !message.body.get().starts_with('{') {
        return Err("not a message: body is not an object".to_owned());
    }
    Ok(message)
}

/// The line of a message to a node, with its end.
#[must_use]
pub fn line(id: u64, src: &str, dest: &str, body: &Value) -> Vec<u8> {
    let mut line = json!({"id": id, "src": src, "dest": dest, "body": body}).to_string().into_bytes();
    line.push(b'\n');
    line
}

/// The body of a request.
#[must_use]
pub fn body(workload: Workload, request: &Request, msg_id: u64) -> Value {
    let (kind, payload) = match (workload, request) {
        (Workload::OrSet, Request::Add { element }) => ("or_set_add", Some(("element", element))),
        (Workload::OrSet, Request::Read) => ("or_set_read", None),
        (Workload::Broadcast, Request::Add { element }) => ("broadcast", Some(("message", element))),
        (_, Request::Remove { element }) => ("or_set_remove", Some(("element", element))),
        (_, Request::Add { element }) => ("add", Some(("element", element))),
        (_, Request::Read) => ("read", None),
        (_, Request::Echo { echo }) => ("echo", Some(("echo", echo))),
        (_, Request::Generate) => ("generate", None),
    };
    let mut body = json!({"type": kind, "msg_id": msg_id});
    if let Some((key, value)) = payload {
        body[key] = value.clone();
    }
    body
}

/// What a reply says.
#[derive(Debug, PartialEq)]
pub enum Reply {
    /// Done.
    Ok(Answer),
    /// Not done, and it will not be: code and text.
    Fail(i64, String),
    /// Perhaps done.
    Info(String),
}

/// Error codes that say that the operation did not and will not happen: all of Maelstrom's but 0 (timeout) and 13
/// (crash). Codes from 1000 are the node's own, and count as indefinite.
const DEFINITE: [i64; 10] = [1, 10, 11, 12, 14, 20, 21, 22, 30, 31];

/// What a reply says to a request.
///
/// # Errors
/// If it is not a reply to such a request.
pub fn reply(workload: Workload, request: &Request, body: &Value) -> Result<Reply, String> {
    let kind = body["type"].as_str().ok_or("a reply without a type")?;
    if kind == "error" {
        let code = body["code"].as_i64().ok_or("an error without a code")?;
        let text = body["text"].as_str().unwrap_or_default().to_owned();
        return Ok(if DEFINITE.contains(&code) {
            Reply::Fail(code, text)
        } else {
            Reply::Info(format!("error {code}: {text}"))
        });
    }
    let asked = self::body(workload, request, 0);
    let asked = asked["type"].as_str().unwrap_or_default();
    if kind.strip_suffix("_ok") != Some(asked) {
        return Err(format!("{kind:?} in reply to {asked:?}"));
    }
    // The field of the payload. Maelstrom's schemas are closed.
    let field = |name: &str| {
        only(body, name)?;
        body.get(name).cloned().ok_or_else(|| format!("{kind} without {name:?}"))
    };
    let list = |name: &str| match field(name)? {
        Value::Array(values) => Ok(values),
        _ => Err(format!("{kind} whose {name:?} is not a list")),
    };
    let text = |name: &str, value: Value| match value {
        Value::String(text) => Ok(text),
        _ => Err(format!("{kind} whose {name:?} is not a string")),
    };
    Ok(Reply::Ok(match (request, workload) {
        (Request::Add { .. }, Workload::OrSet) => Answer::Add { tag: Some(text("tag", field("tag")?)?) },
        (Request::Add { .. }, _) => {
            only(body, "type")?;
            Answer::Add { tag: None }
        }
        (Request::Remove { .. }, _) => {
            let tags = list("tags_removed")?.into_iter().map(|tag| text("tags_removed", tag));
            Answer::Remove { tags: tags.collect::<Result<_, _>>()? }
        }
        (Request::Read, Workload::OrSet) => Answer::Read { elements: list("elements")? },
        (Request::Read, Workload::Broadcast) => Answer::Read { elements: list("messages")? },
        (Request::Read, _) => Answer::Read { elements: list("value")? },
        (Request::Echo { .. }, _) => Answer::Echo { echo: field("echo")? },
        (Request::Generate, _) => Answer::Generate { id: field("id")? },
    }))
}

/// A body has no keys but those of every reply, and this one.
fn only(body: &Value, name: &str) -> Result<(), String> {
    let known = |key: &str| ["type", "in_reply_to", "msg_id", name].contains(&key);
    match body.as_object().into_iter().flatten().find(|(key, _)| !known(key)) {
        Some((key, _)) => Err(format!("a reply with a key too many: {key:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_make_maelstrom_deaf_are_bad() {
        for bad in ["", "hello", "[]", r#"{"src":"n0","dest":"c0"}"#, r#"{"src":"n0","dest":"c0","body":[]}"#] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        for bad in [r#"{"src":"n0","dest":"c0","body":{},"x":1}"#, r#"{"src":"n0","dest":"c0","body":{},"id":"x"}"#] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(parse(br#"{"src":"n0","dest":"c0","body":{},"id":1}"#).map(|m| m.dest), Ok("c0".to_owned()));
    }

    #[test]
    fn replies_are_judged_by_their_request() {
        let add = Request::Add { element: json!("x") };
        let said = |workload, request, body: Value| reply(workload, request, &body);
        let tagged = Reply::Ok(Answer::Add { tag: Some("t".to_owned()) });
        assert_eq!(said(Workload::OrSet, &add, json!({"type": "or_set_add_ok", "tag": "t"})), Ok(tagged));
        assert!(said(Workload::OrSet, &add, json!({"type": "or_set_add_ok"})).is_err());
        assert!(said(Workload::OrSet, &add, json!({"type": "or_set_remove_ok"})).is_err());
        let done = Reply::Ok(Answer::Add { tag: None });
        assert_eq!(said(Workload::Broadcast, &add, json!({"type": "broadcast_ok"})), Ok(done));
        assert!(said(Workload::Broadcast, &add, json!({"type": "broadcast_ok", "message": 1})).is_err());
        assert!(said(Workload::OrSet, &add, json!({"type": "or_set_add_ok", "tag": "t", "element": "x"})).is_err());
        let full = json!({"type": "or_set_add_ok", "tag": "t", "in_reply_to": 1, "msg_id": 2});
        assert!(said(Workload::OrSet, &add, full).is_ok());
        let error = |code: i64| json!({"type": "error", "code": code, "text": "t"});
        assert_eq!(said(Workload::GSet, &Request::Read, error(11)), Ok(Reply::Fail(11, "t".to_owned())));
        assert_eq!(said(Workload::GSet, &Request::Read, error(13)), Ok(Reply::Info("error 13: t".to_owned())));
    }
}
