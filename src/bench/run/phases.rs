//! The parts of a run, one after the other: `init`, operations beside faults, agreement, drain.

use std::io;

use serde_json::Value;

use super::super::checker::or_set;
use super::super::clients::TIMEOUT_NS;
use super::super::history::{Event, Phase, Request, Workload};
use super::{Runner, settle};

/// Final reads are asked for this often.
const POLL_NS: u64 = 200_000_000;
/// The drain goes on as long as it gets on: it is over if nothing was answered for so long.
const DRAIN_PATIENCE_NS: u64 = 2 * TIMEOUT_NS;
/// How many clients drain at once.
const DRAINERS: usize = 8;

/// Where a run is.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// Every node is started and sent `init`.
    Setup,
    /// Operations and faults.
    Main,
    /// Reads on every node until they agree.
    Final(Agreement),
    /// Every element is removed on one node.
    Drain(Drain),
    /// Nothing to do any more.
    Done,
}

/// Waiting for agreement.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    healed_ns: u64,
    /// Once all nodes are ready: no longer than this.
    until_ns: Option<u64>,
    /// One client a node.
    readers: Vec<usize>,
    next_ns: u64,
    asked: bool,
}

/// The drain.
#[derive(Clone, Debug, PartialEq)]
pub struct Drain {
    until_ns: u64,
    clients: Vec<usize>,
    todo: Vec<Value>,
    next_ns: u64,
    /// How many requests had been answered well, and when that last changed.
    answered: (usize, u64),
}

impl Stage {
    /// The phase that operations are recorded under.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        match self {
            Stage::Setup => None,
            Stage::Main => Some(Phase::Main),
            Stage::Final(_) => Some(Phase::Final),
            Stage::Drain(_) | Stage::Done => Some(Phase::Drain),
        }
    }
}

