//! `orset test` with real processes: correct nodes are valid, and each planted bug is caught by name.

mod support;

use std::process::Command;

use serde_json::Value;
use support::bench::{Run, bench, faulty_node};

fn with_bug(bug: &str) -> Run {
    let node = faulty_node();
    let options = "--node-count 3 --time-limit 4 --rate 150 --elements 20 --concurrency 3n --recovery 1 \
                   --nemesis kill --nemesis-interval 1 --seed 5";
    bench(&format!("--bin {} {options} -- {bug} {{data}}/{{node}}", node.display()))
}

#[track_caller]
fn is_caught(bug: &str, names: &[&str]) {
    with_bug(bug).is_caught(bug, names);
}

#[test]
fn the_planted_node_without_a_bug_is_valid() {
    let results = with_bug("none").is_valid();
    assert!(results["or_set"]["drain"]["tags_expected"].as_u64() > Some(0), "{results}");
}

#[test]
fn a_node_that_acknowledges_before_it_writes_is_caught() {
    is_caught("acks-before-write", &["missed-own-add", "lost-tag"]);
}

#[test]
fn a_node_that_loses_its_last_write_is_caught() {
    is_caught("loses-last-write", &["lost-tag"]);
}

#[test]
fn a_node_that_forgets_removes_is_caught() {
    is_caught("forgets-removes", &["removed-twice"]);
}

#[test]
fn a_node_that_removes_what_it_has_not_seen_is_caught() {
    is_caught("removes-what-it-has-not-seen", &["missed-own-add"]);
}

#[test]
fn a_node_that_hands_out_a_tag_twice_is_caught() {
    is_caught("hands-out-a-tag-twice", &["duplicate-tag"]);
}

#[test]
fn a_node_that_never_merges_is_caught() {
    is_caught("never-merges", &["no-agreement", "lost-element"]);
}

#[test]
fn our_node_is_valid_under_all_faults_of_links_and_processes() {
    let run = bench(
        "--time-limit 6 --rate 150 --recovery 8 --latency 2 --latency-dist exponential --nemesis-interval 2 --seed 1 \
         --nemesis kill,kill-all,pause,partition,loss,duplicate,slow",
    );
    let results = run.is_valid();
    let faults = results["faults"].as_object().expect("an object");
    assert_eq!(faults.len(), 7, "{faults:?}");
    for file in ["history.jsonl", "messages.jsonl", "results.json", "node-logs/n4.log", "data/n0"] {
        assert!(run.latest().join(file).exists(), "{file}");
    }
    // A saved history is judged the same again.
    let again = Command::new(env!("CARGO_BIN_EXE_orset")).arg("check").arg(run.latest()).output().expect("orset runs");
    assert_eq!(again.status.code(), Some(0));
    assert_eq!(serde_json::from_slice::<Value>(&again.stdout).expect("JSON"), results);
    // The nodes' stores can be looked into.
    let dump = Command::new(env!("CARGO_BIN_EXE_orset")).arg("dump").arg(run.latest().join("data/n0")).output();
    assert!(dump.expect("orset runs").status.success());
}

#[test]
fn our_node_is_valid_without_a_second_init() {
    bench("--time-limit 4 --rate 150 --recovery 6 --nemesis kill,kill-all --nemesis-interval 1 --seed 2 --restart-init no")
        .is_valid();
}

#[test]
fn our_node_is_valid_when_stores_are_wiped_and_rolled_back() {
    let results = bench("--time-limit 6 --rate 150 --recovery 6 --nemesis wipe,rollback --nemesis-interval 1 --seed 3")
        .is_valid();
    let lost: u64 =
        results["node_events"].as_object().into_iter().flatten().filter_map(|(_, node)| node["wipes"].as_u64()).sum();
    assert!(lost > 0 && results["or_set"]["adds_at_risk"].as_u64() > Some(0), "{results}");
}

#[test]
fn the_standard_workloads_are_valid_with_kills() {
    for workload in ["g-set", "broadcast", "echo", "unique-ids"] {
        let run = bench(&format!(
            "-w {workload} --node-count 3 --time-limit 3 --rate 100 --nemesis kill --nemesis-interval 1 --seed 4"
        ));
        let results = run.is_valid();
        assert_eq!(results["workload"], workload);
        assert!(results["faults"]["kill"].as_u64() > Some(0));
    }
}

#[test]
fn too_little_to_judge_is_unknown_and_a_node_that_does_not_start_no_verdict() {
    let run = bench("-w unique-ids --node-count 1 --time-limit 0.001 --rate 1 --seed 1 --availability total");
    assert_ne!(run.output.status.code(), Some(3), "{}", run.said());
    let run = bench("--bin /nonexistent --time-limit 1");
    assert_eq!(run.output.status.code(), Some(3), "{}", run.said());
    assert!(run.said().contains("/nonexistent"), "{}", run.said());
    let run = bench("--bin /bin/false --time-limit 1");
    assert_eq!(run.output.status.code(), Some(3), "{}", run.said());
    assert!(run.said().contains("exit code 1"), "{}", run.said());
}
