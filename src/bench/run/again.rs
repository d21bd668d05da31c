//! Asking again: with `--retry`, an add or a remove that nobody answered is asked for once more, on the same node and under
//! the same `request_id`. Its answer then is the operation's, as a late reply is.
//!
//! Not after the node's store was copied, wiped or set back: its list of requests goes with its store, so it may do the
//! request a second time, and rightly.

use std::io;

use serde_json::{Value, json};

use super::super::clients::{Pending, name};
use super::super::history::{Answer, Event, Outcome, Request};
use super::super::wire;
use super::{Runner, Stage};

/// An operation that nobody has answered.
pub(super) struct Unanswered {
    op: usize,
    node: usize,
    request: Request,
    /// It has been asked for again, and the process that was asked lives.
    asked: bool,
}

impl Runner<'_> {
    /// The body of the request for operation `op`.
    pub(super) fn body_of(&self, op: usize, request: &Request, msg_id: u64) -> Value {
        let mut body = wire::body(self.options.workload, request, msg_id);
        if self.options.retry && matches!(request, Request::Add { .. } | Request::Remove { .. }) {
            body["request_id"] = json!(format!("operation {op}"));
        }
        body
    }

    /// A client has given up on a request.
    pub(super) fn is_unanswered(&mut self, pending: &Pending) {
        let changes = matches!(pending.request, Request::Add { .. } | Request::Remove { .. });
        if self.options.retry && changes && self.stage == Stage::Main {
            let Pending { op, node, .. } = *pending;
            self.unanswered.push(Unanswered { op, node, request: pending.request.clone(), asked: false });
        }
    }

    /// The process of a node has died, and with it what it was asked.
    pub(super) fn died_unanswered(&mut self, node: usize) {
        self.unanswered.iter_mut().filter(|one| one.node == node).for_each(|one| one.asked = false);
    }

    /// The store of a node is another now, or will be.
    pub(super) fn forget_unanswered(&mut self, node: usize) {
        self.unanswered.retain(|one| one.node != node);
    }

    /// Asks for what was not answered, where there is somebody to ask.
    pub(super) fn ask_again(&mut self, now_ns: u64) -> io::Result<()> {
        if self.stage != Stage::Main {
            self.unanswered.clear();
        }
        for place in 0..self.unanswered.len() {
            let one = &mut self.unanswered[place];
            if one.asked || !self.nodes[one.node].ready {
                continue;
            }
            one.asked = true;
            let (op, node, request) = (one.op, one.node, one.request.clone());
            let client = self.clients.new_name();
            self.recorder.record(Event::Again { op, process: name(client) })?;
            let msg_id = self.clients.send_again(client, node, op, request.clone());
            let body = self.body_of(op, &request, msg_id);
            self.send_from_client(client, node, &body, now_ns);
        }
        Ok(())
    }

    /// What is to be recorded of a reply to an operation that was asked for more than once, if anything: that one of the
    /// requests was refused says nothing, and the same answer again nothing new.
    pub(super) fn of_several(&mut self, op: usize, outcome: Outcome) -> Option<Outcome> {
        let operation = self.recorder.history.operation(op).ok()?;
        let known: Option<Answer> = operation.ok().map(|(_, answer)| answer.clone());
        if operation.again.is_none() {
            self.unanswered.retain(|one| one.op != op);
            return Some(outcome);
        }
        let Outcome::Ok(_, answer) = &outcome else { return None };
        self.unanswered.retain(|one| one.op != op);
        (known.as_ref() != Some(answer)).then_some(outcome)
    }
}
