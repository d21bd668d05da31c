//! When a run is over: what the runner asks of the history while it grows. The verdict is the checkers'.

use std::collections::{BTreeSet, HashSet};

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
