//! What the nemesis and death do to the nodes.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::super::files::{remove_tree, replace_tree};
use super::super::history::{Event, FaultAction, FaultKind, NodeChange, Outcome, Workload};
use super::super::nemesis::{LinkFault, Planned, Step};
use super::super::network::Packet;
use super::super::node::{Process, StoreTask};
use super::{Control, RunError, Runner, SETUP_PATIENCE_NS, Stage, power};

/// A node that has ended by itself is started again after this.
const RESTART_NS: u64 = 1_000_000_000;

/// A killed process may take so long to die with all that it has started, before nobody waits for its stdout's end.
const FORSAKEN_NS: u64 = 1_000_000_000;
/// So many bad lines of a node are shown; the history has them all.
const SHOWN_BAD_LINES: u64 = 5;

impl Runner<'_> {
    /// Starts the nodes that are down and that nothing keeps down.
    pub(super) fn start_nodes(&mut self, now_ns: u64) -> Result<(), RunError> {
        for number in 0..self.nodes.len() {
            let node = &self.nodes[number];
            if node.process.is_none() && node.holds == 0 && node.not_before_ns <= now_ns && self.stage != Stage::Done {
                self.start(number).map_err(|error| RunError::Start(self.options.bin.display().to_string(), error))?;
            }
        }
        Ok(())
    }

    fn start(&mut self, number: usize) -> io::Result<()> {
        let id = self.nodes[number].id.clone();
        let (data, envs) = match &mut self.nodes[number].machine {
            Some(machine) => power::switch_on(machine, &id)?,
            None => {
                std::fs::create_dir_all(self.dir.node_data(&id))?;
                (self.dir.data(), Vec::new())
            }
        };
        let data = data.to_str().ok_or_else(|| io::Error::other("the run's directory is not UTF-8"))?;
        let filled = |arg: &OsString| match arg.to_str() {
            Some(text) => text.replace("{node}", &id).replace("{data}", data).into(),
            None => arg.clone(),
        };
        let args: Vec<OsString> = self.options.args.iter().map(filled).collect();
        let log = self.dir.node_log(&id)?;
        let process = Process::start(&self.options.bin, &args, &envs, log, self.options.log_stderr)?;
        let pid = process.pid();
        if let Some(niceness) = self.node_niceness {
            niceness.apply(pid);
        }
        let node = &mut self.nodes[number];
        node.process = Some(process);
        node.inbox.restart();
        let known = std::mem::replace(&mut node.known, true);
        self.note_node(number, NodeChange::Started { pid })?;
        if !known || self.options.restart_init {
            let now_ns = self.recorder.now_ns();
            self.send_control(number, Control::Init, now_ns);
        } else {
            self.nodes[number].ready = true;
            self.note_node(number, NodeChange::Ready)?;
        }
        Ok(())
    }

    pub(super) fn wants_topology(&self) -> bool {
        self.options.workload == Workload::Broadcast
    }

    /// The run cannot begin before every node has answered `init`, and `topology` if it is sent that.
    pub(super) fn check_setup(&self, now_ns: u64) -> Result<(), RunError> {
        if self.stage != Stage::Setup {
            return Ok(());
        }
        let logs = || self.dir.path().join("node-logs");
        let id = |node: usize| self.nodes[node].id.clone();
        if let Some((node, status)) = &self.ended_early {
            return Err(RunError::EarlyExit(id(*node), status.clone(), logs()));
        }
        // One that has refused `init` is not waited for any more, and not ready either.
        let refused = self.nodes.iter().position(|node| !node.ready).map(|node| (node, Control::Init));
        let silent = || self.control.first().map(|(_, node, control)| (*node, *control));
        match refused.or_else(silent) {
            Some((node, control)) if now_ns > SETUP_PATIENCE_NS => {
                Err(RunError::NotReady(id(node), control.name(), logs()))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn note_node(&mut self, node: usize, change: NodeChange) -> io::Result<()> {
        let id = self.nodes[node].id.clone();
        let text = match &change {
            NodeChange::Exited { status } => Some(format!("{id} ended by itself: {status}")),
            NodeChange::BadLine { text, line } => {
                self.nodes[node].bad_lines += 1;
                match self.nodes[node].bad_lines {
                    count if count < SHOWN_BAD_LINES => Some(format!("{id} wrote a bad line ({text}): {line:?}")),
                    SHOWN_BAD_LINES => {
                        Some(format!("{id} wrote a bad line ({text}): {line:?}; the next ones are not shown"))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        if let Some(text) = text {
            self.progress.note(self.recorder.now_ns(), &text);
        }
        self.recorder.record(Event::Node { node: id, change }).map(|_| ())
    }

    /// Applies what the nemesis decided.
    pub(super) fn apply(&mut self, steps: Vec<Step>) -> io::Result<()> {
        for step in steps {
            let (fault, action) = match &step {
                Step::Begin(fault) => (fault, FaultAction::Begin),
                Step::End(fault) => (fault, FaultAction::End),
            };
            let nodes = fault.nodes.iter().map(|node| self.nodes[*node].id.clone()).collect();
            let (kind, text) = (fault.kind, fault.text.clone());
            let name = kind.name();
            let said =
                if action == FaultAction::Begin { format!("{name}: {text}") } else { format!("{name} over: {text}") };
            self.progress.note(self.recorder.now_ns(), &said);
            self.recorder.record(Event::Fault { fault: fault.number, kind, action, nodes, text })?;
            match &step {
                Step::Begin(fault) => self.begin(fault)?,
                Step::End(fault) => self.end(fault)?,
            }
        }
        Ok(())
    }

    fn begin(&mut self, fault: &Planned) -> io::Result<()> {
        match &fault.links {
            LinkFault::None => {}
            LinkFault::Cut(links) => self.links.cut(fault.number, links.clone()),
            LinkFault::Lose(share) => self.links.lose(fault.number, *share),
            LinkFault::Duplicate(share) => self.links.duplicate(fault.number, *share),
            LinkFault::Slow => self.links.slow(fault.number),
        }
        for node in fault.nodes.iter().copied() {
            match fault.kind {
                FaultKind::Kill | FaultKind::KillAll => {
                    self.nodes[node].holds += 1;
                    self.kill(node)?;
                }
                FaultKind::Power | FaultKind::PowerAll => {
                    self.nodes[node].holds += 1;
                    self.cut_power(node, fault)?;
                }
                FaultKind::Wipe => {
                    self.nodes[node].holds += 1;
                    self.kill_for(node, StoreTask::Wipe)?;
                }
                FaultKind::Rollback => self.kill_for(node, StoreTask::Copy)?,
                FaultKind::Pause => {
                    if let Some(process) = self.nodes[node].process.as_mut().filter(|process| !process.killed) {
                        process.pause()?;
                    }
                }
                FaultKind::Partition | FaultKind::Loss | FaultKind::Duplicate | FaultKind::Slow => {}
            }
        }
        Ok(())
    }

    fn end(&mut self, fault: &Planned) -> io::Result<()> {
        self.links.mend(fault.number);
        let paused_elsewhere = |node: usize, runner: &Self| {
            let others = runner.nemesis.active().iter().filter(|other| other.number != fault.number);
            others.filter(|other| other.kind == FaultKind::Pause).any(|other| other.nodes.contains(&node))
        };
        for node in fault.nodes.iter().copied() {
            match fault.kind {
                FaultKind::Kill | FaultKind::KillAll | FaultKind::Wipe | FaultKind::Power | FaultKind::PowerAll => {
                    self.nodes[node].holds -= 1
                }
                FaultKind::Rollback => self.kill_for(node, StoreTask::Restore)?,
                FaultKind::Pause => {
                    let go_on = !paused_elsewhere(node, self);
                    if let Some(process) = self.nodes[node].process.as_mut().filter(|process| process.paused && go_on) {
                        process.resume()?;
                    }
                }
                FaultKind::Partition | FaultKind::Loss | FaultKind::Duplicate | FaultKind::Slow => {}
            }
        }
        Ok(())
    }

    /// SIGKILL. What the process said before is still heard.
    fn kill(&mut self, number: usize) -> io::Result<()> {
        let node = &mut self.nodes[number];
        let Some(process) = node.process.as_mut().filter(|process| !process.killed) else { return Ok(()) };
        process.kill()?;
        self.killed(number)
    }

    /// What is to be done once SIGKILL has been sent.
    pub(super) fn killed(&mut self, number: usize) -> io::Result<()> {
        let mut unread = Vec::new();
        if let Some(process) = &mut self.nodes[number].process {
            process.forsaken_ns = self.recorder.now_ns() + FORSAKEN_NS;
            unread = process.take_waiting();
        }
        self.lost_with(number, unread)?;
        self.note_node(number, NodeChange::Killed)
    }

    /// A node's process is dead: what clients have sent to it is lost, and what it has not taken in.
    fn lost_with(&mut self, number: usize, unread: Vec<Packet>) -> io::Result<()> {
        let node = &mut self.nodes[number];
        node.ready = false;
        let lost = [unread, node.inbox.drop_clients()].concat();
        self.control.retain(|(_, asked, _)| *asked != number);
        self.net.to_dead += lost.len() as u64;
        lost.iter().try_for_each(|packet| self.log(packet, None, Some("down")))
    }

    fn kill_for(&mut self, node: usize, task: StoreTask) -> io::Result<()> {
        self.kill(node)?;
        self.nodes[node].tasks.push(task);
        if self.nodes[node].process.is_none() { self.do_tasks(node) } else { Ok(()) }
    }

    /// Gives up killed processes whose stdout does not end.
    pub(super) fn forsake(&mut self, now_ns: u64) -> io::Result<()> {
        for number in 0..self.nodes.len() {
            if let Some(process) = &mut self.nodes[number].process
                && process.is_forsaken(now_ns)?
            {
                self.node_ended(number)?;
            }
        }
        Ok(())
    }

    /// Everything that a node's process said is read.
    pub(super) fn node_ended(&mut self, number: usize) -> io::Result<()> {
        let node = &mut self.nodes[number];
        let Some(mut process) = node.process.take() else { return Ok(()) };
        let killed = process.killed;
        let unread = process.take_waiting();
        let (status, cpu_s) = process.reap()?;
        node.cpu_s += cpu_s;
        if !killed {
            node.not_before_ns = self.recorder.now_ns() + RESTART_NS;
            self.lost_with(number, unread)?;
            if self.stage == Stage::Setup {
                self.ended_early = Some((number, describe(status)));
            }
            self.note_node(number, NodeChange::Exited { status: describe(status) })?;
        }
        self.died_unanswered(number);
        for (process, pending) in self.clients.node_died(number) {
            self.is_unanswered(&pending);
            let why = Some((self.recorder.history.next, "the node died".to_owned()));
            self.complete(process, &pending, Outcome::Unknown(why))?;
        }
        self.do_tasks(number)
    }

    fn do_tasks(&mut self, number: usize) -> io::Result<()> {
        let id = self.nodes[number].id.clone();
        let (data, copy) = (self.dir.node_data(&id), self.dir.copy(&id));
        for task in std::mem::take(&mut self.nodes[number].tasks) {
            let change = match task {
                task if self.nodes[number].machine.is_some() => self.do_task_on_machine(number, task)?,
                StoreTask::Copy => {
                    replace_tree(&data, &copy)?;
                    NodeChange::Copied
                }
                StoreTask::Wipe => {
                    // A node that something else keeps down may have been wiped before.
                    remove_tree(&data)?;
                    NodeChange::Wiped
                }
                StoreTask::Restore => {
                    replace_tree(&copy, &data)?;
                    NodeChange::RolledBack
                }
            };
            self.forget_unanswered(number);
            self.note_node(number, change)?;
        }
        Ok(())
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}
