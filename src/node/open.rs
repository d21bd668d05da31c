//! The opening of a store, and what is said of it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::feeder::Feeder;
use super::progress::Teller;
use super::{Node, NodeError, Running};
use crate::crdt::NodeId;
use crate::replica::Replica;
use crate::storage::{IndexOutcome, LockedDisk, Recovery, SledSource, Store, StoreError, StoreLock, StoreOptions};

/// How long a store that is in use is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(10);

impl Node {
    /// Locks and opens the store of node `id`.
    pub(super) fn open(&mut self, id: &NodeId) -> Result<(), NodeError> {
        let started = Instant::now();
        let dir = self.options.data_dir.join(id.as_str());
        let lock = Arc::new(lock_patiently(&dir)?);
        let mut source = SledSource::new(&dir);
        let options = StoreOptions {
            disk: Arc::new(LockedDisk::new(Arc::clone(&lock))),
            dir: dir.clone(),
            node: id.clone(),
            entropy: Box::new(random_bits),
            limits: self.options.store,
        };
        let (store, recovery) =
            Store::open_telling(options, &mut source, &mut Teller::on_stderr(dir.display().to_string()))?;
        report(&recovery, &dir, started.elapsed());
        let events = self.sender.try_clone().map_err(|error| NodeError::Io("cannot make a pipe", error))?;
        let feeder = Feeder::start(Box::new(source), store.index().cloned(), events)
            .map_err(|error| NodeError::Io("cannot start a thread", error))?;
        #[expect(clippy::cast_possible_truncation, reason = "any 64 of the bits will do")]
        let random = random_bits() as u64;
        let replica = Replica::new(store, &recovery, self.options.replica, random, self.now_ms());
        self.running = Some(Running { id: id.clone(), replica, feeder, lock });
        Ok(())
    }
}

/// Locks a store; a predecessor that is just dying is waited for.
fn lock_patiently(dir: &Path) -> Result<StoreLock, StoreError> {
    let started = Instant::now();
    loop {
        match StoreLock::acquire(dir) {
            Err(StoreError::InUse { .. }) if started.elapsed() < LOCK_PATIENCE => std::thread::sleep(LOCK_RETRY),
            outcome => return outcome,
        }
    }
}

/// 128 random bits. Two UUIDs, because each has six bits that are always the same.
fn random_bits() -> u128 {
    Uuid::new_v4().as_u128() ^ Uuid::new_v4().as_u128().rotate_left(37)
}

fn report(recovery: &Recovery, dir: &Path, took: Duration) {
    let Recovery { counts, lsn, snapshot_lsn, torn_tail_bytes, .. } = recovery;
    let index = match &recovery.index {
        IndexOutcome::Trusted => "index trusted".to_owned(),
        IndexOutcome::Rebuilt(_) if recovery.fresh => "new index".to_owned(),
        IndexOutcome::Rebuilt(why) => format!("index rebuilt ({why})"),
        IndexOutcome::Rebuilding(why) => format!("index being rebuilt ({why}); reading the snapshot meanwhile"),
        IndexOutcome::Absent(why) => format!("no index ({why}); reading the snapshot instead"),
    };
    let how = match (recovery.fresh, recovery.clean) {
        (true, _) => "new store",
        (false, true) => "recovered after a clean stop",
        (false, false) => "recovered after a crash",
    };
    if *torn_tail_bytes > 0 {
        tracing::warn!("{}: cut off a torn tail of {torn_tail_bytes} bytes that nobody had heard of", dir.display());
    }
    let more = match recovery.uncounted_changes {
        0 => String::new(),
        changes => format!(" before the last {changes} changes"),
    };
    tracing::info!(
        "{}: {how}: {} elements, {} tags{more}, LSN {lsn} (snapshot at {snapshot_lsn}), {index}, {} ms",
        dir.display(),
        counts.elements,
        counts.tags,
        took.as_millis()
    );
}
