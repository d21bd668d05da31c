//! How many messages it takes to tell everybody, and how long.
//!
//! Maelstrom's broadcast setting in virtual time: 25 nodes, 100 requests a second, half of them reads, 100 ms from node
//! to node. As with Maelstrom, a request waits behind a message of a peer's that is on its way to the same node. The
//! figures are exact and repeat; `benches/dissemination.rs` takes the same ones from real processes.

use orset::crdt::Dot;
use orset::sim::cluster::Cluster;

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

const DEFAULT: Setting = Setting { flush_interval_ms: 300, leaf_wait_ms: 0, seconds: 60 };

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
            if request.add {
                let dot = self.cluster.add(request.slot, &self.spreading.len().to_string());
                self.spreading.push(Spreading { dot, known_ms: now, absent_ms: 0, everywhere_ms: None });
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
    let mut rng = fastrand::Rng::with_seed(1);
    let end = clients.cluster.now + setting.seconds * 1_000;
    while clients.cluster.now < end {
        clients.pass(rng.u64(0..=20));
        clients.ask(rng.usize(0..NODES), rng.bool());
    }
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
