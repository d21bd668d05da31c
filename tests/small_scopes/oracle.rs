//! The OR-Set's definition, as sets of pairs: what is live, given what is held. Nothing here knows how a replica works.

use std::collections::{BTreeMap, BTreeSet};

use orset::crdt::{Dot, Tag, VersionVector};

/// tag → number of the element.
pub type Live = BTreeMap<Tag, u8>;

/// What an operation means.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Meaning {
    /// Nothing, to the set.
    Start,
    /// The element is in.
    Add(u8),
    /// These adds, which whoever removed had seen, are undone.
    Remove(BTreeSet<Tag>),
}

/// All operations that there have ever been.
#[derive(Clone, Default, Debug)]
pub struct Oracle(BTreeMap<Dot, Meaning>);

impl Oracle {
    /// Takes note of an operation.
    ///
    /// # Errors
    /// If there has been another one under that dot.
    pub fn happened(&mut self, dot: Dot, meaning: Meaning) -> Result<(), String> {
        match self.0.insert(dot, meaning) {
            None => Ok(()),
            Some(first) => Err(format!("the dot {dot} is used twice; it was {first:?}")),
        }
    }

    /// What is live for somebody who holds `vv`.
    pub fn live(&self, vv: &VersionVector) -> Live {
        let held = self.0.iter().filter(|(dot, _)| vv.covers(**dot));
        let removed: BTreeSet<&Tag> = held
            .clone()
            .filter_map(|(_, meaning)| if let Meaning::Remove(tags) = meaning { Some(tags) } else { None })
            .flatten()
            .collect();
        let adds = held
            .filter_map(|(dot, meaning)| if let Meaning::Add(number) = meaning { Some((*dot, *number)) } else { None });
        adds.filter(|(dot, _)| !removed.contains(dot)).collect()
    }

    /// The tags of an element that somebody who holds `vv` sees.
    pub fn seen(&self, vv: &VersionVector, number: u8) -> BTreeSet<Tag> {
        self.live(vv).into_iter().filter(|(_, n)| *n == number).map(|(tag, _)| tag).collect()
    }

    /// Why what somebody has is not what follows from what it holds.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self, vv: &VersionVector, live: &Live) -> Result<(), String> {
        for (replica, seq) in vv.iter() {
            if !self.0.contains_key(&Dot::new(replica, seq)) {
                return Err(format!("{replica}/{seq} is claimed, and nobody has made it"));
            }
        }
        let expected = self.live(vv);
        if let Some((tag, number)) = expected.iter().find(|(tag, _)| !live.contains_key(tag)) {
            return Err(format!(
                "add wins: {number} {tag} is held, was not removed by any remove held, and is not there"
            ));
        }
        if let Some((tag, number)) = live.iter().find(|(tag, _)| !expected.contains_key(tag)) {
            let covered = if vv.covers(*tag) { "was removed" } else { "is not held" };
            return Err(format!("no removed element returns: {number} {tag} {covered}, and is there"));
        }
        if *live == expected { Ok(()) } else { Err("a tag has changed its element".to_owned()) }
    }
}
