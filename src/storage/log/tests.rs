//! Which files belong to a log, shown on segments made by hand.

use std::path::PathBuf;

use super::*;
use crate::crdt::VersionVector;
use crate::storage::disk::MemDisk;
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
