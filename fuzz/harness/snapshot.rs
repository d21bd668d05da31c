//! A snapshot: as it stands, as blocks and a footer that get good checksums, or damage to a sound one.

use std::path::{Path, PathBuf};

use orset::crdt::{
    Answer, Answered, Answers, AskedHash, Base, Dot, Element, Incarnation, NodeId, Record, ReplicaId, RequestKey, Seq,
    TagList,
};
use orset::storage::codec::Context;
use orset::storage::disk::MemDisk;
use orset::storage::envelope::{self, FORMAT_VERSION};
use orset::storage::snapshot::{self as file, SnapshotHeader};
use orset::storage::{Lsn, Snapshot, StoreError};

use super::sealed::{damaged, pieces, put};

const PREAMBLE_MAGIC: [u8; 8] = *b"ORSETSNP";
const FOOTER_MAGIC: [u8; 8] = *b"ORSETFTR";
/// Small enough to be one byte in the footer too.
const NONCE: u8 = 9;

/// See the table in the module above.
pub fn snapshot(input: &[u8]) {
    let Some((form, rest)) = input.split_first() else { return };
    match form % 3 {
        0 => as_it_stands(rest),
        1 => as_it_stands(&sealed(rest)),
        _ => damage(rest),
    }
}

fn path() -> PathBuf {
    Path::new("/snapshots").join(file::file_name(Lsn(1)))
}

/// Opens it and reads all of it.
fn read(disk: &MemDisk, path: &Path) -> Result<(Snapshot, Vec<Record>), StoreError> {
    let snapshot = Snapshot::open(disk, path)?;
    snapshot.check()?;
    snapshot.answers()?;
    let mut records = Vec::new();
    for n in 0..snapshot.block_count() {
        records.extend(snapshot.block(n)?);
    }
    Ok((snapshot, records))
}

/// A file with good checksums: the pieces are its blocks' payloads, the last one is the footer's body after the nonce.
pub fn sealed(input: &[u8]) -> Vec<u8> {
    let nonce = u128::from(NONCE).to_le_bytes();
    let mut bytes = [&PREAMBLE_MAGIC[..], &FORMAT_VERSION.to_le_bytes(), &nonce].concat();
    let mut parts = pieces(input);
    let footer = parts.pop().unwrap_or_default();
    for payload in parts {
        let place = [&nonce[..], &(bytes.len() as u64).to_le_bytes(), payload].concat();
        bytes.extend_from_slice(&checksum(&place).to_le_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(payload);
    }
    let offset = (bytes.len() as u64).to_le_bytes();
    envelope::wrap(&mut bytes, FOOTER_MAGIC, FORMAT_VERSION, &[&[NONCE], footer].concat());
    bytes.extend_from_slice(&offset);
    bytes.extend_from_slice(&checksum(&offset).to_le_bytes());
    bytes
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

fn as_it_stands(bytes: &[u8]) {
    let disk = MemDisk::default();
    put(&disk, &path(), bytes);
    match read(&disk, &path()) {
        Ok((snapshot, records)) => again(&snapshot, records),
        Err(error) => assert!(matches!(error, StoreError::Damaged { .. } | StoreError::Newer { .. }), "{error}"),
    }
}

/// What can be read is in order, can be found by its key, and can be written and read again.
fn again(snapshot: &Snapshot, records: Vec<Record>) {
    assert!(records.is_sorted_by(|a, b| a.key < b.key), "records out of order");
    for record in records.iter().step_by(1 + records.len() / 4) {
        let found = snapshot.records(record.key.as_bytes()).next().map(|found| found.expect("it was read before"));
        assert_eq!(found.as_ref(), Some(record), "not found by its key");
    }
    let disk = MemDisk::default();
    let (answers, all) = (snapshot.answers().expect("it was read before"), records.clone().into_iter().map(Ok));
    let written = file::write(&disk, Path::new("/again"), snapshot.header(), 77, Box::new(all), &answers);
    let written = written.expect("a disk in memory takes everything");
    let (written, read) = read(&disk, written.path()).expect("just written");
    assert_eq!((written.header(), read), (snapshot.header(), records), "it comes out otherwise");
    assert_eq!(written.answers().expect("just written"), answers, "the answers come out otherwise");
}

/// Records of up to a few hundred bytes, as `plan` says, in order and each once.
fn records(plan: &[u8]) -> Vec<Record> {
    let record = |(n, byte): (usize, &u8)| {
        let digits = "7".repeat(1 + usize::from(byte % 64) * usize::from(byte % 5));
        let element = Element::from_canonical(digits.as_bytes());
        let replica = ReplicaId::from_random(u128::from(byte / 64) << 66);
        Record::new(&element, Dot::new(replica, Seq(2 + n as u64 * 300)))
    };
    let mut records: Vec<Record> = plan.iter().take(256).enumerate().map(record).collect();
    records.sort_by(|a, b| a.key.cmp(&b.key));
    records
}

/// Answers of every kind, as `plan` says.
fn answers(plan: &[u8]) -> Answers {
    let mut answers = Answers::default();
    for (n, byte) in plan.iter().take(64).enumerate() {
        let tags: TagList = (0..byte / 4 % 5)
            .map(|m| Dot::new(ReplicaId::from_random(u128::from(m / 2)), Seq(2 + u64::from(m))))
            .collect();
        let answer = match byte % 4 {
            0 => Answer::Added([Dot::new(ReplicaId::from_random(5), Seq(2 + n as u64))].into_iter().collect()),
            1 => Answer::AddedMany(tags),
            2 => Answer::Removed(tags),
            _ => Answer::RemovedMany([TagList::default(), tags].into()),
        };
        let key = RequestKey::of(&(n / 2).to_string());
        answers.push(Answered { key, asked: AskedHash([*byte; 8]), answer });
    }
    answers
}

fn damage(input: &[u8]) {
    let pieces = pieces(input);
    let [plan, edits, ..] = pieces[..] else { return };
    let records = records(plan);
    let own = ReplicaId::from_random(3);
    let incarnation = Incarnation { node: NodeId::new("n1").expect("a node id"), parent: None };
    let context = Context {
        vv: [(own, Seq(9))].into_iter().collect(),
        floor: [(own, Seq(4))].into_iter().collect(),
        incarnations: [(own, incarnation)].into_iter().collect(),
    };
    let header = SnapshotHeader { lsn: Lsn(1), frame_checksum: 4, own: Some(own), context };
    let disk = MemDisk::default();
    let dir = Path::new("/snapshots");
    let written = file::write(&disk, dir, &header, 77, Box::new(records.clone().into_iter().map(Ok)), &answers(plan));
    let written = written.expect("a disk in memory takes everything");
    assert_eq!(written.counts().tags, records.len() as u64);
    again(&written, records);
    let sound = disk.files().remove(&path()).expect("just written");
    let bytes = damaged(&sound, edits);
    put(&disk, &path(), &bytes);
    assert_eq!(read(&disk, &path()).is_ok(), bytes == sound, "every change is damage");
}
