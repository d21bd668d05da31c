//! A store by itself, on a simulated disk: what no crash is needed for.

use std::path::Path;
use std::sync::Arc;

use orset::crdt::{
    Base, Dot, Element, Entry, Incarnation, JoinCommit, JoinId, JoinPart, NodeId, Op, OpBody, ReplicaId, Seq, Verdict,
    VersionVector,
};
use orset::storage::disk::MemDisk;
use orset::storage::{IndexPosition, IndexSource, MemorySource, Store, StoreLimits, StoreOptions};

fn nodes(names: &[&str]) -> Vec<NodeId> {
    names.iter().map(|name| NodeId::new(name).unwrap()).collect()
}

fn open(limits: StoreLimits) -> Store {
    open_on(&MemDisk::default(), limits)
}

fn open_on(disk: &MemDisk, limits: StoreLimits) -> Store {
    let mut counter = 0;
    let options = StoreOptions {
        disk: Arc::new(disk.clone()),
        dir: Path::new("/n1").to_path_buf(),
        node: NodeId::new("n1").unwrap(),
        entropy: Box::new(move || {
            counter += 1;
            counter
        }),
        limits,
    };
    Store::open(options, &mut MemorySource).unwrap().0
}

fn add(store: &mut Store, n: u64) {
    store.append_local(OpBody::Add(Element::from_canonical(n.to_string().as_bytes())));
    store.commit().unwrap();
}

