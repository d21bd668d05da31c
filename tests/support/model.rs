//! What a set must and may hold, judged by nothing but what clients sent and were told.
//!
//! A request that was never answered (its node was killed) may have happened or not. So of each tag the model knows one
//! of three things: it is **live** (acknowledged, and nobody was told of its removal), **takeable** (live, or taken by
//! a remove that was never answered), **removed** (named in the reply of a remove). Of a tag that nobody was told, by an
//! add that was never answered, it only knows that there may be one more.
//!
//! A reply is judged from a [`View`]: what a lone node says, or any node of a quiet, healed cluster, is the **whole** truth,
//! and every live tag must be in it. What a node says during a partition is **part** of it.
//!
//! ```text
//! add "a" → t1     add "a" (never answered)     remove "a" → [t1] or [t1, some tag that nobody was told]
//!                                                            [] is Lost, [t1, t1'] with t1' of "b" is Foreign
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use uuid::Uuid;

/// How much a reply can be expected to show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// Everything that any client was ever told.
    Whole,
    /// What reached the node so far.
    Part,
}

/// What a node must never do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Violation {
    /// An acknowledged add is gone, and nobody removed it.
    Lost { element: String, tags: Vec<Uuid> },
    /// What was removed is there again.
    Returned { element: String, tags: Vec<Uuid> },
    /// A tag or an element that no client ever added there.
    Foreign { element: String, tags: Vec<Uuid> },
    /// Two adds got the same tag, or one reply names a tag twice.
    Reused { element: String, tag: Uuid },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Live,
    Takeable,
    Removed,
}

#[derive(Clone, Debug)]
struct TagState {
    fate: Fate,
    /// Whether an add's reply said so; else only a remove's did.
    acknowledged: bool,
    /// When it was first heard of.
    heard_at: u64,
    /// The nodes whose removes named it.
    removed_at: BTreeSet<String>,
}

#[derive(Clone, Default, Debug)]
struct History {
    tags: BTreeMap<Uuid, TagState>,
    /// Adds that were never answered: each may have made a tag.
    unanswered_adds: usize,
}

impl History {
    fn with(&self, fate: Fate) -> Vec<Uuid> {
        self.tags.iter().filter(|(_, tag)| tag.fate == fate).map(|(id, _)| *id).collect()
    }

    /// How many tags there may be that nobody was told of.
    fn hidden(&self) -> Option<usize> {
        let unclaimed = self.tags.values().filter(|tag| !tag.acknowledged).count();
        self.unanswered_adds.checked_sub(unclaimed)
    }

