//! `orset verify`: what is wrong with a store. What that may be, and how it is put right: [`crate::repair`].

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::dump::Format;
use super::{plural, stores_at, unless_closed};
use crate::repair::mend::mend;
use crate::repair::verify::{Finding, FindingKind, IndexCheck, Report, verify};
use crate::storage::StoreError;

/// Said below the options.
pub const AFTER_HELP: &str = "Read are the manifest, every frame of the log, every block of the snapshot, all as a start \
reads them; and a copy of the index (in TMPDIR), whose records must be exactly those of snapshot and log at its position. \
Beside a running node everything but the index is checked. Nothing is written without --repair.

Kinds of findings:
  damage     what was durable is not what was written: the store does not start. Restore a backup, or `orset salvage`
  lost end   the log ends before what the index has been fed: the store starts, with an older state
  torn tail  a write that a crash cut short; nobody had heard of it, and the next start leaves it out
  index      the index is not what snapshot and log say; the next start may or may not notice

Exit codes:
  0  sound (with --repair: by now)
  1  there are findings, or the store cannot be read, or the output cannot be written
  2  wrong usage; also: PATH is neither a store nor a data directory
  3  the store is in use by another process (only with --repair)
  4  the store was written by a newer orset";

/// Options of the check.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// A store, or a data directory with several
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Put right what loses nothing: cut a torn tail off, build the index anew. Nothing is deleted: what is replaced is
    /// moved to aside/ in the store. Done only if nothing else is wrong
    #[arg(long)]
    repair: bool,
    /// How to show it [default: table on a terminal, else ndjson]
    #[arg(long, value_enum)]
    format: Option<Format>,
}

/// A store's report as it is shown.
#[derive(Serialize)]
struct ReportRow {
    store: String,
    sound: bool,
    starts: bool,
    lsn: Option<u64>,
    segments: usize,
    batches: usize,
    snapshot_blocks: usize,
    index: IndexRow,
    findings: Vec<FindingRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    repaired: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum IndexRow {
    NotLookedAt(String),
    Absent,
    SoundAtLsn(u64),
    Unsound,
}

#[derive(Serialize)]
struct FindingRow {
    kind: &'static str,
    file: String,
    offset: u64,
    what: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    repaired: bool,
}

impl FindingRow {
    fn new(store: &Path, finding: &Finding, repaired: bool) -> Self {
        let kind = match finding.kind {
            FindingKind::Damage => "damage",
            FindingKind::LostEnd => "lost end",
            FindingKind::TornTail => "torn tail",
            FindingKind::Index => "index",
        };
        let file = finding.path.strip_prefix(store).unwrap_or(&finding.path).to_string_lossy().into_owned();
        Self { kind, file, offset: finding.offset, what: finding.what.clone(), repaired }
    }
}

impl ReportRow {
    fn new(store: &Path, report: &Report) -> Self {
        let checked = report.checked;
        Self {
            store: store.to_string_lossy().into_owned(),
            sound: report.is_sound(),
            starts: report.starts(),
            lsn: report.starts().then_some(checked.lsn.0),
            segments: checked.segments,
            batches: checked.batches,
            snapshot_blocks: checked.blocks,
            index: match &report.index {
                IndexCheck::NotLookedAt(why) => IndexRow::NotLookedAt(why.clone()),
                IndexCheck::Absent => IndexRow::Absent,
                IndexCheck::Sound(lsn) => IndexRow::SoundAtLsn(lsn.0),
                IndexCheck::Unsound => IndexRow::Unsound,
            },
            findings: report.findings.iter().map(|finding| FindingRow::new(store, finding, false)).collect(),
            repaired: Vec::new(),
        }
    }

    /// Checks the store, and repairs it if that is wanted.
    fn of(store: &Path, repair: bool) -> anyhow::Result<Self> {
        if !repair {
            return Ok(Self::new(store, &verify(store)?));
        }
        let mended = mend(store)?;
        let Some(after) = &mended.after else { return Ok(Self::new(store, &mended.before)) };
        let mut row = Self::new(store, after);
        let put_right = mended.before.findings.iter().map(|finding| FindingRow::new(store, finding, true));
        row.findings.splice(0..0, put_right);
        row.repaired = mended.done;
        Ok(row)
    }

    fn verdict(&self) -> String {
        let left = self.findings.iter().filter(|finding| !finding.repaired).count();
        match (self.sound, self.starts, left) {
            (true, ..) => "sound".to_owned(),
            (_, false, _) => "the store does not start: restore a backup, or `orset salvage` it".to_owned(),
            (_, true, 1) => "1 finding; the store starts".to_owned(),
            (_, true, left) => format!("{left} findings; the store starts"),
        }
    }
}

/// Checks the stores that the arguments name.
pub fn run(args: &VerifyArgs) -> anyhow::Result<u8> {
    let stores = stores_at(&args.path)?;
    let (mut rows, mut failed) = (Vec::new(), None);
    for store in &stores {
        match ReportRow::of(store, args.repair) {
            Ok(row) => rows.push(row),
            // One store that cannot be looked at does not hide the others; the first failure is the command's.
            Err(error) => match &failed {
                None => failed = Some(error),
                Some(_) => eprintln!("orset: {error:#}"),
            },
        }
    }
    let single = stores.first().is_some_and(|store| *store == args.path);
    let mut out = BufWriter::new(io::stdout().lock());
    let shown = match Format::chosen(args.format) {
        Format::Table => rows.iter().try_for_each(|row| table(&mut out, row)),
        Format::Json if single => rows.iter().try_for_each(|row| json_line(&mut out, row)),
        Format::Json => json_line(&mut out, &rows),
        Format::Ndjson => rows.iter().try_for_each(|row| json_line(&mut out, row)),
    };
    unless_closed(shown.and_then(|()| out.flush())).map_err(|error| StoreError::Io {
        doing: "write to",
        path: "standard output".into(),
        source: error,
    })?;
    match failed {
        Some(error) => Err(error),
        None => Ok(u8::from(!rows.iter().all(|row| row.sound))),
    }
}

fn json_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    writeln!(out)
}

fn table(out: &mut dyn Write, row: &ReportRow) -> io::Result<()> {
    writeln!(out, "store {}", row.store)?;
    if let Some(lsn) = row.lsn {
        let (segments, batches, blocks) = (row.segments, row.batches, row.snapshot_blocks);
        let (segments, batches) = (plural(segments, "segment"), plural(batches, "batch"));
        writeln!(out, "  log        {segments}, {batches}, up to LSN {lsn}")?;
        writeln!(out, "  snapshot   {}", if blocks == 0 { "none".to_owned() } else { plural(blocks, "block") })?;
    }
    match &row.index {
        IndexRow::NotLookedAt(why) => writeln!(out, "  index      not looked at: {why}")?,
        IndexRow::Absent => writeln!(out, "  index      none; the next start builds one")?,
        IndexRow::SoundAtLsn(lsn) => writeln!(out, "  index      sound, at LSN {lsn}")?,
        IndexRow::Unsound => {}
    }
    for finding in &row.findings {
        let FindingRow { kind, file, offset, what, repaired } = finding;
        let repaired = if *repaired { " (repaired)" } else { "" };
        writeln!(out, "  {kind:<10} {file} at byte {offset}: {what}{repaired}")?;
    }
    row.repaired.iter().try_for_each(|done| writeln!(out, "  repaired   {done}"))?;
    writeln!(out, "  verdict    {}", row.verdict())
}
