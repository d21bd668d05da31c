//! A network between nodes, as Maelstrom's: one JSON object a line, routed by its `dest`.
//!
//! Messages between nodes can be lost, doubled, delayed (and so overtake one another) and cut off in one direction or
//! both; what clients send and are sent never is. Each choice comes from the seed. A node's stdin is one queue in order of
//! arrival, and is written by a thread of its own, so that a node that does not read holds up nobody else.
//!
//! A **slot** is a place where a process can run, named by the test; **its address** is the node id under which others
//! write to it. Two slots with one address are a copied store that runs twice: both get what is sent there.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::io::Write;
use std::process::ChildStdin;
use std::sync::mpsc::Sender;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::node::Line;

/// What goes wrong between nodes.
#[derive(Clone, Default, Debug)]
pub struct Faults {
    /// How many of 100 messages are lost.
    pub lost_percent: u8,
    /// How many of 100 messages come twice.
    pub doubled_percent: u8,
    /// A message takes at least this long …
    pub min_delay_ms: u64,
    /// … and up to this.
    pub max_delay_ms: u64,
    /// From which slot to which nothing goes.
    pub cut: BTreeSet<(String, String)>,
}

impl Faults {
    /// Cuts `slot` off from all `others`, in both directions or only outwards.
    pub fn isolate<'a>(slot: &str, others: impl Iterator<Item = &'a str>, both_ways: bool) -> Self {
        let mut cut = BTreeSet::new();
        for other in others.filter(|other| *other != slot) {
            cut.insert((slot.to_owned(), other.to_owned()));
            if both_ways {
                cut.insert((other.to_owned(), slot.to_owned()));
            }
        }
        Self { cut, ..Self::default() }
    }
}

/// A message on its way, ordered so that a max-heap gives the earliest first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Late {
    due: std::cmp::Reverse<(Instant, u64)>,
    slot: String,
    line: String,
}

struct Inner {
    rng: fastrand::Rng,
    faults: Faults,
    addresses: BTreeMap<String, String>,
    inputs: BTreeMap<String, Sender<String>>,
    complaints: Vec<String>,
    next_id: u64,
    passed: u64,
}

/// The network. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    inner: Arc<Mutex<Inner>>,
    late: Sender<Late>,
    replies: Sender<(String, Line)>,
}

impl Router {
    /// A network without faults; what is for clients comes out of the receiver, with the slot that it comes from.
    pub fn new(seed: u64) -> (Self, Receiver<(String, Line)>) {
        let (late, later) = channel();
        let (replies, for_clients) = channel();
        let inner = Arc::new(Mutex::new(Inner {
            rng: fastrand::Rng::with_seed(seed),
            faults: Faults::default(),
            addresses: BTreeMap::new(),
            inputs: BTreeMap::new(),
            complaints: Vec::new(),
            next_id: 0,
            passed: 0,
        }));
        let network = Arc::clone(&inner);
        std::thread::spawn(move || deliver_late(&network, &later));
        (Self { inner, late, replies }, for_clients)
    }

    /// There is such a slot, and others write to it under this address. Nothing runs there yet.
    pub fn register(&self, slot: &str, address: &str) {
        self.inner.lock().unwrap().addresses.insert(slot.to_owned(), address.to_owned());
    }

    /// A process runs in `slot` from now on.
    pub fn connect(&self, slot: &str, mut stdin: ChildStdin) {
        let (sender, lines) = channel::<String>();
        std::thread::spawn(move || {
            // It ends when the slot is disconnected, which closes the pipe, or when the process is gone.
            while let Ok(line) = lines.recv() {
                if stdin.write_all(line.as_bytes()).is_err() {
                    return;
                }
            }
        });
        self.inner.lock().unwrap().inputs.insert(slot.to_owned(), sender);
    }

    /// The process in `slot` gets nothing any more; its stdin is closed once everything before is written.
    pub fn disconnect(&self, slot: &str) {
        self.inner.lock().unwrap().inputs.remove(slot);
    }

