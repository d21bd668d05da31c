//! Golden scripts for the store: what a session leaves on a (simulated) disk, and what the next start makes of it.
//!
//! Commands: `open`, `add ELEMENT…`, `remove ELEMENT`, `commit`, `compact`, `close`, `elements`, `files`, and what
//! befalls the process: `kill`, `power-cut`, `tear BYTES` (of the last segment), `flip FILE BYTE`. All is
//! deterministic, replica ids too. `UPDATE_GOLDENFILES=1` writes what was said; read the diff.

mod support;

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use orset::crdt::{Element, OpBody};
use orset::storage::disk::MemDisk;
use orset::storage::{NoIndex, Store, StoreLimits};
use support::on_disk::options;

#[derive(Default)]
struct Session {
    disk: MemDisk,
    store: Option<Store>,
    starts: u128,
}

impl Session {
    fn open(&mut self) -> String {
        self.starts += 1;
        let limits = StoreLimits { segment_bytes: 300, min_retention_bytes: 100, ..StoreLimits::default() };
        match Store::open(options(&self.disk, self.starts << 8, limits), &mut NoIndex) {
            Err(error) => format!("{error}\n").replace(". Nothing", "\nNothing"),
            Ok((store, found)) => {
                self.store = Some(store);
                let stop = if found.clean { "clean" } else { "not clean" };
                format!(
                    "{} elements, {} tags, LSN {}, snapshot at {}, stop {stop}, torn tail of {} bytes\n",
                    found.counts.elements, found.counts.tags, found.lsn, found.snapshot_lsn, found.torn_tail_bytes
                )
            }
        }
    }

    fn store(&mut self) -> &mut Store {
        self.store.as_mut().expect("the script opens it first")
    }

    fn element(name: &str) -> Element {
        Element::from_canonical(format!("\"{name}\"").as_bytes())
    }

    fn last_segment(&self) -> PathBuf {
        self.disk.files().into_keys().rfind(|path| path.extension() == Some("log".as_ref())).expect("a segment")
    }

    fn files(&self) -> String {
        self.disk.files().iter().fold(String::new(), |mut text, (path, bytes)| {
            writeln!(text, "{} {}", path.display(), bytes.len()).expect("a String takes everything");
            text
        })
    }
}

impl goldenscript::Runner for Session {
    fn run(&mut self, command: &goldenscript::Command) -> Result<String, Box<dyn Error>> {
        let args: Vec<&str> = command.args.iter().map(|arg| arg.value.as_str()).collect();
        match (command.name.as_str(), args.as_slice()) {
            ("open", []) => return Ok(self.open()),
            ("add", names) => {
                for name in names {
                    self.store().append_local(OpBody::Add(Self::element(name)));
                }
            }
            ("remove", [name]) => {
                let element = Self::element(name);
                let tags = self.store().tags(&element)?;
                let count = tags.len();
                self.store().append_local(OpBody::Remove { element, tags });
                return Ok(format!("{count} tags\n"));
            }
            ("commit", []) => {
                self.store().commit()?;
            }
            ("compact", []) => {
                self.store().want_snapshot();
                let snapshot = self.store().plan_compaction()?.ok_or("nothing to do")?.run()?;
                let text = format!("snapshot at {} with {} tags\n", snapshot.header().lsn, snapshot.counts().tags);
                self.store().install(snapshot)?;
                return Ok(text);
            }
            ("close", []) => self.store.take().ok_or("not open")?.close(None)?,
            ("elements", []) => {
                let records = self.store().records(&[]).collect::<Result<Vec<_>, _>>()?;
                return Ok(records.iter().map(|r| format!("{} {}\n", r.element().as_str(), r.tag())).collect());
            }
            ("files", []) => return Ok(self.files()),
            ("kill", []) => (self.store, self.disk) = (None, self.disk.after_kill()),
            ("power-cut", []) => (self.store, self.disk) = (None, self.disk.after_power_cut(0)),
            ("tear", [bytes]) => {
                let (path, bytes) = (self.last_segment(), bytes.parse::<usize>()?);
                self.disk.tamper(&path, |content| content.truncate(content.len() - bytes));
            }
            ("flip", [path, byte]) => {
                let byte = byte.parse::<usize>()?;
                self.disk.tamper(Path::new(path), |content| content[byte] ^= 1);
            }
            (name, args) => return Err(format!("no command {name} {args:?}").into()),
        }
        Ok(String::new())
    }
}

#[test]
fn sessions() -> std::io::Result<()> {
    for name in ["a_day_of_a_store", "crashes", "damage"] {
        goldenscript::run(&mut Session::default(), format!("tests/golden/storage/{name}"))?;
    }
    Ok(())
}
