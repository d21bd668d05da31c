//! What reads must show.

use std::collections::HashSet;

use serde_json::Value;

use super::super::key::key;
use super::super::{AnomalyKind, OrSetFigures};
use super::facts::{Fate, Naming, Tag};
use super::{Checker, may_have_happened};
use crate::bench::history::{Acknowledged, Moment, Operation, Phase, Request};

/// A read that was answered.
struct Read<'a> {
    operation: &'a Operation,
    completed: Moment,
    elements: HashSet<String>,
}

impl<'a> Checker<'a> {
    /// Every read: no element from nowhere, none twice, and what the node itself had acknowledged.
    pub(super) fn reads(&mut self) {
        let (history, facts) = (self.history, self.facts);
        let mut nodes: Vec<Vec<Read>> = history.run.nodes.iter().map(|_| Vec::new()).collect();
        for operation in &history.operations {
            let Some((completed, Acknowledged::Read(values))) = operation.acknowledged() else { continue };
            let mut elements = HashSet::with_capacity(values.len());
            for value in values {
                let element = key(value);
                let added = facts.elements.get(&element).and_then(|element| element.adds.first());
                if added.is_none_or(|add| *add > completed.index) {
                    let text = || format!("nobody had added {element}");
                    self.wrong(AnomalyKind::ElementFromNowhere, operation.node, &[operation], text);
                }
                if elements.contains(&element) {
                    let text = || format!("{element} stands twice in a read");
                    self.wrong(AnomalyKind::DuplicateElement, operation.node, &[operation], text);
                }
                elements.insert(element);
            }
            nodes[operation.node].push(Read { operation, completed, elements });
        }
        for tag in &facts.tags {
            self.own_add(tag, &nodes[tag.add.node]);
        }
    }

    /// An acknowledged add is in that node's later reads, also after a restart, until a remove of that element was
    /// invoked that may have taken it, or the node lost it.
    fn own_add(&mut self, tag: &Tag, reads: &[Read]) {
        let named = tag.named.iter().map(|naming| naming.remove.invoked.index);
        let takers = self.facts.elements[&tag.element].takers.iter();
        let takers = takers.filter(|taker| tag.add.invoked.index < taker.until).map(|taker| taker.invoked);
        let excused = named.chain(takers).chain(tag.at_risk).min().unwrap_or(usize::MAX);
        let from = reads.partition_point(|read| read.operation.invoked <= tag.completed);
        // Reads are in the order of invocation: one that began after the excuse ended after it, too.
        let missed = reads[from..].iter().take_while(|read| read.operation.invoked.index < excused);
        let mut missed = missed.filter(|read| read.completed.index < excused && !read.elements.contains(&tag.element));
        if let Some(read) = missed.next() {
            let text = || format!("the node had acknowledged the add of {}, and its read lacks it", tag.element);
            self.wrong(AnomalyKind::MissedOwnAdd, tag.add.node, &[tag.add, read.operation], text);
        }
    }

    /// In every final read, an element is there exactly if one of its tags lives.
    pub(super) fn final_reads(&mut self, figures: &mut OrSetFigures) {
        let (history, facts) = (self.history, self.facts);
        let mut finals: Vec<Option<(&Operation, HashSet<String>)>> = history.run.nodes.iter().map(|_| None).collect();
        for operation in history.operations.iter().filter(|operation| operation.phase == Phase::Final) {
            if let Some((_, Acknowledged::Read(elements))) = operation.acknowledged() {
                finals[operation.node] = Some((operation, elements.iter().map(key).collect()));
            }
        }
        for (name, element) in &facts.elements {
            let tags = || element.tags.iter().map(|place| &facts.tags[*place]);
            let lives = tags().find(|tag| tag.fate() == Fate::Lives);
            // Some of the unanswered adds are known to have been taken again before the drain.
            let taken = element.unknown.values().filter(|named| named.iter().any(Naming::is_final)).count();
            let open = element.unanswered.len() > taken || tags().any(|tag| tag.fate() == Fate::Undecided);
            match (lives, open) {
                (Some(_), _) => figures.must_be_present += 1,
                (None, true) => figures.undecided += 1,
                (None, false) => figures.must_be_absent += 1,
            }
            for (node, last) in finals.iter().enumerate() {
                let Some((read, elements)) = last else { continue };
                match (lives, open, elements.contains(name)) {
                    (Some(tag), _, false) => {
                        let text = || format!("nobody had removed {} of {name}, and the final read lacks it", tag.tag);
                        self.wrong(AnomalyKind::LostElement, node, &[tag.add, read], text);
                    }
                    (None, false, true) => {
                        let removes = tags().filter_map(|tag| tag.named.first()).map(|naming| naming.remove);
                        let operations: Vec<&Operation> = removes.take(4).chain([*read]).collect();
                        let text = || format!("every tag of {name} was removed, and the final read holds it");
                        self.wrong(AnomalyKind::ResurrectedElement, node, &operations, text);
                    }
                    _ => {}
                }
            }
        }
        if let Some(Some((_, first))) = finals.first()
            && finals.iter().flatten().all(|(_, elements)| elements == first)
        {
            figures.final_elements = Some(first.len() as u64);
        }
        if history.began(Phase::Final).is_none() {
            self.findings.unknown("there are no final reads");
        } else if history.operations.iter().any(|operation| adds(operation).is_some()) && facts.tags.is_empty() {
            self.findings.unknown("no add was answered");
        }
    }
}

fn adds(operation: &Operation) -> Option<&Value> {
    match &operation.request {
        Request::Add { element } if may_have_happened(operation) => Some(element),
        _ => None,
    }
}
