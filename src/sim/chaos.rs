//! Clients and faults of every kind at once; then the faults end, and everybody must come to agree, with each other and
//! with what clients were told.

use crate::replica::Request;

use super::cluster::{Cluster, Image, text};
use super::slot::Crash;
use super::story::Story;

/// See the module's text.
pub struct Chaos {
    /// Whom it befalls.
    pub cluster: Cluster,
    nodes: usize,
    images: Vec<(usize, Image)>,
    /// When a slot that is down starts again.
    restarts: Vec<(u64, usize)>,
    /// Which faults: some runs have none that lose stores, so that the oracle has no excuse.
    stores_may_be_lost: bool,
}

impl Chaos {
    /// `nodes` nodes, up.
    pub fn new(story: Story, nodes: usize, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_mul(31));
        let mut cluster = Cluster::told_by(story, nodes, seed);
        cluster.max_lag_ms = if rng.bool() { 0 } else { 300 };
        (0..nodes).for_each(|slot| cluster.start(slot));
        Self { cluster, nodes, images: Vec::new(), restarts: Vec::new(), stores_may_be_lost: rng.bool() }
    }

    /// So many steps: a pause, perhaps a fault, and a client's request.
    pub fn run(&mut self, steps: u64) {
        let mut next_fault = self.cluster.now + 500;
        let pace = self.cluster.rng.u64(10..200);
        for _ in 0..steps {
            let pause = self.cluster.rng.u64(0..=pace);
            self.cluster.run(pause);
            self.restart_due(self.cluster.now);
            if self.cluster.now >= next_fault {
                next_fault = self.cluster.now + self.cluster.rng.u64(50..2_000);
                self.fault();
            }
            self.client();
        }
    }

    fn client(&mut self) {
        let cluster = &mut self.cluster;
        let slot = cluster.rng.usize(0..cluster.slots.len());
        if !cluster.slots[slot].is_up() {
            return;
        }
        let name = match cluster.rng.u64(0..10) {
            0 => "long ".repeat(40),
            n => format!("e{n}"),
        };
        let request = match cluster.rng.u64(0..20) {
            0..=10 => Request::Add(text(&name)),
            11..=16 => Request::Remove(text(&name)),
            _ => Request::Read,
        };
        cluster.ask(slot, request);
    }

    fn restart_due(&mut self, now: u64) {
        let due: Vec<usize> = self.restarts.iter().filter(|(at, _)| *at <= now).map(|(_, slot)| *slot).collect();
        self.restarts.retain(|(at, _)| *at > now);
        for slot in due {
            if !self.cluster.slots[slot].is_up() {
                self.cluster.start(slot);
            }
        }
    }

    fn crash_kind(&mut self) -> Crash {
        let rng = &mut self.cluster.rng;
        if rng.bool() { Crash::Kill } else { Crash::PowerCut(rng.u64(0..1000)) }
    }

    /// Sees to it that the slot comes back.
    fn down(&mut self, slot: usize) {
        let at = self.cluster.now + self.cluster.rng.u64(1..4_000);
        self.restarts.push((at, slot));
    }

    fn fault(&mut self) {
        let slot = self.cluster.rng.usize(0..self.cluster.slots.len());
        // A copy that is down is given up.
        if slot >= self.nodes || self.cluster.slots.iter().skip(self.nodes).any(|copy| !copy.is_up()) {
            self.cluster.retire();
            return;
        }
        let up = self.cluster.slots[slot].is_up();
        match self.cluster.rng.u64(0..if self.stores_may_be_lost { 16 } else { 11 }) {
            0 | 1 => self.cut(),
            2 => self.weather(),
            3 | 4 => self.cluster.heal_network(),
            5 | 6 if up => {
                let crash = self.crash_kind();
                self.cluster.crash(slot, crash);
                self.down(slot);
            }
            7..=9 if up => {
                let (after, crash) = (self.cluster.rng.u64(0..12), self.crash_kind());
                self.cluster.doom(slot, after, crash);
            }
            10 if up => {
                self.cluster.stop(slot);
                self.down(slot);
            }
            11 | 12 if !up => self.images.push((slot, self.cluster.image(slot))),
            13 if !up => self.cluster.set_back(slot, None),
            14 if !up => {
                if let Some((_, image)) = self.images.iter().find(|(of, _)| *of == slot) {
                    self.cluster.set_back(slot, Some(image));
                }
            }
            15 if up && self.cluster.slots.len() == self.nodes => {
                if let Some((_, image)) = self.images.iter().find(|(of, _)| *of == slot) {
                    self.cluster.copy(slot, image);
                }
            }
            _ => {}
        }
        // Those that died of a disk that stopped come back too.
        for slot in 0..self.nodes {
            if !self.cluster.slots[slot].is_up() && !self.restarts.iter().any(|(_, s)| *s == slot) {
                self.down(slot);
            }
        }
    }

    fn cut(&mut self) {
        let cluster = &mut self.cluster;
        if cluster.rng.bool() {
            let (a, b) = (cluster.rng.usize(0..self.nodes), cluster.rng.usize(0..self.nodes));
            cluster.note(|| format!("cut {a} -> {b}"));
            cluster.network.cuts.insert((cluster.ids[a].clone(), cluster.ids[b].clone()));
            return;
        }
        let sides: Vec<bool> = (0..self.nodes).map(|_| cluster.rng.bool()).collect();
        cluster.note(|| format!("partition {sides:?}"));
        for a in 0..self.nodes {
            for b in (0..self.nodes).filter(|b| sides[*b] != sides[a]) {
                cluster.network.cuts.insert((cluster.ids[a].clone(), cluster.ids[b].clone()));
            }
        }
    }

    fn weather(&mut self) {
        let cluster = &mut self.cluster;
        let network = &mut cluster.network;
        (network.loss, network.duplication) = (cluster.rng.u64(0..40), cluster.rng.u64(0..30));
        network.latency_ms = (1, cluster.rng.u64(2..1_500));
    }

    /// Ends all faults.
    pub fn heal(&mut self) {
        while self.cluster.slots.len() > self.nodes {
            self.cluster.retire();
        }
        self.cluster.heal_network();
        for slot in 0..self.nodes {
            if self.cluster.slots[slot].doomed.is_some() {
                self.cluster.crash(slot, Crash::Kill);
            }
            if !self.cluster.slots[slot].is_up() {
                self.cluster.start(slot);
            }
        }
    }
}
