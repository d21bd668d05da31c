//! Visits every state within a scope.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write;

use super::bridge::Bridge;
use super::rules::Rules;
use super::scope::Scope;
use super::site::Place;
use super::world::{Action, World};

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

struct Search<'a> {
    rules: &'a dyn Rules,
    checks: Checks,
    bridge: Bridge,
    /// Where each state came from, to tell the way.
    came: Vec<(usize, Option<Action>)>,
    outcome: Outcome,
}

/// Visits all states of a scope, or all up to the first fault.
pub fn search(scope: &Scope, rules: &dyn Rules, checks: Checks, order: Order) -> Outcome {
    let mut search =
        Search { rules, checks, bridge: Bridge::default(), came: vec![(0, None)], outcome: Outcome::default() };
    let start = World::new(scope);
    let mut known = HashSet::from([start.name()]);
    let mut waiting = VecDeque::from([(0, start)]);
    let next = |waiting: &mut VecDeque<_>| match order {
        Order::Nearest => waiting.pop_front(),
        Order::Last => waiting.pop_back(),
    };
    while let Some((at, world)) = next(&mut waiting) {
        search.outcome.states += 1;
        if search.outcome.states.is_multiple_of(1_000_000) {
            println!("… {} states, {} of them not visited yet", known.len(), waiting.len());
        }
        for action in world.actions(scope) {
            search.outcome.steps += 1;
            let found = search.step(&world, action).and_then(|next| match next {
                Some(next) if known.insert(next.name()) => search.check(&next, action.place()).map(|()| Some(next)),
                _ => Ok(None),
            });
            match found {
                Ok(None) => {}
                Ok(Some(next)) => {
                    search.came.push((at, Some(action)));
                    waiting.push_back((search.came.len() - 1, next));
                }
                Err(why) => {
                    search.outcome.fault = Some(search.way(at, action, &why));
                    return search.done();
                }
            }
        }
    }
    search.done()
}

impl Search<'_> {
    fn step(&mut self, world: &World, action: Action) -> Result<Option<World>, String> {
        let Some(next) = world.after(action, self.rules, &mut self.bridge)? else { return Ok(None) };
        let place = action.place();
        let (before, after) = (&world.sites[place], &next.sites[place]);
        if matches!(action, Action::NextPart(_)) && before.receiving.is_some() && after.receiving.is_none() {
            self.outcome.joins += 1;
        }
        Ok(Some(next))
    }

    /// Looks at a new state, into which something at `place` has led.
    fn check(&mut self, world: &World, place: Place) -> Result<(), String> {
        if self.checks.real {
            self.bridge.lives_through(&world.sites[place], &world.ops)?;
        }
        if self.checks.heals {
            world.heals(self.rules, &mut self.bridge)?;
        }
        Ok(())
    }

    fn way(&self, mut at: usize, last: Action, why: &str) -> String {
        let mut actions = vec![last];
        while let (before, Some(action)) = self.came[at] {
            actions.push(action);
            at = before;
        }
        let mut text = format!("{why}\n");
        for (n, action) in actions.iter().rev().enumerate() {
            let _ = writeln!(text, "  {}. {action}", n + 1);
        }
        text
    }

    fn done(mut self) -> Outcome {
        (self.outcome.lived, self.outcome.said) = (self.bridge.lived(), self.bridge.said());
        self.outcome
    }
}
