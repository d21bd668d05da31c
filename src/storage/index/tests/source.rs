//! Where indexes come from, on real files: one takes another's place.

use super::*;

fn dirs(store: &Path) -> usize {
    std::fs::read_dir(store.join("index")).unwrap().count()
}

/// An index of so many records, made by the source as the store's first.
fn filled(source: &mut SledSource, records: u64) -> Arc<dyn Index> {
    let index = source.rebuild(Box::new(std::iter::empty()), IndexPosition::default()).unwrap();
    let changes: Vec<_> = (0..records).map(|n| put(&element(&n.to_string()), n + 2)).collect();
    for (n, chunk) in (1..).zip(changes.chunks(1024)) {
        index.apply(chunk, at(n)).unwrap();
    }
    index
}

#[test]
fn a_replaced_index_is_deleted_as_soon_as_nobody_holds_it() {
    let store = tempfile::tempdir().unwrap();
    let mut source = SledSource::new(store.path());
    let old = filled(&mut source, 2);
    let new = source.rebuild(old.records(&[]), old.position()).unwrap();
    assert!(!source.discard_replaced(), "it is held");
    assert_eq!(dirs(store.path()), 2);
    assert_eq!(list(old.as_ref(), &[]), list(new.as_ref(), &[]));
    drop(old);
    assert!(source.discard_replaced());
    assert_eq!(dirs(store.path()), 1);
    assert_eq!(list(new.as_ref(), &[]).len(), 2);
    drop(new);
    assert_eq!(source.close().unwrap(), Some(at(1)));
}

#[test]
fn an_index_that_could_not_be_replaced_goes_on_being_noted_and_closed() {
    let store = tempfile::tempdir().unwrap();
    let mut source = SledSource::new(store.path());
    let old = filled(&mut source, 2);
    let broken: Records<'_> = Box::new(std::iter::once(Err(BaseError("no".into()))));
    assert!(source.rebuild(broken, at(5)).is_err());
    old.apply(&[put(&element("7"), 9)], at(2)).unwrap();
    source.note(at(2)).unwrap();
    assert_eq!(source.noted(), Some(at(2)));
    drop(old);
    assert_eq!(source.close().unwrap(), Some(at(2)));
}

/// The decision and its remedy, with sled as it is.
#[test]
fn an_index_that_has_lost_nine_tenths_is_outgrown_and_its_replacement_is_not() {
    const RECORDS: u64 = 30_000;
    const SLACK: u64 = 1 << 20;
    let store = tempfile::tempdir().unwrap();
    let mut source = SledSource::new(store.path());
    let old = filled(&mut source, RECORDS);
    let size = |index: &dyn Index| {
        let (on_disk, records) = (index.disk_bytes(), index.counts().tags);
        IndexSize { on_disk, records, record_bytes: 22, changes: Some(RECORDS), idle: true }
    };
    assert!(!is_outgrown(&size(old.as_ref()), SLACK), "{:?}", size(old.as_ref()));
    let gone: Vec<_> = (0..RECORDS).filter(|n| n % 10 > 0).map(|n| delete(&element(&n.to_string()), n + 2)).collect();
    for (n, chunk) in (100..).zip(gone.chunks(1024)) {
        old.apply(chunk, at(n)).unwrap();
    }
    assert!(is_outgrown(&size(old.as_ref()), SLACK), "{:?}", size(old.as_ref()));
    let new = source.rebuild(old.records(&[]), old.position()).unwrap();
    assert_eq!(new.counts(), old.counts());
    assert!(!is_outgrown(&size(new.as_ref()), SLACK), "{:?}", size(new.as_ref()));
    assert!(new.disk_bytes() < old.disk_bytes() / 3);
}

#[test]
fn where_there_is_no_index_none_is_closed() {
    assert_eq!(NoIndex.close().unwrap(), None);
    assert_eq!(MemorySource.close().unwrap(), None);
    assert_eq!((NoIndex.noted(), MemorySource.noted()), (None, None));
    assert!(NoIndex.discard_replaced());
}

#[test]
fn an_index_that_its_source_distrusts_is_not_opened_again() {
    let store = tempfile::tempdir().unwrap();
    let mut source = SledSource::new(store.path());
    let index = filled(&mut source, 2);
    source.note(at(1)).unwrap();
    source.distrust();
    drop(index);
    drop(source);
    assert!(SledSource::new(store.path()).open(false).is_err());
}

/// On a full disk sled's threads die, and whoever waits for them waits for ever.
#[test]
fn sled_is_not_touched_on_a_disk_that_is_nearly_full() {
    const LEAST: u64 = 8 << 20;
    let store = tempfile::tempdir().unwrap();
    drop(filled(&mut SledSource::new(store.path()), 2));
    let mut full = SledSource::new(store.path()).with_room(|| LEAST - 1);
    assert!(full.check_room().is_err());
    assert!(full.rebuild(Box::new(std::iter::empty()), at(1)).is_err());
    assert!(full.open(false).is_err());
    let mut enough = SledSource::new(store.path()).with_room(|| LEAST);
    assert!(enough.check_room().is_ok());
    assert!(enough.rebuild(Box::new(std::iter::empty()), at(1)).is_ok());
}

/// Found by an attack: on a small disk what was left of indexes took the room that the snapshot needed, for good.
#[test]
fn indexes_that_are_not_in_use_are_given_up_for_room() {
    let store = tempfile::tempdir().unwrap();
    drop(filled(&mut SledSource::new(store.path()), 2));
    let old = store.path().join("index.old");
    std::fs::create_dir(&old).unwrap();
    let there = old.clone();
    let mut source = SledSource::new(store.path()).with_room(move || if there.exists() { 0 } else { u64::MAX });
    let index = source.open(false).unwrap();
    assert!(!old.exists(), "what nobody needs goes first");
    drop(index);
    drop(source);
    let mut source = SledSource::new(store.path()).with_room(|| 0);
    assert!(source.open(false).is_err());
    assert!(!store.path().join("index").exists() && !store.path().join("index.state").exists());
}

#[test]
fn a_rebuild_ends_when_the_disk_becomes_full_in_the_middle_of_it() {
    let store = tempfile::tempdir().unwrap();
    let (read, looks) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counter, look) = (Arc::clone(&read), Arc::clone(&looks));
    let mut source = SledSource::new(store.path()).with_room(move || {
        look.fetch_add(1, Ordering::Relaxed);
        if counter.load(Ordering::Relaxed) < 5_000 { u64::MAX } else { 0 }
    });
    let records = (0..100_000).map(|n| {
        read.fetch_add(1, Ordering::Relaxed);
        Ok(Record::new(&element(&format!("{n:08}")), tag(n + 2)))
    });
    assert!(source.rebuild(Box::new(records), at(1)).is_err());
    assert!(read.load(Ordering::Relaxed) < 5_000 + 2 * 4096, "{read:?} records");
    assert!(looks.load(Ordering::Relaxed) < 10, "it costs a system call: {looks:?}");
}

#[test]
fn a_disk_is_asked_how_much_room_it_has() {
    let room_at = |dir: &Path| SledSource::new(dir).check_room().is_ok();
    assert!(!room_at(Path::new("/proc")), "there never is any");
    assert!(room_at(Path::new("/proc/none/such")), "where it cannot be told it is tried");
}
