//! Step 2: a store of format 1 may from now on hold answers to requests with a name.
//!
//! Format 2 only adds: an entry of the log (`Answered`), and blocks of a snapshot with a list of them at the end of its
//! footer. Each segment and each snapshot says itself of which format it is, so those of format 1 stay as they are and
//! are read as ever; what is written from now on is of format 2. All that this step does is to say so in the manifest,
//! so that a program that does not know the new entries does not open the store.
//!
//! ```text
//! <store>/manifest      envelope "ORSETMAN", version 2, the same body
//! ```

use super::Context;
use crate::storage::error::StoreError;
use crate::storage::{disk, envelope};

const FORMAT: u32 = 2;
const MANIFEST: &str = "manifest";
const MANIFEST_MAGIC: [u8; 8] = *b"ORSETMAN";

/// Puts the manifest into an envelope of the new version.
///
/// # Errors
/// If it is damaged, or the file system says no.
pub fn run(context: &Context) -> Result<(), StoreError> {
    let Context { disk, dir, .. } = *context;
    let path = dir.join(MANIFEST);
    let old = disk::read(disk, &path).map_err(StoreError::io("read", &path))?;
    let body = envelope::unwrap_up_to(&old, MANIFEST_MAGIC, &path, 0, FORMAT)?.body;
    if old.len() != envelope::ENVELOPE_BYTES + body.len() {
        return Err(StoreError::damaged(&path, 0, "bytes after the end of the manifest"));
    }
    let mut new = Vec::with_capacity(old.len());
    envelope::wrap(&mut new, MANIFEST_MAGIC, FORMAT, body);
    disk::replace(disk, &path, &new).map_err(StoreError::io("write", &path))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::first_format;
    use super::*;
    use crate::crdt::NodeId;
    use crate::storage::disk::MemDisk;
    use crate::storage::manifest::Manifest;

    #[test]
    fn only_the_version_changes_and_a_second_run_changes_nothing() {
        let (disk, dir, node) = (MemDisk::default(), Path::new("/data/n1"), NodeId::new("n1").unwrap());
        let context = Context { disk: &disk, dir, node: Some(&node) };
        first_format::run(&context).unwrap();
        let path = Manifest::path(dir);
        let bytes = || disk.files().remove(&path).unwrap();
        let (before, manifest) = (bytes(), Manifest::read(&disk, dir).unwrap());
        for round in ["first", "again"] {
            run(&context).unwrap();
            assert_eq!(Manifest::format_version(&bytes(), &path, FORMAT).unwrap(), FORMAT, "{round}");
            assert_eq!(bytes()[envelope::ENVELOPE_BYTES..], before[envelope::ENVELOPE_BYTES..], "{round}");
            assert_eq!(Manifest::read(&disk, dir).unwrap(), manifest, "{round}");
        }
        assert_eq!(Manifest::format_version(&before, &path, FORMAT).unwrap(), 1);
    }

    #[test]
    fn a_damaged_manifest_stays_as_it_is() {
        let (disk, dir, node) = (MemDisk::default(), Path::new("/data/n1"), NodeId::new("n1").unwrap());
        let context = Context { disk: &disk, dir, node: Some(&node) };
        first_format::run(&context).unwrap();
        disk.tamper(&Manifest::path(dir), |bytes| bytes[21] ^= 1);
        let before = disk.files();
        assert!(matches!(run(&context), Err(StoreError::Damaged { .. })));
        assert_eq!(disk.files(), before);
    }
}
