//! The runner: one thread, one poll loop around clients, network, nemesis and processes. So the order of the history is
//! exact, and nothing in it races.

mod again;
mod faults;
mod phases;
mod power;
mod recorder;
mod settle;
mod traffic;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::clients::{Clients, Pending};
use super::files::{LineFile, RunDir};
use super::generator::Generator;
use super::history::{End, Event, FORMAT, FaultKind, History, Net, Outcome, Phase, Run};
use super::nemesis::{LinkFault, Nemesis, Planned};
use super::network::{Lateness, Links};
use super::node::{Node, cpu_s};
use super::options::Options;
use super::power::NoPower;
use super::priority::{self, NodeNiceness};
use again::Unanswered;
use phases::Stage;
use recorder::Recorder;

/// A node has so long to answer its first `init` (as under Maelstrom) and `topology`.
const SETUP_PATIENCE_NS: u64 = 10_000_000_000;
/// The status is shown this often.
const STATUS_NS: u64 = 200_000_000;
/// The loop looks at everything at least this often.
const LONGEST_WAIT_NS: u64 = 200_000_000;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The run's directory or a pipe.
    #[error("{0}: {1}")]
    Io(String, io::Error),
    /// A node cannot be started.
    #[error("cannot start {0}: {1}")]
    Start(String, io::Error),
    /// A node did not answer its first `init`, or `topology`.
    #[error("node {0} did not answer {1} within 10 s; see {2}")]
    NotReady(String, &'static str, PathBuf),
    /// The power of the nodes' disks cannot be cut here.
    #[error("{0}")]
    NoPower(#[from] NoPower),
    /// A node ended before the run began.
    #[error("node {0} ended before all nodes were ready ({1}); see {2}")]
    EarlyExit(String, String, PathBuf),
}

/// A finished run.
#[derive(Debug)]
pub struct Finished {
    /// Where its files are.
    pub dir: PathBuf,
    /// What happened.
    pub history: History,
}

/// What is going on, for people.
#[derive(Clone, Debug)]
pub struct Status {
    /// Nanoseconds since the run began.
    pub now_ns: u64,
    /// The part of the run; `None` before the first.
    pub phase: Option<Phase>,
    /// Requests so far, and how many were answered well, refused, and neither.
    pub operations: usize,
    /// Answered well.
    pub ok: usize,
    /// Refused.
    pub failed: usize,
    /// The faults in force.
    pub faults: Vec<String>,
}

/// Told what is going on.
pub trait Progress {
    /// Some five times a second.
    fn status(&mut self, status: &Status);
    /// Something that is worth a line.
    fn note(&mut self, now_ns: u64, text: &str);
}

/// Runs the nodes, and gives the history.
///
/// # Errors
/// If nothing could be run. A run whose nodes misbehave is no error.
pub fn run(options: &Options, progress: &mut dyn Progress) -> Result<Finished, RunError> {
    if options.cuts_power() {
        super::power::check()?;
    }
    let started = utc_now();
    let io_error = |what: &str| {
        let what = what.to_owned();
        move |error| RunError::Io(what, error)
    };
    let dir = RunDir::create(&options.store, options.workload, &started)
        .map_err(io_error(&format!("cannot make a directory for the run in {}", options.store.display())))?;
    let (stopper, stopped) = UnixStream::pair().map_err(io_error("cannot make a pipe"))?;
    stopped.set_nonblocking(true).map_err(io_error("cannot make a pipe"))?;
    for signal in [SIGTERM, SIGINT] {
        let end = stopper.try_clone().map_err(io_error("cannot make a pipe"))?;
        signal_hook::low_level::pipe::register(signal, end).map_err(io_error("cannot handle signals"))?;
    }
    let ids: Vec<String> = (0..options.node_count).map(|number| format!("n{number}")).collect();
    let run = Run {
        format: FORMAT,
        workload: options.workload,
        nodes: ids.clone(),
        seed: options.seed,
        started,
        options: options.to_json(),
    };
    let messages =
        LineFile::create(&dir.path().join("messages.jsonl")).map_err(io_error("cannot write messages.jsonl"))?;
    let recorder = Recorder::create(&dir, run).map_err(io_error("cannot write history.jsonl"))?;
    let node_niceness = priority::go_first();
    let mut runner = Runner {
        node_niceness,
        options,
        progress,
        recorder,
        messages,
        random: fastrand::Rng::with_seed(options.seed ^ 0x006e_6574_776f_726b),
        links: Links::new(options.latency),
        nodes: ids.iter().cloned().map(Node::new).collect(),
        clients: Clients::default(),
        control: Vec::new(),
        generator: Generator::new(options),
        nemesis: Nemesis::new(options, ids),
        net: Net::default(),
        lateness: Lateness::default(),
        next_message_id: 0,
        unanswered: Vec::new(),
        counted: [0; 3],
        stage: Stage::Setup,
        main_begin_ns: 0,
        next_status_ns: 0,
        ended_early: None,
        interrupted: false,
        dir,
    };
    let keeper = runner.plug_machines_in().map_err(io_error("cannot prepare the nodes' disks"))?;
    let outcome = runner.run(&stopped);
    let laid_out = runner.lay_stores_out().map_err(io_error("cannot write the nodes' stores"));
    drop(keeper);
    let Runner { mut messages, recorder, dir, .. } = runner;
    let written = messages.close().map_err(io_error("cannot write messages.jsonl"));
    let history = recorder.close().map_err(io_error("cannot write history.jsonl"))?;
    outcome?;
    written?;
    laid_out?;
    Ok(Finished { dir: dir.path().to_owned(), history })
}

/// The present time as RFC 3339 in UTC, with seconds.
fn utc_now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    // Days to a date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    let (days, seconds) = (since / 86_400, since % 86_400);
    let shifted = days + 719_468;
    let era_day = shifted % 146_097;
    let era_year = (era_day - era_day / 1_460 + era_day / 36_524 - era_day / 146_096) / 365;
    let year_day = era_day - (365 * era_year + era_year / 4 - era_year / 100);
    let shifted_month = (5 * year_day + 2) / 153;
    let day = year_day - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era_year + shifted / 146_097 * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A request of the bench itself, which is in no history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    Init,
    Topology,
}

