//! `verify`, `salvage`, `backup` and `migrate` as their users meet them: golden sessions with the real binary under
//! `tests/golden/repair/`; damage to real files, of which `verify` and a start must say the same; and what becomes of
//! salvaged and restored nodes among their peers.
//!
//! The golden scripts' commands are described in `support/session.rs`.
//! `UPDATE_GOLDENFILES=1 cargo test --test repair` writes what was said; read the diff.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use orset::crdt::{Base, Change, Dot, Element, RecordKey, ReplicaId, Seq};
use orset::storage::envelope;
use orset::storage::index::{Index, IndexHome, IndexPosition, SledIndex, current_boot_id};
use orset::storage::log::segment;
use support::cluster::Cluster;
use support::node::Node;
use support::router::Faults;
use support::session::Session;
use support::{binary, copy_dir, image, segments, sorted, temp_dir, text, wait_until};

macro_rules! golden {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            let script = Path::new("tests/golden/repair").join(stringify!($name));
            goldenscript::run(&mut Session::new(), script).unwrap();
        }
    )*};
}

golden! {
    verify
    index
    running
    salvage
    backup_and_migrate
}

#[test]
fn every_golden_script_is_run() {
    let source = include_str!("repair.rs");
    for entry in std::fs::read_dir("tests/golden/repair").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(source.lines().any(|line| line.trim() == name), "no test runs {name}");
    }
}

fn orset(args: &[&Path]) -> Output {
    Command::new(binary()).args(args).output().expect("the binary can be started")
}

