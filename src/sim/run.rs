//! One seed from start to verdict.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::chaos::Chaos;
use super::story::Story;

/// What a run is made from. The same options give the same run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Everything is drawn from it.
    pub seed: u64,
    /// How many nodes.
    pub nodes: usize,
    /// How many steps: a pause, perhaps a fault, and a client's request.
    pub steps: u64,
}

/// What runs did, to be summed up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Adds that were acknowledged.
    pub adds: u64,
    /// Tags that acknowledged removes named.
    pub removed: u64,
    /// Adds and removals that were lost with the only stores that held them.
    pub lost: u64,
    /// Messages between nodes.
    pub messages: u64,
    /// Offers of state deltas.
    pub state_deltas: u64,
    /// The slowest agreement after the faults, in virtual milliseconds.
    pub slowest_ms: u64,
}

impl Tally {
    /// Takes in what another run did.
    pub fn add(&mut self, other: &Tally) {
        self.adds += other.adds;
        self.removed += other.removed;
        self.lost += other.lost;
        self.messages += other.messages;
        self.state_deltas += other.state_deltas;
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
    }
}

/// A run in which something was that must not be.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The run; with as few steps as still fail.
    pub options: Options,
    /// What was wrong.
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

/// Halves the number of steps as long as the run still fails, and tells what happens in the shortest one.
fn shrink(mut options: Options) -> Failure {
    let fails = |steps| attempt(&Options { steps, ..options }, &Story::untold()).is_err();
    // What fails need not fail with more steps, so this finds a shorter run, not always the shortest.
    let (mut passes, mut shortest) = (0, options.steps);
    while passes + 1 < shortest {
        let middle = passes.midpoint(shortest);
        if fails(middle) { shortest = middle } else { passes = middle }
    }
    options.steps = shortest;
    let story = Story::kept();
    let what = attempt(&options, &story).err().unwrap_or_else(|| "it failed, and then it did not".to_owned());
    Failure { options, what, last_steps: story.last_steps() }
}

/// Runs one seed, and says what was wrong.
fn attempt(options: &Options, story: &Story) -> Result<Tally, String> {
    without_noise(|| {
        let mut chaos = Chaos::new(story.clone(), options.nodes, options.seed);
        chaos.run(options.steps);
        chaos.heal();
        let slowest_ms = chaos.cluster.converge();
        let (oracle, network) = (&chaos.cluster.oracle, &chaos.cluster.network);
        Tally {
            adds: oracle.adds.len() as u64,
            removed: oracle.removed.len() as u64,
            lost: (oracle.lost_adds.len() + oracle.lost_removals.len()) as u64,
            messages: network.total_sent(),
            state_deltas: network.sent("offer"),
            slowest_ms,
        }
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
