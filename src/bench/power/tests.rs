//! What a [`Disk`] forgets and what not, in the cases that a whole tree of random operations seldom meets.

use std::ffi::OsStr;

use super::*;

const ACCESS: Access = Access { mode: 0o600, uid: 0, gid: 0 };

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

fn forget_all(disk: &mut Disk) {
    disk.cut(Forgetting::All, &mut fastrand::Rng::with_seed(1));
}

#[test]
fn syncing_one_directory_of_a_move_leaves_no_second_name_in_the_other() {
    let mut disk = Disk::default();
    let (from, to) =
        (disk.make_dir(ROOT, name("from"), ACCESS).unwrap(), disk.make_dir(ROOT, name("to"), ACCESS).unwrap());
    disk.sync_dir(ROOT).unwrap();
    let file = disk.make_file(from, name("file"), ACCESS).unwrap();
    disk.rename((from, name("file")), (to, name("file")), true).unwrap();
    disk.sync_dir(to).unwrap();
    disk.sync_dir(from).unwrap();
    forget_all(&mut disk);
    assert_eq!(disk.lookup(to, name("file")), Ok(file));
    assert!(disk.lookup(from, name("file")).is_err());
}

#[test]
fn a_directory_is_in_one_place_or_none_whatever_subset_of_its_moves_was_kept() {
    for seed in 0..200 {
        let mut disk = Disk::default();
        let dir = disk.make_dir(ROOT, name("a"), ACCESS).unwrap();
        disk.sync_dir(ROOT).unwrap();
        for (from, to) in [("a", "b"), ("b", "c"), ("c", "d")] {
            disk.rename((ROOT, name(from)), (ROOT, name(to)), true).unwrap();
        }
        disk.cut(Forgetting::ASubset, &mut fastrand::Rng::with_seed(seed));
        let places = disk.list(ROOT, 0).unwrap().iter().filter(|listed| listed.ino == dir).count();
        assert_eq!(places, 1, "seed {seed}");
        assert_eq!(disk.attributes(ROOT).unwrap().links, 3, "seed {seed}");
    }
}

#[test]
fn more_than_64_mib_do_not_stay_unsynced_and_the_eldest_go_first() {
    let mut disk = Disk::default();
    let (first, second) =
        (disk.make_file(ROOT, name("first"), ACCESS).unwrap(), disk.make_file(ROOT, name("second"), ACCESS).unwrap());
    disk.sync_dir(ROOT).unwrap();
    let chunk = vec![7; 1 << 20];
    for file in [first, second] {
        for n in 0..30 {
            disk.write(file, n << 20, &chunk).unwrap();
        }
    }
    forget_all(&mut disk);
    let lengths = [first, second].map(|file| disk.attributes(file).unwrap().length);
    assert!(lengths[0] > 20 << 20 && lengths[1] == 0, "{lengths:?}");
}

#[test]
fn a_file_without_a_name_is_there_while_somebody_holds_it() {
    let mut disk = Disk::default();
    let free = disk.free_bytes();
    let file = disk.make_file(ROOT, name("file"), ACCESS).unwrap();
    disk.hold(file);
    disk.write(file, 0, b"still here").unwrap();
    disk.unlink(ROOT, name("file")).unwrap();
    disk.sync_dir(ROOT).unwrap();
    assert_eq!(disk.read(file, 0, 100), Ok(&b"still here"[..]));
    assert_eq!(disk.free_bytes(), free - 10);
    disk.let_go(file, 1);
    assert!(disk.read(file, 0, 100).is_err());
    assert_eq!(disk.free_bytes(), free);
}

#[test]
fn what_is_put_in_place_is_durable_and_has_numbers_of_its_own() {
    let mut disk = Disk::default();
    let store = disk.make_dir(ROOT, name("store"), ACCESS).unwrap();
    let file = disk.make_file(store, name("file"), ACCESS).unwrap();
    disk.write(file, 0, b"content").unwrap();
    let tree = disk.tree(name("store")).unwrap();
    disk.put_tree(name("store"), Some(&tree));
    forget_all(&mut disk);
    assert_eq!(disk.tree(name("store")), Some(tree));
    let copy = disk.lookup(ROOT, name("store")).unwrap();
    assert!(copy != store && disk.lookup(copy, name("file")) != Ok(file));
    disk.put_tree(name("store"), None);
    forget_all(&mut disk);
    assert_eq!(disk.tree(name("store")), None);
}