    /// From here on exactly the live tags exist: what may have been there turned out not to be.
    fn settle(&mut self) {
        self.unanswered_adds = self.tags.values().filter(|tag| !tag.acknowledged).count();
        for tag in self.tags.values_mut().filter(|tag| tag.fate == Fate::Takeable) {
            tag.fate = Fate::Removed;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Add,
    Remove,
}

#[derive(Clone, Debug)]
struct Pending {
    node: String,
    element: String,
    kind: Kind,
    sent_at: u64,
    /// A remove that was never answered was under way at the same time.
    takeable: bool,
}

/// Names a request of the test, over all nodes and restarts.
pub type OpId = u64;

/// Everything that clients sent and were told.
#[derive(Clone, Default, Debug)]
pub struct Model {
    elements: BTreeMap<String, History>,
    owner: BTreeMap<Uuid, String>,
    pending: BTreeMap<OpId, Pending>,
    now: u64,
}

impl Model {
    /// An add was sent.
    pub fn sent_add(&mut self, op: OpId, node: &str, element: &str) {
        self.sent(op, node, element, Kind::Add);
    }

    /// A remove was sent.
    pub fn sent_remove(&mut self, op: OpId, node: &str, element: &str) {
        self.sent(op, node, element, Kind::Remove);
    }

    fn sent(&mut self, op: OpId, node: &str, element: &str, kind: Kind) {
        self.now += 1;
        self.elements.entry(element.to_owned()).or_default();
        let (node, element) = (node.to_owned(), element.to_owned());
        let pending = Pending { node, element, kind, sent_at: self.now, takeable: false };
        assert!(self.pending.insert(op, pending).is_none(), "operation {op} was sent twice");
    }

    fn answered(&mut self, op: OpId, kind: Kind) -> Pending {
        let pending = self.pending.remove(&op).unwrap_or_else(|| panic!("nobody sent operation {op}"));
        assert_eq!(pending.kind, kind, "operation {op}");
        self.now += 1;
        pending
    }

    /// A request certainly did not happen: it was never handed over, or was refused with a definite error.
    pub fn never_happened(&mut self, op: OpId) {
        assert!(self.pending.remove(&op).is_some(), "nobody sent operation {op}");
    }

    /// An add was answered.
    pub fn added(&mut self, op: OpId, tag: Uuid) -> Result<(), Violation> {
        let add = self.answered(op, Kind::Add);
        let reused = Violation::Reused { element: add.element.clone(), tag };
        if self.owner.insert(tag, add.element.clone()).is_some_and(|owner| owner != add.element) {
            return Err(reused);
        }
        let history = self.elements.entry(add.element).or_default();
        match history.tags.get_mut(&tag) {
            // A remove at another node may tell of the tag before the add's own reply is read.
            Some(state) if !state.acknowledged && add.sent_at < state.heard_at => state.acknowledged = true,
            Some(_) => return Err(reused),
            None => {
                let fate = if add.takeable { Fate::Takeable } else { Fate::Live };
                let removed_at = BTreeSet::new();
                history.tags.insert(tag, TagState { fate, acknowledged: true, heard_at: self.now, removed_at });
            }
        }
        Ok(())
    }

    /// A remove was answered.
    pub fn removed(&mut self, op: OpId, tags: &[Uuid], view: View) -> Result<(), Violation> {
        let remove = self.answered(op, Kind::Remove);
        let element = &remove.element;
        let unique: BTreeSet<Uuid> = tags.iter().copied().collect();
        if let Some(tag) = tags.iter().find(|tag| tags.iter().filter(|t| t == tag).count() > 1) {
            return Err(Violation::Reused { element: element.clone(), tag: *tag });
        }
        let foreign = |tag: &&Uuid| self.owner.get(*tag).is_some_and(|owner| owner != element);
        let foreign: Vec<Uuid> = unique.iter().filter(foreign).copied().collect();
        if !foreign.is_empty() {
            return Err(Violation::Foreign { element: element.clone(), tags: foreign });
        }
        let history = self.elements.get_mut(element).expect("made when the remove was sent");
        let returned = |tag: &&Uuid| match history.tags.get(*tag) {
            // Two nodes may each remove a tag before they hear of each other; one node never can.
            Some(state) if view == View::Part => state.removed_at.contains(&remove.node),
            Some(state) => state.fate == Fate::Removed,
            None => false,
        };
        let returned: Vec<Uuid> = unique.iter().filter(returned).copied().collect();
        if !returned.is_empty() {
            return Err(Violation::Returned { element: element.clone(), tags: returned });
        }
        let lost: Vec<Uuid> = history.with(Fate::Live).into_iter().filter(|tag| !unique.contains(tag)).collect();
        if view == View::Whole && !lost.is_empty() {
            return Err(Violation::Lost { element: element.clone(), tags: lost });
        }
        for tag in &unique {
            self.owner.insert(*tag, element.clone());
            let new = TagState { fate: Fate::Removed, acknowledged: false, heard_at: self.now, removed_at: [].into() };
            let state = history.tags.entry(*tag).or_insert(new);
            state.fate = Fate::Removed;
            state.removed_at.insert(remove.node.clone());
        }
        let adds_under_way = self.pending.values().any(|p| p.kind == Kind::Add && p.element == *element);
        if !adds_under_way && history.hidden().is_none() {
            let tags = history.tags.iter().filter(|(_, tag)| !tag.acknowledged).map(|(id, _)| *id).collect();
            return Err(Violation::Foreign { element: element.clone(), tags });
        }
        if view == View::Whole && !adds_under_way {
            history.settle();
        }
        Ok(())
    }

    /// A node was killed: what it had not answered, it never will.
    pub fn killed(&mut self, node: &str) {
        let dead: Vec<OpId> = self.pending.iter().filter(|(_, p)| p.node == node).map(|(op, _)| *op).collect();
        for op in dead {
            let dead = self.pending.remove(&op).expect("just found");
            let history = self.elements.get_mut(&dead.element).expect("made when it was sent");
            if dead.kind == Kind::Add {
                history.unanswered_adds += 1;
                continue;
            }
            for tag in history.tags.values_mut().filter(|tag| tag.fate == Fate::Live) {
                tag.fate = Fate::Takeable;
            }
            for add in self.pending.values_mut().filter(|p| p.element == dead.element) {
                add.takeable = true;
            }
        }
    }

    /// A read of the whole set, while nothing is under way.
    pub fn read(&mut self, elements: &[String]) -> Result<(), Violation> {
        assert!(self.pending.is_empty(), "a read is judged while nothing is under way");
        let shown: BTreeSet<&str> = elements.iter().map(String::as_str).collect();
        assert_eq!(shown.len(), elements.len(), "an element is shown twice: {elements:?}");
        if let Some(element) = shown.iter().find(|e| !self.elements.contains_key(**e)) {
            return Err(Violation::Foreign { element: (*element).to_owned(), tags: vec![] });
        }
        for (element, history) in &mut self.elements {
            let element = element.clone();
            let (live, takeable) = (history.with(Fate::Live), history.with(Fate::Takeable));
            if shown.contains(element.as_str()) {
                if live.is_empty() && takeable.is_empty() && history.hidden() == Some(0) {
                    return Err(Violation::Returned { element, tags: history.with(Fate::Removed) });
                }
            } else if live.is_empty() {
                history.settle();
            } else {
                return Err(Violation::Lost { element, tags: live });
            }
        }
        Ok(())
    }

    /// Every element that was ever sent.
    pub fn elements(&self) -> Vec<String> {
        self.elements.keys().cloned().collect()
    }

    /// How many tags are certainly there, may be there, and certainly are not.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |fate| self.elements.values().map(|history| history.with(fate).len()).sum();
        (count(Fate::Live), count(Fate::Takeable), count(Fate::Removed))
    }
}
