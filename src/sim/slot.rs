//! One replica on one disk, with the background work that belongs to it. What both must be like is looked at in `checks`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use super::book::Book;
use super::index::Shelf;
use super::model::Model;
use super::named::Names;
use super::rules::Rule;
use crate::crdt::{Base, Dot, Element, MAX_REMOVE_TAGS, NodeId, Op, OpBody, ReplicaId, Seq, Tag, VersionVector};
use crate::replica::{Outgoing, Replica, ReplicaConfig, Reply, Request, Write};
use crate::storage::compaction::CompactionPlan;
use crate::storage::disk::{Kept, MemDisk};
use crate::storage::store::FeedBatch;
use crate::storage::{
    Index, IndexOutcome, IndexSource, Lsn, NoIndex, Snapshot, Store, StoreError, StoreLimits, StoreOptions,
};

/// Where a slot's store lies on its disk.
pub const DIR: &str = "/store";

/// So small that every run compacts and truncates all the time.
pub const SMALL: StoreLimits = StoreLimits {
    segment_bytes: 400,
    min_retention_bytes: 1000,
    max_retention_bytes: 2000,
    memtable_bytes: 1 << 20,
    recent_bytes: 1 << 10,
    max_join_changes: 4,
    mirror_bytes: 1500,
    index_slack_bytes: 2000,
    max_records_at_start: 4,
};

/// Commits of which it is remembered what was held then, for the index.
const REMEMBERED_COMMITS: usize = 64;

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
        let record = |r: Result<crate::crdt::Record, _>| r.expect("a simulated index can be read");
        let live = store.records(&[]).map(record).map(|r| (r.tag(), r.element().as_str().to_owned())).collect();
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
    /// What was synced stays, and of the rest what this says.
    PowerCut(Kept),
}

/// What is known of a store, beside its files: it goes with them when they are copied.
#[derive(Clone, Default)]
pub struct Past {
    /// What it holds for certain: as of its last commit.
    pub durable: VersionVector,
    /// The incarnations that have written to it, oldest first. (The last one's operations may have been lost.)
    pub incarnations: Vec<ReplicaId>,
    /// What it was asked under a name.
    pub(super) names: Names,
    /// What was held at the last commits, by their LSNs.
    pub(super) commits: BTreeMap<Lsn, VersionVector>,
}

/// A place in the cluster. Two of them may have the same node id: a store and its copy.
pub struct Slot {
    /// Whose store it is.
    pub id: NodeId,
    /// Where the store is.
    pub disk: MemDisk,
    /// Where its index is.
    pub shelf: Shelf,
    /// What is known of the store.
    pub past: Past,
    /// The process.
    pub running: Option<Running>,
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
    /// What it must hold.
    pub model: Model,
    /// Requests that it has not dealt with.
    asked: VecDeque<(i64, Request)>,
    /// Replies that must come, in this order, each with the operation that it acknowledges.
    expected: VecDeque<(i64, Reply, Option<Dot>)>,
    source: Box<dyn IndexSource>,
    /// A compaction that has not begun, and when it does.
    plan: Option<(u64, CompactionPlan)>,
    /// When a snapshot that has been made is installed.
    snapshot: Option<(u64, Snapshot)>,
    /// The snapshot that an index is being built from, and when that is done.
    rebuild: Option<(u64, Arc<Snapshot>)>,
    /// When what was taken from the store gets into the index.
    feed: Option<(u64, Vec<FeedBatch>)>,
    /// Milliseconds between a background step and its effect.
    lag_ms: u64,
    pub(super) floor: VersionVector,
    pub(super) commits: u64,
    pub(super) releases: u64,
}

/// What a start found.
pub struct Found {
    /// Bytes of a torn tail that were cut off.
    pub torn_tail_bytes: u64,
    /// Whether the index was taken over.
    pub index_trusted: bool,
}

impl Slot {
    /// An empty disk, and no process.
    pub fn new(id: NodeId, indexed: bool) -> Self {
        Self {
            id,
            disk: MemDisk::default(),
            shelf: Shelf::default(),
            past: Past::default(),
            running: None,
            doomed: None,
            limits: SMALL,
            // Half of them compare bitmaps by hashes, however small they are.
            config: ReplicaConfig { hashes_from_dots: if indexed { 0 } else { u64::MAX }, ..ReplicaConfig::default() },
            indexed,
        }
    }

