//! Workload `or-set`, exact through the tags in the replies.
//!
//! Only messages between nodes are lost or come twice; a late reply is an answer; a definite error says that nothing
//! happened. A tag of an element is takeable by an unanswered remove of that element if its add was invoked before the
//! process that had got the remove died.

mod facts;
mod reads;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;
use uuid::Uuid;

use super::losses::Losses;
use super::{Anomaly, AnomalyKind, DrainFigures, Findings, OrSetFigures};
use crate::bench::history::{Acknowledged, History, Operation, Outcome, Phase, Request};
use facts::{Facts, Fate};

/// Judges adds, removes and reads.
pub fn check(history: &History, findings: &mut Findings) -> OrSetFigures {
    let facts = Facts::new(history);
    let mut checker = Checker { history, facts: &facts, findings };
    checker.answered_twice();
    checker.added_tags();
    checker.removed_tags();
    checker.removed_twice();
    checker.reads();
    let mut figures = checker.count();
    checker.final_reads(&mut figures);
    figures.drain = checker.drain();
    figures.converged_after_s = super::convergence::converged_after_s(history, findings);
    figures
}

/// The elements of which a tag must still be there, though the drain has not named it: the drain goes on until there are
/// none.
#[must_use]
pub fn still_to_drain(history: &History) -> Vec<Value> {
    Facts::new(history).still_to_drain()
}

struct Checker<'a> {
    history: &'a History,
    facts: &'a Facts<'a>,
    findings: &'a mut Findings,
}

/// The lines that show an operation: its invocation and its completion.
fn lines(operation: &Operation) -> Vec<usize> {
    let completed = operation.completed().map(|at| at.index);
    [operation.invoked.index].into_iter().chain(completed).collect()
}

