//! Several real nodes, each with its data directory, behind a [`Router`], and a client that talks to any of them.
//!
//! [`Cluster::barrier`] is how a test knows that a healed cluster has converged *exactly*, tags included. An incarnation's
//! operations apply in order, and a later incarnation's first one only after its parent's last. So a node that shows
//! what another node added last holds everything that the other had.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::node::{Line, Process, was_killed};
use super::router::{Faults, Router};
use super::{PATIENCE, temp_dir, wait_until};

/// A place for a process.
struct Slot {
    address: String,
    args: Vec<String>,
    process: Option<Process>,
}

/// The nodes.
pub struct Cluster {
    dir: tempfile::TempDir,
    slots: BTreeMap<String, Slot>,
    /// The network between them.
    pub router: Router,
    replies: Receiver<(String, Line)>,
    aside: Vec<(String, Line)>,
    next_msg_id: i64,
}

impl Cluster {
    /// Slots named by the node ids that run in them; nothing runs yet.
    pub fn new(seed: u64, ids: &[&str], args: &[&str]) -> Self {
        let (router, replies) = Router::new(seed);
        let slots = BTreeMap::new();
        let mut cluster = Self { dir: temp_dir(), slots, router, replies, aside: Vec::new(), next_msg_id: 1 };
        for id in ids {
            cluster.add_slot(id, id, args);
        }
        cluster
    }

    /// One more slot, for a node with the id `address`.
    pub fn add_slot(&mut self, slot: &str, address: &str, args: &[&str]) {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self.router.register(slot, address);
        let new = Slot { address: address.to_owned(), args, process: None };
        assert!(self.slots.insert(slot.to_owned(), new).is_none(), "slot {slot} is there twice");
    }

    /// All nodes of a new cluster, started.
    pub fn started(seed: u64, ids: &[&str], args: &[&str]) -> Self {
        let mut cluster = Self::new(seed, ids, args);
        ids.iter().for_each(|id| cluster.start(id));
        cluster
    }

    /// The names of the slots.
    pub fn names(&self) -> Vec<String> {
        self.slots.keys().cloned().collect()
    }

    /// A slot's data directory.
    pub fn data_dir(&self, slot: &str) -> PathBuf {
        self.dir.path().join(slot)
    }

    /// A slot's store.
    pub fn store(&self, slot: &str) -> PathBuf {
        self.data_dir(slot).join(&self.slots[slot].address)
    }

    /// Other arguments from the next start on.
    pub fn set_args(&mut self, slot: &str, args: &[&str]) {
        self.slot(slot).args = args.iter().map(|arg| (*arg).to_owned()).collect();
    }

    fn slot(&mut self, slot: &str) -> &mut Slot {
        self.slots.get_mut(slot).unwrap_or_else(|| panic!("there is no slot {slot}"))
    }

    /// Whether something runs there.
    pub fn runs(&self, slot: &str) -> bool {
        self.slots[slot].process.is_some()
    }

    /// The process in a slot.
    pub fn process(&self, slot: &str) -> &Process {
        self.slots[slot].process.as_ref().unwrap_or_else(|| panic!("nothing runs in {slot}"))
    }

    /// Starts a node and waits for its `init_ok`.
    pub fn start(&mut self, slot: &str) {
        let msg_id = self.launch(slot);
        let reply = self.reply(slot, msg_id);
        assert_eq!(reply.body["type"], "init_ok", "{}", reply.text);
    }

    /// Starts a node and sends it `init`, whose `msg_id` it returns.
    pub fn launch(&mut self, slot: &str) -> i64 {
        let data_dir = self.data_dir(slot);
        let router = self.router.clone();
        let place = self.slot(slot);
        assert!(place.process.is_none(), "{slot} runs already");
        let mut args: Vec<&OsStr> = vec!["serve".as_ref(), "--data-dir".as_ref(), data_dir.as_ref()];
        args.extend(place.args.iter().map(OsStr::new));
        let name = slot.to_owned();
        let mut process = Process::spawn(&args, move |line| router.route(&name, line));
        let (stdin, address) = (process.take_stdin(), place.address.clone());
        place.process = Some(process);
        self.router.connect(slot, stdin);
        let mut ids: Vec<&str> = self.slots.values().map(|slot| slot.address.as_str()).collect();
        ids.dedup();
        let init = format!(r#""type":"init","node_id":{address:?},"node_ids":{ids:?}"#);
        self.send(slot, &init)
    }

    /// SIGKILLs a node. All that it had written was taken over on return.
    pub fn kill(&mut self, slot: &str) {
        let mut process = self.slot(slot).process.take().expect("something runs there");
        let status = process.kill();
        // Only now: the end of its input would let it end in good order.
        self.router.disconnect(slot);
        assert!(was_killed(status), "{slot} had ended by itself: {status}; stderr:\n{}", process.stderr.text());
    }

    /// Ends a node's input and waits until it has ended. Returns what it had said to people.
    pub fn stop(&mut self, slot: &str) -> String {
        self.router.disconnect(slot);
        let mut process = self.slot(slot).process.take().expect("something runs there");
        let status = process.wait();
        assert_eq!(status.code(), Some(0), "{slot}; stderr:\n{}", process.stderr.text());
        process.stderr.text()
    }

    /// Sends a request (a body without `msg_id` and braces) and returns its number.
    pub fn send(&mut self, slot: &str, body: &str) -> i64 {
        let msg_id = self.next_msg_id;
        self.next_msg_id += 1;
        let dest = &self.slots[slot].address;
        let line = format!("{{\"src\":\"c1\",\"dest\":{dest:?},\"body\":{{\"msg_id\":{msg_id},{body}}}}}\n");
        assert!(self.router.send(slot, &line), "{slot} does not run");
        msg_id
    }

    /// The next reply from any node, if one comes in time.
    pub fn any_reply(&mut self, within: Duration) -> Option<(String, Line)> {
        if !self.aside.is_empty() {
            return Some(self.aside.remove(0));
        }
        match self.replies.recv_timeout(within) {
            Ok(reply) => Some(reply),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => unreachable!("the router holds a sender"),
        }
    }

    /// Waits for the reply to a request.
    pub fn reply(&mut self, slot: &str, msg_id: i64) -> Line {
        let wanted = |(from, line): &(String, Line)| from == slot && line.in_reply_to() == Some(msg_id);
        if let Some(place) = self.aside.iter().position(wanted) {
            return self.aside.remove(place).1;
        }
        let start = Instant::now();
        loop {
            match self.replies.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
                Ok(reply) if wanted(&reply) => return reply.1,
                Ok(reply) => self.aside.push(reply),
                Err(_) => panic!("no reply from {slot}; stderr:\n{}", self.process(slot).stderr.text()),
            }
        }
    }

