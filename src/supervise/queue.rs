//! Lines on their way into a pipe.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// POSIX: a pipe that polls as writable has room for PIPE_BUF bytes, so a write of so many does not block, whoever
/// has made the pipe and however. On Linux that is a page.
const PIECE_BYTES: usize = 4096;

/// Lines, of which the first may be partly written.
#[derive(Default)]
pub struct Queue {
    /// Each with its end.
    lines: VecDeque<Vec<u8>>,
    /// So much of the first has been written.
    written: usize,
    bytes: usize,
}

impl Queue {
    /// Puts a line, without its end, behind the others.
    pub fn push(&mut self, mut line: Vec<u8>) {
        line.push(b'\n');
        self.bytes += line.len();
        self.lines.push_back(line);
    }

    /// Whether everything has been written.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// How much is yet to be written, counting the first line whole.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The lines that have not been written, or not wholly, without their ends. None is left.
    pub fn take_unwritten(&mut self) -> Vec<Vec<u8>> {
        (self.written, self.bytes) = (0, 0);
        let mut lines: Vec<Vec<u8>> = self.lines.drain(..).collect();
        lines.iter_mut().for_each(|line| line.truncate(line.len() - 1));
        lines
    }

    /// Writes some of it into `pipe`, which has just polled as writable. False if nobody reads there any more.
    ///
    /// # Errors
    /// As the system has it.
    pub fn write_some(&mut self, pipe: BorrowedFd) -> io::Result<bool> {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let mut skipped = self.written;
        for line in &self.lines {
            let room = PIECE_BYTES - piece.len();
            piece.extend(line.iter().skip(skipped).take(room));
            skipped = 0;
            if piece.len() == PIECE_BYTES {
                break;
            }
        }
        match rustix::io::write(pipe, &piece) {
            Ok(length) => self.advance(length),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(Errno::PIPE) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    fn advance(&mut self, length: usize) {
        self.written += length;
        while self.lines.front().is_some_and(|line| line.len() <= self.written)
            && let Some(line) = self.lines.pop_front()
        {
            self.written -= line.len();
            self.bytes -= line.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;

    #[test]
    fn lines_come_out_whole_and_in_order_and_a_half_line_is_given_back_whole() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut queue = Queue::default();
        let lines: Vec<Vec<u8>> = (0..300_usize).map(|n| vec![b'a' + (n % 26) as u8; n * 7]).collect();
        lines.iter().for_each(|line| queue.push(line.clone()));
        let all: Vec<u8> = lines.iter().flat_map(|line| [line, &b"\n"[..]].concat()).collect();
        assert_eq!(queue.bytes(), all.len());
        let mut read = Vec::new();
        while read.len() < all.len() / 2 {
            assert!(queue.write_some(writer.as_fd()).unwrap());
            let before = read.len();
            read.resize(before + PIECE_BYTES, 0);
            let length = reader.read(&mut read[before..]).unwrap();
            read.truncate(before + length);
        }
        assert_eq!(read, all[..read.len()]);
        let whole = read.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(queue.take_unwritten(), lines[whole..]);
        assert!(queue.is_empty() && queue.bytes() == 0);
    }

    #[test]
    fn nobody_reading_is_no_error_and_what_met_it_is_kept() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut queue = Queue::default();
        queue.push(b"hello".to_vec());
        assert!(!queue.write_some(writer.as_fd()).unwrap());
        assert_eq!(queue.take_unwritten(), [b"hello"]);
    }
}
