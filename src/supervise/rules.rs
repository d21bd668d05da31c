//! What the supervisor does about what happens, without doing it: no processes, no pipes, no clock.
//!
//! ```text
//!            init_ok             kill             its end          its time
//!   Setup ───────────► Up ───────────────► Dying ─────────► Down ───────────┐
//!                      ▲        ┌────────────▲                              │ start, init
//!                      │        │ kill                                      │ (--no-reinit: straight to Up)
//!                      └────── Joining ◄────────────────────────────────────┘
//!                      init_ok, then what waits
//! ```
//!
//! Invariants:
//! - Above sees one `init_ok`, and no reply to a client that has given up.
//! - In `Setup` nothing is dropped and nobody is killed.
//! - After a restart the first line that reaches the child is `init`, and the second comes after its answer.
//! - The order of lines is kept in both directions.
//!
//! Times are milliseconds since whenever, and never go back.

use std::collections::VecDeque;
use std::ops::Range;

use super::arrivals::Arrivals;
use super::message::Message;

/// What is to happen, and when. See `docs/supervise.md`.
#[derive(Clone, Debug)]
pub struct Plan {
    /// A child is killed between half and one and a half of this after it was started.
    pub kill_interval_ms: u64,
    /// Quiet after the first `init_ok`.
    pub kill_after_ms: u64,
    /// No kill later than this after the first `init_ok`.
    pub kill_until_ms: u64,
    /// A killed child stays down for between nothing and this.
    pub max_down_ms: u64,
    /// Keep lines that come while the child is down.
    pub hold: bool,
    /// Send `init` again after a restart.
    pub reinit: bool,
    /// Replies to clients' requests older than this are dropped; 0: none.
    pub reply_deadline_ms: u64,
    /// How long the child may take to end after the input has ended.
    pub drain_ms: u64,
}

/// What is to be done. Lines are without their end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Do {
    /// Start the child.
    Start,
    /// SIGKILL it.
    Kill,
    /// A line for the child.
    Deliver(Vec<u8>),
    /// A line for those above.
    Emit(Vec<u8>),
    /// End the child's input, after everything delivered.
    CloseInput,
    /// The child has ended and will not be started again: end as it did.
    EndAsChild,
    /// Give up, for this reason.
    Fail(String),
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// SIGKILLs.
    pub kills: u64,
    /// Lines for the child that were lost with it or while it was down.
    pub lost: u64,
    /// Lines for the child that were kept while it was down, or that had not got through to it.
    pub held: u64,
    /// Replies that were dropped because their client has given up.
    pub late: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Before the first `init_ok`.
    Setup,
    /// The child gets everything at once.
    Up,
    /// It was killed, and has not ended yet.
    Dying,
    /// There is none until then.
    Down { until_ms: u64 },
    /// It was started again, and has not answered `init` yet.
    Joining,
}

/// The state of a supervisor.
pub struct Rules {
    plan: Plan,
    rng: fastrand::Rng,
    phase: Phase,
    init: Option<(Vec<u8>, Message)>,
    /// What has come and may not be delivered yet.
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    arrivals: Arrivals,
    /// Set by the first `init_ok`.
    kills_between_ms: Option<Range<u64>>,
    kill_at_ms: Option<u64>,
    /// Set by the end of the input.
    drained_by_ms: Option<u64>,
    /// Set when the rest is no longer for these rules to say.
    over: bool,
    counters: Counters,
}

