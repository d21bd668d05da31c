//! `orset dump` as its users see it: golden sessions with the real binary under `tests/golden/dump/`, and what must hold
//! for every dump: it changes nothing, it works beside a running node, and damage is told with its place.
//!
//! The golden scripts' commands are described in `support/session.rs`.
//! `UPDATE_GOLDENFILES=1 cargo test --test dump` writes what was said; read the diff.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use orset::storage::envelope;
use orset::storage::log::segment;
use support::node::Node;
use support::session::Session;
use support::{binary, copy_dir, image, segments, temp_dir, text};

fn dump_in(cwd: &Path, args: &[&str]) -> Output {
    Command::new(binary()).arg("dump").args(args).current_dir(cwd).output().expect("the binary can be started")
}

/// What a successful dump says.
fn dumped(cwd: &Path, args: &[&str]) -> String {
    let output = dump_in(cwd, args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "{args:?}");
    text(&output.stdout)
}

/// The exit code and the words of a dump that fails.
fn failed(cwd: &Path, args: &[&str]) -> (Option<i32>, String) {
    let output = dump_in(cwd, args);
    assert_eq!(text(&output.stdout), "", "{args:?}");
    (output.status.code(), text(&output.stderr))
}

macro_rules! golden {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            let script = Path::new("tests/golden/dump").join(stringify!($name));
            goldenscript::run(&mut Session::new(), script).unwrap();
        }
    )*};
}

golden! {
    tables
    json
    one_element
    killed_and_torn
    usage
    differences
}

#[test]
fn every_golden_script_is_run() {
    let source = include_str!("dump.rs");
    for entry in std::fs::read_dir("tests/golden/dump").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(source.lines().any(|line| line.trim() == name), "no test runs {name}");
    }
}

/// A store with some history: compactions, a kill, several segments.
fn store_with_a_past(dir: &Path, id: &str, end: impl FnOnce(&mut Node)) {
    let args = ["--log-retention-bytes", "3000", "--segment-bytes", "1000"];
    let mut node = Node::start(dir, id, &args);
    for n in 0..60 {
        node.add(&format!("\"element {n} of {id}\""));
    }
    node.process.kill();
    let mut node = Node::start(dir, id, &args);
    node.remove(&format!("\"element 3 of {id}\""));
    node.add("1.0");
    end(&mut node);
}

#[test]
fn a_dump_leaves_every_byte_and_every_time_as_it_was() {
    for end in [Node::stop, |node: &mut Node| _ = node.process.kill()] {
        let dir = temp_dir();
        store_with_a_past(dir.path(), "n1", end);
        let before = image(dir.path());
        for args in [&["n1", "--section", "all"][..], &["n1", "--element", "1.0"], &[".", "--format", "json"]] {
            dumped(dir.path(), args);
        }
        assert!(image(dir.path()) == before, "something in the store has changed");
        std::fs::remove_file(dir.path().join("n1/LOCK")).unwrap();
        dumped(dir.path(), &["n1", "--section", "all"]);
        assert!(!dir.path().join("n1/LOCK").exists(), "a dump makes no lock file");
    }
}

