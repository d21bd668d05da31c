//! What a run is told to do.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::history::{FaultKind, Workload};

/// What a run is told to do. Names and meanings are Maelstrom's where it has them.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which requests the clients send.
    pub workload: Workload,
    /// The node's program.
    pub bin: PathBuf,
    /// Its arguments; `{node}` and `{data}` in them stand for the node's id and the run's data directory.
    pub args: Vec<OsString>,
    /// How many nodes.
    pub node_count: usize,
    /// How long clients send requests and faults happen.
    pub time_limit: Duration,
    /// Requests a second, of all clients together.
    pub rate: f64,
    /// How many clients.
    pub concurrency: usize,
    /// How long messages between nodes take.
    pub latency: Latency,
    /// What `topology` tells the nodes (workload `broadcast`).
    pub topology: Topology,
    /// The faults.
    pub nemesis: Vec<FaultKind>,
    /// Each kind of fault happens about this often.
    pub nemesis_interval: Duration,
    /// Whether a restarted node is sent `init` again.
    pub restart_init: bool,
    /// Whether clients of `or-set` ask again for what was not answered.
    pub retry: bool,
    /// Also show the nodes' stderr on our own.
    pub log_stderr: bool,
    /// Operations and faults are drawn from it.
    pub seed: u64,
    /// How many different elements the clients of `or-set` use.
    pub elements: u64,
    /// Share of the requests that are reads (0 to 1).
    pub read_share: f64,
    /// Share of the requests of `or-set` that are removes (0 to 1).
    pub remove_share: f64,
    /// How long the nodes may take to agree once all are healed and ready.
    pub recovery: Duration,
    /// Runs lie below this.
    pub store: PathBuf,
}

/// How long messages between nodes take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// Mean, in milliseconds.
    pub mean_ms: f64,
    /// How it is spread.
    pub distribution: Distribution,
}

/// How latencies are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Distribution {
    /// Always the mean.
    Constant,
    /// From 0 to twice the mean.
    Uniform,
    /// Exponential.
    Exponential,
}

impl Latency {
    /// One message's, in nanoseconds.
    pub fn draw_ns(self, random: &mut fastrand::Rng) -> u64 {
        let factor = match self.distribution {
            Distribution::Constant => 1.0,
            Distribution::Uniform => 2.0 * random.f64(),
            Distribution::Exponential => -(1.0 - random.f64()).ln(),
        };
        (self.mean_ms * factor * 1e6) as u64
    }
}

/// Who is whose neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Topology {
    /// All in a row.
    Line,
    /// A rectangle as square as it can be.
    Grid,
    /// A tree in which each has two children.
    Tree2,
    /// … three.
    Tree3,
    /// … four.
    Tree4,
    /// Everybody is everybody's.
    Total,
}

impl Topology {
    /// Each node's neighbours, of nodes 0 to `count`.
    #[must_use]
    pub fn neighbours(self, count: usize) -> Vec<Vec<usize>> {
        let side = (1..).find(|side| side * side >= count).unwrap_or(1);
        let joined = |a: usize, b: usize| match self {
            Topology::Line => b == a + 1,
            Topology::Grid => b == a + side || (b == a + 1 && !b.is_multiple_of(side)),
            Topology::Tree2 => (b - 1) / 2 == a,
            Topology::Tree3 => (b - 1) / 3 == a,
            Topology::Tree4 => (b - 1) / 4 == a,
            Topology::Total => true,
        };
        let near = |node: usize| {
            (0..count).filter(|other| *other != node && joined(node.min(*other), node.max(*other))).collect()
        };
        (0..count).map(near).collect()
    }
}

impl Options {
    /// Whether the nodes' stores must lie on disks that forget.
    #[must_use]
    pub fn cuts_power(&self) -> bool {
        self.nemesis.iter().any(|kind| kind.cuts_power())
    }

    /// For the history: everything that the first line does not name by itself.
    #[must_use]
    pub fn to_json(&self) -> BTreeMap<String, Value> {
        let text = |text: &OsString| text.to_string_lossy().into_owned();
        let mut bin = vec![self.bin.display().to_string()];
        bin.extend(self.args.iter().map(text));
        let value_name = |name: Option<clap::builder::PossibleValue>| name.map(|name| name.get_name().to_owned());
        let fields = [
            ("bin", json!(bin)),
            ("time-limit", json!(self.time_limit.as_secs_f64())),
            ("rate", json!(self.rate)),
            ("concurrency", json!(self.concurrency)),
            ("latency", json!(self.latency.mean_ms)),
            ("latency-dist", json!(value_name(clap::ValueEnum::to_possible_value(&self.latency.distribution)))),
            ("topology", json!(value_name(clap::ValueEnum::to_possible_value(&self.topology)))),
            ("nemesis", json!(self.nemesis)),
            ("nemesis-interval", json!(self.nemesis_interval.as_secs_f64())),
            ("restart-init", json!(self.restart_init)),
            ("retry", json!(self.retry)),
            ("elements", json!(self.elements)),
            ("read-share", json!(self.read_share)),
            ("remove-share", json!(self.remove_share)),
            ("recovery", json!(self.recovery.as_secs_f64())),
        ];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topologies_are_maelstroms() {
        assert_eq!(Topology::Line.neighbours(4), [vec![1], vec![0, 2], vec![1, 3], vec![2]]);
        assert_eq!(Topology::Grid.neighbours(5)[1], [0, 2, 4]);
        assert_eq!(Topology::Grid.neighbours(5)[2], [1]);
        assert_eq!(Topology::Tree2.neighbours(6)[2], [0, 5]);
        assert_eq!(Topology::Tree4.neighbours(6)[0], [1, 2, 3, 4]);
        assert_eq!(Topology::Total.neighbours(3)[1], [0, 2]);
        assert_eq!(Topology::Line.neighbours(1), [Vec::<usize>::new()]);
    }

    #[test]
    fn the_mean_latency_is_the_one_asked_for() {
        let mut random = fastrand::Rng::with_seed(1);
        for distribution in [Distribution::Constant, Distribution::Uniform, Distribution::Exponential] {
            let latency = Latency { mean_ms: 100.0, distribution };
            let mean = (0..100_000).map(|_| latency.draw_ns(&mut random)).sum::<u64>() / 100_000;
            assert!((98_000_000..102_000_000).contains(&mean), "{distribution:?}: {mean} ns");
        }
    }
}
