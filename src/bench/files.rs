//! The files of a run. What is written while it runs goes through a thread, so that a slow disk does not delay messages.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::checker::Results;
use super::history::Workload;

/// The directory of one run.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Makes `STORE/<workload>/<time>`, and `STORE/latest` that leads there.
    ///
    /// # Errors
    /// As the system has it.
    pub fn create(store: &Path, workload: Workload, time: &str) -> io::Result<Self> {
        let parent = store.join(workload.name());
        std::fs::create_dir_all(&parent)?;
        let stamp = time.replace(':', "");
        let free = (0..).find_map(|number| {
            let name = if number == 0 { stamp.clone() } else { format!("{stamp}-{number}") };
            match std::fs::create_dir(parent.join(&name)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
                outcome => Some(outcome.map(|()| name)),
            }
        });
        let name = free.expect("numbers do not end")?;
        let path = std::path::absolute(parent.join(&name))?;
        std::fs::create_dir(path.join("node-logs"))?;
        std::fs::create_dir(path.join("data"))?;
        // Replaced in one step, so that two runs at once never leave it missing.
        let fresh = store.join(format!(".latest-{}", std::process::id()));
        let _ = std::fs::remove_file(&fresh);
        std::os::unix::fs::symlink(Path::new(workload.name()).join(&name), &fresh)?;
        std::fs::rename(&fresh, store.join("latest"))?;
        Ok(RunDir { path })
    }

    /// Absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the nodes keep their stores.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// The store of one node.
    #[must_use]
    pub fn node_data(&self, node: &str) -> PathBuf {
        self.data().join(node)
    }

    /// Where the disks of the nodes are mounted while a run with power cuts goes on.
    #[must_use]
    pub fn machines(&self) -> PathBuf {
        self.path.join("machines")
    }

    /// The disk of one node.
    #[must_use]
    pub fn machine(&self, node: &str) -> PathBuf {
        self.machines().join(node)
    }

    /// The copy of a node's store.
    #[must_use]
    pub fn copy(&self, node: &str) -> PathBuf {
        self.path.join("copies").join(node)
    }

    /// What a node writes on stderr, over all its processes.
    ///
    /// # Errors
    /// As the system has it.
    pub fn node_log(&self, node: &str) -> io::Result<File> {
        File::options().create(true).append(true).open(self.path.join("node-logs").join(format!("{node}.log")))
    }
}

/// Writes `results.json`.
///
/// # Errors
/// As the system has it.
pub fn write_results(dir: &Path, results: &Results) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(results)?;
    text.push('\n');
    std::fs::write(dir.join("results.json"), text)
}

/// Removes a directory with everything in it, if it is there.
///
/// # Errors
/// As the system has it.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes `to` the same tree of files as `from`, which may be missing.
///
/// # Errors
/// As the system has it.
pub fn replace_tree(from: &Path, to: &Path) -> io::Result<()> {
    remove_tree(to)?;
    if from.exists() { copy_tree(from, to) } else { Ok(()) }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Lines for a file, written by a thread.
pub struct LineFile {
    lines: Option<Sender<Vec<u8>>>,
    writer: Option<JoinHandle<io::Result<()>>>,
}

impl LineFile {
    /// An empty file.
    ///
    /// # Errors
    /// As the system has it.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        let (sender, lines) = channel();
        let writer = std::thread::Builder::new().name("bench-file".to_owned()).spawn(move || write(file, &lines))?;
        Ok(LineFile { lines: Some(sender), writer: Some(writer) })
    }

    /// Appends a line; its end is added. A failed write shows at [`close`](Self::close).
    pub fn put(&self, mut line: Vec<u8>) {
        line.push(b'\n');
        if let Some(lines) = &self.lines {
            // It fails only after a failed write.
            let _ = lines.send(line);
        }
    }

    /// Whether a write has failed: nothing more will be written.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.lines.is_some() && self.writer.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// If anything could not be written.
    pub fn close(&mut self) -> io::Result<()> {
        self.lines = None;
        match self.writer.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(outcome) => outcome.unwrap_or_else(|_| Err(io::Error::other("the writing thread panicked"))),
        }
    }
}

impl Drop for LineFile {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

fn write(file: File, lines: &Receiver<Vec<u8>>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, file);
    while let Ok(line) = lines.recv() {
        out.write_all(&line)?;
        for line in lines.try_iter() {
            out.write_all(&line)?;
        }
        // What is there is visible to who looks, and survives our own death.
        out.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_shows_before_the_end() {
        let mut file = LineFile::create(Path::new("/dev/full")).expect("it can be opened");
        assert!(!file.has_failed());
        file.put(b"a line".to_vec());
        while !file.has_failed() {
            std::thread::yield_now();
        }
        assert_eq!(file.close().expect_err("it is full").kind(), io::ErrorKind::StorageFull);
    }
}
