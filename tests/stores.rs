//! What can befall a store among real nodes: wiped, rolled back, copied and run twice, away for longer than any log
//! reaches, or just restarted. None of it does harm, and the tags in the replies prove it.

mod support;

use std::collections::BTreeSet;

use orset::crdt::{Dot, ReplicaId};
use rustix::process::Signal;
use support::cluster::Cluster;
use support::router::Faults;
use support::{copy_dir, segments, sorted, wait_until};
use uuid::Uuid;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const ARGS: [&str; 6] = ["--flush-interval-ms", "10", "--digest-interval-ms", "20", "--digest-max-ms", "200"];
const SMALL_LOG: [&str; 10] = [
    "--flush-interval-ms",
    "10",
    "--digest-interval-ms",
    "20",
    "--digest-max-ms",
    "200",
    "--log-retention-bytes",
    "65536",
    "--segment-bytes",
    "16384",
];

fn replica(tag: Uuid) -> ReplicaId {
    Dot::from_uuid(tag).unwrap_or_else(|| panic!("{tag} is no tag")).replica
}

fn names(what: &str, count: u32) -> Vec<String> {
    let mut names: Vec<String> = (0..count).map(|n| format!("\"{what} {n:05}\"")).collect();
    names.sort();
    names
}

#[test]
fn a_wiped_store_catches_up_under_a_new_replica_id() {
    let mut cluster = Cluster::started(1, &NODES, &ARGS);
    let elements = names("before", 30);
    let mut tags: BTreeSet<Uuid> = elements.iter().map(|element| cluster.add("n3", element)).collect();
    cluster.barrier();
    let before = replica(*tags.first().expect("30 of them"));

    cluster.stop("n3");
    std::fs::remove_dir_all(cluster.data_dir("n3")).unwrap();
    cluster.start("n3");
    let tag = cluster.add("n3", "\"after\"");
    assert_ne!(replica(tag), before, "a wiped store must not number on where it cannot know it stopped");
    cluster.barrier();
    let expected = sorted([elements, vec!["\"after\"".into()]].concat());
    assert_eq!(sorted(cluster.agreed()), expected);
    tags.insert(tag);
    cluster.drain("n3", &expected, &tags);
}

#[test]
fn a_rolled_back_store_merges_what_it_lost_and_uses_no_dot_twice() {
    let mut cluster = Cluster::started(2, &NODES, &ARGS);
    let mut elements = names("kept", 10);
    let mut tags: BTreeSet<Uuid> = elements.iter().map(|element| cluster.add("n1", element)).collect();
    cluster.barrier();
    cluster.stop("n1");
    let backup = cluster.data_dir("backup");
    copy_dir(&cluster.data_dir("n1"), &backup);

    cluster.start("n1");
    let lost = names("after the backup", 10);
    tags.extend(lost.iter().map(|element| cluster.add("n1", element)));
    elements.extend(lost);
    cluster.barrier();
    cluster.kill("n1");
    std::fs::remove_dir_all(cluster.data_dir("n1")).unwrap();
    copy_dir(&backup, &cluster.data_dir("n1"));

    // Cut off, it cannot know what it had said before, and must not say it again with another meaning.
    cluster.router.set(Faults::isolate("n1", NODES.into_iter(), true));
    cluster.start("n1");
    let again = names("after the rollback", 10);
    tags.extend(again.iter().map(|element| cluster.add("n1", element)));
    elements.extend(again);
    assert_eq!(tags.len(), 30, "no two adds got the same tag");
    cluster.barrier();
    cluster.process("n1").stderr.wait_for("rolled back by");
    assert_eq!(sorted(cluster.agreed()), sorted(elements.clone()));
    cluster.drain("n2", &elements, &tags);
}

#[test]
fn a_store_set_back_to_the_middle_of_an_incarnation_forks_and_says_so() {
    let mut cluster = Cluster::started(3, &NODES, &ARGS);
    cluster.add("n1", "\"before the copy\"");
    cluster.barrier();
    // As a disk snapshot would: the process stands still, so the copy is what the disk held at one instant.
    let process = cluster.process("n1");
    process.signal(Signal::STOP);
    let stat = format!("/proc/{}/stat", process.pid());
    wait_until("the process stands still", || std::fs::read_to_string(&stat).unwrap().contains(") T "));
    let copy = cluster.data_dir("copy");
    copy_dir(&cluster.data_dir("n1"), &copy);
    cluster.process("n1").signal(Signal::CONT);

    let lost = names("after the copy", 5);
    let mut tags: BTreeSet<Uuid> = lost.iter().map(|element| cluster.add("n1", element)).collect();
    cluster.barrier();
    let expected = cluster.agreed();
    cluster.kill("n1");
    std::fs::remove_dir_all(cluster.data_dir("n1")).unwrap();
    copy_dir(&copy, &cluster.data_dir("n1"));

    cluster.router.set(Faults::isolate("n1", NODES.into_iter(), true));
    cluster.start("n1");
    tags.insert(cluster.add("n1", "\"the fork\""));
    assert_eq!(tags.len(), 6, "no two adds got the same tag");
    cluster.barrier();
    cluster.process("n1").stderr.wait_for("rolled back by");
    assert_eq!(sorted(cluster.agreed()), sorted([expected, vec!["\"the fork\"".into()]].concat()));
}

