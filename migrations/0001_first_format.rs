//! Step 1: an empty directory becomes a store of the first format.
//!
//! A new store is three directories and a manifest that names nothing yet. The log's first segment is made by the first
//! write, a snapshot by the first compaction, the index by whoever opens the store. All of the format is described in
//! `docs/format.md`; a frozen store of it lies in `tests/fixtures/format-1/`.
//!
//! ```text
//! <store>/manifest      envelope "ORSETMAN", version 1 { node, no nodes, no own id, Value, no snapshot, no segments, 1, not clean }
//! <store>/log/          empty
//! <store>/snapshots/    empty
//! ```

use bincode::Encode;

use super::Context;
use crate::storage::error::StoreError;
use crate::storage::{disk, envelope};

const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest";
const MANIFEST_MAGIC: [u8; 8] = *b"ORSETMAN";

/// The manifest of a new store. The types of what is absent do not show in its bytes.
#[derive(Encode)]
struct FirstManifest<'a> {
    node: &'a str,
    nodes_count: u8,
    own: Option<u128>,
    read_form: u8,
    snapshot: Option<u64>,
    segments_count: u8,
    next_segment: u64,
    clean: Option<u8>,
}

/// Makes the directories, then the manifest.
///
/// # Errors
/// If there are remains of a store without its manifest, or the file system says no.
pub fn run(context: &Context) -> Result<(), StoreError> {
    let Context { disk, dir, node } = *context;
    let node = node.expect("a store is made for a node");
    let manifest = dir.join(MANIFEST);
    let below = [dir.join("log"), dir.join("snapshots")];
    // A first start that died before its manifest was durable leaves empty directories. Anything else was a store.
    for below in &below {
        let names = disk.list(below).map_err(StoreError::io("list", below))?;
        if let Some(name) = names.first() {
            let what = format!("it is missing, although there is {}", below.join(name).display());
            return Err(StoreError::damaged(&manifest, 0, what));
        }
    }
    for made in [dir, &below[0], &below[1]] {
        disk.create_dir(made).map_err(StoreError::io("create", made))?;
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        disk.sync_dir(parent).map_err(StoreError::io("sync", parent))?;
    }
    disk::replace(disk, &manifest, &manifest_bytes(node.as_str())).map_err(StoreError::io("write", &manifest))?;
    Ok(())
}

fn manifest_bytes(node: &str) -> Vec<u8> {
    let form = FirstManifest {
        node,
        nodes_count: 0,
        own: None,
        read_form: 0,
        snapshot: None,
        segments_count: 0,
        next_segment: 1,
        clean: None,
    };
    let body = bincode::encode_to_vec(form, bincode::config::standard()).expect("a Vec takes everything");
    let mut bytes = Vec::new();
    envelope::wrap(&mut bytes, MANIFEST_MAGIC, FORMAT, &body);
    bytes
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::crdt::NodeId;
    use crate::storage::disk::{Disk, MemDisk};
    use crate::storage::manifest::Manifest;

    #[test]
    fn a_new_store_is_what_the_first_version_read_and_wrote() {
        let (disk, dir, node) = (MemDisk::default(), Path::new("/data/n1"), NodeId::new("n1").unwrap());
        let context = Context { disk: &disk, dir, node: Some(&node) };
        for round in ["first", "again, as after a kill"] {
            run(&context).unwrap();
            let bytes = disk.files().remove(&dir.join("manifest")).unwrap();
            assert_eq!(Manifest::read(&disk, dir).unwrap(), Some(Manifest::new(node.clone())), "{round}");
            assert_eq!(bytes[envelope::ENVELOPE_BYTES..], *b"\x02n1\0\0\0\0\0\x01\0", "{round}");
        }
    }

    #[test]
    fn remains_of_a_store_are_not_taken_for_an_empty_directory() {
        let (disk, dir, node) = (MemDisk::default(), Path::new("/data/n1"), NodeId::new("n1").unwrap());
        disk.create_dir(&dir.join("log")).unwrap();
        disk.create(&dir.join("log/0000000001.log")).unwrap();
        let outcome = run(&Context { disk: &disk, dir, node: Some(&node) });
        assert!(matches!(outcome, Err(StoreError::Damaged { .. })));
        assert_eq!(Manifest::read(&disk, dir).unwrap(), None);
    }
}
