//! `orset supervise` with real processes: this binary's own nodes, and shell scripts as nodes with habits.
//!
//! Each test is about one of the ten rules in `docs/supervise.md`; `src/supervise/rules/tests.rs` has them without
//! processes. A supervisor that was killed shows that all below it are gone by the end of its stderr, which they hold too.

mod support;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::Signal;
use support::node::{Line, Node, Process, Stderr, was_killed};
use support::{PATIENCE, binary, env_number, seed, temp_dir, wait_until};

const INIT: &str = r#"{"src":"c0","dest":"n1","body":{"type":"init","msg_id":1,"node_id":"n1","node_ids":["n1"]}}"#;
const INIT_OK: &str = r#"{"src": "n1", "dest": "c0", "body": {"type": "init_ok", "in_reply_to": 1}}"#;
/// A node that answers `init`, and says what else it hears.
const ECHO: &str = r#"while read -r line; do
    case $line in *'"init"'*) echo "$INIT_OK";; *) printf 'heard %s\n' "$line";; esac; done"#;
/// No kill comes.
const QUIET: [&str; 4] = ["--kill-after", "0", "--kill-until", "0"];
/// One kill comes soon, and then the node stays down: that it came back within a minute has a chance of one in half a
/// million.
const ONE_KILL: [&str; 6] = ["--kill-after", "0", "--kill-interval", "0.05", "--restart-after", "31536000"];
/// Kills come one after the other.
const MANY_KILLS: [&str; 8] =
    ["--kill-after", "0", "--kill-interval", "0.3", "--kill-until", "1000000", "--restart-after", "0.1"];

/// A supervisor, and the test in Maelstrom's place.
struct Supervisor {
    process: Process,
    lines: Receiver<String>,
}

impl Supervisor {
    fn spawn(options: &[&str], args: &[&OsStr]) -> Self {
        let (sender, lines) = channel();
        let mut all: Vec<&OsStr> = vec!["supervise".as_ref()];
        all.extend(options.iter().map(OsStr::new));
        all.push("--".as_ref());
        all.extend(args);
        // A test that has seen enough may hang up.
        let process = Process::spawn(&all, move |line| drop(sender.send(line)));
        Self { process, lines }
    }

    /// With a script as its node, which finds the answer to `init` in $INIT_OK and `dir` in $DIR.
    fn of_script(options: &[&str], dir: &Path, script: &str) -> Self {
        let script = format!("INIT_OK='{INIT_OK}'; DIR='{}'; {script}", dir.display());
        let options = [options, &["--bin", "/bin/sh"]].concat();
        Self::spawn(&options, &["-c".as_ref(), script.as_ref()])
    }

    /// With this binary's `serve`.
    fn of_serve(options: &[&str], dir: &Path, more: &[&str]) -> Self {
        let mut args: Vec<&OsStr> = vec!["serve".as_ref(), "--data-dir".as_ref(), dir.as_ref()];
        args.extend(more.iter().map(OsStr::new));
        Self::spawn(options, &args)
    }

    fn send(&mut self, line: &str) {
        let written = self.process.write(format!("{line}\n").as_bytes());
        assert!(written, "it reads no more; stderr:\n{}", self.stderr().text());
    }

    fn init(&mut self) {
        self.send(INIT);
        let line = Line::parse(self.next());
        assert_eq!((line.dest.as_str(), line.in_reply_to(), &line.body["type"]), ("c0", Some(1), &"init_ok".into()));
    }

    fn next(&mut self) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        line.unwrap_or_else(|why| panic!("no line: {why}; stderr:\n{}", self.stderr().text()))
    }

    fn stderr(&self) -> Stderr {
        self.process.stderr.clone()
    }

    fn wait_for_kills(&self, kills: u64) {
        self.stderr().wait_for(&format!("so far {kills} kills"));
    }

    /// Ends its input; returns how it ended, what else it wrote, and stderr.
    fn finish(mut self) -> (ExitStatus, Vec<String>, String) {
        let status = self.process.finish();
        (status, self.lines.iter().collect(), self.stderr().text())
    }

    /// SIGKILLs it; returns when nobody holds its stderr any more.
    fn kill(mut self) -> Vec<String> {
        let (sender, killed) = channel();
        let stderr = self.stderr();
        std::thread::spawn(move || {
            assert!(was_killed(self.process.kill()));
            drop(sender.send(self.lines.iter().collect()));
        });
        killed.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("somebody outlives it; stderr:\n{}", stderr.text()))
    }
}

