//! `orset serve`.

use std::path::PathBuf;

use clap::Args;

use crate::crdt::NodeId;
use crate::maelstrom::{LARGEST_ELEMENT_BYTES, Limits};
use crate::node::{self, NodeOptions};
use crate::replica::ReplicaConfig;
use crate::storage::StoreLimits;

/// Options of the node.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Where the stores lie: each node's is DIR/<node id>
    #[arg(long, value_name = "DIR", env = "ORSET_DATA_DIR", default_value = "./orset-data")]
    data_dir: PathBuf,
    /// Start from this node's store at once, without waiting for `init`
    #[arg(long, value_name = "ID", value_parser = node_id)]
    node_id: Option<NodeId>,
    /// After a restart, hold clients' set requests until a peer has answered, but at most so long
    #[arg(long, value_name = "MS", default_value_t = 500)]
    catch_up_ms: u64,
    /// The relay (the first node that is up) spreads new operations at most this often; one after a pause leaves at once.
    /// That is in a cluster of 25 nodes or more; in a smaller one it is as much more often as there are fewer. Keep it a
    /// little above the network's round trip. 1 to 60000
    #[arg(long, value_name = "MS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    flush_interval_ms: u64,
    /// The others wait so long before they send new operations to the relay. 300, with a flush interval of 800, halves the
    /// messages, and takes three times as long. At most 60000
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=60_000))]
    leaf_wait_ms: u64,
    /// Send a digest to a random peer this often; doubling while nothing differs
    #[arg(long, value_name = "MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..))]
    digest_interval_ms: u64,
    /// ... up to this
    #[arg(long, value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..))]
    digest_max_ms: u64,
    /// Drop replies to requests older than this; 0: none. Under Maelstrom use 4500, since its clients give up after
    /// 5 s, and it goes deaf to a node that answers one that has gone
    #[arg(long, value_name = "MS", default_value_t = 0)]
    reply_deadline_ms: u64,
    /// Largest element, in bytes of its canonical JSON text; up to 1048576
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 10, value_parser = element_bytes)]
    max_element_bytes: usize,
    /// What to log on stderr: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", env = "ORSET_LOG", default_value = "info", value_parser = ["error", "warn", "info", "debug", "trace"])]
    log_level: String,
    /// Keep at least this much log for peers that have been away (for tests; the least is 4 MiB by default)
    #[arg(long, value_name = "BYTES", hide = true)]
    log_retention_bytes: Option<u64>,
    /// Close a log segment at this size (for tests)
    #[arg(long, value_name = "BYTES", hide = true)]
    segment_bytes: Option<u64>,
}

/// A node id in an argument.
pub fn node_id(text: &str) -> Result<NodeId, String> {
    NodeId::new(text).ok_or_else(|| "1 to 128 letters, digits, '.', '_' or '-', not beginning with '.'".to_owned())
}

fn element_bytes(text: &str) -> Result<usize, String> {
    // One element must fit into one message to a peer, with room around it.
    match text.parse() {
        Ok(bytes) if (1..=LARGEST_ELEMENT_BYTES).contains(&bytes) => Ok(bytes),
        _ => Err("a number from 1 to 1048576".to_owned()),
    }
}

/// Runs the node.
pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    super::start_logging(&args.log_level);
    let mut store = StoreLimits::default();
    if let Some(bytes) = args.log_retention_bytes {
        store.min_retention_bytes = bytes;
        store.max_retention_bytes = store.max_retention_bytes.max(bytes);
    }
    if let Some(bytes) = args.segment_bytes {
        store.segment_bytes = bytes;
    }
    node::run(NodeOptions {
        data_dir: args.data_dir,
        node_id: args.node_id,
        reply_deadline_ms: args.reply_deadline_ms,
        limits: Limits { max_element_bytes: args.max_element_bytes, ..Limits::default() },
        replica: ReplicaConfig {
            catch_up_ms: args.catch_up_ms,
            flush_interval_ms: args.flush_interval_ms,
            leaf_wait_ms: args.leaf_wait_ms,
            digest_interval_ms: args.digest_interval_ms,
            digest_max_ms: args.digest_max_ms,
            ..ReplicaConfig::default()
        },
        store,
    })?;
    Ok(())
}
