//! State deltas: for whoever lacks what the log no longer has.

use orset::replica::PeerBody;

use orset::sim::cluster::Cluster;
use orset::sim::network::Fate;
use orset::sim::slot::Crash;
use orset::storage::disk::Kept;

const FILLER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Two nodes that agree; then node 2 is away while node 1 goes on until its log no longer has what node 2 lacks. What
/// node 2 added in the meantime, of an element that node 1 has removed, is live.
fn far_behind(seed: u64) -> Cluster {
    let mut cluster = Cluster::up(2, seed);
    for n in 0..20 {
        cluster.add(0, &format!("old {n}"));
    }
    cluster.converge();
    apart(&mut cluster);
    for n in 0..20 {
        cluster.remove(0, &format!("old {n}"));
    }
    for n in 0..500 {
        cluster.add(0, &format!("new {n} {FILLER}"));
        cluster.run(1);
    }
    cluster.add(1, "old 3");
    cluster.add(1, "theirs");
    let (behind, ahead) = (&cluster.slots[1], &cluster.slots[0]);
    assert!(!ahead.store().can_serve(behind.store().vv()), "the log has it all");
    cluster
}

fn apart(cluster: &mut Cluster) {
    let (a, b) = (cluster.ids[0].clone(), cluster.ids[1].clone());
    cluster.network.cuts.extend([(a.clone(), b.clone()), (b, a)]);
}

/// What must have come of it.
fn check(cluster: &mut Cluster) {
    let live = cluster.view(1).elements().len();
    cluster.converge();
    assert_eq!(cluster.view(1).live.len(), 502, "from {live} elements");
    assert!(cluster.view(0).elements().contains("\"old 3\""), "an add that the remove had not seen wins");
    for kind in ["offer", "pull", "part"] {
        assert!(cluster.network.sent(kind) > 0, "no {kind} was sent");
    }
}

#[test]
fn a_peer_below_the_floor_gets_a_state_delta() {
    let mut cluster = far_behind(31);
    cluster.heal_network();
    check(&mut cluster);
}

#[test]
fn parts_that_are_lost_doubled_and_late_do_no_harm() {
    for seed in 0..5 {
        let mut cluster = far_behind(40 + seed);
        cluster.heal_network();
        let mut rng = fastrand::Rng::with_seed(seed);
        cluster.network.chooser = Some(Box::new(move |_, _, message| match message.body {
            PeerBody::Part { .. } | PeerBody::Pull { .. } => {
                [Fate::Drop, Fate::Twice, Fate::Late(40), Fate::Deliver][rng.usize(0..4)]
            }
            _ => Fate::Deliver,
        }));
        check(&mut cluster);
    }
}

/// Found by the simulation: parts that came before one that goes before them were dropped, and had to be pulled again one
/// by one, a second each.
#[test]
fn parts_that_overtake_each_other_are_not_pulled_again() {
    let sent = |late: bool| {
        let mut cluster = far_behind(60);
        let parts_in_a_pull = u64::try_from(cluster.slots[0].config.answer_messages).unwrap();
        cluster.heal_network();
        let mut parts = 0;
        cluster.network.chooser = Some(Box::new(move |_, _, message| match message.body {
            PeerBody::Part { .. } if late => {
                parts += 1;
                // The last part of a pull comes first.
                Fate::Late(10 * (parts_in_a_pull - (parts - 1) % parts_in_a_pull))
            }
            _ => Fate::Deliver,
        }));
        check(&mut cluster);
        (cluster.network.sent("pull"), cluster.network.sent("part"))
    };
    let in_order = sent(false);
    assert!(in_order.1 > 3, "there is something to overtake: {in_order:?} pulls and parts");
    assert_eq!(sent(true), in_order);
}

/// Runs until node 2 has some of a state delta, but not all.
fn until_half_way(cluster: &mut Cluster) {
    cluster.heal_network();
    let mut parts = 0;
    cluster.network.chooser = Some(Box::new(move |_, _, message| {
        parts += u32::from(matches!(message.body, PeerBody::Part { .. }));
        if parts > 2 { Fate::Drop } else { Fate::Deliver }
    }));
    for _ in 0..5_000 {
        cluster.run(10);
        if cluster.slots[1].store().state().staged().is_some() {
            return;
        }
    }
    panic!("no state delta has begun");
}

