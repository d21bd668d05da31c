//! What agreement costs: bytes and messages, counted. (At a million elements: `cargo bench --bench sync`.)

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use orset::crdt::OpBody;
use orset::maelstrom::encode;
use orset::replica::{Outgoing, PeerBody, Request};
use orset::sim::cluster::{Cluster, text};
use orset::sim::network::{Fate, kind};
use orset::storage::StoreLimits;

const ELEMENTS: usize = 2_000;
/// What a message may cost beside operations.
const SPARE_BYTES: usize = 4096;

/// Messages and bytes, by kind.
type Counts = Rc<RefCell<BTreeMap<&'static str, (usize, usize)>>>;

/// Two nodes that agree on so many elements and cannot hear each other any more.
fn apart(limits: StoreLimits, seed: u64) -> Cluster {
    let mut cluster = Cluster::down(2, seed);
    cluster.slots.iter_mut().for_each(|slot| slot.limits = limits);
    (0..2).for_each(|slot| cluster.start(slot));
    for slot in 0..2 {
        let adds = (0..ELEMENTS / 2).map(|n| Request::Add(text(&format!("elt-{slot}{n:09}"))));
        cluster.ask_all(slot, adds.collect());
    }
    cluster.converge();
    let (a, b) = (cluster.ids[0].clone(), cluster.ids[1].clone());
    cluster.network.cuts.extend([(a.clone(), b.clone()), (b, a)]);
    cluster
}

/// New elements and removed old ones, in turn, at the first node; nothing of them is heard.
fn differ(cluster: &mut Cluster, adds: usize, removes: usize) {
    let mut requests = Vec::new();
    for n in 0..adds.max(removes) {
        requests.extend((n < adds).then(|| Request::Add(text(&format!("new-{n:010}")))));
        requests.extend((n < removes).then(|| Request::Remove(text(&format!("elt-{}{:09}", n % 2, 7 * n % 1_000)))));
    }
    cluster.ask_all(0, requests);
    cluster.run(100);
}

/// Lets everything through, and counts it until both agree.
fn heal(cluster: &mut Cluster) -> BTreeMap<&'static str, (usize, usize)> {
    cluster.heal_network();
    let counts = Counts::default();
    let counted = Rc::clone(&counts);
    cluster.network.chooser = Some(Box::new(move |from, to, message| {
        let mut line = Vec::new();
        encode(&mut line, from, 1, &Outgoing::Peer { to: to.clone(), message: message.clone() });
        let mut counts = counted.borrow_mut();
        let news = !matches!(&message.body, PeerBody::Ops { ops, .. } if ops.is_empty());
        let count = counts.entry(if news { kind(&message.body) } else { "no news" }).or_default();
        *count = (count.0 + 1, count.1 + line.len());
        Fate::Deliver
    }));
    cluster.converge();
    counts.take()
}

fn bytes(counts: &BTreeMap<&str, (usize, usize)>) -> usize {
    counts.values().map(|(_, bytes)| bytes).sum()
}

#[test]
fn what_is_missing_comes_in_one_answer_and_costs_little_more_than_itself() {
    let roomy = StoreLimits { segment_bytes: 1 << 20, ..StoreLimits::default() };
    for (adds, removes) in [(600, 400), (1_000, 0), (0, 1_000)] {
        let mut cluster = apart(roomy, 71);
        differ(&mut cluster, adds, removes);
        let ops = cluster.slots[0].store().delta(cluster.slots[1].store().vv(), usize::MAX).unwrap().ops;
        let own = |body: &OpBody| match body {
            OpBody::Add(element) => element.as_bytes().len() + 16,
            OpBody::Remove { tags, .. } => 16 * tags.len(),
            OpBody::Start { .. } => 0,
        };
        let own: usize = ops.iter().map(|op| own(&op.body)).sum();
        assert_eq!(ops.len(), adds + removes);
        let counts = heal(&mut cluster);
        println!("{adds} adds, {removes} removes: {own} bytes of their own, {counts:?}");
        assert!(bytes(&counts) <= own + own / 4 + SPARE_BYTES, "{counts:?} for {own} bytes");
        // Where digests cross there are two.
        assert!(counts["ops"].0 <= 2, "one answer to a digest: {counts:?}");
        assert!(!counts.contains_key("offer"), "{counts:?}");
    }
}

#[test]
fn a_state_delta_for_few_differences_is_small_and_pulled_at_once() {
    // Next to nothing of the log is kept.
    let forgetful = StoreLimits {
        segment_bytes: 4 << 10,
        min_retention_bytes: 1,
        max_retention_bytes: 1,
        ..StoreLimits::default()
    };
    for max_join_changes in [0, 16_384] {
        let mut cluster = apart(StoreLimits { max_join_changes, ..forgetful }, 72);
        differ(&mut cluster, 100, 100);
        for slot in 0..2 {
            cluster.slots[slot].replica_mut().store_mut().want_snapshot();
            cluster.settle(slot);
        }
        let [ahead, behind] = [0, 1].map(|slot| cluster.slots[slot].store());
        assert!(!ahead.can_serve(behind.vv()), "the log has it all");
        let counts = heal(&mut cluster);
        println!("{counts:?}");
        assert!(bytes(&counts) <= 8 << 10, "{counts:?}");
        assert_eq!(counts["pull"].0, 1, "{counts:?}");
        assert!(!counts.contains_key("gone"), "{counts:?}");
    }
}
