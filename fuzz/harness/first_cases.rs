//! The first cases: what a fuzzer starts from. They are made of the golden scripts, of the frozen store, and of what two
//! replicas say to each other, and are written by a test that is run by hand (see `docs/testing.md`).

use std::path::Path;

use orset::crdt::NodeId;
use orset::storage::disk::MemDisk;
use orset::storage::envelope::ENVELOPE_BYTES;
use orset::storage::log::SegmentBytes;

use super::sealed::joined;
use super::sync_message::{Session, listener};
use super::{log_segment, manifest};

/// A name, and an input.
type Case = (String, Vec<u8>);

fn form(number: u8, rest: &[u8]) -> Vec<u8> {
    [&[number], rest].concat()
}

/// The first cases of a target, from the repository at `root`.
///
/// # Panics
/// If there is no such target, or the repository is not as it should be.
pub fn first_cases(target: &str, root: &Path) -> Vec<Case> {
    match target {
        "protocol_line" => protocol_line(root),
        "sync_message" => sync_message(root),
        "log_segment" => log_segments(root),
        "snapshot" => snapshots(root),
        "manifest" => manifests(root),
        _ => panic!("no target {target}"),
    }
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of a golden script that come in.
fn lines_of(root: &Path, script: &str) -> Vec<Vec<u8>> {
    let text = String::from_utf8(read(&root.join("tests/golden/wire").join(script))).expect("a script is text");
    text.lines().filter_map(|line| line.strip_prefix("> ")).map(|line| line.as_bytes().to_vec()).collect()
}

fn numbered(name: &str, inputs: impl IntoIterator<Item = Vec<u8>>) -> Vec<Case> {
    inputs.into_iter().enumerate().map(|(n, input)| (format!("{name}-{n:02}"), input)).collect()
}

fn protocol_line(root: &Path) -> Vec<Case> {
    let mut cases = numbered("request", lines_of(root, "requests"));
    cases.extend(numbered("rejection", lines_of(root, "rejections")));
    let elements = [
        r#"{"b":[1.0,1e0,-0,123456789012345678901234567890],"a":{"é":"\u00e9\ud83d\ude00\n\/"},"a b":null,"a!":true}"#,
        r#"[[[[]]],{},{"":""}]"#,
    ];
    cases.extend(numbered("element", elements.map(|text| text.as_bytes().to_vec())));
    cases
}

fn sync_message(root: &Path) -> Vec<Case> {
    let mut cases = numbered("line", lines_of(root, "peers"));
    cases.push(("session-with-a-stranger".to_owned(), said_to_listener(0)));
    cases.push(("session-of-both-behind".to_owned(), said_to_listener(1)));
    cases.push(("session-with-state-deltas".to_owned(), said_to_listener(3)));
    cases
}

/// What n2, which has been started `starts` times and has written each time, says to the listener.
fn said_to_listener(starts: u64) -> Vec<u8> {
    let disk = MemDisk::default();
    for start in 0..starts {
        Session::start(disk.clone(), "n2", 200 + start).changes(12);
    }
    let (mut listener, mut other) = (listener(), Session::start(disk, "n2", 300));
    let n1 = NodeId::new("n1").expect("a node id");
    let mut heard = Vec::new();
    for round in 0..12 {
        if round == 6 && starts > 0 {
            other.changes(3);
        }
        for (to, line) in std::mem::take(&mut other.said) {
            if to == n1 {
                listener.hears(&line);
                heard.push(line);
            }
        }
        for (to, line) in std::mem::take(&mut listener.said) {
            if to != n1 {
                other.hears(&line);
            }
        }
        if other.said.is_empty() {
            other.waits(3_000);
        }
    }
    heard.truncate(super::sync_message::MAX_LINES);
    heard.concat()
}

fn log_segments(root: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(root.join("tests/fixtures/format-2/log"))
        .expect("there is a frozen store")
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    files.sort();
    for (n, path) in files.into_iter().enumerate() {
        let bytes = read(&path);
        let segment = SegmentBytes::new(path, bytes.clone()).expect("the frozen store is sound");
        let payloads: Vec<&[u8]> = segment.frames().map(|frame| frame.payload).collect();
        cases.push((format!("frozen-{n}"), form(0, &bytes)));
        cases.push((format!("payloads-{n}"), form(1, &joined(&payloads))));
        cases.push((format!("header-{n}"), form(2, &bytes[ENVELOPE_BYTES..segment.frames_start])));
    }
    cases.push((
        "joins".to_owned(),
        form(1, &joined(&log_segment::joins().iter().map(Vec::as_slice).collect::<Vec<_>>())),
    ));
    let plan = [1, 5, 9, 0, 2, 13, 0, 6, 17, 21, 0];
    let edits: [&[u8]; 5] = [&[], &[0, 70, 0, 4], &[1, 120, 0, 0], &[3, 0, 0, 7], &[4, 60, 0, 0, 0, 200, 0, 1]];
    cases.extend(numbered("damage", edits.map(|edits| form(3, &joined(&[&plan, edits])))));
    cases
}

/// Where a snapshot's parts lie.
fn snapshots(root: &Path) -> Vec<Case> {
    let dir = root.join("tests/fixtures/format-2/snapshots");
    let mut files = std::fs::read_dir(dir).expect("there is a frozen store").flatten().map(|entry| entry.path());
    let bytes = read(&files.next().expect("it has a snapshot"));
    let trailer = bytes.len() - 12;
    let footer =
        usize::try_from(u64::from_le_bytes(bytes[trailer..trailer + 8].try_into().expect("eight"))).expect("small");
    // The nonce is a marker and sixteen bytes; the sealed form has one of its own.
    let body = &bytes[footer + ENVELOPE_BYTES + 17..trailer];
    let mut cases = vec![
        ("frozen".to_owned(), form(0, &bytes)),
        ("sealed".to_owned(), form(1, &joined(&[&bytes[36..footer], body]))),
        ("sealed-empty".to_owned(), form(1, &joined(&[&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]))),
    ];
    let plan: Vec<u8> = (0..60_u8).map(|n| n.wrapping_mul(37)).collect();
    let edits: [&[u8]; 4] = [&[], &[0, 70, 0, 4], &[1, 120, 0, 0], &[2, 0, 1, 7]];
    cases.extend(numbered("damage", edits.map(|edits| form(2, &joined(&[&plan, edits])))));
    cases
}

fn manifests(root: &Path) -> Vec<Case> {
    let frozen = read(&root.join("tests/fixtures/format-2/manifest"));
    let specimen = manifest::specimen().encode();
    let mut cases = vec![
        ("frozen".to_owned(), form(0, &frozen)),
        ("sealed-frozen".to_owned(), form(1, &frozen[ENVELOPE_BYTES..])),
        ("sealed-specimen".to_owned(), form(1, &specimen[ENVELOPE_BYTES..])),
        ("sealed-first-segment".to_owned(), form(1, &manifest::of_sound_store().encode()[ENVELOPE_BYTES..])),
    ];
    let edits: [&[u8]; 3] = [&[0, 30, 0, 4], &[1, 40, 0, 0], &[3, 0, 0, 7]];
    cases.extend(numbered("damage", edits.map(|edits| form(2, edits))));
    cases
}
