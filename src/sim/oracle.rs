//! What clients may rely on, whatever befalls the nodes.
//!
//! - Every operation that was acknowledged is held by everybody in the end.
//! - The one exception: a store that is wiped, set back or given up takes along what no other store held at that moment.
//!   (Such an operation may still come back with a message that was under way.)

use std::collections::BTreeMap;

use super::book::Book;
use super::rules::Rule;
use crate::crdt::{Dot, ReplicaId, Seq, VersionVector};

/// See the module's text.
#[derive(Default)]
pub struct Oracle {
    /// Every operation that was ever made.
    pub book: Book,
    /// By incarnation: the last operation that was acknowledged and is not lost. (Whoever holds it holds those before.)
    acknowledged: BTreeMap<ReplicaId, Seq>,
    /// Operations that were lost with the only stores that held them.
    pub lost: u64,
    /// Requests that were answered.
    pub answered: u64,
    next_id: i64,
}

impl Oracle {
    /// The number of a request.
    pub fn next_id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }

    /// A client has been told of an operation.
    pub fn acknowledge(&mut self, dot: Dot) {
        let last = self.acknowledged.entry(dot.replica).or_default();
        *last = dot.seq.max(*last);
    }

    /// One store has lost what it held; `left` is what all that there still are hold for certain.
    pub fn lose(&mut self, left: &[&VersionVector]) {
        for (replica, last) in &mut self.acknowledged {
            let held = left.iter().map(|vv| vv.get(*replica)).max().unwrap_or_default();
            if held < *last {
                self.lost += last.0 - held.0;
                *last = held;
            }
        }
    }

    /// What must hold of everybody once all is quiet.
    ///
    /// # Panics
    /// If it does not.
    pub fn check_final(&self, vv: &VersionVector, who: &str) {
        for (replica, last) in &self.acknowledged {
            let dot = Dot::new(*replica, *last);
            Rule::Liveness.must(vv.covers(dot), || {
                format!(
                    "{who} lacks {:?}, which was acknowledged",
                    self.book.get(dot).map_or(dot.to_string(), |op| format!("{op:?}"))
                )
            });
        }
    }
}
