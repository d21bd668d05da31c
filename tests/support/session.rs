//! Golden sessions with one node's stores: what the commands that look at a store say.
//!
//! ```text
//! start ARG…            the node n1, in DIR/n1
//! add JSON… remove JSON…
//! stop, kill            the end of its input; SIGKILL
//! copy FROM TO, delete NAME
//! flip FILE OFFSET      the byte's bits
//! tear BYTES            what a crash in the middle of a write leaves at the end of n1's log
//! dump ARG…, verify ARG…, salvage ARG…, backup ARG…, migrate ARG…
//! cat FILE, ls NAME
//! ```
//!
//! Paths are below the data directory. UUIDs are shown as t1, t2 …, replica ids as r1, r2 …, the data directory as DIR, and
//! checksums as CRC.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

use goldenscript::Runner;
use orset::storage::log::segment;

use super::node::Node;
use super::{binary, copy_dir, segments, temp_dir, text};

/// One node's data directory over any number of starts.
pub struct Session {
    dir: tempfile::TempDir,
    node: Option<Node>,
    names: BTreeMap<String, String>,
}

impl Session {
    /// An empty data directory.
    pub fn new() -> Self {
        Self { dir: temp_dir(), node: None, names: BTreeMap::new() }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("n1")
    }

    /// A short name for a UUID or replica id, the same each time.
    fn name_of(&mut self, word: &str, letter: char) -> String {
        let next = format!("{letter}{}", self.names.values().filter(|name| name.starts_with(letter)).count() + 1);
        self.names.entry(word.to_owned()).or_insert(next).clone()
    }

    /// Words that differ from run to run get names.
    fn normalised(&mut self, text: &str) -> String {
        let text = text.replace(self.dir.path().to_str().expect("a UTF-8 path"), "DIR");
        let (mut out, mut word) = (String::new(), String::new());
        for c in text.chars().chain(['\0']) {
            if c.is_ascii_hexdigit() || c == '-' {
                word.push(c);
                continue;
            }
            let known = match word.len() {
                36 if uuid::Uuid::try_parse(&word).is_ok() => self.name_of(&word, 't'),
                19 if !word.contains('-') => self.name_of(&word, 'r'),
                _ if out.ends_with("\"checksum\":") => "CRC".to_owned(),
                _ => std::mem::take(&mut word),
            };
            out.push_str(&known);
            word.clear();
            out.push(c);
        }
        out.trim_end_matches('\0').to_owned()
    }
}

impl Runner for Session {
    fn run(&mut self, command: &goldenscript::Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let words: Vec<String> = args.rest_pos().iter().map(|arg| arg.value.clone()).collect();
        args.reject_rest()?;
        let node = || -> Box<dyn Error> { "nothing runs: start".into() };
        match command.name.as_str() {
            // start ARG…: the node n1.
            "start" => {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                self.node = Some(Node::start(self.dir.path(), "n1", &words));
            }
            // add JSON…, remove JSON…
            "add" | "remove" => {
                let running = self.node.as_mut().ok_or_else(node)?;
                for element in &words {
                    match command.name.as_str() {
                        "add" => _ = running.add(element),
                        _ => _ = running.remove(element),
                    }
                }
            }
            // stop: ends its input. kill: SIGKILL.
            "stop" => self.node.take().ok_or_else(node)?.stop(),
            "kill" => _ = self.node.take().ok_or_else(node)?.process.kill(),
            "copy" => copy_dir(&self.dir.path().join(&words[0]), &self.dir.path().join(&words[1])),
            "flip" => {
                let path = self.dir.path().join(&words[0]);
                let mut bytes = std::fs::read(&path)?;
                bytes[words[1].parse::<usize>()?] ^= 0xff;
                std::fs::write(&path, bytes)?;
            }
            "cat" => {
                let said = std::fs::read_to_string(self.dir.path().join(&words[0]))?;
                return Ok(self.normalised(&said));
            }
            "ls" => {
                let names = std::fs::read_dir(self.dir.path().join(&words[0]))?;
                let mut names: Vec<String> = names
                    .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned() + "\n"))
                    .collect::<Result<_, std::io::Error>>()?;
                names.sort();
                return Ok(names.concat());
            }
            // A file or directory of the store.
            "delete" => {
                let path = self.store().join(&words[0]);
                if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
            }
            // tear BYTES: as a crash in the middle of a write leaves it.
            "tear" => {
                let last = segments(&self.store()).pop().ok_or("no segments")?;
                let path = self.store().join("log").join(segment::file_name(last));
                let mut bytes = std::fs::read(&path)?;
                bytes.extend(b"ORFR".iter().copied().cycle().take(words[0].parse()?));
                std::fs::write(&path, bytes)?;
            }
            "dump" | "verify" | "salvage" | "backup" | "migrate" => {
                let mut orset = Command::new(binary());
                let output = orset.arg(&command.name).args(&words).current_dir(self.dir.path()).output()?;
                let said = text(&output.stdout) + &text(&output.stderr);
                let said = self.normalised(&said);
                return Ok(match output.status.code() {
                    Some(0) => said,
                    code => format!("{said}exit {}\n", code.ok_or("killed")?),
                });
            }
            name => return Err(format!("no command {name}").into()),
        }
        Ok(String::new())
    }
}
