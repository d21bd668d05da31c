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
//! - A reply that is too large for one message leaves in pieces, with nothing else between them: see `reading`.
//! - A message's version vector is information about its sender. It is never merged into this replica's own.
//! - Clients' set requests are held after a restart until one peer's answer is merged or a bound has passed. That is
//!   for freshness only: nothing is less safe if it does not happen.

mod arrival;
mod catch_up;
mod gossip;
pub mod message;
mod once;
pub mod outbox;
mod parking;
mod pin;
mod pulls;
mod reading;
mod relay;
mod spread;
mod status;
mod transfer;

pub use message::*;
pub use outbox::Outbox;
pub use status::{PeerStatus, Status};

use crate::crdt::{Element, MAX_REMOVE_TAGS, NodeId, OpBody, Tag};
use crate::storage::{ReadForm, Recovery, Store, StoreError};
use catch_up::CatchUp;
use gossip::Gossip;
use parking::Parking;
use reading::Reading;
use relay::Relay;
use transfer::{Receiving, Sending};

/// When so much waits to be said, it is said before anything else is heard: every read is a copy of the whole set.
const MAX_OUTBOX_BYTES: usize = 4 << 20;

/// Intervals and bounds.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaConfig {
    /// How long clients' set requests are held after a restart, at most.
    pub catch_up_ms: u64,
    /// The relay of a cluster of 25 nodes or more spreads new operations this long after it last did, at the latest; of
    /// a smaller one, sooner in proportion. It should be a little more than a round trip: most other times follow from it.
    pub flush_interval_ms: u64,
    /// Others push theirs to the relay so long after the first of them.
    pub leaf_wait_ms: u64,
    /// A digest goes to a random peer after this, doubling while nothing differs …
    pub digest_interval_ms: u64,
    /// … up to this.
    pub digest_max_ms: u64,
    /// Messages are cut at about this size (one operation or record may be larger).
    pub message_bytes: usize,
    /// An answer has at most so many messages. Whoever receives a state delta counts on it, so that it is the same for all
    /// nodes of a cluster.
    pub answer_messages: usize,
    /// The reply to a whole read is made in pieces of about this size.
    pub read_piece_bytes: usize,
    /// For a state delta about more dots than this, bitmaps are compared by hashes first.
    pub hashes_from_dots: u64,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        Self {
            catch_up_ms: 500,
            flush_interval_ms: 300,
            leaf_wait_ms: 0,
            digest_interval_ms: 2_000,
            digest_max_ms: 30_000,
            message_bytes: 60 << 10,
            answer_messages: 16,
            read_piece_bytes: 256 << 10,
            hashes_from_dots: 2 << 20,
        }
    }
}

/// Operations of this node's earlier incarnations that this store has lost, and that others bring back.
struct LostAndFound {
    /// What was held of them at the start; `None` for a fresh store, which has lost nothing that it knew.
    at_start: Option<u64>,
    found: u64,
    reported: u64,
    /// Something has been merged since they were counted.
    stale: bool,
}

/// See the module's text.
pub struct Replica {
    store: Store,
    config: ReplicaConfig,
    outbox: Outbox,
    /// The other nodes of the cluster.
    peers: Vec<NodeId>,
    relay: Relay,
    /// The latest time that it was told.
    now_ms: u64,
    parking: Parking,
    gossip: Gossip,
    catch_up: CatchUp,
    reading: Option<Reading>,
    receiving: Option<Receiving>,
    sending: Sending,
    lost_and_found: LostAndFound,
}

