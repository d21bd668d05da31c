//! `orset supervise`: a node to Maelstrom, a nemesis to its child.
//!
//! Maelstrom cannot kill or restart a node. The supervisor stands between: it passes lines to and from a node that it
//! SIGKILLs and starts again at seeded random times, so that Maelstrom sees one node that is sometimes slow and loses
//! messages. What it may and may not do to the lines took several tries to find out; `docs/supervise.md` has the ten
//! rules with their reasons.
//!
//! - [`rules`] decides: a state machine without processes, pipes or a clock.
//! - This file does: one loop that polls four pipes and a pidfd, and never blocks in a write. So neither direction waits
//!   for the other, and a kill waits for nothing.
//! - [`crate::child`] sees to it that nothing outlives us.
//!
//! # Caveats
//! A direction that nobody reads from is not read into without end: beyond `MAX_QUEUED_BYTES` it waits, as on a full pipe.
//! Requests that wait there are younger than they should be when they are stamped.

mod arrivals;
mod message;
mod node;
mod queue;
pub mod rules;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::node::input::LineBuffer;
use node::{Node, take_lines};
use queue::Queue;
use rules::{Counters, Do, Plan, Rules};

/// A longer line is dropped. Maelstrom itself breaks at strings of 20 million characters.
const MAX_LINE_BYTES: usize = 64 << 20;
/// When so much waits to be written, no more is read into that direction.
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// What is supervised, and how.
#[derive(Clone, Debug)]
pub struct SuperviseOptions {
    /// The node.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// What happens to it.
    pub plan: Plan,
    /// Of the times of kills and restarts.
    pub seed: u64,
}

/// Why the supervisor stopped before it should.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The node cannot be started.
    #[error("cannot start {}: {error}", program.display())]
    Start {
        /// What was to be started.
        program: PathBuf,
        /// Why it could not.
        error: io::Error,
    },
    /// A pipe, or something else of the system's.
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    /// The node does not do what it must.
    #[error("{0}")]
    Node(String),
}

/// Supervises until the node ends without having been killed; returns how it ended.
///
/// # Errors
/// If the node cannot be started, refuses `init` after a restart, or does not end after its input has; and if
/// standard input or output fails. The node is dead then.
pub fn run(options: SuperviseOptions) -> Result<ExitStatus, SuperviseError> {
    let Plan { kill_interval_ms, kill_after_ms, kill_until_ms, max_down_ms, .. } = options.plan;
    tracing::info!(
        "seed {}; a kill {} to {} s after each start, from {} to {} s after the first init_ok; down for up to {} s",
        options.seed,
        seconds(kill_interval_ms / 2),
        seconds(kill_interval_ms + kill_interval_ms / 2),
        seconds(kill_after_ms),
        seconds(kill_until_ms),
        seconds(max_down_ms),
    );
    let mut supervisor = Supervisor {
        rules: Rules::new(options.plan.clone(), options.seed),
        options,
        node: None,
        node_started_ms: 0,
        above: LineBuffer::new(MAX_LINE_BYTES),
        input_ended: false,
        to_above: Queue::default(),
        output_closed: false,
        started: Instant::now(),
    };
    let outcome = supervisor.run();
    tracing::info!("ended: {}", supervisor.rules.counters());
    outcome
}

struct Supervisor {
    options: SuperviseOptions,
    rules: Rules,
    node: Option<Node>,
    node_started_ms: u64,
    above: LineBuffer,
    input_ended: bool,
    to_above: Queue,
    output_closed: bool,
    started: Instant,
}

/// What can go on, after a poll.
struct Ready {
    input: bool,
    output: bool,
    node_takes: bool,
    node_says: bool,
    node_ended: bool,
}

