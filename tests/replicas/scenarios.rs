//! One story a test.

use std::collections::BTreeSet;

use orset::crdt::{Dot, MAX_REMOVE_TAGS, NodeId, Op, OpBody, ReplicaId, Seq, VersionVector};
use orset::dump::View;
use orset::replica::{PeerBody, PeerMessage, Reply, Request};
use orset::storage::StoreLimits;
use orset::storage::disk::Kept;

use orset::sim::cluster::{Cluster, text};
use orset::sim::network::{Fate, kind};
use orset::sim::slot::Crash;

/// Logs are kept whole: what is missed comes as operations.
const LARGE: StoreLimits = StoreLimits {
    segment_bytes: 1 << 20,
    min_retention_bytes: 4 << 20,
    max_retention_bytes: 64 << 20,
    memtable_bytes: 32 << 20,
    recent_bytes: 1 << 20,
    max_join_changes: 16_384,
    index_slack_bytes: 4 << 20,
};

fn up_with(limits: StoreLimits, count: usize, seed: u64) -> Cluster {
    let mut cluster = Cluster::down(count, seed);
    cluster.slots.iter_mut().for_each(|slot| slot.limits = limits);
    (0..count).for_each(|slot| cluster.start(slot));
    cluster
}

/// A few adds and removes on every node that is up.
fn work(cluster: &mut Cluster, rounds: usize) {
    for n in 0..rounds {
        for slot in 0..cluster.slots.len() {
            cluster.add(slot, &format!("e{}", n % 7));
            if n % 3 == 2 {
                cluster.remove(slot, &format!("e{}", n * 5 % 7));
            }
        }
        cluster.run(20);
    }
}

/// Lets a restarted node hear from the others before it is asked anything.
fn restart(cluster: &mut Cluster, slot: usize) {
    cluster.start(slot);
    cluster.run(1_000);
}

#[test]
fn a_wiped_store_catches_up_by_operations_or_by_a_state_delta() {
    for (limits, by) in [(LARGE, "ops"), (orset::sim::slot::SMALL, "part")] {
        let mut cluster = up_with(limits, 3, 11);
        work(&mut cluster, 30);
        cluster.converge();
        let held = cluster.view(1);
        cluster.crash(0, Crash::Kill);
        cluster.set_back(0, None);
        let before = cluster.network.sent("part");
        cluster.start(0);
        cluster.converge();
        assert_eq!(cluster.view(0), held);
        assert_eq!(cluster.network.sent("part") > before, by == "part", "{by}");
        cluster.add(0, "new");
        cluster.converge();
    }
}

#[test]
fn a_store_that_was_set_back_uses_no_dot_twice_and_its_lost_operations_come_back() {
    let mut cluster = up_with(LARGE, 3, 12);
    work(&mut cluster, 3);
    cluster.converge();
    cluster.stop(0);
    let old = cluster.image(0);
    restart(&mut cluster, 0);
    let (kept, removed) = (cluster.add(0, "kept"), cluster.remove(0, "e1"));
    assert!(!removed.is_empty());
    cluster.converge();
    cluster.crash(0, Crash::PowerCut(Kept::Subset(1)));
    cluster.set_back(0, Some(&old));
    restart(&mut cluster, 0);
    let new = cluster.add(0, "new");
    assert_ne!(new.replica, kept.replica, "an incarnation of its own");
    cluster.converge();
    assert_eq!(cluster.oracle.lost, 0);
    assert!(cluster.view(0).live.contains_key(&kept) && cluster.view(0).has_dropped(removed[0]));
}

