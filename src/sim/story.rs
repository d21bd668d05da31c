//! What happened in a run, in words: the last steps of it, for whoever has to understand a failure; or all of it, as one
//! number.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Steps that are kept.
const LINES: usize = 60;

/// See the module's text. Clones share one story.
#[derive(Clone, Default)]
pub struct Story(Option<Rc<RefCell<Told>>>);

struct Told {
    how: How,
    lines: VecDeque<String>,
    /// Of everything that was told (FNV-1a).
    hash: u64,
}

enum How {
    Kept,
    /// Printed if a panic drops it; with the seed of the run.
    PrintedOnPanic(u64),
    Hashed,
}

impl Story {
    fn told(how: How) -> Self {
        let told = Told { how, lines: VecDeque::new(), hash: 0xcbf2_9ce4_8422_2325 };
        Self(Some(Rc::new(RefCell::new(told))))
    }

    /// Nobody listens: nothing is put into words.
    pub fn untold() -> Self {
        Self(None)
    }

    /// The last steps are kept for whoever asks.
    pub fn kept() -> Self {
        Self::told(How::Kept)
    }

    /// Kept, and printed if a panic ends it: for tests.
    pub fn printed_on_panic(seed: u64) -> Self {
        Self::told(How::PrintedOnPanic(seed))
    }

    /// Every step and every detail goes into a hash.
    pub fn hashed() -> Self {
        Self::told(How::Hashed)
    }

    /// Tells a step at `now_ms`.
    pub fn tell(&self, now_ms: u64, what: impl FnOnce() -> String) {
        let Some(told) = &self.0 else { return };
        let mut told = told.borrow_mut();
        let line = format!("{now_ms:>7} {}", what());
        if let How::Hashed = told.how {
            return told.mix(&line);
        }
        if told.lines.len() == LINES {
            told.lines.pop_front();
        }
        told.lines.push_back(line);
    }

    /// Tells what only the hash is interested in.
    pub fn tell_detail(&self, what: impl FnOnce() -> String) {
        if let Some(told) = &self.0
            && matches!(told.borrow().how, How::Hashed)
        {
            let what = what();
            told.borrow_mut().mix(&what);
        }
    }

    /// The last steps, oldest first.
    pub fn last_steps(&self) -> Vec<String> {
        self.0.as_ref().map(|told| told.borrow().lines.iter().cloned().collect()).unwrap_or_default()
    }

    /// The hash of everything that was told, if it is kept.
    pub fn hash(&self) -> u64 {
        self.0.as_ref().map_or(0, |told| told.borrow().hash)
    }
}

impl Told {
    fn mix(&mut self, text: &str) {
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if let How::PrintedOnPanic(seed) = self.how
            && std::thread::panicking()
        {
            for line in &self.lines {
                eprintln!("{line}");
            }
            eprintln!("seed {seed}");
        }
    }
}
