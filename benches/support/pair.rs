//! Two replicas in one process, on real stores with real indexes, with a network between them that counts.
//!
//! Time is simulated, so a run takes as long as its work and the counts do not depend on the machine. What is
//! counted is what the program would write: each message is encoded to its line and decoded again.
//!
//! Round trips are counted as Lamport's clock counts: a message is one later than the latest that its sender had heard.
//! The first one (1), a digest or a ping, says what its sender holds; after that, a message there and one back are a round
//! trip.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orset::crdt::{NodeId, Op, OpBody};
use orset::maelstrom::{Decoder, Incoming, Limits, encode};
use orset::replica::{PeerBody, PeerMessage, Replica, ReplicaConfig};
use orset::storage::disk::RealDisk;
use orset::storage::store::MAX_BATCH_OPS;
use orset::storage::{IndexSource, NoIndex, OpCursor, SledSource, Store, StoreLimits, StoreOptions};
use uuid::Uuid;

/// The names of the two.
pub const NAMES: [&str; 2] = ["n1", "n2"];
/// After so many writes two stores that are built are made equal.
const WRITES_PER_EXCHANGE: u64 = 1024;
/// The two do not hear each other for so long after a change: what is younger than a second a digest does not ask for,
/// as pushes should be bringing it.
const APART_MS: u64 = 10_000;
/// More than the pair ever needs to agree.
const PATIENCE_MS: u64 = 600_000;

/// What went over the network.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Messages and bytes, by kind.
    pub kinds: BTreeMap<&'static str, (u64, u64)>,
    /// When the last message came that brought something, by Lamport's clock.
    pub last_news: u64,
}

impl Traffic {
    /// How many bytes in all.
    pub fn bytes(&self) -> u64 {
        self.kinds.values().map(|(_, bytes)| bytes).sum()
    }

    /// How many round trips it took after the first digest until nothing new came any more.
    pub fn round_trips(&self) -> u64 {
        self.last_news.saturating_sub(1).div_ceil(2)
    }

    /// The kinds, for people.
    pub fn story(&self) -> String {
        let kind = |(kind, (messages, bytes)): (&&str, &(u64, u64))| format!("{messages} {kind} ({bytes} bytes)");
        self.kinds.iter().map(kind).collect::<Vec<_>>().join(", ")
    }
}

/// A replica and what belongs to it.
pub struct Node {
    /// The replica, and in it the store.
    pub replica: Replica,
    source: Box<dyn IndexSource>,
    lamport: u64,
    messages: u64,
}

/// The two, and the network.
pub struct Pair {
    /// The replicas, in the order of [`NAMES`].
    pub nodes: [Node; 2],
    /// Counted since the last [`Pair::heal`].
    pub traffic: Traffic,
    /// Whether nothing gets through.
    pub cut: bool,
    under_way: VecDeque<(usize, u64, PeerMessage)>,
    decoder: Decoder,
    now_ms: u64,
}

/// The name of node `n`.
pub fn name(n: usize) -> NodeId {
    NodeId::new(NAMES[n]).expect("a node id")
}

/// Opens the store of node `n` in `dir`.
pub fn open_store(
    dir: &Path,
    n: usize,
    limits: StoreLimits,
    source: &mut dyn IndexSource,
) -> (Store, orset::storage::Recovery) {
    fs::create_dir_all(dir).expect("a directory");
    let options = StoreOptions {
        disk: Arc::new(RealDisk),
        dir: dir.to_path_buf(),
        node: name(n),
        entropy: Box::new(|| Uuid::new_v4().as_u128() ^ Uuid::new_v4().as_u128().rotate_left(37)),
        limits,
    };
    let (mut store, recovery) = Store::open(options, source).expect("the store opens");
    store.set_nodes(&[name(0), name(1)]).expect("the manifest can be written");
    (store, recovery)
}

/// Does everything that the store's background threads would do.
pub fn settle(store: &mut Store, source: &mut dyn IndexSource) {
    loop {
        store.maintain();
        for batch in store.take_feed() {
            let index = Arc::clone(store.index().expect("who takes batches has an index"));
            index.apply(&batch.changes, batch.position).expect("the index takes its changes");
        }
        if let Some(snapshot) = store.take_rebuild() {
            let records = orset::crdt::Base::records(snapshot.as_ref(), &[]);
            match source.rebuild(records, snapshot.header().position()) {
                Ok(index) => store.swap_index(index),
                // There is none on purpose.
                Err(_) => store.rebuild_failed(),
            }
        }
        store.index_noted(store.index().map_or(orset::storage::Lsn(0), |index| index.position().lsn));
        match store.plan_compaction().expect("the log can be written") {
            Some(plan) => store.install(plan.run().expect("a snapshot is written")).expect("it is installed"),
            None if store.index_lag() == 0 || store.index().is_none() => return,
            None => {}
        }
    }
}

/// Copies a closed store.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// Two closed stores below `dir` that hold the same: what `write` does to the one or the other, in turn, for every number
/// up to `count`.
pub fn build_equal(dir: &Path, count: u64, mut write: impl FnMut(&mut Store, u64)) -> [PathBuf; 2] {
    let dirs = [0, 1].map(|n| dir.join(NAMES[n]));
    let mut stores = [0, 1].map(|n| open_store(&dirs[n], n, StoreLimits::default(), &mut NoIndex).0);
    let mut sent = [OpCursor::default(); 2];
    for n in 0..count {
        write(&mut stores[usize::from(n % 2 == 1)], n);
        if n % WRITES_PER_EXCHANGE == WRITES_PER_EXCHANGE - 1 || n == count - 1 {
            exchange(&mut stores, &mut sent);
        }
    }
    stores.iter_mut().for_each(|store| store.close(None).expect("a clean stop"));
    dirs
}