    /// Whether the process runs.
    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn running(&self) -> &Running {
        self.running.as_ref().expect("it is up")
    }

    /// The process of a slot that is up.
    ///
    /// # Panics
    /// If it is down.
    pub fn running_mut(&mut self) -> &mut Running {
        self.running.as_mut().expect("it is up")
    }

    /// The replica of a slot that is up.
    ///
    /// # Panics
    /// If it is down.
    pub fn replica_mut(&mut self) -> &mut Replica {
        &mut self.running_mut().replica
    }

    /// The store of a slot that is up.
    ///
    /// # Panics
    /// If it is down.
    pub fn store(&self) -> &Store {
        self.running().replica.store()
    }

    pub(super) fn options(&self, entropy: u64) -> StoreOptions {
        let mut rng = fastrand::Rng::with_seed(entropy);
        StoreOptions {
            disk: Arc::new(self.disk.clone()),
            dir: Path::new(DIR).to_path_buf(),
            node: self.id.clone(),
            entropy: Box::new(move || rng.u128(..)),
            limits: self.limits,
        }
    }

    /// Starts the process.
    ///
    /// # Errors
    /// If the store does not open.
    pub fn open(&mut self, book: &mut Book, seed: u64, now_ms: u64, lag_ms: u64) -> Result<Found, StoreError> {
        let mut source: Box<dyn IndexSource> =
            if self.indexed { Box::new(self.shelf.clone()) } else { Box::new(NoIndex) };
        let (store, recovery) = Store::open(self.options(seed), source.as_mut())?;
        let replica = Replica::new(store, &recovery, self.config, seed.rotate_left(32), now_ms);
        let store = replica.store();
        book.begin(store.incarnation());
        let model = Model::at(book, store.vv());
        let floor = store.state().floor.clone();
        self.past.names.found_in(store);
        self.past.incarnations.retain(|incarnation| store.vv().get(*incarnation) > Seq(0));
        self.running = Some(Running {
            replica,
            model,
            asked: VecDeque::new(),
            expected: VecDeque::new(),
            source,
            plan: None,
            snapshot: None,
            rebuild: None,
            feed: None,
            lag_ms,
            floor,
            commits: 0,
            releases: 0,
        });
        let index_trusted = matches!(recovery.index, IndexOutcome::Trusted);
        Ok(Found { torn_tail_bytes: recovery.torn_tail_bytes, index_trusted })
    }

    /// Ends the process, and leaves on the disk what such an end leaves.
    pub fn crash(&mut self, crash: Crash) {
        let choice = self.disk.changes();
        if let Some(running) = self.running.take() {
            running.stop_feeding(choice);
        }
        self.doomed = None;
        self.disk = match crash {
            Crash::Kill => self.disk.after_kill(),
            Crash::PowerCut(kept) => {
                self.shelf.cut_power(choice);
                self.disk.after_cut(kept)
            }
        };
    }

    /// Takes note of a request that the replica has been given.
    ///
    /// # Panics
    /// If the process is down.
    pub fn asked(&mut self, msg_id: i64, request: Request) {
        self.running_mut().asked.push_back((msg_id, request));
    }

    /// Brings the model along after the replica has been called, and works out what it must reply.
    ///
    /// # Panics
    /// If the replica does not hold what it must.
    pub fn follow(&mut self, book: &mut Book) {
        let running = self.running.as_mut().expect("it is up");
        let store = running.replica.store();
        let own = store.incarnation();
        running.model.absorb(book, store.vv(), own);
        let served = running.asked.len() - running.replica.held_requests();
        let Past { incarnations, names, .. } = &mut self.past;
        for (msg_id, request) in running.asked.drain(..served) {
            let model = &mut running.model;
            let mut perform = |write: &Write| perform(book, model, store, incarnations, write);
            let (reply, dot) = match request {
                Request::Add(element) => perform(&Write::Add(element)),
                Request::Remove(element) => perform(&Write::Remove(element)),
                Request::Once(key, write) => names.once(key, write, perform),
                Request::Read => (Reply::Elements(model.elements()), None),
                other => unreachable!("{other:?} is never asked here"),
            };
            running.expected.push_back((msg_id, reply, dot));
        }
        Rule::Order.must(running.model.vv() == store.vv(), || {
            format!("{} holds {:?}, and must hold {:?}", self.id, store.vv(), running.model.vv())
        });
    }

