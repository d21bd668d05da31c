//! Opening a store: recovery.
//!
//! 1. Check and read everything ([`Replay`]); refuse, changing nothing, if anything that was durable is damaged.
//! 2. After anything but a clean stop: make durable what may only have been in the page cache, by a new segment that
//!    repeats the last batch. Nothing leaves the process before that.
//! 3. Trust the index if it is exactly what the log says at its position, else rebuild it from the truth: at once if it
//!    is small, else from the snapshot while the store is already open.

use std::path::Path;
use std::sync::Arc;

use super::counts::count;
use super::feed::IndexState;
use super::pending::Pending;
use super::recent::Recent;
use super::reserve;
use super::{Active, Entropy, Store, StoreOptions};
use crate::crdt::{Base, NodeId, ReplicaId};
use crate::planted::{self, Bug};
use crate::storage::disk::Disk;
use crate::storage::error::StoreError;
use crate::storage::index::IndexSource;
use crate::storage::index::{Index, IndexPosition, count_changes};
use crate::storage::log::{LogWriter, Segment, SegmentHeader, segment};
use crate::storage::manifest::Manifest;
use crate::storage::migrations;
use crate::storage::progress::{Progress, Silent};
use crate::storage::replay::{Replay, Thrift, log_dir, snapshot_dir};
use crate::storage::snapshot;
use crate::storage::{Counts, Lsn};

/// So many changes are counted at a start; each takes a look-up in the index, some microseconds.
const MAX_COUNTED_CHANGES: usize = 4096;

/// What became of the index at the start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IndexOutcome {
    /// It was trusted.
    Trusted,
    /// It was built anew, and why.
    Rebuilt(String),
    /// It is to be built from the snapshot ([`Store::take_rebuild`]), and why: until then the store reads the snapshot.
    Rebuilding(String),
    /// It could not be built, and why: the store reads its snapshot, and keeps everything after it in memory.
    Absent(String),
}

/// What a start found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovery {
    /// How much is in the set, without the uncounted changes.
    pub counts: Counts,
    /// Changes that the index (while there is none: the snapshot) does not have yet and that were too many to be
    /// counted at once: a start does not wait for thousands of look-ups.
    pub uncounted_changes: usize,
    /// The last LSN.
    pub lsn: Lsn,
    /// The snapshot's LSN; zero without one.
    pub snapshot_lsn: Lsn,
    /// What became of the index.
    pub index: IndexOutcome,
    /// Bytes of a write that was cut short: nobody had heard of it.
    pub torn_tail_bytes: u64,
    /// Whether the last stop was clean (or there was none).
    pub clean: bool,
    /// Whether the store had been there at all.
    pub fresh: bool,
}

impl Store {
    /// Opens the store, which must be locked, or makes a new one.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] and [`StoreError::Newer`] (nothing has been changed then), or what the file system says.
    pub fn open(options: StoreOptions, source: &mut dyn IndexSource) -> Result<(Self, Recovery), StoreError> {
        Self::open_telling(options, source, &mut Silent)
    }

