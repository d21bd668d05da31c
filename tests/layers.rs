//! The arrows between layers point down only: crdt ← storage ← replica ← maelstrom ← node ← cli. And below the event loop
//! there is no clock, no thread, no randomness and no JSON, so that a simulator can drive the very same code.
//!
//! Checked on the source text: comments, strings and unit tests (the `#[cfg(test)]` module at a file's end) do not count.

use std::path::{Path, PathBuf};

/// Each layer and the ones that it may know. A layer that is not listed is an error: decide where it belongs.
const MAY_USE: [(&str, &[&str]); 15] = [
    ("crdt", &[]),
    // A part of storage, mounted there by its path.
    ("migrations", &["crdt", "storage"]),
    ("storage", &["crdt", "migrations"]),
    ("replica", &["crdt", "storage"]),
    ("maelstrom", &["crdt", "storage", "replica"]),
    ("node", &["crdt", "storage", "replica", "maelstrom"]),
    // Bugs for the tests of the tests. Every layer may use it.
    (FOR_ALL, &[]),
    // Processes, and nothing of ours.
    ("child", &[]),
    ("supervise", &["node", "child"]),
    ("bench", &["crdt", "storage", "replica", "maelstrom", "node", "child"]),
    ("sim", &["crdt", "storage", "replica", "maelstrom", "node"]),
    ("dump", &["crdt", "storage"]),
    ("repair", &["crdt", "storage", "migrations", "dump"]),
    (
        "cli",
        &[
            "crdt",
            "migrations",
            "storage",
            "replica",
            "maelstrom",
            "node",
            "child",
            "supervise",
            "bench",
            "sim",
            "dump",
            "repair",
        ],
    ),
    ("main", &["cli"]),
];

/// What every layer may use, and which may use none.
const FOR_ALL: &str = "planted";

/// The layers that must give the same result for the same input.
const DETERMINISTIC: [&str; 4] = ["crdt", "migrations", "storage", "replica"];
/// Words that have no business there.
const FORBIDDEN: [&str; 8] =
    ["Instant", "SystemTime", "thread", "rand", "fastrand", "getrandom", "new_v4", "serde_json"];
/// Where they may stand all the same: opening sled can hang, so a thread waits for it with a bound.
const EXCEPTIONS: [(&str, &[&str]); 1] = [("src/storage/index", &["thread", "Instant"])];

/// The code of a file: without comments, the contents of strings, and unit tests.
fn code_of(source: &str) -> String {
    let source = source.find("#[cfg(test)]\nmod ").map_or(source, |end| &source[..end]);
    let mut code = String::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(string) = rest.strip_prefix("r#\"") {
            string.find("\"#").map_or(rest.len(), |end| end + 5)
        } else if rest.starts_with("'\"'") {
            3
        } else if first == '"' {
            end_of_string(rest)
        } else {
            code.push(first);
            first.len_utf8()
        };
        rest = &rest[skipped..];
    }
    code
}

fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (place, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            b'"' if !escaped => return place + 1,
            _ => escaped = byte == b'\\' && !escaped,
        }
    }
    text.len()
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c| !is_word_char(c)).filter(|word| !word.is_empty())
}

/// The top-level modules that a piece of code names: `crate::x`, `crate::{x, y::z}`, `super::super::x`, `orset::x`.
fn layers_named(code: &str) -> Vec<String> {
    let mut named = Vec::new();
    for root in ["crate::", "super::super::", "orset::"] {
        for (place, _) in code.match_indices(root) {
            let whole_word = !code[..place].ends_with(is_word_char);
            let rest = &code[place + root.len()..];
            if !whole_word {
                continue;
            }
            match rest.strip_prefix('{') {
                Some(group) => named.extend(first_words_of_group(group)),
                None => named.extend(words(rest).next().map(str::to_owned)),
            }
        }
    }
    named.retain(|name| MAY_USE.iter().any(|(layer, _)| layer == name) && name != FOR_ALL);
    named.sort();
    named.dedup();
    named
}

/// Of `a::b, c::{d, e}, f} …` it is a, c and f.
fn first_words_of_group(group: &str) -> Vec<String> {
    let mut firsts = vec![String::new()];
    let (mut depth, mut in_first) = (0, true);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                firsts.push(String::new());
                in_first = true;
            }
            ':' => in_first = false,
            c if in_first && depth == 0 && is_word_char(c) => firsts.last_mut().expect("never empty").push(c),
            _ => {}
        }
    }
    firsts
}

