//! When clients' requests came, so that replies to clients that have given up can be dropped.

use std::collections::{HashMap, VecDeque};

use super::message::{Message, is_client};

/// A request: its client, and the client's number for it.
type Request = (String, i64);

/// The requests of the last few seconds.
pub struct Arrivals {
    /// 0: nothing is ever late.
    deadline_ms: u64,
    times: HashMap<Request, u64>,
    /// The same in order of time. A client may use a number again, so `times` may hold a later one.
    order: VecDeque<(u64, Request)>,
}

impl Arrivals {
    /// Replies to requests older than `deadline_ms` will be late; 0: none.
    pub fn new(deadline_ms: u64) -> Self {
        Self { deadline_ms, times: HashMap::new(), order: VecDeque::new() }
    }

    /// Notes a request, if it is a client's.
    pub fn note(&mut self, message: &Message, now_ms: u64) {
        if self.deadline_ms == 0 || !is_client(&message.src) {
            return;
        }
        self.forget(now_ms);
        if let Some(msg_id) = message.body.msg_id {
            let request = (message.src.clone(), msg_id);
            self.times.insert(request.clone(), now_ms);
            self.order.push_back((now_ms, request));
        }
    }

    /// Whether this is a reply to a client that has given up. That is so for a request that is not known, too: it
    /// has been forgotten because it is old.
    pub fn is_late(&mut self, reply: &Message, now_ms: u64) -> bool {
        let Some(msg_id) = reply.body.in_reply_to else { return false };
        if self.deadline_ms == 0 || !is_client(&reply.dest) {
            return false;
        }
        self.forget(now_ms);
        !self.times.contains_key(&(reply.dest.clone(), msg_id))
    }

    fn forget(&mut self, now_ms: u64) {
        let is_old = |at_ms: u64| now_ms - at_ms > self.deadline_ms;
        while self.order.front().is_some_and(|(at_ms, _)| is_old(*at_ms))
            && let Some((at_ms, request)) = self.order.pop_front()
        {
            if self.times.get(&request) == Some(&at_ms) {
                self.times.remove(&request);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(src: &str, msg_id: i64) -> Message {
        Message::of(format!(r#"{{"src":"{src}","dest":"n0","body":{{"type":"add","msg_id":{msg_id}}}}}"#).as_bytes())
    }

    fn reply(dest: &str, to: i64) -> Message {
        let line = format!(r#"{{"src":"n0","dest":"{dest}","body":{{"type":"add_ok","in_reply_to":{to}}}}}"#);
        Message::of(line.as_bytes())
    }

    #[test]
    fn a_reply_is_late_after_the_deadline_and_not_at_it() {
        let mut arrivals = Arrivals::new(4500);
        arrivals.note(&request("c1", 1), 1000);
        assert!(!arrivals.is_late(&reply("c1", 1), 5500));
        // Twice is the node's fault, and not to be hidden.
        assert!(!arrivals.is_late(&reply("c1", 1), 5500));
        assert!(arrivals.is_late(&reply("c1", 1), 5501));
        assert!(arrivals.times.is_empty() && arrivals.order.is_empty());
    }

    #[test]
    fn a_number_that_is_used_again_counts_from_the_last_time() {
        let mut arrivals = Arrivals::new(4500);
        arrivals.note(&request("c1", 1), 1000);
        arrivals.note(&request("c1", 1), 3000);
        assert!(!arrivals.is_late(&reply("c1", 1), 7500));
        assert!(arrivals.is_late(&reply("c1", 1), 7501));
    }

    #[test]
    fn only_replies_to_clients_can_be_late() {
        let mut arrivals = Arrivals::new(4500);
        assert!(arrivals.is_late(&reply("c1", 1), 1));
        assert!(!arrivals.is_late(&reply("n1", 1), 1));
        assert!(!arrivals.is_late(&request("c1", 1), 1));
        assert!(!Arrivals::new(0).is_late(&reply("c1", 1), 1));
    }
}
