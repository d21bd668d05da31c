//! `orset salvage`. What can be proved of a broken store: [`crate::repair::salvage`].

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::dump::Format;
use super::dump::rows::{EntryRow, TagRow, raw};
use super::one_store_at;
use crate::crdt::{Incarnations, NodeId};
use crate::dump::pinned::PinnedDisk;
use crate::repair::new_store::NewStore;
use crate::repair::salvage::{Plan, Salvaged, Unapplied, salvage};
use crate::repair::{RepairError, read_as_a_start};
use crate::storage::disk::RealDisk;
use crate::storage::{StoreError, StoreLock};

/// The file in the new store with what could be read and not be proved.
const UNAPPLIED: &str = "unapplied.ndjson";

/// Said below the options.
pub const AFTER_HELP: &str = "BROKEN is only read. NEW gets what can be proved: the newest sound snapshot, and every \
operation that follows from what is held, also behind a gap. Put it in place of the broken store (DATA-DIR/NODE-ID) and start: \
what it lacks comes back from the peers, and nothing that was removed returns. Keep BROKEN until then.

What could be read but does not follow from what is held is in NEW/unapplied.ndjson: one JSON object a line, operations as \
`orset dump --section log` shows them, and records of snapshots (without their tags if the snapshot's footer is lost). It is for people: put into the set it would tell the peers that \
what is missing before it had been removed. What no peer has can be added again by hand.

Exit codes:
  0  fine; what could not be read is listed
  1  failed: something cannot be read or written; nothing is left of NEW then.
     If it is there all the same it is complete: only the output could not be written, or NEW's name not be synced
  2  wrong usage; also: BROKEN is no store or nothing is wrong with it, or NEW exists or would lie inside BROKEN
  3  the store is in use by another process
  4  the store, or a file of it, was written by a newer orset";

/// Options of the salvage.
#[derive(Args, Debug)]
pub struct SalvageArgs {
    /// The store that refuses to start
    #[arg(value_name = "BROKEN")]
    broken: PathBuf,
    /// The new store: a directory that does not exist yet
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Whose store it is [default: as the manifest says, else the log, else the directory's name]
    #[arg(long, value_name = "ID", value_parser = super::serve::node_id)]
    node_id: Option<NodeId>,
    /// How to show what was done [default: table on a terminal, else ndjson]
    #[arg(long, value_enum)]
    format: Option<Format>,
}

/// Salvages the store.
pub fn run(args: &SalvageArgs) -> anyhow::Result<()> {
    let broken = one_store_at(&args.broken)?;
    let _lock = StoreLock::acquire_existing(&broken)?;
    let pinned = PinnedDisk::of_store(&broken)?;
    match read_as_a_start(&pinned, &broken, None) {
        Ok(_) => return Err(RepairError::Sound(broken).into()),
        Err(newer @ StoreError::Newer { .. }) => return Err(newer.into()),
        Err(_) => {}
    }
    let made = NewStore::begin(&args.new, &broken)?;
    let mut unapplied = UnappliedFile::create(made.dir())?;
    let plan = Plan {
        from: &pinned,
        broken: &broken,
        to: &RealDisk,
        new: made.dir(),
        node: args.node_id.clone(),
        entropy: &mut || Uuid::new_v4().as_u128(),
    };
    let salvaged = salvage(plan, &mut |what, names| unapplied.write(what, names))?;
    unapplied.finish()?;
    made.finish()?;
    show(args, &broken, &salvaged)
}

struct UnappliedFile {
    path: PathBuf,
    out: BufWriter<File>,
}

/// Something readable that is not in the new store.
#[derive(Serialize)]
#[serde(untagged)]
enum UnappliedRow {
    Entry(EntryRow),
    Record {
        snapshot: String,
        offset: u64,
        op: &'static str,
        #[serde(flatten)]
        tag: TagRow,
        element: Box<RawValue>,
    },
    Orphan {
        snapshot: String,
        offset: u64,
        op: &'static str,
        /// The replica id is not known.
        tag: Option<String>,
        seq: u64,
        element: Box<RawValue>,
    },
}

impl UnappliedFile {
    fn create(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(UNAPPLIED);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(StoreError::io("create", &path))?;
        Ok(Self { path, out: BufWriter::new(file) })
    }

    fn write(&mut self, what: Unapplied, names: &Incarnations) -> Result<(), StoreError> {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let row = match what {
            Unapplied::Entry { path, offset, lsn, entry } => {
                UnappliedRow::Entry(EntryRow::of(names, name(path), offset, lsn, entry))
            }
            Unapplied::Record { path, offset, record } => UnappliedRow::Record {
                snapshot: name(path),
                offset,
                op: "record",
                tag: TagRow::new(names, record.tag()),
                element: raw(&String::from_utf8_lossy(record.element_bytes())),
            },
            Unapplied::Orphan { path, offset, element, seq } => UnappliedRow::Orphan {
                snapshot: name(path),
                offset,
                op: "record",
                tag: None,
                seq: seq.0,
                element: raw(element.as_str()),
            },
        };
        let line = serde_json::to_vec(&row).map_err(io::Error::from);
        let written = line.and_then(|line| self.out.write_all(&line).and_then(|()| self.out.write_all(b"\n")));
        written.map_err(StoreError::io("write", &self.path))
    }

    fn finish(mut self) -> Result<(), StoreError> {
        let synced = self.out.flush().and_then(|()| self.out.get_ref().sync_all());
        synced.map_err(StoreError::io("write", &self.path))
    }
}

/// What was done, as it is shown.
#[derive(Serialize)]
struct SalvagedRow {
    broken: String,
    new: String,
    node: String,
    from_snapshot_lsn: u64,
    elements: u64,
    tags: u64,
    operations_proved: u64,
    unapplied: u64,
    missing_lsns: Vec<(u64, u64)>,
    unreadable: Vec<UnreadableRow>,
}

#[derive(Serialize)]
struct UnreadableRow {
    file: String,
    offset: u64,
    bytes: Option<u64>,
    what: String,
}

fn show(args: &SalvageArgs, broken: &Path, salvaged: &Salvaged) -> anyhow::Result<()> {
    let unreadable = salvaged.unreadable.iter().map(|unreadable| UnreadableRow {
        file: unreadable.path.strip_prefix(broken).unwrap_or(&unreadable.path).to_string_lossy().into_owned(),
        offset: unreadable.offset,
        bytes: unreadable.bytes,
        what: unreadable.what.clone(),
    });
    let row = SalvagedRow {
        broken: broken.to_string_lossy().into_owned(),
        new: args.new.to_string_lossy().into_owned(),
        node: salvaged.node.to_string(),
        from_snapshot_lsn: salvaged.from_snapshot.0,
        elements: salvaged.counts.elements,
        tags: salvaged.counts.tags,
        operations_proved: salvaged.operations,
        unapplied: salvaged.unapplied,
        missing_lsns: salvaged.missing.iter().map(|(first, last)| (first.0, last.0)).collect(),
        unreadable: unreadable.collect(),
    };
    match Format::chosen(args.format) {
        Format::Table => super::say(table(&row).trim_end()),
        Format::Json | Format::Ndjson => super::say(&serde_json::to_string(&row)?),
    }
}

fn table(row: &SalvagedRow) -> String {
    let SalvagedRow { broken, new, node, elements, tags, operations_proved, unapplied, .. } = row;
    let mut text = format!("salvaged {broken} into {new}\n  node          {node}\n");
    let from = match row.from_snapshot_lsn {
        0 => "nothing: no snapshot is sound, or there was none".to_owned(),
        lsn => format!("the snapshot at LSN {lsn}"),
    };
    text += &format!("  starts from   {from}\n  proved        {operations_proved} operations: ");
    text += &format!("{elements} elements, {tags} tags\n  unapplied     {unapplied}, in {UNAPPLIED}\n");
    for (first, last) in &row.missing_lsns {
        text += &format!("  missing       LSN {first} to {last}\n");
    }
    for UnreadableRow { file, offset, bytes, what } in &row.unreadable {
        let bytes = bytes.map_or(String::new(), |bytes| format!(", {bytes} bytes"));
        text += &format!("  unreadable    {file} at byte {offset}{bytes}: {what}\n");
    }
    text
}
