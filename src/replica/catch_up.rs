//! After a restart: first hear what the others have, then answer.
//!
//! Nothing goes to a peer before a line other than `init` has come, or some time has passed: Maelstrom goes deaf to a
//! node that writes to one that it has not registered yet.

use std::collections::VecDeque;

use super::Replica;
use super::message::{Request, Ticket};
use crate::crdt::Element;
use crate::storage::StoreError;

/// A store with a past speaks to its peers after this at the latest.
const QUIET_MS: u64 = 250;
/// A fresh one after this.
const FRESH_QUIET_MS: u64 = 2_000;
/// Most requests held …
const MAX_HELD: usize = 65_536;
/// … and most bytes of their elements.
const MAX_HELD_BYTES: usize = 32 << 20;
/// How many peers are asked at a start.
const PEERS_ASKED: usize = 3;

/// Whether peers may be spoken to, and whether requests are held.
pub struct CatchUp {
    stage: Stage,
    fresh: bool,
    held: VecDeque<(Ticket, Request)>,
    held_bytes: usize,
}

enum Stage {
    /// Not a word to peers before this time.
    Quiet {
        until_ms: u64,
    },
    /// Peers have been asked; requests are held until one has answered, or this time.
    Asked {
        until_ms: u64,
    },
    Done,
}

impl CatchUp {
    pub fn new(fresh: bool, now_ms: u64) -> Self {
        let quiet = if fresh { FRESH_QUIET_MS } else { QUIET_MS };
        Self { stage: Stage::Quiet { until_ms: now_ms + quiet }, fresh, held: VecDeque::new(), held_bytes: 0 }
    }

    /// Whether a client's set request has to wait.
    pub fn is_holding(&self) -> bool {
        matches!(self.stage, Stage::Asked { .. }) || !self.held.is_empty()
    }

    /// Keeps a request; gives it back if there are too many.
    pub fn hold(&mut self, ticket: Ticket, request: Request) -> Option<(Ticket, Request)> {
        let bytes = weight(&request);
        if self.held.len() >= MAX_HELD || self.held_bytes + bytes > MAX_HELD_BYTES {
            return Some((ticket, request));
        }
        self.held_bytes += bytes;
        self.held.push_back((ticket, request));
        None
    }

    /// How many requests are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    pub fn next_wakeup_ms(&self) -> Option<u64> {
        match self.stage {
            Stage::Quiet { until_ms } | Stage::Asked { until_ms } => Some(until_ms),
            // What is still held is answered as fast as the batches go.
            Stage::Done => (!self.held.is_empty()).then_some(0),
        }
    }
}

fn weight(request: &Request) -> usize {
    match request {
        Request::Add(element)
        | Request::Remove(element)
        | Request::Contains(element)
        | Request::Page { after: Some(element), .. } => element.as_bytes().len(),
        Request::AddMany(elements) | Request::RemoveMany(elements) => weight_of_all(elements),
        Request::Once(_, write) => weight_of_all(write.elements()),
        Request::Read | Request::Size | Request::Status | Request::Page { after: None, .. } | Request::Topology => 0,
        Request::Echo(text) => text.len(),
        Request::Generate(_) => 0,
    }
}

fn weight_of_all(elements: &[Element]) -> usize {
    elements.iter().map(|element| size_of::<Element>() + element.as_bytes().len()).sum()
}

impl Replica {
    /// Whether peers may be spoken to.
    pub(super) fn may_speak(&self) -> bool {
        !matches!(self.catch_up.stage, Stage::Quiet { .. })
    }

    /// A line other than `init` has come: the cluster is up, so peers may be asked for what this node has missed.
    pub fn hear_a_line(&mut self, now_ms: u64) {
        if let Stage::Quiet { .. } = self.catch_up.stage {
            // A first start holds nothing: there is nothing that it could have missed and known.
            let hold = !self.catch_up.fresh && !self.peers.is_empty() && self.config.catch_up_ms > 0;
            let until_ms = now_ms + self.config.catch_up_ms;
            self.catch_up.stage = if hold { Stage::Asked { until_ms } } else { Stage::Done };
            for peer in self.gossip.choose(&self.peers, PEERS_ASKED) {
                self.send_digest(&peer, false, true);
            }
        }
    }

    /// A peer's answer has been merged: requests need not wait any longer.
    pub(super) fn caught_up(&mut self) -> Result<(), StoreError> {
        if matches!(self.catch_up.stage, Stage::Asked { .. }) {
            self.catch_up.stage = Stage::Done;
            self.serve_held()?;
        }
        Ok(())
    }

    /// Answers what is held, until a batch is full.
    fn serve_held(&mut self) -> Result<(), StoreError> {
        while !self.is_batch_full() {
            let Some((ticket, request)) = self.catch_up.held.pop_front() else { break };
            self.catch_up.held_bytes -= weight(&request);
            self.serve(ticket, request)?;
        }
        Ok(())
    }

    pub(super) fn tick_catch_up(&mut self, now_ms: u64) -> Result<(), StoreError> {
        match self.catch_up.stage {
            Stage::Quiet { until_ms } if now_ms >= until_ms => self.hear_a_line(now_ms),
            Stage::Asked { until_ms } if now_ms >= until_ms => self.caught_up()?,
            Stage::Done => self.serve_held()?,
            _ => {}
        }
        Ok(())
    }

    /// Nobody will ask any more: answers a batch of what is held, and says whether there is more.
    ///
    /// # Errors
    /// If the store fails.
    pub fn answer_held(&mut self) -> Result<bool, StoreError> {
        self.catch_up.stage = Stage::Done;
        self.serve_held()?;
        Ok(!self.catch_up.held.is_empty())
    }
}
