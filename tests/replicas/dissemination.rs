//! How many messages it takes to tell everybody, and how long.
//!
//! Maelstrom's broadcast setting in virtual time: 25 nodes, 100 requests a second, half of them reads, 100 ms from node
//! to node. As with Maelstrom, a request waits behind a message of a peer's that is on its way to the same node. The
//! figures are exact and repeat; `benches/dissemination.rs` takes the same ones from real processes.

use orset::crdt::{Dot, VersionVector};
use orset::replica::{Reply, Request};
use orset::sim::cluster::{Cluster, text};
use orset::sim::slot::Crash;

const NODES: usize = 25;
const LATENCY_MS: u64 = 100;
/// So often it is looked who holds what.
const STEP_MS: u64 = 5;
/// Whatever is older is everywhere.
const NEWEST: usize = 400;

/// How the nodes are set, and for how long they are asked.
struct Setting {
    flush_interval_ms: u64,
    leaf_wait_ms: u64,
    seconds: u64,
}

const DEFAULT: Setting = Setting { flush_interval_ms: 300, leaf_wait_ms: 0, seconds: 30 };

fn cluster(setting: &Setting) -> Cluster {
    let mut cluster = Cluster::down(NODES, 1);
    for slot in &mut cluster.slots {
        slot.limits = super::LARGE;
        slot.config.flush_interval_ms = setting.flush_interval_ms;
        slot.config.leaf_wait_ms = setting.leaf_wait_ms;
    }
    cluster.network.latency_ms = (LATENCY_MS, LATENCY_MS);
    cluster.network.through_wire_every = 50;
    (0..NODES).for_each(|slot| cluster.start(slot));
    cluster
}

/// A client's request on its way.
struct Waiting {
    invoked_ms: u64,
    at_ms: u64,
    slot: usize,
    add: bool,
}

/// An element on its way.
struct Spreading {
    dot: Dot,
    /// When its add was answered.
    known_ms: u64,
    /// When the last read began that lacked it, and when everybody held it, after that.
    absent_ms: u64,
    everywhere_ms: Option<u64>,
}

/// What Maelstrom would say, and until when all nodes held everything.
#[derive(Debug)]
struct Figures {
    messages_per_op: f64,
    /// Milliseconds until the last read that lacks an element, as `set-full` counts: median and most.
    stable: (u64, u64),
    /// Milliseconds until everybody holds an element.
    everywhere: (u64, u64),
}

fn median_and_most(values: impl Iterator<Item = u64>) -> (u64, u64) {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    (values[values.len() / 2], values[values.len() - 1])
}

/// The clients, and what they see.
struct Clients {
    cluster: Cluster,
    waiting: Vec<Waiting>,
    spreading: Vec<Spreading>,
    asked: u32,
}

impl Clients {
    fn new(setting: &Setting) -> Self {
        Self { cluster: cluster(setting), waiting: Vec::new(), spreading: Vec::new(), asked: 0 }
    }

    fn ask(&mut self, slot: usize, add: bool) {
        self.asked += 1;
        let invoked_ms = self.cluster.now;
        let at_ms = self.cluster.network.next_to(&self.cluster.ids[slot]).unwrap_or(invoked_ms);
        self.waiting.push(Waiting { invoked_ms, at_ms, slot, add });
        self.answer();
    }

    /// Answers the requests that nothing is in front of any more.
    fn answer(&mut self) {
        let now = self.cluster.now;
        for request in self.waiting.extract_if(.., |request| request.at_ms <= now).collect::<Vec<_>>() {
            if !self.cluster.slots[request.slot].is_up() {
                continue;
            }
            if request.add {
                let asked = self.cluster.ask(request.slot, Request::Add(text(&self.asked.to_string())));
                // Who has just started answers later.
                if let Some(Reply::Added(dot)) = self.cluster.reply(asked) {
                    self.spreading.push(Spreading { dot, known_ms: now, absent_ms: 0, everywhere_ms: None });
                }
                continue;
            }
            let held = self.cluster.slots[request.slot].store().vv();
            for element in self.spreading.iter_mut().rev().take(NEWEST).filter(|element| !held.covers(element.dot)) {
                element.absent_ms = element.absent_ms.max(request.invoked_ms.saturating_sub(element.known_ms));
            }
        }
    }

