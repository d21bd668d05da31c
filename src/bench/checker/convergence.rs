//! Whether the nodes agree in the end, and how soon.

use std::collections::BTreeSet;

use super::key::key;
use super::{Anomaly, AnomalyKind, Findings};
use crate::bench::history::{Acknowledged, History, Moment, Phase};

/// What one node answered in the phase `final`: when each read ended, its index, and what it held.
type Reads = Vec<(Moment, usize, BTreeSet<String>)>;

/// Seconds from the heal until the last node had given, for the first time, the answer that it gives from then on.
/// `None`: the final reads do not agree, which is an anomaly, or a node has none, which is unknown.
pub(super) fn converged_after_s(history: &History, findings: &mut Findings) -> Option<f64> {
    let healed = history.began(Phase::Final)?;
    let mut nodes: Vec<Reads> = vec![Vec::new(); history.run.nodes.len()];
    for operation in history.operations.iter().filter(|operation| operation.phase == Phase::Final) {
        if let Some((at, Acknowledged::Read(elements))) = operation.acknowledged() {
            nodes[operation.node].push((at, operation.invoked.index, elements.iter().map(key).collect()));
        }
    }
    let mut settled = healed;
    for (node, reads) in nodes.iter().enumerate() {
        let Some((_, _, last)) = reads.last() else {
            findings.unknown(format!("{} has answered no final read", history.run.nodes[node]));
            return None;
        };
        let same = reads.iter().rev().take_while(|(_, _, elements)| elements == last);
        settled = settled.max(same.last().map_or(healed, |(at, ..)| *at));
    }
    let last = |node: &Reads| node.last().map(|(at, invoked, elements)| (*at, *invoked, elements.clone()));
    let finals: Vec<_> = nodes.iter().filter_map(last).collect();
    let differs = finals.iter().position(|(_, _, elements)| *elements != finals[0].2);
    if let Some(node) = differs {
        let (ours, theirs) = (&finals[0], &finals[node]);
        let some = |set: BTreeSet<&String>| set.into_iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        let only_ours = some(ours.2.difference(&theirs.2).collect());
        let only_theirs = some(theirs.2.difference(&ours.2).collect());
        let (first, second) = (&history.run.nodes[0], &history.run.nodes[node]);
        findings.anomaly(AnomalyKind::NoAgreement, || Anomaly {
            kind: AnomalyKind::NoAgreement,
            text: format!("final reads differ: only on {first}: [{only_ours}], only on {second}: [{only_theirs}]"),
            operations: vec![ours.1, ours.0.index, theirs.1, theirs.0.index],
            node: Some(second.clone()),
        });
        return None;
    }
    Some((settled.time_ns - healed.time_ns) as f64 / 1e9)
}
