//! Checking a store: every frame, every block of the snapshot, the manifest; and the index against the fold.
//!
//! First the store is read as a start reads it, so whatever refuses a start is found. If that refuses, everything is
//! [scanned](super::scan) to tell what else is wrong. What a start puts right by itself (a torn tail, an index that is of
//! no use) is a finding too; what is no fault (no index at all, a frame that a later segment repeats) is none.

use std::path::{Path, PathBuf};

use super::scan::{Scan, Unreadable};
use super::{lock_existing, read_as_a_start};
use crate::crdt::{Base, Record, Records};
use crate::dump::pinned::PinnedDisk;
use crate::storage::codec::Batch;
use crate::storage::disk::Disk;
use crate::storage::index::{Index, IndexCopy, IndexError, IndexPosition, SledIndex, Unusable};
use crate::storage::replay::Replay;
use crate::storage::{Counts, Lsn, Snapshot, StoreError};

/// What sort of fault it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FindingKind {
    /// Something that was durable is not what was written. The store does not start.
    Damage,
    /// The end of the log is missing, and only the index knows. The store starts with an older state.
    LostEnd,
    /// A write that was cut short, of which nobody had heard. The next start leaves it out.
    TornTail,
    /// The index is not the fold. It is rebuilt, by the next start or by a repair.
    Index,
}

impl FindingKind {
    /// Whether nothing is lost by putting it right.
    pub fn is_mendable(self) -> bool {
        matches!(self, Self::TornTail | Self::Index)
    }
}

/// Something that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What sort of fault.
    pub kind: FindingKind,
    /// The file or directory.
    pub path: PathBuf,
    /// Where in the file.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}

/// How much was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// Segments of the log.
    pub segments: usize,
    /// Batches in them, repeated ones too.
    pub batches: usize,
    /// Blocks of the snapshot.
    pub blocks: usize,
    /// The last LSN.
    pub lsn: Lsn,
}

/// What became of the index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IndexCheck {
    /// It was not looked at, and why.
    NotLookedAt(String),
    /// There is none; the next start builds one.
    Absent,
    /// It is exactly the fold at this LSN.
    Sound(Lsn),
    /// It is not; there is a finding.
    Unsound,
}

/// What a store's files are like.
pub struct Report {
    /// What is wrong, in the order found.
    pub findings: Vec<Finding>,
    /// How much was looked at; nothing of a store that does not start.
    pub checked: Checked,
    /// What became of the index.
    pub index: IndexCheck,
    /// The store, if it starts.
    pub replay: Option<Replay>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether a start would not be refused.
    pub fn starts(&self) -> bool {
        self.replay.is_some()
    }

    fn find(&mut self, kind: FindingKind, path: &Path, offset: u64, what: impl Into<String>) {
        self.findings.push(Finding { kind, path: path.to_path_buf(), offset, what: what.into() });
    }
}

/// Checks the store in `store`, and changes nothing. Works beside a running node, whose index is then not looked at.
///
/// # Errors
/// If the store is of a later version or cannot be read at all.
pub fn verify(store: &Path) -> Result<Report, StoreError> {
    match lock_existing(store) {
        Ok(lock) => {
            let (pinned, copy) = (PinnedDisk::of_store(store)?, IndexCopy::take(store));
            // A node that starts meanwhile waits for the lock for two seconds only.
            drop(lock);
            check(&pinned, store, copy)
        }
        Err(error) => {
            let in_use = matches!(error, StoreError::InUse { .. });
            let mut report = check_files(&PinnedDisk::of_store(store)?, store, in_use)?;
            // Not to be allowed to lock is no reason not to look at the rest.
            let why = if in_use { "the node is running, and has its index open".to_owned() } else { error.to_string() };
            report.index = IndexCheck::NotLookedAt(why);
            Ok(report)
        }
    }
}

/// The same for a store whose lock the caller holds.
pub(super) fn verify_locked(store: &Path) -> Result<Report, StoreError> {
    check(&PinnedDisk::of_store(store)?, store, IndexCopy::take(store))
}

