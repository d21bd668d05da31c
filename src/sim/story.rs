//! What happened in a run, in words: the last steps of it, for whoever has to understand a failure.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Steps that are kept.
const LINES: usize = 60;

/// See the module's text. Clones share one story.
#[derive(Clone, Default)]
pub struct Story(Option<Rc<Lines>>);

struct Lines {
    lines: RefCell<VecDeque<String>>,
    /// Printed if a panic drops it; with the seed of the run.
    print: Option<u64>,
}

impl Story {
    /// Nobody listens: nothing is put into words.
    pub fn untold() -> Self {
        Self(None)
    }

    /// Kept for whoever asks.
    pub fn kept() -> Self {
        Self(Some(Rc::new(Lines { lines: RefCell::default(), print: None })))
    }

    /// Kept, and printed if a panic ends it: for tests.
    pub fn printed_on_panic(seed: u64) -> Self {
        Self(Some(Rc::new(Lines { lines: RefCell::default(), print: Some(seed) })))
    }

    /// Tells a step at `now_ms`.
    pub fn tell(&self, now_ms: u64, what: impl FnOnce() -> String) {
        let Some(story) = &self.0 else { return };
        let mut lines = story.lines.borrow_mut();
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(format!("{now_ms:>7} {}", what()));
    }

    /// The last steps, oldest first.
    pub fn last_steps(&self) -> Vec<String> {
        self.0.as_ref().map(|story| story.lines.borrow().iter().cloned().collect()).unwrap_or_default()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if let Some(seed) = self.print.filter(|_| std::thread::panicking()) {
            for line in self.lines.borrow().iter() {
                eprintln!("{line}");
            }
            eprintln!("seed {seed}");
        }
    }
}
