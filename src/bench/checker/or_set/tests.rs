//! Every rule of the checker: a history that keeps it, and one that breaks it.

use serde_json::json;

use super::super::{AnomalyKind, CheckOptions, Results, Validity, check};
use crate::bench::history::{Answer, End, Event, FORMAT, History, Moment, NodeChange, Phase, Request, Run, Workload};

/// A history on nodes n0 and n1, written operation by operation.
struct Script(History);

/// The nth tag.
fn tag(number: u32) -> String {
    uuid::Uuid::from_u128(u128::from(number)).to_string()
}

impl Script {
    fn new() -> Self {
        let nodes = vec!["n0".to_owned(), "n1".to_owned()];
        let (started, options) = (String::new(), [].into());
        Script(History::new(Run { format: FORMAT, workload: Workload::OrSet, nodes, seed: 1, started, options }))
    }

    fn push(&mut self, event: Event) -> usize {
        let at = Moment { index: self.0.next.index, time_ns: self.0.next.index as u64 * 1_000_000 };
        self.0.push(at, event).expect("a history");
        at.index
    }

    fn invoke(&mut self, node: usize, request: Request) -> usize {
        let phase = self.0.phases.last().map_or(Phase::Main, |(_, phase)| *phase);
        self.push(Event::Invoke { process: "c0".to_owned(), node: format!("n{node}"), phase, request })
    }

    fn ok(&mut self, op: usize, answer: Answer) {
        self.push(Event::Ok { op, process: "c0".to_owned(), answer });
    }

    fn start_add(&mut self, node: usize) -> usize {
        self.invoke(node, Request::Add { element: json!("x") })
    }

    fn start_remove(&mut self, node: usize) -> usize {
        self.invoke(node, Request::Remove { element: json!("x") })
    }

    fn added(&mut self, op: usize, number: u32) {
        self.ok(op, Answer::Add { tag: Some(tag(number)) });
    }

    fn removed(&mut self, op: usize, numbers: &[u32]) {
        self.ok(op, Answer::Remove { tags: numbers.iter().map(|number| tag(*number)).collect() });
    }

    fn add(&mut self, node: usize, number: u32) {
        let op = self.start_add(node);
        self.added(op, number);
    }

    /// Nobody answers, and it is asked for again.
    fn ask_again(&mut self, op: usize) {
        self.push(Event::Info { op, process: "c0".to_owned(), text: "no answer".to_owned() });
        self.push(Event::Again { op, process: "c1".to_owned() });
    }

    fn remove(&mut self, node: usize, numbers: &[u32]) {
        let op = self.start_remove(node);
        self.removed(op, numbers);
    }

    fn read(&mut self, node: usize, elements: &[&str]) {
        let op = self.invoke(node, Request::Read);
        self.ok(op, Answer::Read { elements: elements.iter().map(|element| json!(element)).collect() });
    }

    fn node(&mut self, node: usize, change: NodeChange) {
        self.push(Event::Node { node: format!("n{node}"), change });
    }

    fn phase(&mut self, phase: Phase) {
        self.push(Event::Phase { phase });
    }

    /// Final reads, a drain on n1 that names these tags, and the verdict.
    fn end(mut self, last: &[&str], drained: &[u32]) -> Results {
        self.phase(Phase::Final);
        self.read(0, last);
        self.read(1, last);
        self.phase(Phase::Drain);
        self.remove(1, drained);
        self.push(Event::End(End::default()));
        check(&self.0, &CheckOptions::default())
    }
}

fn kinds(results: &Results) -> Vec<AnomalyKind> {
    results.anomaly_counts.keys().copied().collect()
}

/// The verdict over a script is these kinds of anomalies.
#[track_caller]
fn expect(results: &Results, expected: &[AnomalyKind]) {
    assert_eq!(kinds(results), expected, "{:#?}", results.anomalies);
    if expected.is_empty() {
        assert_ne!(results.valid, Validity::Invalid);
    }
}

/// Adds tag 1 on n0, and lets `script` go on.
fn with_one(script: impl FnOnce(&mut Script)) -> Script {
    let mut new = Script::new();
    new.add(0, 1);
    script(&mut new);
    new
}

#[test]
fn what_is_asked_for_again_is_done_once() {
    // The first request was done, and its late reply says the same as the second.
    let mut script = Script::new();
    let op = script.start_add(0);
    script.ask_again(op);
    script.added(op, 1);
    script.added(op, 1);
    script.read(0, &["x"]);
    expect(&script.end(&["x"], &[1]), &[]);

    let mut script = Script::new();
    let op = script.start_add(0);
    script.ask_again(op);
    script.added(op, 1);
    script.added(op, 2);
    expect(&script.end(&["x"], &[1]), &[AnomalyKind::AnotherAnswer]);

    // The tag of the first time turns up.
    let mut script = Script::new();
    let op = script.start_add(0);
    script.ask_again(op);
    script.added(op, 2);
    expect(&script.end(&["x"], &[1, 2]), &[AnomalyKind::ForeignTag]);
}

