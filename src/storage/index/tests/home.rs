//! When an index on disk is trusted, and what becomes of one that is not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

use super::super::sled_files::open_guarded;
use super::super::state_file::IndexState;
use super::*;

fn home_under(store: &Path, boot_id: &str) -> IndexHome {
    IndexHome::new(store, Some(boot_id.into()))
}

/// A store with an index of three tags at LSN 3, closed or as a kill leaves it.
fn store(closed: bool) -> tempfile::TempDir {
    let store = tempfile::tempdir().unwrap();
    let mut home = home_in(store.path());
    let index = home.create().unwrap();
    index.apply(&[put(&element("1"), 1), put(&element("1"), 2), put(&element("2"), 3)], at(3)).unwrap();
    if closed {
        assert_eq!(home.close(index).unwrap(), at(3));
    }
    store
}

fn is_empty(index: &SledIndex) -> bool {
    index.records(&[]).next().is_none()
}

fn is_whole(index: &SledIndex) -> bool {
    list(index, &[]) == ["1/1", "1/2", "2/3"] && index.position() == at(3) && index.counts() == counts(2, 3)
}

/// The directory of the one index there is.
fn only_dir(store: &Path) -> PathBuf {
    let mut entries = fs::read_dir(store.join("index")).unwrap();
    let dir = entries.next().unwrap().unwrap().path();
    assert!(entries.next().is_none(), "only one index is left");
    dir
}

fn sorted_records(n: u64) -> impl Iterator<Item = Result<Record, BaseError>> {
    (1..=n).map(|n| Ok(Record::new(&element(&format!("{:08}", n / 2)), tag(n))))
}

#[test]
fn a_store_without_an_index_has_none() {
    let store = tempfile::tempdir().unwrap();
    assert_eq!(home_in(store.path()).open(true).unwrap_err(), Unusable::Missing);
    let store = self::store(true);
    fs::remove_dir_all(store.path().join("index")).unwrap();
    assert_eq!(home_in(store.path()).open(true).unwrap_err(), Unusable::Missing);
}

/// Not to be able to look is not the same as that there is nothing: here, because `index` leads to itself.
#[test]
fn an_index_that_cannot_be_looked_at_is_not_taken_for_none() {
    let store = store(false);
    fs::remove_dir_all(store.path().join("index")).unwrap();
    std::os::unix::fs::symlink("index", store.path().join("index")).unwrap();
    let refused = home_in(store.path()).open(false).unwrap_err();
    assert!(refused.to_string().contains("index/1"), "{refused}");
    assert!(matches!(IndexCopy::take(store.path()), Err(IndexError::Io { .. })));
    assert!(is_empty(&home_in(store.path()).create().unwrap()), "it is moved aside like any other");
}

#[test]
fn an_index_is_the_same_when_opened_again() {
    for closed in [false, true] {
        let store = store(closed);
        assert!(is_whole(&home_in(store.path()).open(closed).unwrap()), "closed: {closed}");
        assert!(is_whole(&home_in(store.path()).open(false).unwrap()), "closed: {closed}, and opened since");
    }
}

#[test]
fn under_another_boot_sled_is_not_even_opened() {
    for (closed, clean_stop) in [(false, false), (false, true), (true, false)] {
        let store = store(closed);
        let home = home_under(store.path(), "another boot");
        let opened = home.with_opener(|_| unreachable!("sled was opened"), OPEN_TIMEOUT).open(clean_stop);
        assert_eq!(opened.unwrap_err(), Unusable::OtherBoot, "closed {closed}, clean stop {clean_stop}");
    }
}

#[test]
fn without_a_boot_id_only_a_closed_index_is_trusted() {
    let killed = tempfile::tempdir().unwrap();
    drop(IndexHome::new(killed.path(), None).create().unwrap());
    assert_eq!(IndexHome::new(killed.path(), None).open(false).unwrap_err(), Unusable::OtherBoot);
    assert!(is_whole(&IndexHome::new(store(true).path(), None).open(true).unwrap()));
}

#[test]
fn a_clean_stop_counts_once_under_another_boot() {
    let store = store(true);
    assert!(is_whole(&home_under(store.path(), "second").open(true).unwrap()));
    // The process was killed before it wrote to the log, so the log still ends with the clean stop; then power went.
    assert_eq!(home_under(store.path(), "third").open(true).unwrap_err(), Unusable::OtherBoot);
}

