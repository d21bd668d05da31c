//! A manifest: as it stands, as a body that gets a good checksum and stands over a sound store, or damage to a sound one.

use std::path::Path;
use std::sync::OnceLock;

use orset::crdt::{NodeId, ReplicaId};
use orset::storage::envelope::{self, FORMAT_VERSION};
use orset::storage::manifest::{CleanEnd, Manifest};
use orset::storage::{Lsn, ReadForm, Replay, StoreError};

use super::log_segment::{SoundStore, sound_store};
use super::sealed::{DIR, damaged};

const MAGIC: [u8; 8] = *b"ORSETMAN";

/// See the table in the module above.
pub fn manifest(input: &[u8]) {
    let Some((form, rest)) = input.split_first() else { return };
    match form % 3 {
        0 => as_it_stands(rest),
        1 => as_it_stands(&sealed(rest)),
        _ => damage(rest),
    }
}

/// The manifest of this body.
pub fn sealed(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    envelope::wrap(&mut bytes, MAGIC, FORMAT_VERSION, body);
    bytes
}

fn as_it_stands(bytes: &[u8]) {
    match Manifest::decode(bytes, Path::new("manifest")) {
        Ok(manifest) => {
            let again = manifest.encode();
            assert_eq!(Manifest::decode(&again, Path::new("manifest")).expect("just written"), manifest);
            names_what_there_is(manifest);
        }
        Err(error) => {
            assert!(matches!(error, StoreError::Damaged { .. } | StoreError::Newer { .. }), "{error}");
        }
    }
}

/// Over the files of a sound store, whatever it names, reading ends in the set or in a word about damage.
fn names_what_there_is(manifest: Manifest) {
    let disk = &specimen_store().disk;
    let checked = Replay::check(disk, Path::new(DIR), &manifest);
    match Replay::read(disk, Path::new(DIR), manifest, None, None) {
        Ok(_) => assert!(checked.is_ok(), "it reads, but does not check"),
        Err(error) => assert!(matches!(error, StoreError::Damaged { .. }), "{error}"),
    }
}

fn specimen_store() -> &'static SoundStore {
    static STORE: OnceLock<SoundStore> = OnceLock::new();
    STORE.get_or_init(|| sound_store(&[1, 5, 0, 9, 2, 0, 13]))
}

/// The manifest of the store over whose files others are put.
pub fn of_sound_store() -> Manifest {
    let n1 = NodeId::new("n1").expect("a node id");
    let clean = Some(specimen_store().clean);
    Manifest { segments: vec![1], next_segment: 2, clean, ..Manifest::new(n1) }
}

/// One with something in every field.
pub fn specimen() -> Manifest {
    let [n1, n2] = ["n1", "n2"].map(|name| NodeId::new(name).expect("a node id"));
    Manifest {
        nodes: vec![n1.clone(), n2],
        own: Some(ReplicaId::from_random(1 << 70)),
        read_form: ReadForm::Messages,
        snapshot: Some(Lsn(300)),
        segments: vec![1, 70_000],
        next_segment: 70_001,
        clean: Some(CleanEnd { counter: 70_000, length: 1000, checksum: 7, index: true }),
        ..Manifest::new(n1)
    }
}

fn damage(edits: &[u8]) {
    let sound = specimen().encode();
    let bytes = damaged(&sound, edits);
    let outcome = Manifest::decode(&bytes, Path::new("manifest"));
    if bytes != sound {
        assert!(outcome.is_err(), "damage that nobody saw");
    }
}
