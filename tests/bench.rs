//! `orset test` with real processes: correct nodes are valid, and each planted bug is caught by name.

mod support;

use std::path::Path;
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

/// Clients whose node was killed ask again under the same name: what they had asked for was done once.
#[test]
fn what_clients_ask_for_again_was_done_once() {
    let options = "--node-count 3 --time-limit 5 --rate 400 --elements 20 --concurrency 4n --recovery 10 --retry \
                   --nemesis kill,partition --nemesis-interval 1 --seed 11";
    let run = bench(options);
    run.is_valid();
    let history = std::fs::read_to_string(run.latest().join("history.jsonl")).expect("a history");
    let lines: Vec<Value> = history.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let again: Vec<&Value> = lines.iter().filter(|line| line["type"] == "again").map(|line| &line["op"]).collect();
    let answered =
        again.iter().filter(|op| lines.iter().any(|line| line["type"] == "ok" && line["op"] == ***op)).count();
    assert!(answered > 0 || again.len() < 3, "of {} asked for again none was answered", again.len());
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
fn a_reply_that_is_no_value_is_a_bad_line_and_the_run_goes_on() {
    is_caught("nests-too-deep", &["bad-line"]);
}

#[test]
fn a_drain_that_gets_no_answer_ends_and_leaves_the_verdict_open() {
    let node = faulty_node();
    // At five seconds for each eight elements, asking about all would take hours.
    let options = "--node-count 1 --time-limit 2 --rate 5000 --concurrency 20n --elements 1000000 --recovery 1 --remove-share 0 --read-share 0.01";
    let run = bench(&format!("--bin {} {options} --seed 1 -- answers-no-removes {{data}}/{{node}}", node.display()));
    assert_eq!(run.output.status.code(), Some(2), "{}", run.said());
    assert!(run.results()["or_set"]["must_be_present"].as_u64() > Some(0));
    assert!(run.said().contains("was not drained"), "{}", run.said());
}

#[test]
fn bad_lines_are_shown_harmless_and_not_without_end() {
    let run = with_bug("babbles");
    assert_eq!(run.output.status.code(), Some(1), "{}", run.said());
    assert!(!run.said().contains('\u{1b}'), "{}", run.said());
    assert!(run.results()["anomaly_counts"]["bad-line"].as_u64() >= Some(100));
    assert!(run.said().matches("wrote a bad line").count() <= 5 * 3, "{}", run.said());
}

#[test]
fn every_message_is_in_the_file() {
    let options = "--time-limit 3 --rate 200 --recovery 4 --latency 20 --nemesis-interval 0.5 --seed 3";
    let run = bench(&format!("{options} --nemesis kill,pause,partition,loss,duplicate"));
    let net = run.is_valid()["net"].clone();
    let text = std::fs::read_to_string(run.latest().join("messages.jsonl")).expect("messages");
    let messages = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let messages: Vec<Value> = messages.filter(|message| message["duplicate"] != true).collect();
    let is_client = |name: &Value| name.as_str().is_some_and(|name| name.starts_with('c'));
    let of_clients =
        messages.iter().filter(|message| is_client(&message["src"]) || is_client(&message["dest"])).count();
    assert_eq!(net["client_messages"], of_clients, "{net}");
    assert_eq!(net["server_messages"], messages.len() - of_clients, "{net}");
}

#[test]
fn a_process_that_has_left_the_nodes_group_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().expect("a directory");
    let (script, pids) = (dir.path().join("node"), dir.path().join("pids"));
    let (node, list) = (faulty_node().display().to_string(), pids.display().to_string());
    let text = format!("#!/bin/sh\nsetsid sleep 1000 & echo $! >> '{list}'\nexec '{node}' \"$@\"\n");
    std::fs::write(&script, text).expect("a script");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).expect("a mode");
    let options = "--node-count 2 --time-limit 3 --rate 100 --recovery 3 --nemesis kill --nemesis-interval 1 --seed 1";
    let run = bench(&format!("--bin {} --log-stderr {options} -- none {{data}}/{{node}}", script.display()));
    let pids = std::fs::read_to_string(&pids).expect("pids");
    let all_alive = pids.lines().all(|pid| Path::new("/proc").join(pid).exists());
    Command::new("kill").args(pids.lines()).status().expect("kill runs");
    assert!(all_alive, "they had left the group");
    run.is_valid();
}

#[test]
fn nobody_has_to_read_the_nodes_logs() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_orset"));
    command.args(["test", "--log-stderr", "--node-count", "1", "--time-limit", "1", "--recovery", "1", "--store"]);
    command.arg(dir.path()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let mut run = command.spawn().expect("orset runs");
    drop(run.stderr.take());
    assert_eq!(run.wait().expect("its end").code(), Some(0));
}

