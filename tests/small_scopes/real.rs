//! Real replicas on real stores: whatever has happened to a [`Site`], a real [`Replica`] lives through as well, on a disk
//! in memory. It makes the deltas and state deltas that are sent in the model, and must hold what the model's replica
//! holds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use orset::crdt::{Element, Op, Tag, VersionVector};
use orset::replica::{Outgoing, PeerBody, PeerMessage, Purpose, Replica, ReplicaConfig, Request, StateContent};
use orset::replica::{StateKey, StateOffset, Style, Ticket};
use orset::storage::disk::MemDisk;
use orset::storage::{NoIndex, Store, StoreLimits, StoreOptions};

use super::site::{Place, Site, StateDelta, Step, element, node, replica_id};

/// Nothing is kept beyond what a compaction needs, so that it raises the floor.
const LIMITS: StoreLimits = StoreLimits {
    segment_bytes: 1 << 20,
    min_retention_bytes: 0,
    max_retention_bytes: 0,
    memtable_bytes: 1 << 20,
    recent_bytes: 1 << 10,
    max_join_changes: 1,
    mirror_bytes: 0,
    index_slack_bytes: 4 << 20,
    max_records_at_start: 32_768,
};
/// More than any interval of the replica's, so that all that is due has happened between two steps.
const STEP_MS: u64 = 100;

/// A running replica.
pub struct Real {
    place: Place,
    disk: MemDisk,
    replica: Replica,
    now_ms: u64,
    /// The state delta that is arriving, and the next part.
    arriving: Option<(Arc<StateDelta>, usize)>,
    /// What it has said to its peers since that was last looked at.
    said: Vec<PeerBody>,
}

/// What a replica answers to a digest.
#[derive(Clone, Debug)]
pub enum Answer {
    /// All that is missing.
    Ops(Vec<Op>),
    /// The same by way of a snapshot.
    State(Arc<StateDelta>),
}

fn open(place: Place, life: u8, disk: &MemDisk) -> Replica {
    let mut drawn = 0;
    let entropy = Box::new(move || {
        // The first number drawn is the incarnation's; the others are nonces.
        drawn += 1;
        if drawn == 1 { replica_id(place, life).to_u128() } else { u128::from(life) << 64 | drawn }
    });
    let (disk, dir) = (Arc::new(disk.clone()), PathBuf::from("/store"));
    let options = StoreOptions { disk, dir, node: node(place), entropy, limits: LIMITS };
    let (store, recovery) = Store::open(options, &mut NoIndex).unwrap();
    assert_eq!(store.incarnation(), replica_id(place, life));
    Replica::new(store, &recovery, ReplicaConfig { catch_up_ms: 0, ..ReplicaConfig::default() }, 1, 0)
}

fn ticket() -> Ticket {
    Ticket { client: "c1".into(), msg_id: 1, style: Style::OrSet, arrived_ms: 0 }
}

/// Room for what a store sets aside would only be copied about.
fn small_disk() -> MemDisk {
    let disk = MemDisk::default();
    disk.set_capacity(Some(16 << 10));
    disk
}

impl Real {
    /// A replica that has lived through what the site has.
    pub fn of(site: &Site) -> Self {
        Self::after(site.place, site.first_life, &site.history.steps())
    }