/// An unanswered remove may take what is added until the process dies that it was asked of last.
#[test]
fn a_remove_that_was_asked_for_again_may_take_what_came_meanwhile() {
    let lost = [AnomalyKind::MissedOwnAdd, AnomalyKind::LostElement, AnomalyKind::LostTag];
    for asked_again in [true, false] {
        let mut script = Script::new();
        let remove = script.start_remove(0);
        script.node(0, NodeChange::Killed);
        script.add(0, 1);
        if asked_again {
            script.ask_again(remove);
        }
        script.node(0, NodeChange::Killed);
        expect(&script.end(&[], &[]), if asked_again { &[] } else { &lost });
    }
}

#[test]
fn a_plain_history_is_valid() {
    let script = with_one(|script| {
        script.read(0, &["x"]);
        script.remove(0, &[1]);
        script.read(0, &[]);
        script.add(1, 2);
    });
    let results = script.end(&["x"], &[2]);
    assert_eq!(results.valid, Validity::Valid, "{results:#?}");
    let figures = results.or_set.expect("its workload");
    assert_eq!((figures.must_be_present, figures.final_elements), (1, Some(1)));
    assert_eq!(figures.drain.map(|drain| (drain.tags_expected, drain.tags_removed)), Some((1, 1)));
}

#[test]
fn tags_are_unique_and_uuids() {
    let script = with_one(|script| script.add(1, 1));
    assert!(kinds(&script.end(&["x"], &[1])).contains(&AnomalyKind::DuplicateTag));
    let script = with_one(|script| script.remove(0, &[1, 1]));
    expect(&script.end(&[], &[]), &[AnomalyKind::DuplicateTag]);
    let script = with_one(|script| {
        let op = script.start_add(0);
        script.ok(op, Answer::Add { tag: Some("tag-2".to_owned()) });
        let op = script.start_remove(0);
        script.ok(op, Answer::Remove { tags: vec![tag(1), "tag-2".to_owned()] });
    });
    expect(&script.end(&[], &[]), &[AnomalyKind::NotAUuid]);
}

#[test]
fn a_remove_names_only_tags_of_its_element() {
    let mut script = with_one(|_| {});
    let op = script.invoke(0, Request::Remove { element: json!("y") });
    script.removed(op, &[1]);
    assert!(kinds(&script.end(&[], &[])).contains(&AnomalyKind::ForeignTag));
}

#[test]
fn unknown_tags_are_at_most_as_many_as_unanswered_adds() {
    for (unanswered, named, expected) in [
        (1, &[1, 8][..], &[][..]),
        (1, &[1, 8, 9], &[AnomalyKind::ForeignTag]),
        (0, &[1, 8], &[AnomalyKind::ForeignTag]),
    ] {
        let script = with_one(|script| {
            for _ in 0..unanswered {
                script.start_add(1);
            }
            script.remove(0, named);
        });
        expect(&script.end(&[], &[]), expected);
    }
    // An add that comes only after the remove is no excuse.
    let script = with_one(|script| {
        script.remove(0, &[1, 8]);
        script.start_add(1);
    });
    expect(&script.end(&[], &[]), &[AnomalyKind::ForeignTag]);
}

#[test]
fn a_remove_names_no_tag_of_the_future_but_one_of_a_concurrent_add() {
    let mut script = Script::new();
    let (add, remove) = (script.start_add(0), script.start_remove(0));
    script.removed(remove, &[1]);
    script.added(add, 1);
    expect(&script.end(&[], &[]), &[]);
    let mut script = Script::new();
    script.remove(0, &[1]);
    script.add(0, 1);
    assert!(kinds(&script.end(&["x"], &[])).contains(&AnomalyKind::TagFromTheFuture));
}

#[test]
fn two_removes_name_the_same_tag_only_if_they_overlap_or_on_two_nodes() {
    let script = with_one(|script| {
        script.remove(0, &[1]);
        script.remove(0, &[1]);
    });
    expect(&script.end(&[], &[]), &[AnomalyKind::RemovedTwice]);
    let script = with_one(|script| {
        script.remove(0, &[1]);
        script.remove(1, &[1]);
    });
    expect(&script.end(&[], &[]), &[]);
    let script = with_one(|script| {
        let (first, second) = (script.start_remove(0), script.start_remove(0));
        script.removed(first, &[1]);
        script.removed(second, &[1]);
    });
    expect(&script.end(&[], &[]), &[]);
    let script = with_one(|script| {
        script.node(0, NodeChange::Copied);
        script.remove(0, &[1]);
        script.node(0, NodeChange::RolledBack);
        script.remove(0, &[1]);
    });
    expect(&script.end(&[], &[]), &[]);
}

