//! A store's files, damaged in every way that there is a loop for. Opening it then either is refused, and has changed
//! nothing, or shows exactly what was there.
//!
//! The exceptions are those that a file system cannot have told: after an unclean stop the last frame may be one that was
//! never synced (a flip there is a torn tail, and reported as one), and a last segment that ends cleanly at an earlier
//! frame is an earlier log.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orset::crdt::{Element, NodeId, OpBody, Tag};
use orset::storage::disk::MemDisk;
use orset::storage::manifest::Manifest;
use orset::storage::{IndexSource, MemorySource, NoIndex, Recovery, Store, StoreError, StoreLimits, StoreOptions};

const DIR: &str = "/n1";

fn open(disk: &MemDisk, source: &mut dyn IndexSource) -> Result<(Store, Recovery), StoreError> {
    let mut rng = fastrand::Rng::with_seed(disk.used_bytes());
    let options = StoreOptions {
        disk: Arc::new(disk.clone()),
        dir: Path::new(DIR).to_path_buf(),
        node: NodeId::new("n1").unwrap(),
        entropy: Box::new(move || rng.u128(..)),
        limits: StoreLimits {
            segment_bytes: 700,
            min_retention_bytes: 3000,
            max_retention_bytes: 4000,
            memtable_bytes: 1 << 20,
            recent_bytes: 1 << 10,
        },
    };
    Store::open(options, source)
}

type Live = BTreeMap<Tag, String>;

fn live(store: &Store) -> Live {
    store.records(&[]).map(Result::unwrap).map(|r| (r.tag(), r.element().as_str().to_owned())).collect()
}

/// A store with a past, and all that it ever held.
struct Specimen {
    disk: MemDisk,
    /// The files as they were at some earlier moments.
    earlier: Vec<BTreeMap<PathBuf, Vec<u8>>>,
    live: Live,
    history: Vec<Live>,
    clean: bool,
    last_segment: PathBuf,
}

impl Specimen {
    /// Three process starts; the last stop is clean or not.
    fn new(clean: bool) -> Self {
        let mut disk = MemDisk::default();
        let (mut earlier, mut history) = (Vec::new(), Vec::new());
        for start in 0..3 {
            let (mut store, _) = open(&disk, &mut NoIndex).unwrap();
            for n in 0..40_u32 {
                change(&mut store, start * 40 + n);
                history.push(live(&store));
                if n % 10 == 5 {
                    earlier.push(disk.files());
                }
            }
            if start == 2 && clean || start == 0 {
                store.close(None).unwrap();
            } else {
                drop(store);
                disk = disk.after_kill();
            }
        }
        let manifest = Manifest::read(&disk, Path::new(DIR)).unwrap().unwrap();
        assert!(manifest.segments.len() >= 4 && manifest.snapshot.is_some(), "{manifest:?}");
        let last = manifest.segments.last().unwrap();
        let last_segment = Path::new(DIR).join(format!("log/{last:010}.log"));
        // Room that is set aside means nothing, and takes long to compare.
        let _ = orset::storage::disk::Disk::remove(&disk, &Path::new(DIR).join("reserve"));
        let live = history.last().unwrap().clone();
        Self { disk, earlier, live, history, clean, last_segment }
    }

    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.disk.files()
    }

    /// Opens the store after `damage`, and judges what comes of it.
    fn with(&self, path: &Path, what: &str, damage: impl FnOnce(&MemDisk)) -> Outcome {
        let disk = self.disk.after_kill();
        damage(&disk);
        let before = disk.files();
        let context = format!("{} store, {}: {what}", if self.clean { "clean" } else { "unclean" }, path.display());
        match open(&disk, &mut MemorySource) {
            Err(error) => {
                let named = matches!(&error, StoreError::Damaged { path: named, .. } if named == path);
                assert!(matches!(error, StoreError::Damaged { .. }), "{context}: {error}");
                assert!(disk.files() == before, "{context}: it was refused, and yet something changed");
                Outcome::Refused { named }
            }
            Ok((store, recovery)) => {
                let found = live(&store);
                let outcome = if found == self.live {
                    Outcome::Same { torn: recovery.torn_tail_bytes }
                } else {
                    assert!(self.history.contains(&found), "{context}: elements that there never were together");
                    Outcome::Older { torn: recovery.torn_tail_bytes }
                };
                drop(store);
                for again in [disk.after_power_cut(0), disk.after_kill()] {
                    let (store, _) = open(&again, &mut NoIndex).unwrap_or_else(|e| panic!("{context}, again: {e}"));
                    assert_eq!(live(&store), found, "{context}: another set at the next start");
                }
                outcome
            }
        }
    }
}

