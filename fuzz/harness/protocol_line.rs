//! A line that comes in, whoever sent it; and the text of an element.

use orset::crdt::{Dot, Element, NodeId, ReplicaId, Seq};
use orset::maelstrom::{CanonicalError, Decoder, Incoming, Limits, Rejection, canonical, encode, reject_overlong};
use orset::replica::{ElementList, Outgoing, Reply, Request, Style, Ticket};
use orset::storage::Counts;
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

const FRESH_ID: Uuid = Uuid::from_u128(0x0a0b_0c0d_0e0f_4a0b_8c0d_0e0f_0a0b_0c0d);
/// What is wrong is said in about so many characters.
const MAX_WHY_CHARS: usize = 500;

/// See the table in the module above.
pub fn protocol_line(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        element(text);
    }
    match decode(input) {
        Err(rejection) => rejected(rejection),
        Ok(Incoming::Reply | Incoming::Peer { .. }) => {}
        Ok(Incoming::Init { ticket, node_id, node_ids, .. }) => {
            assert!(node_ids.contains(&node_id), "a node outside its own cluster");
            assert_eq!(reply(&ticket, Reply::Init)["type"], "init_ok");
        }
        Ok(Incoming::Request { ticket, dest, request }) => {
            assert!(!dest.is_empty(), "a request to nobody");
            answered(&ticket, &request);
            understood_again(&ticket, &request);
            cut_off(input, &ticket);
        }
    }
}

fn decode(line: &[u8]) -> Result<Incoming<'_>, Rejection> {
    Decoder::new(Limits::default()).decode(line, 5, || FRESH_ID)
}

/// A canonical text is its own, and the same value; what is refused for its form is no JSON.
fn element(text: &str) {
    let is_json = serde_json::from_str::<&RawValue>(text).is_ok();
    match canonical(text, &Limits::default()) {
        Ok(element) => {
            assert!(is_json, "serde_json refuses {text:?}");
            assert!(element.as_bytes().iter().all(|byte| *byte >= 0x20), "a control character");
            assert_eq!(canonical(element.as_str(), &Limits::default()), Ok(element.clone()), "not idempotent");
            let [before, after] = [text, element.as_str()].map(|json| serde_json::from_str::<Value>(json).ok());
            assert_eq!(before, after, "another value");
        }
        Err(CanonicalError::Syntax(_)) => assert!(!is_json, "serde_json takes {text:?}"),
        Err(_) => {}
    }
}

fn rejected(rejection: Rejection) {
    let is_one_line = !rejection.why.contains(char::is_control) && rejection.why.chars().count() <= MAX_WHY_CHARS;
    assert!(is_one_line, "{:?}", rejection.why);
    if let Some(error) = rejection.reply {
        let (client, msg_id, code) = (error.client.to_string(), error.msg_id, error.code.number());
        let line = line(&error.into_outgoing(5));
        assert_eq!((&line["dest"], &line["body"]["type"]), (&Value::from(client), &Value::from("error")));
        assert_eq!((&line["body"]["in_reply_to"], &line["body"]["code"]), (&Value::from(msg_id), &Value::from(code)));
    }
}

/// What goes out is one line of JSON.
fn line(outgoing: &Outgoing) -> Value {
    let mut out = Vec::new();
    encode(&mut out, &NodeId::new("n1").expect("a node id"), 0, outgoing);
    assert_eq!(out.iter().position(|byte| matches!(byte, b'\n' | b'\r')), Some(out.len() - 1), "not one line");
    let text = std::str::from_utf8(&out).expect("what goes out is UTF-8");
    assert!(serde_json::from_str::<&RawValue>(text).is_ok(), "no JSON: {text}");
    // Numbers beyond a float's range are JSON too, but no `Value`.
    serde_json::from_str(text).unwrap_or_default()
}

fn reply(ticket: &Ticket, reply: Reply) -> Value {
    let line = line(&Outgoing::Reply { ticket: ticket.clone(), reply });
    if line.is_object() {
        assert_eq!(line["dest"], Value::from(&*ticket.client));
        assert_eq!(line["body"]["in_reply_to"], Value::from(ticket.msg_id));
    }
    line["body"].clone()
}