#[test]
fn a_name_without_a_path_is_a_file_as_under_maelstrom() {
    let node = faulty_node();
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_orset"));
    command.current_dir(node.parent().expect("a directory")).args(["test", "--bin", "faulty_node", "--store"]);
    command.arg(dir.path()).args(["--node-count", "1", "--time-limit", "1", "--recovery", "1", "--", "none"]);
    let output = command.arg("{data}/{node}").output().expect("orset runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn the_share_of_removes_counts_only_where_there_are_removes() {
    let run = bench("-w g-set --read-share 0.9 --node-count 1 --time-limit 1 --seed 1");
    assert_eq!(run.output.status.code(), Some(0), "{}", run.said());
}

#[test]
fn a_node_that_never_answers_topology_is_not_waited_for_for_ever() {
    let node = faulty_node();
    let run = bench(&format!(
        "-w broadcast --node-count 1 --time-limit 1 --bin {} -- ignores-topology {{data}}/{{node}}",
        node.display()
    ));
    assert_eq!(run.output.status.code(), Some(3), "{}", run.said());
    assert!(run.said().contains("did not answer topology"), "{}", run.said());
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

/// What a partitioned node had acknowledged goes with its store, if nobody else had heard of it.
#[test]
fn the_sets_without_removes_are_valid_when_stores_are_wiped_and_rolled_back() {
    for workload in ["g-set", "broadcast"] {
        let run = bench(&format!(
            "-w {workload} --node-count 3 --time-limit 5 --rate 150 --recovery 5 \
             --nemesis wipe,rollback,partition --nemesis-interval 0.7 --seed 2"
        ));
        // On a busy machine the nodes may be down all the time, and nothing is known then.
        assert_ne!(run.results()["valid"], Value::Bool(false), "{}", run.said());
        assert!(run.node_figure("wipes") > 0 && run.node_figure("rollbacks") > 0, "{}", run.said());
    }
}

#[test]
fn a_node_that_is_down_can_be_wiped_again() {
    // Two nodes with faults all the time: some wipe finds its node wiped, and kept down by a kill.
    bench("--node-count 2 --time-limit 5 --rate 50 --recovery 3 --nemesis kill,wipe,rollback --nemesis-interval 0.3 --seed 1")
        .is_valid();
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

#[test]
fn the_python_node_of_the_examples_is_valid_under_every_fault() {
    let python = Command::new("python3").arg("--version").output();
    if !python.is_ok_and(|output| output.status.success()) {
        support::skipped("there is no python3 to run examples/node.py");
        return;
    }
    let node = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/node.py");
    let options = "--time-limit 5 --rate 100 --elements 30 --recovery 3 --seed 6 --nemesis-interval 2";
    let faults = "--nemesis kill,pause,partition,loss,duplicate,wipe,rollback";
    let run = bench(&format!("--bin {} {options} {faults} -- {{data}}/{{node}}", node.display()));
    let results = run.is_valid();
    assert_eq!(results["faults"].as_object().map(serde_json::Map::len), Some(7), "{results}");
}

#[test]
fn a_number_out_of_its_bounds_is_refused_with_both_of_them() {
    for (option, bounds) in
        [("--latency 1e300", "from 0 to 1000000000"), ("--rate 1e300", "above 0, at most 1000000000")]
    {
        let run = bench(option);
        assert_eq!(run.output.status.code(), Some(2), "{}", run.said());
        assert!(run.said().contains(bounds), "{}", run.said());
    }
}

/// A node that babbles is caught by its lines, and the summary names them as an editor counts.
#[test]
fn the_lines_of_an_anomaly_are_counted_from_one_and_one_node_is_one() {
    let node = faulty_node();
    let options = "--node-count 1 --time-limit 1 --rate 50 --recovery 1 --seed 1";
    let run = bench(&format!("--bin {} {options} -- babbles {{data}}/{{node}}", node.display()));
    assert!(run.said().contains(" on 1 node, seed 1"), "{}", run.said());
    let said = run.said();
    let told = said.lines().find(|line| line.starts_with("  bad-line")).expect("an anomaly");
    let number: usize =
        told.rsplit_once("(line ").expect("its line").1.trim_end_matches(')').parse().expect("one line");
    let history = std::fs::read_to_string(run.latest().join("history.jsonl")).expect("a history");
    let line: Value = serde_json::from_str(history.lines().nth(number - 1).expect("it is there")).expect("JSON");
    assert_eq!(line["change"], "bad-line", "{told}: {line}");
    let results = run.results();
    assert_eq!(results["anomalies"][0]["operations"][0], line["index"], "results.json names its index");
}
