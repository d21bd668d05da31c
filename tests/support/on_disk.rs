//! A store of node n1 on a simulated disk.

use std::path::Path;
use std::sync::Arc;

use orset::crdt::NodeId;
use orset::storage::disk::MemDisk;
use orset::storage::{StoreLimits, StoreOptions};

/// Where it lies.
pub const DIR: &str = "/n1";

/// How to open it. Its random numbers are those after `random`, which must be another one for each start.
pub fn options(disk: &MemDisk, mut random: u128, limits: StoreLimits) -> StoreOptions {
    StoreOptions {
        disk: Arc::new(disk.clone()),
        dir: Path::new(DIR).to_path_buf(),
        node: NodeId::new("n1").expect("a node id"),
        entropy: Box::new(move || {
            random += 1;
            random
        }),
        limits,
    }
}
