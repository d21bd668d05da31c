//! How little is said when there is nothing to say.

use orset::sim::cluster::Cluster;
use orset::sim::network::Fate;
use orset::sim::slot::Crash;

#[test]
fn strangers_do_not_greet_for_ever_and_digests_back_off() {
    let mut cluster = Cluster::up(5, 61);
    for slot in 0..5 {
        cluster.add(slot, "hello");
    }
    cluster.converge();
    let sent = cluster.network.total_sent();
    cluster.run(60_000);
    let first = cluster.network.total_sent() - sent;
    let digests = cluster.network.sent("digest");
    cluster.run(300_000);
    let later = cluster.network.sent("digest") - digests;
    println!("5 nodes say {first} messages in their first idle minute, then {later} digests in five");
    // 2, 4, 8, 16, 30 s: five digests a node, and some rounds to learn that all agree, each with its answer.
    assert!(first < 5 * 30, "{first} messages in a minute");
    // Every 30 s, 20 % less at the least: at most 13 a node.
    assert!((5 * 8..=5 * 13).contains(&later), "{later} digests in five minutes");
}

/// Found by reading: whoever had heard of operations that were lost with their only store asked for them for ever.
#[test]
fn nobody_asks_for_ever_for_what_is_lost() {
    let mut cluster = Cluster::up(3, 62);
    cluster.add(0, "before");
    cluster.converge();
    let mut pushes = 0;
    cluster.network.chooser = Some(Box::new(move |from, _, _| {
        // Both peers hear of the second push, not of the first; and nobody is told anything else.
        pushes += u32::from(from.as_str() == "n1");
        if (3..=4).contains(&pushes) { Fate::Deliver } else { Fate::Drop }
    }));
    cluster.add(0, "lost");
    cluster.run(60);
    cluster.add(0, "parked");
    cluster.run(20);
    cluster.crash(0, Crash::Kill);
    cluster.set_back(0, None);
    cluster.heal_network();
    cluster.start(0);
    cluster.run(60_000);
    assert!(cluster.agrees());
    let sent = cluster.network.total_sent();
    cluster.run(60_000);
    let said = cluster.network.total_sent() - sent;
    assert!(said < 30, "{said} messages in the second idle minute");
}
