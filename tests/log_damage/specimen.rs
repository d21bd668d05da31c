//! A store with a past, everything that ever happened to it, and what must hold of it after damage.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orset::crdt::{
    Dot, DotSet, Element, Entry, Incarnation, Incarnations, JoinCommit, JoinId, JoinPart, NodeId, Op, OpBody,
    ReplicaId, Seq, Tag, Verdict, VersionVector,
};
use orset::repair::salvage::{Plan, Unapplied, salvage};
use orset::repair::verify::{FindingKind, check_files};
use orset::storage::disk::{Disk, MemDisk};
use orset::storage::manifest::Manifest;
use orset::storage::{IndexSource, MemorySource, NoIndex, Recovery, Store, StoreError, StoreLimits, StoreOptions};

pub const DIR: &str = "/n1";
/// A node whose operations come one by one.
const PEER: ReplicaId = ReplicaId::from_random(0x2222);
/// A node of which a state delta tells.
const FAR: ReplicaId = ReplicaId::from_random(0x3333);

/// Little room is left on the disk: the reserve is some hundred kilobytes then, which is quickly copied and compared.
const ROOM_BYTES: u64 = 200 << 10;

pub fn open(disk: &MemDisk, source: &mut dyn IndexSource) -> Result<(Store, Recovery), StoreError> {
    disk.set_capacity(Some(disk.used_bytes() + ROOM_BYTES));
    // Another start on another content draws other numbers.
    let content = disk.files().values().fold(0, |sum, bytes| crc32c::crc32c_append(sum, bytes));
    let mut rng = fastrand::Rng::with_seed(u64::from(content));
    let options = StoreOptions {
        disk: Arc::new(disk.clone()),
        dir: Path::new(DIR).to_path_buf(),
        node: NodeId::new("n1").unwrap(),
        entropy: Box::new(move || rng.u128(..)),
        limits: StoreLimits {
            segment_bytes: 700,
            min_retention_bytes: 3000,
            max_retention_bytes: 4000,
            memtable_bytes: 1 << 20,
            recent_bytes: 1 << 10,
            max_join_changes: 4,
            mirror_bytes: 0,
            index_slack_bytes: 4 << 20,
            max_records_at_start: 32_768,
        },
    };
    Store::open(options, source)
}

pub type Live = BTreeMap<Tag, String>;

pub fn live(store: &Store) -> Live {
    store.records(&[]).map(Result::unwrap).map(|r| (r.tag(), r.element().as_str().to_owned())).collect()
}

/// Every operation that there ever was, in an order in which they can be applied.
#[derive(Default)]
struct Past(Vec<Op>);

impl Past {
    /// What a set is that holds exactly what `vv` covers: by definition, not by any code of the store's.
    fn as_of(&self, vv: &VersionVector) -> Live {
        let held = || self.0.iter().filter(|op| vv.covers(op.dot));
        let removed: BTreeSet<Tag> = held()
            .filter_map(|op| if let OpBody::Remove { tags, .. } = &op.body { Some(tags) } else { None })
            .flatten()
            .copied()
            .collect();
        let added = held().filter_map(|op| match &op.body {
            OpBody::Add(element) => Some((op.dot, element.as_str().to_owned())),
            _ => None,
        });
        added.filter(|(tag, _)| !removed.contains(tag)).collect()
    }
}

/// A store with a past.
pub struct Specimen {
    pub disk: MemDisk,
    /// The files as they were at some earlier moments.
    pub earlier: Vec<BTreeMap<PathBuf, Vec<u8>>>,
    pub clean: bool,
    pub last_segment: PathBuf,
    live: Live,
    vv: VersionVector,
    history: Vec<Live>,
    past: Past,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Refused { named: bool },
    Same { torn: u64 },
    Older { torn: u64 },
}

/// How often what came of it, and what could be salvaged.
#[derive(Default, Debug)]
pub struct Tally {
    pub refused: u32,
    pub same: u32,
    pub older: u32,
    /// Of the refused ones: from how many all, a part, or nothing could be proved.
    pub salvaged: [u32; 3],
}

