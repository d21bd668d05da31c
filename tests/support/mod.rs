//! What the tests of the real binary share: [`bench`] (a run of `orset test`), [`node`] (one process and its two pipes),
//! [`model`] (what a set may and must hold after what clients were told), [`session`] (golden scripts with one node's
//! stores), [`cluster`] (several nodes behind a router that loses, delays and doubles
//! their messages). And what those of a store in this process do: [`on_disk`].
//!
//! The binary under test is cargo's own, or the one that `ORSET_BIN` names. A randomised test prints its seed; the same
//! seed in `ORSET_SEED` makes the same choices again (not the same interleaving: that is up to the machine).

// Every test is a crate of its own and uses a part of this.
#![allow(dead_code)]

pub mod bench;
pub mod cluster;
pub mod model;
pub mod node;
pub mod on_disk;
pub mod router;
pub mod session;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long anything is waited for before the test fails. Far beyond what it takes, so that a slow machine passes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub fn binary() -> OsString {
    std::env::var_os("ORSET_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_orset").into())
}

/// A directory of the test's own, on the disk that the build is on (a temporary file system would make every sync free).
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("cargo makes the directory")
}

/// The seed of a randomised test: from `ORSET_SEED`, else a new one. It is printed with what replays it.
pub fn seed(test: &str) -> u64 {
    let seed = match std::env::var("ORSET_SEED") {
        Ok(text) => text.parse().expect("ORSET_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    eprintln!("seed {seed}; again with: ORSET_SEED={seed} cargo test --test {test} -- --nocapture");
    seed
}

/// A number from the environment, for longer runs than the usual one.
pub fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// Says that a test does not test here what it should, and why: past the capture of a passing test's output.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Every path below `dir` with its content and time of change.
pub fn image(dir: &Path) -> BTreeMap<PathBuf, (Option<Vec<u8>>, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let metadata = std::fs::metadata(&path).unwrap();
        let content = if metadata.is_dir() { None } else { Some(std::fs::read(&path).unwrap()) };
        if metadata.is_dir() {
            found.extend(image(&path));
        }
        found.insert(path, (content, metadata.modified().unwrap()));
    }
    found.insert(dir.to_path_buf(), (None, std::fs::metadata(dir).unwrap().modified().unwrap()));
    found
}

/// What a program wrote.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// The same elements in one order.
pub fn sorted(mut elements: Vec<String>) -> Vec<String> {
    elements.sort();
    elements
}

/// Copies a directory with everything in it.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// The numbers of the segments that a store's log consists of, in order.
pub fn segments(store: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(store.join("log")).into_iter().flatten().flatten();
    let number = |path: &Path| match path.extension() {
        Some(end) if end == "log" => path.file_stem()?.to_str()?.parse().ok(),
        _ => None,
    };
    let mut numbers: Vec<u64> = entries.filter_map(|entry| number(&entry.path())).collect();
    numbers.sort_unstable();
    numbers
}

/// Waits until `done` says so, looking again every few milliseconds: for what no event tells.
///
/// # Panics
/// After [`PATIENCE`], with `what`.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
