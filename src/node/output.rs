//! Standard output: nothing but messages, one batch in one write.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::crdt::NodeId;
use crate::maelstrom::encode;
use crate::replica::{ErrorCode, Outgoing, Reply, Ticket};

/// A buffer that has grown beyond this is given back after use.
const KEEP_BYTES: usize = 1 << 20;

/// POSIX: a pipe that polls as writable has room for PIPE_BUF bytes; on Linux that is a page.
const PIPE_BYTES: usize = 4096;

/// Waits until `out` can be written to; false if the process shall stop before that.
fn wait_writable(out: BorrowedFd, stopped: BorrowedFd) -> io::Result<bool> {
    loop {
        let mut fds = [PollFd::from_borrowed_fd(out, PollFlags::OUT), PollFd::from_borrowed_fd(stopped, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) if !fds[0].revents().is_empty() => return Ok(true),
            Ok(_) if !fds[1].revents().is_empty() => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What is to be written next.
pub struct Output {
    buffer: Vec<u8>,
    next_msg_id: u64,
    reply_deadline_ms: u64,
    late: u64,
}

impl Output {
    /// Replies to requests that are older than `reply_deadline_ms` will be dropped; 0: none.
    pub fn new(reply_deadline_ms: u64) -> Self {
        Self { buffer: Vec::new(), next_msg_id: 0, reply_deadline_ms, late: 0 }
    }

    /// How many replies were dropped because they were too late.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Adds messages that may leave.
    pub fn add(&mut self, own: &NodeId, messages: Vec<Outgoing>, now_ms: u64) {
        for message in messages {
            if let Outgoing::Reply { ticket, .. } = &message
                && self.reply_deadline_ms > 0
                && now_ms.saturating_sub(ticket.arrived_ms) > self.reply_deadline_ms
            {
                // The client has given up, and Maelstrom goes deaf at a reply to a client that has gone.
                self.late += 1;
                tracing::debug!("a reply to {} was too late and not sent ({} so far)", ticket.client, self.late);
                continue;
            }
            self.put(own, &message);
        }
    }

    fn put(&mut self, own: &NodeId, message: &Outgoing) {
        encode(&mut self.buffer, own, self.next_msg_id, message);
        self.next_msg_id += 1;
    }

    /// Adds a message of a node that has no id yet, under the name that it was called.
    pub fn write_early(&mut self, called: &str, message: &Outgoing) {
        if let Some(own) = NodeId::new(called) {
            self.put(&own, message);
        }
    }

    /// Refuses a request that came before `init`.
    pub fn refuse_early(&mut self, called: &str, ticket: Ticket) {
        let text = "this node has not been initialised yet".to_owned();
        let reply = Reply::Error { code: ErrorCode::TemporarilyUnavailable, text };
        self.write_early(called, &Outgoing::Reply { ticket, reply });
    }

    /// Writes everything. Says whether nobody reads it any more: the other end is closed, or `stopped` says that this
    /// process shall end while it waits for a reader.
    ///
    /// # Errors
    /// As the system has it.
    pub fn flush(&mut self, stopped: BorrowedFd) -> io::Result<bool> {
        let stdout = io::stdout();
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            if !wait_writable(stdout.as_fd(), stopped)? {
                return Ok(true);
            }
            // A pipe that can be written to takes at least so much without blocking.
            let piece = &rest[..rest.len().min(PIPE_BYTES)];
            match rustix::io::write(stdout.as_fd(), piece) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(Errno::PIPE) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
        self.buffer.clear();
        self.buffer.shrink_to(KEEP_BYTES);
        Ok(false)
    }
}
