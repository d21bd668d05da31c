//! A node gives disk back: sled does not, so its index is replaced when the set has shrunk.

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use support::node::Node;
use support::{temp_dir, wait_until};

const REQUESTS: usize = 20;
const ELEMENTS: usize = 1_000;

fn bytes_on_disk(path: &Path) -> u64 {
    // Files come and go while the node runs.
    let Ok(found) = std::fs::symlink_metadata(path) else { return 0 };
    let below = std::fs::read_dir(path).into_iter().flatten().flatten();
    found.blocks() * 512 + below.map(|entry| bytes_on_disk(&entry.path())).sum::<u64>()
}

/// Sends a request for a thousand elements of a hundred bytes each, again and again.
fn ask(node: &mut Node, kind: &str) {
    for request in 0..REQUESTS {
        let elements: Vec<String> = (0..ELEMENTS).map(|n| format!("\"{:0>98}\"", request * ELEMENTS + n)).collect();
        let reply = node.call(&format!(r#""type":"{kind}","elements":[{}]"#, elements.join(",")));
        assert_eq!(reply.body["type"], format!("{kind}_ok"));
    }
}

#[test]
fn a_node_whose_set_has_shrunk_gives_disk_back_and_starts_with_what_is_left() {
    let dir = temp_dir();
    let index = dir.path().join("n1/index");
    let mut node = Node::start(dir.path(), "n1", &[]);
    ask(&mut node, "or_set_add_many");
    wait_until("the index is as large as the set", || bytes_on_disk(&index) > 5 << 20);
    ask(&mut node, "or_set_remove_many");
    node.add("\"left\"");
    wait_until("the index has been replaced by a small one", || bytes_on_disk(&index) < 2 << 20);
    node.add("\"and more\"");
    assert_eq!(support::sorted(node.read()), ["\"and more\"", "\"left\""]);
    node.process.kill();
    let mut node = Node::start(dir.path(), "n1", &[]);
    assert_eq!(support::sorted(node.read()), ["\"and more\"", "\"left\""]);
    assert!(node.process.stderr.text().contains("index trusted"), "{}", node.process.stderr.text());
    node.stop();
}
