//! A store's files, damaged in every way that there is a loop for. Opening it then either is refused, and has changed
//! nothing, or shows exactly what was there. `verify` says the same as the start. And of every store that is refused a new
//! one can be salvaged, which holds exactly what its vector covers and gets the rest from its peers.
//!
//! The exceptions are those that a file system cannot have told: after an unclean stop the last frame may be one that was
//! never synced (a flip there is a torn tail, and reported as one), and a last segment that ends cleanly at an earlier
//! frame is an earlier log.

mod specimen;

use std::path::Path;

use orset::repair::mend::{cut, make_aside};
use orset::repair::verify::{FindingKind, check_files};
use orset::storage::NoIndex;
use orset::storage::disk::{Disk, MemDisk};

use specimen::{DIR, Outcome, Specimen, Tally, last_frame, live, open};

#[test]
fn every_file_cut_at_every_byte() {
    for clean in [true, false] {
        let specimen = Specimen::new(clean);
        for (path, bytes) in specimen.files() {
            let (mut tally, last) = (Tally::default(), path == specimen.last_segment);
            for at in 0..bytes.len() {
                let what = format!("cut at {at}");
                let outcome = specimen.with(&mut tally, &path, &what, |disk| disk.tamper(&path, |b| b.truncate(at)));
                match outcome {
                    Outcome::Refused { named } => assert!(named, "{what}: another file was named"),
                    // What the next segment repeats may be missing.
                    Outcome::Same { .. } => assert!(!(last && clean), "{}: {what} was not seen", path.display()),
                    // Only where a frame ends there is no torn tail.
                    Outcome::Older { torn } => {
                        assert!(last && !clean, "{}: {what}", path.display());
                        assert!(torn > 0 || bytes[at..].starts_with(b"ORFR"), "{what}: nothing was said");
                    }
                }
            }
            println!("clean {clean}: {}: {} cuts: {tally:?}", path.display(), bytes.len());
            assert!(!last || clean || tally.older > 0);
        }
    }
}

#[test]
fn every_byte_of_every_file_flipped() {
    let (mut flips, mut all) = (0, Tally::default());
    for clean in [true, false] {
        let specimen = Specimen::new(clean);
        let mut rng = fastrand::Rng::with_seed(7);
        for (path, bytes) in specimen.files() {
            let (mut tally, last) = (Tally::default(), path == specimen.last_segment);
            for at in 0..bytes.len() {
                let bit = rng.u32(0..8);
                let what = format!("bit {bit} of byte {at} flipped");
                let flip = |disk: &MemDisk| disk.tamper(&path, |b| b[at] ^= 1 << bit);
                match specimen.with(&mut tally, &path, &what, flip) {
                    Outcome::Refused { named } => assert!(named, "{what}: another file was named"),
                    Outcome::Same { .. } => assert!(!(last && clean), "{}: {what} was not seen", path.display()),
                    outcome @ Outcome::Older { torn } => {
                        let in_last_frame = last && !clean && at >= last_frame(&bytes);
                        assert!(in_last_frame && torn > 0, "{}: {what}: {outcome:?}", path.display());
                    }
                }
                flips += 1;
            }
            println!("clean {clean}: {}: {} flips: {tally:?}", path.display(), bytes.len());
            all.salvaged.iter_mut().zip(tally.salvaged).for_each(|(sum, n)| *sum += n);
        }
    }
    let [everything, a_part, nothing] = all.salvaged;
    println!("{flips} flips tried; salvaged: everything {everything} times, a part {a_part}, nothing {nothing}");
    // Otherwise the salvages above have shown little.
    assert!(everything > 100 && a_part > 100 && nothing > 100, "{all:?}");
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
            let missing = |disk: &MemDisk| disk.remove(path).unwrap();
            specimen.with(&mut tally, path, "missing", missing);
            specimen.with(&mut tally, path, "emptied", put(&[]));
            specimen.with(&mut tally, path, "doubled", put(&bytes.repeat(2)));
            for (n, earlier) in specimen.earlier.iter().enumerate() {
                for (other, content) in earlier.iter().filter(|(_, content)| *content != bytes) {
                    // A manifest, segment or snapshot of another time in this one's place.
                    if other.parent() == path.parent() {
                        let what = format!("exchanged for {} of moment {n}", other.display());
                        specimen.with(&mut tally, path, &what, put(content));
                    }
                }
            }
        }
        println!("clean {clean}: {} files: {tally:?}", files.len());
    }
}

#[test]
fn two_files_damaged_at_once() {
    let specimen = Specimen::new(false);
    let mut rng = fastrand::Rng::with_seed(11);
    let files: Vec<_> = specimen.files().into_iter().collect();
    let mut tally = Tally::default();
    for _ in 0..2000 {
        let (first, second) = (&files[rng.usize(..files.len())], &files[rng.usize(..files.len())]);
        let hits = [(&first.0, rng.usize(..first.1.len())), (&second.0, rng.usize(..second.1.len()))];
        let what = format!("and {} flipped, at {} and {}", second.0.display(), hits[0].1, hits[1].1);
        specimen.with(&mut tally, &first.0, &what, |disk| {
            hits.iter().for_each(|(path, at)| disk.tamper(path, |bytes| bytes[*at] ^= 0x10));
        });
    }
    println!("2000 pairs of flips: {tally:?}");
}

/// The torn tail of a store on `disk`: the file, where it begins, and the whole of the file.
fn torn(disk: &MemDisk) -> Option<(std::path::PathBuf, u64)> {
    let report = check_files(disk, Path::new(DIR), false).unwrap();
    let tail = report.findings.iter().find(|finding| finding.kind == FindingKind::TornTail);
    tail.map(|finding| (finding.path.clone(), finding.offset))
}

#[test]
fn a_torn_tail_is_cut_off_whatever_interrupts_that_and_nothing_is_lost() {
    let specimen = Specimen::new(false);
    specimen.disk.tamper(&specimen.last_segment, |bytes| bytes.extend_from_slice(b"ORFR torn"));
    let whole = specimen.files()[&specimen.last_segment].clone();
    let expected = live(&open(&specimen.disk.after_kill(), &mut NoIndex).unwrap().0);
    let mend = |disk: &MemDisk| -> Result<(), orset::storage::StoreError> {
        let Some((path, offset)) = torn(disk) else { return Ok(()) };
        cut(disk, &path, offset, &make_aside(disk, Path::new(DIR))?)
    };
    let mut interrupted = 0;
    for stop in 1.. {
        let disk = specimen.disk.after_kill();
        disk.stop_at(stop);
        let done = mend(&disk).is_ok();
        for left in [disk.after_kill(), disk.after_power_cut(0), disk.after_power_cut(stop)] {
            assert_eq!(live(&open(&left.after_kill(), &mut NoIndex).unwrap().0), expected, "stopped at {stop}");
            mend(&left).unwrap();
            assert_eq!(torn(&left), None, "stopped at {stop}");
            assert!(left.files().values().any(|bytes| *bytes == whole), "stopped at {stop}: the whole file is gone");
            assert_eq!(live(&open(&left, &mut NoIndex).unwrap().0), expected, "stopped at {stop}");
        }
        if done {
            break;
        }
        interrupted += 1;
    }
    assert!(interrupted >= 10, "{interrupted} interruptions");
}
