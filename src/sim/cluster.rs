//! The cluster: the event loop in virtual time, and what may be done to its nodes.

use super::claims;
use super::network::Network;
use super::oracle::Oracle;
use super::rules::Rule;
use super::slot::{Crash, Past, Slot, View};
use super::story::Story;
use super::tally::Tally;
use super::words;
use crate::crdt::{Element, NodeId, Tag};
use crate::replica::{Outgoing, PeerBody, PeerMessage, Reply, Request, Style, Ticket};
use crate::storage::StoreError;
use crate::storage::disk::{DiskFault, Kept, MemDisk};

/// After the faults, everybody must agree within this.
pub const CONVERGENCE_MS: u64 = 120_000;

/// A store as it was once.
#[derive(Clone)]
pub struct Image {
    disk: MemDisk,
    past: Past,
}

/// See the module's text. What must not be is a panic, which says which [`Rule`] it broke.
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
    /// Replies that nobody has looked at yet, if anybody does.
    pub replies: Option<Vec<(i64, Reply)>>,
    /// Most milliseconds between a background step and its effect.
    pub max_lag_ms: u64,
    /// What has happened, in figures.
    pub tally: Tally,
    story: Story,
}

impl Cluster {
    /// `count` nodes, all down.
    pub fn down(count: usize, seed: u64) -> Self {
        let replies = Some(Vec::new());
        Self { replies, ..Self::told_by(Story::printed_on_panic(seed), count, seed) }
    }