#[test]
fn a_sender_that_restarts_in_the_middle_has_to_be_asked_anew() {
    let mut cluster = far_behind(51);
    until_half_way(&mut cluster);
    cluster.crash(0, Crash::Kill);
    cluster.start(0);
    cluster.heal_network();
    check(&mut cluster);
    assert!(cluster.network.sent("gone") > 0, "the new process knows nothing of it");
}

#[test]
fn a_state_delta_that_a_crash_of_its_receiver_cut_short_has_no_effect() {
    for crash in [Crash::Kill, Crash::PowerCut(Kept::Nothing), Crash::PowerCut(Kept::Subset(5))] {
        let mut cluster = far_behind(52);
        until_half_way(&mut cluster);
        let before = cluster.view(1);
        assert_eq!(before.live.len(), 22, "no part has any effect by itself");
        cluster.crash(1, crash);
        cluster.network.drop_all();
        cluster.start(1);
        assert_eq!((cluster.view(1), cluster.slots[1].store().state().staged()), (before, None));
        cluster.heal_network();
        check(&mut cluster);
    }
}

/// Found by the seeded runs: a snapshot that ended between the parts and the commit left a log that could not be read.
#[test]
fn a_store_starts_again_after_a_state_delta_that_several_segments_hold() {
    let mut cluster = far_behind(53);
    cluster.heal_network();
    for _ in 0..2_000 {
        cluster.run(5);
        if cluster.agrees() {
            break;
        }
    }
    for n in 0..30 {
        cluster.crash(1, Crash::PowerCut(Kept::Subset(n)));
        cluster.start(1);
        cluster.run(1_000);
        cluster.add(1, "after");
    }
    cluster.converge();
}

/// Found by the seeded runs: digests answered digests as fast as the network went.
#[test]
fn those_that_are_below_each_others_floor_converge_without_a_storm() {
    for count in [2, 4] {
        let mut cluster = Cluster::up(count, 54);
        cluster.run(3_000);
        for a in cluster.ids.clone() {
            let cuts: Vec<_> = cluster.ids.iter().map(|b| (a.clone(), b.clone())).collect();
            cluster.network.cuts.extend(cuts);
        }
        for n in 0..150 {
            for slot in 0..count {
                cluster.add(slot, &format!("{slot} {n}"));
            }
            cluster.run(1);
        }
        for ahead in 1..count {
            for (behind, ahead) in [(0, ahead), (ahead, 0)] {
                assert!(!cluster.slots[ahead].store().can_serve(cluster.slots[behind].store().vv()));
            }
        }
        let sent = cluster.network.total_sent();
        cluster.heal_network();
        // Snapshots are not made at once, and everybody hears of everybody meanwhile.
        cluster.network.latency_ms = (1, 2);
        for slot in 0..count {
            cluster.add(slot, "and on");
        }
        cluster.converge();
        assert_eq!(cluster.view(0).live.len(), 151 * count);
        let said = cluster.network.total_sent() - sent;
        println!("{count} nodes: {said} messages");
        assert!(said < 100 * count as u64, "{count} nodes: {said} messages");
    }
}

/// Found by reading: whoever was told that there is no room asked again at once.
#[test]
fn receivers_beyond_the_room_for_them_wait_their_turn() {
    let mut cluster = Cluster::up(6, 55);
    for n in 0..100 {
        cluster.add(0, &format!("e{n}"));
        cluster.run(20);
    }
    for slot in 1..6 {
        cluster.crash(slot, Crash::Kill);
        cluster.set_back(slot, None);
    }
    let (first, ids) = (cluster.ids[0].clone(), cluster.ids.clone());
    for a in &ids {
        cluster.network.cuts.extend(ids.iter().map(|b| (a.clone(), b.clone())));
    }
    // Each has something of its own, so that no two of them ask for the same state delta.
    for slot in 1..6 {
        cluster.start(slot);
        cluster.add(slot, "own");
    }
    let sent = cluster.network.total_sent();
    cluster.network.cuts.retain(|(a, b)| *a != first && *b != first);
    cluster.run(40_000);
    cluster.heal_network();
    cluster.converge();
    let said = cluster.network.total_sent() - sent;
    println!("{said} messages");
    assert!(said < 1_000, "{said} messages");
}
