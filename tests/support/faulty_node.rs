//! A small OR-Set node with a bug of choice, for the tests of the bench: `faulty_node BUG DIR`. With the bug `none` it is
//! a correct node.
//!
//! It keeps everything in memory and each operation as a line in `DIR/log`, and sends its whole state to its peers when
//! the next request of a client comes. At a start it writes what is good of the log aside and puts that in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

struct Node {
    bug: String,
    log: PathBuf,
    id: String,
    peers: Vec<String>,
    /// Tag to element.
    added: BTreeMap<String, Value>,
    removed: BTreeSet<String>,
    /// Acknowledged and not written: the bug `acks-before-write`.
    unwritten: Vec<Value>,
    last_tag: Option<String>,
    adds: u32,
}

impl Node {
    fn open(bug: String, dir: &Path) -> Node {
        let log = dir.join("log");
        let mut lines: Vec<String> = match File::open(&log) {
            Ok(file) => BufReader::new(file).lines().map_while(Result::ok).collect(),
            Err(_) => Vec::new(),
        };
        if bug == "loses-last-write" {
            lines.pop();
        }
        let (added, removed, unwritten) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        let (id, peers) = (String::new(), Vec::new());
        let mut node = Node { bug, log, id, peers, added, removed, unwritten, last_tag: None, adds: 0 };
        // Whatever follows the first bad line was not synced, so nobody has heard of it.
        let records: Vec<Value> = lines.iter().map_while(|line| serde_json::from_str(line).ok()).collect();
        records.iter().for_each(|record| node.merge(record));
        node.tidy(&records).expect("the log can be replaced");
        node
    }

    /// Puts a log of these records alone in place of the present one.
    fn tidy(&self, records: &[Value]) -> std::io::Result<()> {
        let aside = self.log.with_extension("tmp");
        let mut file = File::create(&aside)?;
        records.iter().try_for_each(|record| writeln!(file, "{record}"))?;
        file.sync_data()?;
        std::fs::rename(&aside, &self.log)?;
        match self.log.parent() {
            Some(dir) if self.bug != "forgets-dir-sync" => File::open(dir)?.sync_all(),
            _ => Ok(()),
        }
    }

    fn merge(&mut self, state: &Value) {
        for pair in state["added"].as_array().into_iter().flatten() {
            if let (Some(tag), element) = (pair[0].as_str(), &pair[1]) {
                self.added.insert(tag.to_owned(), element.clone());
            }
        }
        let removed = state["removed"].as_array().into_iter().flatten();
        self.removed.extend(removed.filter_map(|tag| tag.as_str().map(str::to_owned)));
        if let Some(element) = state.get("removed_element") {
            let tags: Vec<String> = self.tags(element);
            self.removed.extend(tags);
        }
    }

    fn write(&mut self, record: Value) {
        if self.bug == "acks-before-write" {
            self.unwritten.push(record);
        } else {
            self.append(&record);
        }
    }

    fn append(&self, record: &Value) {
        let append = || {
            let mut file = File::options().append(true).open(&self.log)?;
            file.write_all(format!("{record}\n").as_bytes())?;
            if self.bug == "acks-before-sync" { Ok(()) } else { file.sync_data() }
        };
        append().expect("the log can be written");
    }

    fn tags(&self, element: &Value) -> Vec<String> {
        let alive = self.added.iter().filter(|(tag, value)| *value == element && !self.removed.contains(*tag));
        alive.map(|(tag, _)| tag.clone()).collect()
    }

    fn send(&self, dest: &str, body: Value) {
        println!("{}", json!({"src": self.id, "dest": dest, "body": body}));
    }

    fn sync(&mut self) {
        for record in std::mem::take(&mut self.unwritten) {
            self.append(&record);
        }
        let added: Vec<Value> = self.added.iter().map(|(tag, element)| json!([tag, element])).collect();
        let removed = if self.bug == "forgets-removes" { json!([]) } else { json!(self.removed) };
        for peer in &self.peers {
            self.send(peer, json!({"type": "state", "added": added, "removed": removed}));
        }
    }

    fn add(&mut self, element: &Value) -> String {
        self.adds += 1;
        let again = self.bug == "hands-out-a-tag-twice" && self.adds.is_multiple_of(7);
        let last = self.last_tag.clone().filter(|_| again);
        let tag = last.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        self.last_tag = Some(tag.clone());
        self.added.insert(tag.clone(), element.clone());
        self.write(json!({"added": [[tag, element]]}));
        tag
    }

    fn remove(&mut self, element: &Value) -> Vec<String> {
        let tags = self.tags(element);
        self.removed.extend(tags.iter().cloned());
        if self.bug == "removes-what-it-has-not-seen" {
            for peer in &self.peers {
                self.send(peer, json!({"type": "state", "removed_element": element}));
            }
        }
        if self.bug != "forgets-removes" {
            self.write(json!({"removed": tags}));
        }
        tags
    }

    fn handle(&mut self, message: &Value) {
        let body = &message["body"];
        let reply = match body["type"].as_str().unwrap_or_default() {
            "init" => {
                self.id = body["node_id"].as_str().unwrap_or_default().to_owned();
                let ids = body["node_ids"].as_array().into_iter().flatten().filter_map(Value::as_str);
                self.peers = ids.filter(|id| *id != self.id).map(str::to_owned).collect();
                json!({"type": "init_ok"})
            }
            "or_set_remove" if self.bug == "answers-no-removes" => return,
            "topology" if self.bug == "ignores-topology" => return,
            "topology" => json!({"type": "topology_ok"}),
            "state" => {
                if self.bug != "never-merges" {
                    // What is only heard is not logged: the peer that says it has it in its log.
                    self.merge(body);
                }
                return;
            }
            "or_set_add" => {
                self.sync();
                json!({"type": "or_set_add_ok", "tag": self.add(&body["element"])})
            }
            "or_set_remove" => {
                self.sync();
                json!({"type": "or_set_remove_ok", "tags_removed": self.remove(&body["element"])})
            }
            "or_set_read" if self.bug == "babbles" => {
                (0..100).for_each(|_| println!("\u{1b}[31mnot a message"));
                return;
            }
            "or_set_read" if self.bug == "nests-too-deep" => {
                let (id, client, number) = (&self.id, &message["src"], &body["msg_id"]);
                let deep = "[".repeat(300) + &"]".repeat(300);
                println!(r#"{{"src":"{id}","dest":{client},"body":{{"in_reply_to":{number},"elements":{deep}}}}}"#);
                return;
            }
            "or_set_read" => {
                self.sync();
                let alive = self.added.iter().filter(|(tag, _)| !self.removed.contains(*tag));
                let elements: BTreeMap<String, &Value> =
                    alive.map(|(_, element)| (element.to_string(), element)).collect();
                json!({"type": "or_set_read_ok", "elements": elements.values().collect::<Vec<_>>()})
            }
            _ => json!({"type": "error", "code": 10, "text": "not supported"}),
        };
        let mut reply = reply;
        reply["in_reply_to"] = body["msg_id"].clone();
        self.send(message["src"].as_str().unwrap_or_default(), reply);
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(bug), Some(dir)) = (args.next(), args.next()) else {
        eprintln!("usage: faulty_node BUG DIR");
        std::process::exit(2);
    };
    let mut node = Node::open(bug, Path::new(&dir));
    for line in std::io::stdin().lines().map_while(Result::ok) {
        if let Ok(message) = serde_json::from_str(&line) {
            node.handle(&message);
        }
    }
}