impl Control {
    /// The message's type.
    fn name(self) -> &'static str {
        match self {
            Control::Init => "init",
            Control::Topology => "topology",
        }
    }
}

struct Runner<'a> {
    options: &'a Options,
    progress: &'a mut dyn Progress,
    dir: RunDir,
    recorder: Recorder,
    messages: LineFile,
    node_niceness: Option<NodeNiceness>,
    random: fastrand::Rng,
    links: Links,
    nodes: Vec<Node>,
    clients: Clients,
    /// The bench's own requests that are not answered yet: who asked, which node, and what.
    control: Vec<(u64, usize, Control)>,
    generator: Generator,
    nemesis: Nemesis,
    net: Net,
    lateness: Lateness,
    next_message_id: u64,
    /// What nobody has answered, and will be asked for again.
    unanswered: Vec<Unanswered>,
    /// Requests, those answered well, those refused.
    counted: [usize; 3],
    stage: Stage,
    /// When the first phase began.
    main_begin_ns: u64,
    next_status_ns: u64,
    /// A node that ended in the stage `Setup`, and how.
    ended_early: Option<(usize, String)>,
    interrupted: bool,
}

impl Runner<'_> {
    fn run(&mut self, stopped: &UnixStream) -> Result<(), RunError> {
        let io_error = |error| RunError::Io("the bench failed".to_owned(), error);
        for node in 0..self.nodes.len() {
            for _ in 0..self.options.concurrency / self.nodes.len() {
                self.clients.add(node);
            }
        }
        for extra in 0..self.options.concurrency % self.nodes.len() {
            self.clients.add(extra);
        }
        loop {
            let now_ns = self.recorder.now_ns();
            self.forsake(now_ns).map_err(io_error)?;
            self.start_nodes(now_ns)?;
            self.advance(now_ns).map_err(io_error)?;
            // Which write has failed, and why, is told when the files are closed.
            if self.stage == Stage::Done || self.recorder.has_failed() || self.messages.has_failed() {
                break;
            }
            self.check_setup(now_ns)?;
            self.give_up(now_ns).map_err(io_error)?;
            self.ask_again(now_ns).map_err(io_error)?;
            self.deliver_all().map_err(io_error)?;
            self.show_status(now_ns);
            self.wait_and_read(stopped).map_err(io_error)?;
        }
        self.finish().map_err(io_error)
    }

    fn show_status(&mut self, now_ns: u64) {
        if now_ns < self.next_status_ns {
            return;
        }
        self.next_status_ns = now_ns + STATUS_NS;
        let down: Vec<&str> = self.nodes.iter().filter(|node| !node.ready).map(|node| node.id.as_str()).collect();
        let down = Some(format!("{} down", down.join(" "))).filter(|_| !down.is_empty()).into_iter();
        // Of all others the nodes that are down tell.
        let shown = |fault: &&Planned| fault.links != LinkFault::None || fault.kind == FaultKind::Pause;
        let shown = self.nemesis.active().iter().filter(shown);
        let [operations, ok, failed] = self.counted;
        let faults = down.chain(shown.map(|fault| fault.kind.name().to_owned())).collect();
        let status = Status { now_ns, phase: self.stage.phase(), operations, ok, failed, faults };
        self.progress.status(&status);
    }

    fn wake_ns(&mut self, now_ns: u64) -> u64 {
        let inboxes = self
            .nodes
            .iter_mut()
            .filter(|node| node.process.as_ref().is_none_or(|process| process.has_room() || process.killed));
        let inboxes = inboxes.filter_map(|node| node.inbox.wake_ns()).min();
        let times = [inboxes, self.clients.wake_ns(), self.stage_wake_ns(), Some(now_ns + LONGEST_WAIT_NS)];
        times.into_iter().flatten().min().unwrap_or(now_ns)
    }

    fn wait_and_read(&mut self, stopped: &UnixStream) -> io::Result<()> {
        let now_ns = self.recorder.now_ns();
        let wait_ns = self.wake_ns(now_ns).saturating_sub(now_ns);
        let ready = self.wait(stopped, Duration::from_nanos(wait_ns))?;
        for source in ready {
            match source {
                Ready::Stop => {
                    self.interrupted = true;
                    self.stage = Stage::Done;
                }
                Ready::Output(node) => self.read_node(node)?,
                Ready::Log(node) => {
                    if let Some(process) = &mut self.nodes[node].process {
                        process.pass_log_on()?;
                    }
                }
                Ready::Room(node) => self.deliver(node)?,
            }
        }
        Ok(())
    }

    fn wait(&self, stopped: &UnixStream, timeout: Duration) -> io::Result<Vec<Ready>> {
        let mut sources: Vec<(Ready, BorrowedFd, PollFlags)> = vec![(Ready::Stop, stopped.as_fd(), PollFlags::IN)];
        for (number, node) in self.nodes.iter().enumerate() {
            let Some(process) = &node.process else { continue };
            sources.push((Ready::Output(number), process.stdout(), PollFlags::IN));
            sources.extend(process.stderr().map(|fd| (Ready::Log(number), fd, PollFlags::IN)));
            sources.extend(process.wants_room().map(|fd| (Ready::Room(number), fd, PollFlags::OUT)));
        }
        let mut polled: Vec<PollFd> =
            sources.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = sources.iter().zip(&polled).filter(|(_, polled)| !polled.revents().is_empty());
        Ok(ready.map(|((source, ..), _)| *source).collect())
    }

    /// Records what became of a request.
    fn complete(&mut self, process: String, pending: &Pending, outcome: Outcome) -> io::Result<()> {
        let op = pending.op;
        let event = match outcome {
            Outcome::Ok(_, answer) => {
                self.counted[1] += 1;
                Event::Ok { op, process, answer }
            }
            Outcome::Fail(_, code, text) => {
                self.counted[2] += 1;
                Event::Fail { op, process, code, text }
            }
            Outcome::Unknown(why) => Event::Info { op, process, text: why.map_or_else(String::new, |(_, text)| text) },
        };
        self.recorder.record(event).map(|_| ())
    }

    fn give_up(&mut self, now_ns: u64) -> io::Result<()> {
        for (process, pending) in self.clients.give_up(now_ns) {
            self.is_unanswered(&pending);
            let why = Some((self.recorder.history.next, "no answer within 5 s".to_owned()));
            self.complete(process, &pending, Outcome::Unknown(why))?;
        }
        Ok(())
    }

    /// Ends all processes, and writes the history's last line.
    fn finish(&mut self) -> io::Result<()> {
        let mut left = Vec::new();
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                node.cpu_s += cpu_s(process.pid());
                left.extend(process.take_waiting());
                process.kill()?;
                process.reap()?;
            }
            left.extend(node.inbox.take_all());
        }
        left.iter().try_for_each(|packet| self.log(packet, None, Some("end of the run")))?;
        self.net.late_us_p50 = self.lateness.quantile_us(0.5);
        self.net.late_us_p99 = self.lateness.quantile_us(0.99);
        self.net.late_us_max = self.lateness.max_us();
        let end = End {
            interrupted: self.interrupted,
            net: self.net.clone(),
            bench_cpu_s: cpu_s(std::process::id()),
            nodes_cpu_s: self.nodes.iter().map(|node| node.cpu_s).sum(),
        };
        self.recorder.record(Event::End(end)).map(|_| ())
    }
}

/// Something can be read or written.
#[derive(Clone, Copy, Debug)]
enum Ready {
    Stop,
    Output(usize),
    Log(usize),
    Room(usize),
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_clock_is_in_the_form_of_rfc_3339() {
        let now = super::utc_now();
        let shape: String = now.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00Z");
        assert!(now.as_str() > "2026", "{now}");
    }
}