/// Found by reading: operations made while the node had no peers were left out of the list of recent ones, and later
/// ones were put behind the gap.
#[test]
fn a_delta_has_no_gap_where_the_cluster_was_smaller_for_a_while() {
    let mut store = open(StoreLimits { recent_bytes: 60, ..StoreLimits::default() });
    for (names, n) in [(&["n1", "n2"][..], 1), (&["n1"], 2), (&["n1", "n2"], 3)] {
        store.set_nodes(&nodes(names)).unwrap();
        add(&mut store, n);
    }
    let delta = store.delta(&VersionVector::new(), 1 << 20).unwrap();
    assert_eq!(delta.ops.iter().map(|op| op.dot.seq.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(delta.complete);
    // Beyond the bound the oldest go, one after the other.
    (10..50).for_each(|n| add(&mut store, n));
    assert_eq!(store.delta(&VersionVector::new(), 1 << 20).unwrap().ops.len(), 44);
}

#[test]
fn a_delta_is_cut_at_the_bound_and_says_so() {
    let mut store = open(StoreLimits::default());
    store.set_nodes(&nodes(&["n1", "n2"])).unwrap();
    (0..100).for_each(|n| add(&mut store, n));
    let mut held = VersionVector::new();
    let mut rounds = 0;
    loop {
        let delta = store.delta(&held, 200).unwrap();
        delta.ops.iter().for_each(|op| held.advance(op.dot));
        rounds += 1;
        if delta.complete {
            break;
        }
    }
    assert_eq!(held, *store.vv());
    assert!(rounds > 3, "{rounds} rounds");
}

#[test]
fn own_operations_are_given_only_if_all_are_at_hand() {
    let seqs = |store: &Store, after: u64| -> Option<Vec<u64>> {
        let ops = store.own_ops_after(Seq(after))?;
        assert!(ops.iter().all(|op| op.dot.replica == store.incarnation()), "{ops:?}");
        Some(ops.iter().map(|op| op.dot.seq.0).collect())
    };
    let mut store = open(StoreLimits { recent_bytes: 150, ..StoreLimits::default() });
    store.set_nodes(&nodes(&["n1", "n2"])).unwrap();
    assert_eq!(seqs(&store, 0), Some(vec![]), "none was made");
    add(&mut store, 1);
    // Another's lie between them.
    let there = ReplicaId::from_random(99);
    let start = OpBody::Start { node: NodeId::new("n2").unwrap(), parent: None };
    assert_eq!(store.append_remote(Op { dot: Dot::new(there, Seq(1)), body: start }), Verdict::Next);
    store.commit().unwrap();
    add(&mut store, 2);
    for (after, expected) in [(0, vec![1, 2, 3]), (1, vec![2, 3]), (2, vec![3]), (3, vec![])] {
        assert_eq!(seqs(&store, after), Some(expected), "after {after}");
    }
    // The oldest go.
    (10..40).for_each(|n| add(&mut store, n));
    let last = store.vv().get(store.incarnation()).0;
    assert_eq!(seqs(&store, last - 2), Some(vec![last - 1, last]));
    assert_eq!(seqs(&store, last), Some(vec![]));
    assert_eq!(seqs(&store, 2), None, "some of them are not at hand");
    // Without peers nothing is kept.
    store.set_nodes(&nodes(&["n1"])).unwrap();
    add(&mut store, 40);
    assert_eq!(seqs(&store, last), None, "it is not at hand");
}

#[test]
fn an_element_is_contained_if_it_has_a_tag_and_not_if_only_a_later_one_has() {
    let mut store = open(StoreLimits::default());
    let element = |text: &str| Element::from_canonical(text.as_bytes());
    assert!(!store.contains(&element("1")).unwrap());
    add(&mut store, 12);
    assert!(store.contains(&element("12")).unwrap());
    for other in ["1", "11", "123", "2"] {
        assert!(!store.contains(&element(other)).unwrap(), "{other}");
    }
    let tags = store.tags(&element("12")).unwrap();
    store.append_local(OpBody::Remove { element: element("12"), tags });
    store.commit().unwrap();
    assert!(!store.contains(&element("12")).unwrap(), "it was removed");
}

#[test]
fn what_is_on_the_disk_is_the_files_lengths() {
    let disk = MemDisk::default();
    let mut store = open_on(&disk, StoreLimits { segment_bytes: 400, ..StoreLimits::default() });
    let lengths = |part: &str| -> u64 {
        let files = disk.files().into_iter().filter(|(path, _)| path.parent().is_some_and(|dir| dir.ends_with(part)));
        files.map(|(_, content)| content.len() as u64).sum()
    };
    assert_eq!(store.bytes(), (0, 0));
    add(&mut store, 1);
    assert!(store.bytes().0 > 0);
    assert_eq!(store.bytes(), (lengths("log"), 0));
    (2..100).for_each(|n| add(&mut store, n));
    store.want_snapshot();
    add(&mut store, 100);
    for batch in store.take_feed() {
        store.index().unwrap().apply(&batch.changes, batch.position).unwrap();
        store.index_noted(batch.position.lsn);
    }
    let snapshot = store.plan_compaction().unwrap().expect("one is wanted").run().unwrap();
    store.install(snapshot).unwrap();
    assert!(store.bytes().1 > 0);
    assert_eq!(store.bytes(), (lengths("log"), lengths("snapshots")));
}

/// Found by reading: a snapshot that was wanted and had to wait for the index closed a segment at every commit.
#[test]
fn a_snapshot_that_has_to_wait_for_the_index_does_not_chop_up_the_log() {
    let mut store = open(StoreLimits::default());
    add(&mut store, 0);
    store.want_snapshot();
    for n in 1..50 {
        add(&mut store, n);
        assert!(store.plan_compaction().unwrap().is_none(), "the index has nothing yet");
    }
    assert_eq!(store.manifest().segments.len(), 2);
    for batch in store.take_feed() {
        store.index().unwrap().apply(&batch.changes, batch.position).unwrap();
        store.index_noted(batch.position.lsn);
    }
    let snapshot = store.plan_compaction().unwrap().expect("now it may be made").run().unwrap();
    assert_eq!(snapshot.counts().tags, 2, "of what there was when the segment was closed");
}

/// Found by the simulation: where a state delta lay across the ends of all closed segments, a snapshot that a peer waited
/// for was not made before something new was written.
#[test]
fn a_snapshot_is_made_although_a_state_delta_lies_across_the_ends_of_the_segments() {
    let mut store = open(StoreLimits { segment_bytes: 400, ..StoreLimits::default() });
    let (there, join) = (ReplicaId::from_random(99), JoinId(5));
    for n in 2..5 {
        let record = (Element::from_canonical(&[b'1'; 400]), Dot::new(there, Seq(n)));
        store.append_join(Entry::JoinPart(JoinPart { join, records: vec![record], live: Vec::new() })).unwrap();
        store.commit().unwrap();
        store.want_snapshot();
    }
    let incarnation = Incarnation { node: NodeId::new("n2").unwrap(), parent: None };
    let (vv, incarnations) = ([(there, Seq(4))].into_iter().collect(), [(there, incarnation)].into_iter().collect());
    store.append_join(Entry::JoinCommit(JoinCommit { join, vv, incarnations })).unwrap();
    store.commit().unwrap();
    assert_eq!(store.manifest().segments.len(), 4, "three closed in the middle of it, and one that is written to");
    for batch in store.take_feed() {
        store.index().unwrap().apply(&batch.changes, batch.position).unwrap();
        store.index_noted(batch.position.lsn);
    }
    let snapshot = store.plan_compaction().unwrap().expect("it is wanted, and may be made").run().unwrap();
    assert_eq!(snapshot.counts().tags, 3);
}

/// A join with so many changes would be one huge step for the index: it is rebuilt from a snapshot instead, and what
/// comes meanwhile is neither lost nor applied twice.
#[test]
fn after_a_very_large_join_the_index_is_rebuilt_from_a_snapshot() {
    const RECORDS: u64 = 20_000;
    let mut store = open(StoreLimits::default());
    add(&mut store, 1);
    let (there, join) = (ReplicaId::from_random(99), JoinId(5));
    let record = |n: u64| (Element::from_canonical(format!("\"{n}\"").as_bytes()), Dot::new(there, Seq(n + 2)));
    let part = JoinPart { join, records: (0..RECORDS).map(record).collect(), live: Vec::new() };
    store.append_join(Entry::JoinPart(part)).unwrap();
    store.commit().unwrap();
    assert!(store.plan_compaction().unwrap().is_none(), "no snapshot in the middle of a state delta");
    let vv = [(there, Seq(RECORDS + 1))].into_iter().collect();
    let incarnation = Incarnation { node: NodeId::new("n2").unwrap(), parent: None };
    let incarnations = [(there, incarnation)].into_iter().collect();
    store.append_join(Entry::JoinCommit(JoinCommit { join, vv, incarnations })).unwrap();
    store.commit().unwrap();
    assert!(store.take_feed().is_empty(), "the index is not fed any more");
    add(&mut store, 2);
    let snapshot = store.plan_compaction().unwrap().expect("one is wanted").run().unwrap();
    add(&mut store, 3);
    store.install(snapshot).unwrap();
    let snapshot = store.take_rebuild().expect("a rebuild is due");
    let header = snapshot.header();
    let position = IndexPosition { lsn: header.lsn, checksum: header.frame_checksum };
    let index = MemorySource.rebuild(snapshot.records(&[]), position).unwrap();
    store.swap_index(index);
    for batch in store.take_feed() {
        assert!(batch.position.lsn > position.lsn, "the new index has that already");
        store.index().unwrap().apply(&batch.changes, batch.position).unwrap();
    }
    store.maintain();
    assert_eq!(store.records(&[]).count() as u64, RECORDS + 3);
    assert_eq!(store.index().unwrap().counts().tags, RECORDS + 3);
    assert_eq!(store.index_lag(), 0);
}