#[test]
fn a_copy_is_trusted_only_if_the_original_was_closed() {
    for closed in [false, true] {
        let original = store(closed);
        let copy = tempfile::tempdir().unwrap();
        let status =
            std::process::Command::new("cp").arg("-a").arg(original.path().join(".")).arg(copy.path()).status();
        assert!(status.unwrap().success());
        let opened = home_in(copy.path()).open(closed);
        match closed {
            true => assert!(is_whole(&opened.unwrap())),
            false => assert_eq!(opened.unwrap_err(), Unusable::Copied),
        }
    }
}

#[test]
fn a_half_written_snapshot_of_sleds_does_not_matter() {
    let store = store(false);
    let half = only_dir(store.path()).join("snap.0000000000000ABC.generating");
    fs::write(&half, b"half").unwrap();
    assert!(is_whole(&home_in(store.path()).open(false).unwrap()));
    assert!(!half.exists());
}

#[test]
fn garbage_is_refused_and_replaced() {
    let garble: [fn(&Path); 4] = [
        |store| fs::remove_file(only_dir(store).join("db")).unwrap(),
        |store| fs::write(only_dir(store).join("db"), vec![0xa5; 300_000]).unwrap(),
        |store| fs::write(store.join("index.state"), b"garbage").unwrap(),
        |store| {
            fs::remove_dir_all(store.join("index")).unwrap();
            fs::write(store.join("index"), b"a file").unwrap();
        },
    ];
    for (case, garble) in garble.iter().enumerate() {
        let store = store(true);
        garble(store.path());
        let mut home = home_in(store.path());
        let opened = home.open(true);
        assert!(opened.is_err(), "case {case}: {opened:?}");
        let index = home.create().unwrap();
        assert_eq!((index.position(), index.counts()), (IndexPosition::default(), Counts::default()), "case {case}");
        assert!(store.path().join("index.old").exists(), "case {case}");
    }
}

#[test]
fn a_database_without_a_sound_position_is_refused() {
    for meta in [None, Some(b"garbage".as_slice()), Some(&[2, 0, 0, 0, 0])] {
        let store = store(false);
        let index = home_in(store.path()).open(false).unwrap();
        match meta {
            None => index.tree().remove(b"\0meta").unwrap(),
            Some(meta) => index.tree().insert(b"\0meta", meta).unwrap(),
        };
        drop(index);
        assert!(matches!(home_in(store.path()).open(false), Err(Unusable::Failed(_))), "{meta:?}");
    }
}

#[test]
fn a_sled_that_hangs_is_left_alone_and_replaced() {
    let store = store(true);
    let stuck = |_: &Path| -> sled::Result<sled::Db> {
        loop {
            thread::park();
        }
    };
    let mut home = home_in(store.path()).with_opener(stuck, Duration::from_millis(10));
    assert_eq!(home.open(true).unwrap_err(), Unusable::Hung);
    let stuck_in = only_dir(store.path());
    let index = home_in(store.path()).create().unwrap();
    assert_ne!(index.dir(), stuck_in, "a stuck thread's path is not used again");
}

#[test]
fn a_sled_that_panics_is_reported() {
    let store = store(true);
    let mut home = home_in(store.path()).with_opener(|_| panic!("a page is {}", "gone"), OPEN_TIMEOUT);
    assert_eq!(home.open(true).unwrap_err(), Unusable::Panicked("a page is gone".into()));
    assert!(matches!(home.create(), Err(IndexError::Unusable { source: Unusable::Panicked(_), .. })));
}

#[test]
fn a_rebuilt_index_has_all_records_and_the_position() {
    for n in [0, 1, 1_023, 1_024, 1_025, 5_000] {
        let store = store(false);
        let mut told = Vec::new();
        let records = Box::new(sorted_records(n));
        drop(home_in(store.path()).rebuild(records, at(77), &mut |done| told.push(done)).unwrap());
        assert_eq!(told.last(), Some(&n), "{told:?}");
        let index = home_in(store.path()).open(false).unwrap();
        let expected: Vec<_> = sorted_records(n).map(Result::unwrap).collect();
        assert!(index.records(&[]).map(Result::unwrap).eq(expected.iter().cloned()), "{n} records");
        let elements: BTreeSet<_> = expected.iter().map(|record| record.key.prefix()).collect();
        assert_eq!((index.position(), index.counts()), (at(77), counts(elements.len() as u64, n)));
    }
}

