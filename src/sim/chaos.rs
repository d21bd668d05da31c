//! Clients and faults of every kind at once, step by step; then the faults end.

use super::cluster::{Cluster, Image, text};
use super::faults::{Fault, Faults};
use super::named::Namer;
use super::rules::Rule;
use super::slot::Crash;
use super::story::Story;
use crate::crdt::Element;
use crate::replica::Request;
use crate::storage::disk::{DiskFault, Kept};

/// Most requests that a node finds in its input at once.
const MAX_BURST: usize = 12;
/// Copies of stores that are kept to be gone back to.
const MAX_IMAGES: usize = 6;
/// A message is not put into its form on the wire more often than this: that costs more than all the rest.
const THROUGH_WIRE_EVERY: u64 = 16;
/// After the faults, more messages than this for each node are no way to agree.
const MAX_MESSAGES: u64 = 4_000;

/// See the module's text.
pub struct Chaos {
    /// Whom it befalls.
    pub cluster: Cluster,
    nodes: usize,
    faults: Vec<Fault>,
    images: Vec<(usize, Image)>,
    later: Vec<(u64, usize, Later)>,
    next_fault: u64,
    pace_ms: u64,
    fault_pace_ms: u64,
    elements: Vec<Element>,
    namer: Namer,
}

/// What will happen to a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Later {
    Start,
    /// Its power goes, if it is up.
    Cut,
    /// There is room on its disk again.
    Room,
}

