//! Saying on stderr how far a long recovery has come.

use std::time::{Duration, Instant};

use crate::storage::progress::{Progress, Stage};

/// Nothing is said of what takes less, and then so often.
const EVERY: Duration = Duration::from_secs(2);

/// Says a line every two seconds, if anything takes that long. The clock and the mouth are arguments, for its tests.
pub struct Teller<C, S> {
    clock: C,
    say: S,
    said: Duration,
}

impl Teller<(), ()> {
    /// One that goes by the clock, and speaks of the store `name` on stderr.
    pub fn on_stderr(name: String) -> Teller<impl FnMut() -> Duration, impl FnMut(&str)> {
        let started = Instant::now();
        Teller::new(move || started.elapsed(), move |text| tracing::info!("{name}: {text}"))
    }
}

impl<C: FnMut() -> Duration, S: FnMut(&str)> Teller<C, S> {
    /// One that asks `clock` how long it has been, and gives what is to be said to `say`.
    pub fn new(mut clock: C, say: S) -> Self {
        let said = clock();
        Self { clock, say, said }
    }
}

impl<C: FnMut() -> Duration, S: FnMut(&str)> Progress for Teller<C, S> {
    fn step(&mut self, stage: Stage, done: u64, all: u64) {
        let now = (self.clock)();
        if now < self.said + EVERY {
            return;
        }
        self.said = now;
        let (what, of) = match stage {
            Stage::CheckSnapshot => ("checking the snapshot", "blocks"),
            Stage::CheckLog => ("checking the log", "segments"),
            Stage::ReadLog => ("reading the log", "segments"),
        };
        (self.say)(&format!("{what}: {done} of {all} {of}, {} s so far", now.as_secs()));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[test]
    fn a_line_comes_every_two_seconds_and_none_of_what_is_quick() {
        let (now_ms, said) = (Cell::new(0), RefCell::new(Vec::new()));
        let clock = || Duration::from_millis(now_ms.get());
        let mut teller = Teller::new(clock, |text: &str| said.borrow_mut().push(text.to_owned()));
        // Steps of 900 ms: those at 2700, 5400 and 8100 ms are the first ones two seconds after a line.
        for block in 1..=5 {
            now_ms.set(now_ms.get() + 900);
            teller.step(Stage::CheckSnapshot, block, 5);
        }
        for segment in 1..=4 {
            now_ms.set(now_ms.get() + 900);
            teller.step(Stage::CheckLog, segment, 4);
        }
        now_ms.set(now_ms.get() + 1);
        teller.step(Stage::ReadLog, 1, 1);
        assert_eq!(
            *said.borrow(),
            [
                "checking the snapshot: 3 of 5 blocks, 2 s so far",
                "checking the log: 1 of 4 segments, 5 s so far",
                "checking the log: 4 of 4 segments, 8 s so far",
            ]
        );
    }
}
