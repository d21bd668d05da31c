//! Requests with a name: done once, and answered the same ever after.
//!
//! What such a request does and its answer go into one frame, so that after a crash either both are there or neither. A
//! request that changes nothing (a remove of what is not there) still leaves its answer; that is an entry of this log
//! and no operation, so peers need not know of it.

use super::pending::weight;
use super::{MAX_BATCH_BYTES, MAX_BATCH_OPS, Store};
use crate::crdt::{Answer, Answered, AskedHash, Dot, Entry, Op, OpBody, RequestKey, Seq};
use crate::planted::{self, Bug};

/// More than can be done in one step, so nothing was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this is more than can be done at once under one name")]
pub struct TooMuchAtOnce;

/// A `Start` that has to go before the operations takes at most this much.
const START_BYTES: usize = 256;

impl Store {
    /// What was answered to the request of this name, if it is one of the newest.
    pub fn answered(&self, key: RequestKey) -> Option<&Answered> {
        self.state.answers.find(key)
    }

    /// Makes operations of this replica and takes note of the answer to them, in one step: durable after the next commit,
    /// all or nothing. `answer` is given the dots of the operations.
    ///
    /// # Errors
    /// If it is more than fits one frame, or more than an answer holds. Nothing has changed then.
    pub fn append_answered(
        &mut self,
        key: RequestKey,
        asked: AskedHash,
        bodies: Vec<OpBody>,
        answer: impl FnOnce(&[Dot]) -> Answer,
    ) -> Result<Answer, TooMuchAtOnce> {
        let held = self.state.vv.get(self.incarnation);
        // The Start has number 1.
        let first = held.0.max(1) + 1;
        let dots: Vec<Dot> = (first..).map(|seq| Dot::new(self.incarnation, Seq(seq))).take(bodies.len()).collect();
        let answered = Answered { key, asked, answer: answer(&dots) };
        if !answered.answer.is_possible() {
            return Err(TooMuchAtOnce);
        }
        let answer = answered.answer.clone();
        let note = Entry::Answered(answered);
        let operations: usize =
            dots.iter().zip(&bodies).map(|(dot, body)| Op { dot: *dot, body: body.clone() }.weight()).sum();
        let (entries, bytes) = (bodies.len() + 2, operations + START_BYTES + weight(&note));
        if entries > MAX_BATCH_OPS || bytes > MAX_BATCH_BYTES {
            return Err(TooMuchAtOnce);
        }
        self.pending.make_room(entries, bytes);
        for (body, dot) in bodies.into_iter().zip(dots) {
            let made = self.append_local(body);
            assert_eq!(made, dot, "an operation of one's own has the next number");
        }
        if planted::is(Bug::AnswerInAnotherFrame) {
            self.pending.begin_frame();
        }
        self.append(note).expect("an answer needs nothing that is not held");
        Ok(answer)
    }
}
