//! How a node is, for people and their monitoring.
//!
//! What is said of a peer is what it was last known to hold: it may hold more by now. After a start nothing is known of
//! a peer until it has been heard.

use std::collections::BTreeMap;

use super::Replica;
use crate::crdt::{NodeId, ReplicaId, Seq, VersionVector};
use crate::storage::{Counts, Lsn, StoreError};

/// See the module's text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// What is held: by node, how many operations of each of its incarnations.
    pub vv: BTreeMap<NodeId, Vec<(ReplicaId, Seq)>>,
    /// How much is in the set.
    pub counts: Counts,
    /// The last LSN that is durable.
    pub lsn: Lsn,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Bytes of the snapshot.
    pub snapshot_bytes: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// By how many LSNs the index is behind.
    pub index_lag: u64,
    /// The other nodes of the cluster.
    pub peers: BTreeMap<NodeId, PeerStatus>,
}

/// What is known of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// How many operations are held here that it is not known to hold; `None` if nothing is known of it.
    pub lacks: Option<u64>,
    /// How many it is known to hold that are not held here.
    pub ahead: Option<u64>,
    /// When it was last heard, in ms before now; `None`: not since the start.
    pub heard_ms_ago: Option<u64>,
}

impl Status {
    /// About how many bytes it takes as a reply.
    pub(super) fn weight(&self) -> usize {
        let incarnations: usize = self.vv.values().map(Vec::len).sum();
        512 + 48 * incarnations + 192 * (self.vv.len() + self.peers.len())
    }
}

/// How many operations somebody who holds `more` has beyond `less`.
fn beyond(more: &VersionVector, less: &VersionVector) -> u64 {
    more.iter().map(|(replica, seq)| seq.0.saturating_sub(less.get(replica).0)).sum()
}

impl Replica {
    /// How this node is. Costs what [`crate::storage::Store::counts`] does.
    pub(super) fn status(&self) -> Result<Status, StoreError> {
        let (store, state) = (&self.store, self.store.state());
        let mut vv: BTreeMap<NodeId, Vec<(ReplicaId, Seq)>> = BTreeMap::new();
        for (replica, seq) in state.vv.iter() {
            // Whoever holds operations of an incarnation holds its Start.
            if let Some(incarnation) = state.incarnations.get(replica) {
                vv.entry(incarnation.node.clone()).or_default().push((replica, seq));
            }
        }
        let peer = |peer: &NodeId| {
            let heard =
                self.relay.place(peer).map(|place| self.relay.peer(place)).filter(|peer| peer.heard_ms.is_some());
            let known = heard.map(|peer| &peer.known);
            let status = PeerStatus {
                lacks: known.map(|theirs| beyond(&state.vv, theirs)),
                ahead: known.map(|theirs| beyond(theirs, &state.vv)),
                heard_ms_ago: heard.and_then(|peer| peer.heard_ms).map(|at_ms| self.now_ms.saturating_sub(at_ms)),
            };
            (peer.clone(), status)
        };
        let (log_bytes, snapshot_bytes) = store.bytes();
        Ok(Status {
            vv,
            counts: store.counts()?,
            lsn: store.lsn(),
            log_bytes,
            snapshot_bytes,
            index_bytes: store.index().map_or(0, |index| index.disk_bytes()),
            index_lag: store.index_lag(),
            peers: self.peers.iter().map(peer).collect(),
        })
    }
}