    /// The same, telling how far it is. (How far a rebuild of the index is, is the source's to tell.)
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_telling(
        options: StoreOptions,
        source: &mut dyn IndexSource,
        progress: &mut dyn Progress,
    ) -> Result<(Self, Recovery), StoreError> {
        let StoreOptions { disk, dir, node, mut entropy, limits } = options;
        let (manifest, fresh) = read_or_make_manifest(disk.as_ref(), &dir, &node)?;
        // Whoever opens the index may change it, so everything else is looked at before.
        Replay::check_telling(disk.as_ref(), &dir, &manifest, progress)?;
        let noted = source.noted();
        let opened = source.open(manifest.clean.is_some_and(|clean| clean.index));
        let thrift = Thrift { disk: Arc::clone(&disk), max_join_changes: limits.max_join_changes };
        let (mut replay, opened) = replay(&thrift, &dir, manifest, opened, noted, progress)?;
        let mut incarnation = ReplicaId::from_random(entropy());
        if planted::is(Bug::OldReplicaId) {
            incarnation = replay.own.unwrap_or(incarnation);
        } else if planted::is(Bug::ReplicaIdOfTheStore) {
            let name = node.as_str().bytes().fold(0, |name, byte| name << 8 | u128::from(byte));
            incarnation = ReplicaId::from_random(name << 40 | u128::from(replay.manifest.next_segment));
        }
        let torn_tail_bytes = replay.log.torn_tail_bytes;
        let clean = replay.log.clean || replay.log.segments.is_empty();
        let active = reserve::write_with_reserve(disk.as_ref(), &dir, || {
            secure_tail(disk.as_ref(), &dir, &mut replay, &mut entropy)
        })?;
        tidy(disk.as_ref(), &dir, &replay, &active)?;
        reserve::set_aside(disk.as_ref(), &dir);
        let snapshot_lsn = replay.snapshot.as_ref().map_or(Lsn(0), |snapshot| snapshot.header().lsn);
        let built = build_index(disk.as_ref(), &dir, &mut replay, opened, source, limits.max_records_at_start)?;
        let recovery = Recovery {
            counts: built.counts,
            uncounted_changes: built.uncounted_changes,
            lsn: replay.lsn,
            snapshot_lsn,
            index: built.outcome,
            torn_tail_bytes,
            clean,
            fresh,
        };
        let mut store = Self {
            disk,
            dir,
            entropy,
            limits,
            manifest: replay.manifest,
            closed: replay.log.segments,
            active,
            state: replay.state,
            pending: Pending::default(),
            lsn: replay.lsn,
            checksum: replay.checksum,
            incarnation,
            own: replay.own,
            snapshot: replay.snapshot,
            base: built.base,
            index: built.index,
            recent: Recent::default(),
            snapshot_wanted: built.snapshot_wanted,
            compacting: false,
            overdue: false,
            joins: replay.joins,
            outgrown_at: None,
            poisoned: false,
        };
        // A very small set, an empty one above all, is in memory from the start: once there is a lot to do, it has to wait.
        store.tend_mirror()?;
        Ok((store, recovery))
    }
}

/// The store's manifest, brought to today's format; of an empty directory that makes a store.
fn read_or_make_manifest(disk: &dyn Disk, dir: &Path, node: &NodeId) -> Result<(Manifest, bool), StoreError> {
    let path = Manifest::path(dir);
    // A store that is refused is left as it is, in its old format too. (What is of an older format can be read as it is.)
    if migrations::TODAY.format_of(disk, dir)? < migrations::TODAY.latest() {
        Replay::check_store(disk, dir)?;
    }
    let found = migrations::TODAY.bring_up(disk, dir, Some(node))?;
    let manifest = Manifest::read(disk, dir)?;
    let manifest = manifest.ok_or_else(|| StoreError::damaged(&path, 0, "it has just been written, and is missing"))?;
    if manifest.node != *node {
        return Err(StoreError::OfAnother { path: dir.to_path_buf(), owner: manifest.node, node: node.clone() });
    }
    Ok((manifest, found == migrations::NO_STORE))
}

type Opened = Result<Arc<dyn Index>, String>;

/// Reads the store on top of the index if that fits, else on top of the snapshot. `noted`: how far the index had come,
/// if that is known without opening it.
fn replay(
    thrift: &Thrift,
    dir: &Path,
    manifest: Manifest,
    opened: Opened,
    noted: Option<IndexPosition>,
    progress: &mut dyn Progress,
) -> Result<(Replay, Opened), StoreError> {
    let noted = noted.map(|position| position.lsn).filter(|_| opened.is_err());
    let why = match opened {
        Ok(index) => match Replay::read_thriftily(thrift, dir, manifest.clone(), Some(&index), progress) {
            Ok(replay) if replay.index_fits && replay.state.memtable.joined() == 0 => return Ok((replay, Ok(index))),
            Ok(replay) if replay.index_fits => "it lacks a state delta with very many changes".to_owned(),
            Ok(replay) if index.position().lsn > replay.lsn => {
                warn_of_lost_end(index.position().lsn, replay.lsn);
                "it is ahead of the log".to_owned()
            }
            // If the damage is in the log, the second reading says so.
            Ok(_) | Err(_) => "it is not what the log says".to_owned(),
        },
        Err(why) => why,
    };
    let replay = Replay::read_thriftily(thrift, dir, manifest, None, progress)?;
    if let Some(noted) = noted.filter(|noted| *noted > replay.lsn) {
        warn_of_lost_end(noted, replay.lsn);
    }
    Ok((replay, Err(why)))
}

