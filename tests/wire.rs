//! The wire: golden scripts of lines in and what becomes of them, and bytes of all kinds that must not bring it down.
//!
//! In a script, `> LINE` is a line that comes in. Its output is what was understood, then what goes out: for a request
//! a made-up reply, for a peer's message the same message written anew, for a rejected line the error, if any.

use std::error::Error;

use orset::crdt::{Dot, NodeId, ReplicaId, Seq};
use orset::maelstrom::{Decoder, Incoming, Limits, Rejection, encode, reject_overlong};
use orset::replica::{ElementList, Outgoing, PeerStatus, Reply, Request, Status};
use orset::storage::{Counts, Lsn};
use proptest::prelude::*;
use uuid::Uuid;

const FRESH_ID: Uuid = Uuid::from_u128(0x0a0b_0c0d_0e0f_4a0b_8c0d_0e0f_0a0b_0c0d);

fn decode(line: &[u8]) -> Result<Incoming<'_>, Rejection> {
    Decoder::new(Limits::default()).decode(line, 5, || FRESH_ID)
}

/// The line for a message from n1, which must be one line of one JSON object.
fn line(outgoing: &Outgoing) -> String {
    let mut out = b"before".to_vec();
    encode(&mut out, &NodeId::new("n1").unwrap(), 0, outgoing);
    let text = String::from_utf8(out).unwrap();
    let line = text.strip_prefix("before").unwrap().strip_suffix('\n').unwrap();
    assert!(!line.contains(['\n', '\r']));
    let object: serde_json::Value = serde_json::from_str(line).unwrap();
    let keys: Vec<&String> = object.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["body", "dest", "src"], "no other keys on top (serde_json sorts them)");
    line.to_owned()
}

