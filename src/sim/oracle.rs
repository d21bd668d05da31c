//! What clients were told, and what follows from it: nothing here knows how a replica works.
//!
//! - A tag is live if and only if its add was acknowledged and no acknowledged remove names it.
//! - A request that was not answered before its process died may have been done or not: it is *doubtful*.
//! - A store that is wiped, set back or given up takes along what no other store held at that moment: *lost*. (Such an
//!   operation may still come back with a message that was under way.)

use std::collections::{BTreeMap, BTreeSet};

use crate::crdt::{Element, Tag};
use crate::replica::{Reply, Request};

use super::slot::View;

/// See the module's text.
#[derive(Default)]
pub struct Oracle {
    /// What was acknowledged as added: tag → element.
    pub adds: BTreeMap<Tag, String>,
    /// The tags that acknowledged removes named.
    pub removed: BTreeSet<Tag>,
    /// Added tags that no store held any more when one was lost.
    pub lost_adds: BTreeSet<Tag>,
    /// Removed tags of which no store held the removal any more.
    pub lost_removals: BTreeSet<Tag>,
    doubtful_adds: BTreeMap<String, usize>,
    doubtful_removals: BTreeSet<String>,
    /// By msg_id: the slot, the request, and what was held when it was sent.
    pending: BTreeMap<i64, (usize, Request, View)>,
    next_id: i64,
}

impl Oracle {
    /// Takes note of a request; gives back its msg_id.
    pub fn asked(&mut self, slot: usize, request: &Request, view: &View) -> i64 {
        self.next_id += 1;
        self.pending.insert(self.next_id, (slot, request.clone(), view.clone()));
        self.next_id
    }

    /// Takes note of a reply. `now` is what the replica holds.
    ///
    /// # Panics
    /// If it is not a reply that this request may get.
    pub fn told(&mut self, msg_id: i64, reply: &Reply, now: &View) {
        let (_, request, before) = self.pending.remove(&msg_id).expect("a reply to nothing, or a second one");
        match (request, reply) {
            (Request::Add(element), Reply::Added(tag)) => {
                let twice = self.adds.insert(*tag, element.as_str().to_owned());
                assert_eq!(twice, None, "the tag {tag} was given twice");
            }
            (Request::Remove(element), Reply::Removed(tags)) => self.told_removed(&element, tags, &before),
            (Request::Read, Reply::Elements(list)) => {
                let list: Vec<&str> = list.iter().map(|e| std::str::from_utf8(e).expect("elements are text")).collect();
                let set: BTreeSet<&str> = list.iter().copied().collect();
                assert_eq!(set.len(), list.len(), "an element twice in {list:?}");
                // Held requests are answered late, so what changed in between may be seen or not.
                let always: BTreeSet<&str> =
                    before.live.iter().filter(|(tag, _)| now.live.contains_key(tag)).map(|(_, e)| e.as_str()).collect();
                assert!(always.is_subset(&set), "a read without {:?}", always.difference(&set));
                for element in set {
                    let known = self.adds.values().any(|e| e == element) || self.doubtful_adds.contains_key(element);
                    assert!(known || now.elements().contains(element), "{element} was never added");
                }
            }
            (request, reply) => panic!("{request:?} was answered with {reply:?}"),
        }
    }

    fn told_removed(&mut self, element: &Element, tags: &[Tag], before: &View) {
        for tag in tags {
            if let Some(added) = self.adds.get(tag) {
                assert_eq!(added, element.as_str(), "a tag of another element was removed");
            }
            self.removed.insert(*tag);
        }
        let seen = before.live.iter().filter(|(_, e)| e.as_str() == element.as_str());
        for (tag, _) in seen {
            assert!(self.removed.contains(tag) || self.is_doubtful(tag), "a remove that left out {tag}, which it saw");
        }
    }

    /// The process in this slot died.
    pub fn died(&mut self, slot: usize) {
        let dead: Vec<i64> = self.pending.iter().filter(|(_, (s, ..))| *s == slot).map(|(id, _)| *id).collect();
        for id in dead {
            match self.pending.remove(&id) {
                Some((_, Request::Add(element), _)) => {
                    *self.doubtful_adds.entry(element.as_str().to_owned()).or_default() += 1;
                }
                Some((_, Request::Remove(element), _)) => {
                    self.doubtful_removals.insert(element.as_str().to_owned());
                }
                _ => {}
            }
        }
    }

    /// One store has lost what it held; `left` are the views of all that there still are.
    pub fn lost(&mut self, left: &[&View]) {
        for tag in self.adds.keys() {
            if !left.iter().any(|view| view.vv.covers(*tag)) {
                self.lost_adds.insert(*tag);
            }
        }
        for tag in &self.removed {
            if !left.iter().any(|view| view.has_dropped(*tag)) {
                self.lost_removals.insert(*tag);
            }
        }
    }

    /// Whether a remove that was never answered may have named the tag.
    fn is_doubtful(&self, tag: &Tag) -> bool {
        self.adds.get(tag).is_some_and(|element| self.doubtful_removals.contains(element))
    }

    /// What must hold of every replica at every moment.
    ///
    /// # Panics
    /// If it does not.
    pub fn check(&self, view: &View, who: &str) {
        let mut unknown: BTreeMap<&str, usize> = BTreeMap::new();
        for (tag, element) in &view.live {
            assert!(view.vv.covers(*tag), "{who}: {tag} is live and not covered");
            match self.adds.get(tag) {
                Some(added) => assert_eq!(added, element, "{who}: {tag} has changed its element"),
                None => *unknown.entry(element).or_default() += 1,
            }
        }
        for (element, count) in unknown {
            let doubtful = self.doubtful_adds.get(element).copied().unwrap_or(0);
            assert!(count <= doubtful, "{who}: {element} is there and was never added");
        }
        for tag in self.adds.keys().filter(|tag| view.has_dropped(**tag)) {
            let removed = self.removed.contains(tag) || self.is_doubtful(tag);
            assert!(removed, "{who}: {} {tag} is gone and was never removed", self.adds[tag]);
        }
    }

    /// What must hold of everybody once all is quiet.
    ///
    /// # Panics
    /// If it does not.
    pub fn check_final(&self, view: &View, who: &str) {
        self.check(view, who);
        for (tag, element) in &self.adds {
            let live = view.live.contains_key(tag);
            if self.removed.contains(tag) {
                let back = live && !self.lost_removals.contains(tag);
                assert!(!back, "{who}: {element} {tag} was removed and is there");
            } else {
                let missing = !live && !self.lost_adds.contains(tag) && !self.is_doubtful(tag);
                assert!(!missing, "{who}: {element} {tag} was added and is not there");
            }
        }
    }
}
