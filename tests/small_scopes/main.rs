//! Everything that can happen to three replicas with a few operations on two elements: every order of arrival, loss,
//! doubling, crashes, wipes, snapshots and state deltas. All states are visited, equal ones once.
//!
//! ```text
//! search   every state within a scope, nearest first
//! world    a state: the three replicas, what was ever made, what may happen next
//! memory   the parts of states, each kept once, and what follows from them, each worked out once
//! table    numbers for parts
//! view     the same state under other names of places and elements
//! past     the operations that were ever made
//! site     one replica: the product's State, and what has happened to it
//! rules    how it takes things in: the product's rules, and wrong ones that must be caught
//! real     a real Replica on a real Store that lives through the same; it makes the deltas and state deltas
//! bridge   asks a real replica once for each state of one replica
//! oracle   the definition of an OR-Set: what is live, given what is held
//! ```
//!
//! What must hold in each state:
//!
//! - Each replica has exactly what the oracle says for its vector: all adds that it holds but those that a remove which it
//!   holds had seen. So concurrent adds win, no removed element returns, nothing is claimed that is not there, and two that
//!   hold the same have the same.
//! - A real replica to which the same has happened holds the same, and has the same floor.
//! - From there everybody can catch up: what a real replica answers to a digest, a delta or a state delta, applies, and
//!   brings all that it holds.
//!
//! States that differ only in which node is which, or which element is which, are one. That is sound as far as the model goes: none
//! of its rules compares two places or two elements, so under other names the same steps lead from the same states to the same
//! states, and what holds in the one holds in the other. (Real replicas sort by replica id and by element. They are asked under the
//! names that were met first, and the searches meet most names sooner or later; that no order matters to them is not shown
//! here.)
//!
//! Larger scopes than those that run
//! by themselves: `ORSET_SCOPE=4,1,1,1 cargo test --release --test small_scopes the_scope_that_was_asked_for -- --nocapture`
//! (changes, faults, snapshots, state deltas; see `docs/testing.md`).

mod bridge;
mod memory;
mod oracle;
mod past;
mod real;
mod rules;
mod scope;
mod search;
mod site;
mod table;
mod view;
mod world;

use rules::Rules;
use scope::Scope;
use search::{Checks, Order, Outcome, search};

const ALL: Checks = Checks { real: true, heals: true };

fn visited(name: &str, scope: Scope) -> Outcome {
    let outcome = search(&scope, &rules::Product, ALL, Order::Last);
    let Outcome { states, steps, lived, said, joins, fault } = &outcome;
    println!(
        "{name}: {states} states, {steps} steps, {joins} state deltas committed; \
         real replicas: {lived} states lived through, {said} answers ({scope:?})"
    );
    if let Some(fault) = fault {
        panic!("{name}: {fault}");
    }
    outcome
}

const fn scope(changes: u8, faults: u8, snapshots: u8, joins: u8) -> Scope {
    Scope { changes, faults, snapshots, joins, lone_starts: false }
}

const NOTHING_ELSE: Checks = Checks { real: false, heals: false };
const DELTAS: Scope = scope(3, 0, 0, 0);
const JOINS: Scope = scope(3, 0, 1, 1);

#[test]
fn deltas_of_four_changes() {
    let outcome = visited("deltas", scope(4, 0, 0, 0));
    assert!(outcome.states > 5_000 && outcome.said > 1_000, "{outcome:?}");
}

#[test]
fn deltas_with_a_crash_or_a_wipe() {
    visited("deltas, and a crash or a wipe", scope(3, 1, 0, 0));
}

#[test]
fn deltas_cut_after_a_start() {
    visited("deltas cut after a Start", Scope { lone_starts: true, ..DELTAS });
}

#[test]
fn state_deltas_of_three_changes() {
    let outcome = visited("state deltas", JOINS);
    assert!(outcome.joins > 10_000, "{outcome:?}");
}

#[test]
fn state_deltas_with_a_crash_or_a_wipe() {
    let outcome = visited("state deltas, and a crash or a wipe", scope(2, 1, 1, 1));
    assert!(outcome.joins > 1_000, "{outcome:?}");
}

/// `ORSET_SCOPE=4,1,1,1` or any other numbers of changes, faults, snapshots and state deltas.
#[test]
fn the_scope_that_was_asked_for() {
    let text = std::env::var("ORSET_SCOPE").unwrap_or_else(|_| "2,1,0,0".to_owned());
    let numbers: Vec<u8> = text.split(',').map(|number| number.trim().parse().expect("a number")).collect();
    let [changes, faults, snapshots, joins] = numbers[..] else { panic!("{text:?} is not four numbers") };
    visited(&text, scope(changes, faults, snapshots, joins));
}

/// States are told apart by all that their future depends on: else it would matter which of two is met first.
#[test]
fn in_whatever_order_states_are_visited_they_are_as_many() {
    let [nearest, last] =
        [Order::Nearest, Order::Last].map(|order| search(&scope(2, 1, 1, 1), &rules::Product, NOTHING_ELSE, order));
    assert_eq!((nearest.states, nearest.steps, nearest.joins), (last.states, last.steps, last.joins));
}

/// Searches with a wrong rule; gives back what was found. The real replicas, which have the right one, only make the
/// messages.
fn caught(scope: Scope, rules: &dyn Rules) -> String {
    let outcome = search(&scope, rules, NOTHING_ELSE, Order::Nearest);
    let fault = outcome.fault.expect("the rule is wrong, and nothing has been found");
    println!("found after {} states: {fault}", outcome.states);
    fault
}

#[test]
fn a_remove_before_its_add_is_caught() {
    assert!(caught(DELTAS, &rules::RemoveBeforeItsAdd).contains("no removed element returns"));
}

#[test]
fn a_remove_of_concurrent_tags_is_caught() {
    assert!(caught(DELTAS, &rules::RemoveOfConcurrentTags).contains("add wins"));
}

#[test]
fn an_operation_that_is_applied_twice_is_caught() {
    assert!(caught(DELTAS, &rules::AppliedTwice).contains("no removed element returns"));
}

#[test]
fn a_gap_that_is_papered_over_is_caught() {
    assert!(caught(DELTAS, &rules::GapsArePaperedOver).contains("add wins"));
}

#[test]
fn an_overclaimed_context_is_caught() {
    assert!(caught(JOINS, &rules::OverclaimedContext).contains("add wins"));
}

#[test]
fn a_state_delta_joined_part_by_part_is_caught() {
    assert!(caught(JOINS, &rules::JoinedPartByPart).contains("add wins"));
}

#[test]
fn listed_tags_that_come_back_are_caught() {
    assert!(caught(JOINS, &rules::ListedTagsComeBack).contains("no removed element returns"));
}

#[test]
fn a_join_without_removals_is_caught() {
    assert!(caught(JOINS, &rules::JoinWithoutRemovals).contains("no removed element returns"));
}

#[test]
fn a_digest_that_is_not_frozen_is_caught() {
    assert!(caught(JOINS, &rules::DigestNotFrozen).contains("add wins"));
}

#[test]
fn a_replica_id_kept_after_a_wipe_is_caught() {
    assert!(caught(scope(2, 1, 0, 0), &rules::ReplicaIdKeptAfterWipe).contains("used twice"));
}

/// No state is wrong by itself here; from some there is no way on.
#[test]
fn removes_that_are_lost_are_caught() {
    let checks = Checks { real: false, heals: true };
    let outcome = search(&DELTAS, &rules::RemovesAreLost, checks, Order::Nearest);
    let fault = outcome.fault.expect("nobody ever catches up");
    assert!(fault.contains("when all faults have ceased"), "{fault}");
}
