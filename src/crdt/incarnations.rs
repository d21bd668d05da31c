//! The family tree of incarnations, and how it keeps digests short.
//!
//! Every incarnation begins with a `Start` that names its parent: the last operation that its store held of the
//! incarnation before it. Whoever holds a `Start` holds its parent (that is part of the rule by which a `Start`
//! applies), so a digest may leave out (P, n) where its sender holds a `Start` whose parent is exactly (P, n). Digests
//! stay at about one entry a node however often the nodes restart. (chitchat, issues 94 and 161: dead incarnations
//! gossiped for ever.)
//!
//! ```text
//! n1:  A 1..7 ── B 1..2 ── C 1..9        vector {A:7, B:2, C:9}    digest {C:9}
//! copy of n1's disk after A 5:  D 1..3   vector {A:7, …, D:3}      digest {C:9, D:3}; D's parent (A, 5) is no excuse for A
//! ```

use std::collections::BTreeMap;

use thiserror::Error;

use super::id::{Dot, NodeId, ReplicaId, Seq};
use super::version_vector::VersionVector;
use crate::planted::{self, Bug};

/// What a `Start` said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Incarnation {
    /// The node that it ran as.
    pub node: NodeId,
    /// The last operation that its store held of the incarnation before it.
    pub parent: Option<Dot>,
}

/// A digest mentions an incarnation whose `Start` is not held here, so what it leaves out cannot be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("replica id {0} is not known here")]
pub struct UnknownReplica(pub ReplicaId);

/// Every incarnation whose `Start` is held.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Incarnations(BTreeMap<ReplicaId, Incarnation>);

impl Incarnations {
    /// None yet.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Takes in a `Start`.
    pub fn insert(&mut self, replica: ReplicaId, incarnation: Incarnation) {
        self.0.insert(replica, incarnation);
    }

    /// What the `Start` of `replica` said.
    pub fn get(&self, replica: ReplicaId) -> Option<&Incarnation> {
        self.0.get(&replica)
    }

    /// All, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (ReplicaId, &Incarnation)> {
        self.0.iter().map(|(replica, incarnation)| (*replica, incarnation))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody has written yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in all of `other`.
    pub fn join(&mut self, other: &Incarnations) {
        for (replica, incarnation) in other.iter() {
            self.0.entry(replica).or_insert_with(|| incarnation.clone());
        }
    }

    /// The digest of `vv`: without the entries that follow from the rest and this table.
    pub fn compact(&self, vv: &VersionVector) -> VersionVector {
        let mut digest = vv.clone();
        for (_, incarnation) in self.iter().filter(|(replica, _)| vv.get(*replica).0 > 0) {
            if let Some(parent) = incarnation.parent
                && vv.get(parent.replica) == parent.seq
            {
                digest.remove(parent.replica);
            }
        }
        digest
    }

    /// The vector that a peer made `digest` from.
    ///
    /// # Errors
    /// If the digest mentions a replica whose `Start` is not held here: then the peer's full vector is needed.
    pub fn expand(&self, digest: &VersionVector) -> Result<VersionVector, UnknownReplica> {
        let mut vv = digest.clone();
        let mut todo: Vec<ReplicaId> = digest.iter().map(|(replica, _)| replica).collect();
        while let Some(replica) = todo.pop() {
            let incarnation = self.get(replica).ok_or(UnknownReplica(replica))?;
            // Only what rises is looked at again, so this ends even for a table with a cycle in it.
            if let Some(parent) = incarnation.parent
                && vv.raise(parent.replica, if planted::is(Bug::DigestOverclaim) { Seq::MAX } else { parent.seq })
            {
                todo.push(parent.replica);
            }
        }
        Ok(vv)
    }
}

impl FromIterator<(ReplicaId, Incarnation)> for Incarnations {
    fn from_iter<T: IntoIterator<Item = (ReplicaId, Incarnation)>>(entries: T) -> Self {
        Self(entries.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> ReplicaId {
        ReplicaId::from_random(n)
    }

    fn chain(parents: &[(u128, Option<(u128, u64)>)]) -> Incarnations {
        let node = NodeId::new("n1").unwrap();
        let parent = |p: Option<(u128, u64)>| p.map(|(replica, seq)| Dot::new(id(replica), Seq(seq)));
        parents.iter().map(|(r, p)| (id(*r), Incarnation { node: node.clone(), parent: parent(*p) })).collect()
    }

    fn vector(entries: &[(u128, u64)]) -> VersionVector {
        entries.iter().map(|(replica, seq)| (id(*replica), Seq(*seq))).collect()
    }

    #[test]
    fn a_digest_names_the_last_incarnation_of_a_node_only() {
        let table = chain(&[(1, None), (2, Some((1, 7))), (3, Some((2, 2)))]);
        let vv = vector(&[(1, 7), (2, 2), (3, 9)]);
        assert_eq!(table.compact(&vv), vector(&[(3, 9)]));
        assert_eq!(table.expand(&table.compact(&vv)), Ok(vv));
    }

    #[test]
    fn a_forked_parent_stays_in_the_digest() {
        let table = chain(&[(1, None), (4, Some((1, 5)))]);
        let vv = vector(&[(1, 7), (4, 3)]);
        assert_eq!(table.compact(&vv), vv, "the copy's parent is (1, 5), which does not imply (1, 7)");
        assert_eq!(table.expand(&vector(&[(4, 1)])), Ok(vector(&[(1, 5), (4, 1)])));
    }

    #[test]
    fn what_only_follows_from_a_start_that_is_not_held_stays_in_the_digest() {
        let table = chain(&[(1, None), (2, Some((1, 7)))]);
        let vv = vector(&[(1, 7)]);
        assert_eq!(table.compact(&vv), vv);
    }

    #[test]
    fn a_table_has_as_many_as_were_put_in() {
        let mut table = Incarnations::new();
        assert!(table.is_empty());
        assert_eq!(table.len(), 0);
        table.join(&chain(&[(1, None), (2, None), (3, None)]));
        assert!(!table.is_empty() && table.len() == 3);
    }

    #[test]
    fn a_digest_with_a_stranger_in_it_cannot_be_expanded() {
        assert_eq!(chain(&[(1, None)]).expand(&vector(&[(9, 1)])), Err(UnknownReplica(id(9))));
    }

    #[test]
    fn a_table_with_a_cycle_does_not_hang() {
        let table = chain(&[(1, Some((2, 5))), (2, Some((1, 5)))]);
        assert_eq!(table.expand(&vector(&[(1, 1)])), Ok(vector(&[(1, 5), (2, 5)])));
    }
}
