//! `orset supervise`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Usage;
use crate::supervise::rules::Plan;
use crate::supervise::{self, SuperviseOptions};

/// Shown below the options.
pub const AFTER_HELP: &str = "Example, as Maelstrom's node:
  maelstrom test -w g-set --bin orset --time-limit 30 … -- supervise --kill-until 25 -- serve --data-dir DIR

It exits as the node does when that ends without having been killed (128 and the signal's number, if by one), else:
  1  the node cannot be started, refuses init after a restart, or does not end after its input has
  2  wrong usage";

/// This very program, even if its file has been replaced since it was started.
const OURSELVES: &str = "/proc/self/exe";

/// Options of the supervisor.
#[derive(Args, Debug)]
pub struct SuperviseArgs {
    /// The node's program; without it, this one
    #[arg(long, value_name = "FILE")]
    bin: Option<PathBuf>,
    /// The mean time from a start of the node to its kill. It is drawn evenly from half of this to one and a half
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = interval)]
    kill_interval: Duration,
    /// No kill before this, counted from the first init_ok: Maelstrom's set-up bears no loss
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    kill_after: Duration,
    /// No kill after this, counted from the first init_ok, so that recovery and final reads are quiet
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    kill_until: Duration,
    /// The longest time between a kill and the restart; drawn evenly from 0 to this
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    restart_after: Duration,
    /// Keep lines that come while the node is down, and deliver them after the restart
    #[arg(long)]
    hold: bool,
    /// Do not send `init` again after a restart: for a node that knows who it is
    #[arg(long)]
    no_reinit: bool,
    /// Drop replies to clients' requests older than this; 0: none. Maelstrom's clients give up after 5 s
    #[arg(long, value_name = "MS", default_value_t = 4_500)]
    reply_deadline_ms: u64,
    /// How long the node may take to end after standard input has
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    drain: Duration,
    /// Repeat the times of kills and restarts of an earlier run, which has printed this
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// What to log on stderr: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", env = "ORSET_LOG", default_value = "info", value_parser = ["error", "warn", "info", "debug", "trace"])]
    log_level: String,
    /// The node's arguments
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse().map(Duration::try_from_secs_f64) {
        // A year is far beyond any run, and far from any overflow.
        Ok(Ok(time)) if time <= Duration::from_secs(365 * 24 * 3600) => Ok(time),
        _ => Err("a number of seconds, such as 2.5".to_owned()),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        time if time >= Duration::from_millis(10) => Ok(time),
        _ => Err("at least 0.01".to_owned()),
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Supervises a node; returns the exit code.
pub fn run(args: SuperviseArgs) -> anyhow::Result<u8> {
    let (after, until) = (args.kill_after.as_secs_f64(), args.kill_until.as_secs_f64());
    if after > until {
        let why = format!("--kill-after {after} is later than --kill-until {until}: there would be no time for a kill");
        return Err(Usage(why).into());
    }
    super::start_logging(&args.log_level);
    let status = supervise::run(SuperviseOptions {
        program: args.bin.unwrap_or_else(|| OURSELVES.into()),
        args: args.args,
        plan: Plan {
            kill_interval_ms: ms(args.kill_interval),
            kill_after_ms: ms(args.kill_after),
            kill_until_ms: ms(args.kill_until),
            max_down_ms: ms(args.restart_after),
            hold: args.hold,
            reinit: !args.no_reinit,
            reply_deadline_ms: args.reply_deadline_ms,
            drain_ms: ms(args.drain),
        },
        seed: args.seed.unwrap_or_else(|| fastrand::u64(..)),
    })?;
    Ok(supervise::exit_code(status))
}
