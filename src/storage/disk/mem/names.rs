//! Directory entries: as they are, and as they would be after a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    File(usize),
    Dir,
}

/// See the module's text.
#[derive(Clone, Default)]
pub struct Names {
    now: BTreeMap<PathBuf, Entry>,
    durable: BTreeMap<PathBuf, Entry>,
    /// Changes that no sync has made durable yet, oldest first.
    unsynced: Vec<NameChange>,
}

/// One change of a directory.
#[derive(Clone)]
pub struct NameChange {
    time: u64,
    path: PathBuf,
    /// What the name now stands for; `None`: nothing any more.
    entry: Option<Entry>,
    /// The name that goes in the same step.
    renamed_from: Option<PathBuf>,
}

impl NameChange {
    pub fn of_file(time: u64, path: &Path, file: Option<usize>, renamed_from: Option<&Path>) -> Self {
        let (entry, renamed_from) = (file.map(Entry::File), renamed_from.map(Path::to_path_buf));
        Self { time, path: path.into(), entry, renamed_from }
    }

    pub fn of_dir(time: u64, path: &Path) -> Self {
        Self { time, path: path.into(), entry: Some(Entry::Dir), renamed_from: None }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
        if let Some(from) = &self.renamed_from {
            names.remove(from);
        }
        match self.entry {
            Some(entry) => drop(names.insert(self.path.clone(), entry)),
            None => drop(names.remove(&self.path)),
        }
    }

    fn is_dir(&self) -> bool {
        self.entry == Some(Entry::Dir)
    }
}

impl Names {
    pub fn file(&self, path: &Path) -> Option<usize> {
        match self.now.get(path) {
            Some(Entry::File(file)) => Some(*file),
            _ => None,
        }
    }

    pub fn has_dir(&self, path: &Path) -> bool {
        self.now.get(path) == Some(&Entry::Dir)
    }

    pub fn files(&self) -> impl Iterator<Item = (&PathBuf, usize)> {
        self.now.iter().filter_map(|(path, entry)| match entry {
            Entry::File(file) => Some((path, *file)),
            Entry::Dir => None,
        })
    }

    /// The names in a directory, sorted.
    pub fn below(&self, dir: &Path) -> Vec<String> {
        let within = self.now.range(dir.to_path_buf()..).map(|(path, _)| path).take_while(|path| path.starts_with(dir));
        let names = within.filter(|path| path.parent() == Some(dir)).filter_map(|path| path.file_name());
        let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into()).collect();
        names.sort();
        names
    }

    pub fn change(&mut self, change: NameChange) {
        change.apply(&mut self.now);
        self.unsynced.push(change);
    }

    pub fn sync(&mut self, dir: &Path) {
        let durable = &mut self.durable;
        self.unsynced.retain(|change| {
            let synced = change.path.parent() == Some(dir);
            if synced {
                change.apply(durable);
            }
            !synced
        });
    }

    pub fn is_durable(&self, path: &Path) -> bool {
        let lost = |change: &&NameChange| path.starts_with(&change.path);
        self.durable.get(path) == self.now.get(path) && self.unsynced.iter().filter(lost).count() == 0
    }

    pub fn unsynced_times(&self) -> impl Iterator<Item = u64> + '_ {
        self.unsynced.iter().map(|change| change.time)
    }

    /// After a power cut: of what was not synced, what `keep` says.
    pub fn lose(&mut self, keep: &mut dyn FnMut() -> bool) {
        self.lose_all_but(|_| keep());
    }

    /// After a power cut: of what was not synced, the changes before `end`.
    pub fn lose_from(&mut self, end: u64) {
        self.lose_all_but(|change| change.time < end);
    }

    fn lose_all_but(&mut self, mut kept: impl FnMut(&NameChange) -> bool) {
        let mut lost_dirs = Vec::new();
        for change in self.unsynced.drain(..) {
            if kept(&change) {
                change.apply(&mut self.durable);
            } else if change.is_dir() {
                lost_dirs.push(change.path);
            }
        }
        self.durable.retain(|path, _| !lost_dirs.iter().any(|dir| path.starts_with(dir)));
        self.now = self.durable.clone();
    }

    /// The files that have a name now.
    pub fn current_numbers(&self) -> impl Iterator<Item = usize> {
        self.files().map(|(_, file)| file).collect::<BTreeSet<_>>().into_iter()
    }

    /// The files that have a name, or may have one after a power cut.
    pub fn numbers(&self) -> BTreeSet<usize> {
        let entries = self.now.values().chain(self.durable.values()).copied();
        let entries = entries.chain(self.unsynced.iter().filter_map(|change| change.entry));
        let number = |entry| if let Entry::File(file) = entry { Some(file) } else { None };
        entries.filter_map(number).collect()
    }

    /// Gives every file the number that stands at its own in `places`.
    pub fn renumber(&mut self, places: &[usize]) {
        let unsynced = self.unsynced.iter_mut().filter_map(|change| change.entry.as_mut());
        for entry in self.now.values_mut().chain(self.durable.values_mut()).chain(unsynced) {
            if let Entry::File(file) = entry {
                *file = places[*file];
            }
        }
    }
}
