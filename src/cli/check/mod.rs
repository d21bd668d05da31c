//! `orset check`.

pub mod summary;

use std::fs::File;
use std::io::{BufReader, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::bench::checker::{self, CheckOptions, Demand};
use crate::bench::history::History;

/// What the commands that judge end with.
pub const EXIT_CODES: &str = "Exit codes:
  0  valid
  1  invalid: an anomaly was found
  2  unknown: too little happened to judge, or the run was cut off. Also: wrong usage
  3  there is no verdict: the nodes could not be started, or a file could not be read or written";

/// Options of the judge.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The history.jsonl of a run, or the run's directory
    #[arg(value_name = "FILE")]
    history: PathBuf,
    /// Share of the requests that must be answered well: `total`, or a number from 0 to 1
    #[arg(long, value_name = "SHARE", default_value = "none")]
    availability: Demand,
    /// What to print [default: text on a terminal, json otherwise]
    #[arg(long, value_parser = ["text", "json"])]
    format: Option<String>,
}

/// There is no verdict.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct NoVerdict(#[from] anyhow::Error);

/// Judges a saved history. Gives the exit code.
pub fn run(args: CheckArgs) -> anyhow::Result<u8> {
    judge(args).map_err(|error| NoVerdict(error).into())
}

fn judge(args: CheckArgs) -> anyhow::Result<u8> {
    let path = if args.history.is_dir() { args.history.join("history.jsonl") } else { args.history };
    let file = File::open(&path).with_context(|| path.display().to_string())?;
    let history = History::read(BufReader::new(file)).with_context(|| path.display().to_string())?;
    let results = checker::check(&history, &CheckOptions { availability: args.availability });
    let text = match args.format {
        Some(format) => format == "text",
        None => std::io::stdout().is_terminal(),
    };
    if text {
        summary::print(&results, None)?;
    } else {
        let mut json = serde_json::to_string_pretty(&results)?;
        json.push('\n');
        super::unless_closed(std::io::stdout().write_all(json.as_bytes()))?;
    }
    Ok(results.exit_code())
}
