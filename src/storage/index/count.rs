//! Counting without counting again: what a batch of changes does to the number of elements and of tags.
//!
//! A tag is gained by a put of a key that the base lacks, and lost by a deletion of one that it has. An element is
//! gained or lost when its first record comes or its last one goes. Both are found by one walk along the base that
//! reads about as many records as there are changes, however many tags an element has.

use std::iter::{self, Peekable};

use crate::crdt::{Base, BaseError, Change, Record, RecordKey, Records};
use crate::storage::Counts;

/// How far the walk reads on before it seeks instead. A seek costs about as much as reading this many records.
const STEPS_BEFORE_SEEK: usize = 2;

/// By how much the numbers of elements and tags change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CountDelta {
    /// Elements gained less elements lost.
    pub elements: i64,
    /// Tags gained less tags lost.
    pub tags: i64,
}

impl CountDelta {
    /// The counts after this change; `None` if there would be fewer than none, so that one of the two is wrong.
    pub fn after(self, before: Counts) -> Option<Counts> {
        Some(Counts {
            elements: before.elements.checked_add_signed(self.elements)?,
            tags: before.tags.checked_add_signed(self.tags)?,
        })
    }
}

/// What `changes` do to the numbers of elements and tags in `base`.
///
/// The changes are in key order, each key once (as [`Memtable::changes`](crate::crdt::Memtable::changes) gives them).
///
/// # Errors
/// If the base cannot be read.
///
/// # Panics
/// If the changes are not in order.
pub fn count_changes<'c>(
    base: &dyn Base,
    changes: impl Iterator<Item = (&'c RecordKey, &'c Change)>,
) -> Result<CountDelta, BaseError> {
    let mut walk = Walk { base, records: None };
    let mut delta = CountDelta::default();
    let mut changes = changes.peekable();
    let mut previous: Option<&[u8]> = None;
    while let Some((first, _)) = changes.peek() {
        let prefix = first.prefix();
        assert!(previous.is_none_or(|previous| previous < prefix), "changes to be counted are out of order");
        previous = Some(prefix);
        let of_element = iter::from_fn(|| changes.next_if(|(key, _)| key.prefix() == prefix));
        let counted = count_element(&mut walk, prefix, of_element)?;
        delta.elements += counted.elements;
        delta.tags += counted.tags;
    }
    Ok(delta)
}

/// The same for the changes of one element, whose records all start with `prefix`.
fn count_element<'c>(
    walk: &mut Walk<'_>,
    prefix: &[u8],
    changes: impl Iterator<Item = (&'c RecordKey, &'c Change)>,
) -> Result<CountDelta, BaseError> {
    let (mut before, mut after, mut tags) = (false, false, 0);
    walk.seek(prefix)?;
    for (key, change) in changes {
        if walk.seek(key.as_bytes())? {
            // Records between two changes are touched by neither.
            (before, after) = (true, true);
        }
        let present = walk.take(key)?;
        before |= present;
        match change {
            Change::Put(_) => {
                after = true;
                tags += i64::from(!present);
            }
            Change::Delete => tags -= i64::from(present),
        }
    }
    if walk.peek()?.is_some_and(|record| record.key.prefix() == prefix) {
        (before, after) = (true, true);
    }
    Ok(CountDelta { elements: i64::from(after) - i64::from(before), tags })
}

/// A walk along a base, forwards only.
struct Walk<'b> {
    base: &'b dyn Base,
    records: Option<Peekable<Records<'b>>>,
}

impl Walk<'_> {
    /// The record that the walk stands before.
    fn peek(&mut self) -> Result<Option<&Record>, BaseError> {
        let Some(records) = &mut self.records else {
            return Ok(None);
        };
        if let Some(Err(error)) = records.next_if(Result::is_err) {
            return Err(error);
        }
        Ok(records.peek().and_then(|record| record.as_ref().ok()))
    }

    /// Goes on to the first record that is not below `target`; says whether it saw others on its way there.
    fn seek(&mut self, target: &[u8]) -> Result<bool, BaseError> {
        let mut passed = false;
        for _ in 0..STEPS_BEFORE_SEEK {
            if self.records.is_none() {
                break;
            }
            match self.peek()? {
                Some(record) if record.key.as_bytes() < target => passed = true,
                _ => return Ok(passed),
            }
            self.step();
        }
        self.records = Some(self.base.records(target).peekable());
        Ok(passed)
    }

    /// Goes past the record `key` if it comes next; says whether it did.
    fn take(&mut self, key: &RecordKey) -> Result<bool, BaseError> {
        let found = self.peek()?.is_some_and(|record| record.key == *key);
        if found {
            self.step();
        }
        Ok(found)
    }

    fn step(&mut self) {
        if let Some(records) = &mut self.records {
            records.next();
        }
    }
}

/// The changes in key order, each key once; among several of one key a deletion wins.
pub(super) fn net_changes(changes: &[(RecordKey, Change)]) -> Vec<(&RecordKey, &Change)> {
    let mut net: Vec<_> = changes.iter().map(|(key, change)| (key, change)).collect();
    net.sort_by(|(a, left), (b, right)| a.cmp(b).then((**left != Change::Delete).cmp(&(**right != Change::Delete))));
    net.dedup_by(|later, first| later.0 == first.0);
    net
}
