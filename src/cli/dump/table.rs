//! A store as text for people: aligned where the width is known beforehand, what may be long last on its line.

use std::io::{self, Write};
use std::path::Path;

use super::super::plural;
use super::rows::{
    AnswerRow, DifferenceRow, EntryRow, EventRow, EventWhat, IndexRow, IndexStateRow, SummaryRow, TagRow, What, WhyNot,
};
use super::{List, Printer};

/// Longer elements are cut, and their length is said.
const MAX_ELEMENT_CHARS: usize = 100;

/// See the module's text.
pub struct Table<W> {
    out: W,
    stores: u64,
    items: u64,
    list: List,
}

impl<W: Write> Table<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, stores: 0, items: 0, list: List::Elements }
    }

    fn field(&mut self, name: &str, value: impl std::fmt::Display) -> io::Result<()> {
        writeln!(self.out, "  {name:<13} {value}")
    }

    fn log_fields(&mut self, summary: &SummaryRow) -> io::Result<()> {
        let (log, ops) = (&summary.log, &summary.log.ops);
        let range = match log.first_lsn {
            Some(first) => format!(", LSN {first} to {}", summary.lsn.last_readable),
            None => String::new(),
        };
        self.field("log", format_args!("{} bytes in {}{range}", log.bytes, plural(log.segments.len(), "segment")))?;
        let joins = match (ops.join_part, ops.join_commit) {
            (0, 0) => String::new(),
            (parts, commits) => format!(", {parts} join parts, {commits} join commits"),
        };
        let answers = if ops.answer > 0 { format!(", {} answers", ops.answer) } else { String::new() };
        let total = ops.total;
        let counts = format!("{} starts, {} adds, {} removes{joins}{answers}", ops.start, ops.add, ops.remove);
        self.field("ops in log", format_args!("{total}: {counts}"))?;
        self.field("torn tail", format_args!("{} bytes", log.torn_tail_bytes))?;
        writeln!(self.out, "\n  SEGMENT               BYTES   AFTER LSN")?;
        for segment in &log.segments {
            let repeats = if segment.repeats_last_batch { "  begins with the last batch once more" } else { "" };
            writeln!(self.out, "  {}  {:>10}  {:>10}{repeats}", segment.file, segment.bytes, segment.after_lsn)?;
        }
        Ok(())
    }

    fn vector(&mut self, summary: &SummaryRow) -> io::Result<()> {
        writeln!(self.out, "\n  REPLICA ID           NODE          HELD       FLOOR  PARENT")?;
        for row in &summary.version_vector {
            let node = row.node.as_deref().unwrap_or("?");
            let parent = row.parent.as_ref().map_or("-".to_owned(), |p| format!("{}/{}", p.replica, p.seq));
            writeln!(
                self.out,
                "  {}  {node:<8} {:>9}  {:>10}  {parent}",
                row.replica,
                row.held,
                row.floor.unwrap_or(0)
            )?;
        }
        Ok(())
    }
}

/// An element, cut if it is long.
fn shortened(element: &str) -> String {
    match element.char_indices().nth(MAX_ELEMENT_CHARS) {
        Some((end, _)) => format!("{}… ({} bytes)", &element[..end], element.len()),
        None => element.to_owned(),
    }
}

fn node(name: Option<&String>) -> &str {
    name.map_or("?", String::as_str)
}

fn tag_line(tag: &TagRow) -> String {
    format!("{}  {:<8} {:>9}", tag.tag, node(tag.node.as_ref()), tag.seq)
}

fn what(what: &What) -> String {
    match what {
        What::Start { parent: None } => "start".to_owned(),
        What::Start { parent: Some(parent) } => format!("start, after {}/{}", parent.replica, parent.seq),
        What::Add { tag, element } => format!("add {tag} {}", shortened(element.get())),
        What::Remove { tags, element } => format!("remove {} {}", tags.join(" "), shortened(element.get())),
        What::JoinPart { join, records, live } => {
            let runs = live.iter().flat_map(|live| &live.seqs);
            let live: u64 = runs.map(|(first, last)| last - first + 1).sum();
            format!("join {join}, part: {} new, {live} live tags", plural(records.len(), "record"))
        }
        What::JoinCommit { join, version_vector } => {
            format!("join {join}, commit: {}", plural(version_vector.len(), "replica id"))
        }
        What::Answer(answer) => format!("answer to request {}: {}", answer.request, answered(answer)),
        What::Clean { index_lsn, counts } => {
            let index = index_lsn.map_or("no index".to_owned(), |lsn| format!("index at LSN {lsn}"));
            let unlisted = if *counts { "" } else { ", does not count: the manifest had not said so yet" };
            format!("clean stop, {index}{unlisted}")
        }
    }
}

fn answered(answer: &AnswerRow) -> String {
    let tags = if answer.tags.is_empty() { "no tags".to_owned() } else { answer.tags.join(" ") };
    format!("{} {tags}", answer.to)
}

impl<W: Write> Printer for Table<W> {
    fn store(&mut self, path: &Path) -> io::Result<()> {
        if self.stores > 0 {
            writeln!(self.out)?;
        }
        self.stores += 1;
        writeln!(self.out, "store {}", path.display())
    }

