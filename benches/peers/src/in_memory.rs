//! The libraries that hold a set in memory.

use automerge::sync::{State, SyncDoc};
use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, ObjId, ObjType, ROOT, ReadDoc};
use crdts::{CmRDT, CvRDT, Orswot};
use loro::{ExportMode, LoroDoc};
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{Doc, Map, MapRef, ReadTxn, Transact, Update};

use crate::set::Set;
use crate::workload::Change;

/// What every document calls its set.
const SET: &str = "set";

/// `crdts::Orswot`, with the operations since the start of the last batch that was not merged.
pub struct Crdts {
    set: Orswot<String, u64>,
    actor: u64,
    ops: Vec<crdts::orswot::Op<String, u64>>,
    saved: Vec<u8>,
}

fn encoded<T: serde::Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard()).expect("a Vec takes everything")
}

fn saved(bytes: &[u8]) -> Vec<(String, usize)> {
    vec![("saved, in memory".into(), bytes.len())]
}

impl Set for Crdts {
    fn new(replica: usize) -> Self {
        Self { set: Orswot::new(), actor: replica as u64 + 1, ops: Vec::new(), saved: Vec::new() }
    }

    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            let op = match change {
                Change::Add(element) => self.set.add(element.clone(), self.set.read_ctx().derive_add_ctx(self.actor)),
                Change::Remove(element) => self.set.rm(element.clone(), self.set.contains(element).derive_rm_ctx()),
            };
            self.set.apply(op.clone());
            self.ops.push(op);
        }
    }

    fn merge(&mut self, other: &mut Self) {
        self.set.merge(other.set.clone());
    }

    fn save(&mut self) -> Vec<(String, usize)> {
        self.saved = encoded(&self.set);
        saved(&self.saved)
    }

    fn load(self) -> Self {
        let (set, _) = bincode::serde::decode_from_slice(&self.saved, bincode::config::standard()).expect("just saved");
        Self { set, ops: Vec::new(), ..self }
    }

    fn sync(self, mut other: Self) -> Vec<(String, usize)> {
        let (ops, state) = (encoded(&self.ops).len(), encoded(&self.set).len());
        self.ops.into_iter().for_each(|op| other.set.apply(op));
        assert!(other.set == self.set);
        vec![
            ("the operations (CmRDT), if the caller has kept them, in bincode".into(), ops),
            ("the whole state (CvRDT), in bincode".into(), state),
        ]
    }

    fn len(&mut self) -> usize {
        self.set.iter().count()
    }
}

/// automerge: a map keyed by element.
pub struct Automerge {
    doc: AutoCommit,
    map: ObjId,
    saved: Vec<u8>,
}

impl Automerge {
    fn of(mut doc: AutoCommit, replica: usize) -> Self {
        doc.set_actor(ActorId::from([replica as u8 + 1; 16]));
        let map = match doc.get(ROOT, SET).expect("the root is a map") {
            Some((_, map)) => map,
            None => ROOT,
        };
        Self { doc, map, saved: Vec::new() }
    }
}

impl Set for Automerge {
    fn new(replica: usize) -> Self {
        let mut new = Self::of(AutoCommit::new(), replica);
        if replica == 0 {
            new.map = new.doc.put_object(ROOT, SET, ObjType::Map).expect("the root is a map");
        }
        new
    }

    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Add(element) => self.doc.put(&self.map, element.as_str(), true),
                Change::Remove(element) => self.doc.delete(&self.map, element.as_str()),
            }
            .expect("it is a map");
        }
        self.doc.commit();
    }

    fn merge(&mut self, other: &mut Self) {
        self.doc.merge(&mut other.doc).expect("it is a document");
        self.map = other.map.clone();
    }

    fn save(&mut self) -> Vec<(String, usize)> {
        self.saved = self.doc.save();
        saved(&self.saved)
    }

    fn load(self) -> Self {
        Self::of(AutoCommit::load(&self.saved).expect("just saved"), 0)
    }

    fn sync(mut self, mut other: Self) -> Vec<(String, usize)> {
        let changes = self.doc.save_after(&other.doc.get_heads()).len();
        let (mut here, mut there) = (State::new(), State::new());
        let mut bytes = 0;
        loop {
            let asks = other.doc.sync().generate_sync_message(&mut there);
            if let Some(message) = &asks {
                bytes += message.clone().encode().len();
                self.doc.sync().receive_sync_message(&mut here, message.clone()).expect("a message");
            }
            let answers = self.doc.sync().generate_sync_message(&mut here);
            if let Some(message) = &answers {
                bytes += message.clone().encode().len();
                other.doc.sync().receive_sync_message(&mut there, message.clone()).expect("a message");
            }
            if asks.is_none() && answers.is_none() {
                break;
            }
        }
        assert_eq!(other.doc.get_heads(), self.doc.get_heads());
        vec![
            ("the changes since the other's heads, as one change".into(), changes),
            ("its sync messages, both ways".into(), bytes),
        ]
    }

    fn len(&mut self) -> usize {
        self.doc.length(&self.map)
    }
}