impl Checker<'_> {
    fn wrong(&mut self, kind: AnomalyKind, node: usize, operations: &[&Operation], text: impl FnOnce() -> String) {
        let node = Some(self.history.run.nodes[node].clone());
        let operations = || operations.iter().flat_map(|operation| lines(operation)).collect();
        self.findings.anomaly(kind, || Anomaly { kind, text: text(), operations: operations(), node });
    }

    /// Asked for again under its name, a request gets the answer of the first time.
    fn answered_twice(&mut self) {
        let history = self.history;
        for operation in &history.operations {
            if let Some(again) = operation.contradicted {
                let text = || format!("asked for again, it got another answer (line {})", again.line());
                self.wrong(AnomalyKind::AnotherAnswer, operation.node, &[operation], text);
            }
        }
    }

    /// Tags are UUIDs, and no two adds get the same.
    fn added_tags(&mut self) {
        let facts = self.facts;
        let mut seen: HashMap<&str, &Operation> = HashMap::new();
        for tag in &facts.tags {
            if !is_uuid(tag.tag) {
                self.wrong(AnomalyKind::NotAUuid, tag.add.node, &[tag.add], || {
                    format!("the tag {:?} is no UUID", tag.tag)
                });
            }
            if let Some(first) = seen.insert(tag.tag, tag.add) {
                let text = || format!("two adds got the tag {}", tag.tag);
                self.wrong(AnomalyKind::DuplicateTag, tag.add.node, &[first, tag.add], text);
            }
        }
    }

    /// A remove names tags of its element only, each once, and none of the future; unknown ones at most as many as the
    /// element has unanswered adds.
    fn removed_tags(&mut self) {
        let (history, facts) = (self.history, self.facts);
        for remove in &history.operations {
            let Some((completed, Acknowledged::Remove(value, tags))) = remove.acknowledged() else { continue };
            let element = super::key::key(value);
            let mut named = BTreeSet::new();
            for tag in tags {
                if !named.insert(tag) {
                    self.wrong(AnomalyKind::DuplicateTag, remove.node, &[remove], || format!("it names {tag} twice"));
                }
                let Some(place) = facts.by_tag.get(tag.as_str()) else {
                    if !is_uuid(tag) {
                        self.wrong(AnomalyKind::NotAUuid, remove.node, &[remove], || format!("{tag:?} is no UUID"));
                    }
                    continue;
                };
                let known = &facts.tags[*place];
                let both = [known.add, remove];
                if known.element != element {
                    let text = || format!("a remove of {element} names {tag}, which is of {}", known.element);
                    self.wrong(AnomalyKind::ForeignTag, remove.node, &both, text);
                } else if known.add.invoked > completed {
                    let text = || format!("a remove of {element} names {tag}, whose add came only later");
                    self.wrong(AnomalyKind::TagFromTheFuture, remove.node, &both, text);
                }
            }
        }
        let mut owners: HashMap<&str, (&str, &Operation)> = HashMap::new();
        for (element, of_element) in &facts.elements {
            self.unknown_tags(element, of_element);
            for (tag, named) in &of_element.unknown {
                let remove = named[0].remove;
                let (owner, other) = *owners.entry(*tag).or_insert((element, remove));
                if owner != element {
                    let text = || format!("removes of {owner} and of {element} name the same tag {tag}");
                    self.wrong(AnomalyKind::ForeignTag, remove.node, &[other, remove], text);
                }
            }
        }
    }

    fn unknown_tags(&mut self, element: &str, of_element: &facts::Element) {
        // By the first remove that named each: so many unanswered adds must have been invoked by then.
        let firsts = of_element.unknown.iter().map(|(tag, namings)| (namings[0], *tag));
        let mut firsts: Vec<_> = firsts.collect();
        firsts.sort_by_key(|(naming, _)| naming.completed);
        for (place, (naming, tag)) in firsts.iter().enumerate() {
            let possible = of_element.unanswered.iter().filter(|add| add.invoked < naming.completed).count();
            if place >= possible {
                let text = || format!("a remove of {element} names {tag}, which no add of {element} can have got");
                self.wrong(AnomalyKind::ForeignTag, naming.remove.node, &[naming.remove], text);
            }
        }
    }

    /// On one node, two removes of which one ended before the other began never name the same tag, unless the node lost
    /// the first one in between.
    fn removed_twice(&mut self) {
        let facts = self.facts;
        let known = facts.tags.iter().map(|tag| (tag.tag, &tag.named));
        let unknown =
            facts.elements.values().flat_map(|element| element.unknown.iter().map(|(tag, named)| (*tag, named)));
        for (tag, named) in known.chain(unknown) {
            for (place, second) in named.iter().enumerate().skip(1) {
                let first = named[..place].iter().find(|first| {
                    first.remove.node == second.remove.node
                        && first.completed < second.remove.invoked
                        && first.at_risk.is_none_or(|lost| lost > second.remove.invoked.index)
                });
                if let Some(first) = first {
                    let text = || format!("two removes on one node, one after the other, name {tag}");
                    self.wrong(AnomalyKind::RemovedTwice, second.remove.node, &[first.remove, second.remove], text);
                }
            }
        }
    }

    fn count(&self) -> OrSetFigures {
        let mut figures = OrSetFigures { elements: self.facts.elements.len() as u64, ..OrSetFigures::default() };
        let losses = Losses::new(self.history);
        for operation in &self.history.operations {
            let acknowledged = operation.acknowledged().map(|(_, acknowledged)| acknowledged);
            match (&operation.request, acknowledged) {
                (Request::Add { .. }, None) if operation.is_unknown() => figures.adds_unanswered += 1,
                (Request::Remove { .. }, None) if operation.is_unknown() => figures.removes_unanswered += 1,
                (_, Some(Acknowledged::Add(..))) => figures.adds_acknowledged += 1,
                (_, Some(Acknowledged::Remove(_, tags))) => {
                    figures.removes_acknowledged += 1;
                    figures.removes_with_tags += u64::from(!tags.is_empty());
                    figures.removes_at_risk += u64::from(losses.undone_at(operation).is_some());
                }
                (_, Some(Acknowledged::Read(_))) => figures.reads_acknowledged += 1,
                _ => {}
            }
        }
        let at_risk = || self.facts.tags.iter().filter(|tag| tag.at_risk.is_some());
        figures.adds_at_risk = at_risk().count() as u64;
        figures.adds_witnessed = at_risk().filter(|tag| tag.witnessed).count() as u64;
        figures.tags_of_unanswered_adds =
            self.facts.elements.values().map(|element| element.unknown.len() as u64).sum();
        figures
    }

    /// After agreement every element was removed on one node: that names every tag that must be there, and none that a
    /// remove had taken.
    fn drain(&mut self) -> Option<DrainFigures> {
        let (history, facts) = (self.history, self.facts);
        history.began(Phase::Drain)?;
        let mut figures = DrainFigures::default();
        let mut drained: HashMap<String, &Operation> = HashMap::new();
        for remove in history.operations.iter().filter(|operation| operation.phase == Phase::Drain) {
            if let Some((_, Acknowledged::Remove(element, tags))) = remove.acknowledged() {
                figures.removes += 1;
                figures.tags_removed += tags.len() as u64;
                drained.insert(super::key::key(element), remove);
            }
        }
        for tag in &facts.tags {
            let by_drain = tag.named.iter().find(|naming| naming.remove.phase == Phase::Drain);
            match (tag.fate(), by_drain) {
                (Fate::Lives, None) => {
                    figures.tags_expected += 1;
                    let unanswered = facts.elements[&tag.element].drain_unanswered;
                    match drained.get(&tag.element).filter(|_| !unanswered) {
                        Some(remove) => {
                            figures.tags_missing += 1;
                            let text = || {
                                format!(
                                    "nobody had removed {} of {}, and the drain finds it nowhere",
                                    tag.tag, tag.element
                                )
                            };
                            self.wrong(AnomalyKind::LostTag, tag.add.node, &[tag.add, remove], text);
                        }
                        None => self.findings.unknown(format!("{} was not drained", tag.element)),
                    }
                }
                (Fate::Lives, Some(_)) => figures.tags_expected += 1,
                (Fate::Gone, Some(naming)) => {
                    figures.tags_resurrected += 1;
                    let taken = tag.named.iter().find(|naming| naming.is_final());
                    let operations: Vec<_> =
                        [tag.add].into_iter().chain(taken.map(|taken| taken.remove)).chain([naming.remove]).collect();
                    let text = || format!("{} of {} was removed, and the drain finds it again", tag.tag, tag.element);
                    self.wrong(AnomalyKind::ResurrectedTag, naming.remove.node, &operations, text);
                }
                _ => {}
            }
        }
        // Tags of adds that nobody answered are known by the removes that named them.
        for (element, of_element) in &facts.elements {
            for (tag, named) in &of_element.unknown {
                let taken = named.iter().find(|naming| naming.is_final());
                let by_drain = named.iter().find(|naming| !naming.is_before_drain());
                if let (Some(taken), Some(naming)) = (taken, by_drain) {
                    figures.tags_resurrected += 1;
                    let text = || format!("{tag} of {element} was removed, and the drain finds it again");
                    let operations = [taken.remove, naming.remove];
                    self.wrong(AnomalyKind::ResurrectedTag, naming.remove.node, &operations, text);
                }
            }
        }
        Some(figures)
    }
}

fn is_uuid(tag: &str) -> bool {
    tag.len() == 36 && Uuid::try_parse(tag).is_ok()
}

/// Whether an operation may have happened.
fn may_have_happened(operation: &Operation) -> bool {
    !matches!(operation.outcome, Outcome::Fail(..))
}
