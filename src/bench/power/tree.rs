//! A directory with everything in it, as plain data: what is copied, set back and laid out for people.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::content::Content;
use super::disk::{Access, Disk, Ino, Kind, Names, ROOT};

/// Permissions, without what kind of file it is.
const PERMISSIONS: u32 = 0o7777;

/// A file or a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree {
    /// A file.
    File {
        /// Permissions.
        mode: u32,
        /// What is in it.
        bytes: Vec<u8>,
    },
    /// A directory.
    Dir {
        /// Permissions.
        mode: u32,
        /// What is in it.
        entries: BTreeMap<OsString, Tree>,
    },
}

impl Tree {
    /// An empty directory for its owner alone.
    #[must_use]
    pub fn empty() -> Self {
        Tree::Dir { mode: 0o700, entries: BTreeMap::new() }
    }

    /// Reads it from a real file system. What is neither file nor directory is left out.
    ///
    /// # Errors
    /// As the system has it.
    pub fn read(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        let mode = found.mode() & PERMISSIONS;
        if !found.is_dir() {
            return Ok(Tree::File { mode, bytes: fs::read(path)? });
        }
        let mut entries = BTreeMap::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() || kind.is_file() {
                entries.insert(entry.file_name(), Tree::read(&entry.path())?);
            }
        }
        Ok(Tree::Dir { mode, entries })
    }

    /// Writes it to a real file system, where there must be nothing of that name, or an empty directory.
    ///
    /// # Errors
    /// As the system has it.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        match self {
            Tree::File { mode, bytes } => {
                let mut file = OpenOptions::new().write(true).create_new(true).mode(*mode).open(path)?;
                file.write_all(bytes)
            }
            Tree::Dir { mode, entries } => {
                DirBuilder::new().recursive(true).mode(0o700).create(path)?;
                entries.iter().try_for_each(|(name, tree)| tree.write(&path.join(name)))?;
                fs::set_permissions(path, fs::Permissions::from_mode(*mode))
            }
        }
    }
}

impl Disk {
    /// What lies under a name below the root, as everybody sees it; `None`: nothing.
    #[must_use]
    pub fn tree(&self, name: &OsStr) -> Option<Tree> {
        self.lookup(ROOT, name).ok().and_then(|ino| self.tree_of(ino))
    }

    fn tree_of(&self, ino: Ino) -> Option<Tree> {
        let inode = self.inodes.get(&ino)?;
        let mode = inode.access.mode;
        Some(match &inode.kind {
            Kind::File { content, .. } => Tree::File { mode, bytes: content.bytes().to_vec() },
            Kind::Dir { names, .. } => {
                let entry = |(name, (ino, _)): (&OsString, &(Ino, u64))| Some((name.clone(), self.tree_of(*ino)?));
                Tree::Dir { mode, entries: names.iter().filter_map(entry).collect() }
            }
        })
    }

    /// Puts a tree, or nothing, in place of what lies under a name below the root. It is durable, and its files are new
    /// ones, as those of a copy are. Nobody may have the old ones open.
    pub fn put_tree(&mut self, name: &OsStr, tree: Option<&Tree>) {
        // Everything that is unsynced becomes durable along with it: who sets a store back syncs.
        self.settle_all();
        self.take(ROOT, name);
        if let Some(names) = self.durable_entries(ROOT) {
            names.remove(name);
        }
        if let Some(tree) = tree {
            self.insert(ROOT, name, tree);
        }
        self.drop_unreachable();
    }

    fn insert(&mut self, dir: Ino, name: &OsStr, tree: &Tree) {
        let access = |mode: u32| Access { mode, ..self.inodes[&ROOT].access };
        let (kind, access) = match tree {
            Tree::File { mode, bytes } => {
                (Kind::File { content: Content::durable(bytes.clone()), allocated: 0 }, access(*mode))
            }
            Tree::Dir { mode, .. } => {
                (Kind::Dir { parent: dir, names: BTreeMap::new(), durable: Names::new() }, access(*mode))
            }
        };
        let ino = self.new_inode(kind, access);
        self.inodes.entry(ino).and_modify(|inode| inode.links = 0);
        let cookie = self.moment;
        self.moment += 1;
        self.give(dir, name, ino, cookie);
        if let Some(names) = self.durable_entries(dir) {
            names.insert(name.to_owned(), ino);
        }
        if let Tree::Dir { entries, .. } = tree {
            entries.iter().for_each(|(name, tree)| self.insert(ino, name, tree));
        }
    }
}
