//! Visits every state within a scope.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write;

use super::memory::Memory;
use super::rules::Rules;
use super::scope::Scope;
use super::world::World;

/// What is looked at in each state, beyond that everybody has what follows from what they hold.
#[derive(Clone, Copy)]
pub struct Checks {
    /// That a real replica that lives through the same holds the same.
    pub real: bool,
    /// That everybody can catch up with everybody.
    pub heals: bool,
}

/// Which state is visited next. The outcome is the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The nearest: a fault is told by a shortest way to it.
    Nearest,
    /// The last found: few states wait to be visited, so it takes little memory.
    Last,
}

/// What a search has found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// States visited.
    pub states: usize,
    /// Steps tried.
    pub steps: usize,
    /// States of one replica that a real one has lived through.
    pub lived: usize,
    /// Answers and state deltas that real ones have given.
    pub said: usize,
    /// State deltas that were committed.
    pub joins: usize,
    /// The first fault: what is wrong, and the way there.
    pub fault: Option<String>,
}

/// Where a state came from, to tell the way: another state, and which of the actions that may happen there. (States are many, so this
/// is small.)
type Came = (u32, u8);

/// Visits all states of a scope, or all up to the first fault.
pub fn search(scope: &Scope, rules: &dyn Rules, checks: Checks, order: Order) -> Outcome {
    let mut outcome = Outcome::default();
    let mut memory = Memory::new(*scope, rules, checks);
    let start = memory.start().expect("empty stores are sound");
    let mut came: Vec<Came> = vec![(0, 0)];
    let mut known = HashSet::from([memory.name(&start)]);
    let mut waiting = VecDeque::from([(0, start)]);
    let next = |waiting: &mut VecDeque<_>| match order {
        Order::Nearest => waiting.pop_front(),
        Order::Last => waiting.pop_back(),
    };
    'all: while let Some((at, world)) = next(&mut waiting) {
        outcome.states += 1;
        if outcome.states.is_multiple_of(1_000_000) {
            println!(
                "… {} states, {} of them not visited yet, of {} sites",
                known.len(),
                waiting.len(),
                memory.sites()
            );
        }
        for (n, action) in (0..).zip(memory.actions(&world)) {
            outcome.steps += 1;
            let found = memory.after(&world, action).and_then(|next| {
                let Some(next) = next else { return Ok(None) };
                outcome.joins += usize::from(memory.joins(&world, action, &next));
                if !known.insert(memory.name(&next)) {
                    return Ok(None);
                }
                if checks.heals {
                    memory.heals(&next)?;
                }
                Ok(Some(next))
            });
            match found {
                Ok(None) => {}
                Ok(Some(next)) => {
                    let number = u32::try_from(came.len()).expect("fewer than 2^32 states fit into memory");
                    came.push((at, n));
                    waiting.push_back((number, next));
                }
                Err(why) => {
                    came.push((at, n));
                    outcome.fault = Some(way(&mut memory, &came, &why));
                    break 'all;
                }
            }
        }
    }
    (outcome.lived, outcome.said) = (memory.bridge().lived(), memory.bridge().said());
    outcome
}

/// The way to the last state, in words.
fn way(memory: &mut Memory, came: &[Came], why: &str) -> String {
    let mut steps = Vec::new();
    let mut at = came.len() - 1;
    while at > 0 {
        let (before, n) = came[at];
        steps.push(usize::from(n));
        at = before as usize;
    }
    let mut text = format!("{why}\n");
    let mut world: Option<World> = memory.start().ok();
    for (n, step) in steps.into_iter().rev().enumerate() {
        let Some(here) = world else { break };
        let action = memory.actions(&here)[step];
        let _ = writeln!(text, "  {}. {action}", n + 1);
        // The last step is the one that fails.
        world = memory.after(&here, action).ok().flatten();
    }
    text
}
