//! `orset dump`: which stores, which sections, in which form. What can be said about a store is in [`crate::dump`].

mod index;
mod json;
pub(super) mod rows;
mod table;

use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::Usage;
use crate::crdt::{Element, Records};
use crate::dump::diff::{self, Side};
use crate::dump::{Summary, View, history};
use crate::maelstrom::{Limits, canonical};
use crate::storage::StoreError;
use json::{Json, Layout};
use rows::{ElementRows, Names};
use table::Table;

/// Said below the options: the promises, then the exit codes.
pub const AFTER_HELP: &str =
    "Everything shown is of one instant, and the summary says up to which LSN. Nothing is written to the store, and no \
lock is taken, but for the index section: sled writes as soon as it opens, so index/ is copied into the directory for \
temporary files (TMPDIR; it needs that much room) under the store's lock, and the copy is opened. Of a running node the \
index cannot be shown.

JSON: a store is one object, a data directory an array of them; with ndjson every line is an object that names its \
store and its kind (summary, element, entry, answer, index, index_element, history, difference). Elements are the JSON values themselves.

Exit codes:
  0  fine, also if nobody reads to the end, or the index is missing or broken
  1  failed: the store is damaged (file and offset are named), or cannot be read, or the output cannot be written
  2  wrong usage; also: PATH is neither a store nor a data directory
  3  the store is in use by another process (only with --section index)
  4  the store was written by a newer orset";

/// Options of the dump.
#[derive(Args, Debug)]
pub struct DumpArgs {
    /// A store, or a data directory with several
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// How to show it [default: table on a terminal, else ndjson]. A table cuts elements after 100 characters
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// What to show [default: summary and elements]
    #[arg(long, value_enum)]
    section: Option<Section>,
    /// Show only this element: its tags, and every operation in the log that added or removed it. A string in double
    /// quotes: --element '"apple"'
    #[arg(long, value_name = "JSON", conflicts_with = "section")]
    element: Option<String>,
    /// Show only the tags in which PATH, a store, and this other store differ, and for each whether the store without it
    /// removed it (and by which operation) or has not heard of it
    #[arg(long, value_name = "STORE", conflicts_with_all = ["section", "element"])]
    diff: Option<PathBuf>,
}

/// How something is shown.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Aligned text
    Table,
    /// One JSON value
    Json,
    /// One JSON object a line
    Ndjson,
}

impl Format {
    /// What was asked for, else what suits whoever reads.
    pub fn chosen(asked: Option<Self>) -> Self {
        asked.unwrap_or(if io::stdout().is_terminal() { Self::Table } else { Self::Ndjson })
    }
}

/// A part of a store.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Section {
    /// Figures: format, nodes, replica ids, LSNs, counts, files
    Summary,
    /// The elements with their tags
    Elements,
    /// Everything in the log, oldest first
    Log,
    /// What was answered to the last requests with a `request_id`, oldest first
    Answers,
    /// The sled trees as they are
    Index,
    /// All of these
    All,
}

/// One way to show a store. Calls come in the order summary, elements, log, answers, index, or tags, history.
trait Printer {
    /// A store begins.
    fn store(&mut self, path: &Path) -> io::Result<()>;
    /// Its figures.
    fn summary(&mut self, summary: &rows::SummaryRow) -> io::Result<()>;
    /// A list begins.
    fn list(&mut self, list: List) -> io::Result<()>;
    /// A tag of an element; `first`: the element's first one.
    fn tag(&mut self, first: bool, element: &str, tag: &rows::TagRow) -> io::Result<()>;
    /// Something in the log.
    fn entry(&mut self, entry: &rows::EntryRow) -> io::Result<()>;
    /// What was answered to a request with a `request_id`.
    fn answer(&mut self, answer: &rows::AnswerRow) -> io::Result<()>;
    /// What the index says of itself; if it cannot be shown: why.
    fn index(&mut self, index: &rows::IndexRow) -> io::Result<()>;
    /// A tag that only one of two stores has.
    fn difference(&mut self, difference: &rows::DifferenceRow) -> io::Result<()>;
    /// Something that befell one element.
    fn event(&mut self, event: &rows::EventRow) -> io::Result<()>;
    /// A list ends.
    fn end_list(&mut self) -> io::Result<()>;
    /// The store ends.
    fn end_store(&mut self) -> io::Result<()>;
    /// All ends.
    fn end(&mut self) -> io::Result<()>;
}

/// What is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum List {
    Elements,
    Log,
    Answers,
    IndexRecords,
    ElementTags,
    History,
    Differences,
}

/// Shows the stores that the arguments name.
pub fn run(args: DumpArgs) -> anyhow::Result<()> {
    match dump(&args) {
        // Whoever reads has seen enough: `orset dump … | head`.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) => Ok(()),
        outcome => outcome,
    }
}

