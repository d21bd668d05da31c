//! The fold: what a log means.
//!
//! [`State`] is the set after some log entries, on top of a base of records that it does not own. Recovery, the
//! running replica, compaction, `dump` and index rebuild all are this one function, [`State::apply`]; they differ in
//! the base (an index, a snapshot, nothing) and in what they do with the outcome.
//!
//! ```
//! use orset::crdt::*;
//! let a = ReplicaId::from_random(1);
//! let apple = Element::from_canonical(br#""apple""#);
//! let mut state = State::default();
//! let bodies = [
//!     OpBody::Start { node: NodeId::new("n1").unwrap(), parent: None },
//!     OpBody::Add(apple.clone()),
//!     OpBody::Add(apple.clone()),
//!     OpBody::Remove { element: apple.clone(), tags: vec![Dot::new(a, Seq(2))] },
//! ];
//! for (n, body) in (1..).zip(bodies) {
//!     state.apply(&EmptyBase, &Entry::Op(Op { dot: Dot::new(a, Seq(n)), body })).unwrap();
//! }
//! assert_eq!(state.tags(&EmptyBase, &apple).unwrap(), [Dot::new(a, Seq(3))], "the add that the remove had not seen");
//! ```

use std::sync::Arc;

use thiserror::Error;

use super::answers::{Answered, Answers};
use super::element::{Element, Record, RecordKey};
use super::id::{Dot, ReplicaId, Tag};
use super::incarnations::{Incarnation, Incarnations};
use super::join::{JoinCommit, JoinId, JoinPart, KeptRecords, Staged};
use super::joined::Joined;
use super::memtable::{Base, BaseError, Change, Memtable, Records};
use super::mirror::Mirror;
use super::op::{Op, OpBody, OpError, Verdict};
use super::version_vector::VersionVector;
use crate::planted::{self, Bug};

/// One entry of a log. Each has an LSN of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// An operation, local or remote.
    Op(Op),
    /// A part of a state delta; has no effect by itself.
    JoinPart(JoinPart),
    /// The end of a state delta; all of it takes effect.
    JoinCommit(JoinCommit),
    /// What was answered to a request with a name, after the operations that it asked for. Of this store only.
    Answered(Answered),
}

/// A log entry that cannot follow those before it.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// Not an operation that anybody can have made.
    #[error("operation {0}: {1}")]
    Impossible(Dot, #[source] OpError),
    /// It is not the next of its replica, or refers to something that is not held.
    #[error("operation {0} does not follow from what is held")]
    OutOfOrder(Dot),
    /// A commit without its parts (there is always one, if an empty one).
    #[error("commit of the state delta {0:?}, of which there is no part")]
    NoParts(JoinId),
    /// A state delta lists a tag that its vector does not cover: the next of its operations would bring it again.
    #[error("the state delta {0:?} lists {1}, which its vector does not cover")]
    Unclaimed(JoinId, Tag),
    /// The records below could not be read.
    #[error(transparent)]
    Base(#[from] BaseError),
}

/// The set, as changes on top of a base, with its causal context.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// What is held.
    pub vv: VersionVector,
    /// Below this the log that led here has gaps.
    pub floor: VersionVector,
    /// Every incarnation that is held.
    pub incarnations: Incarnations,
    /// What changed on top of the base.
    pub memtable: Memtable,
    /// What was answered to this store's last requests with a name.
    pub answers: Answers,
    /// A state delta that changes more records than this is laid over them ([`Joined`]); `None`: none is.
    pub max_join_changes: Option<usize>,
    /// All records in memory, if they are few and somebody wants them there. May be dropped at any moment.
    pub mirror: Option<Mirror>,
    staged: Option<Staged>,
}

