//! How fast a durable add is, as a ratio to Redis' on the same disk in the same run; and what a million elements cost.
//!
//! ```text
//! cargo bench --bench redis                        everything
//! cargo bench --bench redis -- pipelined start     these parts (of: pipelined single million start)
//! ```
//!
//! Redis is Debian's `redis-server` with `appendonly yes` and `appendfsync always`, started here on a port of its own and
//! ended by its process id; without it, a word and no ratio. Both sides store elements of 16 bytes. Rounds of both
//! sides alternate, and a figure is the median of its rounds, since a shared disk has its moods.

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use support::{binary, temp_dir};

const PARTS: [&str; 4] = ["pipelined", "single", "million", "start"];
const ROUNDS: usize = 3;
const PIPELINED: u64 = 300_000;
const SINGLE: u64 = 20_000;
const MILLION: u64 = 1_000_000;
const COST_ADDS: u64 = 5_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "--bench") {
        println!("a benchmark: run it with `cargo bench --bench redis`");
        return;
    }
    let wanted: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.starts_with('-')).collect();
    if let Some(unknown) = wanted.iter().find(|part| !PARTS.contains(part)) {
        eprintln!("no part {unknown:?}; there are: {}", PARTS.join(" "));
        std::process::exit(2);
    }
    let redis = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !redis {
        println!("redis-server is not installed: no ratios to it (Debian: apt-get install redis-server)");
    }
    for part in PARTS.into_iter().filter(|part| wanted.is_empty() || wanted.contains(part)) {
        match part {
            "pipelined" => pipelined(redis),
            "single" => single(redis),
            "million" => million(),
            _ => start(),
        }
    }
}

/// One line of the result.
fn report(what: &str, figure: &str, target: &str, met: bool) {
    println!("{what:<44} {figure:<44} target {target:<12} {}", if met { "met" } else { "missed" });
}

