//! The command line: thin. What a command does is elsewhere.

mod check;
mod dump;
#[cfg(feature = "planted-bugs")]
mod plant;
mod progress;
mod serve;
mod sim;
mod supervise;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::node::NodeError;
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
        Some(Command::Test(args)) => test::run(args),
        Some(Command::Supervise(args)) => supervise::run(args),
        Some(Command::Sim(args)) => sim::run(&args),
        Some(Command::Check(args)) => check::run(args),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("orset: {error}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// Nobody reads the output any more: no failure.
fn unless_closed(outcome: std::io::Result<()>) -> std::io::Result<()> {
    match outcome {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Usage>() {
        return 2;
    }
    if error.is::<check::NoVerdict>() {
        return 3;
    }
    let store = match error.downcast_ref::<NodeError>() {
        Some(NodeError::Store(store)) => Some(store),
        _ => error.downcast_ref::<StoreError>(),
    };
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
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}
