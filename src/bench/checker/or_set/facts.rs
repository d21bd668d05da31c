//! What the history says of each tag: who added it, which removes named it, which may have taken it, and what a wipe or a
//! rollback may have undone.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::super::key::key;
use super::super::losses::Losses;
use crate::bench::history::{Acknowledged, History, Moment, Operation, Outcome, Phase, Request};

/// An acknowledged remove that named a tag.
#[derive(Clone, Copy)]
pub struct Naming<'a> {
    /// The remove.
    pub remove: &'a Operation,
    /// When it was answered.
    pub completed: Moment,
    /// Since when a wipe or a rollback of its node may have undone it: the index of that event.
    pub at_risk: Option<usize>,
    /// It was answered before its node's last final read began, so that reads and drain must know of it.
    pub settled: bool,
}

impl Naming<'_> {
    /// It was asked for before the drain.
    pub fn is_before_drain(&self) -> bool {
        self.remove.phase != Phase::Drain
    }

    /// After it, final reads and drain must not find the tag.
    pub fn is_final(&self) -> bool {
        self.is_before_drain() && self.settled && self.at_risk.is_none()
    }
}

/// An acknowledged add.
pub struct Tag<'a> {
    /// The tag.
    pub tag: &'a str,
    /// Its element, as a key.
    pub element: String,
    /// The add.
    pub add: &'a Operation,
    /// When it was answered.
    pub completed: Moment,
    /// Since when a wipe or a rollback of its node may have undone it: the index of that event.
    pub at_risk: Option<usize>,
    /// It was answered before its node's last final read began.
    pub settled: bool,
    /// Another node has seen it, and kept what it had seen.
    pub witnessed: bool,
    /// An unanswered remove may have taken it.
    pub takeable: bool,
    /// The acknowledged removes that named it, in the order of their invocation.
    pub named: Vec<Naming<'a>>,
}

/// What can be said of a tag at the end of the phase `main`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is there.
    Lives,
    /// It is not.
    Gone,
    /// The history does not say.
    Undecided,
}

impl Tag<'_> {
    /// What must have become of it before the drain.
    pub fn fate(&self) -> Fate {
        let lost = self.at_risk.is_some() && !self.witnessed;
        if self.named.iter().any(Naming::is_final) {
            Fate::Gone
        } else if self.takeable || lost || !self.settled || self.named.iter().any(Naming::is_before_drain) {
            Fate::Undecided
        } else {
            Fate::Lives
        }
    }
}

/// An unanswered remove: from when to when it may take a tag.
#[derive(Clone, Copy)]
pub struct Taker {
    /// Index of its invocation.
    pub invoked: usize,
    /// It takes no tag whose add was invoked after this: the process that it was asked of last was dead.
    pub until: usize,
}

/// What the history says of one element.
#[derive(Default)]
pub struct Element<'a> {
    /// The value, once.
    pub value: Option<&'a Value>,
    /// Every add that was not refused: index of the invocation.
    pub adds: Vec<usize>,
    /// The adds that were not answered.
    pub unanswered: Vec<&'a Operation>,
    /// A remove of the drain was not answered: nothing that came before depends on it, but the drain says nothing.
    pub drain_unanswered: bool,
    /// The removes before the drain that were not answered.
    pub takers: Vec<Taker>,
    /// Places of its acknowledged tags.
    pub tags: Vec<usize>,
    /// Tags that acknowledged removes named, and that no answered add had got.
    pub unknown: BTreeMap<&'a str, Vec<Naming<'a>>>,
}

/// All of it.
pub struct Facts<'a> {
    /// Every acknowledged add, in the order of invocation.
    pub tags: Vec<Tag<'a>>,
    /// The place of each tag; of one that came twice, the first.
    pub by_tag: HashMap<&'a str, usize>,
    /// By key.
    pub elements: BTreeMap<String, Element<'a>>,
}

/// Where each node's last final read that was answered begins. What is answered only after that, very late, says nothing
/// of what the read had to show. A node without one: the end of time.
fn last_final_reads(history: &History) -> Vec<usize> {
    let mut last = vec![usize::MAX; history.run.nodes.len()];
    for operation in history.operations.iter().filter(|operation| operation.phase == Phase::Final) {
        if let Some((_, Acknowledged::Read(_))) = operation.acknowledged() {
            last[operation.node] = operation.invoked.index;
        }
    }
    last
}

