//! The cluster: the event loop in virtual time, and what may be done to its nodes.

use crate::crdt::{Element, NodeId, Tag};
use crate::replica::{Outgoing, PeerMessage, Reply, Request, Style, Ticket};
use crate::storage::StoreError;
use crate::storage::disk::MemDisk;

use super::network::{Network, kind};
use super::oracle::Oracle;
use super::slot::{Crash, Slot, View};
use super::story::Story;

/// After the faults, everybody must agree within this.
pub const CONVERGENCE_MS: u64 = 120_000;

/// A run with more messages is stuck in an argument.
const MAX_MESSAGES: u64 = 30_000;

/// A store as it was once.
#[derive(Clone)]
pub struct Image {
    disk: MemDisk,
    view: View,
}

/// See the module's text. What must not be is a panic, which says which rule it broke.
pub struct Cluster {
    /// Virtual milliseconds.
    pub now: u64,
    /// One for every node; then one for every copy of a store that runs beside it.
    pub slots: Vec<Slot>,
    /// Messages under way.
    pub network: Network,
    /// What clients were told.
    pub oracle: Oracle,
    /// Everything that is drawn is drawn from here.
    pub rng: fastrand::Rng,
    /// The names of the nodes.
    pub ids: Vec<NodeId>,
    /// Replies that nobody has looked at yet.
    pub replies: Vec<(i64, Reply)>,
    /// Most milliseconds between a background step and its effect.
    pub max_lag_ms: u64,
    story: Story,
}

impl Cluster {
    /// `count` nodes, all down.
    pub fn down(count: usize, seed: u64) -> Self {
        Self::told_by(Story::printed_on_panic(seed), count, seed)
    }

    /// `count` nodes, all down, whose steps go into `story`.
    pub fn told_by(story: Story, count: usize, seed: u64) -> Self {
        let id = |n| NodeId::new(&format!("n{n}")).expect("letters and digits");
        let ids: Vec<NodeId> = (1..=count).map(id).collect();
        let slots = ids.iter().enumerate().map(|(n, id)| Slot::new(id.clone(), (n as u64 + seed).is_multiple_of(2)));
        Self {
            now: 1,
            slots: slots.collect(),
            network: Network::new(seed ^ 0x6e65_7477_6f72_6b00),
            oracle: Oracle::default(),
            rng: fastrand::Rng::with_seed(seed),
            ids,
            replies: Vec::new(),
            max_lag_ms: 0,
            story,
        }
    }

    /// `count` nodes, all up.
    pub fn up(count: usize, seed: u64) -> Self {
        let mut cluster = Self::down(count, seed);
        (0..count).for_each(|slot| cluster.start(slot));
        cluster
    }

    /// Tells a step, if somebody listens.
    pub fn note(&self, what: impl FnOnce() -> String) {
        self.story.tell(self.now, what);
    }

    /// The name of a slot, for people.
    fn name(&self, slot: usize) -> String {
        format!("{}[{slot}]", self.slots[slot].id)
    }

    /// Starts the process of a slot, and checks that it has everything that it had acknowledged.
    pub fn start(&mut self, slot: usize) {
        let (seed, lag) = (self.rng.u64(..), self.rng.u64(0..=self.max_lag_ms));
        let now = self.now;
        self.note(|| format!("start [{slot}]"));
        if let Err(error) = self.slots[slot].open(seed, now, lag) {
            panic!("{} does not start: {error}", self.name(slot));
        }
        let known_nodes = !self.slots[slot].store().manifest().nodes.is_empty();
        if !known_nodes || self.rng.bool() {
            let ticket = Ticket { client: "c0".into(), msg_id: 0, style: Style::OrSet, arrived_ms: now };
            let (id, ids) = (self.slots[slot].id.clone(), self.ids.clone());
            let outcome = self.slots[slot].replica_mut().init(ticket, &id, &ids);
            if let Err(error) = outcome {
                return self.died_of(slot, &error);
            }
        }
        let found = View::of(self.slots[slot].store());
        let before = std::mem::take(&mut self.slots[slot].view);
        assert!(before.vv.is_within(&found.vv), "{}: {:?} became {:?}", self.name(slot), before.vv, found.vv);
        for tag in self.slots[slot].dropped.iter().filter(|tag| before.has_dropped(**tag)) {
            assert!(!found.live.contains_key(tag), "{}: {tag} returned with a restart", self.name(slot));
        }
        self.slots[slot].view = before;
        self.look_at(slot);
        self.settle(slot);
    }

    /// Kills a process.
    pub fn crash(&mut self, slot: usize, crash: Crash) {
        self.note(|| format!("crash [{slot}] {crash:?}"));
        self.slots[slot].crash(crash);
        self.oracle.died(slot);
    }

