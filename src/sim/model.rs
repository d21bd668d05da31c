//! What one replica must hold: plain sets, brought along one operation at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::book::Book;
use super::rules::Rule;
use crate::crdt::{Dot, Element, Op, OpBody, ReplicaId, Tag, VersionVector};
use crate::replica::ElementList;

/// See the module's text.
#[derive(Clone, Default)]
pub struct Model {
    vv: VersionVector,
    /// element → its live tags; none is empty.
    live: BTreeMap<Vec<u8>, BTreeSet<Tag>>,
}

impl Model {
    /// What whoever holds `vv` must hold.
    pub fn at(book: &Book, vv: &VersionVector) -> Self {
        let mut model = Self { vv: vv.clone(), ..Self::default() };
        for (tag, element) in book.live(vv) {
            model.put(element, tag);
        }
        model
    }

    /// What is held.
    pub fn vv(&self) -> &VersionVector {
        &self.vv
    }

    /// Takes in what others have made, as far as `vv` goes.
    ///
    /// # Panics
    /// If something in it is there without what it refers to (invariant 4), or was held before and is not any more.
    pub fn absorb(&mut self, book: &Book, vv: &VersionVector, own: ReplicaId) {
        let risen: Vec<_> =
            vv.iter().filter(|(replica, seq)| *replica != own && *seq > self.vv.get(*replica)).collect();
        let news = || risen.iter().flat_map(|(replica, seq)| book.between(*replica, self.vv.get(*replica), *seq));
        let news: Vec<&Op> = news().collect();
        // Adds before removes: in what order they came is the replica's business.
        for op in &news {
            if let OpBody::Add(element) = &op.body {
                self.put(element, op.dot);
            }
        }
        for op in &news {
            self.check_context(vv, op);
            if let OpBody::Remove { element, tags } = &op.body {
                self.take(element, tags);
            }
        }
        for (replica, seq) in risen {
            self.vv.raise(replica, seq);
        }
    }

    fn check_context(&self, vv: &VersionVector, op: &Op) {
        let missing: Option<Dot> = match &op.body {
            OpBody::Add(_) => None,
            OpBody::Start { parent, .. } => parent.filter(|parent| !vv.covers(*parent)),
            OpBody::Remove { tags, .. } => tags.iter().copied().find(|tag| !vv.covers(*tag)),
        };
        if let Some(missing) = missing {
            Rule::Order.broken(&format!("{} is held, and {missing}, which it refers to, is not", op.dot));
        }
    }

    /// Takes in an operation that this replica has just made.
    pub fn make(&mut self, op: &Op) {
        self.check_context(&self.vv, op);
        self.vv.raise(op.dot.replica, op.dot.seq);
        match &op.body {
            OpBody::Start { .. } => {}
            OpBody::Add(element) => self.put(element, op.dot),
            OpBody::Remove { element, tags } => self.take(element, tags),
        }
    }

    fn put(&mut self, element: &Element, tag: Tag) {
        match self.live.get_mut(element.as_bytes()) {
            Some(tags) => drop(tags.insert(tag)),
            None => drop(self.live.insert(element.as_bytes().to_vec(), [tag].into())),
        }
    }

    fn take(&mut self, element: &Element, removed: &[Tag]) {
        let Some(tags) = self.live.get_mut(element.as_bytes()) else { return };
        tags.retain(|tag| !removed.contains(tag));
        if tags.is_empty() {
            self.live.remove(element.as_bytes());
        }
    }

    /// The live tags of an element, in the order of their bytes.
    pub fn tags(&self, element: &Element) -> Vec<Tag> {
        let mut tags: Vec<Tag> = self.live.get(element.as_bytes()).into_iter().flatten().copied().collect();
        tags.sort_by_key(|tag| tag.to_bytes());
        tags
    }

    /// Its elements, each once, in order.
    pub fn elements(&self) -> ElementList {
        let mut list = ElementList::default();
        self.live.keys().for_each(|element| list.push(element));
        list
    }

    /// What differs between this and the records that are there; `None`: nothing.
    pub fn difference(&self, records: impl Iterator<Item = (Element, Tag)>) -> Option<String> {
        let mut found = BTreeSet::new();
        for (element, tag) in records {
            let wanted = self.live.get(element.as_bytes()).is_some_and(|tags| tags.contains(&tag));
            if !wanted || !found.insert(tag) {
                return Some(format!("{element:?} {tag} is there, and must not be (or not twice)"));
            }
        }
        let mut all = self.live.iter().flat_map(|(element, tags)| tags.iter().map(move |tag| (element, tag)));
        let (element, tag) = all.find(|(_, tag)| !found.contains(tag))?;
        Some(format!("{} {tag} must be there, and is not", String::from_utf8_lossy(element)))
    }

    /// How many elements and how many tags.
    pub fn count(&self) -> (usize, usize) {
        (self.live.len(), self.live.values().map(BTreeSet::len).sum())
    }
}
