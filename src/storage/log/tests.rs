//! Which files belong to a log, shown on segments made by hand.

use std::path::PathBuf;

use super::*;
use crate::crdt::{Dot, Element, Entry, Op, OpBody, ReplicaId, Seq, VersionVector};
use crate::storage::StoreError;
use crate::storage::disk::{MemDisk, RealDisk};
use crate::storage::{IndexPosition, Lsn};

const DIR: &str = "/log";

fn path(counter: u64) -> PathBuf {
    Path::new(DIR).join(segment::file_name(counter))
}

/// A segment of so many frames; its end, as the next one names it.
fn made(disk: &MemDisk, counter: u64, previous: Option<SegmentEnd>, frames: usize) -> SegmentEnd {
    let (nonce, vv) = (100 + u128::from(counter), VersionVector::new());
    let header = SegmentHeader { counter, nonce, previous, lsn: Lsn(0), vv, repeats: false };
    let mut writer = LogWriter::create(disk, Path::new(DIR), header, None).unwrap();
    let mut payload = Vec::new();
    codec::encode_clean(&mut payload, IndexPosition::default());
    (0..frames).for_each(|_| _ = writer.append(&payload).unwrap());
    writer.segment().end()
}

/// The counters of the segments that are read, and how many files are none of them.
fn read(disk: &MemDisk, listed: &[u64]) -> Option<(Vec<u64>, usize)> {
    let end = read_log(disk, Path::new(DIR), listed, None, &mut |_| Ok(())).ok()?;
    assert_eq!(end.last_batch, None, "there is none");
    Some((end.segments.iter().map(|segment| segment.header.counter).collect(), end.strangers.len()))
}

#[test]
fn segments_follow_each_other_whether_they_are_listed_or_not() {
    let disk = MemDisk::default();
    let first = made(&disk, 1, None, 2);
    made(&disk, 2, Some(first), 2);
    for listed in [&[][..], &[1], &[1, 2]] {
        assert_eq!(read(&disk, listed), Some((vec![1, 2], 0)), "{listed:?}");
    }
}

#[test]
fn a_segment_that_follows_another_one_is_refused_or_no_part_of_the_log() {
    for frames in [0, 1] {
        for wrong in [SegmentEnd { counter: 7, nonce: 101, length: 0 }, SegmentEnd { counter: 1, nonce: 7, length: 0 }]
        {
            let disk = MemDisk::default();
            let first = made(&disk, 1, None, 1);
            made(&disk, 2, Some(SegmentEnd { length: first.length, ..wrong }), frames);
            assert_eq!(read(&disk, &[1, 2]), None, "it is listed");
            let stranger = (frames == 0).then_some((vec![1], 1));
            assert_eq!(read(&disk, &[1]), stranger, "nobody has heard of it, unless there is a frame in it");
        }
    }
}

#[test]
fn a_segment_under_anothers_name_is_refused_or_no_part_of_the_log() {
    for frames in [0, 1] {
        let disk = MemDisk::default();
        let first = made(&disk, 1, None, 1);
        made(&disk, 3, Some(first), frames);
        disk.rename(&path(3), &path(2)).unwrap();
        assert_eq!(read(&disk, &[1, 2]), None);
        assert_eq!(read(&disk, &[1]), (frames == 0).then_some((vec![1], 1)));
    }
}

#[test]
fn a_segment_is_as_long_as_the_next_one_says() {
    let disk = MemDisk::default();
    let shorter = made(&disk, 1, None, 1);
    let longer = made(&disk, 1, None, 2);
    made(&disk, 2, Some(longer), 1);
    assert!(read(&disk, &[1, 2]).is_some());
    let length = usize::try_from(shorter.length).unwrap();
    disk.tamper(&path(1), |bytes| bytes.truncate(length));
    assert_eq!(read(&disk, &[1, 2]), None, "a frame is missing");
}

fn batch(lsn: u64) -> Vec<u8> {
    let dot = Dot::new(ReplicaId::from_random(1), Seq(lsn));
    let entry = Entry::Op(Op { dot, body: OpBody::Add(Element::from_canonical(b"1")) });
    let mut payload = Vec::new();
    codec::encode_batch(&mut payload, Lsn(lsn), None, &[entry]);
    payload
}

#[test]
fn only_the_batch_that_the_next_segment_repeats_may_be_missing() {
    let disk = MemDisk::default();
    let header = |counter, previous, lsn| {
        let (nonce, vv) = (100 + u128::from(counter), VersionVector::new());
        SegmentHeader { counter, nonce, previous, lsn: Lsn(lsn), vv, repeats: previous.is_some() }
    };
    let mut first = LogWriter::create(&disk, Path::new(DIR), header(1, None, 0), None).unwrap();
    let mut lengths = vec![first.segment().length];
    for lsn in 1..=3 {
        first.append(&batch(lsn)).unwrap();
        lengths.push(first.segment().length);
    }
    let last = batch(3);
    LogWriter::create(&disk, Path::new(DIR), header(2, Some(first.segment().end()), 3), Some(&last)).unwrap();
    let whole = disk.files().remove(&path(1)).unwrap();
    for (frames, sound) in [(3, true), (2, true), (1, false), (0, false)] {
        disk.tamper(&path(1), |bytes| {
            bytes.clone_from(&whole);
            bytes.truncate(usize::try_from(lengths[frames]).unwrap());
        });
        let mut seen = Vec::new();
        let read = read_log(&disk, Path::new(DIR), &[1, 2], None, &mut |visit| {
            seen.push(visit.frame.payload.to_vec());
            Ok(())
        });
        assert_eq!(read.is_ok(), sound, "{frames} frames are left");
        assert!(!sound || seen[..2] == [batch(1), batch(2)] && seen.last() == Some(&last));
    }
}

/// Damage is told as such, and the disk's failures as what they are: they may pass.
#[test]
fn a_segment_that_cannot_be_read_is_not_taken_for_one_that_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let read = || read_log(&RealDisk, dir.path(), &[1], None, &mut |_| Ok(())).map(drop);
    assert!(matches!(read(), Err(StoreError::Damaged { .. })));
    std::fs::create_dir(dir.path().join(segment::file_name(1))).unwrap();
    assert!(matches!(read(), Err(StoreError::Io { .. })));
}