    /// From now on these things go wrong; messages under way still arrive.
    pub fn set(&self, faults: Faults) {
        self.inner.lock().unwrap().faults = faults;
    }

    /// Writes a client's line to a slot; false if nothing runs there.
    pub fn send(&self, slot: &str, line: &str) -> bool {
        let inner = self.inner.lock().unwrap();
        inner.inputs.get(slot).is_some_and(|input| input.send(line.to_owned()).is_ok())
    }

    /// How many messages between nodes have been delivered.
    pub fn passed(&self) -> u64 {
        self.inner.lock().unwrap().passed
    }

    /// Lines for which Maelstrom would have stopped to listen to a node.
    pub fn complaints(&self) -> Vec<String> {
        self.inner.lock().unwrap().complaints.clone()
    }

    /// Takes a line that the process in `slot` wrote.
    pub fn route(&self, slot: &str, text: String) {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wire<'a> {
            src: String,
            dest: String,
            #[serde(borrow)]
            body: &'a RawValue,
        }
        let mut inner = self.inner.lock().unwrap();
        let Ok(wire) = serde_json::from_str::<Wire<'_>>(&text) else {
            let start: String = text.chars().take(200).collect();
            inner.complaints.push(format!("{slot} wrote what is no message: {start:?}"));
            return;
        };
        if wire.dest.starts_with('c') {
            drop(inner);
            // A test that has ended listens no more.
            drop(self.replies.send((slot.to_owned(), Line::parse(text))));
            return;
        }
        if inner.addresses.get(slot) != Some(&wire.src) {
            inner.complaints.push(format!("{slot} wrote in another's name: {text}"));
        }
        let slots: Vec<String> =
            inner.addresses.iter().filter(|(_, a)| **a == wire.dest).map(|(slot, _)| slot.clone()).collect();
        if slots.is_empty() {
            inner.complaints.push(format!("{slot} wrote to {:?}, which is nobody", wire.dest));
        }
        for to in slots.iter().filter(|to| *to != slot) {
            for delay_ms in inner.fates(slot, to) {
                inner.next_id += 1;
                let Wire { src, dest, body } = &wire;
                // Maelstrom adds the id, too.
                let id = inner.next_id;
                let line = format!("{{\"id\":{id},\"src\":{src:?},\"dest\":{dest:?},\"body\":{}}}\n", body.get());
                let due = std::cmp::Reverse((Instant::now() + Duration::from_millis(delay_ms), id));
                drop(self.late.send(Late { due, slot: to.clone(), line }));
            }
        }
    }
}

impl Inner {
    /// The delays of the copies of a message that arrive.
    fn fates(&mut self, from: &str, to: &str) -> Vec<u64> {
        let faults = &self.faults;
        let cut = faults.cut.contains(&(from.to_owned(), to.to_owned()));
        if cut || self.rng.u8(..100) < faults.lost_percent {
            return Vec::new();
        }
        let copies = 1 + usize::from(self.rng.u8(..100) < faults.doubled_percent);
        (0..copies).map(|_| self.rng.u64(faults.min_delay_ms..=faults.max_delay_ms.max(faults.min_delay_ms))).collect()
    }
}

/// Hands over messages when they are due, until the network is gone.
fn deliver_late(network: &Mutex<Inner>, later: &Receiver<Late>) {
    let mut waiting: BinaryHeap<Late> = BinaryHeap::new();
    loop {
        let due_in = waiting.peek().map(|late| late.due.0.0.saturating_duration_since(Instant::now()));
        match later.recv_timeout(due_in.unwrap_or(Duration::from_secs(3600))) {
            Ok(late) => waiting.push(late),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while waiting.peek().is_some_and(|late| late.due.0.0 <= Instant::now()) {
            let late = waiting.pop().expect("just seen");
            let mut inner = network.lock().unwrap();
            let sent = inner.inputs.get(&late.slot).is_some_and(|input| input.send(late.line).is_ok());
            inner.passed += u64::from(sent);
        }
    }
}
