//! Workloads `g-set` and `broadcast`, with the meaning of Jepsen's `set-full` (`jepsen.checker/set-full`): an element is
//! known once its add is answered or a read has shown it. It is stable if the last read that could show it does, lost if
//! a read that began after it was known lacks it and no later one shows it, and never read otherwise. Beside that: no
//! element from nowhere, none twice in a read, and all nodes' final reads agree.
//!
//! Jepsen's nodes keep their disks. Here an element that is gone for good is not lost but *undone* if a wipe or a rollback
//! may have undone its add, and no read on another node that kept what it showed had it.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::figures::quantiles;
use super::key::key;
use super::losses::Losses;
use super::{Anomaly, AnomalyKind, Findings, SetFullFigures, Stale};
use crate::bench::history::{Acknowledged, History, Moment, Operation, Outcome, Request};

/// So many elements are told in the figures.
const TOLD: usize = 8;

/// An element and what the reads say of it.
struct Element<'a> {
    value: &'a Value,
    add: &'a Operation,
    known: Option<Moment>,
    last_present: Option<Moment>,
    last_absent: Option<Moment>,
    /// A wipe or a rollback may have undone its add, and no other node's read is a witness of it.
    may_be_undone: bool,
}

/// A read that was answered: when it began, when it ended, and the places of its elements, in order.
struct Read {
    node: usize,
    invoked: Moment,
    completed: Moment,
    holds: Vec<bool>,
    /// No wipe or rollback of its node may have undone what it shows.
    kept: bool,
}

/// Judges the adds and reads.
pub fn check(history: &History, findings: &mut Findings) -> SetFullFigures {
    let mut figures = SetFullFigures::default();
    let losses = Losses::new(history);
    let mut elements: Vec<Element> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for operation in &history.operations {
        if let Request::Add { element } = &operation.request {
            figures.attempt_count += 1;
            let known = operation.ok().map(|(at, _)| at);
            figures.acknowledged_count += u64::from(known.is_some());
            places.entry(key(element)).or_insert_with(|| {
                let (last_present, last_absent) = (None, None);
                let may_be_undone = losses.undone_at(operation).is_some();
                let add = operation;
                elements.push(Element { value: element, add, known, last_present, last_absent, may_be_undone });
                elements.len() - 1
            });
        }
    }
    let reads = reads(history, &losses, &elements, &places, &mut figures, findings);
    for (place, element) in elements.iter_mut().enumerate() {
        observe(element, place, &reads);
    }
    judge(history, &elements, &mut figures, findings);
    figures.converged_after_s = super::convergence::converged_after_s(history, findings);
    figures
}

fn reads(
    history: &History,
    losses: &Losses,
    elements: &[Element],
    places: &HashMap<String, usize>,
    figures: &mut SetFullFigures,
    findings: &mut Findings,
) -> Vec<Read> {
    let mut twice = BTreeSet::new();
    let mut reads = Vec::new();
    for operation in &history.operations {
        let Some((completed, Acknowledged::Read(values))) = operation.acknowledged() else { continue };
        let mut holds = vec![false; elements.len()];
        let mut wrong = |kind: AnomalyKind, text: String, operations: Vec<usize>| {
            let node = Some(history.run.nodes[operation.node].clone());
            findings.anomaly(kind, || Anomaly { kind, text, operations, node });
        };
        for value in values {
            let lines = vec![operation.invoked.index, completed.index];
            let never = |place: usize| {
                let add = elements[place].add;
                add.invoked > completed || matches!(add.outcome, Outcome::Fail(..))
            };
            match places.get(&key(value)) {
                None => wrong(AnomalyKind::ElementFromNowhere, format!("nobody had added {value}"), lines),
                Some(place) if never(*place) => {
                    let text = format!("the add of {value} was refused, or came after the read");
                    wrong(
                        AnomalyKind::ElementFromNowhere,
                        text,
                        [lines, vec![elements[*place].add.invoked.index]].concat(),
                    );
                }
                Some(place) if holds[*place] => {
                    twice.insert(*place);
                    wrong(AnomalyKind::DuplicateElement, format!("{value} stands twice in a read"), lines);
                }
                Some(place) => holds[*place] = true,
            }
        }
        let (node, invoked, kept) = (operation.node, operation.invoked, losses.keeps(operation));
        reads.push(Read { node, invoked, completed, holds, kept });
    }
    figures.duplicated_count = twice.len() as u64;
    reads
}

