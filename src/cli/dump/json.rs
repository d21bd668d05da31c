//! A store as JSON: one value, or one object a line. Written as it is read, so that memory does not grow with the set.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::rows::{AnswerRow, DifferenceRow, EntryRow, EventRow, IndexRow, SummaryRow, TagRow, raw};
use super::{List, Printer};

/// How the objects lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// One store, one object.
    One,
    /// Several stores, an array of objects.
    Array,
    /// Each piece an object, on a line of its own, that names its store and kind.
    Lines,
}

/// See the module's text.
pub struct Json<W> {
    out: W,
    layout: Layout,
    store: String,
    stores: u64,
    /// Whether the present list or object has something in it.
    filled: bool,
    list: List,
    /// Whether the present element's tags are still to be closed.
    element_open: bool,
    /// Whether the present store's object is still to be closed.
    store_open: bool,
    /// Whether the array of index records or the like is open.
    index_shown: bool,
}

impl<W: Write> Json<W> {
    /// Writes to `out`.
    pub fn new(out: W, layout: Layout) -> Self {
        Self {
            out,
            layout,
            store: String::new(),
            stores: 0,
            filled: false,
            list: List::Elements,
            element_open: false,
            store_open: false,
            index_shown: false,
        }
    }

    fn lines(&self) -> bool {
        self.layout == Layout::Lines
    }

    /// A member of the store's object begins.
    fn member(&mut self, name: &str) -> io::Result<()> {
        write!(self.out, ",\n\"{name}\":")
    }

    fn value(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value).map_err(io::Error::from)
    }

    /// A line that begins with its store and kind, before its other members.
    fn begin_line(&mut self, kind: &str) -> io::Result<()> {
        self.out.write_all(b"{\"store\":")?;
        let store = std::mem::take(&mut self.store);
        self.value(&store)?;
        self.store = store;
        write!(self.out, ",\"kind\":\"{kind}\"")
    }

    /// An object with members of its own: a line, or an item of the present list.
    fn item(&mut self, kind: &str, value: &impl Serialize) -> io::Result<()> {
        if self.lines() {
            self.begin_line(kind)?;
            return self.rest_of_line(value);
        }
        self.separate()?;
        self.value(value)
    }

    /// The members of `value`, an object, as the rest of a line.
    fn rest_of_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec(value).map_err(io::Error::from)?;
        assert_eq!(text.first(), Some(&b'{'), "rows are objects");
        self.out.write_all(b",")?;
        self.out.write_all(&text[1..])?;
        self.out.write_all(b"\n")
    }

    fn separate(&mut self) -> io::Result<()> {
        let separator = if std::mem::replace(&mut self.filled, true) { ",\n" } else { "\n" };
        self.out.write_all(separator.as_bytes())
    }

    fn close_element(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.element_open) {
            true if self.lines() => self.out.write_all(b"]}\n"),
            true => self.out.write_all(b"]}"),
            false => Ok(()),
        }
    }

    fn close_store(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.store_open) && !self.lines() {
            self.out.write_all(b"}")?;
        }
        Ok(())
    }
}

impl<W: Write> Printer for Json<W> {
    fn store(&mut self, path: &Path) -> io::Result<()> {
        self.store = path.to_string_lossy().into_owned();
        if !self.lines() {
            let before = match (self.layout, self.stores) {
                (Layout::One, _) => "",
                (_, 0) => "[",
                _ => ",\n",
            };
            write!(self.out, "{before}{{\"store\":")?;
            let store = self.store.clone();
            self.value(&store)?;
        }
        (self.stores, self.store_open, self.index_shown) = (self.stores + 1, true, false);
        Ok(())
    }

    fn summary(&mut self, summary: &SummaryRow) -> io::Result<()> {
        if self.lines() {
            self.begin_line("summary")?;
            return self.rest_of_line(summary);
        }
        self.member("summary")?;
        self.value(summary)
    }

    fn list(&mut self, list: List) -> io::Result<()> {
        (self.list, self.filled) = (list, false);
        if self.lines() {
            return Ok(());
        }
        self.member(match list {
            List::Elements => "elements",
            List::Log => "log",
            List::Answers => "answers",
            List::IndexRecords => "index_elements",
            List::ElementTags => "element",
            List::History => "history",
            List::Differences => "diff",
        })?;
        self.out.write_all(b"[")
    }

    fn tag(&mut self, first: bool, element: &str, tag: &TagRow) -> io::Result<()> {
        if first {
            self.close_element()?;
            if self.lines() {
                let kind = if self.list == List::IndexRecords { "index_element" } else { "element" };
                self.begin_line(kind)?;
                self.out.write_all(b",")?;
            } else {
                self.separate()?;
                self.out.write_all(b"{")?;
            }
            self.out.write_all(b"\"element\":")?;
            self.value(&raw(element))?;
            self.out.write_all(b",\"tags\":[")?;
            self.element_open = true;
        } else {
            self.out.write_all(b",")?;
        }
        self.value(tag)
    }

    fn entry(&mut self, entry: &EntryRow) -> io::Result<()> {
        self.item("entry", entry)
    }

    fn answer(&mut self, answer: &AnswerRow) -> io::Result<()> {
        self.item("answer", answer)
    }

    fn index(&mut self, index: &IndexRow) -> io::Result<()> {
        if self.lines() {
            self.begin_line("index")?;
            return self.rest_of_line(index);
        }
        // After the records only to say that they are not all.
        let again = std::mem::replace(&mut self.index_shown, true);
        self.member(if again { "index_broken" } else { "index" })?;
        self.value(index)
    }

    fn event(&mut self, event: &EventRow) -> io::Result<()> {
        self.item("history", event)
    }

    fn difference(&mut self, difference: &DifferenceRow) -> io::Result<()> {
        self.item("difference", difference)
    }

    fn end_list(&mut self) -> io::Result<()> {
        self.close_element()?;
        if self.lines() { Ok(()) } else { self.out.write_all(b"]") }
    }

    fn end_store(&mut self) -> io::Result<()> {
        self.close_store()
    }

    fn end(&mut self) -> io::Result<()> {
        match (self.layout, self.stores) {
            (Layout::Lines, _) => Ok(()),
            (Layout::One, _) => self.out.write_all(b"\n"),
            (Layout::Array, 0) => self.out.write_all(b"[]\n"),
            (Layout::Array, _) => self.out.write_all(b"]\n"),
        }
    }
}
