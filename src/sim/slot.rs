//! One replica on one disk, up or down, with the background work that belongs to it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::crdt::{Base, NodeId, Tag, VersionVector};
use crate::replica::{Outgoing, Replica, ReplicaConfig};
use crate::storage::disk::MemDisk;
use crate::storage::store::FeedBatch;
use crate::storage::{
    IndexPosition, IndexSource, MemorySource, NoIndex, Snapshot, Store, StoreError, StoreLimits, StoreOptions,
};

const DIR: &str = "/store";

/// So small that every run compacts and truncates all the time.
pub const SMALL: StoreLimits = StoreLimits {
    segment_bytes: 400,
    min_retention_bytes: 1000,
    max_retention_bytes: 2000,
    memtable_bytes: 1 << 20,
    recent_bytes: 1 << 10,
};

/// What a replica holds: as its peers and clients may know it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// What it holds.
    pub vv: VersionVector,
    /// tag → element.
    pub live: BTreeMap<Tag, String>,
}

impl View {
    /// What a store shows.
    ///
    /// # Panics
    /// If its records cannot be read.
    pub fn of(store: &Store) -> Self {
        let live = store
            .records(&[])
            .map(|r| r.expect("a simulated index can be read"))
            .map(|r| (r.tag(), r.element().as_str().to_owned()))
            .collect();
        Self { vv: store.vv().clone(), live }
    }

    /// Whether the tag's add and its removal are both held.
    pub fn has_dropped(&self, tag: Tag) -> bool {
        self.vv.covers(tag) && !self.live.contains_key(&tag)
    }

    /// The elements, each once.
    pub fn elements(&self) -> BTreeSet<&str> {
        self.live.values().map(String::as_str).collect()
    }
}

/// How a process ends that does not end well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// What was written stays.
    Kill,
    /// With the number that draws what of the unsynced bytes is left.
    PowerCut(u64),
}

/// A place in the cluster. Two of them may have the same node id: a store and its copy.
pub struct Slot {
    /// Whose store it is.
    pub id: NodeId,
    /// Where the store is.
    pub disk: MemDisk,
    /// The process.
    pub running: Option<Running>,
    /// As of the last commit.
    pub view: View,
    /// Tags that it has dropped, since it was last empty or set back.
    pub dropped: BTreeSet<Tag>,
    /// The disk stops soon; this is how the process then dies.
    pub doomed: Option<Crash>,
    /// How the store is opened.
    pub limits: StoreLimits,
    /// How the replica is started.
    pub config: ReplicaConfig,
    /// Whether there is an index, in memory.
    pub indexed: bool,
}

/// What there is while the process runs.
pub struct Running {
    /// The replica, and in it the store.
    pub replica: Replica,
    source: Box<dyn IndexSource>,
    /// When a snapshot that has been made is installed.
    snapshot: Option<(u64, Snapshot)>,
    /// When what was taken from the store gets into the index.
    feed: Option<(u64, Vec<FeedBatch>)>,
    /// Milliseconds between a background step and its effect.
    lag_ms: u64,
}

impl Slot {
    /// An empty disk, and no process.
    pub fn new(id: NodeId, indexed: bool) -> Self {
        Self {
            id,
            disk: MemDisk::default(),
            running: None,
            view: View::default(),
            dropped: BTreeSet::new(),
            doomed: None,
            limits: SMALL,
            config: ReplicaConfig::default(),
            indexed,
        }
    }

    /// Whether the process runs.
    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// The replica of a slot that is up.
    ///
    /// # Panics
    /// If it is down.
    pub fn replica(&self) -> &Replica {
        &self.running.as_ref().expect("it is up").replica
    }

    /// The replica of a slot that is up.
    ///
    /// # Panics
    /// If it is down.
    pub fn replica_mut(&mut self) -> &mut Replica {
        &mut self.running.as_mut().expect("it is up").replica
    }

    /// The store of a slot that is up.
    pub fn store(&self) -> &Store {
        self.replica().store()
    }