impl Replica {
    /// The replica of an open store. `random` are random bits for the choice of peers.
    pub fn new(store: Store, recovery: &Recovery, config: ReplicaConfig, random: u64, now_ms: u64) -> Self {
        let at_start = store.manifest().own.map(|_| ops_of_this_node(&store));
        let mut replica = Self {
            catch_up: CatchUp::new(recovery.fresh, now_ms),
            gossip: Gossip::new(random, now_ms, &config),
            relay: Relay::new(&config, store.vv()),
            store,
            config,
            outbox: Outbox::default(),
            peers: Vec::new(),
            now_ms,
            parking: Parking::default(),
            reading: None,
            receiving: None,
            sending: Sending::default(),
            lost_and_found: LostAndFound { at_start, found: 0, reported: 0, stale: false },
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
        self.relay.set_nodes(&manifest.node, &manifest.nodes);
    }

    /// Takes note of the time.
    fn pass(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
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
        self.pass(now_ms);
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
        if ticket.style == Style::GSet && matches!(request, Request::Add(_) | Request::Once(..)) {
            self.store.set_read_form(ReadForm::Value)?;
        }
        let reply = match request {
            Request::Add(element) => Reply::Added(self.store.append_local(OpBody::Add(element))),
            Request::AddMany(elements) => {
                let add = |element| self.store.append_local(OpBody::Add(element));
                Reply::AddedMany(elements.into_iter().map(add).collect())
            }
            Request::Remove(element) => Reply::Removed(self.remove(&element)?),
            Request::RemoveMany(elements) => {
                Reply::RemovedMany(elements.iter().map(|element| self.remove(element)).collect::<Result<_, _>>()?)
            }
            Request::Once(key, write) => self.once(key, write)?,
            Request::Contains(element) => {
                self.store.prepare_look_ups();
                Reply::Contains(self.store.contains(&element)?)
            }
            Request::Size => Reply::Size(self.store.counts()?),
            Request::Status => Reply::Status(Box::new(self.status()?)),
            Request::Page { limit, after } => self.page(limit, after.as_ref())?,
            Request::Read => {
                if ticket.style == Style::GSet && self.store.manifest().read_form == ReadForm::Messages {
                    ticket.style = Style::Broadcast;
                }
                return self.read(ticket);
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
    fn remove(&mut self, element: &Element) -> Result<Vec<Tag>, StoreError> {
        self.store.prepare_look_ups();
        let tags = self.store.tags(element)?;
        for some in tags.chunks(MAX_REMOVE_TAGS) {
            self.store.append_local(OpBody::Remove { element: element.clone(), tags: some.to_vec() });
        }
        Ok(tags)
    }

    /// How many clients' requests wait until this replica has caught up.
    pub fn held_requests(&self) -> usize {
        self.catch_up.held()
    }

    /// Whether enough waits for a commit.
    pub fn is_batch_full(&self) -> bool {
        self.store.is_batch_full() || self.outbox.bytes() >= MAX_OUTBOX_BYTES
    }

    /// Does what is due by now.
    ///
    /// # Errors
    /// If the store fails; the process should end then.
    pub fn tick(&mut self, now_ms: u64) -> Result<(), StoreError> {
        self.pass(now_ms);
        self.tick_catch_up(now_ms)?;
        self.tick_transfer(now_ms);
        self.tick_gossip(now_ms);
        self.tick_relay(now_ms);
        self.report_lost_and_found();
        Ok(())
    }

    /// When [`Replica::tick`] wants to be called next; `None`: when something has come.
    pub fn next_wakeup_ms(&self) -> Option<u64> {
        let times = [
            self.is_reading().then_some(0),
            self.catch_up.next_wakeup_ms(),
            self.gossip_wakeup_ms(),
            self.relay_wakeup_ms(),
            self.transfer_wakeup_ms(),
        ];
        times.into_iter().flatten().min()
    }

    /// Makes everything durable, and hands out all that may leave then. While [`Replica::is_reading`], that is one piece
    /// of a reply, and whoever has got rid of it calls this again.
    ///
    /// # Errors
    /// If it could not be made durable: nothing may leave any more, and the process should end.
    pub fn commit(&mut self, now_ms: u64) -> Result<Vec<Outgoing>, StoreError> {
        self.spread(now_ms)?;
        self.read_on()?;
        let synced = self.store.commit()?;
        Ok(self.outbox.release(synced))
    }

    /// Takes back what [`Replica::commit`] gave, once it has been said, for the next batch to be put into.
    pub fn reuse(&mut self, said: Vec<Outgoing>) {
        self.outbox.reuse(said);
    }

    /// Takes note that something of others' has been merged.
    fn merged(&mut self) {
        self.lost_and_found.stale = true;
    }

    /// Says on stderr if this store has lost operations of its own, which others now bring back.
    fn report_lost_and_found(&mut self) {
        let Some(at_start) = self.lost_and_found.at_start else { return };
        if self.lost_and_found.stale {
            // Wait until no more of them come, so that it is said once.
            self.lost_and_found.stale = false;
            self.lost_and_found.found = ops_of_this_node(&self.store).saturating_sub(at_start);
            return;
        }
        let LostAndFound { found, reported, .. } = self.lost_and_found;
        if found > reported {
            tracing::warn!(
                "this store had been rolled back by {found} ops, or a copy of it has been running: \
                 its peers have brought them back"
            );
            self.lost_and_found.reported = found;
        }
    }
}

/// How many operations are held of this node's incarnations other than the present one.
fn ops_of_this_node(store: &Store) -> u64 {
    let (node, own) = (&store.manifest().node, store.incarnation());
    let state = store.state();
    let others = state.incarnations.iter().filter(|(replica, i)| i.node == *node && *replica != own);
    others.map(|(replica, _)| state.vv.get(replica).0).sum()
}