fn dump(args: &DumpArgs) -> anyhow::Result<()> {
    let element = args.element.as_deref().map(parse_element).transpose()?;
    let stores = match &args.diff {
        None => super::stores_at(&args.path)?,
        Some(_) => vec![super::one_store_at(&args.path)?],
    };
    let other = args.diff.as_deref().map(super::one_store_at).transpose()?;
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    let single = stores.first().is_some_and(|store| *store == args.path);
    let mut printer: Box<dyn Printer + '_> = match Format::chosen(args.format) {
        Format::Table => Box::new(Table::new(&mut out)),
        Format::Json => Box::new(Json::new(&mut out, if single { Layout::One } else { Layout::Array })),
        Format::Ndjson => Box::new(Json::new(&mut out, Layout::Lines)),
    };
    // One bad store does not hide the others; the first failure is the command's.
    let mut failed = None;
    for store in &stores {
        let shown = match &other {
            Some(other) => show_differences(printer.as_mut(), store, other),
            None => show(printer.as_mut(), store, args.section, element.as_ref()),
        };
        match shown {
            Err(error) if !error.is::<io::Error>() && stores.len() > 1 => match &failed {
                None => failed = Some(error),
                Some(_) => eprintln!("orset: {error:#}"),
            },
            outcome => outcome?,
        }
    }
    printer.end()?;
    drop(printer);
    out.flush()?;
    failed.map_or(Ok(()), Err)
}

fn parse_element(text: &str) -> anyhow::Result<Element> {
    // Whatever a node was allowed to take may be looked for.
    let limits = Limits::default().of_present();
    canonical(text, &limits).map_err(|error| {
        Usage(format!("--element {text}: {error}; it takes a JSON value, a string in double quotes: '\"apple\"'"))
            .into()
    })
}

/// Shows one store.
fn show(
    printer: &mut dyn Printer,
    store: &Path,
    section: Option<Section>,
    element: Option<&Element>,
) -> anyhow::Result<()> {
    let only_index = section == Some(Section::Index);
    // Taken first, as it is all that may be refused, and then nothing has been printed.
    let copy = match section {
        Some(Section::Index | Section::All) => Some(index::copy(store, only_index)?),
        _ => None,
    };
    let view = View::open(store)?;
    let summary = Summary::of(&view)?;
    printer.store(store)?;
    if let Some(element) = element {
        show_element(printer, &view, element)?;
        return Ok(printer.end_store()?);
    }
    let wants = |which| match section {
        None => matches!(which, Section::Summary | Section::Elements),
        Some(section) => section == Section::All || section == which,
    };
    if wants(Section::Summary) {
        printer.summary(&rows::SummaryRow::new(&summary))?;
    }
    if wants(Section::Elements) {
        printer.list(List::Elements)?;
        show_records(printer, view.records(&[]), &view)?;
        printer.end_list()?;
    }
    if wants(Section::Log) {
        printer.list(List::Log)?;
        view.each_entry::<anyhow::Error>(|segment, offset, item| {
            Ok(printer.entry(&rows::EntryRow::new(&view, segment, offset, &item))?)
        })?;
        printer.end_list()?;
    }
    if wants(Section::Answers) {
        printer.list(List::Answers)?;
        view.replay.state.answers.iter().try_for_each(|known| printer.answer(&rows::AnswerRow::new(known)))?;
        printer.end_list()?;
    }
    if let Some(copy) = copy {
        index::show(printer, &view, copy)?;
    }
    Ok(printer.end_store()?)
}

/// Shows records, element by element.
fn show_records(printer: &mut dyn Printer, records: Records<'_>, names: &dyn Names) -> anyhow::Result<()> {
    let mut elements = ElementRows::default();
    for record in records {
        let record = record.map_err(StoreError::from)?;
        let first = elements.next(&record);
        printer.tag(first, elements.text(), &rows::TagRow::new(names, record.tag()))?;
    }
    Ok(())
}

fn show_differences(printer: &mut dyn Printer, store: &Path, other: &Path) -> anyhow::Result<()> {
    let (first, second) = (View::open(store)?, View::open(other)?);
    printer.store(store)?;
    printer.list(List::Differences)?;
    diff::compare::<anyhow::Error>(&first, &second, |record, side, absence| {
        let path = |store: &Path| store.to_string_lossy().into_owned();
        let (has, only_in, lacks, not_in) = match side {
            Side::First => (&first, path(store), &second, path(other)),
            Side::Second => (&second, path(other), &first, path(store)),
        };
        let element = rows::raw(&String::from_utf8_lossy(record.element_bytes()));
        let (tag, why) = (rows::TagRow::new(has, record.tag()), rows::WhyNot::new(lacks, absence));
        Ok(printer.difference(&rows::DifferenceRow { element, tag, only_in, not_in, why })?)
    })?;
    printer.end_list()?;
    Ok(printer.end_store()?)
}

fn show_element(printer: &mut dyn Printer, view: &View, element: &Element) -> anyhow::Result<()> {
    printer.list(List::ElementTags)?;
    for (n, tag) in view.tags(element)?.into_iter().enumerate() {
        printer.tag(n == 0, element.as_str(), &rows::TagRow::new(view, tag))?;
    }
    printer.end_list()?;
    printer.list(List::History)?;
    history::follow::<anyhow::Error>(view, element, |lsn, event| {
        Ok(printer.event(&rows::EventRow::new(view, lsn, &event))?)
    })?;
    Ok(printer.end_list()?)
}