    /// Lets time pass, and notes what has come everywhere.
    fn pass(&mut self, ms: u64) {
        let until = self.cluster.now + ms;
        while self.cluster.now < until {
            let waiting = self.waiting.iter().map(|request| request.at_ms).min().unwrap_or(until);
            let step = until.min(waiting).min(self.cluster.now + STEP_MS);
            self.cluster.run(step - self.cluster.now);
            self.answer();
            let now = self.cluster.now;
            for element in self.spreading.iter_mut().rev().take(NEWEST).filter(|e| e.everywhere_ms.is_none()) {
                if self.cluster.slots.iter().all(|slot| !slot.is_up() || slot.store().vv().covers(element.dot)) {
                    element.everywhere_ms = Some(now - element.known_ms);
                }
            }
        }
    }

    /// Asks random nodes that are up for so long.
    fn ask_for(&mut self, ms: u64, rng: &mut fastrand::Rng) {
        let end = self.cluster.now + ms;
        while self.cluster.now < end {
            self.pass(rng.u64(0..=20));
            let slot = rng.usize(0..NODES);
            if self.cluster.slots[slot].is_up() {
                self.ask(slot, rng.bool());
            }
        }
    }

    /// The faults end: how long it takes until everybody holds what anybody holds now, while clients go on.
    fn heal(&mut self, rng: &mut fastrand::Rng) -> u64 {
        self.cluster.network.cuts.clear();
        for slot in (0..NODES).filter(|slot| !self.cluster.slots[*slot].is_up()).collect::<Vec<_>>() {
            self.cluster.start(slot);
        }
        let mut held = VersionVector::new();
        self.cluster.slots.iter().for_each(|slot| held.join(slot.store().vv()));
        let healed = self.cluster.now;
        while !self.cluster.slots.iter().all(|slot| held.is_within(slot.store().vv())) {
            self.ask_for(20, rng);
        }
        self.cluster.now - healed
    }

    fn figures(&self) -> Figures {
        let everywhere = |element: &Spreading| element.everywhere_ms.expect("ten seconds are enough");
        Figures {
            messages_per_op: self.cluster.network.total_sent() as f64 / f64::from(self.asked),
            stable: median_and_most(self.spreading.iter().map(|element| element.absent_ms)),
            everywhere: median_and_most(self.spreading.iter().map(everywhere)),
        }
    }
}

/// Runs the setting.
fn run(setting: &Setting) -> Figures {
    let mut clients = Clients::new(setting);
    clients.ask_for(setting.seconds * 1_000, &mut fastrand::Rng::with_seed(1));
    clients.pass(10_000);
    let figures = clients.figures();
    println!("{figures:?}");
    figures
}

#[test]
fn the_default_setting_takes_few_messages_and_little_time() {
    let figures = run(&DEFAULT);
    assert!(figures.messages_per_op <= 1.5, "{figures:?}");
    assert!(figures.stable.0 <= 300 && figures.stable.1 <= 450, "{figures:?}");
    assert!(figures.everywhere.1 <= 550, "{figures:?}");
}

#[test]
fn the_frugal_setting_takes_half_the_messages() {
    let figures = run(&Setting { flush_interval_ms: 800, leaf_wait_ms: 300, ..DEFAULT });
    assert!(figures.messages_per_op <= 0.75, "{figures:?}");
    assert!(figures.stable.0 <= 800 && figures.stable.1 <= 1_400, "{figures:?}");
}