    /// Checks a reply on its way out; gives back the operation that it acknowledges.
    ///
    /// # Panics
    /// If it is not the next that must come.
    pub fn check_reply(&mut self, msg_id: i64, reply: &Reply) -> Option<Dot> {
        let expected = self.running.as_mut().and_then(|running| running.expected.pop_front());
        let same = |expected: &Reply| match (expected, reply) {
            // The words are the replica's own.
            (Reply::Error { code: expected, .. }, Reply::Error { code, .. }) => expected == code,
            _ => expected == reply,
        };
        let right = expected.as_ref().is_some_and(|(id, expected, _)| *id == msg_id && same(expected));
        Rule::Replies.must(right, || format!("{} says {reply:?} to {msg_id}, and must say {expected:?}", self.id));
        expected.and_then(|(.., dot)| dot)
    }

    /// Ends the process in good order; gives back its last words.
    ///
    /// # Errors
    /// If the store fails.
    pub fn stop(&mut self, book: &mut Book, now_ms: u64) -> Result<Vec<Outgoing>, StoreError> {
        if self.running.is_none() {
            return Ok(Vec::new());
        }
        while self.replica_mut().answer_held()? {
            self.follow(book);
            self.replica_mut().store_mut().commit()?;
        }
        self.follow(book);
        let last = self.replica_mut().commit(now_ms)?;
        self.committed();
        let running = self.running.as_mut().expect("it is up");
        feed(running, u64::MAX);
        let batches = running.replica.store_mut().take_feed();
        running.feed = (!batches.is_empty()).then_some((now_ms, batches));
        feed(running, u64::MAX);
        running.replica.store_mut().release_index();
        let position = if self.indexed { running.source.close().ok().flatten() } else { None };
        running.replica.store_mut().close(position)?;
        Ok(last)
    }

    /// When something is due.
    pub fn next_ms(&self) -> Option<u64> {
        let running = self.running.as_ref()?;
        let plan = running.plan.as_ref().map(|(at, _)| *at);
        let snapshot = running.snapshot.as_ref().map(|(at, _)| *at);
        let rebuild = running.rebuild.as_ref().map(|(at, _)| *at);
        let feed = running.feed.as_ref().map(|(at, _)| *at);
        [running.replica.next_wakeup_ms(), plan, snapshot, rebuild, feed].into_iter().flatten().min()
    }

    /// Does what is due, and makes everything durable; gives back what may leave.
    ///
    /// # Errors
    /// If the store fails.
    ///
    /// # Panics
    /// If the process is down, or asks to be woken for ever.
    pub fn settle(&mut self, book: &mut Book, now_ms: u64) -> Result<Vec<Outgoing>, StoreError> {
        self.replica_mut().tick(now_ms)?;
        self.follow(book);
        let replica = self.replica_mut();
        let messages = replica.commit(now_ms)?;
        let wakeup = replica.next_wakeup_ms();
        Rule::Liveness
            .must(wakeup.is_none_or(|at| at > now_ms), || "a replica wants to be woken at once, for ever".to_owned());
        self.committed();
        Ok(messages)
    }

    /// Takes note that everything up to now is durable.
    fn committed(&mut self) {
        let running = self.running.as_mut().expect("it is up");
        running.commits += 1;
        self.past.names.committed();
        if self.past.durable != *running.model.vv() {
            self.past.durable = running.model.vv().clone();
            if self.indexed {
                self.past.commits.insert(running.replica.store().lsn(), self.past.durable.clone());
                if self.past.commits.len() > REMEMBERED_COMMITS {
                    self.past.commits.pop_first();
                }
            }
        }
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
        if let Some((_, snapshot)) = running.snapshot.take_if(|(at, _)| *at <= now_ms) {
            running.replica.store_mut().install(snapshot)?;
        }
        feed(running, now_ms);
        let store = running.replica.store_mut();
        if running.feed.is_none() {
            let batches = store.take_feed();
            running.feed = (!batches.is_empty()).then_some((now_ms + running.lag_ms, batches));
        }
        if let Some(snapshot) = store.take_rebuild() {
            running.rebuild = Some((now_ms + running.lag_ms, snapshot));
        }
        if let Some((_, snapshot)) = running.rebuild.take_if(|(at, _)| *at <= now_ms) {
            match running.source.rebuild(snapshot.records(&[]), snapshot.header().position()) {
                Ok(index) => store.swap_index(index),
                Err(_) => store.rebuild_failed(),
            }
        }
        store.tend_mirror()?;
        if let Some(plan) = store.plan_compaction()? {
            running.plan = Some((now_ms + running.lag_ms / 2, plan));
        }
        if let Some((_, plan)) = running.plan.take_if(|(at, _)| *at <= now_ms) {
            match plan.run() {
                Ok(snapshot) => running.snapshot = Some((now_ms + running.lag_ms, snapshot)),
                Err(_) => store.compaction_failed(),
            }
        }
        Ok(())
    }
}