/// A store, for whoever looks at it with `orset dump`.
fn dumped(cluster: &Cluster, slot: usize) -> View {
    let dir = tempfile::tempdir().unwrap();
    for (path, bytes) in cluster.slots[slot].disk.files() {
        let path = dir.path().join(path.strip_prefix("/").unwrap());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    View::open(&dir.path().join("store")).unwrap()
}

#[test]
fn a_store_and_its_copy_run_twice_at_once_and_agree_and_a_dump_shows_two_starts_of_one_parent() {
    let mut cluster = Cluster::up(3, 13);
    work(&mut cluster, 10);
    cluster.converge();
    let before = cluster.slots[0].store().incarnation();
    cluster.stop(0);
    let image = cluster.image(0);
    cluster.start(0);
    let copy = cluster.copy(0, &image);
    cluster.run(1_000);
    let mut replicas = BTreeSet::new();
    for n in 0..20 {
        let (a, b) = (cluster.add(0, "shared"), cluster.add(copy, "shared"));
        assert_ne!(a.replica, b.replica, "the two are two incarnations");
        replicas.extend([a.replica, b.replica]);
        if n % 4 == 0 {
            cluster.remove(copy, "shared");
        }
        cluster.run(50);
    }
    cluster.converge();
    assert_eq!(cluster.view(0), cluster.view(copy));
    for slot in [0, 1, copy] {
        let view = dumped(&cluster, slot);
        let incarnations = &view.replay.state.incarnations;
        let of_one_parent = incarnations.iter().filter(|(_, i)| i.parent.is_some_and(|p| p.replica == before));
        let starts: Vec<_> = of_one_parent.collect();
        assert_eq!(starts.iter().map(|(replica, _)| *replica).collect::<BTreeSet<_>>(), replicas);
        assert_eq!((starts.len(), &starts[0].1.parent), (2, &starts[1].1.parent), "the very same operation");
    }
}

/// What a kill leaves in the page cache is shown to others only when it would survive a power cut too.
#[test]
fn killed_between_a_write_and_its_sync_a_node_that_then_gossips_loses_nothing_to_a_power_cut() {
    for indexed in [false, true] {
        let mut cluster = up_with(LARGE, 3, 21);
        cluster.slots[0].indexed = indexed;
        work(&mut cluster, 2);
        cluster.converge();
        // The write is the next change of the disk, its sync the one after.
        cluster.doom(0, 1, Crash::Kill);
        let asked = cluster.ask(0, Request::Add(text("unanswered")));
        assert!(!cluster.slots[0].is_up() && cluster.reply(asked).is_none());
        restart(&mut cluster, 0);
        cluster.converge();
        assert!(cluster.view(1).elements().contains("\"unanswered\""), "it was there, and so the others were told");
        cluster.crash(0, Crash::PowerCut(Kept::Nothing));
        cluster.start(0);
        assert!(cluster.view(0).elements().contains("\"unanswered\""), "and so it may not be gone again");
        cluster.converge();
    }
}

#[test]
fn after_a_hundred_restarts_a_digest_has_one_entry_a_node() {
    let mut cluster = up_with(LARGE, 3, 14);
    work(&mut cluster, 2);
    for n in 0..100 {
        cluster.crash(0, if n % 2 == 0 { Crash::Kill } else { Crash::PowerCut(Kept::Subset(n)) });
        restart(&mut cluster, 0);
        cluster.add(0, "again");
    }
    cluster.converge();
    assert!(cluster.view(1).vv.len() > 100, "every start has written");
    for slot in 0..3 {
        assert_eq!(cluster.slots[slot].store().compact_vv().len(), 3);
    }
}

#[test]
fn a_remove_of_more_tags_than_fit_an_operation_is_one_reply_and_converges() {
    let mut cluster = up_with(LARGE, 2, 15);
    for _ in 0..2 * MAX_REMOVE_TAGS + 5 {
        cluster.add(0, "many");
    }
    cluster.converge();
    let concurrent = cluster.add(0, "many");
    let removed = cluster.remove(1, "many");
    assert_eq!(removed.len(), 2 * MAX_REMOVE_TAGS + 5, "one reply for all that node 2 saw");
    cluster.converge();
    assert_eq!(cluster.view(1).live.keys().collect::<Vec<_>>(), [&concurrent], "the concurrent add wins");
}

#[test]
fn operations_that_come_early_are_parked_and_then_applied() {
    let mut cluster = up_with(LARGE, 2, 16);
    cluster.run(3_000);
    cluster.converge();
    let mut pushes = 0;
    // The first push comes after all others; nobody pulls.
    cluster.network.chooser = Some(Box::new(move |from, _, message| match kind(&message.body) {
        "ops" if from.as_str() == "n1" => {
            pushes += 1;
            if pushes == 1 { Fate::Late(150) } else { Fate::Deliver }
        }
        "ops" => Fate::Deliver,
        _ => Fate::Drop,
    }));
    cluster.add(0, "first");
    cluster.run(60);
    cluster.add(0, "second");
    cluster.run(60);
    assert!(cluster.view(1).live.is_empty(), "the second waits for the first");
    cluster.run(60);
    assert_eq!(cluster.view(1).live.len(), 2, "both, without a pull");
}

#[test]
fn messages_that_claim_too_much_or_come_from_strangers_change_nothing() {
    let mut cluster = Cluster::up(2, 17);
    work(&mut cluster, 3);
    cluster.converge();
    cluster.run(5_000);
    let own = cluster.slots[0].store().incarnation();
    let held = cluster.view(0).vv.get(own);
    let next = Dot::new(own, held.next());
    let claim = VersionVector::from_iter([(own, held.next())]);
    let invented = Op { dot: next, body: OpBody::Add(text("invented")) };
    let honest = Dot::new(ReplicaId::from_random(9), Seq(1));
    let start = Op { dot: honest, body: OpBody::Start { node: cluster.ids[1].clone(), parent: None } };
    let none = VersionVector::new;
    let (peer, stranger) = (cluster.ids[1].clone(), NodeId::new("n9").unwrap());
    let bad = [
        (&peer, PeerBody::Digest { vv: claim.clone(), full: true, answer: true }),
        (&peer, PeerBody::Ops { vv: claim, ops: vec![start.clone()], answer: None }),
        (&peer, PeerBody::Ops { vv: none(), ops: vec![start.clone(), invented], answer: None }),
        (&stranger, PeerBody::Ops { vv: none(), ops: vec![start.clone()], answer: None }),
        (&stranger, PeerBody::Digest { vv: none(), full: true, answer: true }),
    ];
    for (from, body) in bad {
        let (before, sent, lsn) = (cluster.view(0), cluster.network.total_sent(), cluster.slots[0].store().lsn());
        cluster.deliver(from, 0, PeerMessage { from: ReplicaId::from_random(8), body });
        cluster.settle(0);
        assert_eq!((cluster.view(0), cluster.slots[0].store().lsn()), (before, lsn));
        assert_eq!(cluster.network.total_sent(), sent, "and nothing is said");
    }
    cluster.oracle.book.make(start.clone());
    let body = PeerBody::Ops { vv: none(), ops: vec![start], answer: None };
    cluster.deliver(&peer, 0, PeerMessage { from: ReplicaId::from_random(8), body });
    cluster.settle(0);
    assert!(cluster.view(0).vv.covers(honest), "the same from a peer is taken");
}

#[test]
fn after_a_restart_requests_are_held_until_an_answer_has_come() {
    let mut cluster = Cluster::up(2, 18);
    work(&mut cluster, 3);
    cluster.converge();
    cluster.crash(0, Crash::Kill);
    let missed = cluster.add(1, "missed");
    cluster.run(100);
    cluster.start(0);
    let sent = cluster.network.total_sent();
    let read = cluster.ask(0, Request::Read);
    assert!(cluster.network.total_sent() > sent, "the others are asked first");
    assert_eq!(cluster.reply(read), None, "and the request waits");
    cluster.run(30);
    let Some(Reply::Elements(list)) = cluster.reply(read) else { panic!("an answer has come") };
    assert!(list.iter().any(|element| element == text("missed").as_bytes()));
    assert!(cluster.view(0).live.contains_key(&missed));
}

#[test]
fn requests_are_held_no_longer_than_the_bound() {
    let mut cluster = Cluster::up(2, 19);
    work(&mut cluster, 3);
    cluster.crash(0, Crash::Kill);
    cluster.crash(1, Crash::Kill);
    cluster.start(0);
    let read = cluster.ask(0, Request::Read);
    cluster.run(499);
    assert_eq!(cluster.reply(read), None);
    cluster.run(1);
    assert!(cluster.reply(read).is_some(), "after 500 ms without a word from anybody");
}

#[test]
fn nothing_goes_to_a_peer_in_the_quiet_period() {
    for (fresh, quiet_ms) in [(true, 2_000), (false, 250)] {
        let mut cluster = Cluster::down(2, 20);
        cluster.start(0);
        if !fresh {
            cluster.add(0, "a past");
            cluster.crash(0, Crash::Kill);
            cluster.start(0);
        }
        let sent = cluster.network.total_sent();
        cluster.run(quiet_ms - 1);
        assert_eq!(cluster.network.total_sent(), sent, "not a word for {quiet_ms} ms");
        cluster.run(1);
        assert!(cluster.network.total_sent() > sent);
    }
}
