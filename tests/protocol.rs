//! The protocol as its users see it: sessions with the real binary under `tests/golden/protocol/`, the sample inputs that
//! the project was started from, and the exact shape of every reply.
//!
//! In a golden script the prefix is the client, and what follows `>` is a request's body; without a prefix it is a line as
//! it is. UUIDs differ from run to run: each v8 (a tag) is shown as t1, t2 … in order of first appearance, each v4 as u1, u2 ….
//! `UPDATE_GOLDENFILES=1 cargo test --test protocol` writes what was said; read the diff.

mod support;

use std::error::Error;
use std::path::Path;

use goldenscript::{Command, Runner};
use serde_json::Value;
use support::node::Node;
use support::temp_dir;
use uuid::Uuid;

/// One node on one data directory, over any number of restarts.
struct Session {
    dir: tempfile::TempDir,
    node: Option<Node>,
    seen: Vec<Uuid>,
}

impl Session {
    fn new() -> Self {
        Self { dir: temp_dir(), node: None, seen: Vec::new() }
    }

    fn node(&mut self) -> Result<&mut Node, Box<dyn Error>> {
        self.node.as_mut().ok_or_else(|| "nothing runs: start".into())
    }

    /// A short name for a UUID, the same each time.
    fn name_of(&mut self, uuid: Uuid) -> String {
        if !self.seen.contains(&uuid) {
            self.seen.push(uuid);
        }
        let same_kind = self.seen.iter().filter(|u| u.get_version_num() == uuid.get_version_num());
        let number = same_kind.clone().position(|u| *u == uuid).expect("just put there") + 1;
        match uuid.get_version_num() {
            8 => format!("t{number}"),
            4 => format!("u{number}"),
            other => format!("(a UUID of version {other})"),
        }
    }

