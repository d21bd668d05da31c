//! Lines of peers, one after the other, for one replica with a past: a log that begins late, and a snapshot, so that it
//! offers state deltas too.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use orset::crdt::{Element, NodeId, OpBody, Tag, VersionVector};
use orset::maelstrom::{Decoder, Incoming, Limits, Rejection, encode};
use orset::replica::{Outgoing, PeerMessage, Replica, ReplicaConfig, Style, Ticket};
use orset::storage::disk::MemDisk;
use orset::storage::{Lsn, NoIndex, Store, StoreLimits, StoreOptions};

use super::sealed::{DIR, put};

/// So small that the replica's past has compactions in it.
const LIMITS: StoreLimits = StoreLimits {
    segment_bytes: 300,
    min_retention_bytes: 600,
    max_retention_bytes: 900,
    memtable_bytes: 1 << 20,
    recent_bytes: 200,
    max_join_changes: 4,
    mirror_bytes: 0,
    index_slack_bytes: 1 << 20,
    max_records_at_start: 1 << 10,
};
/// Of one input, so many lines are looked at.
pub const MAX_LINES: usize = 24;
/// Most room for what a start sets aside: the usual 4 MiB would take more time than all the rest.
const RESERVE_BYTES: u64 = 8 << 10;

/// See the table in the module above.
pub fn sync_message(input: &[u8]) {
    let lines = input.split(|byte| *byte == b'\n').take(MAX_LINES);
    let messages: Vec<_> = lines.filter_map(understood).collect();
    // Opening a store takes longer than all the rest, so it is not done in vain.
    if messages.is_empty() {
        return;
    }
    let mut replica = listener();
    let before = replica.lsn();
    for (from, message) in messages {
        replica.takes(&from, message);
    }
    replica.waits(1_000);
    replica.waits(60_000);
    if replica.lsn() != before {
        replica.restarts();
    }
}

/// A peer's message, if the line is one.
fn understood(line: &[u8]) -> Option<(NodeId, PeerMessage)> {
    let Ok(Incoming::Peer { from, message, .. }) = decode(line) else { return None };
    comes_out_as_it_went_in(&from, &message);
    Some((from, message))
}

fn decode(line: &[u8]) -> Result<Incoming<'_>, Rejection> {
    Decoder::new(Limits::default()).decode(line, 0, uuid::Uuid::new_v4)
}

fn encoded(from: &NodeId, message: &PeerMessage) -> Vec<u8> {
    let mut line = Vec::new();
    let to = NodeId::new("n9").expect("a node id");
    encode(&mut line, from, 3, &Outgoing::Peer { to, message: message.clone() });
    line
}

/// Written anew it is the same message, and the same bytes from then on.
fn comes_out_as_it_went_in(from: &NodeId, message: &PeerMessage) {
    let line = encoded(from, message);
    let Ok(Incoming::Peer { from: sender, message: again, .. }) = decode(&line) else {
        panic!("its own peers would not understand {}", String::from_utf8_lossy(&line));
    };
    assert_eq!((&sender, &again), (from, message), "a message comes out otherwise");
    assert_eq!(encoded(&sender, &again), line, "written twice it is two lines");
}

/// The replica that hears an input.
pub fn listener() -> Session {
    Session::start(past().after_kill(), "n1", 1)
}

/// The disk of n1.
fn past() -> &'static MemDisk {
    static PAST: OnceLock<MemDisk> = OnceLock::new();
    PAST.get_or_init(|| {
        let disk = MemDisk::default();
        for start in 0..3 {
            let mut session = Session::start(disk.clone(), "n1", 100 + start);
            session.changes(12);
        }
        // A disk in memory keeps the content of files that have lost their names; a copy need not.
        let copy = MemDisk::default();
        for (path, content) in disk.files() {
            put(&copy, &path, &content);
        }
        copy
    })
}

/// A replica's process.
pub struct Session {
    disk: MemDisk,
    replica: Replica,
    node: NodeId,
    seed: u64,
    held: VersionVector,
    now_ms: u64,
    /// What it has said to its peers.
    pub said: Vec<(NodeId, Vec<u8>)>,
}

