//! What a start of the real binary makes of what it finds: each thing that can be wrong with a store, and that all that
//! was acknowledged is there, or that it refuses and changes nothing.

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use orset::crdt::{Element, NodeId, OpBody};
use orset::storage::disk::RealDisk;
use orset::storage::envelope::FORMAT_VERSION;
use orset::storage::manifest::Manifest;
use orset::storage::snapshot::file_name;
use orset::storage::{NoIndex, Store, StoreLimits, StoreOptions};
use support::node::Node;
use support::{binary, temp_dir};

const ELEMENTS: [&str; 3] = ["\"apple\"", "\"banana\"", "\"cherry\""];

/// A store with three elements whose node was killed, or stopped.
fn store(dir: &Path, clean: bool) -> PathBuf {
    let mut node = Node::start(dir, "n1", &[]);
    for element in ELEMENTS {
        node.add(element);
    }
    node.add("\"gone\"");
    node.remove("\"gone\"");
    if clean {
        node.stop();
    } else {
        node.process.kill();
    }
    dir.join("n1")
}

/// Starts on the store, with variables, sends one read, and ends the input.
fn start(dir: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binary());
    command.args([OsStr::new("serve"), "--data-dir".as_ref(), dir.as_ref(), "--node-id".as_ref(), "n1".as_ref()]);
    command.envs(variables.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let read = br#"{"src":"c1","dest":"n1","body":{"type":"or_set_read","msg_id":1}}"#;
    // A node that refuses to start reads nothing.
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), read);
    child.wait_with_output().unwrap()
}

/// Everything is there, and stderr says `word`.
fn recovers(dir: &Path, variables: &[(&str, &str)], word: &str) {
    let out = start(dir, variables);
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.code(), Some(0), "{stderr}");
    assert!(stdout.contains(&format!("[{}]", ELEMENTS.join(", "))), "{stdout}{stderr}");
    assert!(stderr.contains(word), "no {word:?} in {stderr}");
}

fn files(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            files(&entry.path(), found);
        } else {
            found.insert(entry.path(), fs::read(entry.path()).unwrap());
        }
    }
}

/// It refuses with this code, names the file, and changes nothing.
fn refuses(dir: &Path, code: i32, named: &str) {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    files(dir, &mut before);
    let out = start(dir, &[]);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{stderr}");
    assert!(out.stdout.is_empty() && stderr.contains(named), "no {named:?} in {stderr}");
    files(dir, &mut after);
    assert!(before == after, "something was changed");
}

fn last_segment(store: &Path) -> PathBuf {
    let mut segments: Vec<PathBuf> = fs::read_dir(store.join("log")).unwrap().map(|e| e.unwrap().path()).collect();
    segments.sort();
    segments.pop().expect("a store has a log")
}

fn append(path: &Path, bytes: &[u8]) {
    let mut content = fs::read(path).unwrap();
    content.extend_from_slice(bytes);
    fs::write(path, content).unwrap();
}

#[test]
fn after_a_kill_the_index_is_trusted_under_the_same_boot_only() {
    let dir = temp_dir();
    store(dir.path(), false);
    recovers(dir.path(), &[], "index trusted");
    // The start before this one stopped in good order: its index was closed, and outlives a reboot.
    recovers(dir.path(), &[("ORSET_BOOT_ID", "another")], "index trusted");
    let dir = temp_dir();
    store(dir.path(), false);
    recovers(dir.path(), &[("ORSET_BOOT_ID", "another")], "index rebuilt");
}