    /// Sends a request and waits for its reply.
    pub fn call(&mut self, slot: &str, body: &str) -> Line {
        let msg_id = self.send(slot, body);
        self.reply(slot, msg_id)
    }

    /// Adds an element (a JSON text) and returns its tag.
    pub fn add(&mut self, slot: &str, element: &str) -> Uuid {
        self.call(slot, &format!(r#""type":"or_set_add","element":{element}"#)).tags("tag")[0]
    }

    /// Removes an element and returns the tags that were removed.
    pub fn remove(&mut self, slot: &str, element: &str) -> Vec<Uuid> {
        self.call(slot, &format!(r#""type":"or_set_remove","element":{element}"#)).tags("tags_removed")
    }

    /// A node's elements.
    pub fn read(&mut self, slot: &str) -> Vec<String> {
        self.call(slot, r#""type":"or_set_read""#).elements("elements")
    }

    /// Heals the network and waits until every node holds what every node holds (see the top of this file). Leaves no
    /// trace in the set.
    pub fn barrier(&mut self) {
        self.router.set(Faults::default());
        let names: Vec<String> = self.names().into_iter().filter(|name| self.runs(name)).collect();
        let marks: Vec<String> = names.iter().map(|name| format!("\"barrier {name} {}\"", self.next_msg_id)).collect();
        for (name, mark) in names.iter().zip(&marks) {
            self.add(name, mark);
        }
        self.wait_for("every node shows what every node added last", |elements| {
            marks.iter().all(|mark| elements.contains(mark))
        });
        marks.iter().for_each(|mark| assert_eq!(self.remove(&names[0], mark).len(), 1, "{mark}"));
        self.wait_for("every node has heard that the barrier is lifted", |elements| {
            !marks.iter().any(|mark| elements.contains(mark))
        });
    }

    /// Waits until every running node's elements are as wanted.
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&[String]) -> bool) {
        for name in self.names() {
            if self.runs(&name) {
                wait_until(&format!("{what} ({name})"), || wanted(&self.read(&name)));
            }
        }
    }

    /// Removes every element at one node: each must go with exactly one of these tags.
    pub fn drain(&mut self, node: &str, elements: &[String], tags: &BTreeSet<Uuid>) {
        let removed: Vec<Uuid> = elements.iter().flat_map(|element| self.remove(node, element)).collect();
        assert_eq!(removed.len(), elements.len(), "one tag an element");
        assert_eq!(&removed.into_iter().collect::<BTreeSet<Uuid>>(), tags);
        self.barrier();
        assert_eq!(self.agreed(), Vec::<String>::new());
    }

    /// Every running node's elements, once they are the same. (What an earlier process of a node had made, and lost, comes
    /// back to it after a while, whatever barrier was passed.)
    pub fn agreed(&mut self) -> Vec<String> {
        let names: Vec<String> = self.names().into_iter().filter(|name| self.runs(name)).collect();
        let mut agreed = None;
        wait_until("all agree", || {
            let reads: Vec<Vec<String>> = names.iter().map(|name| self.read(name)).collect();
            agreed = reads.iter().all(|read| *read == reads[0]).then(|| reads[0].clone());
            agreed.is_some()
        });
        agreed.expect("just seen")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, slot) in self.slots.iter().filter(|(_, slot)| slot.process.is_some()) {
                let process = slot.process.as_ref().expect("just seen");
                eprintln!("stderr of {name}:\n{}", process.stderr.text());
            }
        } else {
            let complaints = self.router.complaints();
            assert!(complaints.is_empty(), "Maelstrom would be deaf by now: {complaints:#?}");
        }
    }
}
