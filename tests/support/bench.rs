//! Runs of `orset test`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use super::binary;

/// A run of the bench in a directory of its own.
pub struct Run {
    /// How it ended, and what it said.
    pub output: Output,
    dir: tempfile::TempDir,
}

/// `orset test` with these arguments, separated by blanks, and the directory that its runs go to.
pub fn bench_command(args: &str) -> (Command, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(binary());
    command.args(["test", "--store"]).arg(dir.path().join("store")).args(args.split_ascii_whitespace());
    (command, dir)
}

/// Runs `orset test` with these arguments, separated by blanks.
pub fn bench(args: &str) -> Run {
    let (mut command, dir) = bench_command(args);
    Run { output: command.output().expect("orset runs"), dir }
}

impl Run {
    /// The run's directory.
    pub fn latest(&self) -> PathBuf {
        self.dir.path().join("store/latest")
    }

    /// `results.json`.
    pub fn results(&self) -> Value {
        let text = std::fs::read_to_string(self.latest().join("results.json"));
        serde_json::from_str(&text.unwrap_or_else(|error| panic!("no results: {error}: {}", self.said())))
            .expect("JSON")
    }

    /// All that it said.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned() + &String::from_utf8_lossy(&self.output.stderr)
    }

    /// What one node wrote on stderr.
    pub fn node_log(&self, node: &str) -> String {
        std::fs::read_to_string(self.latest().join("node-logs").join(format!("{node}.log"))).unwrap_or_default()
    }

    /// A figure of all nodes together.
    pub fn node_figure(&self, name: &str) -> u64 {
        let results = self.results();
        let nodes = results["node_events"].as_object().into_iter().flatten();
        nodes.filter_map(|(_, node)| node[name].as_u64()).sum()
    }

    /// Gives the results.
    #[track_caller]
    pub fn is_valid(&self) -> Value {
        assert_eq!(self.output.status.code(), Some(0), "{}", self.said());
        let results = self.results();
        assert_eq!(results["valid"], Value::Bool(true));
        results
    }

    /// The verdict is invalid, and these anomalies are named, with lines that are there.
    #[track_caller]
    pub fn is_caught(&self, bug: &str, names: &[&str]) {
        assert_eq!(self.output.status.code(), Some(1), "{}", self.said());
        let results = self.results();
        assert_eq!(results["valid"], Value::Bool(false));
        let counts = results["anomaly_counts"].as_object().expect("an object");
        for name in names {
            assert!(counts.contains_key(*name), "{bug}: no {name} among {counts:?}");
        }
        let lines = std::fs::read_to_string(self.latest().join("history.jsonl")).expect("a history").lines().count();
        for anomaly in results["anomalies"].as_array().expect("a list") {
            let operations = anomaly["operations"].as_array().expect("a list");
            assert!(!operations.is_empty(), "{anomaly}");
            assert!(operations.iter().all(|line| line.as_u64().is_some_and(|line| line < lines as u64)), "{anomaly}");
        }
    }
}

/// The node with bugs to choose from, which a plain `cargo test` builds.
pub fn faulty_node() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let target = test.parent().and_then(Path::parent).expect("target/debug/deps/bench-…");
    let node = target.join("examples").join("faulty_node");
    assert!(node.exists(), "not there: `cargo build --example faulty_node` makes it");
    node
}
