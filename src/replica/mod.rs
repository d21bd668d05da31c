//! One replica: takes messages, keeps its store, says things to clients and peers.
//!
//! It has no I/O of its own but the store's, no thread, no clock and no randomness: the time comes with every call, the
//! random bits with the start. The event loop around it is
//!
//! ```text
//! loop {
//!     wait for lines, or until next_wakeup_ms()
//!     for each line, until is_batch_full():  client() or peer()
//!     tick()
//!     for message in commit()?: write it          // one frame, one sync, then everything leaves at once
//! }
//! ```
//!
//! # Invariants
//!
//! - Nothing leaves before it is durable: see [`outbox`].
//! - A message's version vector is information about its sender. It is never merged into this replica's own.
//! - Clients' set requests are held after a restart until one peer's answer is merged or a bound has passed. That is
//!   for freshness only: nothing is less safe if it does not happen.

mod catch_up;
mod gossip;
pub mod message;
pub mod outbox;
mod parking;
mod transfer;

pub use message::*;
pub use outbox::Outbox;

use std::collections::BTreeMap;

use crate::crdt::{Dot, Element, MAX_REMOVE_TAGS, NodeId, OpBody, Seq, VersionVector};
use crate::storage::{ReadForm, Recovery, Store, StoreError};
use catch_up::CatchUp;
use gossip::Gossip;
use parking::Parking;
use transfer::{Receiving, Sending};

/// Intervals and bounds.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaConfig {
    /// How long clients' set requests are held after a restart, at most.
    pub catch_up_ms: u64,
    /// New operations are pushed at once, but no sooner than this after the last push.
    pub push_interval_ms: u64,
    /// A digest goes to a random peer after this, doubling while nothing differs …
    pub digest_interval_ms: u64,
    /// … up to this.
    pub digest_max_ms: u64,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        Self { catch_up_ms: 500, push_interval_ms: 50, digest_interval_ms: 2_000, digest_max_ms: 30_000 }
    }
}

/// See the module's text.
pub struct Replica {
    store: Store,
    config: ReplicaConfig,
    outbox: Outbox,
    /// The other nodes of the cluster.
    peers: Vec<NodeId>,
    /// What each peer was last known to hold.
    known: BTreeMap<NodeId, VersionVector>,
    parking: Parking,
    gossip: Gossip,
    catch_up: CatchUp,
    receiving: Option<Receiving>,
    sending: Sending,
    /// The last operation held of the incarnation before this one, at the start.
    parent: Option<Dot>,
    /// How many operations of the parent have turned up since, and how many of them have been reported.
    lost_and_found: (u64, u64),
}

