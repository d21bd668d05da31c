//! How long everything takes. All of it follows from two settings: how often a relay flushes, F, and how long a leaf
//! waits, W.
//!
//! F should be a little more than two latencies of the network: then the acknowledgement of one flush is there before
//! the next.

use crate::replica::ReplicaConfig;

/// F is meant for a relay with so many peers or more. With fewer it flushes as much more often: that costs it no more
/// messages a second.
const PEERS: u64 = 24;
/// A leaf does not push more often than this.
const PUSH_PAUSE_MS: u64 = 10;
/// How long a relay takes to answer beyond its flush interval and the latency that F stands for.
const SLACK_MS: u64 = 200;
/// After a restart, the first node of the cluster greets the others after this, if nobody has answered it.
const GREET_MS: u64 = 500;
/// The acting relay probes suspects this often at most; half as much again at random.
const PROBE_MS: u64 = 1_000;
/// Leaves probe suspects this often.
const LEAF_PROBE_MS: u64 = 10_000;

/// See the module's text. In milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timers {
    flush: u64,
    wait: u64,
}

impl Timers {
    pub fn new(config: &ReplicaConfig) -> Self {
        Self { flush: config.flush_interval_ms, wait: config.leaf_wait_ms }
    }

    /// Between two flushes of a relay that has so many peers.
    pub fn flush(self, peers: usize) -> u64 {
        (self.flush * (peers as u64).min(PEERS) / PEERS).max(1)
    }

    /// From a leaf's first new operation to its push.
    pub fn wait(self) -> u64 {
        self.wait
    }

    /// Between two pushes of a leaf.
    pub fn push_pause(self) -> u64 {
        PUSH_PAUSE_MS
    }

    /// A push that is not acknowledged after this is lost, or the relay is.
    pub fn patience(self) -> u64 {
        2 * self.flush + self.wait + SLACK_MS
    }

    /// A relay that was silent from then on is lost: what came before may have been under way when it died.
    pub fn silence(self) -> u64 {
        self.patience() * 3 / 10
    }

    /// A ping that is not answered after this was sent to nobody.
    pub fn ping(self) -> u64 {
        (self.flush * 3 / 2).max(500)
    }

    /// From the last flush to a bare acknowledgement of it.
    pub fn ack(self) -> u64 {
        (self.flush * 6 / 5).max(400)
    }

    /// From the first flush that is not acknowledged to a bare acknowledgement, however many followed it.
    pub fn latest_ack(self) -> u64 {
        (self.flush * 5).max(1_500)
    }

    /// From the last flush to its being sent again, if nothing acknowledges it; twice as long each further time.
    pub fn resend(self) -> u64 {
        (self.ack() + self.flush + SLACK_MS).max(1_000)
    }

    /// Who was not heard for so long may be away, if others say so.
    pub fn unheard(self) -> u64 {
        2 * self.flush
    }

    /// What is younger is being brought by pushes.
    pub fn grace(self) -> u64 {
        (self.flush * 3 / 2 + 500).max(1_000)
    }

    /// What is missing before an operation that has come early may come this much later.
    pub fn overtaking(self) -> u64 {
        self.flush / 3
    }

    /// Three round trips: an answer does not take longer.
    pub fn answer(self) -> u64 {
        (2 * self.flush).max(600)
    }

    /// From a probe of a suspect to the next.
    pub fn probe(self, relay: bool, random: u64) -> u64 {
        if relay { PROBE_MS + random % (PROBE_MS / 2) } else { LEAF_PROBE_MS }
    }

    /// From the end of the quiet after a start to the greeting.
    pub fn greet(self) -> u64 {
        GREET_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_cluster_flushes_as_much_more_often_as_it_has_fewer_peers() {
        let timers = Timers { flush: 300, wait: 0 };
        assert_eq!([1, 2, 4, 12, 24, 99].map(|peers| timers.flush(peers)), [12, 25, 50, 150, 300, 300]);
    }

    #[test]
    fn a_bare_acknowledgement_comes_before_a_flush_is_sent_again() {
        for flush in [1, 10, 210, 300, 800, 5_000] {
            let timers = Timers { flush, wait: 300 };
            // A flush and its acknowledgement take two latencies, which F is a little more than.
            assert!(timers.ack() + flush < timers.resend(), "{timers:?}");
            assert!(timers.flush(24) + flush < timers.patience(), "{timers:?}");
        }
    }
}