/// The layer of a file: `src/storage/log.rs` and `src/storage.rs` are of `storage`, `migrations/…` of `migrations`.
fn layer_of(path: &Path) -> String {
    let mut parts = path.iter().map(|part| part.to_str().expect("file names here are ASCII"));
    match parts.next() {
        Some("src") => parts.next().expect("a file").trim_end_matches(".rs").to_owned(),
        Some(other) => other.to_owned(),
        None => unreachable!("an empty path"),
    }
}

/// What is wrong with a file.
fn faults(path: &Path, source: &str) -> Vec<String> {
    let layer = layer_of(path);
    if layer == "lib" {
        return Vec::new();
    }
    let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == layer) else {
        return vec![format!("{}: {layer:?} is no layer that this test knows", path.display())];
    };
    let code = code_of(source);
    let upward = layers_named(&code).into_iter().filter(|name| *name != layer && !allowed.contains(&name.as_str()));
    let mut faults: Vec<String> =
        upward.map(|name| format!("{}: {layer} must not know {name}", path.display())).collect();
    if DETERMINISTIC.contains(&layer.as_str()) && path.file_name() != Some("tests.rs".as_ref()) {
        let excused = |word: &str| {
            EXCEPTIONS.iter().any(|(place, words)| path.to_str().unwrap().starts_with(place) && words.contains(&word))
        };
        let bad = FORBIDDEN.iter().filter(|bad| !excused(bad) && words(&code).any(|word| word == **bad));
        faults.extend(bad.map(|bad| format!("{}: {layer} is deterministic, and has no {bad}", path.display())));
    }
    faults
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension() == Some("rs".as_ref()) {
            found.push(path);
        }
    }
}

#[test]
fn arrows_point_down_and_the_core_is_deterministic() {
    let mut files = Vec::new();
    rust_files(Path::new("src"), &mut files);
    rust_files(Path::new("migrations"), &mut files);
    assert!(files.len() > 10, "{files:?}");
    let found: Vec<String> = files.iter().flat_map(|f| faults(f, &std::fs::read_to_string(f).unwrap())).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn planted_faults_are_found() {
    for (path, source) in [
        ("src/crdt/op.rs", "use crate::storage::Lsn;"),
        ("src/crdt/op.rs", "use super::super::storage::Lsn;"),
        ("src/storage/log.rs", "use crate::{crdt::{Op, Dot}, replica::Message};"),
        ("src/storage/log.rs", "fn f() { crate::maelstrom::encode() }"),
        ("src/replica/mod.rs", "use std::time::{Duration, Instant};"),
        ("src/replica/mod.rs", "let f = \"// no comment\"; std::thread::spawn(f);"),
        ("src/storage/mod.rs", "let v: serde_json::Value;"),
        ("src/storage/index/mod.rs", "let v: serde_json::Value;"),
        ("src/crdt/id.rs", "let id = Uuid::new_v4();"),
        ("src/maelstrom/mod.rs", "use crate::node::Loop;"),
        ("src/gadgets/mod.rs", ""),
    ] {
        assert_eq!(faults(Path::new(path), source).len(), 1, "{path}: {source}");
    }
}

#[test]
fn what_is_allowed_is_not_found() {
    for (path, source) in [
        ("src/storage/log.rs", "use crate::crdt::Op; use crate::storage::Lsn;"),
        ("src/storage/log.rs", "use crate::{crdt::{node, cli}, storage::x};"),
        ("src/crdt/op.rs", "//! See `crate::storage` and std::thread.\nfn operand() {}"),
        ("src/crdt/op.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use std::thread; }"),
        ("src/crdt/op.rs", "let text = \"crate::storage \\\" Instant\"; let c = '\"';"),
        ("src/storage/index/sled.rs", "use std::thread;"),
        ("src/node/mod.rs", "use crate::replica::Message; use std::time::Instant;"),
        ("src/lib.rs", "pub mod cli;"),
    ] {
        assert_eq!(faults(Path::new(path), source), Vec::<String>::new(), "{path}: {source}");
    }
}
