//! One node under test: its process, its inbox, and the pipes between them. Nothing here waits.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};

use super::network::{Inbox, Packet};
use super::power::Machine;
use crate::child::Child;
use crate::node::input::LineBuffer;

/// A longer line is a bad one.
const MAX_LINE_BYTES: usize = 64 << 20;
/// So much may wait for a node's pipe before its inbox waits.
const MAX_WAITING_BYTES: usize = 256 << 10;

/// A process that has closed its stdout is no node any more, but it may still be about to exit.
const EXIT_PATIENCE_MS: u32 = 50;

/// What is done to a node's store once its process is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreTask {
    /// Copy it.
    Copy,
    /// Delete it.
    Wipe,
    /// Set it back to the copy.
    Restore,
}

/// One node under test.
pub struct Node {
    /// Its id.
    pub id: String,
    /// What is on its way to it.
    pub inbox: Inbox,
    /// Its process, until that is dead and everything that it said is read.
    pub process: Option<Process>,
    /// It has answered `init`, and takes requests of clients.
    pub ready: bool,
    /// How many faults keep it down.
    pub holds: usize,
    /// To be done while it is down.
    pub tasks: Vec<StoreTask>,
    /// Not started before this.
    pub not_before_ns: u64,
    /// It has been started before.
    pub known: bool,
    /// Processor time of its dead processes.
    pub cpu_s: f64,
    /// How many bad lines it has written.
    pub bad_lines: u64,
    /// What its store lies on, if its power may be cut.
    pub machine: Option<Machine>,
}

impl Node {
    /// Not started yet.
    #[must_use]
    pub fn new(id: String) -> Self {
        Node {
            id,
            inbox: Inbox::default(),
            process: None,
            ready: false,
            holds: 0,
            tasks: Vec::new(),
            not_before_ns: 0,
            known: false,
            cpu_s: 0.0,
            bad_lines: 0,
            machine: None,
        }
    }

    /// Whether its process can be sent signals and messages.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !process.killed)
    }
}

/// A running node.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    /// What it says.
    pub lines: LineBuffer,
    stderr: Option<PipeReader>,
    log: File,
    /// SIGKILL has been sent.
    pub killed: bool,
    /// When a killed process is given up whose stdout does not end.
    pub forsaken_ns: u64,
    /// SIGSTOP has been sent.
    pub paused: bool,
    out: Vec<u8>,
    written: usize,
    waiting: Vec<(Packet, u64)>,
    /// When its pipe was last full.
    blocked_ns: u64,
}