#[test]
fn an_idle_cluster_says_next_to_nothing_and_a_lone_add_is_everywhere_after_two_latencies() {
    let mut clients = Clients::new(&DEFAULT);
    clients.ask(7, true);
    clients.pass(120_000);
    let sent = clients.cluster.network.total_sent();
    clients.cluster.run(600_000);
    let per_second = (clients.cluster.network.total_sent() - sent) as f64 / 600.0 / NODES as f64;
    println!("{per_second} messages a second of each node");
    assert!(per_second <= 0.1, "{per_second} messages a second of each node");
    for slot in [13, 0] {
        clients.ask(slot, true);
        clients.pass(5_000);
        let everywhere_ms = clients.spreading.last().and_then(|element| element.everywhere_ms);
        assert!(everywhere_ms.is_some_and(|ms| ms <= 2 * LATENCY_MS + STEP_MS), "{everywhere_ms:?} ms");
    }
}

/// What befalls the nodes for a while.
#[derive(Debug)]
enum Fault {
    /// Nothing gets from these to the others, nor back.
    Apart(Vec<usize>),
    /// Nothing gets from the first to the second.
    Deaf(usize, usize),
    /// These are killed, and start again at the end.
    Killed(Vec<usize>),
}

fn befall(cluster: &mut Cluster, fault: &Fault) {
    match fault {
        Fault::Apart(side) => {
            let (a, b): (Vec<usize>, Vec<usize>) = (0..NODES).partition(|slot| side.contains(slot));
            for (a, b) in a.iter().flat_map(|a| b.iter().map(move |b| (*a, *b))) {
                let (a, b) = (cluster.ids[a].clone(), cluster.ids[b].clone());
                cluster.network.cuts.extend([(a.clone(), b.clone()), (b, a)]);
            }
        }
        Fault::Deaf(from, to) => {
            let link = (cluster.ids[*from].clone(), cluster.ids[*to].clone());
            cluster.network.cuts.insert(link);
        }
        Fault::Killed(slots) => slots.iter().for_each(|slot| cluster.crash(*slot, Crash::Kill)),
    }
}

#[test]
fn partitions_and_kills_are_made_good_within_three_seconds_of_their_end() {
    let mut clients = Clients::new(&DEFAULT);
    let mut rng = fastrand::Rng::with_seed(2);
    clients.ask_for(5_000, &mut rng);
    let half = |rng: &mut fastrand::Rng| (0..NODES).filter(|_| rng.bool()).collect::<Vec<_>>();
    let faults = [
        Fault::Apart(half(&mut rng)),
        Fault::Killed(vec![0]),
        Fault::Apart(vec![0]),
        Fault::Killed(vec![0, 1]),
        Fault::Apart((0..12).collect()),
        Fault::Killed((0..NODES).step_by(3).collect()),
        Fault::Deaf(0, 1),
        Fault::Apart(half(&mut rng)),
    ];
    for (n, fault) in faults.iter().enumerate() {
        befall(&mut clients.cluster, fault);
        // A fault that has hardly been noticed, one that everybody has come to terms with, and what is in between.
        let (sent, asked) = (clients.cluster.network.total_sent(), clients.asked);
        clients.ask_for([5_000, 1_500, 9_000][n % 3], &mut rng);
        let took = clients.heal(&mut rng);
        clients.ask_for(2_000, &mut rng);
        let per_op = (clients.cluster.network.total_sent() - sent) as f64 / f64::from(clients.asked - asked);
        println!("{took} ms after {fault:?}, {per_op} messages an operation");
        assert!(took <= 3_000, "{took} ms after {fault:?}");
    }
    clients.pass(10_000);
    let per_op = clients.cluster.network.total_sent() as f64 / f64::from(clients.asked);
    println!("{per_op} messages an operation in all");
    assert!(per_op <= 2.5, "{per_op} messages an operation");
    assert!(clients.cluster.agrees());
}