/// One line of the result, as a ratio of rates if there is something to compare with.
fn report_ratio(what: &str, ours: f64, redis: Option<f64>, at_least: f64) {
    match redis {
        Some(redis) => {
            let ratio = ours / redis;
            let figure = format!("{ours:.0}/s, Redis {redis:.0}/s, ratio {ratio:.2}");
            report(what, &figure, &format!(">= {at_least}"), ratio >= at_least);
        }
        None => println!("{what:<44} {ours:.0}/s"),
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// 16 bytes of canonical JSON, quotes included.
fn element(number: u64) -> String {
    format!("\"elt-{number:010}\"")
}

/// A node, spoken to from the thread that waits for it: a second thread would cost more than an add does.
struct Direct {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    next_msg_id: u64,
}

impl Direct {
    /// Spawns a node and waits for `init_ok`.
    fn start(data_dir: &Path) -> Self {
        let mut command = Command::new(binary());
        command.arg("serve").arg("--data-dir").arg(data_dir).env_remove("RUST_LOG");
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

    fn call(&mut self, body: &str) -> String {
        let id = self.next_msg_id;
        self.next_msg_id += 1;
        let line = format!("{{\"src\":\"c1\",\"dest\":\"n1\",\"body\":{{\"msg_id\":{id},{body}}}}}\n");
        self.stdin.write_all(line.as_bytes()).expect("the node reads");
        let mut reply = String::new();
        self.stdout.read_line(&mut reply).expect("the node answers");
        reply
    }

    fn add(&mut self, element: &str) {
        let reply = self.call(&format!(r#""type":"or_set_add","element":{element}"#));
        assert!(reply.contains("or_set_add_ok"), "{reply}");
    }

    /// Adds all these without waiting in between; how long it took from the first byte to the last reply.
    fn pipe(&mut self, numbers: std::ops::Range<u64>) -> Duration {
        let wanted = numbers.end - numbers.start;
        let start = Instant::now();
        let (stdin, stdout) = (&mut self.stdin, &mut self.stdout);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut out = BufWriter::with_capacity(1 << 16, stdin);
                for n in numbers {
                    let body = format!(r#""type":"or_set_add","msg_id":{},"element":{}"#, n + 10, element(n));
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
    fn costs(&mut self, from: u64, adds: u64) -> Vec<f64> {
        let timed = |n| {
            let element = element(n);
            let start = Instant::now();
            self.add(&element);
            start.elapsed().as_secs_f64() * 1e6
        };
        (from..from + adds).map(timed).collect()
    }

    fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells");
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

/// A Redis server of our own.
struct Redis {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        let dir = temp_dir();
        // Free now; in the unlikely case that it is taken in between, the server says so and the benchmark ends.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a free port").port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--daemonize", "no"]);
        command.arg("--dir").arg(dir.path()).stdout(Stdio::null());
        let mut child = command.spawn().expect("it answered --version");
        support::wait_until("Redis is up", || {
            assert!(child.try_wait().expect("a child").is_none(), "redis-server ended");
            Self::ask(port, "PING") == Some("+PONG".to_owned())
        });
        Self { child, port, _dir: dir }
    }

    /// The first line of the answer to an inline command.
    fn ask(port: u16, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        write!(stream, "{command}\r\n").ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    }

    /// How long `redis-cli --pipe` takes with a file of commands.
    fn pipe(&self, commands: &Path) -> Duration {
        let start = Instant::now();
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string(), "--pipe"]).stdin(File::open(commands).expect("just written"));
        let out = command.output().expect("redis-cli comes with redis-server");
        let took = start.elapsed();
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(said.contains(&format!("errors: 0, replies: {PIPELINED}")), "{said}");
        assert_eq!(Self::ask(self.port, "SCARD s"), Some(format!(":{PIPELINED}")));
        took
    }

    /// Adds a second by `redis-benchmark`, one client, one at a time.
    fn single(&self) -> f64 {
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", &self.port.to_string(), "-c", "1", "-P", "1", "-n", &SINGLE.to_string(), "--csv"]);
        // The placeholder becomes 12 digits. Without -r they would be the same each time, and a member that is there
        // already is not written to the disk.
        command.args(["-r", "2000000000", "SADD", "s", "elt-__rand_int__"]);
        let out = command.output().expect("redis-benchmark comes with redis-server");
        let said = String::from_utf8_lossy(&out.stdout);
        let rate = said.lines().last().and_then(|line| line.split("\",\"").nth(1)?.trim_matches('"').parse().ok());
        let members = Self::ask(self.port, "SCARD s").and_then(|text| text[1..].parse::<u64>().ok());
        assert!(members.is_some_and(|n| n > SINGLE * 99 / 100), "{members:?} members: not all adds were new");
        rate.unwrap_or_else(|| panic!("no rate in {said:?}"))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pipelined(redis: bool) {
    let dir = temp_dir();
    let commands = dir.path().join("commands");
    let mut out = BufWriter::new(File::create(&commands).expect("a temporary file"));
    for n in 0..PIPELINED {
        let member = element(n);
        write!(out, "*3\r\n$4\r\nSADD\r\n$1\r\ns\r\n${}\r\n{member}\r\n", member.len()).expect("room on the disk");
    }
    drop(out);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut node = Direct::start(&dir.path().join(round.to_string()));
        ours.push(PIPELINED as f64 / node.pipe(0..PIPELINED).as_secs_f64());
        drop(node);
        if redis {
            theirs.push(PIPELINED as f64 / Redis::start().pipe(&commands).as_secs_f64());
        }
    }
    let what = format!("pipelined: {PIPELINED} durable adds");
    report_ratio(&what, median(ours), redis.then(|| median(theirs)), 0.35);
}

fn single(redis: bool) {
    let dir = temp_dir();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut node = Direct::start(&dir.path().join(round.to_string()));
        let start = Instant::now();
        (0..SINGLE).for_each(|n| node.add(&element(n)));
        ours.push(SINGLE as f64 / start.elapsed().as_secs_f64());
        drop(node);
        if redis {
            theirs.push(Redis::start().single());
        }
    }
    let what = format!("single: {SINGLE} adds, one at a time");
    report_ratio(&what, median(ours), redis.then(|| median(theirs)), 0.7);
}

fn million() {
    let dir = temp_dir();
    let big_dir = dir.path().join("big");
    let mut big = Direct::start(&big_dir);
    let took = big.pipe(0..MILLION);
    let resident = big.resident_mib();
    println!("{:<44} {:.0}/s", format!("million: load of {MILLION} elements"), MILLION as f64 / took.as_secs_f64());
    report("million: resident after the load", &format!("{resident:.0} MiB"), "<= 250 MiB", resident <= 250.0);
    drop(big);

    let mut first_replies = Vec::new();
    for round in 0..ROUNDS as u64 {
        let start = Instant::now();
        let mut node = Direct::start(&big_dir);
        let init_ms = start.elapsed().as_secs_f64() * 1e3;
        node.add(&element(MILLION + round));
        let add_ms = start.elapsed().as_secs_f64() * 1e3;
        println!("{:<44} init_ok {init_ms:.0} ms, first add {add_ms:.0} ms", "million: a restart from SIGKILL");
        first_replies.push(add_ms);
    }
    let figure = median(first_replies);
    report("million: first add after SIGKILL, median", &format!("{figure:.0} ms"), "<= 1500 ms", figure <= 1500.0);
    cost_at_a_million(dir.path(), &big_dir);
}

/// What an add costs with a million elements, relative to a thousand; rounds alternate.
fn cost_at_a_million(dir: &Path, big_dir: &Path) {
    let mut big = Direct::start(big_dir);
    let (mut medians, mut means) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mean = |costs: &[f64]| costs.iter().sum::<f64>() / costs.len() as f64;
    for round in 0..ROUNDS as u64 {
        let mut small = Direct::start(&dir.join(format!("small {round}")));
        small.pipe(0..1_000);
        let costs = [small.costs(1_000, COST_ADDS), big.costs(MILLION + 1_000 + round * COST_ADDS, COST_ADDS)];
        for (side, costs) in costs.into_iter().enumerate() {
            means[side].push(mean(&costs));
            medians[side].push(median(costs));
        }
    }
    for (name, [small, big]) in [("median", medians), ("mean", means)] {
        let (small, big) = (median(small), median(big));
        let figure = format!("{big:.1} µs, at 1k {small:.1} µs, ratio {:.2}", big / small);
        report(&format!("million: {name} cost of an add"), &figure, "<= 1.5", big / small <= 1.5);
    }
}

fn start() {
    let dir = temp_dir();
    let times = (0..20).map(|n| {
        let start = Instant::now();
        let _node = Direct::start(&dir.path().join(n.to_string()));
        start.elapsed().as_secs_f64() * 1e3
    });
    let figure = median(times.collect());
    report("start: an empty node to init_ok, median", &format!("{figure:.1} ms"), "< 50 ms", figure < 50.0);
}
