//! A node that is spoken to on its two pipes, as fast as one thread can.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::element;
use super::tests::binary;

/// A node, spoken to from the thread that waits for it: a second thread would cost more than an add does.
pub struct Direct {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    next_msg_id: u64,
}

impl Direct {
    /// Spawns a node and waits for `init_ok`.
    pub fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &[])
    }

    /// The same, with some environment variables set.
    pub fn start_with(data_dir: &Path, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(binary());
        command.arg("serve").arg("--data-dir").arg(data_dir).env_remove("RUST_LOG").envs(variables.iter().copied());
        // Nobody reads its log here, and a full pipe would hold it up.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the binary can be started");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::with_capacity(1 << 16, child.stdout.take().expect("piped"));
        let mut node = Self { child, stdin, stdout, next_msg_id: 1 };
        let reply = node.call(r#""type":"init","node_id":"n1","node_ids":["n1"]"#);
        assert!(reply.contains("init_ok"), "{reply}");
        node
    }

    /// One request; `body` is what comes after `msg_id`, without braces. The reply's line.
    pub fn call(&mut self, body: &str) -> String {
        let id = self.next_msg_id;
        self.next_msg_id += 1;
        let line = format!("{{\"src\":\"c1\",\"dest\":\"n1\",\"body\":{{\"msg_id\":{id},{body}}}}}\n");
        self.stdin.write_all(line.as_bytes()).expect("the node reads");
        let mut reply = String::new();
        self.stdout.read_line(&mut reply).expect("the node answers");
        reply
    }

    /// One add.
    pub fn add(&mut self, element: &str) {
        let reply = self.call(&format!(r#""type":"or_set_add","element":{element}"#));
        assert!(reply.contains("or_set_add_ok"), "{reply}");
    }

    /// Adds all these without waiting in between; how long it took from the first byte to the last reply.
    pub fn pipe(&mut self, numbers: std::ops::Range<u64>) -> Duration {
        let wanted = numbers.end - numbers.start;
        self.pipe_all("or_set_add", numbers, wanted)
    }

    /// So many requests of a type, one for each of these elements, without waiting in between; how long it took from the
    /// first byte to the last reply.
    pub fn pipe_all(&mut self, kind: &str, numbers: impl Iterator<Item = u64> + Send, wanted: u64) -> Duration {
        let start = Instant::now();
        let (stdin, stdout) = (&mut self.stdin, &mut self.stdout);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut out = BufWriter::with_capacity(1 << 16, stdin);
                for n in numbers {
                    let body = format!(r#""type":"{kind}","msg_id":{},"element":{}"#, n + 10, element(n));
                    writeln!(out, r#"{{"src":"c1","dest":"n1","body":{{{body}}}}}"#).expect("the node reads");
                }
                out.flush().expect("the node reads");
            });
            let mut replies = 0;
            while replies < wanted {
                let chunk = stdout.fill_buf().expect("the node answers");
                assert!(!chunk.is_empty(), "the node ended after {replies} replies");
                replies += chunk.iter().filter(|byte| **byte == b'\n').count() as u64;
                let read = chunk.len();
                stdout.consume(read);
            }
            assert_eq!(replies, wanted);
        });
        start.elapsed()
    }

    /// How long each of so many adds takes, one after another, in µs.
    pub fn costs(&mut self, from: u64, adds: u64) -> Vec<f64> {
        let timed = |n| {
            let element = element(n);
            let start = Instant::now();
            self.add(&element);
            start.elapsed().as_secs_f64() * 1e6
        };
        (from..from + adds).map(timed).collect()
    }

    /// What it has in memory now.
    pub fn resident_mib(&self) -> f64 {
        self.status_mib("VmRSS:")
    }

    /// The most that it ever had in memory.
    pub fn peak_resident_mib(&self) -> f64 {
        self.status_mib("VmHWM:")
    }

    /// How much of the processor it has used, in hundredths of a second.
    pub fn processor_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let after_name = stat.rsplit(')').next().expect("a last part");
        after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
    }

    fn status_mib(&self, field: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("Linux tells");
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
        kib / 1024.0
    }
}

impl Drop for Direct {
    /// SIGKILL: what a restart after a kill costs is one of the figures.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