fn check(disk: &dyn Disk, store: &Path, copy: Result<IndexCopy, IndexError>) -> Result<Report, StoreError> {
    let mut report = check_files(disk, store, false)?;
    if report.starts() {
        check_index(disk, store, copy, &mut report)?;
    } else {
        report.index = IndexCheck::NotLookedAt("there is no sound log to compare it with".to_owned());
    }
    Ok(report)
}

/// Checks everything but the index. `in_use`: a process may be writing, so an unfinished last frame is no fault.
///
/// # Errors
/// If the store is of a later version or cannot be read at all.
pub fn check_files(disk: &dyn Disk, store: &Path, in_use: bool) -> Result<Report, StoreError> {
    let index = IndexCheck::NotLookedAt("only the files were looked at".to_owned());
    let mut report = Report { findings: Vec::new(), checked: Checked::default(), index, replay: None };
    let mut batches = 0;
    let mut on_batch = |_: &Path, _: u64, _: &Batch| batches += 1;
    let replay = match read_as_a_start(disk, store, Some(&mut on_batch)) {
        Ok(replay) => replay,
        Err(newer @ StoreError::Newer { .. }) => return Err(newer),
        Err(refusal) => {
            report.refused(refusal);
            // The rest, of which a start has not got that far.
            for Unreadable { path, offset, what, .. } in Scan::read(disk, store)?.unreadable {
                if !report.findings.iter().any(|known| known.path == path && known.offset == offset) {
                    report.find(FindingKind::Damage, &path, offset, what);
                }
            }
            return Ok(report);
        }
    };
    report.checked = Checked {
        segments: replay.log.segments.len(),
        batches,
        blocks: replay.snapshot.as_ref().map_or(0, |snapshot| snapshot.block_count()),
        lsn: replay.lsn,
    };
    if let Some(snapshot) = &replay.snapshot {
        check_records(snapshot, &mut report);
    }
    let torn = replay.log.torn_tail_bytes;
    if let Some(last) = replay.log.segments.last().filter(|_| torn > 0 && !in_use) {
        let length = disk.open(&last.path).and_then(|file| file.len()).map_err(StoreError::io("read", &last.path))?;
        report.find(FindingKind::TornTail, &last.path, length - torn, format!("a torn tail of {torn} bytes"));
    }
    report.replay = Some(replay);
    Ok(report)
}

impl Report {
    fn refused(&mut self, refusal: StoreError) {
        let finding = match refusal {
            StoreError::Damaged { path, offset, what } => (path, offset, what),
            StoreError::Io { doing, path, source } => (path, 0, format!("cannot {doing} it: {source}")),
            other => (PathBuf::new(), 0, other.to_string()),
        };
        self.find(FindingKind::Damage, &finding.0, finding.1, finding.2);
    }
}

/// What no start looks at: that the snapshot's records can be decoded, are in order, and as many as it says.
fn check_records(snapshot: &Snapshot, report: &mut Report) {
    let (mut counts, mut last) = (Counts::default(), None::<Record>);
    for block in 0..snapshot.block_count() {
        let records = match snapshot.block(block) {
            Ok(records) => records,
            Err(error) => return report.refused(error),
        };
        for record in records {
            let before = last.as_ref().map(|last| &last.key);
            if before.is_some_and(|before| *before >= record.key) {
                let offset = snapshot.block_offset(block);
                return report.find(FindingKind::Damage, snapshot.path(), offset, "its records are not in order");
            }
            counts.tags += 1;
            counts.elements += u64::from(before.is_none_or(|before| before.prefix() != record.key.prefix()));
            last = Some(record);
        }
    }
    if counts != snapshot.counts() {
        report.find(FindingKind::Damage, snapshot.path(), 0, "it does not have as many records as it says");
    }
}

