//! A child process that is killed for good, with all that it has started, and that does not outlive us.
//!
//! Who SIGKILLs nodes for a living (`orset supervise`, `orset test`) is itself SIGKILLed, by Maelstrom at the end of
//! every run or by an impatient user, and then no code of its own runs any more. So every child gets a **keeper**: a
//! shell that waits for the end of a pipe whose other end only we hold, and then kills its own process group.
//!
//! ```text
//! we ──pipe──► keeper (sh)      leader of process group K; at the pipe's end: kill -KILL 0
//!  └──stdin, stdout──► child    in group K from before its exec on
//!                        └── grandchildren, in group K
//! ```
//!
//! - The group exists before the child does, and nothing has to be registered: there is no instant at which a child is
//!   unknown to its keeper. If we die between fork and exec, the half-made child holds a copy of the pipe until its exec,
//!   by when it is in the group.
//! - There is no process between us and the child, so [`Child::kill_group`] is a SIGKILL of the node and no message
//!   to somebody who will do it.
//! - As long as the keeper has not been reaped, K is nobody else's number; it is reaped last.
//!
//! PR_SET_PDEATHSIG would do less: it reaches the direct child only (a SIGKILLed `sh -c` leaves its own child alive), and
//! fires when the *thread* that made the child ends.
//!
//! # Caveats
//! A process that leaves its group (`setsid`, a shell with job control) gets away. The keeper is `/bin/sh`, and costs a
//! process a child. SIGKILL for the group by anybody else takes the keeper along, and then there is nothing left to keep.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

/// Says that it is ready, waits for the end of its input, and kills its group, itself included. A child may send its
/// own group any of these signals (`kill 0` is common in shell scripts), and the kernel does when we die.
const KEEPER: &str = "trap '' HUP INT QUIT PIPE ALRM TERM USR1 USR2 TSTP TTIN TTOU; echo; read -r _; kill -KILL 0";

/// The leader of the child's process group; dropping it kills the group.
struct Keeper {
    process: std::process::Child,
}

