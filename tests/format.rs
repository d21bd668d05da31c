//! Frozen stores: whatever the code becomes, it reads what earlier versions wrote.
//!
//! `tests/fixtures/format-<n>/` is a store as version n left it (without `index/`, `index.state`, `reserve` and `LOCK`,
//! which any start makes anew), and `format-<n>.json` what `orset dump --format json --section all` must say about it.
//! They are never made again once they are released. How format 2 was made is [`make_the_fixture_of_format_2`]:
//! `cargo test --test format -- --ignored make_the_fixture_of_format_2`. Format 1 was made in the same way, without the
//! requests that have a name.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use orset::crdt::{
    Dot, DotSet, Element, Entry, Incarnation, Incarnations, JoinCommit, JoinId, JoinPart, NodeId, Op, OpBody,
    ReplicaId, Seq, Tag, Verdict, VersionVector,
};
use orset::storage::disk::RealDisk;
use orset::storage::{NoIndex, Store, StoreLimits, StoreOptions};
use serde::Deserialize;
use serde_json::value::RawValue;
use support::node::Node;
use support::{binary, copy_dir, temp_dir, wait_until};

const FIXTURES: &str = "tests/fixtures";

fn dump(fixtures: &Path, store: &str) -> String {
    let args = ["dump", store, "--format", "json", "--section", "all"];
    let output = Command::new(binary()).args(args).current_dir(fixtures).output().expect("the binary can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What a dump says, as far as it matters here; elements as their texts.
#[derive(Deserialize)]
struct Expected {
    summary: Summary,
    elements: Vec<ElementOf>,
    log: Vec<LogEntry>,
    answers: Vec<AnswerOf>,
}

#[derive(Deserialize)]
struct Summary {
    format_version: u32,
    clean_stop: bool,
    log: Log,
    snapshot: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Log {
    ops: BTreeMap<String, u64>,
    segments: Vec<Segment>,
}

#[derive(Deserialize)]
struct Segment {
    repeats_last_batch: bool,
}

#[derive(Deserialize)]
struct ElementOf {
    element: Box<RawValue>,
    tags: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct AnswerOf {
    to: String,
    tags: Vec<String>,
}

#[derive(Deserialize)]
struct LogEntry {
    op: String,
    #[serde(default)]
    repeated: bool,
}

fn expected(fixtures: &Path, name: &str) -> (String, Expected) {
    let text = std::fs::read_to_string(fixtures.join(format!("{name}.json"))).unwrap();
    let parsed = serde_json::from_str(&text).unwrap();
    (text, parsed)
}

/// The content of every file below `dir`.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

const FORMATS: [&str; 2] = ["format-1", "format-2"];

#[test]
fn every_format_is_dumped_as_ever_and_stays_as_it_is() {
    let fixtures = Path::new(FIXTURES);
    for format in FORMATS {
        let before = files(&fixtures.join(format));
        assert_eq!(dump(fixtures, format), expected(fixtures, format).0);
        assert!(files(&fixtures.join(format)) == before);
    }
}

#[test]
fn every_format_is_read_and_written_on() {
    for format in FORMATS {
        let (_, expected) = expected(Path::new(FIXTURES), format);
        let dir = temp_dir();
        copy_dir(&Path::new(FIXTURES).join(format), &dir.path().join("n1"));
        let texts: Vec<&str> = expected.elements.iter().map(|element| element.element.get()).collect();
        for round in 0..2 {
            let mut node = Node::start(dir.path(), "n1", &[]);
            assert_eq!(node.read(), texts, "{format}, start {round}");
            if round == 1 {
                // Every tag that the dump shows is one that a remove finds.
                for element in &expected.elements {
                    assert_eq!(node.remove(element.element.get()).len(), element.tags.len(), "{}", element.element);
                }
                assert!(node.read().is_empty());
            }
            node.stop();
        }
    }
}

/// Those whose answer is in the snapshot, and those whose answer is in the log.
#[test]
fn the_requests_of_format_2_are_known_by_their_names() {
    let dir = temp_dir();
    copy_dir(&Path::new(FIXTURES).join("format-2"), &dir.path().join("n1"));
    let (_, expected) = expected(Path::new(FIXTURES), "format-2");
    assert_eq!(expected.answers.len(), 2 * NAMED.len());
    let mut node = Node::start(dir.path(), "n1", &[]);
    let size = node.call(r#""type":"or_set_size""#);
    for (n, (name, kind, payload)) in ["early", "late"].iter().flat_map(|when| named(when)).enumerate() {
        let reply = node.call(&format!(r#""type":"or_set_{kind}",{payload},"request_id":"{name}""#));
        let known = &expected.answers[n];
        assert_eq!(known.to, kind);
        let tags = ["tag", "tags", "tags_removed"].map(|key| &reply.body[key]);
        let said: Vec<&str> = tags.into_iter().flat_map(strings).collect();
        assert_eq!(said, known.tags, "{name}");
    }
    assert_eq!(node.call(r#""type":"or_set_size""#).body["tags"], size.body["tags"], "nothing has changed");
    node.stop();
}

/// The strings in a value, however deep.
fn strings(value: &serde_json::Value) -> Vec<&str> {
    match value {
        serde_json::Value::String(text) => vec![text],
        serde_json::Value::Array(items) => items.iter().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn the_fixtures_have_every_kind_of_record_in_them() {
    for format in FORMATS {
        let (_, expected) = expected(Path::new(FIXTURES), format);
        let summary = &expected.summary;
        assert_eq!(format!("format-{}", summary.format_version), format);
        assert!(summary.clean_stop && summary.snapshot.is_some());
        assert!(summary.log.segments.len() > 3);
        assert!(summary.log.segments.iter().any(|segment| segment.repeats_last_batch));
        let answers = format != "format-1";
        let kinds = summary.log.ops.iter().filter(|(kind, _)| answers || *kind != "answer");
        assert!(kinds.into_iter().all(|(_, count)| *count > 0), "{:?}", summary.log.ops);
        for op in ["start", "add", "remove", "join_part", "join_commit", "answer", "clean"] {
            assert_eq!(expected.log.iter().any(|entry| entry.op == op), answers || op != "answer", "{op}");
        }
        assert!(expected.log.iter().any(|entry| entry.repeated));
        let texts: Vec<&str> = expected.elements.iter().map(|element| element.element.get()).collect();
        assert!(texts.iter().any(|text| text.len() > 128) && texts.iter().any(|text| !text.is_ascii()));
        assert!(expected.elements.iter().any(|element| element.tags.len() > 1));
    }
}

/// Requests with a name: the name's end, the type after `or_set_`, the payload.
const NAMED: [(&str, &str, &str); 5] = [
    ("add", "add", r#""element":"named""#),
    ("add_many", "add_many", r#""elements":["named",2,"née"]"#),
    ("remove", "remove", r#""element":"named""#),
    ("remove_many", "remove_many", r#""elements":[2,"nothing",2]"#),
    ("nothing", "remove", r#""element":"nothing""#),
];

/// The same with whole names.
fn named(when: &str) -> Vec<(String, &'static str, &'static str)> {
    NAMED.into_iter().map(|(name, kind, payload)| (format!("{when} {name}"), kind, payload)).collect()
}

/// Not a test: how the fixture came to be. It refuses to replace one.
#[test]
#[ignore = "makes tests/fixtures/format-2, which is frozen"]
fn make_the_fixture_of_format_2() {
    let fixture = Path::new(FIXTURES).join("format-2");
    assert!(!fixture.exists(), "{} is frozen", fixture.display());
    let dir = temp_dir();
    let store = dir.path().join("n1");
    let small = ["--log-retention-bytes", "2000", "--segment-bytes", "1000"];

    let ask_named = |node: &mut Node, when: &str| {
        for (name, kind, payload) in named(when) {
            node.call(&format!(r#""type":"or_set_{kind}",{payload},"request_id":"{name}""#));
        }
    };
    let mut node = Node::start(dir.path(), "n1", &small);
    ask_named(&mut node, "early");
    for n in 0..30 {
        node.add(&format!("\"element {n:02}\""));
    }
    for element in ["1", "1.0", "12345678901234567890123", r#"{"b":[null,true],"a":"x"}"#, r#""née 〃 🍎""#] {
        node.add(element);
    }
    node.add(&format!("\"long {}\"", "ab".repeat(100)));
    node.add(&format!("\"long {}\"", "cd".repeat(100)));
    wait_until("it has compacted", || std::fs::read_dir(store.join("snapshots")).unwrap().count() > 0);
    node.remove("\"element 05\"");
    node.process.kill();

    let mut node = Node::start(dir.path(), "n1", &small);
    node.add("\"after a kill\"");
    node.add("\"element 05\"");
    node.add("\"element 07\"");
    node.process.kill();

    join_through_the_library(&store);

    let mut node = Node::start(dir.path(), "n1", &[]);
    node.add("\"after a join\"");
    ask_named(&mut node, "late");
    node.remove("\"element 07\"");
    node.remove(&format!("\"long {}\"", "cd".repeat(100)));
    node.add("1.0");
    node.stop();

    for name in ["index", "index.old"] {
        let _ = std::fs::remove_dir_all(store.join(name));
    }
    for name in ["index.state", "reserve", "LOCK"] {
        let _ = std::fs::remove_file(store.join(name));
    }
    copy_dir(&store, &fixture);
    let said = dump(Path::new(FIXTURES), "format-2");
    std::fs::write(Path::new(FIXTURES).join("format-2.json"), said).unwrap();
}

/// Operations of another node's, and a state delta that brings two records and takes one away.
fn join_through_the_library(dir: &Path) {
    let node = |name| NodeId::new(name).unwrap();
    let element = |text: &str| Element::from_canonical(text.as_bytes());
    let mut random = 1_u128;
    let entropy = move || {
        random = random.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(1);
        random
    };
    let options = StoreOptions {
        disk: Arc::new(RealDisk),
        dir: dir.to_path_buf(),
        node: node("n1"),
        entropy: Box::new(entropy),
        limits: StoreLimits::default(),
    };
    let (mut store, _) = Store::open(options, &mut NoIndex).unwrap();
    let peer = ReplicaId::from_random(0x2222 << 60 | 0x22);
    let bodies = [OpBody::Start { node: node("n2"), parent: None }, OpBody::Add(element("\"from n2\""))];
    for (n, body) in (1..).zip(bodies) {
        assert_eq!(store.append_remote(Op { dot: Dot::new(peer, Seq(n)), body }), Verdict::Next);
    }
    store.commit().unwrap();

    // The sender held all of n1's first incarnation, and knew that one of its elements had been removed.
    let ours = store.tags(&element("\"element 11\"")).unwrap()[0].replica;
    let mut live = DotSet::default();
    for record in store.records(&[]) {
        let record = record.unwrap();
        if record.tag().replica == ours && record.element_bytes() != b"\"element 11\"" {
            live.insert(record.tag());
        }
    }
    live.insert(Dot::new(peer, Seq(2)));
    let other = ReplicaId::from_random(0x3333 << 60 | 0x33);
    let news = |text: &str, seq| -> (Element, Tag) { (element(text), Dot::new(other, Seq(seq))) };
    let part = |records, live| Entry::JoinPart(JoinPart { join: JoinId(7), records, live });
    let long = format!("\"joined {}\"", "ef".repeat(100));
    store.append_join(part(vec![news("\"from n3\"", 2)], live.pieces(4096))).unwrap();
    store.append_join(part(vec![news(&long, 4)], Vec::new())).unwrap();
    let vv = VersionVector::from_iter([(ours, store.vv().get(ours)), (peer, Seq(2)), (other, Seq(5))]);
    let incarnation = |name| Incarnation { node: node(name), parent: None };
    let incarnations = Incarnations::from_iter([
        (ours, incarnation("n1")),
        (peer, incarnation("n2")),
        (other, Incarnation { node: node("n3"), parent: Some(Dot::new(peer, Seq(1))) }),
    ]);
    store.append_join(Entry::JoinCommit(JoinCommit { join: JoinId(7), vv, incarnations })).unwrap();
    store.commit().unwrap();
    store.close(None).unwrap();
}
