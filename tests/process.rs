//! The process as its owner sees it: exit codes, signals, pipes that close early, one owner a store, and whose files they are.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use support::node::Node;
use support::{binary, temp_dir};

fn run(args: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(binary());
    command.args(args).current_dir(dir).env_remove("ORSET_DATA_DIR").stdin(Stdio::null());
    command.output().expect("the binary can be started")
}

#[test]
fn a_usage_error_is_2_and_writes_nothing_to_stdout() {
    let dir = temp_dir();
    for args in
        [&["serve", "--no-such-option"][..], &["no-such-command"], &["serve", "--catch-up-ms", "soon"], &["dump"]]
    {
        let out = run(args, dir.path());
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(out.stdout.is_empty() && !out.stderr.is_empty(), "{args:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a usage error makes no files");
}

/// Bugs that are planted for the tests of the tests are in no build that did not ask for them.
#[test]
#[cfg(not(feature = "planted-bugs"))]
fn an_ordinary_build_has_no_planted_bugs() {
    let dir = temp_dir();
    for name in ["all", "reply-before-sync"] {
        let out = run(&["sim", "--plant", name], dir.path());
        assert_eq!(out.status.code(), Some(2), "{out:?}");
        assert!(out.stdout.is_empty(), "{out:?}");
    }
    let program = std::fs::read(binary()).unwrap();
    let name = b"reply-before-sync";
    assert!(!program.windows(name.len()).any(|bytes| bytes == name), "the program knows the name of a planted bug");
}

#[test]
fn help_and_version_are_0_and_help_names_the_exit_codes() {
    let dir = temp_dir();
    let version = run(&["--version"], dir.path());
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(String::from_utf8(version.stdout).unwrap().trim(), concat!("orset ", env!("CARGO_PKG_VERSION")));
    let help = run(&["--help"], dir.path());
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).unwrap();
    for word in ["serve", "dump", "usage", "in use", "newer"] {
        assert!(text.contains(word), "--help does not say {word:?}:\n{text}");
    }
}