fn add(n: u64) -> String {
    format!(r#"{{"id":{n},"src":"c1","dest":"n1","body":{{"type":"add","msg_id":{n},"element":{n}}}}}"#)
}

/// Sends adds until there were so many kills; returns the elements that were acknowledged.
fn add_until_killed(supervisor: &mut Supervisor, kills: u64) -> Vec<String> {
    let (mut sent, mut acknowledged) = (0, Vec::new());
    let enough = format!("so far {kills} kills");
    while !supervisor.stderr().text().contains(&enough) {
        sent += 1;
        supervisor.send(&add(sent));
        // A reply may never come; the pause is the pace of the clients.
        let reply = supervisor.lines.recv_timeout(Duration::from_millis(5));
        acknowledged.extend(reply.into_iter().chain(supervisor.lines.try_iter()).map(acknowledged_element));
    }
    acknowledged
}

fn acknowledged_element(line: String) -> String {
    let line = Line::parse(line);
    assert_eq!(line.body["type"], "add_ok", "one init_ok, and no refusal: {}", line.text);
    line.in_reply_to().expect("a reply").to_string()
}

/// Rules 1, 3, 4, 5, 10, and what it is all for.
#[test]
fn a_node_that_is_killed_again_and_again_is_one_node_to_those_above() {
    let seed = seed("supervise").to_string();
    let kills = env_number("ORSET_KILLS", 8);
    for more in [&["--hold"][..], &[], &["--no-reinit"]] {
        let dir = temp_dir();
        let node_args: &[&str] = if more == ["--no-reinit"] { &["--node-id", "n1"] } else { &[] };
        let options = [&MANY_KILLS[..], &["--seed", &seed], more].concat();
        let mut supervisor = Supervisor::of_serve(&options, dir.path(), node_args);
        supervisor.init();
        let mut acknowledged = add_until_killed(&mut supervisor, kills);
        let (status, rest, stderr) = supervisor.finish();
        assert_eq!(status.code(), Some(0), "{stderr}");
        acknowledged.extend(rest.into_iter().map(acknowledged_element));
        assert!(stderr.contains(&format!("seed {seed};")) && stderr.contains("recovered after a crash"), "{stderr}");
        let end = stderr.lines().last().expect("it says how it was");
        let none = if more == ["--hold"] { " 0 lines lost, " } else { " 0 held, " };
        assert!(end.contains(none), "{stderr}");
        let mut node = Node::start(dir.path(), "n1", &[]);
        let elements: BTreeSet<String> = node.read().into_iter().collect();
        let lost: Vec<_> = acknowledged.iter().filter(|element| !elements.contains(element.as_str())).collect();
        assert!(lost.is_empty() && !acknowledged.is_empty(), "lost: {lost:?} of {acknowledged:?}; {stderr}");
        node.stop();
    }
}

/// Rule 2.
#[test]
fn half_a_line_of_a_killed_node_is_discarded() {
    let dir = temp_dir();
    let script = r#"read -r init; echo "$INIT_OK"; echo whole; printf half; exec sleep 1000"#;
    let mut supervisor = Supervisor::of_script(&MANY_KILLS, dir.path(), script);
    supervisor.init();
    supervisor.wait_for_kills(3);
    let lines = supervisor.kill();
    assert!(lines.len() >= 2 && lines.iter().all(|line| line == "whole"), "{lines:?}");
}

/// Rule 4.
#[test]
fn before_the_first_init_ok_everything_passes_and_nobody_is_killed() {
    let dir = temp_dir();
    let script = r#"while read -r line; do
        case $line in answer) echo "$INIT_OK";; *) printf 'heard %s\n' "$line";; esac; done"#;
    let mut supervisor = Supervisor::of_script(&ONE_KILL, dir.path(), script);
    for line in ["from a peer", INIT, "request", "other"].repeat(100) {
        supervisor.send(line);
        assert_eq!(supervisor.next(), format!("heard {line}"));
    }
    assert!(!supervisor.stderr().text().contains("kill of"));
    supervisor.send("answer");
    assert_eq!(supervisor.next(), INIT_OK);
    supervisor.wait_for_kills(1);
    assert_eq!(supervisor.kill(), Vec::<String>::new());
}