impl State {
    /// Applies the next entry of a log.
    ///
    /// # Errors
    /// If it cannot be the next. Nothing has changed then.
    pub fn apply(&mut self, base: &dyn Base, entry: &Entry) -> Result<(), ApplyError> {
        match entry {
            Entry::Op(op) => {
                if planted::is(Bug::RemoveOfUnseenAdds)
                    && let OpBody::Remove { element, .. } = &op.body
                {
                    for tag in self.tags(base, element)? {
                        self.change(RecordKey::new(element, tag), Change::Delete);
                    }
                }
                self.apply_op(op)
            }
            Entry::JoinPart(part) => {
                if planted::is(Bug::JoinPartByPart) {
                    for (element, tag) in &part.records {
                        if self.vv.raise(tag.replica, tag.seq) {
                            self.put(element, *tag);
                        }
                    }
                }
                // A part of another state delta: the earlier one was given up.
                if self.staged.as_ref().is_none_or(|staged| staged.join != part.join) {
                    self.staged = Some(Staged::new(part.join));
                }
                self.staged.as_mut().expect("just put there").add(part);
                Ok(())
            }
            Entry::JoinCommit(commit) => self.apply_join(base, commit),
            Entry::Answered(answered) => {
                self.answers.push(answered.clone());
                Ok(())
            }
        }
    }

    /// Applies the next entry of a log as far as the causal context goes: its records are in the base already.
    ///
    /// # Errors
    /// As [`State::apply`].
    pub fn apply_context(&mut self, entry: &Entry) -> Result<(), ApplyError> {
        match entry {
            Entry::Op(op) => self.hold(op),
            Entry::JoinPart(_) | Entry::Answered(_) => self.apply(&super::memtable::EmptyBase, entry),
            Entry::JoinCommit(commit) => {
                self.take_staged(commit)?;
                self.hold_join(commit);
                Ok(())
            }
        }
    }

    /// Takes an operation into the causal context.
    fn hold(&mut self, op: &Op) -> Result<(), ApplyError> {
        op.check().map_err(|error| ApplyError::Impossible(op.dot, error))?;
        if op.judge(&self.vv) != Verdict::Next {
            return Err(ApplyError::OutOfOrder(op.dot));
        }
        self.vv.advance(op.dot);
        if let OpBody::Start { node, parent } = &op.body {
            self.incarnations.insert(op.dot.replica, Incarnation { node: node.clone(), parent: *parent });
        }
        Ok(())
    }

    fn apply_op(&mut self, op: &Op) -> Result<(), ApplyError> {
        self.hold(op)?;
        match &op.body {
            OpBody::Start { .. } => {}
            OpBody::Add(element) => self.put(element, op.dot),
            OpBody::Remove { element, tags } => {
                element.with_key_prefix(|prefix| {
                    for tag in tags {
                        self.change(RecordKey::from_prefix(prefix, *tag), Change::Delete);
                    }
                });
            }
        }
        Ok(())
    }

    fn apply_join(&mut self, base: &dyn Base, commit: &JoinCommit) -> Result<(), ApplyError> {
        let staged = self.take_staged(commit)?;
        let held = if planted::is(Bug::JoinAgainstFirstPart) { VersionVector::new() } else { self.vv.clone() };
        match self.changes_of(base, &staged, &commit.vv, &held) {
            Err(error) => {
                self.staged = Some(staged);
                return Err(error.into());
            }
            Ok(Some(changes)) => changes.into_iter().for_each(|(key, change)| self.change(key, change)),
            Ok(None) => {
                if !planted::is(Bug::MirrorSurvivesJoin) {
                    self.mirror = None;
                }
                self.memtable.lay(Joined::new(staged, commit.vv.clone(), held));
            }
        }
        self.hold_join(commit);
        Ok(())
    }

    /// What a state delta changes: it drops, and it brings what `held` does not cover. `None` if that is too much.
    fn changes_of(
        &self,
        base: &dyn Base,
        staged: &Staged,
        vv: &VersionVector,
        held: &VersionVector,
    ) -> Result<Option<Vec<(RecordKey, Change)>>, BaseError> {
        let drops = self.records(base, &[]).filter_map(|record| match record {
            Ok(record) => staged.drops(record.tag(), vv).then_some(Ok((record.key, Change::Delete))),
            Err(error) => Some(Err(error)),
        });
        let news = staged.records(&[]).filter_map(|record| match record {
            Ok(record) => (!held.covers(record.tag())).then_some(Ok((record.key, Change::Put(record.long_element)))),
            Err(error) => Some(Err(error)),
        });
        let mut changes = Vec::new();
        for change in drops.chain(news) {
            changes.push(change?);
            if self.max_join_changes.is_some_and(|most| changes.len() > most) {
                return Ok(None);
            }
        }
        Ok(Some(changes))
    }