/// Does what the replica must have done, and says what it must answer and which operation that acknowledges.
fn perform(
    book: &mut Book,
    model: &mut Model,
    store: &Store,
    incarnations: &mut Vec<ReplicaId>,
    write: &Write,
) -> (Reply, Option<Dot>) {
    let (own, mut last) = (store.incarnation(), None);
    let mut make = |model: &mut Model, body| {
        if model.vv().get(own) == Seq(0) {
            start(book, model, store, incarnations);
        }
        let dot = Dot::new(own, model.vv().get(own).next());
        let op = Op { dot, body };
        model.make(&op);
        book.make(op);
        last = Some(dot);
        dot
    };
    let mut tags_of = |element: &Element, adds: bool| {
        if adds {
            return vec![make(model, OpBody::Add(element.clone()))];
        }
        let tags = model.tags(element);
        for tags in tags.chunks(MAX_REMOVE_TAGS) {
            make(model, OpBody::Remove { element: element.clone(), tags: tags.to_vec() });
        }
        tags
    };
    let reply = match write {
        Write::Add(element) => Reply::Added(tags_of(element, true)[0]),
        Write::AddMany(elements) => Reply::AddedMany(elements.iter().flat_map(|e| tags_of(e, true)).collect()),
        Write::Remove(element) => Reply::Removed(tags_of(element, false)),
        Write::RemoveMany(elements) => Reply::RemovedMany(elements.iter().map(|e| tags_of(e, false)).collect()),
    };
    (reply, last)
}

/// The Start that the replica has put before its first operation, which must name what its store held of its last own.
fn start(book: &mut Book, model: &mut Model, store: &Store, incarnations: &mut Vec<ReplicaId>) {
    let own = store.incarnation();
    let told = store.state().incarnations.get(own).cloned();
    let parent = incarnations.last().map(|last| Dot::new(*last, model.vv().get(*last)));
    let node = store.manifest().node.clone();
    let right = told.as_ref().is_some_and(|told| told.parent == parent && told.node == node);
    Rule::Dots.must(right, || format!("{own} starts as {told:?}, and its store's last own operation is {parent:?}"));
    let op = Op { dot: Dot::new(own, Seq(1)), body: OpBody::Start { node, parent } };
    model.make(&op);
    book.make(op);
    incarnations.push(own);
}

impl Running {
    /// The process dies while its index is being fed: it has got the first of the batches, how many is drawn by `choice`.
    fn stop_feeding(self, choice: u64) {
        if let (Some((_, batches)), Some(index)) = (self.feed, self.replica.store().index()) {
            let count = usize::try_from(choice % (batches.len() as u64 + 1)).expect("a small number");
            apply_all(index.as_ref(), &batches[..count]);
        }
    }
}

/// Applies what the index does not have yet.
fn apply_all(index: &dyn Index, batches: &[FeedBatch]) {
    let at = index.position().lsn;
    for batch in batches.iter().filter(|batch| batch.position.lsn > at) {
        index.apply(&batch.changes, batch.position).expect("an index in memory takes everything");
    }
}

/// Brings what has been taken for the index into it.
fn feed(running: &mut Running, now_ms: u64) {
    if let Some((_, batches)) = running.feed.take_if(|(at, _)| *at <= now_ms) {
        let store = running.replica.store_mut();
        let Some(index) = store.index().cloned() else { return };
        apply_all(index.as_ref(), &batches);
        store.index_noted(index.position().lsn);
        store.index_measured(index.disk_bytes());
        store.maintain();
    }
}
