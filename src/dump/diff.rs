//! In which tags two stores differ, and why.
//!
//! A tag that is live in one store and not in the other is either not covered by the other's vector, and then the other
//! has not heard of it; or it is covered, and then it was removed there: by an operation in that store's log, by a state
//! delta, or before the log begins.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;

use super::{LogItem, View};
use crate::crdt::join::Staged;
use crate::crdt::{BaseError, Dot, Entry, JoinId, OpBody, Record, Records, Tag};
use crate::storage::StoreError;

/// Which of the two stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The first.
    First,
    /// The second.
    Second,
}

/// Why a store does not have a tag that another has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Absence {
    /// It has not heard of it.
    Unheard,
    /// This operation removed it.
    Removed(Dot),
    /// It learnt by this state delta that the tag had been removed.
    Joined(JoinId),
    /// It was removed, and the log does not go back so far.
    Forgotten,
}

/// Calls `visit` for every record that only one of two stores has, in key order: with the store that has it, and why the
/// other has not.
///
/// # Errors
/// If a store is damaged, and whatever `visit` returns.
pub fn compare<E: From<StoreError>>(
    first: &View,
    second: &View,
    mut visit: impl FnMut(&Record, Side, Absence) -> Result<(), E>,
) -> Result<(), E> {
    // Which tags were removed, before the logs are searched for who did it.
    let mut removed: [BTreeSet<Tag>; 2] = Default::default();
    each_difference(first, second, |record, side| {
        let other = if side == Side::First { (1, second) } else { (0, first) };
        if other.1.replay.state.vv.covers(record.tag()) {
            removed[other.0].insert(record.tag());
        }
        Ok::<(), StoreError>(())
    })?;
    let by = [removals(first, &removed[0])?, removals(second, &removed[1])?];
    each_difference(first, second, |record, side| {
        let other = usize::from(side == Side::First);
        let tag = record.tag();
        let absence = match by[other].get(&tag) {
            Some(absence) => *absence,
            None if removed[other].contains(&tag) => Absence::Forgotten,
            None => Absence::Unheard,
        };
        visit(record, side, absence)
    })
}

fn each_difference<E: From<StoreError>>(
    first: &View,
    second: &View,
    mut visit: impl FnMut(&Record, Side) -> Result<(), E>,
) -> Result<(), E> {
    let (mut first, mut second) = (first.records(&[]).peekable(), second.records(&[]).peekable());
    let damaged = |error: BaseError| E::from(StoreError::from(error));
    loop {
        let side = match (key(&mut first), key(&mut second)) {
            (None, None) => return Ok(()),
            (Some(a), Some(b)) => match a.cmp(&b) {
                Ordering::Less => Some(Side::First),
                Ordering::Greater => Some(Side::Second),
                Ordering::Equal => None,
            },
            (Some(_), None) => Some(Side::First),
            (None, Some(_)) => Some(Side::Second),
        };
        let next = |records: &mut Peekable<Records>| records.next().expect("just seen").map_err(damaged);
        match side {
            Some(Side::First) => visit(&next(&mut first)?, Side::First)?,
            Some(Side::Second) => visit(&next(&mut second)?, Side::Second)?,
            None => {
                next(&mut first)?;
                next(&mut second)?;
            }
        }
    }
}

/// The key of the next record; the empty one, which is before all others, for an error.
fn key(records: &mut Peekable<Records>) -> Option<Vec<u8>> {
    records.peek().map(|record| record.as_ref().map_or(Vec::new(), |record| record.key.as_bytes().to_vec()))
}

/// How these tags were removed, as far as the log says.
fn removals(view: &View, tags: &BTreeSet<Tag>) -> Result<BTreeMap<Tag, Absence>, StoreError> {
    let mut found = BTreeMap::new();
    if tags.is_empty() {
        return Ok(found);
    }
    let mut staged: Option<Staged> = None;
    view.each_entry::<StoreError>(|_, _, item| {
        let LogItem::Entry { entry, repeated: false, .. } = item else { return Ok(()) };
        match entry {
            Entry::Answered(_) => {}
            Entry::Op(op) => {
                if let OpBody::Remove { tags: named, .. } = &op.body {
                    for tag in named.iter().filter(|tag| tags.contains(tag)) {
                        found.entry(*tag).or_insert(Absence::Removed(op.dot));
                    }
                }
            }
            Entry::JoinPart(part) => {
                if staged.as_ref().is_none_or(|staged| staged.join != part.join) {
                    staged = Some(Staged::new(part.join));
                }
                staged.as_mut().expect("just put there").add(part);
            }
            Entry::JoinCommit(commit) => {
                if let Some(staged) = staged.take_if(|staged| staged.join == commit.join) {
                    for tag in tags.iter().filter(|tag| staged.drops(**tag, &commit.vv)) {
                        found.entry(*tag).or_insert(Absence::Joined(commit.join));
                    }
                }
            }
        }
        Ok(())
    })?;
    Ok(found)
}