impl Specimen {
    /// Three process starts with changes by three nodes; the last stop is clean or not.
    pub fn new(clean: bool) -> Self {
        let mut disk = MemDisk::default();
        let (mut earlier, mut history, mut past) = (Vec::new(), Vec::new(), Past::default());
        let mut vv = VersionVector::new();
        for start in 0..3 {
            let (mut store, _) = open(&disk, &mut NoIndex).unwrap();
            for n in 0..40_u32 {
                change(&mut store, &mut past, start * 40 + n);
                history.push(live(&store));
                if n % 10 == 5 {
                    earlier.push(disk.files());
                }
            }
            if start == 1 {
                join(&mut store, &mut past);
                history.push(live(&store));
            }
            vv = store.vv().clone();
            if start == 2 && clean || start == 0 {
                store.close(None).unwrap();
            } else {
                drop(store);
                disk = disk.after_kill();
            }
        }
        let manifest = Manifest::read(&disk, Path::new(DIR)).unwrap().unwrap();
        assert!(manifest.segments.len() >= 4 && manifest.snapshot.is_some(), "{manifest:?}");
        let last = manifest.segments.last().unwrap();
        let last_segment = Path::new(DIR).join(format!("log/{last:010}.log"));
        // Room that is set aside means nothing, and takes long to compare; as does what files that are gone had in them.
        let _ = disk.remove(&Path::new(DIR).join("reserve"));
        let disk = anew(&disk);
        let live = history.last().unwrap().clone();
        assert_eq!(past.as_of(&vv), live, "the definition and the store agree on what is undamaged");
        Self { disk, earlier, clean, last_segment, live, vv, history, past }
    }

    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.disk.files()
    }

    /// Opens the store after `damage`, and judges what comes of it: what a start says, that `verify` says the same, and
    /// what can be salvaged.
    pub fn with(&self, tally: &mut Tally, path: &Path, what: &str, damage: impl FnOnce(&MemDisk)) -> Outcome {
        let disk = self.disk.after_kill();
        damage(&disk);
        let before = disk.files();
        let context = format!("{} store, {}: {what}", if self.clean { "clean" } else { "unclean" }, path.display());
        let report = check_files(&disk, Path::new(DIR), false).unwrap_or_else(|e| panic!("{context}: verify: {e}"));
        let found = |kind| report.findings.iter().any(|finding| finding.kind == kind);
        match open(&disk, &mut MemorySource) {
            Err(error) => {
                let named = matches!(&error, StoreError::Damaged { path: named, .. } if named == path);
                assert!(matches!(error, StoreError::Damaged { .. }), "{context}: {error}");
                assert!(disk.files() == before, "{context}: it was refused, and yet something changed");
                assert!(found(FindingKind::Damage) && !report.starts(), "{context}: verify has not found it");
                self.salvage(tally, &disk, &context);
                assert!(disk.files() == before, "{context}: it was salvaged, and yet something changed");
                tally.refused += 1;
                Outcome::Refused { named }
            }
            Ok((store, recovery)) => {
                let torn = recovery.torn_tail_bytes;
                assert!(report.starts() && !found(FindingKind::Damage), "{context}: {:?}", report.findings);
                assert_eq!(found(FindingKind::TornTail), torn > 0, "{context}: {:?}", report.findings);
                let found = live(&store);
                let outcome = if found == self.live {
                    tally.same += 1;
                    Outcome::Same { torn }
                } else {
                    tally.older += 1;
                    assert!(self.history.contains(&found), "{context}: elements that there never were together");
                    Outcome::Older { torn }
                };
                drop(store);
                for again in [disk.after_power_cut(0), disk.after_kill()] {
                    let (store, _) = open(&again, &mut NoIndex).unwrap_or_else(|e| panic!("{context}, again: {e}"));
                    assert_eq!(live(&store), found, "{context}: another set at the next start");
                }
                outcome
            }
        }
    }

    /// Salvages the store: the new one starts, holds exactly what its vector covers, and gets the rest from its peers.
    fn salvage(&self, tally: &mut Tally, broken: &MemDisk, context: &str) {
        let (new, mut random) = (MemDisk::default(), fastrand::Rng::with_seed(1));
        let dir = Path::new(DIR);
        let entropy = &mut || random.u128(..);
        let plan = Plan { from: broken, broken: dir, to: &new, new: dir, node: None, entropy };
        // A part of a state delta whose end is lost may be left although all that it says is held; and of a record of a
        // snapshot without a footer nobody can tell.
        let (mut handed_out, mut news) = (0, 0);
        let salvaged = salvage(plan, &mut |what, _| {
            let perhaps_held =
                matches!(what, Unapplied::Entry { entry: Entry::JoinPart(_), .. } | Unapplied::Orphan { .. });
            (handed_out, news) = (handed_out + 1, news + u32::from(!perhaps_held));
            Ok(())
        });
        let salvaged = salvaged.unwrap_or_else(|e| panic!("{context}: salvage: {e}"));
        assert_eq!(salvaged.unapplied, handed_out, "{context}");
        // The directory's own name is the business of whoever has made it.
        new.sync_dir(Path::new("/")).unwrap();
        let report = check_files(&new, dir, false).unwrap();
        assert!(report.is_sound(), "{context}: {:?}", report.findings);
        // Everything in it was synced.
        let (mut store, recovery) = open(&new.after_power_cut(0), &mut NoIndex).unwrap();
        assert_eq!(recovery.torn_tail_bytes, 0);
        let vv = store.vv().clone();
        assert!(vv.is_within(&self.vv), "{context}: it claims what there never was");
        assert_eq!(live(&store), self.past.as_of(&vv), "{context}: not what its vector says");
        tally.salvaged[if vv == self.vv { 0 } else { usize::from(vv.is_empty()) + 1 }] += 1;
        if vv == self.vv {
            assert_eq!(news, 0, "{context}: everything is proved");
        }

        let own = store.append_local(OpBody::Add(Element::from_canonical(b"\"after\"")));
        assert!(!self.past.0.iter().any(|op| op.dot.replica == own.replica), "{context}: a replica id of its own");
        for op in &self.past.0 {
            let verdict = store.append_remote(op.clone());
            assert_eq!(verdict, if vv.covers(op.dot) { Verdict::Known } else { Verdict::Next }, "{context}: {op:?}");
        }
        store.commit().unwrap();
        let mut expected = self.live.clone();
        expected.insert(own, "\"after\"".to_owned());
        assert_eq!(live(&store), expected, "{context}: after its peers have told the rest");
    }
}

