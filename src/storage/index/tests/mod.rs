//! What every index must do, shown on all of them, and helpers for the tests of the one on sled.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::crdt::{Dot, Element, EmptyBase, Memtable, Record, Records, ReplicaId, Seq, Tag};

mod corruption;
mod home;
mod source;

pub(super) fn tag(seq: u64) -> Tag {
    Dot::new(ReplicaId::from_random(7), Seq(seq))
}

pub(super) fn element(text: &str) -> Element {
    Element::from_canonical(text.as_bytes())
}

pub(super) fn put(element: &Element, seq: u64) -> (RecordKey, Change) {
    let record = Record::new(element, tag(seq));
    (record.key, Change::Put(record.long_element))
}

pub(super) fn delete(element: &Element, seq: u64) -> (RecordKey, Change) {
    (RecordKey::new(element, tag(seq)), Change::Delete)
}

pub(super) fn at(lsn: u64) -> IndexPosition {
    IndexPosition { lsn: Lsn(lsn), checksum: u32::try_from(lsn * 3).unwrap() }
}

pub(super) fn counts(elements: u64, tags: u64) -> Counts {
    Counts { elements, tags }
}

/// Everything from `from` on, as text: `element/seq`.
pub(super) fn list(index: &dyn Base, from: &[u8]) -> Vec<String> {
    let text = |record: Record| format!("{:?}/{}", record.element(), record.tag().seq);
    index.records(from).map(|record| text(record.unwrap())).collect()
}

pub(super) fn home_in(store: &Path) -> IndexHome {
    IndexHome::new(store, Some("this boot".into()))
}

/// Runs a check on an empty index of each kind.
fn on_each(check: impl Fn(&dyn Index)) {
    check(&MemoryIndex::default());
    let store = tempfile::tempdir().unwrap();
    check(&home_in(store.path()).create().unwrap());
}

#[test]
fn an_empty_index_stands_before_everything() {
    on_each(|index| {
        assert_eq!((index.position(), index.counts()), (IndexPosition::default(), Counts::default()));
        assert!(list(index, &[]).is_empty());
    });
}

#[test]
fn records_come_in_key_order_from_any_key_on() {
    on_each(|index| {
        let (a, b, c) = (element("1"), element("11"), element("2"));
        index.apply(&[put(&c, 4), put(&a, 9), put(&b, 2), put(&a, 3)], at(1)).unwrap();
        assert_eq!(list(index, &[]), ["1/3", "1/9", "11/2", "2/4"]);
        assert_eq!(list(index, &a.key_prefix()), ["1/3", "1/9", "11/2", "2/4"]);
        assert_eq!(list(index, RecordKey::new(&a, tag(4)).as_bytes()), ["1/9", "11/2", "2/4"]);
        assert_eq!(list(index, RecordKey::new(&a, tag(9)).as_bytes()), ["1/9", "11/2", "2/4"]);
        assert_eq!(list(index, &c.key_prefix()), ["2/4"]);
        assert!(list(index, b"3").is_empty());
    });
}

#[test]
fn many_records_come_whole_and_in_order() {
    on_each(|index| {
        let changes: Vec<_> = (0..5_000).map(|n| put(&element(&format!("{}", n * 7 % 5_000)), n + 1)).collect();
        for (lsn, batch) in (1..).zip(changes.chunks(512)) {
            index.apply(batch, at(lsn)).unwrap();
        }
        let keys: Vec<_> = index.records(&[]).map(|record| record.unwrap().key).collect();
        let expected: BTreeSet<_> = changes.into_iter().map(|(key, _)| key).collect();
        assert!(keys.iter().eq(&expected));
        assert_eq!(index.counts(), counts(5_000, 5_000));
    });
}

#[test]
fn long_elements_come_back_whole() {
    on_each(|index| {
        let longs: Vec<_> = [129, 1_000, 65_536].map(|bytes| element(&"x".repeat(bytes))).into();
        let changes: Vec<_> = longs.iter().map(|long| put(long, 1)).collect();
        index.apply(&changes, at(1)).unwrap();
        let found: BTreeSet<_> = index.records(&[]).map(|r| r.unwrap().element().as_bytes().to_vec()).collect();
        assert_eq!(found, longs.iter().map(|long| long.as_bytes().to_vec()).collect());
        assert_eq!(index.counts(), counts(3, 3));
        index.apply(&[delete(&longs[1], 1)], at(2)).unwrap();
        assert_eq!(index.counts(), counts(2, 2));
    });
}

#[test]
fn within_one_step_a_deletion_wins_wherever_it_stands() {
    on_each(|index| {
        let a = element("1");
        index.apply(&[delete(&a, 1), put(&a, 1), put(&a, 2), delete(&a, 2), put(&a, 3)], at(1)).unwrap();
        assert_eq!(list(index, &[]), ["1/3"]);
        assert_eq!(index.counts(), counts(1, 1));
    });
}

#[test]
fn a_repeated_step_changes_nothing() {
    on_each(|index| {
        let (a, b) = (element("1"), element("2"));
        index.apply(&[put(&a, 1), put(&b, 2)], at(1)).unwrap();
        for _ in 0..3 {
            index.apply(&[put(&a, 3), delete(&b, 2)], at(2)).unwrap();
            assert_eq!(list(index, &[]), ["1/1", "1/3"]);
            assert_eq!((index.counts(), index.position()), (counts(1, 2), at(2)));
        }
    });
}

