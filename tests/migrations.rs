//! How a store is brought from one format to the next: run once, run again, and interrupted at every change of the disk.
//!
//! The one real step between stores so far only writes the manifest anew, so the machinery is also tried with a format 3
//! that exists only here: segments lie in `oplog/` instead of `log/`, and the manifest has one more byte. What the frozen
//! store of format 1 holds must be the same before and after.

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use orset::crdt::{NodeId, Tag, VersionVector};
use orset::storage::disk::{self, Disk, MemDisk, RealDisk};
use orset::storage::envelope::{self, ENVELOPE_BYTES, FORMAT_VERSION};
use orset::storage::manifest::Manifest;
use orset::storage::migrations::{Context, NO_STORE, Registry, Step, TODAY};
use orset::storage::replay::{Replay, log_dir};
use orset::storage::{Lsn, StoreError};

const DIR: &str = "/n1";
const MANIFEST_MAGIC: [u8; 8] = *b"ORSETMAN";

/// Today's format, and the one after it.
const NOW: u32 = FORMAT_VERSION;
const NEXT: u32 = NOW + 1;

/// The steps of a later program: today's, and one more.
fn with_a_next_format<T>(work: impl FnOnce(Registry) -> T) -> T {
    let today = TODAY.steps.iter().map(|step| Step { name: step.name, ..*step });
    let next = Step { from: NOW, to: NEXT, name: "the segments move to oplog/", run: to_the_next_format };
    let steps: Vec<Step> = today.chain([next]).collect();
    work(Registry { steps: &steps })
}

fn to_the_next_format(context: &Context) -> Result<(), StoreError> {
    let Context { disk, dir, .. } = *context;
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| StoreError::Io { doing: "bring to the next format", path, source }
    };
    let (old, new) = (log_dir(dir), dir.join("oplog"));
    disk.create_dir(&new).and_then(|()| disk.sync_dir(dir)).map_err(io(&new))?;
    for name in disk.list(&old).map_err(io(&old))? {
        let bytes = disk::read(disk, &old.join(&name)).map_err(io(&old))?;
        disk::replace(disk, &new.join(&name), &bytes).map_err(io(&new))?;
    }
    let path = Manifest::path(dir);
    let bytes = disk::read(disk, &path).map_err(io(&path))?;
    let (mut body, mut manifest) = (bytes[ENVELOPE_BYTES..].to_vec(), Vec::new());
    body.push(7);
    envelope::wrap(&mut manifest, MANIFEST_MAGIC, NEXT, &body);
    disk::replace(disk, &path, &manifest).map(drop).map_err(io(&path))
}

/// A disk with these files, all durable.
fn disk_with(files: &BTreeMap<PathBuf, Vec<u8>>) -> MemDisk {
    let disk = MemDisk::default();
    for (path, bytes) in files {
        let dir = path.parent().unwrap();
        disk.create_dir(dir).unwrap();
        let file = disk.create(path).unwrap();
        file.write_all_at(bytes, 0).and_then(|()| file.sync()).unwrap();
        dir.ancestors().try_for_each(|above| disk.sync_dir(above)).unwrap();
    }
    disk.after_kill()
}

