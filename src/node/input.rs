//! Lines from standard input, without ever waiting for more than is there and without ever keeping more than a bound.
//!
//! A single loop that polls is as fast as bare pipe and fdatasync; threads that read and write cost a fifth to a third
//! of the latency (measured).

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use memchr::memchr;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How much is read at once: more than the pipe holds, so that who has read less than this has read all.
const CHUNK_BYTES: usize = super::pipe::WANTED_BYTES + (64 << 10);

/// A piece of input.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line, without its end.
    Whole(&'a [u8]),
    /// The first bytes of a line that is longer than the bound; the rest is skipped.
    Overlong(&'a [u8]),
}

/// Cuts what comes in into lines.
pub struct LineBuffer {
    max_line_bytes: usize,
    /// What was read and not given out is `buffer[start..end]`; the rest is room, kept from one read to the next, as
    /// clearing it each time would cost more than a line does.
    buffer: Vec<u8>,
    /// Where the first line not yet given out starts.
    start: usize,
    /// Up to here there is no line end after `start`.
    searched: usize,
    end: usize,
    skipping: bool,
    ended: bool,
}

impl LineBuffer {
    /// For lines of at most `max_line_bytes`.
    pub fn new(max_line_bytes: usize) -> Self {
        Self { max_line_bytes, buffer: Vec::new(), start: 0, searched: 0, end: 0, skipping: false, ended: false }
    }

    /// Whether the input has ended (there may still be lines to take).
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Reads once from `fd`, which should be readable. Says whether that was all that was there: a pipe gives all that
    /// it has if there is room for it.
    ///
    /// # Errors
    /// As the system has it.
    pub fn fill(&mut self, fd: BorrowedFd) -> io::Result<bool> {
        self.make_room();
        let read = loop {
            match rustix::io::read(fd, &mut self.buffer[self.end..]) {
                Err(Errno::INTR) => {}
                // Somebody else has made the description non-blocking, and there is nothing after all.
                Err(Errno::AGAIN) => return Ok(true),
                outcome => break outcome?,
            }
        };
        let all = read < self.buffer.len() - self.end;
        self.end += read;
        if read == 0 {
            self.ended = true;
        } else {
            self.skip();
        }
        Ok(all)
    }

    /// Sees to it that there is room for a read.
    fn make_room(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.searched -= self.start;
        self.start = 0;
        if self.end <= CHUNK_BYTES && self.buffer.len() > 4 * CHUNK_BYTES {
            // A very long line has gone by.
            self.buffer.truncate(2 * CHUNK_BYTES);
            self.buffer.shrink_to_fit();
        }
        let wanted = self.end + CHUNK_BYTES;
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
    }

    /// Drops the rest of an overlong line.
    fn skip(&mut self) {
        if !self.skipping {
            return;
        }
        match memchr(b'\n', &self.buffer[self.start..self.end]) {
            Some(length) => {
                self.start += length + 1;
                self.skipping = false;
            }
            None => self.start = self.end,
        }
        self.searched = self.start;
    }

    /// The next line, if there is a whole one.
    pub fn next_line(&mut self) -> Option<Line<'_>> {
        let newline = memchr(b'\n', &self.buffer[self.searched..self.end]).map(|n| self.searched + n);
        let (start, line_end) = (self.start, newline.unwrap_or(self.end));
        let length = line_end - start;
        let after = line_end + usize::from(newline.is_some());
        if length > self.max_line_bytes {
            (self.start, self.searched) = (after, after);
            self.skipping = newline.is_none();
            return Some(Line::Overlong(&self.buffer[start..start + self.max_line_bytes]));
        }
        let last = self.ended && length > 0;
        if newline.is_none() && !last {
            self.searched = self.end;
            return None;
        }
        (self.start, self.searched) = (after, after);
        Some(Line::Whole(&self.buffer[start..line_end]))
    }
}

/// A duration as the system takes it.
pub(super) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// Waits until one of `fds` can be read, for at most `timeout` (`None`: for ever); says which can.
///
/// # Errors
/// As the system has it. An interruption by a signal is no error: then none can be read.
pub fn wait_readable<const N: usize>(fds: [Option<BorrowedFd>; N], timeout: Option<Duration>) -> io::Result<[bool; N]> {
    let timeout = timeout.map(timespec);
    let mut polled: Vec<PollFd> = fds.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok([false; N]),
        Err(error) => return Err(error.into()),
    }
    let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
    Ok(fds.map(|fd| fd.is_some() && ready.next().unwrap_or(false)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    fn lines(input: &[u8], max: usize, chunk: usize) -> Vec<(bool, Vec<u8>)> {
        let (mut writer, reader) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut buffer = LineBuffer::new(max);
        let mut found = Vec::new();
        let mut chunks = input.chunks(chunk);
        let mut writer = Some(&mut writer);
        while !buffer.has_ended() {
            match chunks.next() {
                Some(bytes) => writer.as_mut().unwrap().write_all(bytes).unwrap(),
                None => writer.take().unwrap().shutdown(std::net::Shutdown::Write).unwrap(),
            }
            buffer.fill(reader.as_fd()).unwrap();
            while let Some(line) = buffer.next_line() {
                found.push(match line {
                    Line::Whole(line) => (true, line.to_vec()),
                    Line::Overlong(line) => (false, line.to_vec()),
                });
            }
        }
        found
    }

    #[test]
    fn lines_are_the_same_however_they_come_in_pieces() {
        let input = b"one\n\ntwo and a half\nthree456789x\nfour\nlast";
        let whole = |line: &[u8]| (true, line.to_vec());
        let expected = vec![
            whole(b"one"),
            whole(b""),
            (false, b"two and a ".to_vec()),
            (false, b"three45678".to_vec()),
            whole(b"four"),
            whole(b"last"),
        ];
        for chunk in 1..=input.len() {
            assert_eq!(lines(input, 10, chunk), expected, "in pieces of {chunk}");
        }
    }

    #[test]
    fn an_overlong_line_is_never_buffered_beyond_the_bound() {
        let mut input = vec![b'x'; 3 << 20];
        input.extend_from_slice(b"\nok\n");
        let found = lines(&input, 1 << 20, 64 << 10);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].0, found[0].1.len()), (false, 1 << 20));
        assert_eq!(found[1], (true, b"ok".to_vec()));
    }
}
