//! `orset test`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Usage;
use super::check::{NoVerdict, summary};
use super::progress;
use crate::bench::checker::{self, CheckOptions, Demand, Results};
use crate::bench::history::{FaultKind, Workload};
use crate::bench::{self, Distribution, Latency, Options, RunError, Topology};

/// Options of the bench.
#[derive(Args, Debug)]
pub struct TestArgs {
    /// What the clients do
    #[arg(short, long, default_value = "or-set")]
    workload: Workload,
    /// The node's program, in any language; its arguments come after `--`. Default: this program's `serve`
    #[arg(long, value_name = "FILE")]
    bin: Option<PathBuf>,
    /// How many nodes, from 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    node_count: u16,
    /// How long clients send requests and faults happen, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = positive)]
    time_limit: f64,
    /// Requests a second, of all clients together
    #[arg(long, value_name = "HZ", default_value_t = 100.0, value_parser = positive)]
    rate: f64,
    /// How many clients; `2n`: two for each node
    #[arg(long, value_name = "N", default_value = "2n")]
    concurrency: String,
    /// How long messages between nodes take on average, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0.0, value_parser = not_negative)]
    latency: f64,
    /// How latencies are spread
    #[arg(long, default_value = "constant")]
    latency_dist: Distribution,
    /// Who is whose neighbour, as `topology` tells the nodes of the workload broadcast
    #[arg(long, default_value = "grid")]
    topology: Topology,
    /// The faults, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    nemesis: Vec<FaultKind>,
    /// Each kind of fault happens about this often, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = positive)]
    nemesis_interval: f64,
    /// Whether a restarted node is sent `init` again
    #[arg(long, default_value = "yes", value_parser = ["yes", "no"])]
    restart_init: String,
    /// Clients of or-set ask again, under the same `request_id`, for what was not answered
    #[arg(long)]
    retry: bool,
    /// Also show the nodes' stderr here
    #[arg(long)]
    log_stderr: bool,
    /// Operations and faults are drawn from it [default: a new one, which is shown]
    #[arg(long)]
    seed: Option<u64>,
    /// How many different elements the clients of or-set use: strings and integers
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    elements: u64,
    /// Share of the requests that are reads [default: 0.25 of or-set, 0.5 of g-set and broadcast]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    read_share: Option<f64>,
    /// Share of the requests of or-set that are removes
    #[arg(long, value_name = "SHARE", default_value_t = 0.25, value_parser = share)]
    remove_share: f64,
    /// Share of the requests that must be answered well: `total`, or a number from 0 to 1
    #[arg(long, value_name = "SHARE", default_value = "none")]
    availability: Demand,
    /// After the time limit all is healed, and the nodes have so long to agree, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = positive)]
    recovery: f64,
    /// Where runs are kept
    #[arg(long, value_name = "DIR", default_value = "store")]
    store: PathBuf,
    /// Arguments of the node: in them `{node}` stands for its id, and `{data}` for the run's data directory, or for
    /// the node's own disk if power is cut; in it the store of each node is what is called like its id
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

fn number(text: &str, allowed: impl Fn(f64) -> bool, what: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number: &f64| number.is_finite() && allowed(*number)).ok_or_else(|| what.to_owned())
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, |number| number > 0.0 && number <= 1e9, "a number above 0, at most 1000000000")
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, |number| (0.0..=1e9).contains(&number), "a number from 0 to 1000000000")
}

fn share(text: &str) -> Result<f64, String> {
    number(text, |number| (0.0..=1.0).contains(&number), "a number from 0 to 1")
}

/// A number of clients, or one with `n`: so many for each node.
fn concurrency(text: &str, nodes: usize) -> Option<usize> {
    let clients = match text.strip_suffix('n') {
        Some("") => nodes,
        Some(each) => each.parse::<usize>().ok()?.checked_mul(nodes)?,
        None => text.parse().ok()?,
    };
    (1..=100_000).contains(&clients).then_some(clients)
}

impl TestArgs {
    fn options(self) -> anyhow::Result<Options> {
        let node_count = usize::from(self.node_count);
        let clients = concurrency(&self.concurrency, node_count).ok_or_else(|| {
            Usage(format!(
                "--concurrency {:?}: must be a number from 1 to 100000, or one with n such as 2n",
                self.concurrency
            ))
        })?;
        let sets = matches!(self.workload, Workload::GSet | Workload::Broadcast);
        let read_share = self.read_share.unwrap_or(if sets { 0.5 } else { 0.25 });
        if self.retry && self.workload != Workload::OrSet {
            return Err(Usage("--retry is for the workload or-set".to_owned()).into());
        }
        if self.workload == Workload::OrSet && read_share + self.remove_share > 1.0 {
            return Err(Usage("--read-share and --remove-share are more than 1 together".to_owned()).into());
        }
        let restart_init = self.restart_init == "yes";
        if self.bin.is_none() && !self.args.is_empty() && self.args[0] != "serve" {
            return Err(Usage("without --bin, the arguments after -- must begin with serve".to_owned()).into());
        }
        let bin = match &self.bin {
            // As under Maelstrom a name is a file's; only one that is not there is looked for in PATH.
            Some(bin) if bin.components().count() > 1 || bin.is_file() => std::path::absolute(bin)?,
            Some(bin) => bin.clone(),
            None => std::env::current_exe()?,
        };
        let mut args = self.args;
        if self.bin.is_none() && args.is_empty() {
            args = ["serve", "--data-dir", "{data}"].map(OsString::from).to_vec();
            if !restart_init {
                args.extend(["--node-id", "{node}"].map(OsString::from));
            }
        }
        Ok(Options {
            workload: self.workload,
            bin,
            args,
            node_count,
            time_limit: Duration::from_secs_f64(self.time_limit),
            rate: self.rate,
            concurrency: clients,
            latency: Latency { mean_ms: self.latency, distribution: self.latency_dist },
            topology: self.topology,
            nemesis: self.nemesis,
            nemesis_interval: Duration::from_secs_f64(self.nemesis_interval),
            restart_init,
            retry: self.retry,
            log_stderr: self.log_stderr,
            seed: self.seed.unwrap_or_else(|| fastrand::u64(..1 << 32)),
            elements: self.elements,
            read_share,
            remove_share: self.remove_share,
            recovery: Duration::from_secs_f64(self.recovery),
            store: self.store,
        })
    }
}

/// Runs the bench, judges the run, and says so. Gives the exit code.
pub fn run(args: TestArgs) -> anyhow::Result<u8> {
    super::start_logging("warn");
    let check = CheckOptions { availability: args.availability };
    let options = args.options()?;
    let results = judge(&options, &check).map_err(|error| match error.downcast::<RunError>() {
        // The nemesis cannot be had here, so nothing was begun.
        Ok(RunError::NoPower(why)) => anyhow::Error::from(Usage(why.to_string())),
        Ok(error) => NoVerdict::from(anyhow::Error::from(error)).into(),
        Err(error) => NoVerdict::from(error).into(),
    })?;
    Ok(results.exit_code())
}

fn judge(options: &Options, check: &CheckOptions) -> anyhow::Result<Results> {
    let mut progress = progress::progress(options.time_limit);
    let finished = bench::run(options, progress.as_mut())?;
    drop(progress);
    let results = checker::check(&finished.history, check);
    bench::write_results(&finished.dir, &results)?;
    bench::report::write(&finished.dir, &finished.history)?;
    summary::print(&results, Some(&finished.dir))?;
    Ok(results)
}
