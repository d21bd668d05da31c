//! One seed from start to verdict.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::chaos::Chaos;
use super::faults::{Fault, Faults};
use super::story::Story;
use super::tally::Tally;
#[cfg(feature = "planted-bugs")]
use crate::planted;

/// What a run is made from. The same options give the same run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Everything is drawn from it.
    pub seed: u64,
    /// How many nodes.
    pub nodes: usize,
    /// How many steps: a pause, perhaps a fault, and clients' requests.
    pub steps: u64,
    /// The kinds of faults that there may be.
    pub faults: Faults,
}

impl Options {
    /// The arguments of `orset` that give this run.
    pub fn command(&self) -> String {
        let Self { seed, nodes, steps, faults } = self;
        let without: Vec<&str> = faults.missing().map(Fault::name).collect();
        let without = if without.is_empty() { String::new() } else { format!(" --without {}", without.join(",")) };
        let command = format!("orset sim --seed {seed} --nodes {nodes} --steps {steps}{without}");
        #[cfg(feature = "planted-bugs")]
        if let Some(bug) = planted::chosen_bug() {
            return format!("{command} --plant {}", bug.about().name);
        }
        command
    }
}

/// A run in which something was that must not be.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The run that was asked for.
    pub first: Options,
    /// A run that fails too, with as few steps and kinds of faults as could be found.
    pub shortest: Options,
    /// What was wrong in that.
    pub what: String,
    /// The last steps before, in words.
    pub last_steps: Vec<String>,
}

/// Runs one seed.
///
/// # Errors
/// What was wrong, with a run as short as could be found.
pub fn run(options: &Options) -> Result<Tally, Box<Failure>> {
    attempt(options, &Story::untold()).map_err(|_| Box::new(shrink(*options)))
}

/// A hash of everything that happens in a run: each step, each message, each reply.
///
/// # Errors
/// What was wrong.
pub fn trace(options: &Options) -> Result<u64, String> {
    let story = Story::hashed();
    attempt(options, &story).map(|_| story.hash())
}

/// Leaves away steps and kinds of faults as long as the run still fails, and tells what happens in the shortest one.
fn shrink(first: Options) -> Failure {
    let fails = |options: &Options| attempt(options, &Story::untold()).is_err();
    let mut shortest = with_fewer_steps(first, fails);
    for fault in Fault::ALL {
        let fewer = Options { faults: shortest.faults.without(fault), ..shortest };
        if fewer != shortest && fails(&fewer) {
            shortest = fewer;
        }
    }
    shortest = with_fewer_steps(shortest, fails);
    let story = Story::kept();
    let what = attempt(&shortest, &story).err().unwrap_or_else(|| "it failed, and then it did not".to_owned());
    Failure { first, shortest, what, last_steps: story.last_steps() }
}

/// Halves the number of steps as long as the run still fails. What fails need not fail with more steps, so this finds a
/// shorter run, not always the shortest.
fn with_fewer_steps(options: Options, fails: impl Fn(&Options) -> bool) -> Options {
    let (mut passes, mut shortest) = (0, options.steps);
    while passes + 1 < shortest {
        let steps = passes.midpoint(shortest);
        if fails(&Options { steps, ..options }) { shortest = steps } else { passes = steps }
    }
    Options { steps: shortest, ..options }
}

/// Runs one seed, and says what was wrong.
pub(super) fn attempt(options: &Options, story: &Story) -> Result<Tally, String> {
    without_noise(|| {
        let mut chaos = Chaos::new(story.clone(), options.nodes, options.seed, options.faults);
        (0..options.steps).for_each(|_| chaos.step());
        chaos.heal_and_converge();
        Tally { seeds: 1, ..chaos.cluster.tally }
    })
}

thread_local! {
    /// Where the panic under way came from, while one is expected on this thread.
    static EXPECTED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Catches a panic, which then prints nothing.
fn without_noise<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let expected = EXPECTED.with_borrow_mut(|place| {
                let place = place.as_mut()?;
                *place = info.location().map(ToString::to_string).unwrap_or_default();
                Some(())
            });
            if expected.is_none() {
                before(info);
            }
        }));
    });
    EXPECTED.set(Some(String::new()));
    let outcome = catch_unwind(AssertUnwindSafe(body));
    let place = EXPECTED.take().unwrap_or_default();
    outcome.map_err(|panic| format!("{} ({place})", text_of(panic.as_ref())))
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: Options = Options { seed: 1, nodes: 3, steps: 1_000, faults: Faults::NONE };

    #[test]
    fn a_run_is_shortened_as_far_as_it_still_fails() {
        assert_eq!(with_fewer_steps(OPTIONS, |options| options.steps >= 17).steps, 17);
        assert_eq!(with_fewer_steps(OPTIONS, |options| options.steps == 1_000).steps, 1_000);
    }

    #[test]
    fn what_was_wrong_is_said_with_its_place() {
        let broken = || -> u8 { super::super::rules::Rule::Dots.broken("it was used twice") };
        let what = without_noise(broken).unwrap_err();
        assert!(what.starts_with("invariant 5, a dot is used once: it was used twice (src/sim/run.rs:"), "{what}");
        assert_eq!(without_noise(|| 7), Ok(7));
    }

    #[test]
    fn the_command_that_replays_a_run_names_what_it_does_without() {
        let faults = Faults::all().without(Fault::Late).without(Fault::DiskFull);
        let command = Options { faults, ..OPTIONS }.command();
        assert_eq!(command, "orset sim --seed 1 --nodes 3 --steps 1000 --without late,disk-full");
        assert_eq!(Options { faults: Faults::all(), ..OPTIONS }.command(), "orset sim --seed 1 --nodes 3 --steps 1000");
    }
}
