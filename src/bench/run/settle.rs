//! When a run is over: what the runner asks of the history while it grows. The verdict is the checkers'.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::super::history::{Acknowledged, History, Phase, Request};

/// Whether the last final reads of all nodes hold the same elements.
#[must_use]
pub fn agree(history: &History) -> bool {
    let mut last: Vec<Option<BTreeSet<String>>> = vec![None; history.run.nodes.len()];
    let mut missing = last.len();
    for operation in history.operations.iter().rev().take_while(|operation| operation.phase == Phase::Final) {
        if let (None, Some((_, Acknowledged::Read(elements)))) = (&last[operation.node], operation.acknowledged()) {
            last[operation.node] = Some(elements.iter().map(Value::to_string).collect());
            missing -= 1;
        }
    }
    missing == 0 && last.windows(2).all(|pair| pair[0] == pair[1])
}

/// Every element that anybody tried to add, in the order in which they came up.
#[must_use]
pub fn elements(history: &History) -> Vec<Value> {
    let mut seen = HashSet::new();
    let adds = history.operations.iter().filter_map(|operation| match &operation.request {
        Request::Add { element } => Some(element),
        _ => None,
    });
    adds.filter(|element| seen.insert(element.to_string())).cloned().collect()
}

/// The elements of which a tag must still be there: acknowledged, never named, and no unanswered remove can have taken
/// it.
#[must_use]
pub fn still_to_drain(history: &History) -> Vec<Value> {
    let mut named = HashSet::new();
    let mut takers: HashMap<String, Option<usize>> = HashMap::new();
    for operation in &history.operations {
        if let Some((_, Acknowledged::Remove(_, tags))) = operation.acknowledged() {
            named.extend(tags.iter().map(String::as_str));
        }
        if let Request::Remove { element } = &operation.request
            && operation.is_unknown()
        {
            let until = history.death(operation.node, operation.invoked).map_or(usize::MAX, |death| death.index);
            let latest = takers.entry(element.to_string()).or_default();
            *latest = (*latest).max(Some(until));
        }
    }
    let mut found = HashSet::new();
    let adds = history.operations.iter().filter_map(|operation| match operation.acknowledged()? {
        (_, Acknowledged::Add(element, Some(tag))) if !named.contains(tag) => {
            let until = takers.get(&element.to_string()).copied().flatten();
            (until.is_none_or(|until| operation.invoked.index > until)).then_some(element)
        }
        _ => None,
    });
    adds.filter(|element| found.insert(element.to_string())).cloned().collect()
}
