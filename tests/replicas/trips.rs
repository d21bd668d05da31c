//! How many round trips it takes from the first word, a digest or a ping, until two replicas agree. (With a million elements:
//! `cargo bench --bench sync -- ops`.)
//!
//! They are counted as Lamport's clock counts: a message is one later than the latest that its sender had heard.

use std::cell::RefCell;
use std::rc::Rc;

use orset::replica::Request;
use orset::sim::cluster::{Cluster, text};
use orset::sim::network::Fate;
use orset::sim::slot::Crash;

/// Elements that each of the two has added before.
const ELEMENTS: usize = 200;
/// What is older than this no push is bringing any more.
const GRACE_MS: u64 = 1_000;
const PATIENCE_MS: u64 = 120_000;
/// Adds and removes on the one side, the relay, and on the other.
const CHANGES: [[(usize, usize); 2]; 7] = [
    [(120, 80), (0, 0)],
    [(200, 0), (0, 0)],
    [(0, 200), (0, 0)],
    [(0, 0), (120, 80)],
    [(0, 0), (200, 0)],
    [(0, 0), (0, 200)],
    [(60, 40), (60, 40)],
];

/// How two replicas came to differ, and over what they speak to each other.
#[derive(Clone, Copy, Debug)]
struct Apart {
    changes: [(usize, usize); 2],
    /// From agreement to the cut, and from the changes, just after that, to its end.
    quiet_ms: u64,
    age_ms: u64,
    latency_ms: u64,
    /// Whether both have been killed and started in between: then neither knows the process that makes the changes.
    restarted: bool,
    seed: u64,
}

impl Apart {
    fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::down(2, self.seed);
        cluster.slots.iter_mut().for_each(|slot| slot.limits = super::LARGE);
        (0..2).for_each(|slot| cluster.start(slot));
        for slot in 0..2 {
            let adds = (0..ELEMENTS).map(|n| Request::Add(text(&format!("elt-{slot}{n:09}"))));
            cluster.ask_all(slot, adds.collect());
        }
        cluster.converge();
        if self.restarted {
            // Whoever writes next is somebody whom the other does not know yet.
            (0..2).for_each(|slot| cluster.crash(slot, Crash::Kill));
            (0..2).for_each(|slot| cluster.start(slot));
        }
        cluster.run(self.quiet_ms);
        let (a, b) = (cluster.ids[0].clone(), cluster.ids[1].clone());
        cluster.network.cuts.extend([(a.clone(), b.clone()), (b, a)]);
        for (slot, (adds, removes)) in self.changes.into_iter().enumerate() {
            let adds = (0..adds).map(|n| Request::Add(text(&format!("new-{slot}{n:09}"))));
            let removes = (0..removes).map(|n| Request::Remove(text(&format!("elt-{slot}{n:09}"))));
            cluster.ask_all(slot, adds.chain(removes).collect());
        }
        cluster.run(self.age_ms);
        cluster
    }

    /// Ends the cut, and counts until both agree.
    fn trips(&self) -> u64 {
        let mut cluster = self.cluster();
        cluster.heal_network();
        cluster.network.latency_ms = (self.latency_ms, self.latency_ms);
        let clocks = Rc::new(RefCell::new(Clocks { now_ms: cluster.now, ..Clocks::default() }));
        let (told, first, latency_ms) = (Rc::clone(&clocks), cluster.ids[0].clone(), self.latency_ms);
        cluster.network.chooser = Some(Box::new(move |_, to, _| {
            told.borrow_mut().said(usize::from(*to != first), latency_ms);
            Fate::Deliver
        }));
        let end = cluster.now + PATIENCE_MS;
        while !cluster.agrees() {
            assert!(cluster.now < end, "no agreement: {self:?}");
            clocks.borrow_mut().now_ms += 1;
            let held = [0, 1].map(|slot| cluster.slots[slot].store().vv().clone());
            cluster.run(1);
            (0..2).for_each(|slot| {
                let news = *cluster.slots[slot].store().vv() != held[slot];
                clocks.borrow_mut().heard(slot, news);
            });
        }
        clocks.borrow().trips()
    }
}

/// Lamport's clocks of the two, and the messages that are under way between them.
#[derive(Default)]
struct Clocks {
    now_ms: u64,
    at: [u64; 2],
    /// When they arrive, and their time.
    under_way: [Vec<(u64, u64)>; 2],
    last_news: u64,
}

impl Clocks {
    fn said(&mut self, to: usize, latency_ms: u64) {
        // What has come in this very millisecond has been heard already.
        let arrived = self.under_way[1 - to].iter().filter(|(at_ms, _)| *at_ms <= self.now_ms);
        let lamport = 1 + arrived.map(|(_, lamport)| *lamport).fold(self.at[1 - to], u64::max);
        self.under_way[to].push((self.now_ms + latency_ms, lamport));
    }

    /// A millisecond is over; `news`: it has brought some.
    fn heard(&mut self, slot: usize, news: bool) {
        for (_, lamport) in self.under_way[slot].extract_if(.., |(at_ms, _)| *at_ms <= self.now_ms) {
            self.at[slot] = self.at[slot].max(lamport);
            self.last_news = if news { self.last_news.max(lamport) } else { self.last_news };
        }
    }

    /// From the first word to the last news.
    fn trips(&self) -> u64 {
        (self.last_news - 1).div_ceil(2)
    }
}

/// The most that it takes, over many latencies and moments at which the cut ends.
fn most(ages_ms: &[u64], restarted: bool) -> u64 {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut worst = 0;
    for changes in CHANGES {
        for age_ms in ages_ms.iter().copied() {
            for latency_ms in [1, 20, 100] {
                for seed in 1..=6 {
                    let quiet_ms = rng.u64(1_000..60_000);
                    let case = Apart { changes, quiet_ms, age_ms, latency_ms, restarted, seed };
                    let trips = case.trips();
                    if trips > worst {
                        println!("{trips} round trips: {case:?}");
                    }
                    worst = worst.max(trips);
                }
            }
        }
    }
    worst
}

const LONG_AGO: [u64; 5] = [GRACE_MS, 2_000, 5_000, 15_000, 60_000];

/// Found by measuring: who had suspected a node, and heard it again, waited to be asked; and so did who was pinged.
#[test]
fn two_that_differ_agree_one_round_trip_after_the_first_word() {
    assert_eq!(most(&LONG_AGO, false), 1);
}

/// A digest that names a process which the other has not heard of yet is not answered, only asked about.
#[test]
fn a_process_that_the_other_does_not_know_takes_one_round_trip_more_at_most() {
    assert_eq!(most(&LONG_AGO, true), 2);
}

/// Digests do not bring what pushes should be bringing.
#[test]
fn what_is_lost_with_its_push_takes_one_round_trip_more() {
    assert_eq!(most(&[0, 100, 500, 900], false).max(most(&[0, 100, 500, 900], true)), 2);
}