impl Runner<'_> {
    /// Does what is due in this part of the run, and goes on to the next when it is over.
    pub(super) fn advance(&mut self, now_ns: u64) -> io::Result<()> {
        match std::mem::replace(&mut self.stage, Stage::Setup) {
            Stage::Setup => {
                if self.nodes.iter().all(|node| node.ready) && self.control.is_empty() {
                    self.main_begin_ns = now_ns;
                    self.recorder.record(Event::Phase { phase: Phase::Main })?;
                    self.stage = Stage::Main;
                }
                Ok(())
            }
            Stage::Main => {
                self.stage = Stage::Main;
                self.operate(now_ns)
            }
            Stage::Final(agreement) => self.agree(agreement, now_ns),
            Stage::Drain(drain) => self.drain(drain, now_ns),
            Stage::Done => {
                self.stage = Stage::Done;
                Ok(())
            }
        }
    }

    /// When this part of the run has something to do.
    pub(super) fn stage_wake_ns(&self) -> Option<u64> {
        match &self.stage {
            Stage::Main => {
                let next = self.main_begin_ns + self.generator.due_ns();
                let next = if self.free_client(0).is_some() { Some(next) } else { None };
                let faults = self.nemesis.wake_ns().map(|wake_ns| self.main_begin_ns + wake_ns);
                [next, faults, Some(self.main_end_ns())].into_iter().flatten().min()
            }
            Stage::Final(agreement) => Some(agreement.next_ns),
            Stage::Drain(drain) => Some(drain.next_ns),
            Stage::Setup | Stage::Done => None,
        }
    }

    fn main_end_ns(&self) -> u64 {
        self.main_begin_ns + u64::try_from(self.options.time_limit.as_nanos()).unwrap_or(u64::MAX)
    }

    fn free_client(&self, skip: usize) -> Option<usize> {
        (0..self.options.concurrency).filter(|worker| self.clients.is_free(*worker)).nth(skip)
    }

    /// Operations and faults.
    fn operate(&mut self, now_ns: u64) -> io::Result<()> {
        if now_ns >= self.main_end_ns() {
            return self.heal(now_ns);
        }
        let since_ns = now_ns - self.main_begin_ns;
        let steps = self.nemesis.steps(since_ns);
        self.apply(steps)?;
        while self.generator.due_ns() <= since_ns {
            let free = (0..self.options.concurrency).filter(|worker| self.clients.is_free(*worker)).count();
            if free == 0 {
                break;
            }
            let (request, chosen) = self.generator.next(since_ns, free);
            if let Some(worker) = self.free_client(chosen) {
                self.request(worker, Phase::Main, request, now_ns)?;
            }
        }
        Ok(())
    }

    fn heal(&mut self, now_ns: u64) -> io::Result<()> {
        let steps = self.nemesis.heal();
        self.apply(steps)?;
        self.recorder.record(Event::Phase { phase: Phase::Final })?;
        self.progress.note(now_ns, "time limit reached: healed, waiting for recovery");
        let readers = (0..self.nodes.len()).map(|node| self.clients.add(node)).collect();
        let agreement = Agreement { healed_ns: now_ns, until_ns: None, readers, next_ns: now_ns, asked: false };
        self.stage = Stage::Final(agreement);
        Ok(())
    }

    fn recovery_ns(&self) -> u64 {
        u64::try_from(self.options.recovery.as_nanos()).unwrap_or(u64::MAX)
    }

    fn agree(&mut self, mut agreement: Agreement, now_ns: u64) -> io::Result<()> {
        if now_ns < agreement.next_ns {
            self.stage = Stage::Final(agreement);
            return Ok(());
        }
        agreement.next_ns = now_ns + POLL_NS;
        let sets = !matches!(self.options.workload, Workload::Echo | Workload::UniqueIds);
        let ready = self.nodes.iter().all(|node| node.ready);
        if ready && agreement.until_ns.is_none() {
            agreement.until_ns = Some(now_ns + self.recovery_ns());
        }
        let all_read = agreement.readers.iter().all(|reader| self.clients.is_free(*reader));
        let still_waiting = (0..self.options.concurrency).any(|worker| !self.clients.is_free(worker));
        let quiet = all_read && !still_waiting && ready && (!sets || agreement.asked);
        // What main's clients still wait for may take until they give up.
        let patience_ns = agreement.healed_ns + if ready { TIMEOUT_NS } else { 2 * self.recovery_ns().max(TIMEOUT_NS) };
        let limit_ns = agreement.until_ns.unwrap_or(0).max(if ready && !still_waiting { 0 } else { patience_ns });
        // Reads that agree do not show all: a remove that has not arrived can hide behind another tag of its element.
        // So workload `or-set` gets the whole time, as Maelstrom gives it to all.
        let may_end = self.options.workload != Workload::OrSet || now_ns > limit_ns;
        let settled = quiet && may_end && (!sets || settle::agree(&self.recorder.history));
        // A round of reads is not cut off in the middle, unless a node does not answer at all.
        let over = now_ns > limit_ns && (quiet || now_ns > limit_ns + TIMEOUT_NS);
        if settled || over {
            return self.agreed(settled, now_ns);
        }
        if sets && all_read {
            agreement.asked = !still_waiting;
            for reader in agreement.readers.clone() {
                self.request(reader, Phase::Final, Request::Read, now_ns)?;
            }
        }
        self.stage = Stage::Final(agreement);
        Ok(())
    }

    fn agreed(&mut self, settled: bool, now_ns: u64) -> io::Result<()> {
        if !settled || self.options.workload != Workload::OrSet {
            self.stage = Stage::Done;
            return Ok(());
        }
        self.recorder.record(Event::Phase { phase: Phase::Drain })?;
        self.progress.note(now_ns, "the nodes agree: every element is removed on one node");
        let node = self.random.usize(..self.nodes.len());
        let clients = (0..DRAINERS).map(|_| self.clients.add(node)).collect();
        let todo = settle::elements(&self.recorder.history);
        let until_ns = now_ns + self.recovery_ns();
        self.stage =
            Stage::Drain(Drain { until_ns, clients, todo, next_ns: now_ns, answered: (self.counted[1], now_ns) });
        Ok(())
    }

    fn drain(&mut self, mut drain: Drain, now_ns: u64) -> io::Result<()> {
        if drain.answered.0 != self.counted[1] {
            drain.answered = (self.counted[1], now_ns);
        }
        // A node that answers nothing any more is not asked about every element, one after the other.
        if now_ns > drain.answered.1 + DRAIN_PATIENCE_NS {
            self.stage = Stage::Done;
            return Ok(());
        }
        if drain.todo.is_empty() && drain.clients.iter().all(|client| self.clients.is_free(*client)) {
            let missing = or_set::still_to_drain(&self.recorder.history);
            if missing.is_empty() || now_ns > drain.until_ns {
                self.stage = Stage::Done;
                return Ok(());
            }
            if now_ns >= drain.next_ns {
                drain.todo = missing;
            }
        }
        for client in drain.clients.clone() {
            if self.clients.is_free(client)
                && let Some(element) = drain.todo.pop()
            {
                self.request(client, Phase::Drain, Request::Remove { element }, now_ns)?;
            }
        }
        drain.next_ns = now_ns + POLL_NS;
        self.stage = Stage::Drain(drain);
        Ok(())
    }
}