fn open(disk: &MemDisk, node: &NodeId, seed: u64) -> Replica {
    let mut rng = fastrand::Rng::with_seed(seed);
    let options = StoreOptions {
        disk: Arc::new(disk.clone()),
        dir: PathBuf::from(DIR),
        node: node.clone(),
        entropy: Box::new(move || rng.u128(..)),
        limits: LIMITS,
    };
    disk.set_capacity(Some(disk.used_bytes() + RESERVE_BYTES));
    let (store, recovery) = Store::open(options, &mut NoIndex).expect("a sound store");
    disk.set_capacity(None);
    Replica::new(store, &recovery, ReplicaConfig::default(), seed, 0)
}

fn live(store: &Store) -> BTreeMap<Tag, Element> {
    store.records(&[]).map(|record| record.expect("it can be read")).map(|r| (r.tag(), r.element())).collect()
}

impl Session {
    /// Starts a process on the disk, in a cluster of three.
    pub fn start(disk: MemDisk, node: &str, seed: u64) -> Self {
        let node = NodeId::new(node).expect("a node id");
        let mut replica = open(&disk, &node, seed);
        let nodes = ["n1", "n2", "n3"].map(|name| NodeId::new(name).expect("a node id"));
        let ticket = Ticket { client: "c0".into(), msg_id: 1, style: Style::OrSet, arrived_ms: 0 };
        replica.init(ticket, &node, &nodes).expect("the disk works");
        let held = replica.store().vv().clone();
        Self { disk, replica, node, seed, held, now_ms: 1, said: Vec::new() }
    }

    /// Some operations of its own, each with a commit, and the compactions that are due.
    pub fn changes(&mut self, count: u64) {
        for n in 0..count {
            let element = Element::from_canonical(format!("\"element {}\"", n % 5).as_bytes());
            let store = self.replica.store_mut();
            let tags = store.tags(&element).expect("it can be read");
            let remove = n % 3 == 2 && !tags.is_empty();
            store.append_local(if remove { OpBody::Remove { element, tags } } else { OpBody::Add(element) });
            self.settles();
        }
    }

    /// Hears a peer.
    pub fn takes(&mut self, from: &NodeId, message: PeerMessage) {
        self.replica.peer(from, message, self.now_ms).expect("no message makes a store fail");
        self.settles();
    }

    /// Some time passes.
    pub fn waits(&mut self, ms: u64) {
        self.now_ms += ms;
        self.replica.tick(self.now_ms).expect("no message makes a store fail");
        self.settles();
    }

    /// A line of a peer's, as it stands.
    pub fn hears(&mut self, line: &[u8]) {
        let Ok(Incoming::Peer { from, message, .. }) = decode(line) else { panic!("no peer's message") };
        self.takes(&from, message);
    }

    fn settles(&mut self) {
        let said = self.replica.commit(self.now_ms).expect("the disk works");
        for outgoing in said {
            let Outgoing::Peer { to, message } = outgoing else { continue };
            comes_out_as_it_went_in(&self.node, &message);
            self.said.push((to, encoded(&self.node, &message)));
        }
        while let Some(plan) = self.replica.store_mut().plan_compaction().expect("the disk works") {
            let snapshot = plan.run().expect("the disk works");
            self.replica.store_mut().install(snapshot).expect("the disk works");
        }
        self.is_sound();
    }

    fn is_sound(&mut self) {
        let store = self.replica.store();
        for tag in live(store).keys() {
            assert!(store.vv().covers(*tag), "{tag} is live and not covered");
        }
        assert!(self.held.is_within(store.vv()), "it has forgotten something");
        assert!(store.state().floor.is_within(store.vv()), "the floor is above what is held");
        let own = store.incarnation();
        let grew = store.vv().get(own) > self.held.get(own);
        assert!(!grew || self.seed != 1, "a peer has made operations of this process");
        for (replica, _) in store.vv().iter() {
            assert!(store.state().incarnations.get(replica).is_some(), "{replica} is held without its Start");
        }
        self.held = store.vv().clone();
    }

    /// The end of its log.
    fn lsn(&self) -> Lsn {
        self.replica.store().lsn()
    }

    /// Killed, and started again: it has what it had.
    fn restarts(self) {
        let (before, held) = (live(self.replica.store()), self.held.clone());
        drop(self.replica);
        let again = open(&self.disk.after_kill(), &self.node, self.seed + 1);
        assert_eq!((live(again.store()), again.store().vv()), (before, &held), "a restart finds something else");
    }
}