impl Chaos {
    /// `nodes` nodes, up.
    pub fn new(story: Story, nodes: usize, seed: u64, allowed: Faults) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_mul(31));
        let mut cluster = Cluster::told_by(story, nodes, seed);
        cluster.network.through_wire_every = THROUGH_WIRE_EVERY;
        cluster.max_lag_ms = if rng.bool() { 0 } else { 300 };
        // Some runs lose no stores, so that nothing excuses a loss; and each has kinds of faults that it is spared.
        let may_lose = rng.bool();
        let spared = rng.u64(..);
        let has = |fault: &Fault| {
            (may_lose || !fault.loses_stores()) && (spared >> (2 * *fault as u64) & 0b11 != 0) && allowed.has(*fault)
        };
        let faults = Fault::ALL.into_iter().filter(has).collect();
        // In most runs a state delta is many small parts, and takes more than one pull.
        let (bytes, messages) = ([120, 400, 60 << 10][rng.usize(0..3)], [2, 4, 16][rng.usize(0..3)]);
        // What is flushed often comes in between the parts of a state delta; what is not waits for other news.
        let flush_interval_ms = [20, 100, 300][rng.usize(0..3)];
        for slot in &mut cluster.slots {
            slot.config.flush_interval_ms = flush_interval_ms;
            (slot.config.message_bytes, slot.config.answer_messages) = (bytes, messages);
        }
        (0..nodes).for_each(|slot| cluster.start(slot));
        let (pace_ms, fault_pace_ms) = (rng.u64(10..200), rng.u64(100..1_500));
        let mut elements: Vec<Element> = (0..10).map(|n| text(&format!("e{n}"))).collect();
        elements.extend(["one ", "two "].map(|word| text(&word.repeat(50))));
        let next_fault = cluster.now + 500;
        Self {
            cluster,
            nodes,
            faults,
            images: Vec::new(),
            later: Vec::new(),
            next_fault,
            pace_ms,
            fault_pace_ms,
            elements,
            namer: Namer::new(seed),
        }
    }

    /// One step: a pause, perhaps a fault, and clients' requests.
    pub fn step(&mut self) {
        let pause = self.cluster.rng.u64(0..=self.pace_ms);
        self.pass(pause);
        if self.cluster.now >= self.next_fault {
            self.next_fault = self.cluster.now + self.cluster.rng.u64(20..=self.fault_pace_ms);
            self.fault();
        }
        self.client();
    }

    /// Lets time pass, and what was to happen meanwhile happen.
    fn pass(&mut self, ms: u64) {
        let until = self.cluster.now + ms;
        loop {
            let due =
                self.later.iter().enumerate().filter(|(_, (at, ..))| *at <= until).min_by_key(|(_, (at, ..))| *at);
            let Some((place, _)) = due else { break };
            let (at, slot, what) = self.later.swap_remove(place);
            self.cluster.run(at.saturating_sub(self.cluster.now));
            self.happen(slot, what);
        }
        self.cluster.run(until - self.cluster.now);
        // Those that died meanwhile come back, but for copies.
        for slot in 0..self.nodes {
            let waits = self.later.iter().any(|(_, s, what)| *s == slot && *what == Later::Start);
            if !self.cluster.slots[slot].is_up() && !waits {
                self.later_on(slot, 1..4_000, Later::Start);
            }
        }
        if self.cluster.slots.len() > self.nodes && !self.cluster.slots[self.nodes].is_up() {
            self.cluster.retire();
        }
    }

    fn later_on(&mut self, slot: usize, ms: std::ops::Range<u64>, what: Later) {
        let at = self.cluster.now + self.cluster.rng.u64(ms);
        self.later.push((at, slot, what));
    }

    fn happen(&mut self, slot: usize, what: Later) {
        let Some(s) = self.cluster.slots.get(slot) else { return };
        match (what, s.is_up()) {
            (Later::Start, false) => self.start(slot),
            (Later::Cut, true) => {
                let kept = self.kept();
                self.cluster.crash(slot, Crash::PowerCut(kept));
            }
            (Later::Room, _) => {
                s.disk.set_capacity(None);
                self.cluster.note(|| format!("there is room on disk {slot} again"));
            }
            _ => {}
        }
    }

    fn start(&mut self, slot: usize) {
        if let Err(error) = self.cluster.try_start(slot) {
            self.cluster.refused(slot, &error);
        }
    }

    fn kept(&mut self) -> Kept {
        let rng = &mut self.cluster.rng;
        match rng.u64(0..8) {
            0 => Kept::Everything,
            1..=3 => Kept::Nothing,
            4 | 5 => Kept::Prefix(rng.u64(..)),
            _ => Kept::Subset(rng.u64(..)),
        }
    }

    fn crash_kind(&mut self) -> Crash {
        if self.cluster.rng.bool() { Crash::Kill } else { Crash::PowerCut(self.kept()) }
    }

    fn client(&mut self) {
        let cluster = &mut self.cluster;
        let slot = cluster.rng.usize(0..cluster.slots.len());
        if !cluster.slots[slot].is_up() {
            return;
        }
        let count = if cluster.rng.bool() { 1 } else { cluster.rng.usize(1..=MAX_BURST) };
        let mut request = || {
            let element = self.elements[cluster.rng.usize(0..self.elements.len())].clone();
            match cluster.rng.u64(0..20) {
                0..=9 => Request::Add(element),
                10..=16 => Request::Remove(element),
                _ => Request::Read,
            }
        };
        let requests = (0..count).map(|_| request()).collect();
        let (requests, repeats) = self.namer.named(slot, requests);
        cluster.tally.repeats += repeats;
        cluster.ask_all(slot, requests);
    }

    fn fault(&mut self) {
        if self.faults.is_empty() {
            return;
        }
        if self.cluster.rng.u64(0..6) == 0 {
            return self.cluster.heal_network();
        }
        let fault = self.faults[self.cluster.rng.usize(0..self.faults.len())];
        let slot = self.cluster.rng.usize(0..self.cluster.slots.len());
        match fault {
            Fault::Weather => self.weather(),
            Fault::Late => self.cluster.network.lateness = self.cluster.rng.u64(1..20),
            Fault::Cut => self.cut(),
            Fault::Partition => self.partition(),
            Fault::Lag => self.cluster.max_lag_ms = [0, 50, 300, 2_000][self.cluster.rng.usize(0..4)],
            fault if slot >= self.nodes => self.befall_copy(fault, slot),
            Fault::Stop => self.cluster_if_up(slot, |cluster, _| cluster.stop(slot)),
            Fault::Kill => self.cluster_if_up(slot, |cluster, _| cluster.crash(slot, Crash::Kill)),
            Fault::Power => self.cluster_if_up(slot, |cluster, kept| cluster.crash(slot, Crash::PowerCut(kept))),
            Fault::CrashAtIo => self.crash_at_io(slot),
            Fault::PowerAfterStart => self.power_after_start(slot),
            Fault::WriteError => self.inject(slot, DiskFault::WriteError),
            Fault::ShortWrite => self.inject(slot, DiskFault::ShortWrite),
            Fault::FailedSync => self.inject(slot, DiskFault::FailedSync),
            Fault::DiskFull => self.fill_disk(slot),
            Fault::Damage => self.damage(slot),
            Fault::Wipe => self.wipe(slot),
            Fault::Rollback => self.roll_back(slot),
            Fault::Copy => self.copy(slot),
        }
    }

    fn cluster_if_up(&mut self, slot: usize, befall: impl FnOnce(&mut Cluster, Kept)) {
        let kept = self.kept();
        if self.cluster.slots[slot].is_up() {
            befall(&mut self.cluster, kept);
        }
    }

    fn befall_copy(&mut self, fault: Fault, slot: usize) {
        match fault {
            Fault::CrashAtIo => self.crash_at_io(slot),
            _ => self.cluster.retire(),
        }
    }

    fn crash_at_io(&mut self, slot: usize) {
        let (crash, up) = (self.crash_kind(), self.cluster.slots[slot].is_up());
        let after = self.cluster.rng.u64(0..if up { 30 } else { 16 });
        self.cluster.doom(slot, after, crash);
    }

    /// Killed, perhaps between a write and its sync; then it starts and talks to the others, and then the power goes.
    fn power_after_start(&mut self, slot: usize) {
        if !self.cluster.slots[slot].is_up() {
            return;
        }
        if self.cluster.rng.bool() {
            self.cluster.crash(slot, Crash::Kill);
        } else {
            // A write is one change, its sync is the next.
            let after = 2 * self.cluster.rng.u64(0..3) + 1;
            self.cluster.doom(slot, after, Crash::Kill);
        }
        self.later_on(slot, 1..100, Later::Start);
        self.later_on(slot, 100..1_200, Later::Cut);
    }

    fn inject(&mut self, slot: usize, fault: DiskFault) {
        let after = self.cluster.rng.u64(0..8);
        self.cluster.note(|| format!("disk {slot} will have a {fault:?} after {after}"));
        self.cluster.slots[slot].disk.inject(fault, after);
    }

    fn fill_disk(&mut self, slot: usize) {
        let room = self.cluster.rng.u64(0..3_000);
        let disk = &self.cluster.slots[slot].disk;
        disk.set_capacity(Some(disk.used_bytes() + room));
        self.cluster.note(|| format!("there are only {room} bytes left on disk {slot}"));
        self.later_on(slot, 200..4_000, Later::Room);
    }

    /// Sees to it that a slot is down.
    fn bring_down(&mut self, slot: usize) {
        if self.cluster.slots[slot].is_up() {
            match self.cluster.rng.u64(0..3) {
                0 => self.cluster.stop(slot),
                1 => self.cluster.crash(slot, Crash::Kill),
                _ => {
                    let kept = self.kept();
                    self.cluster.crash(slot, Crash::PowerCut(kept));
                }
            }
        }
    }

    fn damage(&mut self, slot: usize) {
        self.bring_down(slot);
        self.cluster.slots[slot].disk.heal();
        self.cluster.slots[slot].doomed = None;
        self.cluster.damage(slot);
        // Whoever has no copy of it moves it away and starts empty.
        if self.faults.contains(&Fault::Wipe) && self.cluster.rng.bool() {
            self.wipe(slot);
        }
    }

    fn wipe(&mut self, slot: usize) {
        self.bring_down(slot);
        self.cluster.set_back(slot, None);
        self.cluster.tally.wipes += 1;
    }

    fn roll_back(&mut self, slot: usize) {
        match self.an_image(slot) {
            Some(image) if self.cluster.rng.u64(0..4) > 0 => {
                self.bring_down(slot);
                self.cluster.set_back(slot, Some(&image));
                self.cluster.tally.rollbacks += 1;
            }
            _ => self.keep_image(slot),
        }
    }

    /// One of the images of this slot.
    fn an_image(&mut self, slot: usize) -> Option<Image> {
        let images: Vec<&Image> = self.images.iter().filter(|(of, _)| *of == slot).map(|(_, image)| image).collect();
        self.cluster.rng.choice(images).cloned()
    }

    fn keep_image(&mut self, slot: usize) {
        if self.cluster.rng.bool() {
            self.bring_down(slot);
        }
        if self.images.len() == MAX_IMAGES {
            self.images.swap_remove(0);
        }
        self.images.push((slot, self.cluster.image(slot)));
    }

    fn copy(&mut self, slot: usize) {
        if self.cluster.slots.len() > self.nodes {
            return;
        }
        match self.an_image(slot) {
            Some(image) => {
                self.cluster.copy(slot, &image);
                self.cluster.tally.copies += 1;
            }
            None => self.keep_image(slot),
        }
    }

    fn cut(&mut self) {
        let cluster = &mut self.cluster;
        let (a, b) = (cluster.rng.usize(0..self.nodes), cluster.rng.usize(0..self.nodes));
        let (a, b) = (cluster.ids[a].clone(), cluster.ids[b].clone());
        cluster.note(|| format!("nothing gets from {a} to {b} any more"));
        cluster.network.cuts.insert((a, b));
    }

    fn partition(&mut self) {
        let cluster = &mut self.cluster;
        let sides: Vec<bool> = (0..self.nodes).map(|_| cluster.rng.bool()).collect();
        cluster.note(|| format!("the nodes fall apart: {sides:?}"));
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

    /// Ends all faults, and waits until all agree. A copy that runs beside its original may go on.
    ///
    /// # Panics
    /// If they do not agree, or not in bounded time.
    pub fn heal_and_converge(&mut self) {
        self.later.clear();
        if self.cluster.slots.len() > self.nodes && (!self.cluster.slots[self.nodes].is_up() || self.cluster.rng.bool())
        {
            self.cluster.retire();
        }
        self.cluster.heal_network();
        for slot in 0..self.cluster.slots.len() {
            let s = &mut self.cluster.slots[slot];
            s.disk.heal();
            s.doomed = None;
            if !s.is_up() {
                self.cluster.start(slot);
            }
        }
        let before = self.cluster.tally.messages;
        let took = self.cluster.converge();
        let messages = self.cluster.tally.messages - before;
        let most = MAX_MESSAGES * self.nodes as u64;
        Rule::Liveness.must(messages <= most, || format!("{messages} messages in {took} ms until all agreed"));
        let cluster = &mut self.cluster;
        (cluster.tally.slowest_ms, cluster.tally.most_messages) = (took, messages);
        (cluster.tally.client_ops, cluster.tally.lost) = (cluster.oracle.answered, cluster.oracle.lost);
    }
}