/// Gives each store the other's operations that it has not been given yet.
fn exchange(stores: &mut [Store; 2], sent: &mut [OpCursor; 2]) {
    for (from, to) in [(0, 1), (1, 0)] {
        let own = stores[from].incarnation();
        let ops = stores[from].ops_since(sent[from]).expect("they are at hand");
        let ops: Vec<Op> = ops.filter(|op| op.dot.replica == own).cloned().collect();
        sent[from] = stores[from].op_cursor();
        for op in ops {
            stores[to].append_remote(op);
        }
    }
    for store in stores {
        store.commit().expect("the disk takes it");
        settle(store, &mut NoIndex);
    }
}

impl Pair {
    /// The replicas of two stores.
    pub fn open(dirs: &[PathBuf; 2], limits: StoreLimits) -> Self {
        let nodes = [0, 1].map(|n| {
            let mut source = SledSource::new(&dirs[n]);
            let (store, recovery) = open_store(&dirs[n], n, limits, &mut source);
            let replica = Replica::new(store, &recovery, ReplicaConfig::default(), 7 + n as u64, 0);
            Node { replica, source: Box::new(source), lamport: 0, messages: 0 }
        });
        let decoder = Decoder::new(Limits::default());
        let mut pair =
            Self { nodes, traffic: Traffic::default(), cut: true, under_way: VecDeque::new(), decoder, now_ms: 1 };
        // Past the time in which a start holds its tongue.
        pair.run_until(|pair| pair.now_ms > 10_000);
        pair
    }

    /// Makes operations at node `n`, in batches, without the other's hearing of it, and lets some time pass.
    pub fn write(&mut self, n: usize, bodies: Vec<OpBody>) {
        assert!(self.cut, "the other would hear of it");
        for some in bodies.chunks(MAX_BATCH_OPS) {
            let store = self.nodes[n].replica.store_mut();
            for body in some {
                store.append_local(body.clone());
            }
            self.commit(n);
            self.settle(n);
        }
        let later = self.now_ms + APART_MS;
        self.run_until(|pair| pair.now_ms > later);
    }

    /// Makes a snapshot of all that node `n` holds, and drops whatever log retention does not keep.
    pub fn truncate(&mut self, n: usize) {
        self.nodes[n].replica.store_mut().want_snapshot();
        self.settle(n);
    }

    /// The operations that `n` has and the other lacks.
    pub fn ahead(&self, n: usize) -> Vec<Op> {
        let theirs = self.nodes[1 - n].replica.store().vv();
        self.nodes[n].replica.store().delta(theirs, usize::MAX).expect("the log can be read").ops
    }

    fn settle(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        settle(node.replica.store_mut(), node.source.as_mut());
    }

    /// Lets everything through from now on, and counts anew.
    pub fn heal(&mut self) {
        self.cut = false;
        self.traffic = Traffic::default();
        self.nodes.iter_mut().for_each(|node| node.lamport = 0);
    }

    /// Whether both hold the same.
    pub fn agrees(&self) -> bool {
        self.nodes[0].replica.store().vv() == self.nodes[1].replica.store().vv()
    }

    /// Runs until both hold the same and nothing is under way.
    pub fn converge(&mut self) {
        self.run_until(|pair| pair.agrees() && pair.under_way.is_empty());
    }

    /// Runs until something has come true.
    pub fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        let end = self.now_ms + PATIENCE_MS;
        while !done(self) {
            assert!(self.now_ms < end, "the pair does not come to it: {}", self.traffic.story());
            match self.under_way.pop_front() {
                Some((to, lamport, message)) => self.deliver(to, lamport, message),
                None => self.wait(),
            }
        }
    }

    /// Goes to when somebody wants to do something.
    fn wait(&mut self) {
        let wakeups = self.nodes.iter().filter_map(|node| node.replica.next_wakeup_ms());
        self.now_ms = wakeups.min().unwrap_or(self.now_ms).max(self.now_ms + 1);
        for n in [0, 1] {
            self.nodes[n].replica.tick(self.now_ms).expect("the store works");
            self.commit(n);
        }
    }

    fn deliver(&mut self, to: usize, lamport: u64, message: PeerMessage) {
        let node = &mut self.nodes[to];
        node.lamport = node.lamport.max(lamport);
        let (vv, part) = (node.replica.store().vv().clone(), matches!(message.body, PeerBody::Part { .. }));
        node.replica.peer(&name(1 - to), message, self.now_ms).expect("the store works");
        if part || *node.replica.store().vv() != vv {
            self.traffic.last_news = lamport;
        }
        self.commit(to);
        self.settle(to);
    }

    fn commit(&mut self, n: usize) {
        for outgoing in self.nodes[n].replica.commit(self.now_ms).expect("the disk takes it") {
            let node = &mut self.nodes[n];
            node.messages += 1;
            let mut line = Vec::new();
            encode(&mut line, &name(n), node.messages, &outgoing);
            let decoded = self.decoder.decode(line.trim_ascii_end(), 0, Uuid::nil);
            let Ok(Incoming::Peer { message, .. }) = decoded else { panic!("{outgoing:?} came out as {decoded:?}") };
            if self.cut {
                continue;
            }
            let count = self.traffic.kinds.entry(orset::sim::network::kind(&message.body)).or_default();
            *count = (count.0 + 1, count.1 + line.len() as u64);
            self.under_way.push_back((1 - n, self.nodes[n].lamport + 1, message));
        }
    }
}
