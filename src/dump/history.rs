//! What the log has to say about one element.
//!
//! The log may begin later than the element does: what an operation that is no longer there did shows only in the tags
//! that the snapshot has. From the snapshot's LSN on the element's tags are known exactly, before it as far as the log
//! goes back.

use std::collections::BTreeSet;

use super::{LogItem, View};
use crate::crdt::join::Staged;
use crate::crdt::{Base, Dot, Element, Entry, JoinCommit, JoinId, Op, OpBody, Tag, VersionVector};
use crate::storage::{Lsn, StoreError};

/// What an entry of the log did to the element.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// An operation added it, under its own dot as the tag.
    Added(Tag),
    /// An operation removed it.
    Removed {
        /// The operation.
        by: Dot,
        /// The tags that it names.
        tags: Vec<Tag>,
    },
    /// A state delta was merged: some tags were known to be removed where it came from, others were new here.
    Joined {
        /// Which state delta.
        join: JoinId,
        /// The tags that it brought.
        added: Vec<Tag>,
        /// The tags that it took away.
        removed: Vec<Tag>,
    },
}

/// Calls `visit` for every entry of the log that did something to `element`, oldest first.
///
/// # Errors
/// If the store is damaged, and whatever `visit` returns.
pub fn follow<E: From<StoreError>>(
    view: &View,
    element: &Element,
    mut visit: impl FnMut(Lsn, Event) -> Result<(), E>,
) -> Result<(), E> {
    let snapshot = view.replay.snapshot.as_deref();
    let Some(oldest) = view.replay.log.segments.first() else { return Ok(()) };
    let live = match snapshot.filter(|snapshot| snapshot.header().lsn == oldest.header.lsn) {
        Some(snapshot) => tags_in(snapshot, element)?,
        None => BTreeSet::new(),
    };
    let mut follower = Follower { element, live, vv: oldest.header.vv.clone(), staged: None };
    view.each_entry(|_, _, item| {
        let LogItem::Entry { lsn, entry, repeated: false } = item else { return Ok(()) };
        let event = follower.entry(entry);
        if let Some(snapshot) = snapshot.filter(|snapshot| snapshot.header().lsn == lsn) {
            follower.live = tags_in(snapshot, element)?;
        }
        event.map_or(Ok(()), |event| visit(lsn, event))
    })
}

fn tags_in(base: &dyn Base, element: &Element) -> Result<BTreeSet<Tag>, StoreError> {
    let prefix = element.key_prefix();
    let mut tags = BTreeSet::new();
    for record in base.records(&prefix) {
        let record = record?;
        if record.key.prefix() != prefix {
            break;
        }
        tags.insert(record.tag());
    }
    Ok(tags)
}

struct Follower<'a> {
    element: &'a Element,
    /// The element's tags, as far as they are known.
    live: BTreeSet<Tag>,
    vv: VersionVector,
    staged: Option<Staged>,
}

impl Follower<'_> {
    fn entry(&mut self, entry: &Entry) -> Option<Event> {
        match entry {
            Entry::Op(op) => {
                self.vv.raise(op.dot.replica, op.dot.seq);
                self.op(op)
            }
            Entry::JoinPart(part) => {
                if self.staged.as_ref().is_none_or(|staged| staged.join != part.join) {
                    self.staged = Some(Staged::new(part.join));
                }
                self.staged.as_mut().expect("just put there").add(part);
                None
            }
            Entry::JoinCommit(commit) => self.commit(commit),
            Entry::Answered(_) => None,
        }
    }

    fn op(&mut self, op: &Op) -> Option<Event> {
        match &op.body {
            OpBody::Add(element) if element == self.element => {
                self.live.insert(op.dot);
                Some(Event::Added(op.dot))
            }
            OpBody::Remove { element, tags } if element == self.element => {
                self.live.retain(|tag| !tags.contains(tag));
                Some(Event::Removed { by: op.dot, tags: tags.clone() })
            }
            _ => None,
        }
    }

    fn commit(&mut self, commit: &JoinCommit) -> Option<Event> {
        let staged = self.staged.take_if(|staged| staged.join == commit.join)?;
        let removed: Vec<Tag> = self.live.iter().copied().filter(|tag| staged.drops(*tag, &commit.vv)).collect();
        let news = staged.news(&self.vv).filter(|(element, _)| element == self.element);
        let added: Vec<Tag> = news.map(|(_, tag)| *tag).collect();
        self.vv.join(&commit.vv);
        self.live.retain(|tag| !removed.contains(tag));
        self.live.extend(added.iter().copied());
        let touched = !(removed.is_empty() && added.is_empty());
        touched.then_some(Event::Joined { join: commit.join, added, removed })
    }
}
