//! `orset sim --plant`: there is none in a program that was built without the feature `planted-bugs`.

use std::io::Write;

use super::{Usage, unless_closed};
use crate::planted::{self, Bug};
use crate::sim::Options;
use crate::sim::plant::{Catch, STARTS, seek};

/// What `--plant` takes to plant one after another.
pub const ALL: &str = "all";

/// Plants the bug of this name for the rest of the process.
pub fn plant(name: &str) -> anyhow::Result<()> {
    let names = || Bug::ALL.map(|bug| bug.about().name).join(", ");
    let bug = Bug::named(name).ok_or_else(|| Usage(format!("there is no bug {name:?}, only {ALL} and {}", names())))?;
    planted::plant(Some(bug));
    Ok(())
}

/// Seeks each bug from several starting seeds, and prints a table of what came of it. Gives the exit code: 0 if every
/// search found its bug within its bound, and as many seeds without a bug are clean.
pub fn all(first: &Options) -> anyhow::Result<u8> {
    let out = &mut std::io::stdout().lock();
    let seeds = Bug::ALL.iter().map(|bug| bug.about().within_seeds).max().unwrap_or(0);
    let clean = seek(None, first, seeds);
    unless_closed(write_head(out, first, seeds, &clean))?;
    let mut missed = 0;
    for bug in Bug::ALL {
        let catches = seek(Some(bug), first, bug.about().within_seeds);
        missed += usize::from(catches.iter().any(Option::is_none));
        unless_closed(write_row(out, bug, &catches))?;
    }
    let count = Bug::ALL.len();
    unless_closed(writeln!(out, "\n{} of {count} bugs caught", count - missed))?;
    Ok(u8::from(missed > 0 || clean.iter().any(Option::is_some)))
}

fn write_head(out: &mut dyn Write, first: &Options, seeds: u64, clean: &[Option<Catch>]) -> std::io::Result<()> {
    write!(out, "2 to 5 nodes, {} steps a seed, {STARTS} starting seeds. Without a planted bug ", first.steps)?;
    match clean.iter().flatten().next() {
        None => writeln!(out, "{} seeds were clean.", STARTS * seeds)?,
        Some(catch) => writeln!(out, "this was found: {}", catch.what)?,
    }
    writeln!(out, "\n| bug | what it does | breaks | seeds until caught | bound | caught by |")?;
    writeln!(out, "|---|---|---|---|---|---|")
}

fn write_row(out: &mut dyn Write, bug: Bug, catches: &[Option<Catch>]) -> std::io::Result<()> {
    let about = bug.about();
    let seeds = catches.iter().map(|catch| catch.as_ref().map_or("–".to_owned(), |catch| catch.seeds.to_string()));
    let mut checks: Vec<String> = catches.iter().flatten().map(Catch::check).collect();
    checks.sort();
    checks.dedup();
    let (seeds, checks) = (seeds.collect::<Vec<_>>().join(", "), checks.join("; "));
    writeln!(
        out,
        "| `{}` | {} | {} | {seeds} | {} | {checks} |",
        about.name, about.what, about.invariant, about.within_seeds
    )
}
