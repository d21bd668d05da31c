//! Many seeds on several threads. Each run is the same as by itself.

use std::sync::Mutex;
use std::thread;

use super::run::{Failure, Options, run};
use super::tally::Tally;

struct Shared {
    next: u64,
    tally: Tally,
    failure: Option<Box<Failure>>,
}

/// Runs `seeds` seeds from that of `first` on, on `threads` threads, until one fails. `progress` hears how many have
/// been run.
///
/// # Errors
/// The lowest seed that fails.
///
/// # Panics
/// Never: what a run panics of is caught.
pub fn run_many(
    first: &Options,
    seeds: u64,
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Tally, Box<Failure>> {
    let shared = Mutex::new(Shared { next: 0, tally: Tally::default(), failure: None });
    let lock = || shared.lock().expect("nobody panics while holding the lock");
    let work = || {
        loop {
            let seed = {
                let mut shared = lock();
                // Seeds are given out in order: those below the one that has failed are run, or being run.
                if shared.next == seeds || shared.failure.is_some() {
                    return;
                }
                shared.next += 1;
                first.seed.wrapping_add(shared.next - 1)
            };
            let outcome = run(&Options { seed, ..*first });
            let mut shared = lock();
            match outcome {
                Ok(tally) => {
                    shared.tally.add(&tally);
                    progress(shared.tally.seeds);
                }
                Err(failure) => {
                    let earlier = shared.failure.as_ref().is_some_and(|other| other.first.seed < seed);
                    if !earlier {
                        shared.failure = Some(failure);
                    }
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    let Shared { tally, failure, .. } = shared.into_inner().expect("nobody panics while holding the lock");
    failure.map_or(Ok(tally), Err)
}
