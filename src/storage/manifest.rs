//! The manifest: which files belong to the store.
//!
//! One small file, `manifest`, replaced as a whole: written aside, synced, renamed, its directory synced. It is durable
//! before the first acknowledgement from a new segment, and before any file that it used to name is deleted.

use std::path::{Path, PathBuf};

use bincode::{Decode, Encode};

use super::disk::{self, Disk};
use super::envelope::{self, FORMAT_VERSION};
use super::error::StoreError;
use super::{Lsn, codec};
use crate::crdt::{NodeId, ReplicaId};

const MAGIC: [u8; 8] = *b"ORSETMAN";
const FILE_NAME: &str = "manifest";

/// Which reply `read` gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub enum ReadForm {
    /// `value`: g-set's.
    #[default]
    Value,
    /// `messages`: broadcast's.
    Messages,
}

/// Where the log ended when the store was last closed in good order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct CleanEnd {
    /// The last segment.
    pub counter: u64,
    /// Its length.
    pub length: u64,
    /// The checksum of its last frame, a Clean.
    pub checksum: u32,
    /// Whether the index that the Clean speaks of was made durable and has not been replaced since.
    pub index: bool,
}

/// What a store consists of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// The node whose store this is.
    pub node: NodeId,
    /// All nodes of the cluster, as `init` named them; empty if it never did.
    pub nodes: Vec<NodeId>,
    /// The store's own last replica id, as of when the manifest was written.
    pub own: Option<ReplicaId>,
    /// Which reply `read` gets.
    pub read_form: ReadForm,
    /// The newest snapshot.
    pub snapshot: Option<Lsn>,
    /// The log's segments, oldest first.
    pub segments: Vec<u64>,
    /// The number of the next segment.
    pub next_segment: u64,
    /// Set by a clean stop, cleared before the next write.
    pub clean: Option<CleanEnd>,
}

#[derive(Encode, Decode)]
struct Form {
    node: String,
    nodes: Vec<String>,
    own: Option<u128>,
    read_form: ReadForm,
    snapshot: Option<u64>,
    segments: Vec<u64>,
    next_segment: u64,
    clean: Option<CleanEnd>,
}

impl Manifest {
    /// The manifest of an empty store.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            nodes: Vec::new(),
            own: None,
            read_form: ReadForm::default(),
            snapshot: None,
            segments: Vec::new(),
            next_segment: 1,
            clean: None,
        }
    }

    /// The manifest's file in the store `dir`.
    pub fn path(dir: &Path) -> PathBuf {
        dir.join(FILE_NAME)
    }

    /// The manifest's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let form = Form {
            node: self.node.as_str().to_owned(),
            nodes: self.nodes.iter().map(|node| node.as_str().to_owned()).collect(),
            own: self.own.map(ReplicaId::to_u128),
            read_form: self.read_form,
            snapshot: self.snapshot.map(|lsn| lsn.0),
            segments: self.segments.clone(),
            next_segment: self.next_segment,
            clean: self.clean,
        };
        let body = bincode::encode_to_vec(form, codec::config()).expect("a Vec takes everything");
        let mut bytes = Vec::new();
        envelope::wrap(&mut bytes, MAGIC, FORMAT_VERSION, &body);
        bytes
    }

    /// Reads what [`Manifest::encode`] wrote.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] or [`StoreError::Newer`].
    pub fn decode(bytes: &[u8], path: &Path) -> Result<Self, StoreError> {
        let damaged = |what| StoreError::damaged(path, 0, what);
        let unwrapped = envelope::unwrap(bytes, MAGIC, path, 0)?;
        if bytes.len() != envelope::ENVELOPE_BYTES + unwrapped.body.len() {
            return Err(damaged("bytes after the end of the manifest"));
        }
        let (form, length): (Form, usize) = bincode::decode_from_slice(unwrapped.body, codec::config())
            .map_err(|_| damaged("the manifest cannot be decoded"))?;
        let node = |text: &String| NodeId::new(text).ok_or_else(|| damaged("an impossible node id"));
        let ascending = form.segments.is_sorted_by(|a, b| a < b);
        if length != unwrapped.body.len() || !ascending || form.segments.last() >= Some(&form.next_segment) {
            return Err(damaged("the manifest contradicts itself"));
        }
        Ok(Self {
            node: node(&form.node)?,
            nodes: form.nodes.iter().map(node).collect::<Result<_, _>>()?,
            own: form
                .own
                .map(|id| ReplicaId::from_u128(id).ok_or_else(|| damaged("an impossible replica id")))
                .transpose()?,
            read_form: form.read_form,
            snapshot: form.snapshot.map(Lsn),
            segments: form.segments,
            next_segment: form.next_segment,
            clean: form.clean,
        })
    }

    /// Reads the manifest of the store `dir`; `None` if it has none.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or of a later version.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = Self::path(dir);
        match disk::read(disk, &path) {
            Ok(bytes) => Self::decode(&bytes, &path).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    /// The format of the store whose manifest these bytes of `path` are; formats up to `known` are known.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] or [`StoreError::Newer`].
    pub fn format_version(bytes: &[u8], path: &Path, known: u32) -> Result<u32, StoreError> {
        Ok(envelope::unwrap_up_to(bytes, MAGIC, path, 0, known)?.version)
    }

    /// Makes this the manifest of the store `dir`, durably.
    ///
    /// # Errors
    /// If the file system says no. Which of the two manifests is there afterwards is then not known.
    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
        let path = Self::path(dir);
        disk::replace(disk, &path, &self.encode()).map_err(StoreError::io("write", &path))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_comes_back_and_no_flip_or_cut_goes_unseen() {
        let node = NodeId::new("n1").unwrap();
        let mut manifest = Manifest::new(node.clone());
        manifest.nodes = vec![node, NodeId::new("n2").unwrap()];
        (manifest.segments, manifest.next_segment) = (vec![3, 4], 5);
        manifest.clean = Some(CleanEnd { counter: 4, length: 100, checksum: 7, index: true });
        let (bytes, path) = (manifest.encode(), Path::new("manifest"));
        assert_eq!(Manifest::decode(&bytes, path).unwrap(), manifest);
        for cut in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..cut], path).is_err(), "cut at {cut}");
        }
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&flipped, path).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_sound_manifest_of_a_later_version_is_told_from_a_damaged_one() {
        let mut bytes = Vec::new();
        envelope::wrap(&mut bytes, MAGIC, FORMAT_VERSION + 1, b"who knows");
        let path = Path::new("manifest");
        let newer = |found| found == FORMAT_VERSION + 1;
        assert!(matches!(Manifest::decode(&bytes, path), Err(StoreError::Newer { found, .. }) if newer(found)));
    }

    #[test]
    fn a_manifest_whose_segments_do_not_ascend_is_refused() {
        let path = Path::new("manifest");
        let mut manifest = Manifest::new(NodeId::new("n1").unwrap());
        for (segments, next, good) in
            [(vec![3, 4], 9, true), (vec![4, 4], 9, false), (vec![5, 4], 9, false), (vec![3, 4], 4, false)]
        {
            (manifest.segments, manifest.next_segment) = (segments.clone(), next);
            assert_eq!(Manifest::decode(&manifest.encode(), path).is_ok(), good, "{segments:?} {next}");
        }
    }

    #[test]
    fn a_manifest_that_cannot_be_read_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk::RealDisk;
        assert!(Manifest::read(&disk, dir.path()).unwrap().is_none());
        std::fs::create_dir(Manifest::path(dir.path())).unwrap();
        assert!(matches!(Manifest::read(&disk, dir.path()), Err(StoreError::Io { .. })));
    }
}