/// A disk with the same files and nothing else.
fn anew(disk: &MemDisk) -> MemDisk {
    let new = MemDisk::default();
    for (path, bytes) in disk.files() {
        new.create(&path).unwrap();
        new.tamper(&path, |content| *content = bytes);
        new.sync_dir(path.parent().unwrap()).unwrap();
    }
    new.after_kill()
}

/// One change to the set, durable, and the background work that follows.
fn change(store: &mut Store, past: &mut Past, n: u32) {
    let element = Element::from_canonical(format!("\"element {}\"", n * 7 % 12).as_bytes());
    let tags = store.tags(&element).unwrap();
    let body = if n % 3 == 2 && !tags.is_empty() { OpBody::Remove { element, tags } } else { OpBody::Add(element) };
    if n % 4 == 1 {
        remote(store, past, body);
    } else {
        let first = store.vv().get(store.incarnation()) == Seq(0);
        let parent = store.manifest().own.or_else(|| past.own()).map(|own| Dot::new(own, store.vv().get(own)));
        let dot = store.append_local(body.clone());
        if first {
            let start = OpBody::Start { node: NodeId::new("n1").unwrap(), parent };
            past.0.push(Op { dot: Dot::new(dot.replica, Seq(1)), body: start });
        }
        past.0.push(Op { dot, body });
    }
    store.commit().unwrap();
    if let Some(plan) = store.plan_compaction().unwrap() {
        let snapshot = plan.run().unwrap();
        store.install(snapshot).unwrap();
    }
}

impl Past {
    /// The last replica id of the store's own.
    fn own(&self) -> Option<ReplicaId> {
        self.0.iter().rev().map(|op| op.dot.replica).find(|replica| ![PEER, FAR].contains(replica))
    }
}

/// The peer's next operation arrives, after its `Start` if that is the first.
fn remote(store: &mut Store, past: &mut Past, body: OpBody) {
    let start = OpBody::Start { node: NodeId::new("n2").unwrap(), parent: None };
    let news = if store.vv().get(PEER) == Seq(0) { vec![start, body] } else { vec![body] };
    for body in news {
        let op = Op { dot: Dot::new(PEER, store.vv().get(PEER).next()), body };
        assert_eq!(store.append_remote(op.clone()), Verdict::Next);
        past.0.push(op);
    }
}

/// A state delta in two frames, from a node that had added an element and removed one of ours.
fn join(store: &mut Store, past: &mut Past) {
    let records: Vec<_> = store.records(&[]).map(Result::unwrap).collect();
    let (removed, kept) = records.split_first().expect("the set is not empty");
    let mut live = DotSet::default();
    kept.iter().for_each(|record| live.insert(record.tag()));
    let added = Element::from_canonical(b"\"from afar\"");
    let part = |records, live| Entry::JoinPart(JoinPart { join: JoinId(7), records, live });
    store.append_join(part(vec![(added.clone(), Dot::new(FAR, Seq(2)))], Vec::new())).unwrap();
    store.commit().unwrap();
    store.append_join(part(Vec::new(), live.pieces(4096))).unwrap();
    store.commit().unwrap();
    let node = NodeId::new("n3").unwrap();
    let mut vv = store.vv().clone();
    vv.raise(FAR, Seq(3));
    let incarnation = Incarnation { node: node.clone(), parent: None };
    let incarnations = Incarnations::from_iter([(FAR, incarnation)]);
    store.append_join(Entry::JoinCommit(JoinCommit { join: JoinId(7), vv, incarnations })).unwrap();
    store.commit().unwrap();
    let remove = OpBody::Remove { element: removed.element(), tags: vec![removed.tag()] };
    let bodies = [OpBody::Start { node, parent: None }, OpBody::Add(added), remove];
    past.0.extend((1..).zip(bodies).map(|(seq, body)| Op { dot: Dot::new(FAR, Seq(seq)), body }));
}

/// Where the last frame of an undamaged segment starts.
pub fn last_frame(bytes: &[u8]) -> usize {
    // "ORFR" occurs in no element of these tests.
    bytes.windows(4).rposition(|window| window == b"ORFR").expect("it has frames")
}