impl Keeper {
    fn start() -> io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", KEEPER]).env_clear().current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut keeper = Self { process: command.spawn()? };
        let mut ready = keeper.process.stdout.take().expect("it was made a pipe");
        ready.read_exact(&mut [0]).map_err(|error| io::Error::new(error.kind(), "the child's keeper did not start"))?;
        Ok(keeper)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// A signal to the whole group. None left in it is no error.
    fn signal(&self, signal: Signal) -> io::Result<()> {
        match kill_process_group(self.pid(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Neither can fail for a process of our own that has not been reaped; and nothing could be done about it.
        let _ = self.signal(Signal::KILL);
        let _ = self.process.wait();
    }
}

/// A running program with pipes to its stdin and stdout, and everything that it starts.
///
/// Dropping it kills the whole group and reaps the child.
pub struct Child {
    process: std::process::Child,
    keeper: Keeper,
    pidfd: OwnedFd,
    /// Writes to its standard input; take and drop it to end that.
    pub stdin: Option<ChildStdin>,
    /// Reads from its standard output.
    pub stdout: Option<ChildStdout>,
}

impl Child {
    /// Starts `program` with `args`, and `envs` in addition to our own environment.
    ///
    /// # Errors
    /// If the program cannot be executed, or there is no `/bin/sh`.
    pub fn spawn(program: &Path, args: &[OsString], envs: &[(OsString, OsString)], stderr: Stdio) -> io::Result<Self> {
        let keeper = Keeper::start()?;
        let mut command = Command::new(program);
        command.args(args).envs(envs.iter().map(|(name, value)| (name, value)));
        command.process_group(keeper.pid().as_raw_nonzero().get());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut process = command.spawn()?;
        // It has not been reaped, so this is no other process; and if it fails, the keeper's end kills it.
        let pidfd = pidfd_open(Pid::from_child(&process), PidfdFlags::empty())?;
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
        Ok(Self { process, keeper, pidfd, stdin, stdout })
    }

    /// Polls as readable once the child has ended.
    pub fn ended_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Its process id (not that of its group, which is its keeper's).
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL for the child and everything that it has started. It is not waited for.
    ///
    /// # Errors
    /// As the system has it. That all are dead already is no error.
    pub fn kill_group(&self) -> io::Result<()> {
        self.keeper.signal(Signal::KILL)
    }

    /// Stops all of them where they are (SIGSTOP).
    ///
    /// # Errors
    /// As the system has it.
    pub fn pause(&self) -> io::Result<()> {
        self.keeper.signal(Signal::STOP)?;
        // The keeper must stay awake for our own death.
        match kill_process(self.keeper.pid(), Signal::CONT) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Has all of them go on (SIGCONT).
    ///
    /// # Errors
    /// As the system has it.
    pub fn resume(&self) -> io::Result<()> {
        self.keeper.signal(Signal::CONT)
    }

    /// How the child has ended, if it has. What it has started may go on.
    ///
    /// # Errors
    /// As the system has it.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.process.try_wait()
    }

    /// Waits for the child's end. What it has started may go on.
    ///
    /// # Errors
    /// As the system has it.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.process.wait()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // As for the keeper: these cannot fail for processes of our own.
        let _ = self.kill_group();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};

    /// A shell whose own child holds its stdout; both have said that they run.
    fn shell_with_a_child() -> (Child, BufReader<ChildStdout>) {
        let script = "(echo grandchild; exec sleep 1000) & echo child; wait";
        let mut child = Child::spawn("/bin/sh".as_ref(), &["-c".into(), script.into()], &[], Stdio::inherit()).unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        stdout.read_line(&mut said).unwrap();
        stdout.read_line(&mut said).unwrap();
        assert_eq!(said.len(), "child\ngrandchild\n".len(), "{said:?}");
        (child, stdout)
    }

    /// Nobody holds the writing end any more: all who had it are dead.
    fn all_gone(mut stdout: BufReader<ChildStdout>) {
        assert_eq!(stdout.read_to_string(&mut String::new()).unwrap(), 0);
    }

    #[test]
    fn a_kill_takes_the_grandchildren_along() {
        let (mut child, stdout) = shell_with_a_child();
        child.kill_group().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
        all_gone(stdout);
        child.kill_group().unwrap();
    }

    #[test]
    fn dropping_kills_all() {
        let (child, stdout) = shell_with_a_child();
        drop(child);
        all_gone(stdout);
    }

    #[test]
    fn the_keeper_kills_all_when_its_pipe_ends() {
        let (mut child, stdout) = shell_with_a_child();
        // As the kernel does it when we are killed.
        drop(child.keeper.process.stdin.take());
        all_gone(stdout);
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
    }

    #[test]
    fn the_keeper_works_for_a_group_that_is_paused() {
        let (mut child, stdout) = shell_with_a_child();
        child.pause().unwrap();
        drop(child.keeper.process.stdin.take());
        all_gone(stdout);
    }

    #[test]
    fn the_keeper_outlives_a_script_that_signals_its_group() {
        let script = "trap '' TERM HUP; kill -TERM 0; kill -HUP 0; echo alive; exec sleep 1000";
        let mut child = Child::spawn("/bin/sh".as_ref(), &["-c".into(), script.into()], &[], Stdio::inherit()).unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut String::new()).unwrap();
        drop(child.keeper.process.stdin.take());
        all_gone(stdout);
    }

    #[test]
    fn a_paused_child_goes_on_where_it_was() {
        let mut child = Child::spawn("/bin/cat".as_ref(), &[], &[], Stdio::inherit()).unwrap();
        child.pause().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"hello\n").unwrap();
        assert!(child.try_wait().unwrap().is_none());
        child.resume().unwrap();
        drop(stdin);
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "hello\n");
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn what_is_no_program_is_an_error_and_the_environment_is_passed_on() {
        let missing = Child::spawn("/nonexistent".as_ref(), &[], &[], Stdio::inherit());
        assert_eq!(missing.err().map(|error| error.kind()), Some(io::ErrorKind::NotFound));
        let args = ["-c".into(), "echo $GREETING".into()];
        let envs = [("GREETING".into(), "good day".into())];
        let mut child = Child::spawn("/bin/sh".as_ref(), &args, &envs, Stdio::inherit()).unwrap();
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "good day\n");
    }
}
