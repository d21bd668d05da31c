//! Redis as a peer: Debian's `redis-server` with `appendonly yes` and `appendfsync always`, on a port of its own, ended by
//! its process id.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::tests::{temp_dir, wait_until};

/// A Redis server of our own.
pub struct Redis {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Redis {
    /// Whether it is there; says so if not.
    pub fn is_installed() -> bool {
        let installed = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
        if !installed {
            println!("redis-server is not installed: no ratios to it (Debian: apt-get install redis-server)");
        }
        installed
    }

    /// An empty one, ready for commands.
    pub fn start() -> Self {
        let dir = temp_dir();
        // Free now; in the unlikely case that it is taken in between, the server says so and the benchmark ends.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a free port").port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--daemonize", "no"]);
        command.arg("--dir").arg(dir.path()).stdout(Stdio::null());
        let mut child = command.spawn().expect("it answered --version");
        wait_until("Redis is up", || {
            assert!(child.try_wait().expect("a child").is_none(), "redis-server ended");
            Self::ask(port, "PING") == Some("+PONG".to_owned())
        });
        Self { child, port, _dir: dir }
    }

    /// The first line of the answer to an inline command.
    pub fn answer(&self, command: &str) -> Option<String> {
        Self::ask(self.port, command)
    }

    fn ask(port: u16, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        write!(stream, "{command}\r\n").ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    }

    /// How long `redis-cli --pipe` takes with a file of so many commands.
    pub fn pipe(&self, commands: &Path, replies: u64) -> Duration {
        let start = Instant::now();
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string(), "--pipe"]).stdin(File::open(commands).expect("just written"));
        let out = command.output().expect("redis-cli comes with redis-server");
        let took = start.elapsed();
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(said.contains(&format!("errors: 0, replies: {replies}")), "{said}");
        took
    }

    /// Adds a second by `redis-benchmark`, one client, so many one at a time.
    pub fn single(&self, adds: u64) -> f64 {
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", &self.port.to_string(), "-c", "1", "-P", "1", "-n", &adds.to_string(), "--csv"]);
        // The placeholder becomes 12 digits. Without -r they would be the same each time, and a member that is there
        // already is not written to the disk.
        command.args(["-r", "2000000000", "SADD", "s", "elt-__rand_int__"]);
        let out = command.output().expect("redis-benchmark comes with redis-server");
        let said = String::from_utf8_lossy(&out.stdout);
        let rate = said.lines().last().and_then(|line| line.split("\",\"").nth(1)?.trim_matches('"').parse().ok());
        let members = Self::ask(self.port, "SCARD s").and_then(|text| text[1..].parse::<u64>().ok());
        assert!(members.is_some_and(|n| n > adds * 99 / 100), "{members:?} members: not all adds were new");
        rate.unwrap_or_else(|| panic!("no rate in {said:?}"))
    }

    /// How long each of so many SMEMBERS of the set `s` takes, which has `members` of `member_bytes` each.
    pub fn members(&self, reads: usize, members: usize, member_bytes: usize) -> Vec<Duration> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it runs");
        let one = format!("${member_bytes}\r\n").len() + member_bytes + 2;
        let reply_bytes = format!("*{members}\r\n").len() + members * one;
        let mut buffer = vec![0; 1 << 18];
        let mut read = || {
            let start = Instant::now();
            stream.write_all(b"SMEMBERS s\r\n").expect("it reads");
            let mut rest = reply_bytes;
            while rest > 0 {
                let length = stream.read(&mut buffer).expect("it answers");
                assert!((1..=rest).contains(&length), "{length} bytes where {rest} were to come");
                rest -= length;
            }
            start.elapsed()
        };
        (0..reads).map(|_| read()).collect()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