fn some_elements() -> ElementList {
    let mut elements = ElementList::default();
    [&br#""apple""#[..], br#"{"a":[1,2.0]}"#, b"3"].iter().for_each(|element| elements.push(element));
    elements
}

fn some_status() -> Status {
    let (node, replica) = (|name| NodeId::new(name).unwrap(), |n: u128| ReplicaId::from_random(n << 64 | n));
    let peer = |lacks, heard_ms_ago| PeerStatus { lacks, ahead: lacks.map(|lacks| lacks + 1), heard_ms_ago };
    Status {
        vv: [
            (node("n1"), vec![(replica(1), Seq(7)), (replica(2), Seq(3))]),
            (node("n2"), vec![(replica(3), Seq(Seq::MAX.0))]),
        ]
        .into(),
        counts: Counts { elements: 2, tags: 3 },
        lsn: Lsn(13),
        log_bytes: 1,
        snapshot_bytes: 0,
        index_bytes: u64::MAX,
        index_lag: 4,
        peers: [(node("n2"), peer(Some(0), Some(120))), (node("n3"), peer(None, None))].into(),
    }
}

/// Some reply that fits the request.
fn reply_to(request: &Request) -> Reply {
    let tag = |seq| Dot::new(ReplicaId::from_random(7), Seq(seq));
    match request {
        Request::Add(_) => Reply::Added(tag(2)),
        Request::Remove(_) => Reply::Removed(vec![tag(2), tag(3)]),
        Request::AddMany(elements) => Reply::AddedMany((2..).take(elements.len()).map(tag).collect()),
        Request::RemoveMany(elements) => Reply::RemovedMany(vec![vec![tag(2), tag(3)]; elements.len()]),
        Request::Once(_, write) => reply_to(&write.clone().into()),
        Request::Size => Reply::Size(Counts { elements: 2, tags: u64::MAX }),
        Request::Status => Reply::Status(Box::new(some_status())),
        Request::Contains(element) => Reply::Contains(element.as_bytes() != b"0"),
        Request::Read => Reply::Elements(some_elements()),
        Request::Page { limit, .. } => Reply::Page { elements: some_elements(), more: *limit < 4 },
        Request::Topology => Reply::Topology,
        Request::Echo(json) => Reply::Echo(json.clone()),
        Request::Generate(id) => Reply::Generated(*id),
    }
}

/// What becomes of a line.
fn outcome(bytes: &[u8]) -> String {
    match decode(bytes) {
        Ok(incoming) => {
            let answer = match &incoming {
                Incoming::Init { ticket, .. } => Some((ticket, Reply::Init)),
                Incoming::Request { ticket, request, .. } => Some((ticket, reply_to(request))),
                Incoming::Peer { .. } | Incoming::Reply => None,
            };
            let mut text = format!("{incoming:?}");
            if let Some((ticket, reply)) = answer {
                text += &format!("\n→ {}", line(&Outgoing::Reply { ticket: ticket.clone(), reply }));
            }
            if let Incoming::Peer { from, message, .. } = &incoming {
                text += &format!("\n→ {}", line(&Outgoing::Peer { to: from.clone(), message: message.clone() }));
            }
            text
        }
        Err(rejection) => rejected(rejection),
    }
}

fn rejected(rejection: Rejection) -> String {
    let why = format!("rejected: {}", rejection.why);
    match rejection.reply {
        Some(reply) => format!("{why}\n→ {}", line(&reply.into_outgoing(5))),
        None => why,
    }
}

struct Script;

impl goldenscript::Runner for Script {
    fn run(&mut self, command: &goldenscript::Command) -> Result<String, Box<dyn Error>> {
        Ok(if command.tags.contains("overlong") {
            rejected(reject_overlong(command.name.as_bytes()))
        } else {
            outcome(command.name.as_bytes())
        })
    }
}

#[test]
fn requests() -> std::io::Result<()> {
    goldenscript::run(&mut Script, "tests/golden/wire/requests")
}

#[test]
fn rejections() -> std::io::Result<()> {
    goldenscript::run(&mut Script, "tests/golden/wire/rejections")
}

#[test]
fn peers() -> std::io::Result<()> {
    goldenscript::run(&mut Script, "tests/golden/wire/peers")
}

/// All lines that the scripts feed in.
fn sample_lines() -> Vec<String> {
    let scripts = ["requests", "rejections", "peers"].map(|name| format!("tests/golden/wire/{name}"));
    let text: String = scripts.iter().map(|script| std::fs::read_to_string(script).unwrap()).collect();
    text.lines().filter_map(|line| line.strip_prefix("> ")).map(str::to_owned).collect()
}

#[test]
fn lines_cut_anywhere_or_with_any_byte_changed_do_no_harm() {
    let samples = sample_lines();
    assert!(samples.len() > 50, "the scripts were found");
    for sample in samples {
        let bytes = sample.as_bytes();
        for at in 0..bytes.len() {
            outcome(&bytes[..at]);
            rejected(reject_overlong(&bytes[..at]));
            let mut flipped = bytes.to_vec();
            for change in [1, 2, 4, 0x20, 0x80, 0xff] {
                flipped[at] = bytes[at] ^ change;
                outcome(&flipped);
            }
        }
    }
}

#[test]
fn an_error_for_a_line_cut_off_goes_to_whoever_asked_or_to_nobody() {
    for sample in sample_lines() {
        let Err(Rejection { reply: Some(whole), .. }) = decode(sample.as_bytes()) else { continue };
        for at in 0..sample.len() {
            if let Err(Rejection { reply: Some(cut), .. }) = decode(&sample.as_bytes()[..at]) {
                assert_eq!((cut.client, cut.msg_id), (whole.client.clone(), whole.msg_id), "{}", &sample[..at]);
            }
        }
    }
}

#[test]
fn deep_nesting_and_huge_fields_do_no_harm() {
    let deep =
        ["[".repeat(1 << 20), "{\"a\":".repeat(1 << 18), format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20))];
    let huge =
        ["9".repeat(1 << 20), format!("\"{}\"", "x".repeat(1 << 20)), format!("\"{}\"", "\\u0000".repeat(1 << 18))];
    for value in deep.iter().chain(&huge) {
        for start in [
            r#"{"src":"c1","dest":"n1","body":{"type":"or_set_add","msg_id":1,"element":"#,
            r#"{"src":"c1","dest":"n1","body":{"type":"echo","msg_id":1,"echo":"#,
            r#"{"src":"c1","dest":"n1","body":{"type":"echo","echo":1,"msg_id":"#,
            r#"{"src":"c1","dest":"n1","body":{"msg_id":1,"type":"#,
            r#"{"src":"n2","dest":"n1","body":{"type":"orset_ops","v":1,"from":"0000000000000000003","vv":[],"runs":"#,
            r#"{"src":"#,
            "",
        ] {
            if let Err(rejection) = decode(format!("{start}{value}}}}}").as_bytes()) {
                assert!(rejection.why.len() < 2_000, "the log is spared");
                assert!(rejection.reply.is_none_or(|reply| reply.text.len() < 2_000));
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        outcome(&bytes);
        rejected(reject_overlong(&bytes));
    }

    #[test]
    fn anything_like_a_line_does_no_harm(
        src in any::<String>(),
        kind in proptest::sample::select(vec!["or_set_add", "init", "echo", "read", "topology", "orset_ops", "x"]),
        field in proptest::sample::select(vec!["element", "message", "echo", "node_id", "node_ids", "runs", "key"]),
        value in "[\\[\\]{}\",:\\\\u0-9a-f.e+ntrls -]{0,30}",
    ) {
        let src = serde_json::to_string(&src).unwrap();
        outcome(format!(r#"{{"src":{src},"dest":"n1","body":{{"type":"{kind}","msg_id":1,"{field}":{value}}}}}"#).as_bytes());
    }
}