/// What the reads, in the order in which they began, say of one element.
fn observe(element: &mut Element, place: usize, reads: &[Read]) {
    let seen = reads.iter().filter(|read| read.holds[place]).map(|read| read.completed).min();
    element.known = [element.known, seen].into_iter().flatten().min();
    let witness = |read: &Read| read.holds[place] && read.kept && read.node != element.add.node;
    element.may_be_undone = element.may_be_undone && !reads.iter().any(witness);
    for read in reads.iter().rev().filter(|read| read.completed > element.add.invoked) {
        let last = if read.holds[place] { &mut element.last_present } else { &mut element.last_absent };
        last.get_or_insert(read.invoked);
        if element.last_present.is_some() && element.last_absent.is_some() {
            break;
        }
    }
}

fn judge(history: &History, elements: &[Element], figures: &mut SetFullFigures, findings: &mut Findings) {
    let (mut stable, mut lost) = (Vec::new(), Vec::new());
    let mut stale = Vec::new();
    let after = |from: Option<Moment>, known: Moment| {
        from.map_or(0.0, |from| (from.time_ns + 1).saturating_sub(known.time_ns) as f64 / 1e6)
    };
    for element in elements {
        let Some(known) = element.known else {
            // As in Jepsen: attempts are stable, lost or never read.
            figures.never_read_count += 1;
            figures.never_read.push(element.value.clone());
            continue;
        };
        match (element.last_present, element.last_absent) {
            (Some(present), absent) if absent.is_none_or(|absent| absent < present) => {
                let latency = after(absent, known);
                stable.push(latency);
                if let Some(absent) = absent.filter(|absent| *absent > known) {
                    let (value, add) = (element.value.clone(), element.add.invoked.index);
                    stale.push(Stale { element: value, add, last_absent: absent.index, stable_latency: latency });
                }
            }
            (_, Some(absent)) if absent > known && element.may_be_undone => figures.undone_count += 1,
            (present, Some(absent)) if absent > known => {
                lost.push(after(present, known));
                figures.lost.push(element.value.clone());
                findings.anomaly(AnomalyKind::LostElement, || Anomaly {
                    kind: AnomalyKind::LostElement,
                    text: format!("{} was known, and a later read lacks it for good", element.value),
                    operations: vec![element.add.invoked.index, known.index, absent.index],
                    node: Some(history.run.nodes[element.add.node].clone()),
                });
            }
            _ => {
                figures.never_read_count += 1;
                figures.never_read.push(element.value.clone());
            }
        }
    }
    figures.stable_count = stable.len() as u64;
    figures.lost_count = lost.len() as u64;
    figures.stale_count = stale.len() as u64;
    figures.stable_latencies = quantiles(stable);
    figures.lost_latencies = quantiles(lost);
    stale.sort_by(|a, b| b.stable_latency.total_cmp(&a.stable_latency));
    stale.truncate(TOLD);
    figures.worst_stale = stale;
    figures.lost.truncate(TOLD);
    figures.never_read.truncate(TOLD);
    if figures.stable_count == 0 {
        findings.unknown("no element became stable");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{AnomalyKind, CheckOptions, Results, Validity, check};
    use crate::bench::history::{
        Answer, End, Event, FORMAT, History, Moment, NodeChange, Phase, Request, Run, Workload,
    };

    /// A history of one client a node on nodes n0 and n1.
    struct Script(History);

    impl Script {
        fn new() -> Self {
            let nodes = vec!["n0".to_owned(), "n1".to_owned()];
            let (started, options) = (String::new(), [].into());
            let run = Run { format: FORMAT, workload: Workload::GSet, nodes, seed: 1, started, options };
            Script(History::new(run))
        }

        fn push(&mut self, event: Event) -> usize {
            let at = Moment { index: self.0.next.index, time_ns: self.0.next.index as u64 * 1_000_000 };
            self.0.push(at, event).expect("a history");
            at.index
        }

        fn invoke(&mut self, node: usize, request: Request) -> usize {
            let phase = if self.0.phases.is_empty() { Phase::Main } else { Phase::Final };
            self.push(Event::Invoke { process: format!("c{node}"), node: format!("n{node}"), phase, request })
        }

        fn ok(&mut self, op: usize, answer: Answer) {
            self.push(Event::Ok { op, process: "c0".to_owned(), answer });
        }

        fn add(&mut self, node: usize, element: u64) {
            let op = self.invoke(node, Request::Add { element: json!(element) });
            self.ok(op, Answer::Add { tag: None });
        }

        fn read(&mut self, node: usize, elements: &[u64]) {
            let op = self.invoke(node, Request::Read);
            self.ok(op, Answer::Read { elements: elements.iter().map(|element| json!(element)).collect() });
        }

        fn node(&mut self, node: usize, change: NodeChange) {
            self.push(Event::Node { node: format!("n{node}"), change });
        }

        fn results(mut self, last: &[u64]) -> Results {
            self.push(Event::Phase { phase: Phase::Final });
            self.read(0, last);
            self.read(1, last);
            self.push(Event::End(End::default()));
            check(&self.0, &CheckOptions::default())
        }
    }

    fn kinds(results: &Results) -> Vec<AnomalyKind> {
        results.anomaly_counts.keys().copied().collect()
    }

    #[test]
    fn what_every_read_shows_from_some_moment_on_is_stable() {
        let mut script = Script::new();
        script.add(0, 1);
        script.read(1, &[]);
        script.add(1, 2);
        let results = script.results(&[2, 1]);
        assert_eq!(results.valid, Validity::Valid, "{results:?}");
        let figures = results.set_full.expect("its workload");
        assert_eq!((figures.stable_count, figures.lost_count, figures.stale_count), (2, 0, 1));
        assert_eq!(figures.worst_stale[0].element, json!(1));
        assert_eq!(figures.stable_latencies.map(|latency| latency.max), Some(1.000_001));
    }

    #[test]
    fn what_later_reads_lack_is_lost() {
        let mut script = Script::new();
        script.add(0, 1);
        script.add(0, 2);
        script.read(0, &[1, 2]);
        let results = script.results(&[2]);
        assert_eq!((results.valid, kinds(&results)), (Validity::Invalid, vec![AnomalyKind::LostElement]));
        assert_eq!(results.set_full.expect("its workload").lost, [json!(1)]);
    }

    /// The element 1 is added on n0 and gone in the end, and something happens in between.
    fn gone(between: &dyn Fn(&mut Script)) -> (Vec<AnomalyKind>, u64) {
        let mut script = Script::new();
        script.add(1, 9);
        script.add(0, 1);
        between(&mut script);
        let results = script.results(&[9]);
        let figures = results.set_full.as_ref().expect("its workload");
        let judged = figures.stable_count + figures.lost_count + figures.never_read_count + figures.undone_count;
        assert_eq!(judged, figures.attempt_count, "{figures:?}");
        (kinds(&results), figures.undone_count)
    }

    #[test]
    fn what_a_wiped_node_had_acknowledged_is_lost_only_if_it_was_read_elsewhere() {
        let undone = (vec![], 1);
        let lost = (vec![AnomalyKind::LostElement], 0);
        let wipe = |script: &mut Script, node: usize| script.node(node, NodeChange::Wiped);
        assert_eq!(gone(&|script| wipe(script, 0)), undone);
        assert_eq!(gone(&|_| {}), lost, "nothing has happened");
        assert_eq!(gone(&|script| script.node(0, NodeChange::Killed)), lost, "a kill takes no store");
        assert_eq!(gone(&|script| wipe(script, 1)), lost, "another node was wiped");
        // Read on the node itself, and on another one.
        let read_and_wiped = |reader: usize, wiped: &[usize]| {
            gone(&|script| {
                script.read(reader, &[1, 9]);
                wiped.iter().for_each(|node| wipe(script, *node));
            })
        };
        assert_eq!(read_and_wiped(0, &[0]), undone);
        assert_eq!(read_and_wiped(1, &[0]), lost);
        assert_eq!(read_and_wiped(1, &[0, 1]).0, [], "the witness was wiped as well");
        // Only what comes after the acknowledgement undoes it.
        let mut script = Script::new();
        script.add(1, 9);
        script.node(0, NodeChange::Wiped);
        script.add(0, 1);
        assert_eq!(kinds(&script.results(&[9])), [AnomalyKind::LostElement]);
    }

    #[test]
    fn a_rollback_undoes_what_came_after_the_copy() {
        let rolled_back = |copy_first: bool| {
            let mut script = Script::new();
            script.add(1, 9);
            let copied = NodeChange::Copied;
            if copy_first {
                script.node(0, copied.clone());
            }
            script.add(0, 1);
            if !copy_first {
                script.node(0, copied);
            }
            script.node(0, NodeChange::RolledBack);
            kinds(&script.results(&[9]))
        };
        assert_eq!(rolled_back(true), []);
        assert_eq!(rolled_back(false), [AnomalyKind::LostElement]);
    }

    #[test]
    fn an_unanswered_add_may_show_or_not_but_a_refused_one_may_not() {
        for (refused, last, valid) in [
            (false, &[1, 9][..], Validity::Valid),
            (false, &[9][..], Validity::Valid),
            (true, &[9][..], Validity::Valid),
            (true, &[1, 9][..], Validity::Invalid),
        ] {
            let mut script = Script::new();
            script.add(0, 9);
            let op = script.invoke(0, Request::Add { element: json!(1) });
            let (process, text) = ("c0".to_owned(), String::new());
            script.push(if refused {
                Event::Fail { op, process, code: 11, text }
            } else {
                Event::Info { op, process, text }
            });
            let results = script.results(last);
            assert_eq!(results.valid, valid, "refused: {refused}, read: {last:?}");
            let figures = results.set_full.expect("its workload");
            let judged = figures.stable_count + figures.lost_count + figures.never_read_count;
            assert_eq!((figures.attempt_count, judged), (2, 2), "refused: {refused}, read: {last:?}");
        }
    }

    #[test]
    fn elements_from_nowhere_and_twice_are_found() {
        let mut script = Script::new();
        script.add(0, 1);
        script.read(0, &[1, 1]);
        script.read(0, &[1, 7]);
        let results = script.results(&[1]);
        assert_eq!(kinds(&results), [AnomalyKind::ElementFromNowhere, AnomalyKind::DuplicateElement]);
    }

    #[test]
    fn nothing_read_is_unknown() {
        let results = Script::new().results(&[]);
        assert_eq!(results.valid, Validity::Unknown);
    }

    #[test]
    fn final_reads_that_differ_are_no_agreement() {
        let mut script = Script::new();
        script.add(0, 1);
        script.push(Event::Phase { phase: Phase::Final });
        script.read(0, &[1]);
        script.read(1, &[]);
        script.read(0, &[1]);
        script.push(Event::End(End::default()));
        let results = check(&script.0, &CheckOptions::default());
        assert!(kinds(&results).contains(&AnomalyKind::NoAgreement), "{results:?}");
    }
}