    /// `count` nodes, all down, whose steps go into `story`.
    ///
    /// # Panics
    /// Never: all names are good ones.
    pub fn told_by(story: Story, count: usize, seed: u64) -> Self {
        let id = |n| NodeId::new(&format!("n{n}")).expect("letters and digits");
        let ids: Vec<NodeId> = (1..=count).map(id).collect();
        let slots = ids.iter().zip(seed..).map(|(id, n)| {
            let mut slot = Slot::new(id.clone(), n.is_multiple_of(2));
            // With and without a mirror, each with and without an index.
            slot.limits.mirror_bytes *= (n / 2 % 2) as usize;
            slot
        });
        Self {
            now: 1,
            slots: slots.collect(),
            network: Network::new(seed ^ 0x6e65_7477_6f72_6b00),
            oracle: Oracle::default(),
            rng: fastrand::Rng::with_seed(seed),
            ids,
            replies: None,
            max_lag_ms: 0,
            tally: Tally::default(),
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
        let id = &self.slots[slot].id;
        if self.ids.get(slot) == Some(id) { id.to_string() } else { format!("{id}'s copy") }
    }

    /// Starts the process of a slot that must be able to start.
    ///
    /// # Panics
    /// If it cannot, or has not everything that it had said.
    pub fn start(&mut self, slot: usize) {
        if let Err(error) = self.try_start(slot) {
            Rule::Recovery.broken(&format!("{} does not start: {error}", self.name(slot)));
        }
    }

    /// Starts the process of a slot. What had left it before must be there (invariant 8).
    ///
    /// # Errors
    /// If the store does not open. If it fails right afterwards, the process has started, and died.
    ///
    /// # Panics
    /// If it has not everything that it had said.
    pub fn try_start(&mut self, slot: usize) -> Result<(), StoreError> {
        let (seed, lag) = (self.rng.u64(..), self.rng.u64(0..=self.max_lag_ms));
        let now = self.now;
        self.note(|| format!("{} starts", self.name(slot)));
        let has_reserve = self.slots[slot].has_reserve();
        let found = self.slots[slot].open(&mut self.oracle.book, seed, now, lag);
        let for_room = found.as_ref().is_err_and(StoreError::is_disk_full);
        let excused = !has_reserve || self.excused(slot);
        Rule::Recovery.must(!for_room || excused, || format!("{}: the reserve was of no use", self.name(slot)));
        let found = found?;
        self.tally.starts += 1;
        self.tally.torn_tails += u64::from(found.torn_tail_bytes > 0);
        self.tally.indexes_trusted += u64::from(found.index_trusted);
        let (name, s) = (self.name(slot), &self.slots[slot]);
        let (before, held) = (&s.past.durable, s.store().vv());
        Rule::Recovery.must(before.is_within(held), || format!("{name} held {before:?}, and starts with {held:?}"));
        s.check_truth();
        s.check_index(&self.oracle.book);
        let known_nodes = !s.store().manifest().nodes.is_empty();
        if !known_nodes || self.rng.bool() {
            let ticket = Ticket { client: "c0".into(), msg_id: 0, style: Style::OrSet, arrived_ms: now };
            let (id, ids) = (self.slots[slot].id.clone(), self.ids.clone());
            if let Err(error) = self.slots[slot].replica_mut().init(ticket, &id, &ids) {
                self.died_of(slot, &error);
                return Ok(());
            }
        }
        self.settle(slot);
        Ok(())
    }

    /// Ends a process.
    pub fn crash(&mut self, slot: usize, crash: Crash) {
        self.note(|| format!("{} dies: {crash:?}", self.name(slot)));
        self.tally.died(crash);
        self.count_disk_faults(slot);
        self.slots[slot].crash(crash);
    }

    fn count_disk_faults(&mut self, slot: usize) {
        let disk = &self.slots[slot].disk;
        self.tally.write_errors += disk.met(DiskFault::WriteError);
        self.tally.short_writes += disk.met(DiskFault::ShortWrite);
        self.tally.failed_syncs += disk.met(DiskFault::FailedSync);
    }

    /// A store could not be opened, for which there must be a reason: the process ends.
    ///
    /// # Panics
    /// If there is none.
    pub fn refused(&mut self, slot: usize, error: &StoreError) {
        self.tally.crashes_in_recovery += u64::from(self.slots[slot].doomed.is_some());
        self.died_of(slot, error);
    }

    /// Lets a process die in the middle of the next change to its disk but `after`.
    pub fn doom(&mut self, slot: usize, after: u64, crash: Crash) {
        self.note(|| format!("{} will die after {after} changes of its disk: {crash:?}", self.name(slot)));
        let disk = &self.slots[slot].disk;
        disk.stop_at(disk.changes() + 1 + after);
        self.slots[slot].doomed = Some(crash);
    }

    /// Stops a process in good order.
    pub fn stop(&mut self, slot: usize) {
        self.note(|| format!("{} stops in good order", self.name(slot)));
        let outcome = self.slots[slot].stop(&mut self.oracle.book, self.now);
        match outcome {
            Ok(messages) => {
                self.route(slot, messages);
                self.tally.clean_stops += 1;
                self.count_disk_faults(slot);
                // The system goes on, so nothing that was written is lost.
                self.slots[slot].crash(Crash::Kill);
            }
            Err(error) => self.died_of(slot, &error),
        }
    }

    /// A copy of a store at one instant, also of one that is up: its incarnation goes on after that.
    pub fn image(&self, slot: usize) -> Image {
        let disk = self.slots[slot].disk.after_cut(Kept::Everything);
        // It is on another disk.
        disk.heal();
        Image { disk, past: self.slots[slot].past.clone() }
    }

    /// Sets a store that is down back to an image; `None`: to nothing.
    ///
    /// # Panics
    /// If it is up.
    pub fn set_back(&mut self, slot: usize, image: Option<&Image>) {
        self.note(|| {
            let what = if image.is_some() { "set back to an older copy" } else { "wiped" };
            format!("the store of {} is {what}", self.name(slot))
        });
        assert!(!self.slots[slot].is_up(), "the store of a running process is not touched");
        let old = &self.slots[slot];
        let mut new = Slot { limits: old.limits, config: old.config, ..Slot::new(old.id.clone(), old.indexed) };
        if let Some(image) = image {
            (new.disk, new.past) = (image.disk.after_kill(), image.past.clone());
        }
        // Its index need not lie where the store does, and then it is still the one of before.
        if self.rng.bool() {
            new.shelf = self.slots[slot].shelf.clone();
        }
        self.slots[slot] = new;
        self.account_for_losses();
    }

    /// A second process on a copy of an image, under the same node id. Returns its slot.
    pub fn copy(&mut self, of: usize, image: &Image) -> usize {
        let (id, indexed) = (self.slots[of].id.clone(), self.rng.bool());
        let mut slot = Slot::new(id, indexed);
        (slot.limits, slot.config) = (self.slots[of].limits, self.slots[of].config);
        (slot.disk, slot.past) = (image.disk.after_kill(), image.past.clone());
        self.slots.push(slot);
        let slot = self.slots.len() - 1;
        self.note(|| format!("{} is started beside it", self.name(slot)));
        self.start(slot);
        slot
    }

    /// Gives up the last slot, a copy.
    pub fn retire(&mut self) {
        let slot = self.slots.len() - 1;
        self.note(|| format!("{} is given up", self.name(slot)));
        self.slots.pop();
        self.account_for_losses();
    }

    /// Changes a byte in the middle of the log of a store that is down, and sees to it that the store is refused and
    /// nothing in it changed (invariant 7); then the byte is as it was. Says whether there was such a byte.
    ///
    /// # Panics
    /// If the store is opened all the same.
    pub fn damage(&mut self, slot: usize) -> bool {
        let places = self.slots[slot].places_that_count();
        let Some((path, bytes)) = self.rng.choice(places) else { return false };
        let (at, bit) = (self.rng.usize(bytes), self.rng.u32(0..8));
        self.note(|| format!("bit {bit} of byte {at} of {} of {} changes", path.display(), self.name(slot)));
        let s = &self.slots[slot];
        let flip = |bytes: &mut Vec<u8>| bytes[at] ^= 1 << bit;
        s.disk.tamper(&path, flip);
        let before = s.disk.files();
        let outcome = s.open_bare();
        let refused = matches!(outcome, Err(StoreError::Damaged { .. }));
        Rule::Damage.must(refused, || match outcome {
            Ok(_) => format!("{} opens, although {} is damaged at byte {at}", self.name(slot), path.display()),
            Err(error) => format!("{} is refused for another reason: {error}", self.name(slot)),
        });
        Rule::Damage.must(s.disk.files() == before, || format!("{} was refused, and yet changed", self.name(slot)));
        s.disk.tamper(&path, flip);
        self.tally.damaged += 1;
        true
    }

    fn account_for_losses(&mut self) {
        let left: Vec<_> = self.slots.iter().map(|slot| &slot.past.durable).collect();
        self.oracle.lose(&left);
    }

    /// Sends a client's request to a slot that is up; returns its msg_id.
    pub fn ask(&mut self, slot: usize, request: Request) -> i64 {
        self.ask_all(slot, vec![request])
    }

    /// Sends requests to a slot that is up, which it finds in its input at once; returns the last one's msg_id.
    pub fn ask_all(&mut self, slot: usize, requests: Vec<Request>) -> i64 {
        let mut msg_id = 0;
        for request in requests {
            msg_id = self.oracle.next_id();
            self.note(|| format!("{} is asked to {} ({msg_id})", self.name(slot), words::request(&request)));
            let ticket = Ticket { client: "c1".into(), msg_id, style: Style::OrSet, arrived_ms: self.now };
            let now = self.now;
            self.slots[slot].asked(msg_id, request.clone());
            if let Err(error) = self.slots[slot].replica_mut().client(ticket, request, now) {
                self.died_of(slot, &error);
                return msg_id;
            }
            self.slots[slot].follow(&mut self.oracle.book);
        }
        self.settle(slot);
        msg_id
    }

    /// The reply to a request, if it has come.
    pub fn reply(&mut self, msg_id: i64) -> Option<Reply> {
        let replies = self.replies.as_mut()?;
        let at = replies.iter().position(|(id, _)| *id == msg_id)?;
        Some(replies.swap_remove(at).1)
    }

    /// Adds an element on a replica that answers at once.
    ///
    /// # Panics
    /// If it does not.
    pub fn add(&mut self, slot: usize, element: &str) -> Tag {
        let asked = self.ask(slot, Request::Add(text(element)));
        match self.reply(asked) {
            Some(Reply::Added(tag)) => tag,
            other => panic!("{other:?}"),
        }
    }

    /// Removes an element on a replica that answers at once.
    ///
    /// # Panics
    /// If it does not.
    pub fn remove(&mut self, slot: usize, element: &str) -> Vec<Tag> {
        let asked = self.ask(slot, Request::Remove(text(element)));
        match self.reply(asked) {
            Some(Reply::Removed(tags)) => tags,
            other => panic!("{other:?}"),
        }
    }

    /// Hands a message to a slot as if it had come from `from`.
    pub fn deliver(&mut self, from: &NodeId, slot: usize, message: PeerMessage) {
        self.note(|| format!("{} hears {} from {from}", self.name(slot), words::message(&message.body)));
        let now = self.now;
        match self.slots[slot].replica_mut().peer(from, message, now) {
            Ok(()) => self.slots[slot].follow(&mut self.oracle.book),
            Err(error) => self.died_of(slot, &error),
        }
    }

    /// Lets `ms` milliseconds pass.
    pub fn run(&mut self, ms: u64) {
        let until = self.now + ms;
        while let Some(at) = self.next_ms().filter(|at| *at <= until) {
            self.now = self.now.max(at);
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
        let outcome = self.slots[slot].settle(&mut self.oracle.book, self.now);
        let outcome = outcome.and_then(|messages| {
            self.route(slot, messages);
            self.slots[slot].background(self.now)?;
            self.slots[slot].check_now_and_then(&self.oracle.book);
            Ok(())
        });
        if let Err(error) = outcome {
            self.died_of(slot, &error);
        }
    }

    /// Whether a slot's disk was meant to fail by now.
    fn excused(&self, slot: usize) -> bool {
        let s = &self.slots[slot];
        s.doomed.is_some() || s.disk.faults_met() > 0
    }

    /// The process ends because its store has failed.
    fn died_of(&mut self, slot: usize, error: &StoreError) {
        self.note(|| format!("{} ends: {error}", self.name(slot)));
        self.slots[slot].check_poisoned();
        let excused = self.excused(slot) || error.is_disk_full();
        Rule::Recovery.must(excused, || format!("{} fails on a sound disk: {error}", self.name(slot)));
        self.tally.disk_full += u64::from(error.is_disk_full());
        let doomed = self.slots[slot].doomed;
        self.tally.crashes_at_io += u64::from(doomed.is_some());
        let crash = doomed.unwrap_or(Crash::Kill);
        self.crash(slot, crash);
    }

    /// What leaves a slot: replies to clients, messages to the network.
    fn route(&mut self, slot: usize, messages: Vec<Outgoing>) {
        if !messages.is_empty() {
            self.slots[slot].check_durable(&self.oracle.book);
        }
        let from = self.slots[slot].id.clone();
        for message in messages {
            self.story.tell_detail(|| format!("{message:?}"));
            match message {
                Outgoing::Reply { reply: Reply::Init, .. } => {}
                Outgoing::Reply { ticket, reply } => {
                    self.note(|| format!("{} replies: {} ({})", self.name(slot), words::reply(&reply), ticket.msg_id));
                    if let Some(dot) = self.slots[slot].check_reply(ticket.msg_id, &reply) {
                        self.oracle.acknowledge(dot);
                    }
                    self.oracle.answered += 1;
                    if let Some(replies) = &mut self.replies {
                        replies.push((ticket.msg_id, reply));
                    }
                }
                Outgoing::Peer { to, message } => {
                    self.tally.messages += 1;
                    self.tally.offers += u64::from(matches!(message.body, PeerBody::Offer { .. }));
                    self.tally.state_deltas += u64::from(matches!(message.body, PeerBody::Part { next: None, .. }));
                    self.note(|| format!("{} says {} to {to}", self.name(slot), words::message(&message.body)));
                    claims::check_message(&self.oracle.book, &self.slots[slot].past.durable, &message);
                    self.network.send(self.now, &from, &to, message);
                }
            }
        }
    }

    /// What a slot holds: as it shows it, or, of one that is down, for certain.
    pub fn view(&self, slot: usize) -> View {
        let s = &self.slots[slot];
        if s.is_up() {
            return View::of(s.store());
        }
        let live = self.oracle.book.live(&s.past.durable);
        let live = live.into_iter().map(|(tag, element)| (tag, element.as_str().to_owned())).collect();
        View { vv: s.past.durable.clone(), live }
    }

    /// Whether all that are up hold the same.
    pub fn agrees(&self) -> bool {
        let mut up = self.slots.iter().filter(|slot| slot.is_up()).map(|slot| slot.store().vv());
        let first = up.next();
        up.all(|vv| Some(vv) == first)
    }

    /// Ends all faults of the network.
    pub fn heal_network(&mut self) {
        self.note(|| "the network is good again".to_owned());
        self.network.heal();
    }

    /// Lets time run until all that are up agree, with each other and with the oracle. Returns how long it took.
    ///
    /// # Panics
    /// If it takes too long, or they agree on something else.
    pub fn converge(&mut self) -> u64 {
        let start = self.now;
        while !self.agrees() {
            let waited = self.now - start;
            if waited >= CONVERGENCE_MS {
                let held = self.slots.iter().filter(|slot| slot.is_up());
                let held: Vec<_> = held.map(|slot| format!("{} holds {:?}", slot.id, slot.store().vv())).collect();
                Rule::Liveness.broken(&format!("no agreement after {waited} ms: {}", held.join("; ")));
            }
            self.run(100);
        }
        for slot in self.slots.iter().filter(|slot| slot.is_up()) {
            slot.check_truth();
            self.oracle.check_final(slot.store().vv(), slot.id.as_str());
            let (shown, live) = (View::of(slot.store()), self.oracle.book.live(slot.store().vv()));
            let same = shown.live.iter().map(|(tag, element)| (*tag, element.as_str()));
            let same = same.eq(live.into_iter().map(|(tag, element)| (tag, element.as_str())));
            Rule::Truth.must(same, || format!("{} holds what the definition does not say", slot.id));
        }
        self.now - start
    }
}

/// The element of this text.
pub fn text(text: &str) -> Element {
    Element::from_canonical(format!("{text:?}").as_bytes())
}
