//! An index on sled whose process is killed at any instant is, when opened again, exactly the fold up to the position
//! that it names. That it also keeps up to the last flush is sled's word, and checked too.
//!
//! The process is this test binary itself, started again with [`STORE`] set.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use orset::crdt::{Base, Change, Dot, Element, Record, RecordKey, ReplicaId, Seq};
use orset::storage::index::{Index, IndexHome, IndexPosition, MemoryIndex, SledIndex, Unusable};
use orset::storage::{IndexError, Lsn};

const STORE: &str = "ORSET_TEST_INDEX_STORE";
const STEPS_PER_FLUSH: u64 = 8;

/// What the step to LSN `lsn` changes: 20 tags come, and those of the step ten before go.
fn step(lsn: u64) -> (Vec<(RecordKey, Change)>, IndexPosition) {
    let record = |lsn: u64, n: u64| {
        let bytes = if n == 0 { 300 } else { 3 };
        let element = Element::from_canonical(format!("{:0>bytes$}", lsn * 31 % 57).as_bytes());
        Record::new(&element, Dot::new(ReplicaId::from_random(1), Seq(lsn * 100 + n)))
    };
    let come = (0..20).map(|n| record(lsn, n)).map(|record| (record.key, Change::Put(record.long_element)));
    let go = (0..20).filter(|_| lsn > 10).map(|n| (record(lsn - 10, n).key, Change::Delete));
    (come.chain(go).collect(), IndexPosition { lsn: Lsn(lsn), checksum: 1 })
}

fn home(store: &Path) -> IndexHome {
    IndexHome::new(store, Some("this boot".into()))
}

fn open_or_create(home: &mut IndexHome) -> Result<SledIndex, IndexError> {
    match home.open(false) {
        Err(Unusable::Missing) => home.create(),
        opened => opened.map_err(|source| IndexError::Unusable { path: "store".into(), source }),
    }
}

/// The child: applies steps until it is killed, and tells which it has flushed. Does nothing as an ordinary test.
#[test]
fn child() {
    let Some(store) = env::var_os(STORE) else { return };
    let mut home = home(Path::new(&store));
    let index = open_or_create(&mut home).unwrap();
    for lsn in index.position().lsn.0 + 1.. {
        let (changes, position) = step(lsn);
        index.apply(&changes, position).unwrap();
        if lsn % STEPS_PER_FLUSH == 0 {
            index.flush().unwrap();
            home.write_state(position).unwrap();
            println!("flushed {lsn}");
        }
    }
}

/// Starts a child, kills it after it has said `lines` times that it flushed, and returns the last LSN it said.
fn run_and_kill(store: &Path, lines: usize) -> u64 {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env(STORE, store).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut flushed = said.filter_map(|line| line.split_once("flushed ")?.1.parse::<u64>().ok());
    let last = flushed.by_ref().take(lines).last().expect("the child works");
    child.kill().unwrap();
    let last = flushed.last().unwrap_or(last);
    child.wait().unwrap();
    last
}

#[test]
fn a_killed_process_leaves_exactly_the_fold_up_to_some_position() {
    let store = tempfile::tempdir().unwrap();
    let model = MemoryIndex::default();
    for round in 0..12 {
        let flushed = run_and_kill(store.path(), 1 + round * 7 % 10);
        let index = home(store.path()).open(false).unwrap();
        let position = index.position();
        assert!(position.lsn.0 >= flushed, "round {round}: at {}, flushed {flushed}", position.lsn);
        for lsn in model.position().lsn.0 + 1..=position.lsn.0 {
            let (changes, position) = step(lsn);
            model.apply(&changes, position).unwrap();
        }
        let records = |base: &dyn Base| base.records(&[]).collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(records(&index), records(&model), "round {round}, at {}", position.lsn);
        assert_eq!((index.counts(), position), (model.counts(), model.position()), "round {round}");
    }
}