#[test]
fn an_interrupted_rebuild_is_never_trusted() {
    let store = store(true);
    let broken = sorted_records(3_000).chain([Err(BaseError("the disk is gone".into()))]);
    let error = home_in(store.path()).rebuild(Box::new(broken), at(9), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("the disk is gone"), "{error}");
    assert_eq!(home_in(store.path()).open(true).unwrap_err(), Unusable::Missing);

    // A kill leaves what was loaded. Here a panic stands for it.
    let killed = sorted_records(3_000).inspect(|record| assert!(record.as_ref().unwrap().tag() != tag(2_500)));
    let rebuild = || home_in(store.path()).rebuild(Box::new(killed), at(9), &mut |_| {});
    assert!(catch_unwind(AssertUnwindSafe(rebuild)).is_err());
    let half = only_dir(store.path());
    assert_eq!(home_in(store.path()).open(true).unwrap_err(), Unusable::Missing);
    // Even if `index.state` named it, it has no position.
    let number = half.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let state = IndexState::open(&half, number, at(9), Some("this boot".into())).unwrap();
    state.write(&store.path().join("index.state")).unwrap();
    let refused = home_in(store.path()).open(true).unwrap_err();
    assert!(matches!(&refused, Unusable::Failed(why) if why.contains("never finished")), "{refused}");
    let opened = open_guarded(&half, super::super::sled_files::open_sled, OPEN_TIMEOUT).unwrap();
    assert!(opened.tree.len() > 1_000, "so many records were there");
}

/// sled splits a leaf of seventeen records; in key order the nine that stay behind never become more.
#[test]
fn a_rebuild_takes_less_disk_than_inserts_in_key_order() {
    const RECORDS: u64 = 20_000;
    let store = tempfile::tempdir().unwrap();
    let rebuilt = home_in(store.path()).rebuild(Box::new(sorted_records(RECORDS)), at(1), &mut |_| {}).unwrap();
    let other = tempfile::tempdir().unwrap();
    let in_order = home_in(other.path()).create().unwrap();
    for record in sorted_records(RECORDS) {
        in_order.tree().insert(record.unwrap().key.as_bytes(), &[]).unwrap();
    }
    in_order.flush().unwrap();
    let (rebuilt, in_order) = (rebuilt.disk_bytes(), in_order.disk_bytes());
    assert!(rebuilt * 10 < in_order * 8, "{rebuilt} bytes, and {in_order} in key order");
}

/// They are taken in a few at a time, so that they need not all be in memory.
#[test]
fn a_rebuild_of_long_elements_tells_of_every_few() {
    let long = |n: u64| Record::new(&element(&format!("\"{n:0>60000}\"")), tag(n));
    let mut records: Vec<Record> = (1..=9).map(long).collect();
    records.sort_by(|a, b| a.key.cmp(&b.key));
    let store = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    let given = Box::new(records.clone().into_iter().map(Ok));
    let index = home_in(store.path()).rebuild(given, at(1), &mut |done| told.push(done)).unwrap();
    assert_eq!(told, [5, 9]);
    assert!(index.records(&[]).map(Result::unwrap).eq(records));
}

#[test]
fn unsorted_records_are_refused() {
    let store = tempfile::tempdir().unwrap();
    let records = sorted_records(5).chain(sorted_records(1));
    let error = home_in(store.path()).rebuild(Box::new(records), at(1), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("unsorted"), "{error}");
}

