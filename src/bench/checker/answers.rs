//! Workloads `echo` and `unique-ids`.

use std::collections::HashMap;

use super::key::key;
use super::{Anomaly, AnomalyKind, EchoFigures, Findings, UniqueIdsFigures};
use crate::bench::history::{Answer, History, Request};

/// So many duplicated ids are told in the figures.
const TOLD: usize = 32;

/// An echo is what was sent.
pub fn check_echo(history: &History, findings: &mut Findings) -> EchoFigures {
    let mut figures = EchoFigures::default();
    for operation in &history.operations {
        let (Request::Echo { echo: sent }, Some((at, Answer::Echo { echo: got }))) =
            (&operation.request, operation.ok())
        else {
            continue;
        };
        figures.compared += 1;
        if got != sent {
            figures.wrong += 1;
            findings.anomaly(AnomalyKind::WrongEcho, || Anomaly {
                kind: AnomalyKind::WrongEcho,
                text: format!("{sent} was sent, and {got} came back"),
                operations: vec![operation.invoked.index, at.index],
                node: Some(history.run.nodes[operation.node].clone()),
            });
        }
    }
    if figures.compared == 0 {
        findings.unknown("no echo was answered");
    }
    figures
}

/// No id comes twice (Jepsen's `unique-ids`).
pub fn check_unique_ids(history: &History, findings: &mut Findings) -> UniqueIdsFigures {
    let mut figures = UniqueIdsFigures::default();
    let mut seen: HashMap<String, Vec<usize>> = HashMap::new();
    for operation in history.operations.iter().filter(|operation| operation.request == Request::Generate) {
        figures.attempted_count += 1;
        let Some((at, Answer::Generate { id })) = operation.ok() else { continue };
        figures.acknowledged_count += 1;
        seen.entry(key(id)).or_default().push(at.index);
        let (least, greatest) = figures.range.get_or_insert_with(|| (id.clone(), id.clone()));
        if key(id) < key(least) {
            *least = id.clone();
        }
        if key(id) > key(greatest) {
            *greatest = id.clone();
        }
    }
    let mut twice: Vec<_> = seen.into_iter().filter(|(_, answers)| answers.len() > 1).collect();
    twice.sort_by_key(|(_, answers)| answers[0]);
    figures.duplicated_count = twice.len() as u64;
    for (id, answers) in &twice {
        findings.anomaly(AnomalyKind::DuplicateId, || Anomaly {
            kind: AnomalyKind::DuplicateId,
            text: format!("{id} was given {} times", answers.len()),
            operations: answers.clone(),
            node: None,
        });
    }
    figures.duplicated = twice.into_iter().take(TOLD).map(|(id, answers)| (id, answers.len() as u64)).collect();
    if figures.acknowledged_count == 0 {
        findings.unknown("no id was given");
    }
    figures
}
