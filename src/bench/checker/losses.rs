//! What wipes and rollbacks may have undone, for all checkers of sets: a node that loses its store, or is set back to an
//! older copy of it, may lose what it had acknowledged since, unless somebody else knew of it by then.

use std::collections::HashSet;

use crate::bench::history::{History, Moment, NodeChange, Operation};

/// The wipes and rollbacks of a history.
pub struct Losses<'a> {
    history: &'a History,
    /// The nodes that have had any.
    hurt: HashSet<usize>,
}

impl<'a> Losses<'a> {
    /// Finds them.
    pub fn new(history: &'a History) -> Self {
        let loses = |change: &NodeChange| matches!(change, NodeChange::Wiped | NodeChange::RolledBack);
        let hurt = history.lives.iter().filter(|life| loses(&life.change)).map(|life| life.node).collect();
        Losses { history, hurt }
    }

    /// Since when what a node did for an operation may be undone: the index of that event; `None`: it stays done.
    pub fn undone_at(&self, operation: &Operation) -> Option<usize> {
        if self.hurt.contains(&operation.node) { self.first_loss(operation.node, operation.invoked) } else { None }
    }

    /// Whether what a read on this node has shown must survive: it passes that on, unless it loses it itself.
    pub fn keeps(&self, read: &Operation) -> bool {
        self.undone_at(read).is_none()
    }

    /// The first wipe after `invoked`, or the first rollback to a copy from before it. Copies are taken while the node is
    /// down, so no operation lies on both sides of one.
    fn first_loss(&self, node: usize, invoked: Moment) -> Option<usize> {
        let mut copied: Option<Moment> = None;
        for life in self.history.lives.iter().filter(|life| life.node == node) {
            match life.change {
                NodeChange::Copied => copied = Some(life.at),
                NodeChange::Wiped if life.at > invoked => return Some(life.at.index),
                NodeChange::RolledBack if life.at > invoked && copied.is_none_or(|copied| copied < invoked) => {
                    return Some(life.at.index);
                }
                _ => {}
            }
        }
        None
    }
}