impl Replica {
    /// The replica of an open store. `random` are random bits for the choice of peers.
    pub fn new(store: Store, recovery: &Recovery, config: ReplicaConfig, random: u64, now_ms: u64) -> Self {
        let own = store.manifest().own;
        let parent = own.map(|own| store.state().last_dot(own)).filter(|parent| parent.seq > Seq(0));
        let mut replica = Self {
            catch_up: CatchUp::new(recovery.fresh, now_ms),
            gossip: Gossip::new(random, now_ms, &config),
            store,
            config,
            outbox: Outbox::default(),
            peers: Vec::new(),
            known: BTreeMap::new(),
            parking: Parking::default(),
            receiving: None,
            sending: Sending::default(),
            parent,
            lost_and_found: (0, 0),
        };
        replica.list_peers();
        replica
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The store, for its background steps.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    fn list_peers(&mut self) {
        let manifest = self.store.manifest();
        self.peers = manifest.nodes.iter().filter(|node| **node != manifest.node).cloned().collect();
        self.known.retain(|node, _| self.peers.contains(node));
    }

    /// Answers `init`, and takes over the list of nodes.
    ///
    /// # Errors
    /// If the store fails; the process should end then.
    pub fn init(&mut self, ticket: Ticket, node: &NodeId, nodes: &[NodeId]) -> Result<(), StoreError> {
        if *node != self.store.manifest().node {
            let text = format!("this node is {}, and stays it", self.store.manifest().node);
            self.outbox.reply(ticket, Reply::Error { code: ErrorCode::PreconditionFailed, text });
            return Ok(());
        }
        self.store.set_nodes(nodes)?;
        self.list_peers();
        self.outbox.reply(ticket, Reply::Init);
        Ok(())
    }

    /// Refuses something, in the order of all other messages.
    pub fn refuse(&mut self, outgoing: Outgoing) {
        if let Outgoing::Reply { ticket, reply } = outgoing {
            self.outbox.reply(ticket, reply);
        }
    }

    /// Takes a client's request.
    ///
    /// # Errors
    /// If the store fails; the process should end then.
    pub fn client(&mut self, ticket: Ticket, request: Request, now_ms: u64) -> Result<(), StoreError> {
        self.hear_a_line(now_ms);
        match request {
            Request::Echo(text) => self.outbox.reply(ticket, Reply::Echo(text)),
            Request::Generate(id) => self.outbox.reply(ticket, Reply::Generated(id)),
            request if self.catch_up.is_holding() => {
                if let Some((ticket, _)) = self.catch_up.hold(ticket, request) {
                    let text = "too many requests wait for this node to catch up".to_owned();
                    self.outbox.reply(ticket, Reply::Error { code: ErrorCode::TemporarilyUnavailable, text });
                }
            }
            request => self.serve(ticket, request)?,
        }
        Ok(())
    }

    fn serve(&mut self, mut ticket: Ticket, request: Request) -> Result<(), StoreError> {
        let reply = match request {
            Request::Add(element) => {
                if ticket.style == Style::GSet {
                    self.store.set_read_form(ReadForm::Value)?;
                }
                Reply::Added(self.store.append_local(OpBody::Add(element)))
            }
            Request::Remove(element) => self.remove(element)?,
            Request::Read => {
                if ticket.style == Style::GSet && self.store.manifest().read_form == ReadForm::Messages {
                    ticket.style = Style::Broadcast;
                }
                Reply::Elements(self.elements()?)
            }
            Request::Topology => {
                self.store.set_read_form(ReadForm::Messages)?;
                Reply::Topology
            }
            Request::Echo(text) => Reply::Echo(text),
            Request::Generate(id) => Reply::Generated(id),
        };
        self.outbox.reply(ticket, reply);
        Ok(())
    }

    /// Removes exactly the tags that are seen. More than one operation names are several operations behind one reply,
    /// which is in the same batch as the last of them.
    fn remove(&mut self, element: Element) -> Result<Reply, StoreError> {
        let tags = self.store.tags(&element)?;
        for some in tags.chunks(MAX_REMOVE_TAGS) {
            self.store.append_local(OpBody::Remove { element: element.clone(), tags: some.to_vec() });
        }
        Ok(Reply::Removed(tags))
    }

    fn elements(&self) -> Result<ElementList, StoreError> {
        let mut elements = ElementList::default();
        let mut last: Vec<u8> = Vec::new();
        for record in self.store.records(&[]) {
            let record = record?;
            if record.key.prefix() != last {
                last.clear();
                last.extend_from_slice(record.key.prefix());
                elements.push(record.element_bytes());
            }
        }
        Ok(elements)
    }

    /// Whether enough waits for a commit.
    pub fn is_batch_full(&self) -> bool {
        self.store.is_batch_full()
    }

    /// Does what is due by now.
    ///
    /// # Errors
    /// If the store fails; the process should end then.
    pub fn tick(&mut self, now_ms: u64) -> Result<(), StoreError> {
        self.tick_catch_up(now_ms)?;
        self.tick_transfer(now_ms);
        self.tick_gossip(now_ms);
        self.report_lost_and_found();
        Ok(())
    }

    /// When [`Replica::tick`] wants to be called next; `None`: when something has come.
    pub fn next_wakeup_ms(&self) -> Option<u64> {
        let times = [self.catch_up.next_wakeup_ms(), self.gossip_wakeup_ms(), self.transfer_wakeup_ms()];
        times.into_iter().flatten().min()
    }

    /// Makes everything durable, and hands out all that may leave then.
    ///
    /// # Errors
    /// If it could not be made durable: nothing may leave any more, and the process should end.
    pub fn commit(&mut self, now_ms: u64) -> Result<Vec<Outgoing>, StoreError> {
        self.push(now_ms);
        let synced = self.store.commit()?;
        Ok(self.outbox.release(synced))
    }

    /// Says on stderr if this store has lost operations of its own, which others now bring back.
    fn report_lost_and_found(&mut self) {
        let Some(parent) = self.parent else { return };
        let found = self.store.vv().get(parent.replica).0.saturating_sub(parent.seq.0);
        let (seen, reported) = self.lost_and_found;
        // Wait until no more of them come, so that it is said once.
        if found == seen && found > reported {
            tracing::warn!("this store had been rolled back by {found} ops; its peers have brought them back");
            self.lost_and_found.1 = found;
        }
        self.lost_and_found.0 = found;
    }
}