    fn take_staged(&mut self, commit: &JoinCommit) -> Result<Staged, ApplyError> {
        let staged = self.staged.take_if(|staged| staged.join == commit.join);
        let staged = staged.ok_or(ApplyError::NoParts(commit.join))?;
        if let Some(tag) = staged.beyond(&commit.vv) {
            self.staged = Some(staged);
            return Err(ApplyError::Unclaimed(commit.join, tag));
        }
        Ok(staged)
    }

    fn hold_join(&mut self, commit: &JoinCommit) {
        self.vv.join(&commit.vv);
        if !planted::is(Bug::JoinKeepsFloor) {
            self.floor.join(&commit.vv);
        }
        self.incarnations.join(&commit.incarnations);
    }

    fn put(&mut self, element: &Element, tag: Tag) {
        let Record { key, long_element } = Record::new(element, tag);
        self.change(key, Change::Put(long_element));
    }

    fn change(&mut self, key: RecordKey, change: Change) {
        if let Some(mirror) = &mut self.mirror {
            mirror.change(&key, &change);
        }
        self.memtable.insert(key, change);
    }

    /// Whether all records are in the mirror.
    pub fn is_in_memory(&self) -> bool {
        self.mirror.as_ref().is_some_and(Mirror::is_whole)
    }

    /// Sees to it that look-ups are fast, until the next change.
    pub fn prepare_look_ups(&mut self) {
        if !self.is_in_memory() {
            self.memtable.sort();
        }
    }

    /// The live records from the key `from` on, in key order.
    pub fn records<'a>(&'a self, base: &'a dyn Base, from: &[u8]) -> Records<'a> {
        match &self.mirror {
            Some(mirror) if mirror.is_whole() => mirror.records(from),
            _ => self.memtable.over(base, from),
        }
    }

    /// Gets the next `count` records into the mirror, if there is one that is not whole.
    ///
    /// # Errors
    /// If the base cannot be read.
    pub fn fill_mirror(&mut self, base: &dyn Base, count: usize) -> Result<(), BaseError> {
        let Some(mirror) = &mut self.mirror else { return Ok(()) };
        let Some(from) = mirror.unknown_from() else { return Ok(()) };
        self.memtable.sort();
        mirror.fill(self.memtable.over(base, from), count)
    }

    /// The mirror, if it has all records of an element.
    fn mirror_of(&self, prefix: &[u8]) -> Option<&Mirror> {
        self.mirror.as_ref().filter(|mirror| mirror.knows(prefix))
    }

    /// Whether the element has a live tag.
    ///
    /// # Errors
    /// If the base cannot be read.
    pub fn contains(&self, base: &dyn Base, element: &Element) -> Result<bool, BaseError> {
        element.with_key_prefix(|prefix| {
            if let Some(mirror) = self.mirror_of(prefix) {
                return Ok(mirror.keys_with(prefix).next().is_some());
            }
            let first = self.records(base, prefix).next().transpose()?;
            Ok(first.is_some_and(|record| record.key.prefix() == prefix))
        })
    }

    /// The live tags of an element, in key order.
    ///
    /// # Errors
    /// If the base cannot be read.
    pub fn tags(&self, base: &dyn Base, element: &Element) -> Result<Vec<Tag>, BaseError> {
        element.with_key_prefix(|prefix| {
            if let Some(mirror) = self.mirror_of(prefix) {
                return Ok(mirror.keys_with(prefix).map(RecordKey::tag).collect());
            }
            let mut tags = Vec::new();
            for record in self.records(base, prefix) {
                let record = record?;
                if record.key.prefix() != prefix {
                    break;
                }
                tags.push(record.tag());
            }
            Ok(tags)
        })
    }

    /// Lets go of staged records that can be read back: all that have come since the last call. `kept` is told of which
    /// state delta, and how many they are.
    pub fn keep_staged(&mut self, kept: impl FnOnce(JoinId, usize) -> Arc<dyn KeptRecords>) {
        if let Some(staged) = &mut self.staged {
            staged.keep(kept);
        }
    }

    /// Forgets what has come of a state delta that will not be finished.
    pub fn discard_staged(&mut self) {
        self.staged = None;
    }

    /// The state delta of which there are parts.
    pub fn staged(&self) -> Option<JoinId> {
        self.staged.as_ref().map(|staged| staged.join)
    }

    /// The last operation held of `replica`.
    pub fn last_dot(&self, replica: ReplicaId) -> Dot {
        Dot::new(replica, self.vv.get(replica))
    }
}