fn answered(ticket: &Ticket, request: &Request) {
    let tag = Dot::new(ReplicaId::from_random(7), Seq(2));
    match request {
        Request::Add(element) => {
            let mut elements = ElementList::default();
            elements.push(element.as_bytes());
            reply(ticket, Reply::Elements(elements));
            reply(ticket, Reply::Added(tag));
        }
        Request::Remove(_) => drop(reply(ticket, Reply::Removed(vec![tag, tag]))),
        Request::AddMany(elements) => drop(reply(ticket, Reply::AddedMany(vec![tag; elements.len()]))),
        Request::RemoveMany(elements) => drop(reply(ticket, Reply::RemovedMany(vec![vec![tag]; elements.len()]))),
        Request::Once(_, write) => answered(ticket, &write.clone().into()),
        Request::Size => drop(reply(ticket, Reply::Size(Counts { elements: u64::MAX, tags: 0 }))),
        Request::Contains(_) | Request::Status => drop(reply(ticket, Reply::Contains(true))),
        Request::Page { after, .. } => {
            let mut elements = ElementList::default();
            after.iter().for_each(|element| elements.push(element.as_bytes()));
            reply(ticket, Reply::Page { elements, more: true });
        }
        Request::Read | Request::Topology => drop(reply(ticket, Reply::Topology)),
        Request::Echo(json) => {
            let body = reply(ticket, Reply::Echo(json.clone()));
            let echo = serde_json::from_str::<Value>(json);
            assert!(!body.is_object() || echo.is_ok_and(|echo| echo == body["echo"]), "another echo than {json:?}");
        }
        Request::Generate(id) => {
            assert_eq!(*id, FRESH_ID);
            reply(ticket, Reply::Generated(*id));
        }
    }
}

/// The request, put in the plainest words, is the same request.
fn understood_again(ticket: &Ticket, request: &Request) {
    let list = |elements: &[Element]| {
        let texts: Vec<&str> = elements.iter().map(Element::as_str).collect();
        format!(",\"elements\":[{}]", texts.join(","))
    };
    let (kind, payload) = match (request, ticket.style) {
        // Its name is not known any more, only what it was for.
        (Request::Once(_, write), _) => return understood_again(ticket, &write.clone().into()),
        (Request::Size, _) => ("or_set_size", String::new()),
        (Request::Status, _) => ("or_set_status", String::new()),
        (Request::Add(element), Style::OrSet) => ("or_set_add", format!(",\"element\":{}", element.as_str())),
        (Request::Add(element), Style::GSet) => ("add", format!(",\"element\":{}", element.as_str())),
        (Request::Add(element), Style::Broadcast) => ("broadcast", format!(",\"message\":{}", element.as_str())),
        (Request::Remove(element), _) => ("or_set_remove", format!(",\"element\":{}", element.as_str())),
        (Request::AddMany(elements), _) => ("or_set_add_many", list(elements)),
        (Request::RemoveMany(elements), _) => ("or_set_remove_many", list(elements)),
        (Request::Contains(element), _) => ("or_set_contains", format!(",\"element\":{}", element.as_str())),
        (Request::Page { limit, after: Some(after) }, _) => {
            ("or_set_read", format!(",\"limit\":{limit},\"after\":{}", after.as_str()))
        }
        (Request::Page { limit, after: None }, _) => ("or_set_read", format!(",\"limit\":{limit}")),
        (Request::Read, Style::OrSet) => ("or_set_read", String::new()),
        (Request::Read, _) => ("read", String::new()),
        (Request::Topology, _) => ("topology", ",\"topology\":{}".to_owned()),
        (Request::Echo(json), _) => ("echo", format!(",\"echo\":{json}")),
        (Request::Generate(_), _) => ("generate", String::new()),
    };
    let client = Value::from(&*ticket.client);
    let msg_id = ticket.msg_id;
    let line = format!(r#"{{"src":{client},"dest":"n1","body":{{"type":"{kind}","msg_id":{msg_id}{payload}}}}}"#);
    let again = Incoming::Request { ticket: ticket.clone(), dest: "n1".into(), request: request.clone() };
    assert_eq!(decode(line.as_bytes()), Ok(again), "{line}");
}

/// Cut off anywhere, it is answered to nobody else and in no other request.
fn cut_off(input: &[u8], ticket: &Ticket) {
    for cut in (0..input.len()).step_by(1 + input.len() / 64) {
        if let Some(error) = reject_overlong(&input[..cut]).reply {
            assert_eq!((&error.client, error.msg_id), (&ticket.client, ticket.msg_id), "cut at {cut}");
        }
    }
}