#[test]
fn a_node_id_that_is_no_directory_name_is_refused_and_makes_no_files() {
    let dir = temp_dir();
    let data_dir = dir.path().join("data");
    let mut node = Node::spawn(&data_dir, "n1", &[]);
    for id in ["../x", "..", ".", "", "a/b", "/tmp", "a\\u0000b", ".hidden"] {
        let code = node.refused(&format!(r#""type":"init","node_id":"{id}","node_ids":["{id}"]"#));
        assert_eq!(code, 12, "{id:?}");
    }
    node.init();
    node.stop();
    let made = |path: &Path| -> Vec<String> {
        let names = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.collect()
    };
    assert_eq!(made(dir.path()), ["data"]);
    assert_eq!(made(&data_dir), ["n1"]);
}

#[test]
fn plain_orset_is_serve_and_the_data_directory_can_come_from_the_environment() {
    let dir = temp_dir();
    let input = std::fs::read("tests/seed-cases/add-and-read.in").unwrap();
    for (data_dir, expected) in [(None, "orset-data/n1"), (Some("elsewhere"), "elsewhere/n1")] {
        let mut command = Command::new(binary());
        command.current_dir(dir.path()).env_remove("ORSET_DATA_DIR");
        command.envs(data_dir.map(|path| ("ORSET_DATA_DIR", path)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&input).unwrap();
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(0));
        assert_eq!(String::from_utf8(out.stdout).unwrap().lines().count(), 3);
        assert!(dir.path().join(expected).is_dir(), "no {expected}");
    }
}

#[test]
fn a_second_process_on_the_store_exits_with_3_and_the_first_goes_on() {
    let dir = temp_dir();
    let mut first = Node::start(dir.path(), "n1", &[]);
    let tag = first.add("1");
    // One that learns who it is from the command line, and one that learns it from `init`.
    for args in [&["--node-id", "n1"][..], &[]] {
        let mut second = Node::spawn(dir.path(), "n1", args);
        let (_, init) = second.line_of(r#""type":"init","node_id":"n1","node_ids":["n1"]"#);
        // It may have gone already.
        second.write(init.as_bytes());
        let status = second.process.wait();
        assert_eq!(status.code(), Some(3), "stderr:\n{}", second.process.stderr.text());
        let said = second.drain();
        assert!(!said.iter().any(|line| line.body["type"] == "init_ok"), "{said:?}");
    }
    assert_eq!(first.remove("1"), [tag]);
    first.stop();
}

/// Found by a stranger: `mv store away` while the node was stopping let it write its manifest into the next store there.
#[test]
fn a_node_whose_store_was_moved_away_leaves_the_next_store_there_alone() {
    let dir = temp_dir();
    let mut first = Node::start(dir.path(), "n1", &[]);
    first.add("1");
    std::fs::rename(dir.path().join("n1"), dir.path().join("away")).unwrap();
    let mut second = Node::start(dir.path(), "n1", &[]);
    let tag = second.add("2");
    let status = first.process.finish();
    assert_eq!(status.code(), Some(1), "{}", first.process.stderr.text());
    assert!(first.process.stderr.text().contains("moved or removed"), "{}", first.process.stderr.text());
    second.process.kill();
    let mut second = Node::start(dir.path(), "n1", &[]);
    assert_eq!(second.remove("2"), [tag]);
    second.stop();
}

/// Found by a stranger: a word that could not be said on stderr ended the node.
#[test]
fn it_goes_on_where_nothing_can_be_said_on_stderr() {
    let dir = temp_dir();
    let mut command = Command::new(binary());
    command.arg("serve").arg("--data-dir").arg(dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(std::fs::File::create("/dev/full").unwrap()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A blank line is worth a word.
    stdin.write_all(b"\n").unwrap();
    stdin.write_all(&std::fs::read("tests/seed-cases/add-and-read.in").unwrap()).unwrap();
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0));
    assert_eq!(String::from_utf8(out.stdout).unwrap().lines().count(), 3);
}

/// Every way to stop keeps what was answered, and answers what was asked.
#[test]
fn signals_and_the_end_of_input_stop_it_with_0() {
    let dir = temp_dir();
    let mut expected: Vec<String> = Vec::new();
    for (number, signal) in [Some(Signal::TERM), Some(Signal::INT), None].into_iter().enumerate() {
        let mut node = Node::start(dir.path(), "n1", &[]);
        let asked: Vec<i64> = (0..200)
            .map(|n| {
                expected.push((number * 1_000 + n).to_string());
                node.send(&format!(r#""type":"or_set_add","element":{}"#, number * 1_000 + n))
            })
            .collect();
        if let Some(signal) = signal {
            // The last reply shows that all was read; the signal finds it idle or busy with the reply's end.
            node.reply(asked[199]);
            node.process.signal(signal);
            assert_eq!(node.process.wait().code(), Some(0), "{signal:?}: {}", node.process.stderr.text());
        } else {
            node.stop();
            let answered = node.drain();
            assert!(asked.iter().all(|id| answered.iter().any(|line| line.in_reply_to() == Some(*id))));
        }
    }
    let mut node = Node::start(dir.path(), "n1", &[]);
    let mut elements = node.read();
    elements.sort_by_key(|text| text.parse::<u64>().unwrap());
    assert_eq!(elements, expected);
    node.stop();
}

#[test]
fn a_signal_before_init_stops_it_with_0() {
    let dir = temp_dir();
    for signal in [Signal::TERM, Signal::INT] {
        let mut node = Node::spawn(dir.path(), "n1", &["--node-id", "n1"]);
        // An answer shows that it is past the point where signals are caught.
        node.call(r#""type":"echo","echo":1"#);
        node.process.signal(signal);
        assert_eq!(node.process.wait().code(), Some(0), "{signal:?}: {}", node.process.stderr.text());
    }
}

#[test]
fn it_ends_quietly_when_nobody_reads_its_replies() {
    let dir = temp_dir();
    let mut command = Command::new(binary());
    command.arg("serve").arg("--data-dir").arg(dir.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&std::fs::read("tests/seed-cases/add-and-read.in").unwrap()).unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    // As `| head -1` does.
    drop(stdout);
    let echo = "{\"src\":\"c1\",\"dest\":\"n1\",\"body\":{\"type\":\"echo\",\"echo\":1,\"msg_id\":9}}\n";
    // It may be gone before all of these are written, and must not need the end of its input to notice.
    while stdin.write_all(echo.as_bytes()).is_ok() {}
    let out = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{stderr}");
    assert!(!stderr.to_lowercase().contains("panic") && !stderr.contains("ERROR"), "{stderr}");
}

#[test]
fn the_store_is_for_its_owner_alone() {
    let dir = temp_dir();
    let data_dir = dir.path().join("data");
    // Small segments, so that there are several and a snapshot.
    let mut node = Node::start(&data_dir, "n1", &["--log-retention-bytes", "65536", "--segment-bytes", "16384"]);
    for n in 0..3_000 {
        node.send(&format!(r#""type":"or_set_add","element":"{n} {}""#, "x".repeat(100)));
    }
    node.stop();
    let mut files = Vec::new();
    walk(&data_dir, &mut files);
    assert!(files.len() > 5, "{files:?}");
    for path in files {
        let metadata = std::fs::metadata(&path).unwrap();
        let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(metadata.permissions().mode() & 0o777, expected, "{}", path.display());
    }
}

fn walk(path: &Path, found: &mut Vec<PathBuf>) {
    found.push(path.to_owned());
    if path.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| walk(&entry.unwrap().path(), found));
    }
}

#[test]
fn one_line_says_what_was_recovered() {
    let dir = temp_dir();
    let mut node = Node::start(dir.path(), "n1", &[]);
    node.add("1");
    node.add("1");
    node.add("2");
    node.process.kill();
    let mut node = Node::start(dir.path(), "n1", &[]);
    // Its stderr may take longer to get here than its replies.
    node.process.stderr.wait_for("recovered");
    let stderr = node.process.stderr.text();
    let line = stderr.lines().find(|line| line.contains("recovered")).unwrap_or_else(|| panic!("{stderr}"));
    for part in ["2 elements", "3 tags", "index"] {
        assert!(line.contains(part), "no {part:?} in {line:?}");
    }
    node.stop();
}

#[test]
fn replies_that_would_come_too_late_are_not_sent() {
    let dir = temp_dir();
    let mut node = Node::start(dir.path(), "n1", &["--reply-deadline-ms", "1000"]);
    node.process.signal(Signal::STOP);
    let late = node.send(r#""type":"or_set_add","element":"late""#);
    // What is too late here is the age of the request; letting it age is what the test is about.
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    node.process.signal(Signal::CONT);
    node.stop();
    let replies = node.drain();
    assert!(!replies.iter().any(|line| line.in_reply_to() == Some(late)), "{replies:?}");
    node.process.stderr.wait_for("1 reply was too late and not sent");
}

/// A node that was told 3,000 lines and whose replies nobody reads: its output pipe is full.
fn unread(dir: &Path) -> (std::process::Child, std::thread::JoinHandle<()>) {
    let mut command = Command::new(binary());
    command.args(["serve", "--node-id", "n1", "--data-dir"]).arg(dir);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it can be started");
    let mut stdin = child.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || {
        let text = "x".repeat(200);
        for n in 0..3000 {
            let line = format!(
                "{{\"src\":\"c1\",\"dest\":\"n1\",\"body\":{{\"type\":\"echo\",\"msg_id\":{n},\"echo\":\"{text}\"}}}}\n"
            );
            // It may end, or stop reading, before it has everything.
            if stdin.write_all(line.as_bytes()).is_err() {
                return;
            }
        }
    });
    let stdout = child.stdout.as_ref().expect("a pipe");
    support::wait_until("the pipe is full", || rustix::io::ioctl_fionread(stdout).unwrap() >= 60_000);
    (child, writer)
}

/// Found by attack: a node that waited for a reader did not hear SIGTERM.
#[test]
fn a_signal_stops_it_also_while_nobody_reads_its_replies() {
    let dir = temp_dir();
    let (mut child, writer) = unread(dir.path());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    support::wait_until("it has ended", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    writer.join().unwrap();
}

/// Found by attack: whoever shares the pipe can make it non-blocking, and that was taken for an error.
#[test]
fn an_output_that_does_not_block_is_waited_for() {
    let dir = temp_dir();
    let (reader, output) = std::os::unix::net::UnixStream::pair().unwrap();
    output.set_nonblocking(true).unwrap();
    let mut command = Command::new(binary());
    command.args(["serve", "--node-id", "n1", "--data-dir"]).arg(dir.path());
    command.stdin(Stdio::piped()).stdout(Stdio::from(std::os::fd::OwnedFd::from(output))).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        let text = "x".repeat(2000);
        for n in 0..1000 {
            let body = format!("\"type\":\"echo\",\"msg_id\":{n},\"echo\":\"{text}\"");
            writeln!(stdin, "{{\"src\":\"c1\",\"dest\":\"n1\",\"body\":{{{body}}}}}").unwrap();
        }
    });
    // A socket says that it is full when a quarter of its buffer is.
    support::wait_until("the socket is full", || rustix::io::ioctl_fionread(&reader).unwrap() >= 30_000);
    assert_eq!(BufReader::new(reader).lines().map_while(Result::ok).count(), 1000);
    writer.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Found by attack: 600 reads of 2 MB each took 1.3 GB, since all replies waited for one commit.
#[test]
fn many_reads_at_once_take_the_memory_of_a_few() {
    let dir = temp_dir();
    let mut node = Node::start(dir.path(), "n1", &[]);
    let filler = "x".repeat(2000);
    let adds: String =
        (0..500).map(|n| node.line_of(&format!("\"type\":\"or_set_add\",\"element\":\"{filler}{n}\"")).1).collect();
    node.write(adds.as_bytes());
    let reads: Vec<i64> = (0..300).map(|_| node.send("\"type\":\"or_set_read\"")).collect();
    for read in &reads {
        assert_eq!(node.reply(*read).elements("elements").len(), 500);
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.process.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
    let peak_kib: u64 = peak.trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 150_000, "{peak} for 300 reads of a megabyte");
}
