//! The clients: each has one request in flight at most, and is bound to one node. One that has given up takes a new
//! name, as Maelstrom's do; a reply to the old one is an answer all the same.

use std::collections::HashMap;

use super::history::Request;

/// Maelstrom's clients give up after this.
pub const TIMEOUT_NS: u64 = 5_000_000_000;

/// A request in flight, or given up.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Which worker sent it.
    pub worker: usize,
    /// The node that it went to.
    pub node: usize,
    /// Index of its invocation in the history.
    pub op: usize,
    /// What was asked.
    pub request: Request,
    /// Its worker still waits.
    pub open: bool,
}

/// Sends one request after the other.
#[derive(Clone, Debug)]
pub struct Worker {
    /// The node that it is bound to.
    pub node: usize,
    client: u64,
    next_msg_id: u64,
    busy: Option<(u64, u64)>,
}

/// All clients.
#[derive(Default)]
pub struct Clients {
    workers: Vec<Worker>,
    next_client: u64,
    pending: HashMap<(u64, u64), Pending>,
}

impl Clients {
    /// One more client of a node; gives its place.
    pub fn add(&mut self, node: usize) -> usize {
        let client = self.new_name();
        self.workers.push(Worker { node, client, next_msg_id: 1, busy: None });
        self.workers.len() - 1
    }

    /// A client name that nobody had: its number.
    pub fn new_name(&mut self) -> u64 {
        self.next_client += 1;
        self.next_client - 1
    }

    /// A worker's name and node.
    #[must_use]
    pub fn worker(&self, worker: usize) -> (String, usize) {
        let worker = &self.workers[worker];
        (name(worker.client), worker.node)
    }

    /// Whether a worker has nothing in flight.
    #[must_use]
    pub fn is_free(&self, worker: usize) -> bool {
        self.workers[worker].busy.is_none()
    }

    /// A worker sends a request: gives the message's id.
    pub fn send(&mut self, worker: usize, op: usize, request: Request, now_ns: u64) -> u64 {
        let sender = &mut self.workers[worker];
        let msg_id = sender.next_msg_id;
        sender.next_msg_id += 1;
        sender.busy = Some((msg_id, now_ns + TIMEOUT_NS));
        let pending = Pending { worker, node: sender.node, op, request, open: true };
        self.pending.insert((sender.client, msg_id), pending);
        msg_id
    }

    /// Somebody new asks once more for what an operation was to do, and nobody waits for that: gives the message's id.
    pub fn send_again(&mut self, client: u64, node: usize, op: usize, request: Request) -> u64 {
        let msg_id = 1;
        self.pending.insert((client, msg_id), Pending { worker: 0, node, op, request, open: false });
        msg_id
    }

    /// The request that a reply answers; nobody waits for it any more.
    pub fn answered(&mut self, client: u64, msg_id: u64) -> Option<Pending> {
        let pending = self.pending.remove(&(client, msg_id))?;
        if pending.open {
            self.workers[pending.worker].busy = None;
        }
        Some(pending)
    }

    /// The workers whose time is up give up: what they had asked, and who they were.
    pub fn give_up(&mut self, now_ns: u64) -> Vec<(String, Pending)> {
        let mut given_up = Vec::new();
        for place in 0..self.workers.len() {
            if let Some((msg_id, until_ns)) = self.workers[place].busy
                && until_ns <= now_ns
            {
                let client = self.workers[place].client;
                if let Some(pending) = self.pending.get_mut(&(client, msg_id)) {
                    pending.open = false;
                    given_up.push((name(client), pending.clone()));
                }
                self.rename(place);
            }
        }
        given_up
    }

    /// The node's process is dead, and everything that it said is read: the requests that were open.
    pub fn node_died(&mut self, node: usize) -> Vec<(String, Pending)> {
        let dead = self.pending.extract_if(|_, pending| pending.node == node);
        let mut open: Vec<_> = dead.filter(|(_, pending)| pending.open).collect();
        open.sort_by_key(|(_, pending)| pending.op);
        for (_, pending) in &open {
            self.rename(pending.worker);
        }
        open.into_iter().map(|((client, _), pending)| (name(client), pending)).collect()
    }

    /// When the next worker gives up.
    #[must_use]
    pub fn wake_ns(&self) -> Option<u64> {
        self.workers.iter().filter_map(|worker| worker.busy.map(|(_, until_ns)| until_ns)).min()
    }

    fn rename(&mut self, worker: usize) {
        let client = self.new_name();
        let worker = &mut self.workers[worker];
        (worker.client, worker.next_msg_id, worker.busy) = (client, 1, None);
    }
}

/// A client's name.
#[must_use]
pub fn name(client: u64) -> String {
    format!("c{client}")
}

/// The number in a client's name.
#[must_use]
pub fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix('c')?;
    let plain = digits == "0" || !digits.starts_with('0');
    digits.parse().ok().filter(|_| plain && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_has_given_up_takes_a_new_name_and_the_old_one_may_still_be_answered() {
        let mut clients = Clients::default();
        let worker = clients.add(3);
        let msg_id = clients.send(worker, 7, Request::Read, 0);
        assert!(!clients.is_free(worker));
        assert_eq!(clients.wake_ns(), Some(TIMEOUT_NS));
        assert!(clients.give_up(TIMEOUT_NS - 1).is_empty());
        let given_up = clients.give_up(TIMEOUT_NS);
        assert_eq!(given_up[0].0, "c0");
        assert_eq!(clients.worker(worker), ("c1".to_owned(), 3));
        let second = clients.send(worker, 9, Request::Read, TIMEOUT_NS);
        let late = clients.answered(0, msg_id).expect("a late reply is an answer");
        assert!(late.op == 7 && !late.open && !clients.is_free(worker));
        assert!(clients.answered(0, msg_id).is_none());
        assert!(clients.answered(1, second).is_some_and(|pending| pending.open));
        assert!(clients.is_free(worker));
    }

    #[test]
    fn who_waits_for_a_dead_node_is_told() {
        let mut clients = Clients::default();
        let (first, second) = (clients.add(0), clients.add(1));
        clients.send(first, 1, Request::Read, 0);
        clients.send(second, 2, Request::Read, 0);
        let told = clients.node_died(1);
        assert_eq!(told.iter().map(|(name, pending)| (name.as_str(), pending.op)).collect::<Vec<_>>(), [("c1", 2)]);
        assert!(clients.is_free(second) && !clients.is_free(first));
        assert!(clients.answered(1, 1).is_none());
    }

    #[test]
    fn only_names_of_clients_have_numbers() {
        assert_eq!(number("c12"), Some(12));
        for other in ["n1", "c", "c01", "c+1", "c1x"] {
            assert_eq!(number(other), None, "{other}");
        }
    }
}