#[test]
fn an_acknowledged_add_is_in_the_nodes_next_read() {
    let missed = |excuse: &dyn Fn(&mut Script)| {
        let script = with_one(|script| {
            excuse(script);
            script.read(0, &[]);
        });
        kinds(&script.end(&["x"], &[1])) == [AnomalyKind::MissedOwnAdd]
    };
    assert!(missed(&|_| {}));
    assert!(missed(&|script| script.node(0, NodeChange::Killed)), "also across a restart");
    assert!(missed(&|script| script.remove(0, &[])), "a remove that names nothing has taken nothing");
    assert!(!missed(&|script| {
        script.start_remove(0);
    }));
    assert!(!missed(&|script| script.node(0, NodeChange::Wiped)));
    // A read that began before the add was answered may lack it; so may one on another node.
    let mut script = Script::new();
    let add = script.start_add(0);
    script.read(0, &[]);
    script.added(add, 1);
    script.read(1, &[]);
    expect(&script.end(&["x"], &[1]), &[]);
}

#[test]
fn no_element_comes_from_nowhere() {
    let script = with_one(|script| script.read(1, &["y"]));
    expect(&script.end(&["x"], &[1]), &[AnomalyKind::ElementFromNowhere]);
    let refused = |refused: bool| {
        let mut script = with_one(|_| {});
        let op = script.invoke(0, Request::Add { element: json!("y") });
        if refused {
            script.push(Event::Fail { op, process: "c0".to_owned(), code: 11, text: String::new() });
        }
        script.read(1, &["y"]);
        kinds(&script.end(&["x"], &[1]))
    };
    assert_eq!(refused(true), [AnomalyKind::ElementFromNowhere]);
    assert_eq!(refused(false), []);
}

#[test]
fn final_reads_hold_an_element_exactly_if_a_tag_lives() {
    assert!(kinds(&with_one(|_| {}).end(&[], &[1])).contains(&AnomalyKind::LostElement));
    let removed = || with_one(|script| script.remove(0, &[1]));
    expect(&removed().end(&["x"], &[]), &[AnomalyKind::ResurrectedElement]);
    // An unanswered add leaves it open, until a remove has named its tag.
    let open = |named: &[u32]| {
        let script = with_one(|script| {
            script.start_add(1);
            script.remove(0, named);
        });
        kinds(&script.end(&["x"], &[]))
    };
    assert_eq!(open(&[1]), []);
    assert_eq!(open(&[1, 8]), [AnomalyKind::ResurrectedElement]);
    // That the drain takes it says nothing of the reads before it.
    let script = with_one(|script| {
        script.start_add(1);
        script.remove(0, &[1]);
    });
    expect(&script.end(&["x"], &[8]), &[]);
}

#[test]
fn an_unanswered_remove_takes_what_was_added_before_its_process_died() {
    let gone = |died: bool| {
        let mut script = Script::new();
        script.start_remove(1);
        if died {
            script.node(1, NodeChange::Killed);
        }
        script.add(0, 1);
        kinds(&script.end(&[], &[]))
    };
    assert_eq!(gone(false), []);
    assert_eq!(gone(true), [AnomalyKind::MissedOwnAdd, AnomalyKind::LostElement, AnomalyKind::LostTag]);
}

#[test]
fn final_reads_agree() {
    let mut script = with_one(|script| script.phase(Phase::Final));
    script.read(0, &["x"]);
    script.read(1, &[]);
    script.push(Event::End(End::default()));
    let results = check(&script.0, &CheckOptions::default());
    expect(&results, &[AnomalyKind::LostElement, AnomalyKind::NoAgreement]);
}

#[test]
fn the_drain_sees_a_removed_tag_behind_another_living_one() {
    let script = || {
        with_one(|script| {
            script.remove(0, &[1]);
            script.add(0, 2);
        })
    };
    expect(&script().end(&["x"], &[2]), &[]);
    expect(&script().end(&["x"], &[1, 2]), &[AnomalyKind::ResurrectedTag]);
    expect(&script().end(&["x"], &[]), &[AnomalyKind::LostTag]);
}