/// Only what is durable is fed, so this log was longer once. Where it ends at a frame's end, nothing else can tell.
fn warn_of_lost_end(index: Lsn, log: Lsn) {
    tracing::warn!(
        "the index has been fed up to LSN {index}, but the log ends at {log}: \
         durable operations are missing from the end of the log"
    );
}

/// Sees to it that everything that was read is durable, and lists what belongs to the log.
fn secure_tail(disk: &dyn Disk, dir: &Path, replay: &mut Replay, entropy: &mut Entropy) -> Result<Active, StoreError> {
    let listed_all = replay.log.segments.last().map(|s| s.header.counter) == replay.manifest.segments.last().copied();
    let trusted = replay.log.clean && listed_all || planted::is(Bug::UnsyncedTrusted);
    if replay.log.segments.is_empty() || trusted {
        return Ok(Active::NotYet(replay.state.vv.clone()));
    }
    let mut manifest = replay.manifest.clone();
    let known = replay.log.segments.iter().map(|segment| segment.header.counter);
    manifest.segments = known.collect();
    let last = manifest.segments.last().copied().unwrap_or(0);
    let counter = manifest.next_segment.max(last + 1);
    let header = SegmentHeader {
        counter,
        nonce: entropy(),
        previous: replay.log.segments.last().map(Segment::end),
        lsn: replay.lsn,
        vv: replay.state.vv.clone(),
        repeats: replay.log.last_batch.is_some(),
    };
    let log = log_dir(dir);
    let outcome = LogWriter::create(disk, &log, header, replay.log.last_batch.as_deref()).and_then(|writer| {
        manifest.segments.push(counter);
        (manifest.next_segment, manifest.clean, manifest.own) = (counter + 1, None, replay.own);
        manifest.write(disk, dir)?;
        Ok(writer)
    });
    if outcome.as_ref().is_err_and(StoreError::is_disk_full) {
        // Nothing changed, or only an unlisted segment that the next start would take for part of the log.
        let path = log.join(segment::file_name(counter));
        for leftover in
            [crate::storage::disk::temporary(&path), path, crate::storage::disk::temporary(&Manifest::path(dir))]
        {
            let _ = disk.remove(&leftover);
        }
    }
    let writer = outcome?;
    replay.manifest = manifest;
    Ok(Active::Open(writer))
}

/// Removes what processes that died have left: files written aside, and files that the manifest no longer names.
fn tidy(disk: &dyn Disk, dir: &Path, replay: &Replay, active: &Active) -> Result<(), StoreError> {
    let (log, snapshots) = (log_dir(dir), snapshot_dir(dir));
    let current = replay.snapshot.as_ref().map(|snapshot| snapshot::file_name(snapshot.header().lsn));
    let old_segments = replay.log.strangers.iter().filter(|name| segment::parse_file_name(name).is_some());
    let aside = replay.log.strangers.iter().filter(|name| name.ends_with(".log.tmp"));
    let mut leftovers: Vec<_> = old_segments.chain(aside).map(|name| log.join(name)).collect();
    for name in disk.list(&snapshots).unwrap_or_default() {
        let superseded = name.ends_with(".snap") && Some(&name) != current.as_ref();
        if superseded || name.ends_with(".snap.tmp") {
            leftovers.push(snapshots.join(name));
        }
    }
    // A process may have died after it had renamed this manifest into place and before it had synced the directory. The
    // one before it may then come back with a power cut, and name what is to be removed here.
    let unwritten = matches!(active, Active::NotYet(_)) && !planted::is(Bug::UnsyncedTrusted);
    if unwritten && !leftovers.is_empty() {
        reserve::write_with_reserve(disk, dir, || replay.manifest.write(disk, dir))?;
    }
    leftovers.push(crate::storage::disk::temporary(&Manifest::path(dir)));
    for path in leftovers {
        // What cannot be removed now takes up room, and is tried again at the next start.
        let _ = disk.remove(&path);
    }
    Ok(())
}