/// Rules 5 and 9.
#[test]
fn lines_that_come_while_the_node_is_down_are_lost() {
    let dir = temp_dir();
    let mut supervisor = Supervisor::of_script(&ONE_KILL, dir.path(), ECHO);
    supervisor.init();
    supervisor.wait_for_kills(1);
    (1..=20).for_each(|n| supervisor.send(&add(n)));
    let (status, lines, stderr) = supervisor.finish();
    assert_eq!((status.code(), &lines[..]), (Some(0), &[][..]));
    assert!(stderr.contains("ended: 1 kills, 20 lines lost, 0 held, 0 late"), "{stderr}");
}

/// Rules 5 and 9.
#[test]
fn with_hold_they_are_delivered_in_order_after_init() {
    let dir = temp_dir();
    let mut supervisor = Supervisor::of_script(&[&ONE_KILL[..], &["--hold"]].concat(), dir.path(), ECHO);
    supervisor.init();
    supervisor.wait_for_kills(1);
    (1..=20).for_each(|n| supervisor.send(&add(n)));
    let (status, lines, stderr) = supervisor.finish();
    assert_eq!(status.code(), Some(0));
    assert_eq!(lines, (1..=20).map(|n| format!("heard {}", add(n))).collect::<Vec<_>>());
    assert!(stderr.contains("ended: 1 kills, 0 lines lost, 20 held, 0 late"), "{stderr}");
}

/// Rule 5.
#[test]
fn with_hold_a_line_that_met_a_closed_pipe_is_delivered_too() {
    let dir = temp_dir();
    // In its first life it closes its stdin, and only then says that it is ready.
    let deaf =
        r#"if mkdir "$DIR/life"; then read -r init; exec 0<&-; echo "$INIT_OK"; exec sleep 1000; fi 2>/dev/null"#;
    let script = format!("{deaf}; {ECHO}");
    let mut supervisor = Supervisor::of_script(&[&ONE_KILL[..], &["--hold"]].concat(), dir.path(), &script);
    supervisor.init();
    (1..=3).for_each(|n| supervisor.send(&add(n)));
    supervisor.wait_for_kills(1);
    let (status, lines, stderr) = supervisor.finish();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(lines, (1..=3).map(|n| format!("heard {}", add(n))).collect::<Vec<_>>(), "{stderr}");
}