/// What a command that succeeds says.
fn done(args: &[&Path]) -> String {
    let output = orset(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

const SMALL: [&str; 4] = ["--log-retention-bytes", "3000", "--segment-bytes", "1000"];

/// A store with a snapshot, several segments and a kill behind it.
fn store_with_a_past(dir: &Path, clean: bool) -> PathBuf {
    let store = dir.join("n1");
    let mut node = Node::start(dir, "n1", &SMALL);
    for n in 0..60 {
        node.add(&format!("\"element {n}\""));
    }
    wait_until("it has compacted", || std::fs::read_dir(store.join("snapshots")).unwrap().count() > 0);
    node.process.kill();
    let mut node = Node::start(dir, "n1", &SMALL);
    node.remove("\"element 3\"");
    node.add("\"last\"");
    if clean {
        node.stop();
    } else {
        node.process.kill();
    }
    store
}

/// Starts a node on the store, reads the set, and ends; `None` if it refuses.
fn read_at_a_start(store: &Path) -> Option<String> {
    let mut command = Command::new(binary());
    command.args(["serve", "--node-id", "n1", "--catch-up-ms", "0", "--data-dir"]).arg(store.parent().unwrap());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary can be started");
    let read = b"{\"src\":\"c1\",\"dest\":\"n1\",\"body\":{\"type\":\"init\",\"msg_id\":1,\"node_id\":\"n1\",\"node_ids\":[\"n1\"]}}\n\
        {\"src\":\"c1\",\"dest\":\"n1\",\"body\":{\"type\":\"or_set_read\",\"msg_id\":2}}\n";
    // One that refuses may be gone before it has read this.
    let _ = std::io::Write::write_all(&mut child.stdin.take().expect("piped"), read);
    let output = child.wait_with_output().expect("it ends with its input");
    let said = text(&output.stdout);
    match output.status.code() {
        Some(0) => said.lines().find(|line| line.contains("or_set_read_ok")).map(str::to_owned),
        Some(1) if text(&output.stderr).contains("damaged at byte") => None,
        code => panic!("exit {code:?}: {said}{}", text(&output.stderr)),
    }
}

/// The files that are the truth of a store.
fn truth(store: &Path) -> Vec<PathBuf> {
    let below = |name: &str| std::fs::read_dir(store.join(name)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = below("log").chain(below("snapshots")).collect();
    files.push(store.join("manifest"));
    files.sort();
    files
}

type Damage = Box<dyn Fn(&Path)>;

#[test]
fn verify_and_a_start_of_the_real_binary_say_the_same_of_sampled_damage() {
    let seed = support::seed("repair");
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut tried, mut refused, mut salvaged) = (0, 0, 0);
    for clean in [true, false] {
        let dir = temp_dir();
        let store = store_with_a_past(dir.path(), clean);
        let whole = read_at_a_start(&{
            let copy = dir.path().join("whole/n1");
            copy_dir(&store, &copy);
            copy
        });
        assert!(whole.is_some());
        for file in truth(&store) {
            let name = file.strip_prefix(&store).unwrap().to_path_buf();
            let length = std::fs::metadata(&file).unwrap().len() as usize;
            let mut damages: Vec<(String, Damage)> = Vec::new();
            for _ in 0..3 {
                let (at, cut) = (rng.usize(..length), rng.usize(..length));
                damages
                    .push((format!("byte {at} flipped"), Box::new(move |path| edit(path, |bytes| bytes[at] ^= 0x20))));
                damages.push((format!("cut at {cut}"), Box::new(move |path| edit(path, |bytes| bytes.truncate(cut)))));
            }
            damages.push(("missing".into(), Box::new(|path| std::fs::remove_file(path).unwrap())));
            damages.push(("doubled".into(), Box::new(|path| edit(path, |bytes| bytes.extend(bytes.clone())))));
            for (what, damage) in damages {
                let context = format!("seed {seed}, clean {clean}, {}: {what}", name.display());
                let copy = dir.path().join("copy/n1");
                copy_dir(&store, &copy);
                damage(&copy.join(&name));
                let verdict = orset(&["verify".as_ref(), &copy, "--format".as_ref(), "json".as_ref()]);
                assert!(matches!(verdict.status.code(), Some(0 | 1)), "{context}: {}", text(&verdict.stderr));
                let verdict: serde_json::Value = serde_json::from_slice(&verdict.stdout).unwrap();
                let before = image(&copy.join("log"));
                let read = read_at_a_start(&copy);
                assert_eq!(verdict["starts"], read.is_some(), "{context}: {verdict}");
                if read.is_none() {
                    refused += 1;
                    assert!(image(&copy.join("log")) == before, "{context}: it was refused, and something changed");
                    let new = dir.path().join("new/n1");
                    std::fs::create_dir_all(new.parent().unwrap()).unwrap();
                    done(&["salvage".as_ref(), &copy, &new]);
                    assert!(image(&copy.join("log")) == before, "{context}: it was salvaged, and something changed");
                    assert!(read_at_a_start(&new).is_some(), "{context}");
                    salvaged += 1;
                    std::fs::remove_dir_all(new.parent().unwrap()).unwrap();
                } else if clean || verdict["sound"] == true {
                    let harmless = verdict["sound"] == true || verdict["findings"][0]["kind"] == "lost end";
                    assert!(harmless, "{context}: {verdict}");
                }
                tried += 1;
                std::fs::remove_dir_all(copy.parent().unwrap()).unwrap();
            }
        }
    }
    println!("{tried} damaged stores: {refused} refused, {salvaged} salvaged and started");
    assert!(refused > 20, "{refused}");
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// The verdict of `verify` with these arguments, and its exit code.
fn verdict(store: &Path, more: &[&str]) -> (serde_json::Value, Option<i32>) {
    let output =
        Command::new(binary()).arg("verify").arg(store).args(["--format", "json"]).args(more).output().unwrap();
    let said = text(&output.stdout);
    (
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}{}", text(&output.stderr))),
        output.status.code(),
    )
}

/// Opens a store's index as a start would, and closes it again.
fn with_index(store: &Path, work: impl FnOnce(&SledIndex)) {
    let mut home = IndexHome::new(store, current_boot_id());
    let index = home.open(true).unwrap();
    work(&index);
    home.close(index).unwrap();
}

/// Found by a stranger: then `--repair` replaced a sound index.
#[test]
fn where_no_copy_can_be_made_of_the_index_it_is_not_looked_at_and_not_at_fault() {
    let dir = temp_dir();
    let mut node = Node::start(dir.path(), "n1", &[]);
    node.add("1");
    node.stop();
    let verify = Command::new(binary()).arg("verify").arg(dir.path().join("n1")).env("TMPDIR", "/nonexistent").output();
    let verify = verify.unwrap();
    assert_eq!(verify.status.code(), Some(0), "{verify:?}");
    assert!(text(&verify.stdout).contains("not_looked_at"), "{verify:?}");
}

/// Found by an attack: a store whose snapshot had passed an index that took in nothing any more was called unsound.
#[test]
fn an_index_that_a_snapshot_has_passed_is_no_fault() {
    let dir = temp_dir();
    let (store, kept) = (dir.path().join("n1"), dir.path().join("kept"));
    let mut node = Node::start(dir.path(), "n1", &[]);
    node.add("1");
    node.stop();
    copy_dir(&store, &kept);
    let mut node = Node::start(dir.path(), "n1", &["--segment-bytes", "2000", "--log-retention-bytes", "2000"]);
    wait_until("a snapshot takes the first segment's place", || {
        node.add("2");
        segments(&store)[0] > 1
    });
    node.stop();
    std::fs::remove_dir_all(store.join("index")).unwrap();
    copy_dir(&kept.join("index"), &store.join("index"));
    std::fs::copy(kept.join("index.state"), store.join("index.state")).unwrap();
    let verify = Command::new(binary()).arg("verify").arg(&store).output().unwrap();
    assert_eq!(verify.status.code(), Some(0), "{verify:?}");
    assert!(text(&verify.stdout).contains("before the snapshot"), "{verify:?}");
}

/// Breaks the index of the first store, to which the second is a stranger.
type BreakIndex = fn(&Path, &Path);

#[test]
fn an_index_that_is_not_the_fold_is_found_and_built_anew() {
    let breaks: [(&str, BreakIndex); 5] = [
        ("is missing", |store, _| {
            with_index(store, |index| {
                let record = index.records(&[]).next().unwrap().unwrap();
                index.apply(&[(record.key, Change::Delete)], index.position()).unwrap();
            });
        }),
        ("should not be there", |store, _| {
            with_index(store, |index| {
                let dot = Dot::new(ReplicaId::from_random(9), Seq(2));
                let key = RecordKey::new(&Element::from_canonical(b"\"more\""), dot);
                index.apply(&[(key, Change::Put(None))], index.position()).unwrap();
            });
        }),
        ("of another log", |store, _| {
            with_index(store, |index| {
                index.apply(&[], IndexPosition { checksum: 1, ..index.position() }).unwrap();
            });
        }),
        ("of another log", |store, other| {
            for part in ["index", "index.state"] {
                let (from, to) = (other.join(part), store.join(part));
                if from.is_dir() {
                    std::fs::remove_dir_all(&to).unwrap();
                    copy_dir(&from, &to);
                } else {
                    std::fs::copy(&from, &to).unwrap();
                }
            }
        }),
        ("", |store, _| {
            for path in image(&store.join("index")).into_keys().filter(|path| path.is_file()) {
                std::fs::write(&path, b"not sled's").unwrap();
            }
        }),
    ];
    for (n, (wanted, damage)) in breaks.into_iter().enumerate() {
        let dir = temp_dir();
        let store = store_with_a_past(dir.path(), true);
        let mut other = Node::start(&dir.path().join("other"), "n1", &[]);
        let (sound, code) = verdict(&store, &[]);
        assert_eq!(code, Some(0));
        // Its `Start` is the first entry.
        (1..sound["lsn"].as_u64().unwrap()).for_each(|n| _ = other.add(&n.to_string()));
        other.stop();
        damage(&store, &dir.path().join("other/n1"));
        let (found, code) = verdict(&store, &[]);
        assert_eq!((code, &found["starts"]), (Some(1), &true.into()), "case {n}: {found}");
        assert_eq!(found["findings"][0]["kind"], "index", "case {n}: {found}");
        assert!(found["findings"][0]["what"].as_str().unwrap().contains(wanted), "case {n}: {found}");
        let (mended, code) = verdict(&store, &["--repair"]);
        assert_eq!((code, &mended["findings"][0]["repaired"]), (Some(0), &true.into()), "case {n}: {mended}");
        assert!(store.join("aside/1/index").is_dir(), "case {n}: the old index is kept");
        assert_eq!(verdict(&store, &[]).1, Some(0), "case {n}");
        // The next start takes it as it is.
        let mut node = Node::start(dir.path(), "n1", &SMALL);
        node.process.stderr.wait_for("index trusted");
        assert_eq!(node.read().len(), 60);
        node.stop();
    }
}

/// A store whose log is another's, younger than what its index has been fed.
fn store_with_an_index_ahead_of_its_log(dir: &Path) -> PathBuf {
    let store = store_with_a_past(dir, true);
    let mut young = Node::start(&dir.join("young"), "n1", &[]);
    young.add("\"young\"");
    young.process.kill();
    for part in ["log", "snapshots", "manifest"] {
        let (from, to) = (dir.join("young/n1").join(part), store.join(part));
        if from.is_dir() {
            std::fs::remove_dir_all(&to).unwrap();
            copy_dir(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
    store
}

#[test]
fn an_index_that_is_ahead_of_the_log_tells_so_also_under_another_boot() {
    let dir = temp_dir();
    store_with_an_index_ahead_of_its_log(dir.path());
    let mut serve = Command::new(binary());
    serve.args(["serve", "--node-id", "n1", "--data-dir"]).arg(dir.path()).env("ORSET_BOOT_ID", "another");
    let output = serve.stdin(Stdio::null()).output().expect("the binary can be started");
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("another boot"), "{said}");
    assert!(said.contains("durable operations are missing from the end of the log"), "{said}");
}

#[test]
fn an_index_that_is_ahead_of_the_log_tells_that_its_end_is_missing_and_nothing_is_repaired() {
    let dir = temp_dir();
    let store = store_with_an_index_ahead_of_its_log(dir.path());
    let before = image(&store.join("index"));
    for more in [&[][..], &["--repair"]] {
        let (found, code) = verdict(&store, more);
        assert_eq!((code, &found["findings"][0]["kind"]), (Some(1), &"lost end".into()), "{found}");
        assert_eq!(found["starts"], true);
    }
    assert!(image(&store.join("index")) == before && !store.join("aside").exists());
}

#[test]
fn a_newer_store_is_refused_untouched_by_every_command() {
    let dir = temp_dir();
    let store = store_with_a_past(dir.path(), true);
    let mut bytes = Vec::new();
    envelope::wrap(&mut bytes, *b"ORSETMAN", envelope::FORMAT_VERSION + 1, b"who knows");
    std::fs::write(store.join("manifest"), bytes).unwrap();
    let before = image(dir.path());
    let (path, new) = (store.to_str().unwrap(), dir.path().join("new"));
    let new = new.to_str().unwrap();
    let parent = dir.path().to_str().unwrap();
    for args in [
        &["serve", "--node-id", "n1", "--data-dir", parent][..],
        &["verify", path],
        &["verify", path, "--repair"],
        &["migrate", path],
        &["migrate", path, "--dry-run"],
        &["salvage", path, new],
        &["backup", path, new],
        &["dump", path],
        &["dump", path, "--section", "all"],
        &["dump", path, "--diff", path],
    ] {
        let output = Command::new(binary()).args(args).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{args:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("use a newer orset"), "{args:?}: {}", text(&output.stderr));
        assert!(image(dir.path()) == before, "{args:?}: something has changed");
    }
}

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const ARGS: [&str; 10] = [
    "--flush-interval-ms",
    "10",
    "--digest-interval-ms",
    "20",
    "--digest-max-ms",
    "200",
    "--log-retention-bytes",
    "8192",
    "--segment-bytes",
    "2048",
];

fn names(what: &str, count: u32) -> Vec<String> {
    (0..count).map(|n| format!("\"{what} {n:03}\"")).collect()
}

/// Puts another directory in the place of a slot's store; what was there is moved to `old`.
fn exchange(cluster: &Cluster, slot: &str, store: &Path, old: &str) -> PathBuf {
    let (place, old) = (cluster.store(slot), cluster.data_dir(slot).join(old));
    std::fs::rename(&place, &old).unwrap();
    std::fs::rename(store, &place).unwrap();
    old
}

/// How a store is broken, so that no start takes it any more.
type Break = fn(&Path);

fn middle_of_the_log(store: &Path) {
    let counters = segments(store);
    edit(&store.join("log").join(segment::file_name(counters[counters.len() / 2])), |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
}

fn a_segment_gone(store: &Path) {
    let counters = segments(store);
    std::fs::remove_file(store.join("log").join(segment::file_name(counters[counters.len() - 2]))).unwrap();
}

fn the_manifest(store: &Path) {
    edit(&store.join("manifest"), |bytes| bytes.truncate(10));
}

fn a_block_of_the_snapshot(store: &Path) {
    let snapshot = std::fs::read_dir(store.join("snapshots")).unwrap().next().expect("a snapshot").unwrap().path();
    edit(&snapshot, |bytes| bytes[100] ^= 1);
}

#[test]
fn a_salvaged_node_goes_on_and_its_peers_bring_back_what_it_lost() {
    let breaks: [(&str, Break); 4] = [
        ("log", middle_of_the_log),
        ("segment", a_segment_gone),
        ("manifest", the_manifest),
        ("snapshot", a_block_of_the_snapshot),
    ];
    let mut cluster = Cluster::started(11, &NODES, &ARGS);
    let (mut elements, mut tags) = (Vec::new(), BTreeSet::new());
    for (what, damage) in breaks {
        for node in ["n1", "n2"] {
            let added = names(&format!("{what} of {node}"), 60);
            tags.extend(added.iter().map(|element| cluster.add(node, element)));
            elements.extend(added);
        }
        cluster.barrier();
        // Removed everywhere, and on the broken store's disk a record of an add and one of a removal.
        for _ in 0..20 {
            let element = elements.remove(0);
            let removed = cluster.remove("n1", &element);
            assert!(removed.iter().all(|tag| tags.remove(tag)) && removed.len() == 1);
        }
        let store = cluster.store("n1");
        wait_until("it has compacted", || std::fs::read_dir(store.join("snapshots")).unwrap().count() > 0);
        cluster.barrier();
        cluster.kill("n1");
        damage(&store);
        assert_eq!(orset(&["verify".as_ref(), &store]).status.code(), Some(1), "{what}");
        let before = image(&store);
        let new = cluster.data_dir("n1").join("salvaged");
        println!("{}", done(&["salvage".as_ref(), &store, &new, "--format".as_ref(), "table".as_ref()]));
        assert!(image(&store) == before, "{what}: the broken store has changed");
        let old = exchange(&cluster, "n1", &new, &format!("broken {what}"));
        assert!(old.is_dir());

        // Before it hears of anybody it adds something: its tag must be new.
        cluster.router.set(Faults::isolate("n1", NODES.into_iter(), true));
        cluster.start("n1");
        let element = format!("\"after {what}\"");
        let tag = cluster.add("n1", &element);
        assert!(tags.insert(tag), "{what}: a tag was used twice");
        elements.push(element);
        cluster.barrier();
        assert_eq!(sorted(cluster.agreed()), sorted(elements.clone()), "{what}");
    }
    cluster.drain("n1", &elements, &tags);
}

#[test]
fn a_backup_of_a_running_node_is_restored_in_its_place() {
    let mut cluster = Cluster::started(12, &NODES, &ARGS);
    let (mut elements, mut tags) = (Vec::new(), BTreeSet::new());
    let mut add = |cluster: &mut Cluster, node: &str, what: &str, count: u32| {
        for element in names(what, count) {
            assert!(tags.insert(cluster.add(node, &element)), "a tag was used twice");
            elements.push(element);
        }
    };
    add(&mut cluster, "n1", "before the backup", 100);
    let (store, copy) = (cluster.store("n1"), cluster.data_dir("n1").join("backup"));
    // While it runs, in the middle of a batch of adds whose replies are still to come.
    let sent: Vec<(String, i64)> = names("during the backup", 200)
        .into_iter()
        .map(|element| (element.clone(), cluster.send("n1", &format!(r#""type":"or_set_add","element":{element}"#))))
        .collect();
    done(&["backup".as_ref(), &store, &copy]);
    for (element, msg_id) in sent {
        assert!(tags.insert(cluster.reply("n1", msg_id).tags("tag")[0]), "a tag was used twice");
        elements.push(element);
    }
    assert!(!copy.join("index").exists() && !copy.join("LOCK").exists());
    done(&["verify".as_ref(), &copy]);
    let removed = cluster.remove("n1", "\"before the backup 000\"");
    let mut add = |cluster: &mut Cluster, node: &str, what: &str, count: u32| {
        for element in names(what, count) {
            assert!(tags.insert(cluster.add(node, &element)), "a tag was used twice");
            elements.push(element);
        }
    };
    add(&mut cluster, "n1", "after the backup", 50);
    cluster.barrier();
    cluster.kill("n1");
    exchange(&cluster, "n1", &copy, "lost");

    cluster.router.set(Faults::isolate("n1", NODES.into_iter(), true));
    cluster.start("n1");
    // The numbers after those in the backup were used once already, by another incarnation of this node.
    add(&mut cluster, "n1", "after the restore", 50);
    cluster.barrier();
    cluster.process("n1").stderr.wait_for("rolled back by");
    assert!(removed.iter().all(|tag| tags.remove(tag)) && removed.len() == 1);
    elements.retain(|element| element != "\"before the backup 000\"");
    assert_eq!(sorted(cluster.agreed()), sorted(elements.clone()));
    let replicas: BTreeSet<_> = tags.iter().map(|tag| Dot::from_uuid(*tag).expect("a tag").replica).collect();
    assert_eq!(replicas.len(), 2, "one replica id before, one after");
    cluster.drain("n3", &elements, &tags);
}

/// A directory stands for a bad sector: it can be opened, and reading it fails.
#[test]
fn a_manifest_that_cannot_be_read_hides_nothing_else_of_the_store() {
    let dir = temp_dir();
    let store = store_with_a_past(dir.path(), true);
    std::fs::remove_file(store.join("manifest")).unwrap();
    std::fs::create_dir(store.join("manifest")).unwrap();
    let verified = orset(&[Path::new("verify"), &store]);
    assert_eq!(verified.status.code(), Some(1));
    let findings = text(&verified.stdout);
    assert!(findings.contains(r#""file":"manifest""#) && findings.contains("cannot read it"), "{findings}");
    let new = dir.path().join("new");
    let salvaged = done(&[Path::new("salvage"), &store, &new]);
    assert!(salvaged.contains(r#""unapplied":0"#), "{salvaged}");
    let held = done(&[Path::new("dump"), &new, Path::new("--element"), Path::new("\"last\"")]);
    assert!(held.contains("last"), "{held}");
}