#[test]
fn a_store_copied_and_run_twice_at_once_does_no_harm() {
    let mut cluster = Cluster::started(4, &NODES, &ARGS);
    let mut elements = names("shared", 10);
    let mut tags: BTreeSet<Uuid> = elements.iter().map(|element| cluster.add("n1", element)).collect();
    cluster.barrier();
    cluster.stop("n1");
    cluster.add_slot("n1 again", "n1", &ARGS);
    copy_dir(&cluster.data_dir("n1"), &cluster.data_dir("n1 again"));
    cluster.start("n1");
    cluster.start("n1 again");
    for twin in ["n1", "n1 again"] {
        let own = names(twin, 20);
        tags.extend(own.iter().map(|element| cluster.add(twin, element)));
        elements.extend(own);
    }
    assert_eq!(tags.len(), 50, "no two adds got the same tag");
    cluster.barrier();
    assert_eq!(sorted(cluster.agreed()), sorted(elements.clone()));
    cluster.drain("n1 again", &elements, &tags);
}

#[test]
fn a_node_away_for_longer_than_the_log_reaches_gets_a_state_delta() {
    let mut cluster = Cluster::started(5, &NODES, &SMALL_LOG);
    let gone = names("removed while n3 is away", 50);
    let kept = names("kept", 50);
    for element in &gone {
        cluster.add("n3", element);
    }
    let mut tags: BTreeSet<Uuid> = kept.iter().map(|element| cluster.add("n1", element)).collect();
    cluster.barrier();

    cluster.router.set(Faults::isolate("n3", NODES.into_iter(), true));
    let mine = names("added by n3 while away", 20);
    tags.extend(mine.iter().map(|element| cluster.add("n3", element)));
    for element in &gone {
        assert_eq!(cluster.remove("n1", element).len(), 1);
    }
    outrun_the_log(&mut cluster);
    cluster.barrier();
    let expected = sorted([kept, mine].concat());
    assert_eq!(sorted(cluster.agreed()), expected);
    // Without these words it caught up by operations, and this test showed nothing about state deltas.
    cluster.process("n3").stderr.wait_for("merged a state delta");
    cluster.drain("n3", &expected, &tags);
}

/// Adds and removes at n1 and n2 until neither log begins where it began, while the set stays as it is.
fn outrun_the_log(cluster: &mut Cluster) {
    let first = |cluster: &Cluster, node: &str| segments(&cluster.store(node)).first().copied();
    let before = [first(cluster, "n1"), first(cluster, "n2")];
    assert!(before.iter().all(Option::is_some), "no segments in the stores");
    let filler = "x".repeat(200);
    let mut round = 0;
    wait_until("both logs were cut", || {
        for n in 0..500 {
            let element = format!("\"{filler} {round} {n}\"");
            cluster.add("n1", &element);
            cluster.remove("n1", &element);
        }
        round += 1;
        let now = [first(cluster, "n1"), first(cluster, "n2")];
        now.iter().zip(&before).all(|(now, before)| now > before)
    });
}

#[test]
fn a_restarted_node_answers_with_what_its_peers_had_meanwhile() {
    let mut cluster = Cluster::started(6, &NODES, &ARGS);
    cluster.add("n3", "\"before\"");
    cluster.barrier();
    cluster.kill("n3");
    for element in names("meanwhile", 20) {
        cluster.add("n1", &element);
    }
    cluster.barrier();
    let expected = sorted(cluster.agreed());
    // The bound is far away, so an answer that comes shows that a peer was heard, not that the bound passed.
    cluster.set_args("n3", &[&ARGS[..], &["--catch-up-ms", "50000"]].concat());
    cluster.start("n3");
    assert_eq!(sorted(cluster.read("n3")), expected);
}

#[test]
fn a_restarted_node_without_peers_answers_when_the_bound_has_passed() {
    let mut cluster = Cluster::started(7, &NODES, &ARGS);
    cluster.add("n3", "\"before\"");
    cluster.barrier();
    NODES.into_iter().for_each(|node| cluster.kill(node));
    cluster.set_args("n3", &[&ARGS[..], &["--catch-up-ms", "200"]].concat());
    cluster.start("n3");
    assert_eq!(cluster.read("n3"), ["\"before\""]);
}