    fn after(place: Place, first_life: u8, history: &[&Step]) -> Self {
        let disk = small_disk();
        let mut replica = open(place, first_life, &disk);
        replica.init(ticket(), &node(place), &[0, 1, 2].map(node)).unwrap();
        let mut real = Self { place, disk, replica, now_ms: 0, arriving: None, said: Vec::new() };
        history.iter().for_each(|step| real.step(step));
        real.said.clear();
        real
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Add(number) => self.asks(Request::Add(element(*number))),
            Step::Remove(number) => self.asks(Request::Remove(element(*number))),
            Step::Receive(op) => {
                let body = PeerBody::Ops { vv: VersionVector::new(), ops: vec![op.clone()], purpose: Purpose::Push };
                self.hears((self.place + 1) % 3, body);
            }
            Step::Compact => self.compacts(),
            Step::Pull(delta, _) => {
                self.hears(delta.from, PeerBody::Offer { key: delta.key, vv: delta.vv.clone() });
                self.arriving = Some((Arc::clone(delta), 0));
                self.takes_part();
            }
            Step::Part => self.takes_part(),
            Step::Restart(life) => {
                self.disk = self.disk.after_kill();
                self.replica = open(self.place, *life, &self.disk);
                self.arriving = None;
            }
        }
    }

    fn takes_part(&mut self) {
        let Some((delta, n)) = self.arriving.take() else { return };
        let (offset, next, content) = delta.parts[n].clone();
        self.hears(delta.from, PeerBody::Part { key: delta.key, offset, next, content });
        self.arriving = Some((delta, n + 1));
    }

    fn asks(&mut self, request: Request) {
        self.now_ms += STEP_MS;
        self.replica.client(ticket(), request, self.now_ms).unwrap();
        self.settles();
    }

    /// Hears a peer.
    pub fn hears(&mut self, from: Place, body: PeerBody) {
        self.now_ms += STEP_MS;
        let message = PeerMessage { from: replica_id(from, 0), body };
        self.replica.peer(&node(from), message, self.now_ms).unwrap();
        self.settles();
    }

    fn settles(&mut self) {
        for outgoing in self.replica.commit(self.now_ms).unwrap() {
            if let Outgoing::Peer { message, .. } = outgoing {
                self.said.push(message.body);
            }
        }
    }

    fn compacts(&mut self) {
        self.replica.store_mut().want_snapshot();
        self.compacts_if_due();
    }

    /// The background step of the event loop.
    fn compacts_if_due(&mut self) {
        if let Some(plan) = self.replica.store_mut().plan_compaction().unwrap() {
            let snapshot = plan.run().unwrap();
            self.replica.store_mut().install(snapshot).unwrap();
        }
    }

    /// What it holds, below what it has no log, and what is live.
    pub fn view(&self) -> (VersionVector, VersionVector, BTreeMap<Tag, Element>) {
        let store = self.replica.store();
        let live = store.records(&[]).map(Result::unwrap).map(|record| (record.tag(), record.element())).collect();
        (store.vv().clone(), store.state().floor.clone(), live)
    }

    /// Its answer to a peer that holds `digest`, if it has one.
    fn answers(&mut self, to: Place, digest: &VersionVector) -> Option<Answer> {
        self.said.clear();
        self.hears(to, PeerBody::Digest { vv: digest.clone(), full: true, answer: true });
        let mut ops = Vec::new();
        let mut answered = false;
        for body in std::mem::take(&mut self.said) {
            match body {
                PeerBody::Ops { ops: some, purpose: Purpose::Part, .. } => ops.extend(some),
                PeerBody::Ops { ops: some, purpose: Purpose::Last, .. } => {
                    ops.extend(some);
                    answered = true;
                }
                PeerBody::Offer { key, vv } => {
                    let parts = self.parts(to, key, digest)?;
                    let digest = digest.clone();
                    return Some(Answer::State(Arc::new(StateDelta { from: self.place, key, vv, digest, parts })));
                }
                _ => {}
            }
        }
        answered.then_some(Answer::Ops(ops))
    }

    /// Its answer to a peer that holds `digest`. If it has to make a snapshot first, it does.
    pub fn answer(&mut self, to: Place, digest: &VersionVector) -> Answer {
        self.answers(to, digest).unwrap_or_else(|| {
            self.compacts_if_due();
            self.answers(to, digest).expect("a full digest is always answered with operations or a state delta")
        })
    }

    /// Its offer of its newest snapshot, if it has one.
    pub fn offer(&mut self, to: Place) -> Option<(StateKey, VersionVector)> {
        self.said.clear();
        self.hears(to, PeerBody::Digest { vv: VersionVector::new(), full: true, answer: true });
        let offer = |body| if let PeerBody::Offer { key, vv } = body { Some((key, vv)) } else { None };
        std::mem::take(&mut self.said).into_iter().find_map(offer)
    }

    /// What it pulls when it is offered this; nothing if it holds all of it.
    pub fn pull(&mut self, from: Place, key: StateKey, vv: &VersionVector) -> Option<(StateKey, VersionVector)> {
        self.said.clear();
        self.hears(from, PeerBody::Offer { key, vv: vv.clone() });
        let pull = |body| match body {
            PeerBody::Pull { key, digest: Some(digest), .. } => Some((key, digest)),
            _ => None,
        };
        std::mem::take(&mut self.said).into_iter().find_map(pull)
    }

    /// The parts of a state delta that `to` pulls; records one a part.
    pub fn parts(
        &mut self,
        to: Place,
        key: StateKey,
        digest: &VersionVector,
    ) -> Option<Vec<(StateOffset, Option<StateOffset>, StateContent)>> {
        self.said.clear();
        let offset = StateOffset { stage: 0, block: 0, item: 0 };
        self.hears(to, PeerBody::Pull { key, digest: Some(digest.clone()), have: Vec::new(), offset });
        let mut parts = Vec::new();
        for body in std::mem::take(&mut self.said) {
            match body {
                PeerBody::Part { offset, next, content, .. } => parts.extend(cut(offset, next, content)),
                PeerBody::Gone { .. } => return None,
                _ => {}
            }
        }
        Some(parts)
    }
}

/// Parts hold 60 KiB of records; to have more than one of them here, each record gets a part of its own. (A sender may cut
/// anywhere, so that is what a receiver may see.)
fn cut(
    offset: StateOffset,
    next: Option<StateOffset>,
    content: StateContent,
) -> Vec<(StateOffset, Option<StateOffset>, StateContent)> {
    let count = content.records.len();
    if count < 2 {
        return vec![(offset, next, content)];
    }
    let at = |n: usize| StateOffset { item: offset.item + u32::try_from(n).unwrap(), ..offset };
    let one = |(n, record)| {
        let next = if n + 1 < count { Some(at(n + 1)) } else { next };
        (at(n), next, StateContent { records: vec![record], ..StateContent::default() })
    };
    content.records.into_iter().enumerate().map(one).collect()
}
