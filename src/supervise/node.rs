//! The child of the moment, with its pipes.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use crate::child::Child;
use crate::node::input::{Line, LineBuffer, wait_readable};

use super::MAX_LINE_BYTES;
use super::queue::Queue;

/// A running node.
pub struct Node {
    pub child: Child,
    /// `None` once it has been closed.
    pub stdin: Option<ChildStdin>,
    /// `None` at its end.
    pub stdout: Option<ChildStdout>,
    pub queue: Queue,
    /// Nobody reads its stdin any more, and its end will be seen soon.
    pub deaf: bool,
    /// Its stdin is to be closed when all is written.
    pub closing: bool,
    lines: LineBuffer,
}

impl Node {
    pub fn start(program: &Path, args: &[OsString]) -> io::Result<Self> {
        let mut child = Child::spawn(program, args, &[], Stdio::inherit())?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        // Our ends have descriptions of their own, so the node does not notice.
        for end in [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd)].into_iter().flatten() {
            rustix::io::ioctl_fionbio(end, true)?;
        }
        let (queue, lines) = (Queue::default(), LineBuffer::new(MAX_LINE_BYTES));
        Ok(Self { child, stdin, stdout, queue, deaf: false, closing: false, lines })
    }

    /// Writes what its stdin takes, and closes that if nothing more will come.
    pub fn write_some(&mut self) -> io::Result<()> {
        if let Some(stdin) = self.stdin.as_ref().filter(|_| !self.queue.is_empty()) {
            self.deaf = !self.queue.write_some(stdin.as_fd())?;
        }
        self.close_if_done();
        Ok(())
    }

    /// Closes its stdin if that was asked for and all has been written.
    pub fn close_if_done(&mut self) {
        if self.closing && self.queue.is_empty() {
            self.stdin = None;
        }
    }

    /// Reads once from its stdout, which is readable; returns the whole lines. Half a line at the end is none.
    pub fn read_some(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let Some(stdout) = &self.stdout else { return Ok(Vec::new()) };
        self.lines.fill(stdout.as_fd())?;
        let mut whole = Vec::new();
        if self.lines.has_ended() {
            self.stdout = None;
            return Ok(whole);
        }
        take_lines(&mut self.lines, "the node", |line| whole.push(line));
        Ok(whole)
    }

    /// After its end: everything that it had written and that was not read yet.
    pub fn read_rest(&mut self) -> io::Result<Vec<Vec<u8>>> {
        // Those that it has started hold the pipe as well, and might go on writing.
        self.child.kill_group()?;
        let mut whole = Vec::new();
        while let Some(stdout) = &self.stdout
            && wait_readable([Some(stdout.as_fd())], Some(Duration::ZERO))? == [true]
        {
            whole.extend(self.read_some()?);
        }
        Ok(whole)
    }
}

/// Takes the whole lines that are there. One beyond all bounds is dropped, with a word.
pub fn take_lines(lines: &mut LineBuffer, whose: &str, mut take: impl FnMut(Vec<u8>)) {
    while let Some(line) = lines.next_line() {
        match line {
            Line::Whole(line) => take(line.to_vec()),
            Line::Overlong(_) => tracing::warn!("a line of {whose} of over {MAX_LINE_BYTES} bytes was dropped"),
        }
    }
}