impl Process {
    /// Starts it, with `envs` in addition to our own environment.
    ///
    /// # Errors
    /// As the system has it.
    pub fn start(
        bin: &Path,
        args: &[OsString],
        envs: &[(OsString, OsString)],
        log: File,
        show_stderr: bool,
    ) -> io::Result<Self> {
        let (stderr, end) = if show_stderr {
            let (reader, writer) = io::pipe()?;
            (Some(reader), Stdio::from(writer))
        } else {
            (None, Stdio::from(log.try_clone()?))
        };
        let mut child = Child::spawn(bin, args, envs, end)?;
        let missing = || io::Error::other("a child without pipes");
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        ioctl_fionbio(&stdin, true)?;
        Ok(Process {
            child,
            stdin: Some(stdin),
            stdout,
            lines: LineBuffer::new(MAX_LINE_BYTES),
            stderr,
            log,
            killed: false,
            forsaken_ns: 0,
            paused: false,
            out: Vec::new(),
            written: 0,
            waiting: Vec::new(),
            blocked_ns: 0,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// What it says comes from here.
    #[must_use]
    pub fn stdout(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }

    /// Its log, if we show it.
    #[must_use]
    pub fn stderr(&self) -> Option<BorrowedFd<'_>> {
        self.stderr.as_ref().map(AsFd::as_fd)
    }

    /// Where to write, if something waits for room.
    #[must_use]
    pub fn wants_room(&self) -> Option<BorrowedFd<'_>> {
        self.stdin.as_ref().filter(|_| !self.killed && self.written < self.out.len()).map(AsFd::as_fd)
    }

    /// Reads what it has said.
    ///
    /// # Errors
    /// As the system has it.
    pub fn read(&mut self) -> io::Result<()> {
        self.lines.fill(self.stdout.as_fd()).map(drop)
    }

    /// Passes its log on.
    ///
    /// # Errors
    /// As the system has it.
    pub fn pass_log_on(&mut self) -> io::Result<()> {
        let mut chunk = [0; 64 << 10];
        let Some(stderr) = &self.stderr else { return Ok(()) };
        let length = rustix::io::read(stderr, &mut chunk)?;
        if length == 0 {
            self.stderr = None;
        }
        // Nobody reads ours any more: the verdict may still be wanted.
        let _ = io::stderr().write_all(&chunk[..length]);
        self.log.write_all(&chunk[..length])
    }

    /// The rest of its log, as far as it is there: who has left its group may hold the pipe for ever.
    fn pass_rest_of_log_on(&mut self) -> io::Result<()> {
        while let Some(stderr) = &self.stderr {
            let mut polled = [PollFd::new(stderr, PollFlags::IN)];
            match poll(&mut polled, Some(&Timespec::default())) {
                Ok(0) => return Ok(()),
                Ok(_) => self.pass_log_on()?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether it takes another message now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.killed && self.out.len() < MAX_WAITING_BYTES && self.written == 0
    }

    /// Hands a message over that could go at `free_ns`.
    pub fn put(&mut self, packet: Packet, free_ns: u64) {
        self.out.extend_from_slice(&packet.line);
        self.waiting.push((packet, free_ns.max(self.blocked_ns)));
    }

    /// Writes as much as there is room for. Gives back what has gone, with since when nothing but the bench kept it.
    ///
    /// # Errors
    /// As the system has it; that the node has closed its input is none.
    pub fn write(&mut self, now_ns: u64) -> io::Result<Vec<(Packet, u64)>> {
        while self.written < self.out.len() {
            let Some(stdin) = &self.stdin else { break };
            match rustix::io::write(stdin, &self.out[self.written..]) {
                Ok(length) => self.written += length,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.blocked_ns = now_ns;
                    return Ok(Vec::new());
                }
                Err(Errno::PIPE) => self.stdin = None,
                Err(error) => return Err(error.into()),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(std::mem::take(&mut self.waiting))
    }

    /// What has not gone, or not all of it.
    pub fn take_waiting(&mut self) -> Vec<Packet> {
        std::mem::take(&mut self.waiting).into_iter().map(|(packet, _)| packet).collect()
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// As the system has it.
    pub fn kill(&mut self) -> io::Result<()> {
        self.killed = true;
        self.child.kill_group()
    }

    /// Whether it has been killed, is dead, and has said all that it will, although its stdout has not ended: somebody
    /// who has left its process group holds that open.
    ///
    /// # Errors
    /// As the system has it.
    pub fn is_forsaken(&mut self, now_ns: u64) -> io::Result<bool> {
        Ok(self.killed && now_ns >= self.forsaken_ns && self.child.try_wait()?.is_some())
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// As the system has it.
    pub fn pause(&mut self) -> io::Result<()> {
        self.paused = true;
        self.child.pause()
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// As the system has it.
    pub fn resume(&mut self) -> io::Result<()> {
        self.paused = false;
        self.child.resume()
    }

    /// Its end, after its stdout has ended: how it ended, and its processor time.
    ///
    /// # Errors
    /// As the system has it.
    pub fn reap(mut self) -> io::Result<(ExitStatus, f64)> {
        let cpu_s = cpu_s(self.pid());
        let mut ended = None;
        for _ in 0..EXIT_PATIENCE_MS {
            ended = self.child.try_wait()?;
            if ended.is_some() || self.killed {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.child.kill_group()?;
        let status = match ended {
            Some(status) => status,
            None => self.child.wait()?,
        };
        self.pass_rest_of_log_on()?;
        Ok((status, cpu_s))
    }
}

/// Processor time of a process so far, user and system, in seconds; 0 if it is not known.
#[must_use]
pub fn cpu_s(pid: u32) -> f64 {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0.0 };
    // proc(5): the name stands in parentheses and may hold anything; utime and stime are fields 14 and 15.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}
