//! `orset sim`.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use clap::Args;

use super::unless_closed;
use crate::sim::{Failure, Fault, Faults, Options, Tally, run_many};

/// What `orset sim` ends with.
pub const EXIT_CODES: &str = "Exit codes:
  0  all is well
  1  a violation was found; the last lines say which, and how to see it again. Also: the output cannot be written
  2  wrong usage";

/// Options of the simulation.
#[derive(Args, Debug)]
pub struct SimArgs {
    /// The first seed: everything is drawn from it
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// How many seeds, from the first on
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// How many nodes, from 2 to 50
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..=50))]
    nodes: u16,
    /// How many steps a seed: a pause, perhaps a fault, and clients' requests
    #[arg(long, value_name = "S", default_value_t = 300)]
    steps: u64,
    #[arg(long, value_name = "LIST", value_delimiter = ',', help = help_of_without())]
    without: Vec<Fault>,
    /// How many seeds at a time [default: as many as there are processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Plant this bug, to see that it is caught; all: one after another, until each is caught, on 2 to 5 nodes
    #[cfg(feature = "planted-bugs")]
    #[arg(long, value_name = "NAME")]
    plant: Option<String>,
}

fn help_of_without() -> String {
    format!("Kinds of faults that there are not, separated by commas, of: {}", Fault::names())
}

/// Runs the seeds, and says how they went. Gives the exit code.
pub fn run(args: &SimArgs) -> anyhow::Result<u8> {
    super::start_logging("off");
    let started = Instant::now();
    let faults = args.without.iter().fold(Faults::all(), |faults, fault| faults.without(*fault));
    let options = Options { seed: args.seed, nodes: usize::from(args.nodes), steps: args.steps, faults };
    #[cfg(feature = "planted-bugs")]
    match args.plant.as_deref() {
        Some(super::plant::ALL) => return super::plant::all(&options),
        Some(name) => super::plant::plant(name)?,
        None => {}
    }
    let threads = args.threads.map(usize::from);
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let watched = std::io::stderr().is_terminal();
    let progress = |done: u64| {
        if watched && done.is_multiple_of(16) {
            eprint!("\r{done} of {} seeds", args.seeds);
        }
    };
    let outcome = run_many(&options, args.seeds, threads, &progress);
    if watched {
        eprint!("\r\x1b[K");
    }
    let mut out = std::io::stdout().lock();
    match outcome {
        Ok(tally) => {
            unless_closed(write_summary(&mut out, &tally, started.elapsed().as_secs_f64()))?;
            Ok(0)
        }
        Err(failure) => {
            unless_closed(write_failure(&mut out, &failure))?;
            Ok(1)
        }
    }
}

fn write_failure(out: &mut dyn Write, failure: &Failure) -> std::io::Result<()> {
    let Failure { first, shortest, what, last_steps } = failure;
    writeln!(out, "the last steps of the shortest run that fails, with the virtual time in ms:")?;
    for step in last_steps {
        writeln!(out, "{step}")?;
    }
    writeln!(out, "seed {}: {what}", first.seed)?;
    writeln!(out, "found by  {}", first.command())?;
    writeln!(out, "replay    {}", shortest.command())?;
    writeln!(out, "VIOLATION of {} with seed {}", rule_of(what), first.seed)
}

/// The rule that a violation's text begins with; a panic of the product's own begins with none.
fn rule_of(what: &str) -> &str {
    what.split_once(": ").filter(|(rule, _)| rule.len() < 90).map_or("an assertion", |(rule, _)| rule)
}

fn write_summary(out: &mut dyn Write, tally: &Tally, seconds: f64) -> std::io::Result<()> {
    let mut line = |what: &str, figure: u64| writeln!(out, "{what:<34}{figure:>12}");
    line("seeds", tally.seeds)?;
    line("client operations", tally.client_ops)?;
    line("  repeated under their name", tally.repeats)?;
    line("messages", tally.messages)?;
    line("state deltas", tally.state_deltas)?;
    line("process starts", tally.starts)?;
    line("  that cut off a torn tail", tally.torn_tails)?;
    line("  that trusted the index", tally.indexes_trusted)?;
    line("clean stops", tally.clean_stops)?;
    line("kills", tally.kills)?;
    line("power cuts", tally.power_cuts())?;
    line("  that kept nothing unsynced", tally.cuts_to_nothing)?;
    line("  … the oldest", tally.cuts_to_prefix)?;
    line("  … any of it", tally.cuts_to_subset)?;
    line("  … all of it", tally.cuts_to_all)?;
    line("crashes in the middle of an I/O", tally.crashes_at_io)?;
    line("  of a recovery", tally.crashes_in_recovery)?;
    line("failed writes", tally.write_errors)?;
    line("short writes", tally.short_writes)?;
    line("failed syncs", tally.failed_syncs)?;
    line("ended by a full disk", tally.disk_full)?;
    line("damaged logs, refused", tally.damaged)?;
    line("wipes", tally.wipes)?;
    line("rollbacks", tally.rollbacks)?;
    line("copies run beside the original", tally.copies)?;
    line("operations lost with their stores", tally.lost)?;
    line("slowest agreement, virtual ms", tally.slowest_ms)?;
    line("most messages for an agreement", tally.most_messages)?;
    let per_minute = tally.client_ops as f64 / seconds * 60.0;
    writeln!(out, "{:<34}{per_minute:>12.0}", "client operations a minute")?;
    writeln!(out, "all is well: {} seeds in {seconds:.1} s", tally.seeds)
}