/// Rule 6.
#[test]
fn a_reply_to_a_client_that_has_given_up_is_dropped() {
    let dir = temp_dir();
    // The pause is the fault.
    let script = r#"read -r init; echo "$INIT_OK"; read -r request; sleep 0.2
        echo '{"src":"n1","dest":"c1","body":{"type":"add_ok","in_reply_to":1}}'
        echo '{"src":"n1","dest":"n2","body":{"type":"add_ok","in_reply_to":1}}'"#;
    for (deadline, late) in [("100", 1), ("60000", 0)] {
        let options = [&QUIET[..], &["--reply-deadline-ms", deadline]].concat();
        let mut supervisor = Supervisor::of_script(&options, dir.path(), script);
        supervisor.init();
        supervisor.send(&add(1));
        let (status, lines, stderr) = supervisor.finish();
        assert_eq!(status.code(), Some(0), "{stderr}");
        assert_eq!(lines.len(), 2 - late, "{lines:?}");
        assert_eq!(lines.last().map(|line| line.contains(r#""dest":"n2""#)), Some(true));
        assert!(stderr.contains(&format!("{late} late replies dropped")), "{stderr}");
    }
}

/// Rule 7.
#[test]
fn a_direction_that_is_stuck_holds_up_neither_the_other_nor_a_kill() {
    let dir = temp_dir();
    let heard = dir.path().join("heard");
    // It floods those above, who do not read, and takes everything that comes.
    let flood = r#"read -r init; echo "$INIT_OK"; yes "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" & exec cat >"$DIR/heard""#;
    let mut command = Command::new(binary());
    command.args(["supervise", "--kill-after", "2", "--kill-interval", "0.1", "--bin", "/bin/sh", "--", "-c"]);
    command.arg(format!("INIT_OK='{INIT_OK}'; DIR='{}'; {flood}", dir.path().display()));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{INIT}").unwrap();
    let block = "a line of some length\n".repeat(100_000);
    stdin.write_all(block.as_bytes()).unwrap();
    wait_until("everything has got through", || heard.metadata().is_ok_and(|file| file.len() == block.len() as u64));
    let mut stderr = child.stderr.take().unwrap();
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("so far 1 kills") {
        let mut piece = [0; 4096];
        let length = stderr.read(&mut piece).unwrap();
        assert_ne!(length, 0, "{}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&piece[..length]);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Rule 7.
#[test]
fn a_node_that_reads_nothing_is_heard_all_the_same() {
    let dir = temp_dir();
    let gate = dir.path().join("gate");
    rustix::fs::mknodat(rustix::fs::CWD, &gate, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let script = r#"read -r init; echo "$INIT_OK"; read -r _ <"$DIR/gate"; seq 1000; exec cat"#;
    let mut supervisor = Supervisor::of_script(&QUIET, dir.path(), script);
    supervisor.init();
    let block = "a line of some length\n".repeat(100_000);
    assert!(supervisor.process.write(block.as_bytes()));
    std::fs::write(&gate, "go\n").unwrap();
    (1..=1000).for_each(|n| assert_eq!(supervisor.next(), n.to_string()));
    let (status, lines, stderr) = supervisor.finish();
    assert_eq!((status.code(), lines.len()), (Some(0), 100_000), "{stderr}");
}

/// Whether there is no such process any more, or it is only waiting for somebody to take note of its end.
fn is_gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])))
}

/// Rule 8.
#[test]
fn a_killed_supervisor_takes_the_node_and_its_children_along() {
    let dir = temp_dir();
    let script =
        r#"read -r init; echo "$INIT_OK"; sleep 1000 & sh -c 'sleep 1000 & echo $!; wait' & echo $$; echo $!; wait"#;
    let mut supervisor = Supervisor::of_script(&QUIET, dir.path(), script);
    supervisor.init();
    let pids = [supervisor.next(), supervisor.next(), supervisor.next()];
    for pid in &pids {
        assert!(!is_gone(pid), "{pids:?}");
    }
    supervisor.process.signal(Signal::KILL);
    for pid in &pids {
        wait_until("all are gone", || is_gone(pid));
    }
    supervisor.kill();
}

/// Rule 8.
#[test]
fn nobody_outlives_a_supervisor_that_is_killed_at_any_instant() {
    let mut rng = fastrand::Rng::with_seed(seed("supervise"));
    let dir = temp_dir();
    let script = r#"read -r init; echo "$INIT_OK"; sleep 1000 & exec sleep 1000"#;
    let options = ["--kill-after", "0", "--kill-interval", "0.01", "--restart-after", "0.002"];
    for _ in 0..env_number("ORSET_KILLS", 40) {
        let mut supervisor = Supervisor::of_script(&options, dir.path(), script);
        supervisor.process.write(format!("{INIT}\n").as_bytes());
        // The random instant is the fault.
        std::thread::sleep(Duration::from_micros(rng.u64(..80_000)));
        supervisor.kill();
    }
}

/// Rule 9.
#[test]
fn at_the_end_of_the_input_the_node_says_its_last_words_and_its_status_is_ours() {
    let dir = temp_dir();
    for (end, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143)] {
        let script = format!("while read -r line; do :; done; seq 20000; {end}");
        let mut supervisor = Supervisor::of_script(&QUIET, dir.path(), &script);
        supervisor.send("hello");
        let (status, lines, stderr) = supervisor.finish();
        assert_eq!((status.code(), lines.len()), (Some(code), 20_000), "{end}: {stderr}");
        assert!(!stderr.contains("nobody had killed it"), "{stderr}");
    }
}

/// Rule 9.
#[test]
fn a_node_that_does_not_end_is_killed_with_all_that_it_has_started() {
    let dir = temp_dir();
    let options = [&QUIET[..], &["--drain", "0.1"]].concat();
    let mut supervisor = Supervisor::of_script(&options, dir.path(), "echo $$; sleep 1000 & exec sleep 1000");
    let pid = supervisor.next();
    // That this returns says that nobody holds stderr any more.
    let (status, _, stderr) = supervisor.finish();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("not ended in time") && is_gone(&pid), "{stderr}");
}

