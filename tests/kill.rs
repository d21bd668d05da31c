//! SIGKILL at random instants, hundreds of times, on one store: what was acknowledged is there, what was removed is not,
//! and no start fails.
//!
//! `ORSET_KILLS` sets how often, `ORSET_SEED` repeats the choices. What may be there after a request that was never
//! answered is `tests/support/model.rs`'s business.

mod support;

use std::path::Path;
use std::time::Duration;

use support::model::{Model, OpId, View};
use support::node::{Line, Node, was_killed};
use support::{env_number, seed, segments, temp_dir};

const ELEMENTS: u64 = 400;
/// Small segments and a short log, so that a run of a minute rotates and compacts many times.
const ARGS: [&str; 4] = ["--log-retention-bytes", "65536", "--segment-bytes", "16384"];

/// When the process is killed.
#[derive(Clone, Copy, Debug)]
enum Plan {
    /// So long after it was spawned, whatever it is doing; with its node id as an argument it recovers at once.
    DuringStart { knows_its_id: bool },
    /// After it said that it was ready, before anything is asked of it.
    Idle,
    /// While it works on that many requests.
    Burst(usize),
}

/// What happened to a run, for the line at its end.
#[derive(Default, Debug)]
struct Counts {
    during_start: u64,
    idle: u64,
    bursts: u64,
    answered: u64,
    unanswered: u64,
    probed: u64,
}

struct Run {
    rng: fastrand::Rng,
    model: Model,
    next_op: OpId,
    counts: Counts,
}

