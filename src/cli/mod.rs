//! The command line: thin. What a command does is elsewhere.

mod backup;
mod check;
mod dump;
mod migrate;
#[cfg(feature = "planted-bugs")]
mod plant;
mod progress;
mod salvage;
mod serve;
mod sim;
mod supervise;
mod test;
mod verify;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::dump::{FindError, find_stores};
use crate::node::NodeError;
use crate::repair::RepairError;
use crate::storage::StoreError;

const EXIT_CODES: &str = "Exit codes:
  0  fine
  1  failed: damaged store, disk full, cannot read or write
  2  wrong usage
  3  the store is in use by another process
  4  the store was written by a newer orset";

/// A durable replica of an observed-remove set that speaks Maelstrom's JSON lines on stdin and stdout.
#[derive(Parser, Debug)]
#[command(name = "orset", version, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeArgs,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the node (also what plain `orset` does)
    #[command(after_help = EXIT_CODES)]
    Serve(serve::ServeArgs),
    /// Show what is in a store, without changing a byte of it and while its node may be running
    #[command(after_help = dump::AFTER_HELP)]
    Dump(dump::DumpArgs),
    /// Check a store's manifest, log and snapshot, and its index's records; repair what loses nothing
    #[command(after_help = verify::AFTER_HELP)]
    Verify(verify::VerifyArgs),
    /// Make a new store of what can be proved of one that refuses to start
    #[command(after_help = salvage::AFTER_HELP)]
    Salvage(salvage::SalvageArgs),
    /// Copy a store, also while its node is running
    #[command(after_help = backup::AFTER_HELP)]
    Backup(backup::BackupArgs),
    /// Bring a store of an older orset to today's format
    #[command(after_help = migrate::AFTER_HELP)]
    Migrate(migrate::MigrateArgs),
    /// Run nodes under a test bench that kills and restarts them, and judge what the clients saw
    #[command(after_help = check::EXIT_CODES)]
    Test(test::TestArgs),
    /// Judge the saved history of a run of `orset test` again
    #[command(after_help = check::EXIT_CODES)]
    Check(check::CheckArgs),
    /// Run a node that is killed and restarted at random times, as one node to Maelstrom
    #[command(after_help = supervise::AFTER_HELP)]
    Supervise(supervise::SuperviseArgs),
    /// Run replicas and their stores in virtual time, with every fault there is, and judge them; all from one seed
    #[command(after_help = sim::EXIT_CODES)]
    Sim(sim::SimArgs),
}

/// So many of something, in words that have their plural in -s or, after -ch, in -es.
fn plural(count: usize, what: &str) -> String {
    let end = if what.ends_with("ch") { "es" } else { "s" };
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}{end}") }
}

/// The user has asked for something that there is not.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => serve::run(cli.serve).map(|()| 0),
        Some(Command::Serve(args)) => serve::run(args).map(|()| 0),
        Some(Command::Dump(args)) => dump::run(args).map(|()| 0),
        Some(Command::Verify(args)) => verify::run(&args),
        Some(Command::Salvage(args)) => salvage::run(&args).map(|()| 0),
        Some(Command::Backup(args)) => backup::run(&args).map(|()| 0),
        Some(Command::Migrate(args)) => migrate::run(&args).map(|()| 0),
        Some(Command::Test(args)) => test::run(args),
        Some(Command::Supervise(args)) => supervise::run(args),
        Some(Command::Sim(args)) => sim::run(&args),
        Some(Command::Check(args)) => check::run(args),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Nobody reads it any more: the exit code still tells.
            let _ = writeln!(std::io::stderr(), "orset: {error}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// The stores at a path that was given.
fn stores_at(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    find_stores(path).map_err(|error| match error {
        FindError::NoStore { .. } => Usage(error.to_string()).into(),
        FindError::Store(error) => error.into(),
    })
}

/// The one store that a path must be.
fn one_store_at(path: &Path) -> anyhow::Result<PathBuf> {
    let mut stores = stores_at(path)?;
    match stores.pop() {
        Some(store) if stores.is_empty() && store == path => Ok(store),
        _ => Err(Usage(format!("{}: this is a data directory; give one of the stores in it", path.display())).into()),
    }
}

/// Says what was done, on stdout.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    Ok(unless_closed(writeln!(out, "{text}").and_then(|()| out.flush()))?)
}

/// Nobody reads the output any more: no failure.
fn unless_closed(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let usage = |error: &RepairError| !matches!(error, RepairError::Store(_) | RepairError::Index(_));
    if error.is::<Usage>() || error.downcast_ref::<RepairError>().is_some_and(usage) {
        return 2;
    }
    if error.is::<check::NoVerdict>() {
        return 3;
    }
    let of_node = error.downcast_ref::<NodeError>().and_then(|error| match error {
        NodeError::Store(store) => Some(store),
        _ => None,
    });
    let of_repair = error.downcast_ref::<RepairError>().and_then(|error| match error {
        RepairError::Store(store) => Some(store),
        _ => None,
    });
    let store = of_node.or(of_repair).or_else(|| error.downcast_ref::<StoreError>());
    match store {
        Some(StoreError::InUse { .. }) => 3,
        Some(StoreError::Newer { .. }) => 4,
        _ => 1,
    }
}

/// Logs go to stderr: stdout is for messages, or for what was asked for.
fn start_logging(level: &str) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // It would say so on stderr, and panic where that cannot be done.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}
