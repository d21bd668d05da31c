//! The model that judges the real binary's replies (`tests/support/model.rs`): it accepts what a sound node may say, and
//! catches each violation when it is planted.

mod support;

use support::model::{Model, View, Violation};
use uuid::Uuid;

const NODE: &str = "n1";

fn tag(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn list(elements: &[&str]) -> Vec<String> {
    elements.iter().map(|e| (*e).to_owned()).collect()
}

/// A model that was told of an add of "a" with tag 1.
fn with_one_add() -> Model {
    let mut model = Model::default();
    model.sent_add(1, NODE, "a");
    model.added(1, tag(1)).unwrap();
    model
}

fn remove(model: &mut Model, op: u64, node: &str, tags: &[u128], view: View) -> Result<(), Violation> {
    model.sent_remove(op, node, "a");
    let tags: Vec<Uuid> = tags.iter().map(|n| tag(*n)).collect();
    model.removed(op, &tags, view)
}

#[test]
fn what_a_sound_node_says_is_accepted() {
    let mut model = with_one_add();
    model.read(&list(&["a"])).unwrap();
    remove(&mut model, 2, NODE, &[1], View::Whole).unwrap();
    model.read(&[]).unwrap();
    remove(&mut model, 3, NODE, &[], View::Whole).unwrap();
    assert_eq!(model.counts(), (0, 0, 1));
}

#[test]
fn a_lost_acknowledged_add_is_caught_by_a_read_and_by_a_remove() {
    let lost = Violation::Lost { element: "a".into(), tags: vec![tag(1)] };
    assert_eq!(with_one_add().read(&[]), Err(lost.clone()));
    assert_eq!(remove(&mut with_one_add(), 2, NODE, &[], View::Whole), Err(lost));
}

#[test]
fn one_lost_tag_of_two_is_caught_although_reads_look_right() {
    let mut model = with_one_add();
    model.sent_add(2, NODE, "a");
    model.added(2, tag(2)).unwrap();
    model.read(&list(&["a"])).unwrap();
    let lost = Violation::Lost { element: "a".into(), tags: vec![tag(1)] };
    assert_eq!(remove(&mut model, 3, NODE, &[2], View::Whole), Err(lost));
}

#[test]
fn a_removed_tag_that_returns_is_caught_by_a_read_and_by_a_remove() {
    let mut model = with_one_add();
    remove(&mut model, 2, NODE, &[1], View::Whole).unwrap();
    let returned = Violation::Returned { element: "a".into(), tags: vec![tag(1)] };
    assert_eq!(model.clone().read(&list(&["a"])), Err(returned.clone()));
    assert_eq!(remove(&mut model, 3, NODE, &[1], View::Whole), Err(returned));
}

#[test]
fn a_removed_tag_that_returns_beside_a_live_one_is_caught() {
    let mut model = with_one_add();
    remove(&mut model, 2, NODE, &[1], View::Whole).unwrap();
    model.sent_add(3, NODE, "a");
    model.added(3, tag(3)).unwrap();
    model.read(&list(&["a"])).unwrap();
    let returned = Violation::Returned { element: "a".into(), tags: vec![tag(1)] };
    assert_eq!(remove(&mut model, 4, NODE, &[1, 3], View::Whole), Err(returned));
}

#[test]
fn an_unanswered_remove_may_have_happened_or_not_but_does_not_change_its_mind() {
    let mut model = with_one_add();
    model.sent_remove(2, NODE, "a");
    model.killed(NODE);
    model.clone().read(&list(&["a"])).unwrap();
    remove(&mut model.clone(), 3, NODE, &[1], View::Whole).unwrap();
    model.read(&[]).unwrap();
    let returned = Violation::Returned { element: "a".into(), tags: vec![tag(1)] };
    assert_eq!(model.read(&list(&["a"])), Err(returned));
}

#[test]
fn an_unanswered_remove_takes_nothing_that_is_added_afterwards() {
    let mut model = with_one_add();
    model.sent_remove(2, NODE, "a");
    model.killed(NODE);
    model.sent_add(3, NODE, "a");
    model.added(3, tag(3)).unwrap();
    let lost = Violation::Lost { element: "a".into(), tags: vec![tag(3)] };
    assert_eq!(model.read(&[]), Err(lost));
}

#[test]
fn an_unanswered_add_explains_one_unknown_tag_and_no_more() {
    let mut model = with_one_add();
    model.sent_add(2, NODE, "a");
    model.killed(NODE);
    remove(&mut model.clone(), 3, NODE, &[1], View::Whole).unwrap();
    remove(&mut model.clone(), 3, NODE, &[1, 7], View::Whole).unwrap();
    let foreign = Violation::Foreign { element: "a".into(), tags: vec![tag(7), tag(8)] };
    assert_eq!(remove(&mut model, 3, NODE, &[1, 7, 8], View::Whole), Err(foreign));
}

#[test]
fn an_unanswered_add_that_was_not_there_cannot_turn_up_later() {
    let mut model = Model::default();
    model.sent_add(1, NODE, "a");
    model.killed(NODE);
    model.read(&[]).unwrap();
    assert_eq!(model.read(&list(&["a"])), Err(Violation::Returned { element: "a".into(), tags: vec![] }));
}

#[test]
fn a_tag_given_out_twice_is_caught() {
    let mut model = with_one_add();
    model.sent_add(2, NODE, "a");
    assert_eq!(model.clone().added(2, tag(1)), Err(Violation::Reused { element: "a".into(), tag: tag(1) }));
    model.sent_add(3, NODE, "b");
    assert_eq!(model.added(3, tag(1)), Err(Violation::Reused { element: "b".into(), tag: tag(1) }));
}

#[test]
fn a_tag_that_a_killed_node_may_have_used_is_not_given_out_again() {
    let mut model = Model::default();
    model.sent_add(1, NODE, "a");
    model.killed(NODE);
    remove(&mut model, 2, NODE, &[5], View::Whole).unwrap();
    model.sent_add(3, NODE, "a");
    assert_eq!(model.added(3, tag(5)), Err(Violation::Reused { element: "a".into(), tag: tag(5) }));
}

#[test]
fn tags_and_elements_from_nowhere_are_caught() {
    let mut model = with_one_add();
    assert_eq!(model.read(&list(&["a", "b"])), Err(Violation::Foreign { element: "b".into(), tags: vec![] }));
    model.sent_remove(2, NODE, "b");
    assert_eq!(
        model.removed(2, &[tag(1)], View::Whole),
        Err(Violation::Foreign { element: "b".into(), tags: vec![tag(1)] })
    );
}

#[test]
fn two_nodes_may_remove_the_same_tag_and_one_node_may_not() {
    let mut model = with_one_add();
    remove(&mut model, 2, "n1", &[1], View::Part).unwrap();
    remove(&mut model, 3, "n2", &[1], View::Part).unwrap();
    let returned = Violation::Returned { element: "a".into(), tags: vec![tag(1)] };
    assert_eq!(remove(&mut model, 4, "n2", &[1], View::Part), Err(returned));
}

#[test]
fn a_part_of_the_truth_need_not_show_everything() {
    let mut model = with_one_add();
    remove(&mut model, 2, "n2", &[], View::Part).unwrap();
    assert_eq!(model.counts(), (1, 0, 0));
}

#[test]
fn a_remove_may_tell_of_a_tag_before_its_adds_reply_is_read() {
    let mut model = Model::default();
    model.sent_add(1, "n1", "a");
    remove(&mut model, 2, "n2", &[1], View::Part).unwrap();
    model.added(1, tag(1)).unwrap();
    model.read(&[]).unwrap();
}