#[test]
fn what_a_wiped_node_had_acknowledged_must_survive_only_if_it_was_seen_elsewhere() {
    let wiped = |seen_by: Option<usize>, also_wiped: bool| {
        let script = with_one(|script| {
            if let Some(node) = seen_by {
                script.read(node, &["x"]);
            }
            script.node(0, NodeChange::Wiped);
            if also_wiped {
                script.node(1, NodeChange::Wiped);
            }
        });
        kinds(&script.end(&[], &[]))
    };
    assert_eq!(wiped(None, false), []);
    assert_eq!(wiped(Some(0), false), []);
    assert_eq!(wiped(Some(1), false), [AnomalyKind::LostElement, AnomalyKind::LostTag]);
    assert_eq!(wiped(Some(1), true), []);
}

#[test]
fn a_rollback_undoes_only_what_came_after_the_copy() {
    let rolled_back = |copy_first: bool| {
        let mut script = Script::new();
        if copy_first {
            script.node(0, NodeChange::Copied);
        }
        script.add(0, 1);
        if !copy_first {
            script.node(0, NodeChange::Copied);
        }
        script.node(0, NodeChange::RolledBack);
        kinds(&script.end(&[], &[]))
    };
    assert_eq!(rolled_back(true), []);
    assert_eq!(rolled_back(false), [AnomalyKind::MissedOwnAdd, AnomalyKind::LostElement, AnomalyKind::LostTag]);
}

#[test]
fn a_lost_remove_may_give_its_tags_back() {
    let back = |wiped: bool| {
        let script = with_one(|script| {
            script.remove(1, &[1]);
            if wiped {
                script.node(1, NodeChange::Wiped);
            }
        });
        kinds(&script.end(&["x"], &[1]))
    };
    assert_eq!(back(true), []);
    assert_eq!(back(false), [AnomalyKind::RemovedTwice, AnomalyKind::ResurrectedElement, AnomalyKind::ResurrectedTag]);
}

#[test]
fn a_wipe_excuses_only_the_removes_that_come_after_it() {
    let script = with_one(|script| {
        script.remove(0, &[1]);
        script.remove(0, &[1]);
        script.node(0, NodeChange::Wiped);
    });
    expect(&script.end(&[], &[]), &[AnomalyKind::RemovedTwice]);
}

#[test]
fn the_tag_of_an_unanswered_add_does_not_come_back_either_and_is_of_one_element() {
    let script = with_one(|script| {
        script.start_add(1);
        script.remove(0, &[8]);
    });
    expect(&script.end(&["x"], &[1, 8]), &[AnomalyKind::ResurrectedTag]);
    let script = with_one(|script| {
        script.start_add(1);
        script.invoke(1, Request::Add { element: json!("y") });
        script.remove(0, &[8]);
        let op = script.invoke(0, Request::Remove { element: json!("y") });
        script.removed(op, &[8]);
    });
    expect(&script.end(&["x"], &[1]), &[AnomalyKind::ForeignTag]);
}

#[test]
fn what_is_answered_only_after_the_final_reads_says_nothing_of_them() {
    let late = |answered: &dyn Fn(&mut Script, usize, usize)| {
        let mut script = with_one(|_| {});
        let (add, remove) = (script.invoke(0, Request::Add { element: json!("y") }), script.start_remove(0));
        script.phase(Phase::Final);
        script.read(0, &["x"]);
        script.read(1, &["x"]);
        answered(&mut script, add, remove);
        script.phase(Phase::Drain);
        script.remove(1, &[1]);
        script.push(Event::End(End::default()));
        kinds(&check(&script.0, &CheckOptions::default()))
    };
    assert_eq!(late(&|_, _, _| {}), []);
    assert_eq!(late(&|script, add, _| script.added(add, 2)), []);
    assert_eq!(late(&|script, _, remove| script.removed(remove, &[1])), []);
}

#[test]
fn a_drain_without_an_answer_is_unknown_and_no_excuse_for_the_reads_before_it() {
    let drained = |last: &[&str], again: bool| {
        let mut script = with_one(|_| {});
        script.phase(Phase::Final);
        script.read(0, last);
        script.read(1, last);
        script.phase(Phase::Drain);
        script.start_remove(1);
        if again {
            // The first one may have taken it.
            script.remove(1, &[]);
        }
        script.push(Event::End(End::default()));
        check(&script.0, &CheckOptions::default())
    };
    for again in [false, true] {
        expect(&drained(&["x"], again), &[]);
        assert_eq!(drained(&["x"], again).valid, Validity::Unknown);
        expect(&drained(&[], again), &[AnomalyKind::MissedOwnAdd, AnomalyKind::LostElement]);
    }
}