fn check_index(
    disk: &dyn Disk,
    store: &Path,
    copy: Result<IndexCopy, IndexError>,
    report: &mut Report,
) -> Result<(), StoreError> {
    let copy = match copy {
        Ok(copy) => copy,
        Err(IndexError::Unusable { source: Unusable::Missing, .. }) => {
            report.index = IndexCheck::Absent;
            return Ok(());
        }
        Err(error) if error.is_of_the_system() => {
            report.index = IndexCheck::NotLookedAt(reason(&error));
            return Ok(());
        }
        Err(error) => {
            report.index = IndexCheck::Unsound;
            report.find(FindingKind::Index, &store.join("index.state"), 0, reason(&error));
            return Ok(());
        }
    };
    let path = store.join("index").join(copy.state().number.to_string());
    let replay = report.replay.as_ref().expect("it starts");
    let snapshot_lsn = replay.snapshot.as_ref().map_or(Lsn(0), |snapshot| snapshot.header().lsn);
    let looked = copy.look::<_, LookError>(|index| {
        let position = index.position();
        let difference = if position.lsn < snapshot_lsn { None } else { compare(disk, store, replay, index)? };
        Ok((position, difference))
    });
    match looked {
        // A snapshot may go past an index that takes in nothing any more.
        Ok((IndexPosition { lsn, .. }, _)) if lsn < snapshot_lsn => {
            let why =
                format!("it ends at LSN {lsn}, before the snapshot at {snapshot_lsn}; the next start builds it anew");
            report.index = IndexCheck::NotLookedAt(why);
        }
        Ok((position, None)) => report.index = IndexCheck::Sound(position.lsn),
        Ok((_, Some((kind, what)))) => {
            report.index = IndexCheck::Unsound;
            report.find(kind, &path, 0, what);
        }
        Err(LookError::Index(error)) => {
            report.index = IndexCheck::Unsound;
            report.find(FindingKind::Index, &path, 0, reason(&error));
        }
        Err(LookError::Store(error)) => return Err(error),
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Why an index is of no use, without the name of the copy, which is gone by now.
fn reason(error: &IndexError) -> String {
    match error {
        IndexError::Unusable { source, .. } => source.to_string(),
        IndexError::Corrupt { what, .. } => what.clone(),
        other => other.to_string(),
    }
}

/// In what the index is not the fold at its position, if in anything.
fn compare(
    disk: &dyn Disk,
    store: &Path,
    replay: &Replay,
    index: &SledIndex,
) -> Result<Option<(FindingKind, String)>, StoreError> {
    let position = index.position();
    let differs = |what: String| Ok(Some((FindingKind::Index, what)));
    if position.lsn > replay.lsn {
        let (index, log) = (position.lsn, replay.lsn);
        let what = format!(
            "it has been fed up to LSN {index}, but the log ends at {log}: durable operations are missing from the end \
             of the log"
        );
        return Ok(Some((FindingKind::LostEnd, what)));
    }
    let fold = Replay::read_until(disk, store, replay.manifest.clone(), position.lsn)?;
    if (IndexPosition { lsn: fold.lsn, checksum: fold.checksum }) != position {
        return differs(format!("it is at LSN {} of another log", position.lsn));
    }
    let base = fold.snapshot_base();
    match first_difference(fold.state.records(base.as_ref(), &[]), index.records(&[]), index.counts())? {
        Some(what) => differs(format!("at LSN {}: {what}", position.lsn)),
        None => Ok(None),
    }
}

fn first_difference(fold: Records, index: Records, counted: Counts) -> Result<Option<String>, StoreError> {
    let (mut counts, mut prefix) = (Counts::default(), Vec::new());
    let mut index = index;
    for expected in fold {
        let expected = expected?;
        let name = || format!("{} {}", expected.tag().to_uuid(), String::from_utf8_lossy(expected.element_bytes()));
        match index.next() {
            Some(Ok(found)) if found == expected => {}
            Some(Ok(found)) if found.key < expected.key => return Ok(Some(extra(&found))),
            Some(Err(error)) => return Ok(Some(error.to_string())),
            Some(Ok(_)) | None => return Ok(Some(format!("the record {} is missing", name()))),
        }
        counts.tags += 1;
        if expected.key.prefix() != prefix {
            counts.elements += 1;
            prefix = expected.key.prefix().to_vec();
        }
    }
    Ok(match index.next() {
        Some(Ok(found)) => Some(extra(&found)),
        Some(Err(error)) => Some(error.to_string()),
        None if counts != counted => Some("its counts are wrong".to_owned()),
        None => None,
    })
}

fn extra(record: &Record) -> String {
    let element = String::from_utf8_lossy(record.element_bytes());
    format!("the record {} {element} should not be there", record.tag().to_uuid())
}