    /// Lets a process die in the middle of the next change to its disk but `after`.
    pub fn doom(&mut self, slot: usize, after: u64, crash: Crash) {
        self.note(|| format!("doom [{slot}] after {after}, {crash:?}"));
        let disk = &self.slots[slot].disk;
        disk.stop_at(disk.changes() + 1 + after);
        self.slots[slot].doomed = Some(crash);
    }

    /// Stops a process in good order.
    pub fn stop(&mut self, slot: usize) {
        self.note(|| format!("stop [{slot}]"));
        let outcome = self.slots[slot].stop(self.now);
        match outcome {
            Ok(messages) => self.route(slot, messages),
            Err(error) => self.died_of(slot, &error),
        }
        if self.slots[slot].doomed.is_some() {
            self.crash(slot, Crash::Kill);
        }
        self.oracle.died(slot);
    }

    /// A copy of a store that is down.
    pub fn image(&self, slot: usize) -> Image {
        assert!(!self.slots[slot].is_up(), "a copy of a store that is being written is no copy");
        Image { disk: self.slots[slot].disk.after_kill(), view: self.slots[slot].view.clone() }
    }

    /// Sets a store that is down back to an image; `None`: to nothing.
    pub fn set_back(&mut self, slot: usize, image: Option<&Image>) {
        self.note(|| format!("set back [{slot}] to {}", if image.is_some() { "an image" } else { "nothing" }));
        assert!(!self.slots[slot].is_up());
        let s = &mut self.slots[slot];
        s.disk = image.map_or_else(MemDisk::default, |image| image.disk.after_kill());
        s.view = image.map(|image| image.view.clone()).unwrap_or_default();
        s.dropped.clear();
        self.account_for_losses();
    }

    /// A second process on a copy of an image, under the same node id. Returns its slot.
    pub fn copy(&mut self, of: usize, image: &Image) -> usize {
        let (id, indexed) = (self.slots[of].id.clone(), self.rng.bool());
        let mut slot = Slot::new(id, indexed);
        (slot.limits, slot.config) = (self.slots[of].limits, self.slots[of].config);
        (slot.disk, slot.view) = (image.disk.after_kill(), image.view.clone());
        self.slots.push(slot);
        let slot = self.slots.len() - 1;
        self.note(|| format!("copy [{of}] as [{slot}]"));
        self.start(slot);
        slot
    }

    /// Gives up the last slot, a copy.
    pub fn retire(&mut self) {
        let slot = self.slots.len() - 1;
        self.note(|| format!("retire [{slot}]"));
        self.slots.pop();
        self.oracle.died(slot);
        self.account_for_losses();
    }

    fn account_for_losses(&mut self) {
        let left: Vec<&View> = self.slots.iter().map(|slot| &slot.view).collect();
        self.oracle.lost(&left);
    }

    /// Sends a client's request to a slot that is up; returns its msg_id.
    pub fn ask(&mut self, slot: usize, request: Request) -> i64 {
        let msg_id = self.oracle.asked(slot, &request, &self.slots[slot].view);
        self.note(|| format!("[{slot}] <- {request:?} ({msg_id})"));
        let ticket = Ticket { client: "c1".into(), msg_id, style: Style::OrSet, arrived_ms: self.now };
        let outcome = self.slots[slot].replica_mut().client(ticket, request, self.now);
        match outcome {
            Ok(()) => self.settle(slot),
            Err(error) => self.died_of(slot, &error),
        }
        msg_id
    }

    /// The reply to a request, if it has come.
    pub fn reply(&mut self, msg_id: i64) -> Option<Reply> {
        let at = self.replies.iter().position(|(id, _)| *id == msg_id)?;
        Some(self.replies.swap_remove(at).1)
    }

    /// Adds an element on a replica that answers at once.
    pub fn add(&mut self, slot: usize, element: &str) -> Tag {
        let asked = self.ask(slot, Request::Add(text(element)));
        match self.reply(asked) {
            Some(Reply::Added(tag)) => tag,
            other => panic!("{other:?}"),
        }
    }

    /// Removes an element on a replica that answers at once.
    pub fn remove(&mut self, slot: usize, element: &str) -> Vec<Tag> {
        let asked = self.ask(slot, Request::Remove(text(element)));
        match self.reply(asked) {
            Some(Reply::Removed(tags)) => tags,
            other => panic!("{other:?}"),
        }
    }

    /// Hands a message to a slot as if it had come from `from`.
    pub fn deliver(&mut self, from: &NodeId, slot: usize, message: PeerMessage) {
        self.note(|| format!("[{slot}] <- {} from {from}", kind(&message.body)));
        let outcome = self.slots[slot].replica_mut().peer(from, message, self.now);
        if let Err(error) = outcome {
            self.died_of(slot, &error);
        }
    }

