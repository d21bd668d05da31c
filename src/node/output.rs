//! Standard output: nothing but messages, one batch in one write.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::input::timespec;
use crate::crdt::NodeId;
use crate::maelstrom::encode;
use crate::replica::{ErrorCode, Outgoing, Reply, Ticket};

/// A buffer that has grown beyond this is given back after use.
const KEEP_BYTES: usize = 1 << 20;

/// POSIX: a pipe that polls as writable has room for PIPE_BUF bytes; on Linux that is a page.
const PIPE_BYTES: usize = 4096;

/// A process that shall stop waits so long for a reader that takes nothing.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// Whether the process goes on waiting for its reader.
struct Patience<'a> {
    /// Readable when the process shall stop.
    stopped: BorrowedFd<'a>,
    /// When it gives up, since it shall stop and nothing has been taken since that was seen.
    until: Option<Instant>,
}

impl Patience<'_> {
    /// Waits until `out` can be written to; false if that is given up.
    fn wait_writable(&mut self, out: BorrowedFd) -> io::Result<bool> {
        loop {
            let mut fds =
                [PollFd::from_borrowed_fd(out, PollFlags::OUT), PollFd::from_borrowed_fd(self.stopped, PollFlags::IN)];
            let (polled, timeout) = match self.until {
                None => (&mut fds[..], None),
                Some(until) => (&mut fds[..1], Some(timespec(until.saturating_duration_since(Instant::now())))),
            };
            match poll(polled, timeout.as_ref()) {
                Ok(0) => return Ok(false),
                Ok(_) if !fds[0].revents().is_empty() => return Ok(true),
                Ok(_) => self.until = Some(Instant::now() + LAST_PATIENCE),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Standard output, written to in such a way that this process never sleeps in a write, where it would not hear SIGTERM.
enum Sink {
    /// A description of the pipe that is this process' own, so that nobody else minds that it does not block: as much is
    /// written at once as the pipe takes.
    NonBlocking(OwnedFd),
    /// Anything else, or a pipe that may not be opened again: no more is written than it has room for for certain.
    Shared(io::Stdout),
}

impl Sink {
    fn of_stdout() -> Self {
        let stdout = io::stdout();
        let is_pipe = rustix::fs::fstat(&stdout).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Fifo);
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let own = is_pipe.then(|| rustix::fs::open("/proc/self/fd/1", flags, Mode::empty()));
        match own {
            Some(Ok(own)) => Self::NonBlocking(own),
            Some(Err(_)) | None => Self::Shared(stdout),
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::NonBlocking(own) => own.as_fd(),
            Self::Shared(stdout) => stdout.as_fd(),
        }
    }

    /// Writes some of `bytes` and says how many; `None`: nobody reads it any more, or that is given up.
    fn write(&self, bytes: &[u8], patience: &mut Patience) -> io::Result<Option<usize>> {
        let at_once = match self {
            Self::NonBlocking(_) => bytes,
            Self::Shared(stdout) => {
                if !patience.wait_writable(stdout.as_fd())? {
                    return Ok(None);
                }
                &bytes[..bytes.len().min(PIPE_BYTES)]
            }
        };
        match rustix::io::write(self.as_fd(), at_once) {
            Ok(written) => Ok(Some(written)),
            Err(Errno::INTR) => Ok(Some(0)),
            Err(Errno::AGAIN) => Ok(patience.wait_writable(self.as_fd())?.then_some(0)),
            Err(Errno::PIPE) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// What is to be written next.
pub struct Output {
    sink: Sink,
    buffer: Vec<u8>,
    next_msg_id: u64,
    reply_deadline_ms: u64,
    late: u64,
    /// The first piece of a reply was too late, and so are the others.
    skipping: bool,
}

impl Output {
    /// Replies to requests that are older than `reply_deadline_ms` will be dropped; 0: none.
    pub fn new(reply_deadline_ms: u64) -> Self {
        let (sink, buffer) = (Sink::of_stdout(), Vec::new());
        Self { sink, buffer, next_msg_id: 0, reply_deadline_ms, late: 0, skipping: false }
    }

    /// How many replies were dropped because they were too late.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Adds messages that may leave.
    pub fn add(&mut self, own: &NodeId, messages: &[Outgoing], now_ms: u64) {
        for message in messages {
            if let Outgoing::Reply { ticket, reply } = message {
                if let Reply::Piece { first: false, last, .. } = reply {
                    // What has been begun is ended.
                    if self.skipping {
                        self.skipping = !last;
                        continue;
                    }
                } else if self.is_late(ticket, now_ms) {
                    self.skipping = message.has_more_pieces();
                    continue;
                }
            }
            self.put(own, message);
        }
    }

    /// Whether the client has given up. Maelstrom goes deaf at a reply to a client that has gone.
    fn is_late(&mut self, ticket: &Ticket, now_ms: u64) -> bool {
        let deadline_ms = self.reply_deadline_ms;
        let late = deadline_ms > 0 && now_ms.saturating_sub(ticket.arrived_ms) > deadline_ms;
        if late {
            self.late += 1;
            tracing::debug!("a reply to {} was too late and not sent ({} so far)", ticket.client, self.late);
        }
        late
    }

    fn put(&mut self, own: &NodeId, message: &Outgoing) {
        encode(&mut self.buffer, own, self.next_msg_id, message);
        self.next_msg_id += u64::from(!message.has_more_pieces());
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
    /// process shall end, and the reader has taken nothing for a second.
    ///
    /// # Errors
    /// As the system has it.
    pub fn flush(&mut self, stopped: BorrowedFd) -> io::Result<bool> {
        let mut patience = Patience { stopped, until: None };
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            let Some(written) = self.sink.write(rest, &mut patience)? else { return Ok(true) };
            if written > 0 {
                patience.until = None;
            }
            rest = &rest[written..];
        }
        self.buffer.clear();
        self.buffer.shrink_to(KEEP_BYTES);
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::{ElementList, Style};

    fn reply(msg_id: i64, arrived_ms: u64, reply: Reply) -> Outgoing {
        Outgoing::Reply { ticket: Ticket { client: "c1".into(), msg_id, style: Style::OrSet, arrived_ms }, reply }
    }

    fn piece(msg_id: i64, first: bool, last: bool) -> Outgoing {
        let mut elements = ElementList::default();
        elements.push(msg_id.to_string().as_bytes());
        reply(msg_id, 1, Reply::Piece { elements, first, last })
    }

    #[test]
    fn a_reply_in_pieces_is_late_when_it_begins_or_not_at_all() {
        let mut output = Output::new(100);
        let own = NodeId::new("n1").unwrap();
        // The first is in time, and ends as it has begun; the second is not.
        output.add(&own, &[piece(1, true, false)], 101);
        output.add(&own, &[piece(1, false, false), piece(1, false, true), piece(2, true, false)], 102);
        output.add(&own, &[piece(2, false, true), reply(3, 102, Reply::Contains(true))], 103);
        let lines = String::from_utf8(output.buffer).unwrap();
        let lines: Vec<&str> = lines.lines().map(|line| line.split_once("\"body\": ").unwrap().1).collect();
        let expected = [
            r#"{"type": "or_set_read_ok", "in_reply_to": 1, "elements": [1, 1, 1], "msg_id": 0}}"#,
            r#"{"type": "or_set_contains_ok", "in_reply_to": 3, "value": true, "msg_id": 1}}"#,
        ];
        assert_eq!((lines, output.late), (expected.to_vec(), 1));
    }
}