    fn without_uuids(&mut self, line: &str) -> String {
        const UUID_CHARS: usize = 36;
        let (mut text, mut rest) = (String::new(), line);
        while let Some(first) = rest.chars().next() {
            match rest.get(..UUID_CHARS).and_then(|part| Uuid::try_parse(part).ok()) {
                Some(uuid) => {
                    text.push_str(&self.name_of(uuid));
                    rest = &rest[UUID_CHARS..];
                }
                None => {
                    text.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        text
    }

    /// A line as it is shown: short names for UUIDs, and the tags of a remove in the order of their names. (A node's
    /// own order rests on replica ids, which are random.)
    fn shown(&mut self, line: &str) -> String {
        const LIST: &str = "\"tags_removed\": [";
        let text = self.without_uuids(line);
        let Some(start) = text.find(LIST).map(|place| place + LIST.len()) else { return text };
        let end = start + text[start..].find("], \"msg_id").expect("a list ends");
        // A list of tags, or of such lists: what is between two brackets is sorted.
        let sorted = |between: &str| {
            let mut tags: Vec<&str> = between.split(", ").collect();
            tags.sort_by_key(|tag| (tag.len(), *tag));
            tags.join(", ")
        };
        let lists: Vec<String> =
            text[start..end].split('[').map(|list| list.split(']').map(sorted).collect::<Vec<_>>().join("]")).collect();
        format!("{}{}{}", &text[..start], lists.join("["), &text[end..])
    }

    /// Sends a line. If it is a request with a number to this node, shows everything up to its reply.
    fn send(&mut self, line: &str) -> Result<String, Box<dyn Error>> {
        let request: Option<Value> = serde_json::from_str(line).ok().filter(|v: &Value| v["dest"] == "n1");
        let node = self.node()?;
        assert!(node.write(line.as_bytes()) && node.write(b"\n"), "the node reads no more");
        let (Some(client), Some(msg_id)) = (
            request.as_ref().and_then(|r| r["src"].as_str()),
            request.as_ref().and_then(|r| r["body"]["msg_id"].as_i64()),
        ) else {
            return Ok(String::new());
        };
        let reply = node.reply_to(client, msg_id);
        let mut lines: Vec<String> = node.drain().into_iter().map(|line| line.text).collect();
        lines.push(reply.text);
        Ok(lines.iter().map(|line| self.shown(line) + "\n").collect())
    }

    /// What was said unasked, and how it ended.
    fn ended(&mut self, how: &str) -> Result<String, Box<dyn Error>> {
        let rest: Vec<String> = self.node()?.drain().into_iter().map(|line| line.text).collect();
        self.node = None;
        let rest: String = rest.iter().map(|line| self.shown(line) + "\n").collect();
        Ok(format!("{rest}{how}\n"))
    }
}

impl Runner for Session {
    fn run(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        if let Some(client) = &command.prefix {
            return self.send(&format!(r#"{{"src":"{client}","dest":"n1","body":{}}}"#, command.name));
        }
        let mut args = command.consume_args();
        let words: Vec<String> = args.rest_pos().iter().map(|arg| arg.value.clone()).collect();
        args.reject_rest()?;
        match command.name.as_str() {
            // start ARG…: the node, on the script's one data directory.
            "start" => {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                self.node = Some(Node::spawn(self.dir.path(), "n1", &words));
                Ok(String::new())
            }
            // stop: ends its input.
            "stop" => {
                let status = self.node()?.process.finish();
                self.ended(&format!("exit {}", status.code().ok_or("killed by a signal")?))
            }
            // kill: SIGKILL.
            "kill" => {
                self.node()?.process.kill();
                self.ended("killed")
            }
            // says TEXT: waits until stderr has it.
            "says" => {
                let stderr = self.node()?.process.stderr.clone();
                words.iter().for_each(|text| stderr.wait_for(text));
                Ok(String::new())
            }
            // garbage HEX…: a line of these bytes.
            "garbage" => {
                let bytes: Result<Vec<u8>, _> = words.iter().map(|hex| u8::from_str_radix(hex, 16)).collect();
                let node = self.node()?;
                assert!(node.write(&bytes?) && node.write(b"\n"), "the node reads no more");
                Ok(String::new())
            }
            // line TEXT: a line, for what `>` cannot write.
            "line" => self.send(&words.concat()),
            line if line.starts_with(['{', '[']) => self.send(line),
            name => Err(format!("no command {name}").into()),
        }
    }
}

macro_rules! golden {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            let script = Path::new("tests/golden/protocol").join(stringify!($name));
            goldenscript::run(&mut Session::new(), script).unwrap();
        }
    )*};
}

golden! {
    or_set_session
    many_and_pages
    request_ids
    echo_and_unique_ids
    g_set_workload
    broadcast_workload
    element_equality
    malformed_lines
    malformed_requests
    before_init
    init_again
    restarts
}

#[test]
fn every_golden_script_is_run() {
    let source = include_str!("protocol.rs");
    for entry in std::fs::read_dir("tests/golden/protocol").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(source.lines().any(|line| line.trim() == name), "no test runs {name}");
    }
}

/// Feeds a whole file, as the project's checker does, and returns the lines of stdout.
fn output_of(input: &str) -> Vec<String> {
    let dir = temp_dir();
    let mut node = Node::spawn(dir.path(), "n1", &[]);
    assert!(node.write(&std::fs::read(input).unwrap()), "the node reads its input");
    node.stop();
    node.drain().into_iter().map(|line| line.text).collect()
}

#[test]
fn the_seed_cases_give_their_first_line_byte_for_byte() {
    let first_line = std::fs::read_to_string("tests/seed-cases/first-line.out").unwrap();
    for (case, replies, last) in
        [("add-and-read", 3, r#""elements": ["apple"]"#), ("remove-deletes-element", 4, r#""elements": []"#)]
    {
        let lines = output_of(&format!("tests/seed-cases/{case}.in"));
        assert_eq!(lines[0], first_line.trim_end(), "{case}");
        assert_eq!(lines.len(), replies, "{case}: {lines:#?}");
        assert!(lines[replies - 1].contains(last), "{case}: {lines:#?}");
    }
}

#[test]
fn the_example_session_runs_as_the_readme_says() {
    let lines = output_of("examples/session.jsonl");
    assert_eq!(lines.len(), include_str!("../examples/session.jsonl").lines().count(), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("\"error\"")), "{lines:#?}");
}

/// Maelstrom's schemas are closed: one key too many and the operation has failed.
#[test]
fn replies_have_their_keys_and_no_others() {
    let dir = temp_dir();
    let mut node = Node::start(dir.path(), "n1", &[]);
    for (request, reply_type, payload) in [
        (r#""type":"or_set_add","element":1"#, "or_set_add_ok", &["tag"][..]),
        (r#""type":"or_set_read""#, "or_set_read_ok", &["elements"]),
        (r#""type":"or_set_remove","element":1"#, "or_set_remove_ok", &["tags_removed"]),
        (r#""type":"or_set_add","element":1,"request_id":"a""#, "or_set_add_ok", &["tag"]),
        (r#""type":"or_set_size""#, "or_set_size_ok", &["elements", "tags"]),
        (
            r#""type":"or_set_status""#,
            "or_set_status_ok",
            &["vv", "elements", "tags", "lsn", "bytes", "index_lag", "peers"],
        ),
        (r#""type":"echo","echo":1"#, "echo_ok", &["echo"]),
        (r#""type":"generate""#, "generate_ok", &["id"]),
        (r#""type":"add","element":1"#, "add_ok", &[]),
        (r#""type":"read""#, "read_ok", &["value"]),
        (r#""type":"topology","topology":{"n1":[]}"#, "topology_ok", &[]),
        (r#""type":"broadcast","message":1"#, "broadcast_ok", &[]),
        (r#""type":"read""#, "read_ok", &["messages"]),
        (r#""type":"no_such_thing""#, "error", &["code", "text"]),
    ] {
        let reply = node.call(request);
        assert_eq!(reply.body["type"], reply_type, "{}", reply.text);
        let mut keys: Vec<&str> = reply.body.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = [&["type", "in_reply_to", "msg_id"], payload].concat();
        keys.sort_unstable();
        expected.sort_unstable();
        assert_eq!(keys, expected, "{}", reply.text);
    }
    node.stop();
}