/// A request under way.
struct Sent {
    op: OpId,
    msg_id: i64,
    is_add: bool,
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_removed_returns_under_sigkill() {
    let kills = env_number("ORSET_KILLS", 300);
    let dir = temp_dir();
    let seed = seed("kill");
    let (model, rng) = (Model::default(), fastrand::Rng::with_seed(seed));
    let mut run = Run { rng, model, next_op: 0, counts: Counts::default() };
    for _ in 0..kills {
        run.one_kill(dir.path());
    }
    let mut node = Node::start(dir.path(), "n1", &ARGS);
    run.check_read(&mut node);
    for element in run.model.elements() {
        run.probe(&mut node, &element);
    }
    assert_eq!(node.read(), Vec::<String>::new(), "everything was removed");
    node.stop();
    eprintln!("{kills} kills: {:?}; live, takeable, removed: {:?}", run.counts, run.model.counts());
    prove_that_the_log_was_compacted(&dir.path().join("n1"), kills);
}

/// A run whose log was never cut would show nothing about cutting it.
fn prove_that_the_log_was_compacted(store: &Path, kills: u64) {
    let segments = segments(store);
    if kills >= 100 {
        assert!(!segments.contains(&0) && !segments.contains(&1), "the first segments are still there: {segments:?}");
        let snapshots = std::fs::read_dir(store.join("snapshots")).map_or(0, Iterator::count);
        assert!(snapshots > 0, "there is no snapshot");
    }
}

impl Run {
    fn one_kill(&mut self, dir: &Path) {
        let plan = match self.rng.u8(..100) {
            0..30 => Plan::DuringStart { knows_its_id: self.rng.bool() },
            30..40 => Plan::Idle,
            _ => Plan::Burst(self.rng.usize(1..600)),
        };
        let mut args = ARGS.to_vec();
        if matches!(plan, Plan::DuringStart { knows_its_id: true }) {
            args.extend(["--node-id", "n1"]);
        }
        let mut node = Node::spawn(dir, "n1", &args);
        match plan {
            Plan::DuringStart { .. } => {
                self.counts.during_start += 1;
                let (_, init) = node.line_of(r#""type":"init","node_id":"n1","node_ids":["n1"]"#);
                node.write(init.as_bytes());
            }
            Plan::Idle => {
                self.counts.idle += 1;
                node.init();
                self.check_read(&mut node);
            }
            Plan::Burst(_) => {
                self.counts.bursts += 1;
                node.init();
                self.check_read(&mut node);
                for _ in 0..3 {
                    let element = self.element();
                    self.probe(&mut node, &element);
                }
            }
        }
        let sent = if let Plan::Burst(requests) = plan { self.burst(&mut node, requests) } else { Vec::new() };
        // The random instant of the kill is the fault that is injected here.
        std::thread::sleep(Duration::from_micros(self.rng.u64(..30_000)));
        let status = node.process.kill();
        assert!(was_killed(status), "{plan:?}: it had ended: {status}; stderr:\n{}", node.process.stderr.text());
        self.judge(&sent, node.drain());
    }

    /// A few of many; one in twenty is longer than what a key holds whole.
    fn element(&mut self) -> String {
        let number = self.rng.u64(..ELEMENTS);
        if number.is_multiple_of(20) { format!("\"{number} {}\"", "long ".repeat(60)) } else { number.to_string() }
    }

    /// Sends that many requests without waiting for replies: 60 % adds.
    fn burst(&mut self, node: &mut Node, requests: usize) -> Vec<Sent> {
        let mut lines = String::new();
        let mut all = Vec::with_capacity(requests);
        for _ in 0..requests {
            let (element, is_add) = (self.element(), self.rng.u8(..100) < 60);
            let name = if is_add { "or_set_add" } else { "or_set_remove" };
            let (msg_id, line) = node.line_of(&format!(r#""type":"{name}","element":{element}"#));
            lines.push_str(&line);
            all.push(self.sent(msg_id, is_add, &element));
        }
        // At most 600 lines of some 400 bytes: a reading node takes them all, a dead one none that it could answer.
        node.write(lines.as_bytes());
        all
    }

    fn sent(&mut self, msg_id: i64, is_add: bool, element: &str) -> Sent {
        self.next_op += 1;
        let op = self.next_op;
        match is_add {
            true => self.model.sent_add(op, "n1", element),
            false => self.model.sent_remove(op, "n1", element),
        }
        Sent { op, msg_id, is_add }
    }

    /// Takes note of what was answered before the kill, in the order in which it was asked: that is the order in which a
    /// node does it.
    fn judge(&mut self, sent: &[Sent], mut lines: Vec<Line>) {
        lines.sort_by_key(Line::in_reply_to);
        let mut answered = 0;
        for line in &lines {
            let Some(sent) = sent.iter().find(|sent| Some(sent.msg_id) == line.in_reply_to()) else { continue };
            answered += 1;
            self.take(sent, line);
        }
        self.counts.answered += answered;
        self.counts.unanswered += sent.len() as u64 - answered;
        self.model.killed("n1");
    }

    fn take(&mut self, sent: &Sent, line: &Line) {
        let judged = if sent.is_add {
            self.model.added(sent.op, line.tags("tag")[0])
        } else {
            self.model.removed(sent.op, &line.tags("tags_removed"), View::Whole)
        };
        judged.unwrap_or_else(|violation| panic!("after kill {}: {violation}", self.kills()));
    }

    fn kills(&self) -> u64 {
        self.counts.during_start + self.counts.idle + self.counts.bursts
    }

    fn check_read(&mut self, node: &mut Node) {
        let elements = node.read();
        let judged = self.model.read(&elements);
        let stderr = node.process.stderr.text();
        judged.unwrap_or_else(|violation| panic!("after kill {}: {violation}; stderr:\n{stderr}", self.kills()));
    }

    /// Removes an element and compares its tags one by one.
    fn probe(&mut self, node: &mut Node, element: &str) {
        self.counts.probed += 1;
        let msg_id = node.send(&format!(r#""type":"or_set_remove","element":{element}"#));
        let sent = self.sent(msg_id, false, element);
        let line = node.reply(msg_id);
        self.take(&sent, &line);
    }
}