    /// Starts the process.
    ///
    /// # Errors
    /// If the store does not open.
    pub fn open(&mut self, seed: u64, now_ms: u64, lag_ms: u64) -> Result<(), StoreError> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let random = rng.u64(..);
        let options = StoreOptions {
            disk: Arc::new(self.disk.clone()),
            dir: Path::new(DIR).to_path_buf(),
            node: self.id.clone(),
            entropy: Box::new(move || rng.u128(..)),
            limits: self.limits,
        };
        let mut source: Box<dyn IndexSource> = if self.indexed { Box::new(MemorySource) } else { Box::new(NoIndex) };
        let (store, recovery) = Store::open(options, source.as_mut())?;
        let replica = Replica::new(store, &recovery, self.config, random, now_ms);
        self.running = Some(Running { replica, source, snapshot: None, feed: None, lag_ms });
        Ok(())
    }

    /// Ends the process, and leaves on the disk what such an end leaves.
    pub fn crash(&mut self, crash: Crash) {
        self.running = None;
        self.doomed = None;
        self.disk = match crash {
            Crash::Kill => self.disk.after_kill(),
            Crash::PowerCut(choice) => self.disk.after_power_cut(choice),
        };
    }

    /// Ends the process in good order; gives back its last words.
    ///
    /// # Errors
    /// If the store fails.
    pub fn stop(&mut self, now_ms: u64) -> Result<Vec<Outgoing>, StoreError> {
        let Some(mut running) = self.running.take() else { return Ok(Vec::new()) };
        running.replica.answer_held()?;
        let last = running.replica.commit(now_ms)?;
        self.view = View::of(running.replica.store());
        running.replica.store_mut().release_index();
        running.replica.store_mut().close(None)?;
        Ok(last)
    }

    /// When something is due.
    pub fn next_ms(&self) -> Option<u64> {
        let running = self.running.as_ref()?;
        let snapshot = running.snapshot.as_ref().map(|(at, _)| *at);
        let feed = running.feed.as_ref().map(|(at, _)| *at);
        [running.replica.next_wakeup_ms(), snapshot, feed].into_iter().flatten().min()
    }

    /// Does what is due, and makes everything durable; gives back what may leave.
    ///
    /// # Errors
    /// If the store fails.
    ///
    /// # Panics
    /// If the process is down, or asks to be woken for ever.
    pub fn settle(&mut self, now_ms: u64) -> Result<Vec<Outgoing>, StoreError> {
        let running = self.running.as_mut().expect("it is up");
        running.replica.tick(now_ms)?;
        let messages = running.replica.commit(now_ms)?;
        let wakeup = running.replica.next_wakeup_ms();
        assert!(wakeup.is_none_or(|at| at > now_ms), "{} wants to be woken at once, for ever", self.id);
        Ok(messages)
    }

    /// The background steps.
    ///
    /// # Errors
    /// If the store fails.
    ///
    /// # Panics
    /// If the process is down.
    pub fn background(&mut self, now_ms: u64) -> Result<(), StoreError> {
        let running = self.running.as_mut().expect("it is up");
        let store = running.replica.store_mut();
        if let Some((_, snapshot)) = running.snapshot.take_if(|(at, _)| *at <= now_ms) {
            store.install(snapshot)?;
        }
        if let Some((_, batches)) = running.feed.take_if(|(at, _)| *at <= now_ms) {
            let index = Arc::clone(store.index().expect("what is fed has an index"));
            for batch in batches.iter().filter(|batch| batch.position.lsn > index.position().lsn) {
                index.apply(&batch.changes, batch.position).expect("an index in memory takes everything");
            }
            store.index_noted(index.position().lsn);
            store.maintain();
        }
        if running.feed.is_none() {
            let batches = store.take_feed();
            running.feed = (!batches.is_empty()).then_some((now_ms + running.lag_ms, batches));
        }
        if let Some(snapshot) = store.take_rebuild() {
            let header = snapshot.header();
            let position = IndexPosition { lsn: header.lsn, checksum: header.frame_checksum };
            match running.source.rebuild(snapshot.records(&[]), position) {
                Ok(index) => store.swap_index(index),
                Err(_) => store.rebuild_failed(),
            }
        }
        if let Some(plan) = store.plan_compaction()? {
            running.snapshot = Some((now_ms + running.lag_ms, plan.run()?));
        }
        Ok(())
    }
}
