//! One figure: what was measured, beside whom, and which target it is held against.
//!
//! ```text
//! Figure::of(1, "pipelined: 300,000 durable adds")
//!     .ours("adds/s", 810_000.0)
//!     .peer("Redis, SADD by --pipe", 750_000.0)
//!     .at_least("ratio", 1.08, 1.0)
//!     .record();
//! ```
//!
//! A recorded figure is a line on stdout and a file under `target/benchmarks/`, newer in the place of older. From those
//! files `cargo bench --bench report` makes `docs/benchmarks.md` and its plots.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A measured figure. Nothing is kept until [`Figure::record`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// The number of the target in the table of targets.
    pub target: u8,
    /// What was measured, in words; its key among the figures of a target.
    pub what: String,
    /// In what ours and the peers' values are.
    pub unit: String,
    /// What this program did.
    pub ours: f64,
    /// What others did, by name, in the same run.
    pub peers: Vec<(String, f64)>,
    /// What it is held against, if there is a bound.
    pub bound: Option<Bound>,
    /// Anything that belongs to the figure: parameters, parts of a sum.
    pub details: Vec<String>,
    /// Curves for the plot: name, and points.
    pub series: Vec<(String, Vec<(f64, f64)>)>,
}

/// What a figure is held against.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bound {
    /// What is compared: `ratio`, `ms`, `MiB`.
    pub of: String,
    /// What was measured.
    pub figure: f64,
    /// What it should be.
    pub bound: f64,
    /// Whether it should be at least that, or at most.
    pub at_least: bool,
}

impl Bound {
    /// Whether the target is met.
    pub fn met(&self) -> bool {
        if self.at_least { self.figure >= self.bound } else { self.figure <= self.bound }
    }
}

impl Figure {
    /// A figure for a target.
    pub fn of(target: u8, what: impl Into<String>) -> Self {
        let (unit, peers, details, series) = (String::new(), Vec::new(), Vec::new(), Vec::new());
        Self { target, what: what.into(), unit, ours: f64::NAN, peers, bound: None, details, series }
    }

    /// What this program did.
    pub fn ours(mut self, unit: &str, value: f64) -> Self {
        (self.unit, self.ours) = (unit.to_owned(), value);
        self
    }

    /// What somebody else did, in the same unit.
    pub fn peer(mut self, name: &str, value: f64) -> Self {
        self.peers.push((name.to_owned(), value));
        self
    }

    /// A line of what belongs to it.
    pub fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    /// A curve for the plot.
    pub fn series(mut self, name: &str, points: Vec<(f64, f64)>) -> Self {
        self.series.push((name.to_owned(), points));
        self
    }

    /// The target: at least `bound`.
    pub fn at_least(mut self, of: &str, figure: f64, bound: f64) -> Self {
        self.bound = Some(Bound { of: of.to_owned(), figure, bound, at_least: true });
        self
    }

    /// The target: at most `bound`.
    pub fn at_most(mut self, of: &str, figure: f64, bound: f64) -> Self {
        self.bound = Some(Bound { of: of.to_owned(), figure, bound, at_least: false });
        self
    }

    /// Prints it and keeps it for the report.
    pub fn record(self) {
        println!("{}", self.line());
        let dir = directory();
        let text = serde_json::to_string_pretty(&self).expect("plain values");
        let kept = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(dir.join(self.file_name()), text));
        kept.unwrap_or_else(|e| panic!("cannot keep the figure in {}: {e}", dir.display()));
    }

    fn line(&self) -> String {
        let mut line = format!("{:>2}  {:<52} {} {}", self.target, self.what, number(self.ours), self.unit);
        for (name, value) in &self.peers {
            line += &format!(", {name} {}", number(*value));
        }
        if let Some(bound) = &self.bound {
            let (sign, verdict) =
                (if bound.at_least { ">=" } else { "<=" }, if bound.met() { "met" } else { "MISSED" });
            let figure = format!("{} {}", number(bound.figure), bound.of);
            line += &format!("; {figure}, target {sign} {}: {verdict}", number(bound.bound));
        }
        self.details.iter().for_each(|detail| line += &format!("\n      {detail}"));
        line
    }

    fn file_name(&self) -> String {
        let words: Vec<&str> =
            self.what.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
        format!("{:02}-{}.json", self.target, words.join("-").to_ascii_lowercase())
    }
}

/// With as many digits as say something.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1_000.0 => {
            let digits = format!("{value:.0}");
            let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |rest| ("-", rest));
            let groups: Vec<&str> =
                digits.as_bytes().rchunks(3).rev().map(|g| str::from_utf8(g).expect("digits")).collect();
            format!("{sign}{}", groups.join(","))
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Where the figures are kept: `target/benchmarks` of the checkout.
pub fn directory() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().find(|dir| dir.join("migrations").is_dir()).unwrap_or(here);
    root.join("target/benchmarks")
}