#[test]
fn a_running_node_is_not_bothered_and_every_dump_is_of_one_instant() {
    let dir = temp_dir();
    let mut node = Node::start(dir.path(), "n1", &["--log-retention-bytes", "3000", "--segment-bytes", "1000"]);
    let mut seen = 0;
    // Element k is added k-th, so whatever a dump shows must be the first so many, without gaps.
    for round in 0..20 {
        let sent: Vec<i64> = (0..40)
            .map(|n| node.send(&format!(r#""type":"or_set_add","element":{}"#, 1000 + round * 40 + n)))
            .collect();
        let all = dumped(dir.path(), &["n1", "--format", "json"]);
        let value: serde_json::Value = serde_json::from_str(&all).unwrap();
        let elements: Vec<i64> =
            value["elements"].as_array().unwrap().iter().map(|e| e["element"].as_i64().unwrap()).collect();
        let count = i64::try_from(elements.len()).unwrap();
        assert_eq!(elements, (1000..1000 + count).collect::<Vec<_>>());
        assert_eq!(value["summary"]["elements"], count);
        assert!(count >= seen && count >= round * 40, "{count} after {seen}, in round {round}");
        seen = count;
        sent.into_iter().for_each(|id| drop(node.reply(id)));
    }
    let (code, said) = failed(dir.path(), &["n1", "--section", "index"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("running node"), "{said}");
    assert!(dumped(dir.path(), &["n1", "--section", "all"]).contains("\"unavailable\""));
    node.stop();
    let index = dumped(dir.path(), &["n1", "--section", "index"]);
    assert_eq!(index.lines().filter(|line| line.contains("\"index_element\"")).count(), 800);
}

#[test]
fn a_data_directory_shows_all_its_stores_also_if_one_is_damaged() {
    let dir = temp_dir();
    for id in ["n1", "n2"] {
        let mut node = Node::start(dir.path(), id, &[]);
        node.add(&format!("\"of {id}\""));
        node.stop();
    }
    std::fs::create_dir(dir.path().join("n0")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&dumped(dir.path(), &[".", "--format", "json"])).unwrap();
    let stores: Vec<&str> = value.as_array().unwrap().iter().map(|s| s["store"].as_str().unwrap()).collect();
    assert_eq!(stores, ["./n1", "./n2"]);

    std::fs::remove_file(dir.path().join("n1/manifest")).unwrap();
    let output = dump_in(dir.path(), &["."]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("n1/manifest: damaged"), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("of n2"));
}

#[test]
fn whoever_reads_no_further_ends_the_dump_quietly() {
    let dir = temp_dir();
    let mut node = Node::start(dir.path(), "n1", &[]);
    let sent: Vec<i64> =
        (0..4000).map(|n| node.send(&format!(r#""type":"or_set_add","element":"some element {n}""#))).collect();
    sent.into_iter().for_each(|id| drop(node.reply(id)));
    node.stop();
    for format in ["table", "json", "ndjson"] {
        let mut command = Command::new(binary());
        command.args(["dump", "n1", "--section", "all", "--format", format]).current_dir(dir.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut first).unwrap();
        drop(stdout);
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""), "{format}");
    }
}

#[test]
fn damage_is_told_with_file_and_offset() {
    let dir = temp_dir();
    store_with_a_past(dir.path(), "n1", Node::stop);
    let log = dir.path().join("n1/log");
    let counter = segments(&dir.path().join("n1"))[0];
    let path = log.join(segment::file_name(counter));
    let good = std::fs::read(&path).unwrap();
    let frame = good.windows(4).position(|bytes| bytes == b"ORFR").expect("a frame");
    let mut bytes = good.clone();
    bytes[frame + 14] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (code, said) = failed(dir.path(), &["n1"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("{}: damaged at byte {frame}:", segment::file_name(counter))), "{said}");

    std::fs::remove_file(&path).unwrap();
    let (code, said) = failed(dir.path(), &["n1"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("it is missing"), "{said}");
}

#[test]
fn a_broken_index_does_not_keep_the_dump_from_showing_the_rest() {
    let dir = temp_dir();
    store_with_a_past(dir.path(), "n1", Node::stop);
    let whole = dumped(dir.path(), &["n1"]);
    let break_index = |how: &dyn Fn(&Path)| {
        let copy = temp_dir();
        copy_dir(&dir.path().join("n1"), &copy.path().join("n1"));
        how(&copy.path().join("n1"));
        let lines = dumped(copy.path(), &["n1", "--section", "all"]);
        let elements = |text: &str| {
            text.lines().filter(|l| l.contains("\"kind\":\"element\"")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(elements(&lines), elements(&whole));
        assert!(lines.contains("\"unavailable\""), "{lines}");
        assert!(dumped(copy.path(), &["n1", "--section", "index"]).contains("\"unavailable\""));
    };
    break_index(&|store| std::fs::remove_dir_all(store.join("index")).unwrap());
    break_index(&|store| std::fs::write(store.join("index.state"), b"garbled").unwrap());
    break_index(&|store| {
        for path in image(&store.join("index")).into_keys().filter(|path| path.is_file()) {
            std::fs::write(&path, b"not sled's").unwrap();
        }
    });
}

#[test]
fn a_newer_store_is_refused_with_exit_code_4() {
    let dir = temp_dir();
    store_with_a_past(dir.path(), "n1", Node::stop);
    let mut bytes = Vec::new();
    envelope::wrap(&mut bytes, *b"ORSETMAN", envelope::FORMAT_VERSION + 1, b"who knows");
    std::fs::write(dir.path().join("n1/manifest"), bytes).unwrap();
    let (code, said) = failed(dir.path(), &["n1"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("use a newer orset"), "{said}");
}