/// loro: a map keyed by element.
pub struct Loro {
    doc: LoroDoc,
    saved: Vec<u8>,
}

impl Set for Loro {
    fn new(replica: usize) -> Self {
        let doc = LoroDoc::new();
        doc.set_peer_id(replica as u64 + 1).expect("no transaction is open");
        Self { doc, saved: Vec::new() }
    }

    fn apply(&mut self, changes: &[Change]) {
        let map = self.doc.get_map(SET);
        for change in changes {
            match change {
                Change::Add(element) => map.insert(element, true),
                Change::Remove(element) => map.delete(element),
            }
            .expect("it is a map");
        }
        self.doc.commit();
    }

    fn merge(&mut self, other: &mut Self) {
        let updates = other.doc.export(ExportMode::updates(&self.doc.oplog_vv())).expect("an export");
        self.doc.import(&updates).expect("just exported");
    }

    fn save(&mut self) -> Vec<(String, usize)> {
        self.saved = self.doc.export(ExportMode::Snapshot).expect("an export");
        saved(&self.saved)
    }

    fn load(self) -> Self {
        let doc = LoroDoc::from_snapshot(&self.saved).expect("just saved");
        doc.set_peer_id(1).expect("no transaction is open");
        Self { doc, ..self }
    }

    fn sync(self, other: Self) -> Vec<(String, usize)> {
        let asks = other.doc.oplog_vv().encode().len();
        let updates = self.doc.export(ExportMode::updates(&other.doc.oplog_vv())).expect("an export");
        other.doc.import(&updates).expect("just exported");
        assert_eq!(other.doc.get_map(SET).len(), self.doc.get_map(SET).len());
        vec![(format!("updates since the other's version, and the version, {asks} bytes"), updates.len() + asks)]
    }

    fn len(&mut self) -> usize {
        self.doc.get_map(SET).len()
    }
}

/// yrs: a map keyed by element.
pub struct Yrs {
    doc: Doc,
    map: MapRef,
    saved: Vec<u8>,
}

impl Yrs {
    fn of(doc: Doc) -> Self {
        let map = doc.get_or_insert_map(SET);
        Self { doc, map, saved: Vec::new() }
    }

    fn take(&mut self, update: &[u8]) {
        let update = Update::decode_v2(update).expect("just encoded");
        self.doc.transact_mut().apply_update(update).expect("an update");
    }
}

impl Set for Yrs {
    fn new(replica: usize) -> Self {
        Self::of(Doc::with_client_id(replica as u64 + 1))
    }

    fn apply(&mut self, changes: &[Change]) {
        let mut txn = self.doc.transact_mut();
        for change in changes {
            match change {
                Change::Add(element) => drop(self.map.insert(&mut txn, element.as_str(), true)),
                Change::Remove(element) => drop(self.map.remove(&mut txn, element)),
            }
        }
    }

    fn merge(&mut self, other: &mut Self) {
        let vector = self.doc.transact().state_vector();
        let update = other.doc.transact().encode_state_as_update_v2(&vector);
        self.take(&update);
    }

    fn save(&mut self) -> Vec<(String, usize)> {
        self.saved = self.doc.transact().encode_state_as_update_v2(&yrs::StateVector::default());
        saved(&self.saved)
    }

    fn load(self) -> Self {
        let mut loaded = Self::new(0);
        loaded.take(&self.saved);
        loaded
    }

    fn sync(self, mut other: Self) -> Vec<(String, usize)> {
        let vector = other.doc.transact().state_vector();
        let asks = vector.encode_v1().len();
        let first = self.doc.transact().encode_state_as_update_v1(&vector).len();
        let second = self.doc.transact().encode_state_as_update_v2(&vector);
        other.take(&second);
        assert_eq!(other.len(), self.map.len(&self.doc.transact()) as usize);
        vec![
            (format!("an update, second encoding, and the state vector, {asks} bytes"), second.len() + asks),
            ("the same in the first encoding".into(), first + asks),
        ]
    }

    fn len(&mut self) -> usize {
        self.map.len(&self.doc.transact()) as usize
    }
}
