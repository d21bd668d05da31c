//! The causal context of everything here: which operations somebody holds.
//!
//! An incarnation's operations are a dense sequence 1, 2, 3 …, and they apply in that order, so what a replica holds
//! of them is one number. (Preguiça et al., "Dotted Version Vectors", 2010, need the detached dots that this spares.)

use std::collections::BTreeMap;
use std::fmt;

use super::id::{Dot, ReplicaId, Seq};

/// Replica id → highest sequence number held, contiguous from 1. An absent id stands for zero.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct VersionVector(BTreeMap<ReplicaId, Seq>);

impl VersionVector {
    /// The vector of somebody who holds nothing.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The highest sequence number held of `replica`; zero if none.
    pub fn get(&self, replica: ReplicaId) -> Seq {
        self.0.get(&replica).copied().unwrap_or_default()
    }

    /// Whether the operation `dot` is held.
    pub fn covers(&self, dot: Dot) -> bool {
        dot.seq <= self.get(dot.replica)
    }

    /// Takes in the operation `dot`, which must be the next of its replica.
    ///
    /// # Panics
    /// If it is not the next: a gap must never be papered over.
    pub fn advance(&mut self, dot: Dot) {
        let held = self.0.entry(dot.replica).or_default();
        assert_eq!(dot.seq, held.next(), "{dot} does not follow {held}");
        *held = dot.seq;
    }

    /// Raises `replica` to at least `seq`; says whether that changed anything.
    pub fn raise(&mut self, replica: ReplicaId, seq: Seq) -> bool {
        if seq <= self.get(replica) {
            return false;
        }
        self.0.insert(replica, seq);
        true
    }

    /// The least vector that covers both.
    pub fn join(&mut self, other: &VersionVector) {
        for (replica, seq) in other.iter() {
            self.raise(replica, seq);
        }
    }

    /// Whether everything that `self` holds, `other` holds too.
    pub fn is_within(&self, other: &VersionVector) -> bool {
        self.iter().all(|(replica, seq)| seq <= other.get(replica))
    }

    /// Forgets a replica (for digests that leave out what follows from the rest).
    pub(super) fn remove(&mut self, replica: ReplicaId) {
        self.0.remove(&replica);
    }

    /// The entries, in the order of the replica ids.
    pub fn iter(&self) -> impl Iterator<Item = (ReplicaId, Seq)> + '_ {
        self.0.iter().map(|(replica, seq)| (*replica, *seq))
    }

    /// How many replicas it has an entry for.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(ReplicaId, Seq)> for VersionVector {
    fn from_iter<T: IntoIterator<Item = (ReplicaId, Seq)>>(entries: T) -> Self {
        let mut vector = Self::new();
        for (replica, seq) in entries {
            vector.raise(replica, seq);
        }
        vector
    }
}

impl fmt::Debug for VersionVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_as_many_entries_as_replicas() {
        let mut vector = VersionVector::new();
        assert!(vector.is_empty());
        assert_eq!(vector.len(), 0);
        for replica in [3, 4, 3, 5] {
            vector.raise(ReplicaId::from_random(replica), Seq(2));
        }
        assert!(!vector.is_empty() && vector.len() == 3);
        vector.remove(ReplicaId::from_random(4));
        assert_eq!(vector.iter().map(|(_, seq)| seq.0).collect::<Vec<_>>(), [2, 2]);
    }

    #[test]
    fn what_failed_tests_show_of_a_vector() {
        let replica = ReplicaId::from_random(3);
        let vector: VersionVector = [(replica, Seq(2))].into_iter().collect();
        assert_eq!(format!("{vector:?}"), format!("{{{replica}: 2}}"));
    }
}
