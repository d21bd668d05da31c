//! What is known of one node: what it holds, what it was sent, when it was heard.

use std::collections::VecDeque;
use std::sync::Arc;

use super::timers::Timers;
use crate::crdt::{NodeId, ReplicaId, VersionVector};
use crate::storage::OpCursor;

/// A flush that is not acknowledged is sent again so many times; then whoever has not said a word is suspected.
const MAX_RESENDS: u32 = 4;

/// See the module's text.
pub struct Peer {
    pub name: NodeId,
    /// The process that was heard last, and the one before it.
    incarnation: Option<ReplicaId>,
    earlier: Option<ReplicaId>,
    /// What it last said that it holds. A hint: it may have lost it since, or hold more.
    pub known: VersionVector,
    /// What it was sent: everything before, but for what it was known to hold and what had been spread.
    pub sent: OpCursor,
    /// When it was last heard.
    pub heard_ms: Option<u64>,
    /// When it is probed next, if it is suspected to be away.
    pub suspected: Option<u64>,
    /// Until when it must have answered a ping.
    pub ping_until_ms: Option<u64>,
    /// A flush that it has not acknowledged.
    pub unacknowledged: Option<Unacknowledged>,
    /// When it was last told that this node is there (again).
    pub greeted_ms: Option<u64>,
    /// It has pushed something, and waits to hear that it is spread.
    pub owed: bool,
    /// When it first and last flushed something that it was not told has come.
    pub unanswered: Option<(u64, u64)>,
}

/// What a relay waits for.
#[derive(Default)]
pub struct Unacknowledged {
    /// What was held at each flush, and when that was.
    flushes: VecDeque<(Arc<VersionVector>, u64)>,
    /// How often they were sent again, and how often of these after the last word from there.
    resends: u32,
    in_silence: u32,
    /// They are to be sent again.
    pub due: bool,
}

impl Peer {
    pub fn new(name: NodeId) -> Self {
        Self {
            name,
            incarnation: None,
            earlier: None,
            known: VersionVector::new(),
            sent: OpCursor::default(),
            heard_ms: None,
            suspected: None,
            ping_until_ms: None,
            unacknowledged: None,
            greeted_ms: None,
            owed: false,
            unanswered: None,
        }
    }

    /// It has said something. Says whether it is a new process, which may have lost what the one before it was sent.
    ///
    /// If the one before is heard once more, that is a late word, or two of them run under one name: then each word would
    /// seem to come from another process than the last.
    pub fn heard(&mut self, incarnation: ReplicaId, now_ms: u64) -> bool {
        self.heard_ms = Some(now_ms);
        self.suspected = None;
        self.ping_until_ms = None;
        if let Some(unacknowledged) = &mut self.unacknowledged {
            unacknowledged.in_silence = 0;
        }
        if self.incarnation == Some(incarnation) {
            return false;
        }
        let is_back = self.earlier == Some(incarnation);
        self.earlier = self.incarnation.replace(incarnation);
        self.earlier.is_some() && !is_back
    }

    /// What it last said that it holds, if that was the process `incarnation`, which holds it still.
    pub fn held_by(&self, incarnation: ReplicaId) -> Option<&VersionVector> {
        (self.incarnation == Some(incarnation)).then_some(&self.known)
    }

    /// Whether it was heard at `since_ms` or later.
    pub fn heard_since(&self, since_ms: u64) -> bool {
        self.heard_ms.is_some_and(|at| at >= since_ms)
    }

    /// When it is told that its flushes have come, unless it hears that from something else.
    pub fn ack_at_ms(&self, timers: Timers) -> Option<u64> {
        self.unanswered.map(|(first_ms, last_ms)| (last_ms + timers.ack()).min(first_ms + timers.latest_ack()))
    }

    /// It holds this, it says.
    pub fn holds(&mut self, vv: VersionVector) {
        self.known = vv;
        let Some(unacknowledged) = &mut self.unacknowledged else { return };
        let flushes = &mut unacknowledged.flushes;
        while flushes.front().is_some_and(|(held, _)| held.is_within(&self.known)) {
            flushes.pop_front();
        }
        if flushes.is_empty() {
            self.unacknowledged = None;
        }
    }

    /// It was flushed operations by somebody who held `vv`.
    pub fn flushed(&mut self, vv: &Arc<VersionVector>, now_ms: u64) {
        let unacknowledged = self.unacknowledged.get_or_insert_default();
        unacknowledged.flushes.push_back((Arc::clone(vv), now_ms));
        unacknowledged.due = false;
    }
}

impl Unacknowledged {
    /// When they are sent again: a while after the last flush; if one follows the other, a longer while after the first.
    pub fn resend_at_ms(&self, timers: Timers) -> Option<u64> {
        let after = timers.resend() << self.resends.min(3);
        let ((_, first_ms), (_, last_ms)) = (self.flushes.front()?, self.flushes.back()?);
        Some((last_ms + after).min(first_ms + 2 * after))
    }

    /// They are sent again now. Says whether that has been done so often in vain that nobody seems to be there.
    pub fn send_again(&mut self) -> bool {
        if self.in_silence == MAX_RESENDS {
            return true;
        }
        self.resends += 1;
        self.in_silence += 1;
        // All at once.
        self.flushes.clear();
        self.due = true;
        false
    }
}