impl Supervisor {
    fn run(&mut self) -> Result<ExitStatus, SuperviseError> {
        self.start()?;
        loop {
            let mut todo = Vec::new();
            self.rules.tick(self.now_ms(), &mut todo);
            let mut ended = self.perform(todo)?;
            if ended.is_none() {
                let ready = self.wait().map_err(io_error("cannot wait for input"))?;
                ended = self.turn(&ready)?;
            }
            if let Some(status) = ended {
                self.flush().map_err(io_error("cannot write to standard output"))?;
                return Ok(status);
            }
        }
    }

    /// Milliseconds since the start.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn wait(&self) -> io::Result<Ready> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let queued = self.rules.waiting_bytes() + self.node.as_ref().map_or(0, |node| node.queue.bytes());
        let input = (!self.input_ended && queued < MAX_QUEUED_BYTES).then(|| (stdin.as_fd(), PollFlags::IN));
        let output = (!self.to_above.is_empty()).then(|| (stdout.as_fd(), PollFlags::OUT));
        let mut fds = [input, output, None, None, None];
        if let Some(node) = &self.node {
            let takes = node.stdin.as_ref().filter(|_| !node.queue.is_empty() && !node.deaf);
            let says = node.stdout.as_ref().filter(|_| self.to_above.bytes() < MAX_QUEUED_BYTES);
            fds[2] = takes.map(|stdin| (stdin.as_fd(), PollFlags::OUT));
            fds[3] = says.map(|stdout| (stdout.as_fd(), PollFlags::IN));
            fds[4] = Some((node.child.ended_fd(), PollFlags::IN));
        }
        let due_ms = self.rules.next_wakeup_ms();
        let [input, output, node_takes, node_says, node_ended] =
            poll_some(fds, due_ms.map(|at_ms| Duration::from_millis(at_ms.saturating_sub(self.now_ms()))))?;
        Ok(Ready { input, output, node_takes, node_says, node_ended })
    }

    /// Goes on where that is possible. Says how the node has ended, if it has for good.
    fn turn(&mut self, ready: &Ready) -> Result<Option<ExitStatus>, SuperviseError> {
        let mut todo = Vec::new();
        let now_ms = self.now_ms();
        if ready.output
            && !self.to_above.write_some(io::stdout().as_fd()).map_err(io_error("cannot write to stdout"))?
        {
            self.output_closed(now_ms, &mut todo);
        }
        if let Some(node) = &mut self.node {
            if ready.node_says {
                let lines = node.read_some().map_err(io_error("cannot read from the node"))?;
                lines.into_iter().for_each(|line| self.rules.from_child(line, now_ms, &mut todo));
            }
            if ready.node_takes {
                node.write_some().map_err(io_error("cannot write to the node"))?;
            }
        }
        if ready.input {
            self.above.fill(io::stdin().as_fd()).map_err(io_error("cannot read standard input"))?;
            take_lines(&mut self.above, "standard input", |line| self.rules.from_above(line, now_ms, &mut todo));
            if self.above.has_ended() && !self.input_ended {
                self.input_ended = true;
                self.rules.above_ended(now_ms, &mut todo);
            }
        }
        let ended = self.perform(todo)?;
        if ready.node_ended && ended.is_none() { self.node_ended() } else { Ok(ended) }
    }

    /// The node has ended, by a kill or of itself. Its last words are handed on first.
    fn node_ended(&mut self) -> Result<Option<ExitStatus>, SuperviseError> {
        let (now_ms, mut todo) = (self.now_ms(), Vec::new());
        let Some(node) = &mut self.node else { return Ok(None) };
        let lines = node.read_rest().map_err(io_error("cannot read from the node"))?;
        lines.into_iter().for_each(|line| self.rules.from_child(line, now_ms, &mut todo));
        let undelivered = node.queue.take_unwritten();
        let status = node.child.wait().map_err(io_error("cannot wait for the node"))?;
        let by_kill = status.signal() == Some(Signal::KILL.as_raw());
        self.rules.child_ended(by_kill, undelivered, now_ms, &mut todo);
        let ended = self.perform(todo)?;
        self.node = None;
        Ok(ended)
    }

    /// Nobody reads what the node says: the node is told that nobody writes, either.
    fn output_closed(&mut self, now_ms: u64, todo: &mut Vec<Do>) {
        self.to_above.take_unwritten();
        self.output_closed = true;
        if !self.input_ended {
            self.input_ended = true;
            self.rules.above_ended(now_ms, todo);
        }
    }

    /// Does what the rules say. Says how the node has ended, if it has for good.
    fn perform(&mut self, todo: Vec<Do>) -> Result<Option<ExitStatus>, SuperviseError> {
        for step in todo {
            match (step, &mut self.node) {
                (Do::Start, _) => self.start()?,
                (Do::Emit(line), _) if !self.output_closed => self.to_above.push(line),
                (Do::Deliver(line), Some(node)) => node.queue.push(line),
                (Do::CloseInput, Some(node)) => {
                    node.closing = true;
                    node.close_if_done();
                }
                (Do::Kill, Some(node)) => {
                    node.child.kill_group().map_err(io_error("cannot kill the node"))?;
                    let (pid, counters) = (node.child.pid(), self.rules.counters());
                    let up_ms = self.now_ms() - self.node_started_ms;
                    tracing::info!("kill of process {pid} after {} s; so far {counters}", seconds(up_ms));
                }
                (Do::EndAsChild, Some(node)) => {
                    let status = node.child.wait().map_err(io_error("cannot wait for the node"))?;
                    if !self.input_ended {
                        tracing::error!("the node has ended, and nobody had killed it: {status}");
                    }
                    return Ok(Some(status));
                }
                (Do::Fail(why), _) => return Err(SuperviseError::Node(why)),
                // Nobody is there to take it.
                (Do::Emit(_) | Do::Deliver(_) | Do::CloseInput | Do::Kill | Do::EndAsChild, _) => {}
            }
        }
        Ok(None)
    }

    fn start(&mut self) -> Result<(), SuperviseError> {
        let SuperviseOptions { program, args, .. } = &self.options;
        let node =
            Node::start(program, args).map_err(|error| SuperviseError::Start { program: program.clone(), error })?;
        tracing::info!("process {} started", node.child.pid());
        self.node_started_ms = self.now_ms();
        self.node = Some(node);
        Ok(())
    }

    /// Writes what there is for those above, for as long as a node may take to end.
    fn flush(&mut self) -> io::Result<()> {
        let until = Instant::now() + Duration::from_millis(self.options.plan.drain_ms);
        let stdout = io::stdout();
        while !self.to_above.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            let [writable] = poll_some([Some((stdout.as_fd(), PollFlags::OUT))], Some(left))?;
            if (writable && !self.to_above.write_some(stdout.as_fd())?) || left.is_zero() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Waits until one of `fds` is ready for what is asked of it, for at most `timeout`; says which are. An interruption is
/// no error.
fn poll_some<const N: usize>(
    fds: [Option<(BorrowedFd, PollFlags)>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    });
    let mut polled: Vec<PollFd> =
        fds.iter().flatten().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok([false; N]),
        Err(error) => return Err(error.into()),
    }
    let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
    Ok(fds.map(|fd| fd.is_some() && ready.next().unwrap_or(false)))
}

fn io_error(what: &'static str) -> impl Fn(io::Error) -> SuperviseError {
    move |error| SuperviseError::Io(what, error)
}

/// Shown, it has three decimals at most: this is the number nearest to them, and whole seconds and a fraction added up
/// need not be.
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// The exit code of somebody who ends as that process did: its own, or as shells have it 128 and the signal.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

impl std::fmt::Display for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self { kills, lost, held, late } = self;
        write!(f, "{kills} kills, {lost} lines lost, {held} held, {late} late replies dropped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_shown_with_three_decimals_at_most() {
        assert_eq!(seconds(1356).to_string(), "1.356");
        for ms in 0..100_000 {
            assert!(seconds(ms).to_string().split('.').nth(1).is_none_or(|decimals| decimals.len() <= 3), "{ms}");
        }
    }
}