/// Asks a node that has just been started without its index for the first and the last element.
fn answers_at_once(dir: &Path, last: usize) -> Node {
    let index = dir.join("n1/index");
    assert!(!index.exists() || fs::remove_dir_all(&index).is_ok());
    let mut node = Node::start(dir, "n1", &[]);
    for n in [0, last] {
        let reply = node.call(&format!(r#""type":"or_set_contains","element":{n}"#));
        assert_eq!(reply.body["value"], true, "{n}");
    }
    let told = node.process.stderr.text();
    assert!(told.contains("index being rebuilt"), "{told}");
    node
}

#[test]
fn a_node_with_many_elements_answers_while_its_index_is_rebuilt_and_trusts_it_thereafter() {
    const ELEMENTS: usize = 60_000;
    let dir = temp_dir();
    let mut random = fastrand::Rng::with_seed(5);
    let options = StoreOptions {
        disk: Arc::new(RealDisk),
        dir: dir.path().join("n1"),
        node: NodeId::new("n1").unwrap(),
        entropy: Box::new(move || random.u128(..)),
        limits: StoreLimits::default(),
    };
    let mut store = Store::open(options, &mut NoIndex).unwrap().0;
    for n in 0..ELEMENTS {
        store.append_local(OpBody::Add(Element::from_canonical(n.to_string().as_bytes())));
        if store.is_batch_full() || n == ELEMENTS - 1 {
            store.commit().unwrap();
        }
    }
    store.want_snapshot();
    let snapshot = store.plan_compaction().unwrap().expect("one is wanted").run().unwrap();
    store.install(snapshot).unwrap();
    drop(store);
    // Stopped while it is built (or soon after), and killed.
    answers_at_once(dir.path(), ELEMENTS - 1).stop();
    answers_at_once(dir.path(), ELEMENTS - 1).process.kill();
    let mut node = answers_at_once(dir.path(), ELEMENTS - 1);
    node.process.stderr.wait_for("the index has been rebuilt");
    node.add("\"and more\"");
    node.stop();
    let mut node = Node::start(dir.path(), "n1", &[]);
    assert_eq!(node.read().len(), ELEMENTS + 1);
    let told = node.process.stderr.text();
    assert!(told.contains("index trusted"), "{told}");
    node.stop();
}

#[test]
fn an_index_that_is_missing_or_broken_is_rebuilt_with_a_word() {
    for (what, word) in [("missing", "there is no index"), ("garbage", "cannot be opened"), ("old", "not what the log")]
    {
        let dir = temp_dir();
        let store = store(dir.path(), false);
        match what {
            "missing" => fs::remove_dir_all(store.join("index")).unwrap(),
            "garbage" => {
                for number in fs::read_dir(store.join("index")).unwrap() {
                    fs::write(number.unwrap().path().join("db"), [0x5a; 5000]).unwrap();
                }
            }
            _ => {
                // An index that says that it has what this log never had: the log of a younger store under it.
                let other = temp_dir();
                let mut node = Node::start(other.path(), "n1", &[]);
                for element in ELEMENTS {
                    node.add(element);
                }
                node.process.kill();
                for part in ["log", "manifest"] {
                    let (from, to) = (other.path().join("n1").join(part), store.join(part));
                    if from.is_dir() {
                        fs::remove_dir_all(&to).unwrap();
                        support::copy_dir(&from, &to);
                    } else {
                        fs::copy(&from, &to).unwrap();
                    }
                }
                recovers(dir.path(), &[], "");
                continue;
            }
        }
        recovers(dir.path(), &[], word);
    }
}

#[test]
fn a_torn_tail_is_cut_off_with_a_word() {
    let dir = temp_dir();
    let store = store(dir.path(), false);
    append(&last_segment(&store), b"ORFRhalf a frame");
    recovers(dir.path(), &[], "torn tail of 16 bytes");
    recovers(dir.path(), &[], "after a clean stop");
}

#[test]
fn damage_is_refused_with_file_and_offset_and_nothing_changes() {
    for clean in [false, true] {
        let dir = temp_dir();
        let store = store(dir.path(), clean);
        let segment = last_segment(&store);
        let whole = fs::read(&segment).unwrap();
        let mut flipped = whole.clone();
        // In the first frame, which good ones follow.
        let first = flipped.windows(4).position(|bytes| bytes == b"ORFR").unwrap();
        flipped[first + 14] ^= 4;
        fs::write(&segment, &flipped).unwrap();
        refuses(dir.path(), 1, &format!("{}: damaged at byte {first}", segment.display()));
        fs::remove_file(&segment).unwrap();
        refuses(dir.path(), 1, &segment.display().to_string());
        fs::write(&segment, &whole).unwrap();
        let manifest = store.join("manifest");
        let mut bytes = fs::read(&manifest).unwrap();
        bytes[25] ^= 1;
        fs::write(&manifest, &bytes).unwrap();
        refuses(dir.path(), 1, &manifest.display().to_string());
    }
}

#[test]
fn after_a_clean_stop_not_a_byte_may_be_missing() {
    let dir = temp_dir();
    let store = store(dir.path(), true);
    let segment = last_segment(&store);
    let whole = fs::read(&segment).unwrap();
    for length in [whole.len() - 1, whole.len() - 30, whole.len() / 2] {
        fs::write(&segment, &whole[..length]).unwrap();
        refuses(dir.path(), 1, &segment.display().to_string());
    }
    fs::write(&segment, &whole).unwrap();
    recovers(dir.path(), &[], "after a clean stop");
}

#[test]
fn a_data_directory_that_is_a_file_is_a_plain_error() {
    let dir = temp_dir();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let out = start(&file, &[]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("file/n1: cannot create"));
}

/// A file system of a few MiB, if this process may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = temp_dir();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=7m", "tmpfs"]).arg(dir.path()).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then(|| Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Found by trying: sled never came back from a full disk, and the start with it.
#[test]
fn on_a_full_disk_a_node_stops_and_starts_again() {
    let Some(disk) = SmallDisk::mount() else {
        support::skipped("this process may not mount a file system");
        return;
    };
    let dir = disk.0.path();
    let mut node = Node::start(dir, "n1", &[]);
    let filler = "x".repeat(3000);
    let adds: String =
        (0..2000).map(|n| node.line_of(&format!(r#""type":"or_set_add","element":"{filler}{n}""#)).1).collect();
    node.write(adds.as_bytes());
    assert_eq!(node.process.wait().code(), Some(1), "{}", node.process.stderr.text());
    node.process.stderr.wait_for("No space left");
    let acknowledged = node.drain().iter().filter(|line| line.body["type"] == "or_set_add_ok").count();
    assert!((1..2000).contains(&acknowledged), "{acknowledged}");
    for _ in 0..3 {
        let mut node = Node::start(dir, "n1", &[]);
        assert!(node.read().len() >= acknowledged);
        node.process.kill();
    }
}

#[test]
fn a_store_of_a_later_version_is_refused_untouched() {
    let dir = temp_dir();
    let store = store(dir.path(), true);
    let mut manifest = Vec::new();
    orset::storage::envelope::wrap(&mut manifest, *b"ORSETMAN", FORMAT_VERSION + 1, b"whatever that version writes");
    fs::write(store.join("manifest"), &manifest).unwrap();
    refuses(dir.path(), 4, "use a newer orset");
}

#[test]
fn a_damaged_snapshot_is_refused_untouched() {
    let dir = temp_dir();
    let mut node = Node::start(dir.path(), "n1", &["--log-retention-bytes", "2000", "--segment-bytes", "500"]);
    let snapshots = dir.path().join("n1/snapshots");
    // The one that the manifest names: another may just be on its way.
    let snapshot = || {
        let manifest = Manifest::read(&RealDisk, &dir.path().join("n1")).unwrap().unwrap();
        manifest.snapshot.map(|lsn| snapshots.join(file_name(lsn)))
    };
    let mut n = 0;
    support::wait_until("there is a snapshot", || {
        node.add(&format!("\"element {n}\""));
        n += 1;
        snapshot().is_some()
    });
    node.stop();
    let path = snapshot().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[60] ^= 1;
    fs::write(&path, bytes).unwrap();
    refuses(dir.path(), 1, &path.display().to_string());
}
