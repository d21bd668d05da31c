//! orset: a store on disk with its index, and two replicas that speak to each other.

use std::path::{Path, PathBuf};

use orset::crdt::{Element, Entry, OpBody};
use orset::storage::codec::encode_batch;
use orset::storage::{IndexSource, Lsn, SledSource, Store, StoreLimits};

use crate::pair::{NAMES, Pair, open_store, settle};
use crate::set::{BATCH, Set};
use crate::workload::Change;

/// A store in a directory of its own, which goes with it.
pub struct Orset {
    dir: tempfile::TempDir,
    replica: usize,
    /// Unless it has just been saved.
    open: Option<Open>,
}

struct Open {
    store: Store,
    source: SledSource,
}

impl Orset {
    fn path(&self) -> PathBuf {
        self.dir.path().join(NAMES[self.replica])
    }

    fn open(mut self) -> Self {
        let path = self.path();
        let mut source = SledSource::new(&path);
        let (store, _) = open_store(&path, self.replica, StoreLimits::default(), &mut source);
        self.open = Some(Open { store, source });
        self
    }

    fn store(&mut self) -> &mut Store {
        &mut self.open.as_mut().expect("it is open").store
    }

    fn commit(&mut self) {
        self.store().commit().expect("the disk takes it");
    }

    /// Ends it in good order.
    fn close(&mut self) {
        let Some(Open { mut store, mut source }) = self.open.take() else { return };
        store.release_index();
        let index = source.close().expect("the index can be closed");
        store.close(index).expect("a clean stop");
    }
}

fn element(text: &str) -> Element {
    Element::from_canonical(format!("\"{text}\"").as_bytes())
}

impl Set for Orset {
    fn new(replica: usize) -> Self {
        // Not in a temporary file system, where every sync would be free.
        let target = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target");
        let dir = tempfile::tempdir_in(target).expect("cargo makes the directory");
        Self { dir, replica, open: None }.open()
    }

    fn apply(&mut self, changes: &[Change]) {
        let store = self.store();
        for change in changes {
            let body = match change {
                Change::Add(text) => OpBody::Add(element(text)),
                Change::Remove(text) => {
                    let element = element(text);
                    let tags = store.tags(&element).expect("the index can be read");
                    OpBody::Remove { element, tags }
                }
            };
            store.append_local(body);
        }
        self.commit();
    }

    fn settle(&mut self) {
        let Open { store, source } = self.open.as_mut().expect("it is open");
        settle(store, source);
    }

    fn merge(&mut self, other: &mut Self) {
        let ops = other.store().delta(self.store().vv(), usize::MAX).expect("the log can be read").ops;
        for some in ops.chunks(BATCH) {
            for op in some {
                self.store().append_remote(op.clone());
            }
            self.commit();
        }
    }

    fn save(&mut self) -> Vec<(String, usize)> {
        self.store().want_snapshot();
        self.settle();
        let (log, snapshot) = self.store().bytes();
        self.close();
        let index = size(&self.path().join("index"));
        vec![
            ("its snapshot, on disk".into(), snapshot as usize),
            ("beside it, the log kept for peers".into(), log as usize),
            ("and the index".into(), index),
        ]
    }

    fn load(self) -> Self {
        self.open()
    }

    fn sync(mut self, mut other: Self) -> Vec<(String, usize)> {
        self.close();
        other.close();
        let mut pair = Pair::open(&[self.path(), other.path()], StoreLimits::default());
        let ops: Vec<Entry> = pair.ahead(0).into_iter().map(Entry::Op).collect();
        let mut encoded = Vec::new();
        encode_batch(&mut encoded, Lsn(1), None, &ops);
        pair.heal();
        pair.converge();
        vec![
            (format!("its lines, both ways: {}", pair.traffic.story()), pair.traffic.bytes() as usize),
            ("the operations as the log has them".into(), encoded.len()),
        ]
    }

    fn len(&mut self) -> usize {
        let (mut elements, mut last) = (0, Vec::new());
        for record in self.store().records(&[]) {
            let record = record.expect("the index can be read");
            if record.key.prefix() != last {
                elements += 1;
                last = record.key.prefix().to_vec();
            }
        }
        elements
    }
}

/// What a directory takes up.
fn size(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).expect("a directory");
    let size_of = |entry: std::fs::DirEntry| {
        let meta = entry.metadata().expect("its metadata");
        if meta.is_dir() { size(&entry.path()) } else { meta.len() as usize }
    };
    entries.map(|entry| size_of(entry.expect("an entry"))).sum()
}