    fn summary(&mut self, summary: &SummaryRow) -> io::Result<()> {
        self.field("format", summary.format_version)?;
        self.field("node", format_args!("{} of {}", summary.node, summary.nodes.join(" ")))?;
        self.field("replica id", summary.replica.as_deref().unwrap_or("none: it has never written"))?;
        self.field("read form", summary.read_form)?;
        self.field("last stop", if summary.clean_stop { "clean" } else { "not clean, or the node is running" })?;
        self.field("last LSN", format_args!("{} (everything here is as of it)", summary.lsn.last_readable))?;
        match &summary.snapshot {
            None => self.field("snapshot", "none")?,
            Some(s) => {
                let tags = plural(usize::try_from(s.tags).unwrap_or(usize::MAX), "tag");
                self.field("snapshot", format_args!("at LSN {}: {tags}, {} bytes", s.lsn, s.bytes))?;
            }
        }
        match &summary.index_state {
            None => self.field("index", "none")?,
            Some(IndexStateRow::Bad { unusable }) => self.field("index", unusable)?,
            Some(IndexStateRow::Noted { directory, lsn, closed }) => {
                let closed = if *closed { "closed" } else { "not closed" };
                self.field("index", format_args!("at LSN {lsn} as of index.state, {closed}, in {directory}"))?;
            }
        }
        self.field("elements", summary.elements)?;
        self.field("tags", summary.tags)?;
        if summary.request_ids > 0 {
            self.field("request ids", format_args!("{} whose answers are known", summary.request_ids))?;
        }
        self.log_fields(summary)?;
        self.vector(summary)
    }

    fn list(&mut self, list: List) -> io::Result<()> {
        (self.list, self.items) = (list, 0);
        let head = match list {
            List::Elements | List::IndexRecords | List::ElementTags => {
                "TAG                                   NODE           SEQ  ELEMENT"
            }
            List::Log => "SEGMENT             OFFSET        LSN  NODE           SEQ  OPERATION",
            List::Answers => "SHA-256 OF REQUEST ID, CUT TO 16 BYTES  WHAT WAS ANSWERED",
            List::History => "       LSN  WHAT BEFELL IT",
            List::Differences => "TAG                                   NODE           SEQ  IN ONE STORE ONLY",
        };
        writeln!(self.out, "\n  {head}")
    }

    fn tag(&mut self, first: bool, element: &str, tag: &TagRow) -> io::Result<()> {
        self.items += 1;
        let element = if first { shortened(element) } else { "〃".to_owned() };
        writeln!(self.out, "  {}  {element}", tag_line(tag))
    }

    fn entry(&mut self, entry: &EntryRow) -> io::Result<()> {
        self.items += 1;
        let lsn = entry.lsn.map_or("-".to_owned(), |lsn| lsn.to_string());
        let (name, seq) = match &entry.dot {
            Some(dot) => (node(dot.node.as_ref()), dot.seq.to_string()),
            None => ("-", "-".to_owned()),
        };
        let again = if entry.repeated { "(again) " } else { "" };
        let (segment, offset, what) = (&entry.segment, entry.offset, what(&entry.what));
        writeln!(self.out, "  {segment}  {offset:>10}  {lsn:>9}  {name:<8} {seq:>9}  {again}{what}")
    }

    fn answer(&mut self, answer: &AnswerRow) -> io::Result<()> {
        self.items += 1;
        writeln!(self.out, "  {:<38}  {}", answer.request, answered(answer))
    }

    fn index(&mut self, index: &IndexRow) -> io::Result<()> {
        match index {
            IndexRow::Unavailable { unavailable } => writeln!(self.out, "\n  the index cannot be shown: {unavailable}"),
            IndexRow::Open { directory, closed, lsn, elements, tags, trees, .. } => {
                let closed = if *closed { "closed" } else { "not closed" };
                let held = format!("{elements} elements, {tags} tags");
                let trees = trees.join(", ");
                writeln!(self.out, "\n  {directory}: at LSN {lsn}, {closed}, {held}; sled trees: {trees}")
            }
        }
    }

    fn event(&mut self, event: &EventRow) -> io::Result<()> {
        self.items += 1;
        let lsn = event.lsn;
        match &event.what {
            EventWhat::Added(tag) => writeln!(self.out, "  {lsn:>9}  added    {}", tag_line(tag)),
            EventWhat::Removed { by, tags } => {
                writeln!(self.out, "  {lsn:>9}  removed  by {} {}/{}", node(by.node.as_ref()), by.replica, by.seq)?;
                tags.iter().try_for_each(|tag| writeln!(self.out, "                    {}", tag_line(tag)))
            }
            EventWhat::Joined { join, added, removed } => {
                writeln!(self.out, "  {lsn:>9}  joined   {join}")?;
                added.iter().try_for_each(|tag| writeln!(self.out, "             added  {}", tag_line(tag)))?;
                removed.iter().try_for_each(|tag| writeln!(self.out, "           removed  {}", tag_line(tag)))
            }
        }
    }

    fn difference(&mut self, difference: &DifferenceRow) -> io::Result<()> {
        self.items += 1;
        let DifferenceRow { element, tag, only_in, not_in, why } = difference;
        let why = match why {
            WhyNot::Unheard => "has not heard of it".to_owned(),
            WhyNot::Removed { by: Some(by), .. } => {
                format!("removed it, by {} {}/{}", node(by.node.as_ref()), by.replica, by.seq)
            }
            WhyNot::Removed { join: Some(join), .. } => format!("heard by the state delta {join} that it was removed"),
            WhyNot::Removed { .. } => "removed it before its log begins".to_owned(),
        };
        let element = shortened(element.get());
        writeln!(self.out, "  {}  {element}\n      in {only_in}; {not_in} {why}", tag_line(tag))
    }

    fn end_list(&mut self) -> io::Result<()> {
        if self.items > 0 {
            return Ok(());
        }
        match self.list {
            List::ElementTags => writeln!(self.out, "  (no tags: it is not in the set)"),
            List::History => writeln!(self.out, "  (nothing in the log is about it)"),
            List::Differences => writeln!(self.out, "  (none: the two hold the same tags)"),
            _ => writeln!(self.out, "  (nothing)"),
        }
    }

    fn end_store(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}