/// One change to the set, durable, and the background work that follows.
fn change(store: &mut Store, n: u32) {
    let element = Element::from_canonical(format!("\"element {}\"", n * 7 % 12).as_bytes());
    let tags = store.tags(&element).unwrap();
    if n % 3 == 2 && !tags.is_empty() {
        store.append_local(OpBody::Remove { element, tags });
    } else {
        store.append_local(OpBody::Add(element));
    }
    store.commit().unwrap();
    if let Some(plan) = store.plan_compaction().unwrap() {
        let snapshot = plan.run().unwrap();
        store.install(snapshot).unwrap();
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Refused { named: bool },
    Same { torn: u64 },
    Older { torn: u64 },
}

#[derive(Default, Debug)]
struct Tally {
    refused: u32,
    same: u32,
    older: u32,
}

impl Tally {
    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Refused { .. } => self.refused += 1,
            Outcome::Same { .. } => self.same += 1,
            Outcome::Older { .. } => self.older += 1,
        }
    }
}

/// Where the last frame of an undamaged segment starts.
fn last_frame(bytes: &[u8]) -> usize {
    // "ORFR" occurs in no element of these tests.
    bytes.windows(4).rposition(|window| window == b"ORFR").expect("it has frames")
}

#[test]
fn the_last_segment_cut_at_every_byte() {
    for clean in [true, false] {
        let specimen = Specimen::new(clean);
        let path = specimen.last_segment.clone();
        let bytes = specimen.files()[&path].clone();
        let mut tally = Tally::default();
        for cut in 0..bytes.len() {
            let outcome =
                specimen.with(&path, &format!("cut at {cut}"), |disk| disk.tamper(&path, |b| b.truncate(cut)));
            tally.add(outcome);
            match outcome {
                Outcome::Refused { named } => assert!(named, "cut at {cut}: another file was named"),
                Outcome::Same { .. } | Outcome::Older { .. } => assert!(!clean, "cut at {cut}: {outcome:?}"),
            }
            // Only where a frame ends there is no torn tail.
            if let Outcome::Older { torn: 0 } = outcome {
                assert!(bytes[cut..].starts_with(b"ORFR"), "cut at {cut}: nothing was said");
            }
        }
        println!("clean {clean}: {} cuts: {tally:?}", bytes.len());
        assert!(clean || tally.older > 0);
    }
}

#[test]
fn every_byte_of_every_file_flipped() {
    for clean in [true, false] {
        let specimen = Specimen::new(clean);
        let mut rng = fastrand::Rng::with_seed(7);
        for (path, bytes) in specimen.files() {
            let mut tally = Tally::default();
            for at in 0..bytes.len() {
                let bit = rng.u32(0..8);
                let what = format!("bit {bit} of byte {at} flipped");
                let outcome = specimen.with(&path, &what, |disk| disk.tamper(&path, |b| b[at] ^= 1 << bit));
                tally.add(outcome);
                let last = path == specimen.last_segment;
                match outcome {
                    Outcome::Refused { named } => assert!(named, "{what}: another file was named"),
                    Outcome::Same { .. } => assert!(!(last && clean), "{}: {what} was not seen", path.display()),
                    Outcome::Older { torn } => {
                        let in_last_frame = last && !clean && at >= last_frame(&bytes);
                        assert!(in_last_frame && torn > 0, "{}: {what}: {outcome:?}", path.display());
                    }
                }
            }
            println!("clean {clean}: {}: {} flips: {tally:?}", path.display(), bytes.len());
        }
    }
}

#[test]
fn every_file_missing_emptied_doubled_or_exchanged_for_another() {
    for clean in [true, false] {
        let specimen = Specimen::new(clean);
        let files = specimen.files();
        let mut tally = Tally::default();
        for (path, bytes) in &files {
            let put = |content: &[u8]| {
                let content = content.to_vec();
                move |disk: &MemDisk| disk.tamper(path, |b| *b = content)
            };
            let missing = |disk: &MemDisk| orset::storage::disk::Disk::remove(disk, path).unwrap();
            tally.add(specimen.with(path, "missing", missing));
            tally.add(specimen.with(path, "emptied", put(&[])));
            tally.add(specimen.with(path, "doubled", put(&bytes.repeat(2))));
            for (n, earlier) in specimen.earlier.iter().enumerate() {
                for (other, content) in earlier.iter().filter(|(_, content)| *content != bytes) {
                    // A manifest, segment or snapshot of another time in this one's place.
                    if other.parent() == path.parent() {
                        let what = format!("exchanged for {} of moment {n}", other.display());
                        tally.add(specimen.with(path, &what, put(content)));
                    }
                }
            }
        }
        println!("clean {clean}: {} files: {tally:?}", files.len());
    }
}