#[test]
fn only_the_newest_is_kept_aside() {
    let store = tempfile::tempdir().unwrap();
    let mut home = home_in(store.path());
    for round in 0..3 {
        let index = home.create().unwrap();
        fs::write(index.dir().join(format!("round {round}")), b"").unwrap();
    }
    home.create().unwrap();
    only_dir(store.path());
    let aside = only_dir_in(&store.path().join("index.old"));
    assert!(aside.join("round 2").exists(), "{aside:?}");
    let mut entries: Vec<_> = fs::read_dir(store.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    entries.sort();
    assert_eq!(entries, ["index", "index.old", "index.state"]);
}

fn only_dir_in(dir: &Path) -> PathBuf {
    let entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(entries.len(), 1);
    entries[0].clone()
}

#[test]
fn an_index_is_replaced_while_it_is_read() {
    let store = store(false);
    let mut home = home_in(store.path());
    let old = home.open(false).unwrap();
    let mut reading = old.records(&[]);
    assert!(reading.next().unwrap().is_ok());
    let new = home.rebuild_beside(old.records(&[]), old.position(), &mut |_| {}).unwrap();
    assert!(is_whole(&old) && is_whole(&new));
    assert_eq!(reading.count(), 2);
    home.discard(old).unwrap();
    assert_eq!(only_dir(store.path()), new.dir());
    drop(new);
    assert!(is_whole(&home_in(store.path()).open(false).unwrap()));
}

#[test]
fn a_failed_replacement_leaves_the_old_one_in_place() {
    let store = store(false);
    let mut home = home_in(store.path());
    let old = home.open(false).unwrap();
    let broken = sorted_records(3_000).chain([Err(BaseError("no".into()))]);
    assert!(home.rebuild_beside(Box::new(broken), at(9), &mut |_| {}).is_err());
    assert_eq!(only_dir(store.path()), old.dir(), "half an index is removed");
    home.write_state(old.position()).unwrap();
    drop(old);
    assert!(is_whole(&home_in(store.path()).open(false).unwrap()));
}

#[test]
fn one_that_was_not_discarded_goes_at_the_next_start() {
    let store = store(false);
    let mut home = home_in(store.path());
    let old = home.open(false).unwrap();
    let new = home.rebuild_beside(old.records(&[]), old.position(), &mut |_| {}).unwrap();
    let new_dir = new.dir().to_path_buf();
    drop((old, new));
    assert!(is_whole(&home_in(store.path()).open(false).unwrap()));
    assert_eq!(only_dir(store.path()), new_dir);
}

#[test]
fn files_are_for_their_owner_alone_and_their_size_is_told() {
    let store = store(false);
    let mut home = home_in(store.path());
    let index = home.open(false).unwrap();
    assert!(index.disk_bytes() > 0);
    index.sync().unwrap();
    home.write_state(index.position()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&store.path().join("index")), 0o700);
    assert_eq!(mode(index.dir()), 0o700);
    assert_eq!(mode(&index.dir().join("db")), 0o600);
    assert_eq!(mode(&index.dir().join("conf")), 0o600);
    assert_eq!(mode(&store.path().join("index.state")), 0o600);
}

/// Else a clean stop could note an index as closed that is still in sled's buffers.
#[test]
fn what_is_synced_is_in_the_files() {
    let store = store(true);
    let mut home = home_in(store.path());
    let index = home.open(true).unwrap();
    index.apply(&[put(&element("9"), 9)], at(4)).unwrap();
    index.sync().unwrap();
    let copy = IndexCopy::take(store.path()).unwrap();
    let found = copy.look(|index| Ok::<_, IndexError>((index.position(), list(index, &[])))).unwrap();
    assert_eq!(found, (at(4), ["1/1", "1/2", "2/3", "9/9"].map(str::to_owned).to_vec()));
}

#[test]
fn an_index_that_is_distrusted_is_not_opened_again() {
    let store = store(true);
    home_in(store.path()).distrust();
    assert!(home_in(store.path()).open(true).is_err());
}

#[test]
fn this_boot_has_the_kernels_name() {
    if std::env::var_os("ORSET_BOOT_ID").is_none() {
        let kernels = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        assert_eq!(current_boot_id().as_deref(), kernels.as_deref().map(str::trim));
    }
}

#[test]
fn where_the_system_lets_nobody_look_the_index_is_not_at_fault() {
    use std::io::ErrorKind::{InvalidData, NotFound, PermissionDenied, StorageFull};
    let of_the_system = |kind: std::io::ErrorKind| {
        super::super::sled_files::io_error("open", &PathBuf::new())(kind.into()).is_of_the_system()
    };
    assert!([PermissionDenied, StorageFull, NotFound].into_iter().all(of_the_system));
    assert!(!of_the_system(InvalidData));
}