#[test]
fn a_step_without_changes_moves_the_position() {
    on_each(|index| {
        index.apply(&[], at(5)).unwrap();
        assert_eq!((index.position(), index.counts()), (at(5), Counts::default()));
        assert_eq!(index.standing().unwrap(), (at(5), Counts::default()), "as its records have it");
        index.apply(&[put(&element("1"), 2)], at(6)).unwrap();
        assert_eq!(index.standing().unwrap(), (at(6), counts(1, 1)));
    });
}

#[test]
fn an_element_with_thousands_of_tags_is_counted_without_reading_them() {
    /// Counts the records that are read.
    struct Counting<'a>(&'a dyn Index, std::cell::Cell<usize>);
    impl Base for Counting<'_> {
        fn records(&self, from: &[u8]) -> crate::crdt::Records<'_> {
            Box::new(self.0.records(from).inspect(|_| self.1.set(self.1.get() + 1)))
        }
    }
    on_each(|index| {
        let a = element("1");
        index.apply(&(1..=4_000).map(|seq| put(&a, seq)).collect::<Vec<_>>(), at(1)).unwrap();
        let changes: BTreeMap<_, _> = [delete(&a, 5), put(&a, 9_000), delete(&a, 3_000), delete(&a, 7_000)].into();
        let base = Counting(index, 0.into());
        assert_eq!(count_changes(&base, changes.iter()).unwrap(), CountDelta { elements: 0, tags: -1 });
        assert!(base.1.get() < 30, "{} records read", base.1.get());
    });
}

#[test]
fn a_memtable_is_counted_as_it_will_be_applied() {
    on_each(|index| {
        let (a, b) = (element("1"), element("2"));
        index.apply(&[put(&a, 1)], at(1)).unwrap();
        let mut memtable = Memtable::default();
        for (key, change) in [put(&b, 2), delete(&a, 1), put(&b, 3)] {
            memtable.insert(key, change);
        }
        assert_eq!(count_changes(index, memtable.changes()).unwrap(), CountDelta { elements: 0, tags: 1 });
        let on_nothing = count_changes(&EmptyBase, memtable.changes()).unwrap();
        assert_eq!(on_nothing, CountDelta { elements: 1, tags: 2 });
    });
}

#[test]
fn a_reader_sees_a_sorted_sound_set_while_another_thread_applies() {
    on_each(|index| {
        let stays: Vec<_> = (0..500).map(|n| put(&element(&format!("{n}")), 1)).collect();
        index.apply(&stays, at(1)).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 3..60 {
                    let a = element(&format!("{}", round * 8));
                    let step = [put(&a, round), delete(&element(&format!("{}", (round - 1) * 8)), round - 1)];
                    index.apply(&step, at(round)).unwrap();
                }
                done.store(true, Ordering::Release);
            });
            let mut last_round = false;
            while !last_round {
                last_round = done.load(Ordering::Acquire);
                let keys: Vec<_> = index.records(&[]).map(|record| record.unwrap().key).collect();
                assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
                assert_eq!(keys.iter().filter(|key| key.tag() == tag(1)).count(), stays.len());
            }
        });
        assert_eq!(index.counts(), counts(500, 501));
    });
}

/// Elements of which some are others' beginnings, and long ones that differ only behind the part in the key.
fn elements() -> Vec<Element> {
    let long = "9".repeat(200);
    let texts = ["1".into(), "11".into(), "2".into(), "1".repeat(128), format!("{long}a"), format!("{long}b")];
    texts.map(|text: String| element(&text)).into()
}

type Step = Vec<(usize, u64, bool)>;

/// One step on the model: the last change of a key counts, but a deletion in the same step wins.
fn apply_to_model(model: &mut BTreeMap<RecordKey, Option<Element>>, changes: &[(RecordKey, Change)]) {
    for (key, change) in changes {
        if let Change::Put(long_element) = change {
            model.insert(key.clone(), long_element.clone());
        }
    }
    for (key, _) in changes.iter().filter(|(_, change)| *change == Change::Delete) {
        model.remove(key);
    }
}

fn behaves_like_the_model(index: &dyn Index, steps: &[Step]) {
    let (elements, mut model) = (elements(), BTreeMap::new());
    for (lsn, step) in (1..).zip(steps) {
        let change = |(n, seq, live): &(usize, u64, bool)| match live {
            true => put(&elements[*n], *seq),
            false => delete(&elements[*n], *seq),
        };
        let changes: Vec<_> = step.iter().map(change).collect();
        index.apply(&changes, at(lsn)).unwrap();
        apply_to_model(&mut model, &changes);
        let prefixes: BTreeSet<_> = model.keys().map(RecordKey::prefix).collect();
        assert_eq!(index.counts(), counts(prefixes.len() as u64, model.len() as u64), "after {changes:?}");
        assert_eq!(index.position(), at(lsn));
    }
    let found = index.records(&[]).map(|record| record.map(|r| (r.key, r.long_element)).unwrap());
    assert!(found.eq(model), "the records are those of the model");
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = (0..elements().len(), 1..20u64, prop::bool::weighted(0.6));
    prop::collection::vec(prop::collection::vec(change, 0..40), 1..8)
}

proptest! {
    // A failure prints its smallest case and writes the seed down for the next run.
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_steps_leave_what_they_leave_in_a_plain_map(steps in steps()) {
        behaves_like_the_model(&MemoryIndex::default(), &steps);
    }
}

proptest! {
    // Fewer: each makes files.
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_steps_leave_the_same_on_sled(steps in steps()) {
        let store = tempfile::tempdir().unwrap();
        behaves_like_the_model(&home_in(store.path()).create().unwrap(), &steps);
    }
}
