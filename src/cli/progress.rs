//! What a run of the bench shows while it goes on: one live line on a terminal, plain lines otherwise.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::bench::history::Phase;
use crate::bench::{Progress, Status};

/// Plain lines come this often.
const LINE_NS: u64 = 5_000_000_000;

/// For our own stderr.
pub fn progress(time_limit: Duration) -> Box<dyn Progress> {
    if std::io::stderr().is_terminal() {
        Box::new(Live { limit_s: time_limit.as_secs_f64() })
    } else {
        Box::new(Lines { next_ns: 0 })
    }
}

fn part(phase: Option<Phase>) -> &'static str {
    match phase {
        None => "starting",
        Some(Phase::Main) => "running",
        Some(Phase::Final) => "recovering",
        Some(Phase::Drain) => "draining",
    }
}

fn counts(status: &Status) -> String {
    let Status { operations, ok, failed, .. } = status;
    format!("{operations} operations: {ok} ok, {failed} refused, {} open or unknown", operations - ok - failed)
}

/// Short, so that 80 columns also have room for the faults in force.
fn live_line(status: &Status, limit_s: f64) -> String {
    let Status { operations, ok, failed, .. } = status;
    let seconds = status.now_ns as f64 / 1e9;
    let done = ((seconds / limit_s * 10.0) as usize).min(10);
    let bar = format!("{}{}", "#".repeat(done), ".".repeat(10 - done));
    let (open, part, faults) = (operations - ok - failed, part(status.phase), status.faults.join(", "));
    format!("[{bar}] {seconds:.0} s {part} {ok} ok {failed} refused {open} open  {faults}")
}

/// One line that changes.
struct Live {
    limit_s: f64,
}

impl Live {
    fn show(text: &str) {
        let mut err = std::io::stderr();
        // A terminal that is gone is no reason to stop.
        let _ = write!(err, "\r\x1b[K{text}").and_then(|()| err.flush());
    }
}

impl Progress for Live {
    fn status(&mut self, status: &Status) {
        // Longer than the terminal, it would not be one line.
        Self::show(&live_line(status, self.limit_s).chars().take(columns() - 1).collect::<String>());
    }

    fn note(&mut self, now_ns: u64, text: &str) {
        if text.contains("by itself") || text.contains("bad line") {
            Self::show(&format!("{:.1} s  {text}\n", now_ns as f64 / 1e9));
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        Self::show("");
    }
}

fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    size.map_or(80, |size| usize::from(size.ws_col)).max(20)
}

/// Lines for a file or another program.
struct Lines {
    next_ns: u64,
}

impl Progress for Lines {
    fn status(&mut self, status: &Status) {
        if status.now_ns >= self.next_ns {
            self.next_ns = status.now_ns + LINE_NS;
            self.note(status.now_ns, &format!("{}, {}", part(status.phase), counts(status)));
        }
    }

    fn note(&mut self, now_ns: u64, text: &str) {
        // Nobody reads it any more: the verdict may still be wanted.
        let _ = writeln!(std::io::stderr(), "{:6.1} s  {text}", now_ns as f64 / 1e9);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eighty_columns_have_room_for_the_faults_in_force() {
        let status = Status {
            now_ns: 55_400_000_000,
            phase: Some(Phase::Final),
            operations: 12_345,
            ok: 11_900,
            failed: 400,
            faults: vec!["n1 n4 down".to_owned(), "partition".to_owned()],
        };
        let line = live_line(&status, 60.0);
        assert_eq!(line, "[#########.] 55 s recovering 11900 ok 400 refused 45 open  n1 n4 down, partition");
        assert!(line.len() <= 80, "{}", line.len());
    }
}