impl Rules {
    /// The state in which the child has just been started. The same seed makes the same choices.
    pub fn new(plan: Plan, seed: u64) -> Self {
        Self {
            arrivals: Arrivals::new(plan.reply_deadline_ms),
            plan,
            rng: fastrand::Rng::with_seed(seed),
            phase: Phase::Setup,
            init: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            kills_between_ms: None,
            kill_at_ms: None,
            drained_by_ms: None,
            over: false,
            counters: Counters::default(),
        }
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How much waits in memory for the child.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// When [`Rules::tick`] has something to do, if ever.
    pub fn next_wakeup_ms(&self) -> Option<u64> {
        let restart = match self.phase {
            Phase::Down { until_ms } => Some(until_ms),
            _ => None,
        };
        let next = [self.kill_at_ms, restart, self.drained_by_ms].into_iter().flatten().min();
        next.filter(|_| !self.over)
    }

    /// A line for the child has come.
    pub fn from_above(&mut self, line: Vec<u8>, now_ms: u64, todo: &mut Vec<Do>) {
        let message = Message::of(&line);
        self.arrivals.note(&message, now_ms);
        if self.init.is_none() && message.body.kind == "init" {
            self.init = Some((line.clone(), message));
        }
        match self.phase {
            Phase::Setup | Phase::Up => todo.push(Do::Deliver(line)),
            Phase::Joining => self.wait(line),
            Phase::Dying | Phase::Down { .. } if self.plan.hold => {
                self.counters.held += 1;
                self.wait(line);
            }
            Phase::Dying | Phase::Down { .. } => self.counters.lost += 1,
        }
    }

    fn wait(&mut self, line: Vec<u8>) {
        self.waiting_bytes += line.len();
        self.waiting.push_back(line);
    }

    /// The child has written a line.
    pub fn from_child(&mut self, line: Vec<u8>, now_ms: u64, todo: &mut Vec<Do>) {
        let message = Message::of(&line);
        if message.body.kind == "init_ok" {
            self.init_ok(line, now_ms, todo);
        } else if self.phase == Phase::Joining && self.refuses_init(&message) {
            self.over = true;
            todo.push(Do::Fail(format!("the restarted node refuses init: {}", String::from_utf8_lossy(&line))));
        } else if self.phase != Phase::Setup && self.arrivals.is_late(&message, now_ms) {
            self.counters.late += 1;
        } else {
            todo.push(Do::Emit(line));
        }
    }

    fn init_ok(&mut self, line: Vec<u8>, now_ms: u64, todo: &mut Vec<Do>) {
        match self.phase {
            Phase::Setup => {
                todo.push(Do::Emit(line));
                self.phase = Phase::Up;
                self.kills_between_ms = Some(now_ms + self.plan.kill_after_ms..now_ms + self.plan.kill_until_ms);
                self.plan_kill(now_ms);
            }
            Phase::Joining => self.up(todo),
            // One that was sent just before the kill, or an unasked one: above has had its own.
            Phase::Up | Phase::Dying | Phase::Down { .. } => {}
        }
    }

    fn refuses_init(&self, message: &Message) -> bool {
        let Some((_, init)) = &self.init else { return false };
        message.body.kind == "error"
            && message.dest == init.src
            && message.body.in_reply_to.is_some()
            && message.body.in_reply_to == init.body.msg_id
    }

    /// Everything reaches the child from now on.
    fn up(&mut self, todo: &mut Vec<Do>) {
        self.phase = Phase::Up;
        self.waiting_bytes = 0;
        todo.extend(self.waiting.drain(..).map(Do::Deliver));
        if self.drained_by_ms.is_some() {
            todo.push(Do::CloseInput);
        }
    }

    /// A child runs from now on: when will it be killed?
    fn plan_kill(&mut self, now_ms: u64) {
        let Some(allowed) = self.kills_between_ms.clone().filter(|_| self.drained_by_ms.is_none()) else { return };
        let interval = self.plan.kill_interval_ms;
        let after = self.rng.u64(interval / 2..=interval + interval / 2);
        self.kill_at_ms = Some(now_ms.max(allowed.start) + after).filter(|at_ms| allowed.contains(at_ms));
    }

    /// The input has ended: everything is to come to a good end.
    pub fn above_ended(&mut self, now_ms: u64, todo: &mut Vec<Do>) {
        self.drained_by_ms = Some(now_ms + self.plan.drain_ms);
        self.kill_at_ms = None;
        match &mut self.phase {
            Phase::Setup | Phase::Up => todo.push(Do::CloseInput),
            Phase::Down { until_ms } => *until_ms = now_ms,
            Phase::Dying | Phase::Joining => {}
        }
    }

    /// The child has ended, and its last whole line was handed over. `by_kill` if SIGKILL has ended it: a child that was
    /// quicker than its kill has ended of itself. `undelivered` are the lines that it did not take.
    pub fn child_ended(&mut self, by_kill: bool, undelivered: Vec<Vec<u8>>, now_ms: u64, todo: &mut Vec<Do>) {
        if self.phase != Phase::Dying || !by_kill {
            self.over = true;
            todo.push(Do::EndAsChild);
            return;
        }
        let init = self.init.as_ref().map(|(line, _)| line);
        let kept: Vec<Vec<u8>> = undelivered.into_iter().filter(|line| Some(line) != init).collect();
        if self.plan.hold {
            self.counters.held += kept.len() as u64;
            self.waiting_bytes += kept.iter().map(Vec::len).sum::<usize>();
            // They came before those that wait.
            kept.into_iter().rev().for_each(|line| self.waiting.push_front(line));
        } else {
            self.counters.lost += kept.len() as u64;
        }
        let down_ms = if self.drained_by_ms.is_some() { 0 } else { self.rng.u64(0..=self.plan.max_down_ms) };
        self.phase = Phase::Down { until_ms: now_ms + down_ms };
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ms: u64, todo: &mut Vec<Do>) {
        if self.over {
            return;
        }
        if self.drained_by_ms.is_some_and(|by_ms| by_ms <= now_ms) {
            self.over = true;
            todo.push(Do::Fail("the node has not ended in time after its input had".to_owned()));
            return;
        }
        if self.kill_at_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            self.kill(todo);
        }
        if matches!(self.phase, Phase::Down { until_ms } if until_ms <= now_ms) {
            self.restart(now_ms, todo);
        }
    }

    fn kill(&mut self, todo: &mut Vec<Do>) {
        self.kill_at_ms = None;
        self.counters.kills += 1;
        self.phase = Phase::Dying;
        if !self.plan.hold {
            // What it would have got after `init_ok`.
            self.counters.lost += self.waiting.len() as u64;
            self.waiting.clear();
            self.waiting_bytes = 0;
        }
        todo.push(Do::Kill);
    }

    fn restart(&mut self, now_ms: u64, todo: &mut Vec<Do>) {
        todo.push(Do::Start);
        match &self.init {
            Some((init, _)) if self.plan.reinit => {
                todo.push(Do::Deliver(init.clone()));
                self.phase = Phase::Joining;
            }
            _ => self.up(todo),
        }
        self.plan_kill(now_ms);
    }
}

#[cfg(test)]
mod tests;
