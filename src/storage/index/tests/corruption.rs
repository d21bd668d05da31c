//! What an index on sled makes of contents that cannot be right: errors, never panics or wrong records.

use super::*;

/// The error that ends a scan, and how many records came before it.
fn first_error(index: &SledIndex) -> (usize, String) {
    let mut records = index.records(&[]);
    let sound = records.by_ref().take_while(Result::is_ok).count();
    assert!(records.next().is_none(), "a scan ends with its first error");
    let error = index.records(&[]).find_map(Result::err).expect("there is an error");
    (sound, error.to_string())
}

#[test]
fn whatever_is_no_record_is_an_error() {
    let long = element(&"5".repeat(200));
    let other = element(&"6".repeat(200));
    let cases: [(&str, Vec<u8>, Vec<u8>); 6] = [
        ("no record", b"\x01 below all elements".to_vec(), vec![]),
        ("no record", b"\x00metb".to_vec(), vec![]),
        ("no record", b"5 no tag".to_vec(), vec![]),
        ("more than its key", RecordKey::new(&element("5"), tag(1)).as_bytes().to_vec(), b"5".to_vec()),
        ("without its element", RecordKey::new(&long, tag(1)).as_bytes().to_vec(), vec![]),
        ("another record", RecordKey::new(&long, tag(1)).as_bytes().to_vec(), other.as_bytes().to_vec()),
    ];
    for (what, key, value) in cases {
        let store = tempfile::tempdir().unwrap();
        let index = home_in(store.path()).create().unwrap();
        index.apply(&[put(&element("7"), 1)], at(1)).unwrap();
        index.tree().insert(&key, value).unwrap();
        let (sound, error) = first_error(&index);
        assert_eq!(sound, 0, "{}", key.escape_ascii());
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn after_a_failed_step_it_takes_no_other() {
    let store = tempfile::tempdir().unwrap();
    let index = home_in(store.path()).create().unwrap();
    let a = element("1");
    index.tree().insert([a.key_prefix(), b"no tag".to_vec()].concat(), &[]).unwrap();
    assert!(matches!(index.apply(&[put(&a, 1)], at(1)), Err(IndexError::Records(_))));
    let error = index.apply(&[put(&element("2"), 2)], at(2)).unwrap_err();
    assert!(error.to_string().contains("given up"), "{error}");
    assert_eq!(index.position(), IndexPosition::default());
}

#[test]
fn counts_that_cannot_be_are_an_error() {
    let store = tempfile::tempdir().unwrap();
    let index = home_in(store.path()).create().unwrap();
    let (key, _) = put(&element("1"), 1);
    index.tree().insert(key.as_bytes(), &[]).unwrap();
    let error = index.apply(&[(key, Change::Delete)], at(1)).unwrap_err();
    assert!(error.to_string().contains("it counts"), "{error}");
}
