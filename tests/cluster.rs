//! Three real nodes behind a network that loses, doubles, delays and cuts, while they are killed and started again: they
//! converge, and the tags in the replies prove the result right.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use support::cluster::Cluster;
use support::model::{Model, OpId, View};
use support::node::Line;
use support::router::Faults;
use support::{env_number, seed};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Short intervals, and a small log, so that few seconds see many rounds, compactions and state deltas.
const ARGS: [&str; 12] = [
    "--flush-interval-ms",
    "10",
    "--digest-interval-ms",
    "20",
    "--digest-max-ms",
    "200",
    "--catch-up-ms",
    "100",
    "--log-retention-bytes",
    "65536",
    "--segment-bytes",
    "16384",
];
const ELEMENTS: u64 = 60;
/// Requests that may be under way at one node.
const WINDOW: usize = 8;

struct Chaos {
    cluster: Cluster,
    rng: fastrand::Rng,
    model: Model,
    /// What is under way, by the number of the request: its node, and whether it is an add.
    under_way: BTreeMap<i64, (String, bool)>,
    answered: u64,
    kills: u64,
}

#[test]
fn three_nodes_converge_under_partitions_loss_duplication_and_kills() {
    let seed = seed("cluster");
    let phases = env_number("ORSET_PHASES", 40);
    let mut chaos = Chaos {
        cluster: Cluster::started(seed, &NODES, &ARGS),
        rng: fastrand::Rng::with_seed(seed ^ 1),
        model: Model::default(),
        under_way: BTreeMap::new(),
        answered: 0,
        kills: 0,
    };
    for _ in 0..phases {
        chaos.phase();
    }
    chaos.finish();
    let Chaos { cluster, answered, kills, model, .. } = &chaos;
    eprintln!("{answered} requests, {kills} kills, {} messages, {:?} tags", cluster.router.passed(), model.counts());
}

impl Chaos {
    /// Something goes wrong for a while, and clients go on.
    fn phase(&mut self) {
        let node = NODES[self.rng.usize(..NODES.len())];
        match self.rng.u8(..6) {
            0 => self.cluster.router.set(Faults::isolate(node, NODES.into_iter(), true)),
            1 => self.cluster.router.set(Faults::isolate(node, NODES.into_iter(), false)),
            2 => self.cluster.router.set(Faults::default()),
            3 => {
                let faults = Faults { lost_percent: 30, doubled_percent: 20, max_delay_ms: 40, ..Faults::default() };
                self.cluster.router.set(faults);
            }
            _ if self.cluster.runs(node) => self.kill(node),
            _ => {}
        }
        // How long the fault lasts is part of the fault.
        let end = Instant::now() + Duration::from_millis(self.rng.u64(30..200));
        while Instant::now() < end {
            self.step(end);
        }
        for node in NODES {
            if !self.cluster.runs(node) && self.rng.bool() {
                self.cluster.start(node);
            }
        }
    }

    fn kill(&mut self, node: &str) {
        self.cluster.kill(node);
        self.kills += 1;
        // What it wrote before it died counts as said.
        while let Some((from, line)) = self.cluster.any_reply(Duration::ZERO) {
            self.take(&from, &line);
        }
        self.under_way.retain(|_, (at, _)| at != node);
        self.model.killed(node);
    }

    /// Sends one request to a node that has room, or waits for a reply.
    fn step(&mut self, end: Instant) {
        let room = |node: &&str| {
            let busy = self.under_way.values().filter(|(at, _)| at == node).count();
            self.cluster.runs(node) && busy < WINDOW
        };
        let free: Vec<&str> = NODES.into_iter().filter(room).collect();
        if !free.is_empty() && self.rng.u8(..10) < 7 {
            let node = free[self.rng.usize(..free.len())];
            self.request(node);
        } else if let Some((from, line)) = self.cluster.any_reply(end.saturating_duration_since(Instant::now())) {
            self.take(&from, &line);
        }
    }

    fn request(&mut self, node: &str) {
        let (element, is_add) = (self.rng.u64(..ELEMENTS).to_string(), self.rng.u8(..100) < 60);
        let name = if is_add { "or_set_add" } else { "or_set_remove" };
        let msg_id = self.cluster.send(node, &format!(r#""type":"{name}","element":{element}"#));
        self.under_way.insert(msg_id, (node.to_owned(), is_add));
        match is_add {
            true => self.model.sent_add(op(msg_id), node, &element),
            false => self.model.sent_remove(op(msg_id), node, &element),
        }
    }

    fn take(&mut self, from: &str, line: &Line) {
        let msg_id = line.in_reply_to().expect("clients get replies only");
        let Some((node, is_add)) = self.under_way.remove(&msg_id) else {
            panic!("{from} replied to what nobody asked: {}", line.text);
        };
        assert_eq!(node, from, "{}", line.text);
        self.answered += 1;
        let judged = match is_add {
            true => self.model.added(op(msg_id), line.tags("tag")[0]),
            false => self.model.removed(op(msg_id), &line.tags("tags_removed"), View::Part),
        };
        judged.unwrap_or_else(|violation| panic!("{violation}"));
    }

    /// Heals everything, waits for convergence, and holds every node to the model, tag by tag.
    fn finish(&mut self) {
        self.cluster.router.set(Faults::default());
        for node in NODES {
            if !self.cluster.runs(node) {
                self.cluster.start(node);
            }
        }
        for msg_id in self.under_way.keys().copied().collect::<Vec<i64>>() {
            let node = self.under_way[&msg_id].0.clone();
            let line = self.cluster.reply(&node, msg_id);
            self.take(&node, &line);
        }
        self.cluster.barrier();
        let elements = self.cluster.agreed();
        self.model.read(&elements).unwrap_or_else(|violation| panic!("{violation}"));
        let node = NODES[self.rng.usize(..NODES.len())];
        for element in self.model.elements() {
            let msg_id = self.cluster.send(node, &format!(r#""type":"or_set_remove","element":{element}"#));
            self.model.sent_remove(op(msg_id), node, &element);
            let tags = self.cluster.reply(node, msg_id).tags("tags_removed");
            self.model.removed(op(msg_id), &tags, View::Whole).unwrap_or_else(|violation| panic!("{violation}"));
        }
        self.cluster.barrier();
        assert_eq!(self.cluster.agreed(), Vec::<String>::new(), "everything was removed");
    }
}

fn op(msg_id: i64) -> OpId {
    OpId::try_from(msg_id).expect("numbers of requests are positive")
}