    /// Lets `ms` milliseconds pass.
    pub fn run(&mut self, ms: u64) {
        let until = self.now + ms;
        while let Some(at) = self.next_ms().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            assert!(self.network.total_sent() < MAX_MESSAGES, "a storm of messages: {:?}", self.network.sent);
            let arrived = self.network.arrived(self.now);
            let mut touched = vec![false; self.slots.len()];
            for arrival in arrived {
                for (slot, touched) in touched.iter_mut().enumerate() {
                    if self.slots[slot].id == arrival.to && self.slots[slot].is_up() {
                        self.deliver(&arrival.from, slot, arrival.message.clone());
                        *touched = true;
                    }
                }
            }
            for (slot, touched) in touched.into_iter().enumerate() {
                let due = self.slots[slot].next_ms().is_some_and(|at| at <= self.now);
                if self.slots[slot].is_up() && (touched || due) {
                    self.settle(slot);
                }
            }
        }
        self.now = until;
    }

    fn next_ms(&self) -> Option<u64> {
        let slots = self.slots.iter().filter_map(Slot::next_ms).min();
        [slots, self.network.next_ms()].into_iter().flatten().min()
    }

    /// One turn of a slot's event loop.
    pub fn settle(&mut self, slot: usize) {
        if !self.slots[slot].is_up() {
            return;
        }
        let outcome = self.slots[slot].settle(self.now);
        let outcome = outcome.and_then(|messages| {
            self.look_at(slot);
            self.route(slot, messages);
            self.check(slot);
            self.slots[slot].background(self.now)
        });
        match outcome {
            // The background may only have moved things, not changed them.
            Ok(()) => {
                let view = &self.slots[slot].view;
                debug_assert!(View::of(self.slots[slot].store()) == *view, "{}: a background step", self.name(slot));
            }
            Err(error) => self.died_of(slot, &error),
        }
    }

    fn died_of(&mut self, slot: usize, error: &StoreError) {
        match self.slots[slot].doomed {
            Some(crash) => self.crash(slot, crash),
            None => panic!("{}: {error}", self.name(slot)),
        }
    }

    fn route(&mut self, slot: usize, messages: Vec<Outgoing>) {
        let from = self.slots[slot].id.clone();
        for message in messages {
            match message {
                Outgoing::Reply { reply: Reply::Init, .. } => {}
                Outgoing::Reply { ticket, reply } => {
                    self.note(|| format!("[{slot}] -> {reply:?} ({})", ticket.msg_id));
                    self.oracle.told(ticket.msg_id, &reply, &self.slots[slot].view);
                    self.replies.push((ticket.msg_id, reply));
                }
                Outgoing::Peer { to, message } => {
                    self.note(|| format!("[{slot}] -> {} to {to}", kind(&message.body)));
                    self.network.send(self.now, &from, &to, message);
                }
            }
        }
    }

    /// Takes note of what a slot holds by now. What it has dropped must not have come back.
    fn look_at(&mut self, slot: usize) {
        let view = View::of(self.slots[slot].store());
        if let Some(tag) = self.slots[slot].dropped.iter().find(|tag| view.live.contains_key(tag)) {
            panic!("{}: {tag} had been dropped, and is back", self.name(slot));
        }
        let s = &mut self.slots[slot];
        s.dropped.extend(s.view.live.keys().filter(|tag| !view.live.contains_key(tag)));
        let covered = self.oracle.removed.iter().filter(|tag| view.has_dropped(**tag));
        s.dropped.extend(covered);
        s.view = view;
    }

    fn check(&self, slot: usize) {
        self.oracle.check(&self.slots[slot].view, &self.name(slot));
    }

    /// What a slot holds.
    pub fn view(&self, slot: usize) -> &View {
        &self.slots[slot].view
    }

    /// Whether all that are up hold the same.
    pub fn agrees(&self) -> bool {
        let mut up = self.slots.iter().filter(|slot| slot.is_up()).map(|slot| &slot.view);
        let first = up.next();
        up.all(|view| Some(view) == first)
    }

    /// Ends all faults of the network.
    pub fn heal_network(&mut self) {
        self.note(|| "heal".to_owned());
        (self.network.loss, self.network.duplication, self.network.chooser) = (0, 0, None);
        self.network.latency_ms = (1, 5);
        self.network.cuts.clear();
    }

    /// Lets time run until all that are up agree, with each other and with the oracle. Returns how long it took.
    pub fn converge(&mut self) -> u64 {
        let start = self.now;
        while !self.agrees() {
            let waited = self.now - start;
            if waited >= CONVERGENCE_MS {
                let views: Vec<_> = self.slots.iter().map(|slot| (&slot.id, &slot.view)).collect();
                panic!("no agreement after {waited} ms: {views:#?}");
            }
            self.run(100);
        }
        for slot in self.slots.iter().filter(|slot| slot.is_up()) {
            self.oracle.check_final(&slot.view, slot.id.as_str());
        }
        self.now - start
    }
}

/// The element of this text.
pub fn text(text: &str) -> Element {
    Element::from_canonical(format!("{text:?}").as_bytes())
}