/// The frozen store of format 1.
fn fixture() -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for below in ["", "log", "snapshots"] {
        for entry in std::fs::read_dir(Path::new("tests/fixtures/format-1").join(below)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                let path = Path::new(DIR).join(below).join(entry.file_name());
                files.insert(path, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    assert!(files.len() > 5, "{files:?}");
    files
}

/// What a store holds.
#[derive(PartialEq, Debug)]
struct Contents {
    records: BTreeMap<Tag, Vec<u8>>,
    vv: VersionVector,
    lsn: Lsn,
}

/// Of a store of a format that there is, or of our next one, which is taken for today's after undoing its differences.
fn contents(disk: &MemDisk) -> Contents {
    let mut files = disk.files();
    let (path, log) = (Manifest::path(Path::new(DIR)), log_dir(Path::new(DIR)));
    let manifest = files[&path].clone();
    if Manifest::format_version(&manifest, &path, NEXT).unwrap() == NEXT {
        let (last, body) = manifest[ENVELOPE_BYTES..].split_last().unwrap();
        assert_eq!(*last, 7);
        let mut old = Vec::new();
        envelope::wrap(&mut old, MANIFEST_MAGIC, NOW, body);
        files.insert(path, old);
        // What is still in log/ means nothing any more.
        files.retain(|path, _| path.parent() != Some(&log));
        let moved: Vec<PathBuf> =
            files.keys().filter(|path| path.parent().unwrap().ends_with("oplog")).cloned().collect();
        for path in moved {
            let bytes = files.remove(&path).unwrap();
            files.insert(log.join(path.file_name().unwrap()), bytes);
        }
    }
    let disk = disk_with(&files);
    let manifest = Manifest::read(&disk, Path::new(DIR)).unwrap().unwrap();
    let replay = Replay::read(&disk, Path::new(DIR), manifest, None, None).unwrap();
    let base = replay.snapshot_base();
    let records = replay.state.records(base.as_ref(), &[]).map(Result::unwrap);
    let records = records.map(|record| (record.tag(), record.element_bytes().to_vec())).collect();
    Contents { records, vv: replay.state.vv.clone(), lsn: replay.lsn }
}

/// The files without those that were being written aside.
fn settled(disk: &MemDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    disk.files().into_iter().filter(|(path, _)| path.extension() != Some("tmp".as_ref())).collect()
}

/// Runs `work` on copies of `disk`, stopped at every change, and `judge` on all that may be left. Says how often it was
/// interrupted.
fn interrupted(
    disk: &MemDisk,
    work: impl Fn(&MemDisk) -> Result<u32, StoreError>,
    judge: impl Fn(&MemDisk, u64),
) -> u64 {
    for stop in 1.. {
        let copy = disk.after_kill();
        copy.stop_at(stop);
        let done = work(&copy).is_ok();
        for choice in [None, Some(0), Some(stop), Some(stop + 1000), Some(stop + 2000)] {
            judge(&choice.map_or_else(|| copy.after_kill(), |choice| copy.after_power_cut(choice)), stop);
        }
        if done {
            return stop - 1;
        }
    }
    unreachable!("it ends some time")
}

#[test]
fn the_fixture_of_format_1_holds_the_same_in_todays_format_whatever_interrupts_the_step() {
    let times = brought_up_whatever_interrupts(TODAY, NOW);
    println!("interrupted at {times} changes of the disk");
    assert!(times > 3, "{times}");
    // What is on the disk but the manifest is what was there.
    let (disk, path) = (disk_with(&fixture()), Manifest::path(Path::new(DIR)));
    TODAY.bring_up(&disk, Path::new(DIR), None).unwrap();
    let without_manifest = |mut files: BTreeMap<PathBuf, Vec<u8>>| files.remove(&path).map(|_| files);
    assert!(without_manifest(disk.files()) == without_manifest(fixture()));
}

#[test]
fn the_fixture_holds_the_same_in_the_next_format_whatever_interrupts_the_steps() {
    let times = with_a_next_format(|registry| brought_up_whatever_interrupts(registry, NEXT));
    println!("interrupted at {times} changes of the disk");
    assert!(times > 20, "{times}");
}

/// Brings the frozen store of format 1 to the format `to`, and interrupts that wherever it can be. Says how often.
fn brought_up_whatever_interrupts(registry: Registry, to: u32) -> u64 {
    let (files, dir) = (fixture(), Path::new(DIR));
    let disk = disk_with(&files);
    let before = contents(&disk);
    assert!(!before.records.is_empty());
    let bring_up = |disk: &MemDisk| registry.bring_up(disk, dir, None);
    let finished = disk.after_kill();
    assert_eq!(bring_up(&finished).unwrap(), 1);
    assert_eq!(registry.format_of_store(&finished, dir).unwrap(), to);
    assert_eq!(contents(&finished), before);
    let expected = settled(&finished);
    // A step is a function of its arguments, and its own outcome is left alone.
    let again = disk_with(&files);
    bring_up(&again).unwrap();
    assert!(settled(&again) == expected);
    assert_eq!(bring_up(&again).unwrap(), to);
    assert!(settled(&again) == expected);

    interrupted(&disk, bring_up, |left, stop| {
        assert_eq!(contents(left), before, "stopped at {stop}");
        bring_up(left).unwrap_or_else(|e| panic!("stopped at {stop}, again: {e}"));
        assert_eq!(contents(left), before, "stopped at {stop}, again");
        assert!(settled(left) == expected, "stopped at {stop}, again: other files");
        // What a killed step had finished may not have been durable; then it is done once more.
        let cut = left.after_power_cut(0);
        assert_eq!(contents(&cut), before, "stopped at {stop}, and a power cut");
        bring_up(&cut).unwrap_or_else(|e| panic!("stopped at {stop}, and a power cut: {e}"));
        assert!(settled(&cut.after_power_cut(0)) == expected, "stopped at {stop}, and a power cut: other files");
    })
}

#[test]
fn a_new_store_is_made_by_all_steps_whatever_interrupts_them() {
    let (dir, node) = (Path::new(DIR), NodeId::new("n1").unwrap());
    with_a_next_format(|registry| {
        for (registry, format) in [(TODAY, NOW), (registry, NEXT)] {
            let bring_up = |disk: &MemDisk| registry.bring_up(disk, dir, Some(&node));
            let times = interrupted(&MemDisk::default(), bring_up, |left, stop| {
                bring_up(left).unwrap_or_else(|e| panic!("stopped at {stop}, again: {e}"));
                for left in [left.after_kill(), left.after_power_cut(0)] {
                    bring_up(&left).unwrap_or_else(|e| panic!("stopped at {stop}, and once more: {e}"));
                    assert_eq!(registry.format_of_store(&left, dir).unwrap(), format, "stopped at {stop}");
                    assert_eq!(contents(&left).lsn, Lsn(0), "stopped at {stop}");
                }
            });
            println!("format {format}: interrupted at {times} changes of the disk");
            assert!(times > 5, "{times}");
        }
    });
}

#[test]
fn a_later_format_is_refused_before_any_step_and_no_store_is_made_where_there_was_one() {
    let dir = Path::new(DIR);
    let disk = disk_with(&fixture());
    with_a_next_format(|registry| registry.bring_up(&disk, dir, None)).unwrap();
    let files = disk.files();
    for node in [None, NodeId::new("n1").as_ref()] {
        let refused = TODAY.bring_up(&disk, dir, node);
        assert!(matches!(refused, Err(StoreError::Newer { found: NEXT, known: NOW, .. })), "{refused:?}");
        assert!(disk.files() == files);
    }
    disk.remove(&Manifest::path(dir)).unwrap();
    assert_eq!(TODAY.format_of(&disk, dir).unwrap(), NO_STORE);
    let files = disk.files();
    for node in [None, NodeId::new("n1").as_ref()] {
        assert!(matches!(TODAY.bring_up(&disk, dir, node), Err(StoreError::Damaged { .. })));
        assert!(disk.files() == files);
    }
}

thread_local! {
    /// What was said by this thread's test. (A subscriber for one thread alone misses what another thread's test was the first to say.)
    static SAID: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Said;

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        SAID.with_borrow_mut(|said| said.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn there_is_a_word_for_every_step_of_a_store_and_none_for_a_new_one() {
    let (dir, node) = (Path::new(DIR), NodeId::new("n1").unwrap());
    tracing_subscriber::fmt().with_ansi(false).with_writer(|| Said).init();
    TODAY.bring_up(&MemDisk::default(), dir, Some(&node)).unwrap();
    assert!(SAID.with_borrow(Vec::is_empty));
    with_a_next_format(|registry| registry.bring_up(&disk_with(&fixture()), dir, None)).unwrap();
    let said = String::from_utf8(SAID.take()).unwrap();
    for word in ["from format 1 to 2: answers to requests with a request_id", "from format 2 to 3: the segments move"] {
        assert!(said.contains(&format!("/n1: {word}")), "{said}");
    }
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn a_manifest_that_cannot_be_read_is_not_taken_for_one_that_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(TODAY.format_of(&RealDisk, dir.path()).unwrap(), NO_STORE);
    std::fs::create_dir(Manifest::path(dir.path())).unwrap();
    let error = TODAY.format_of(&RealDisk, dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
}

/// Found by a stranger: what a start refuses, `orset migrate` brought to today's format.
#[test]
fn a_damaged_store_is_not_migrated() {
    let dir = support::temp_dir();
    let store = dir.path().join("n1");
    support::copy_dir(Path::new("tests/fixtures/format-1"), &store);
    let path = store.join("log/0000000003.log");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let before = support::image(&store);
    for args in [&["--dry-run"][..], &[]] {
        let out = std::process::Command::new(support::binary()).arg("migrate").arg(&store).args(args).output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        assert!(support::text(&out.stderr).contains("damaged"), "{out:?}");
        assert!(support::image(&store) == before, "it was changed");
    }
}