struct Built {
    base: Arc<dyn Base + Send + Sync>,
    index: IndexState,
    outcome: IndexOutcome,
    counts: Counts,
    uncounted_changes: usize,
    snapshot_wanted: Option<Lsn>,
}

fn build_index(
    disk: &dyn Disk,
    dir: &Path,
    replay: &mut Replay,
    opened: Opened,
    source: &mut dyn IndexSource,
    max_records: u64,
) -> Result<Built, StoreError> {
    let position = IndexPosition { lsn: replay.lsn, checksum: replay.checksum };
    let why = match opened {
        Ok(index) => {
            let base = Arc::clone(&index) as Arc<dyn Base + Send + Sync>;
            let changes_to_come = replay.state.memtable.len();
            let (mut counts, mut uncounted_changes) = (index.counts(), changes_to_come);
            if changes_to_come <= MAX_COUNTED_CHANGES {
                let delta = count_changes(base.as_ref(), replay.state.memtable.changes())?;
                (counts, uncounted_changes) = (delta.after(counts).unwrap_or_default(), 0);
            }
            let mut feed = IndexState::with(index, false);
            replay.feed.drain(..).for_each(|batch| feed.push(batch));
            let (outcome, snapshot_wanted) = (IndexOutcome::Trusted, None);
            return Ok(Built { base, index: feed, outcome, counts, uncounted_changes, snapshot_wanted });
        }
        Err(why) => why,
    };
    // The mark of the clean stop speaks of the index that is about to be replaced.
    if let Some(clean) = &mut replay.manifest.clean
        && std::mem::take(&mut clean.index)
    {
        reserve::write_with_reserve(disk, dir, || replay.manifest.write(disk, dir))?;
        reserve::set_aside(disk, dir);
    }
    if let Some(snapshot) = &replay.snapshot
        && snapshot.counts().tags > max_records
        && replay.state.memtable.joined() == 0
    {
        let mut index = IndexState::to_be_built(snapshot, replay.state.memtable.bytes());
        replay.feed.drain(..).for_each(|batch| index.push(batch));
        return Ok(Built {
            base: replay.snapshot_base(),
            index,
            outcome: IndexOutcome::Rebuilding(why),
            counts: snapshot.counts(),
            uncounted_changes: replay.state.memtable.len(),
            snapshot_wanted: None,
        });
    }
    let snapshot = replay.snapshot_base();
    match source.rebuild(replay.state.records(snapshot.as_ref(), &[]), position) {
        Ok(index) => {
            replay.state.memtable = crate::crdt::Memtable::default();
            let (base, counts) = (Arc::clone(&index) as Arc<dyn Base + Send + Sync>, index.counts());
            Ok(Built {
                base,
                index: IndexState::with(index, true),
                outcome: IndexOutcome::Rebuilt(why),
                counts,
                uncounted_changes: 0,
                snapshot_wanted: None,
            })
        }
        Err(error) => {
            let counts = count(replay.state.records(snapshot.as_ref(), &[]))?;
            let joined = replay.state.memtable.joined();
            let snapshot_wanted = (joined > 0).then_some(replay.lsn);
            let below = replay.snapshot.as_ref().map_or_else(Counts::default, |snapshot| snapshot.counts());
            let mut feed = IndexState::missing(snapshot_wanted.unwrap_or_default(), below);
            feed.laid(joined, replay.lsn);
            replay.feed.drain(..).for_each(|batch| feed.push(batch));
            let outcome = IndexOutcome::Absent(error.to_string());
            Ok(Built { base: snapshot, index: feed, outcome, counts, uncounted_changes: 0, snapshot_wanted })
        }
    }
}