impl<'a> Facts<'a> {
    /// Gathers them.
    pub fn new(history: &'a History) -> Self {
        let mut facts = Facts { tags: Vec::new(), by_tag: HashMap::new(), elements: BTreeMap::new() };
        let last_reads = last_final_reads(history);
        let settled = |operation: &Operation, completed: Moment| completed.index < last_reads[operation.node];
        let losses = Losses::new(history);
        for operation in &history.operations {
            match &operation.request {
                Request::Add { element } => {
                    facts.take_add(operation, element, losses.undone_at(operation), &settled);
                }
                Request::Remove { element } if operation.is_unknown() && operation.phase == Phase::Drain => {
                    facts.elements.entry(key(element)).or_default().drain_unanswered = true;
                }
                Request::Remove { element } if operation.is_unknown() => {
                    let last = operation.again.unwrap_or(operation.invoked);
                    let until = history.death(operation.node, last).map_or(usize::MAX, |at| at.index);
                    let takers = &mut facts.elements.entry(key(element)).or_default().takers;
                    takers.push(Taker { invoked: operation.invoked.index, until });
                }
                _ => {}
            }
        }
        // Only now are all tags known, also those of adds that were answered late.
        for operation in &history.operations {
            if let Some((completed, Acknowledged::Remove(element, tags))) = operation.acknowledged() {
                let (at_risk, settled) = (losses.undone_at(operation), settled(operation, completed));
                let naming = Naming { remove: operation, completed, at_risk, settled };
                facts.take_remove(naming, element, tags);
            }
        }
        for tag in &mut facts.tags {
            let takers = &facts.elements[&tag.element].takers;
            tag.takeable = takers.iter().any(|taker| tag.add.invoked.index < taker.until);
        }
        facts.take_witnesses(history, &losses);
        facts
    }

    fn take_add(
        &mut self,
        operation: &'a Operation,
        value: &'a Value,
        at_risk: Option<usize>,
        settled: &dyn Fn(&Operation, Moment) -> bool,
    ) {
        if matches!(operation.outcome, Outcome::Fail(..)) {
            return;
        }
        let element = self.elements.entry(key(value)).or_default();
        element.value = Some(value);
        element.adds.push(operation.invoked.index);
        match operation.acknowledged() {
            Some((completed, Acknowledged::Add(_, Some(tag)))) => {
                let place = self.tags.len();
                element.tags.push(place);
                self.by_tag.entry(tag).or_insert(place);
                self.tags.push(Tag {
                    tag,
                    element: key(value),
                    add: operation,
                    completed,
                    at_risk,
                    settled: settled(operation, completed),
                    witnessed: false,
                    takeable: false,
                    named: Vec::new(),
                });
            }
            _ => element.unanswered.push(operation),
        }
    }

    fn take_remove(&mut self, naming: Naming<'a>, element: &Value, tags: &'a [String]) {
        for tag in tags {
            match self.by_tag.get(tag.as_str()) {
                Some(place) => self.tags[*place].named.push(naming),
                None => {
                    let unknown = &mut self.elements.entry(key(element)).or_default().unknown;
                    unknown.entry(tag).or_default().push(naming);
                }
            }
        }
    }

    /// A read on another node that shows the element, when nobody else had added it by then, has seen that very tag; and
    /// what that node has seen it passes on, unless it loses it itself.
    fn take_witnesses(&mut self, history: &History, losses: &Losses) {
        if self.tags.iter().all(|tag| tag.at_risk.is_none()) {
            return;
        }
        for operation in &history.operations {
            let Some((completed, Acknowledged::Read(elements))) = operation.acknowledged() else { continue };
            if !losses.keeps(operation) {
                continue;
            }
            for value in elements {
                let Some(element) = self.elements.get(&key(value)) else { continue };
                if let [only, rest @ ..] = element.adds.as_slice()
                    && rest.iter().all(|add| *add > completed.index)
                    && let Some(place) = element.tags.first()
                {
                    let tag = &mut self.tags[*place];
                    tag.witnessed |= tag.add.invoked.index == *only && tag.add.node != operation.node;
                }
            }
        }
    }

    /// The elements of which a tag must still be there, though the drain has not named it.
    pub fn still_to_drain(&self) -> Vec<Value> {
        let missing = |element: &&Element| {
            element.tags.iter().any(|place| {
                let tag = &self.tags[*place];
                tag.named.is_empty() && tag.fate() == Fate::Lives
            })
        };
        self.elements.values().filter(missing).filter_map(|element| element.value.cloned()).collect()
    }
}