/// What nobody has asked for is not hidden.
#[test]
fn a_node_that_crashes_is_not_started_again() {
    let dir = temp_dir();
    for (end, code) in [("exit 3", 3), ("kill -KILL $$", 137)] {
        let script = format!(r#"read -r init; echo "$INIT_OK"; echo last words; {end}"#);
        let mut supervisor = Supervisor::of_script(&QUIET, dir.path(), &script);
        supervisor.init();
        assert_eq!(supervisor.next(), "last words");
        assert_eq!(supervisor.process.wait().code(), Some(code));
        let stderr = supervisor.stderr().text();
        assert!(stderr.contains("nobody had killed it") && stderr.matches(" started").count() == 1, "{stderr}");
    }
}

#[test]
fn a_node_that_refuses_init_after_a_restart_is_the_end() {
    let dir = temp_dir();
    let refuse = r#"mkdir "$DIR/life" 2>/dev/null || INIT_OK='{"src":"n1","dest":"c0","body":{"type":"error","in_reply_to":1,"code":22}}'"#;
    let mut supervisor = Supervisor::of_script(&MANY_KILLS, dir.path(), &format!("{refuse}; {ECHO}"));
    supervisor.init();
    assert_eq!(supervisor.process.wait().code(), Some(1));
    assert!(supervisor.stderr().text().contains("refuses init"), "{}", supervisor.stderr().text());
}

/// Rule 10.
#[test]
fn the_nodes_stderr_passes_through() {
    let dir = temp_dir();
    let supervisor = Supervisor::of_script(&QUIET, dir.path(), "echo 'words to people' >&2; read -r line; exit 0");
    supervisor.stderr().wait_for("words to people\n");
    assert_eq!(supervisor.finish().0.code(), Some(0));
}

#[test]
fn nobody_reading_the_output_ends_the_node_in_good_order() {
    let dir = temp_dir();
    let mut command = Command::new(binary());
    command.args(["supervise", "--bin", "/bin/sh", "--", "-c", "yes & while read -r l; do :; done; kill $!; exit 5"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let stdin = child.stdin.take();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 2]).unwrap();
    drop(stdout);
    assert_eq!(child.wait().unwrap().code(), Some(5));
    drop((stdin, dir));
}

#[test]
fn wrong_usage_is_2_and_what_cannot_be_started_is_1() {
    for (args, code, word) in [
        (&["--kill-interval", "0"][..], 2, "0.01"),
        (&["--kill-after", "soon"], 2, "seconds"),
        (&["--kill-after", "30", "--kill-until", "20"], 2, "--kill-after 30 is later than --kill-until 20"),
        (&["--kill-until", "3"], 2, "--kill-after 5 is later than --kill-until 3"),
        (&["--drain=-1"], 2, "seconds"),
        (&["serve"], 2, "unexpected argument"),
        (&["--bin", "/nonexistent/node"], 1, "cannot start /nonexistent/node"),
    ] {
        let mut command = Command::new(binary());
        let out = command.arg("supervise").args(args).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(out.stdout.is_empty() && stderr.contains(word), "{args:?}: {stderr}");
    }
}
