//! Input too large to be shown in a golden script: refused or kept exactly, and the next line is served.

mod support;

use support::node::Node;
use support::temp_dir;

const MAX_LINE_BYTES: usize = 16 << 20;
const MAX_ELEMENT_BYTES: usize = 64 << 10;

fn node() -> (tempfile::TempDir, Node) {
    let dir = temp_dir();
    let node = Node::start(dir.path(), "n1", &[]);
    (dir, node)
}

/// A JSON string whose canonical text has that many bytes.
fn text_of(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes - 2))
}

fn adding(element: &str) -> String {
    format!(r#""type":"or_set_add","element":{element}"#)
}

#[test]
fn a_line_over_the_bound_is_skipped_and_the_next_is_served() {
    let (_dir, mut node) = node();
    // No end of line for a long time: it must not be kept in memory until one comes.
    let chunk = vec![b'a'; 1 << 20];
    for _ in 0..MAX_LINE_BYTES / chunk.len() * 8 {
        assert!(node.write(&chunk), "the node reads on");
    }
    let rss_kib = resident_kib(node.process.pid());
    assert!(node.write(b"\n"), "the node reads on");
    assert_eq!(node.read(), Vec::<String>::new());
    // 128 MiB went in. The line's bound, what the allocator made of it, and the node itself fit well below that.
    assert!(rss_kib < 80 << 10, "{rss_kib} KiB resident while a line of 128 MiB came in");
    node.process.stderr.wait_for("line 2");
    node.stop();
}

#[test]
fn a_long_line_within_the_bound_is_served() {
    let (_dir, mut node) = node();
    let padding = " ".repeat(MAX_LINE_BYTES - 200);
    let reply = node.call(&format!(r#"{padding}"type":"or_set_add","element":1"#));
    assert_eq!(reply.body["type"], "or_set_add_ok");
    node.stop();
}

#[test]
fn an_element_fits_up_to_the_bound_and_not_beyond() {
    let (_dir, mut node) = node();
    assert_eq!(node.refused(&adding(&text_of(MAX_ELEMENT_BYTES + 1))), 12);
    assert_eq!(node.refused(&format!(r#""type":"add","element":{}"#, text_of(MAX_ELEMENT_BYTES + 1))), 12);
    assert_eq!(node.refused(&format!(r#""type":"broadcast","message":{}"#, text_of(MAX_ELEMENT_BYTES + 1))), 12);
    assert_eq!(node.read(), Vec::<String>::new(), "what was refused changed nothing");
    let longest = text_of(MAX_ELEMENT_BYTES);
    let tag = node.add(&longest);
    assert_eq!(node.read(), std::slice::from_ref(&longest));
    assert_eq!(node.remove(&longest), [tag]);
    node.stop();
}

#[test]
fn white_space_and_escapes_do_not_count_against_the_bound() {
    let (_dir, mut node) = node();
    let spaced = format!("[{}1]", " ".repeat(2 * MAX_ELEMENT_BYTES));
    node.add(&spaced);
    let escaped = format!("\"{}\"", "\\u0078".repeat(MAX_ELEMENT_BYTES - 2));
    node.add(&escaped);
    assert_eq!(node.read(), [text_of(MAX_ELEMENT_BYTES), "[1]".to_owned()]);
    node.stop();
}

#[test]
fn the_bound_on_elements_is_an_option() {
    let dir = temp_dir();
    let mut node = Node::start(dir.path(), "n1", &["--max-element-bytes", "10"]);
    assert_eq!(node.refused(&adding(&text_of(11))), 12);
    node.add(&text_of(10));
    node.stop();
}

#[test]
fn nesting_ends_at_128() {
    let (_dir, mut node) = node();
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    // Within the bound even if the line's own object and its body are two of the levels.
    let deepest = nested(126);
    node.add(&deepest);
    assert_eq!(node.read(), [deepest]);
    for depth in [129, 1_000, 1_000_000] {
        assert_eq!(node.refused(&adding(&nested(depth))), 12, "depth {depth}");
        let objects = format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        assert_eq!(node.refused(&adding(&objects)), 12, "depth {depth}");
    }
    assert_eq!(node.read().len(), 1, "what was refused changed nothing");
    node.stop();
}

#[test]
fn a_number_of_10_000_digits_is_kept_exactly_or_refused() {
    let (_dir, mut node) = node();
    for number in ["7".repeat(10_000), format!("0.{}", "7".repeat(10_000)), format!("1e{}", "9".repeat(10_000))] {
        let reply = node.call(&adding(&number));
        if reply.body["type"] == "error" {
            assert_eq!(reply.body["code"], 12, "{}", reply.text);
            assert_eq!(node.read(), Vec::<String>::new());
        } else {
            assert_eq!(node.read(), std::slice::from_ref(&number));
            assert_eq!(node.remove(&number), reply.tags("tag"));
        }
    }
    node.stop();
}

#[test]
fn a_thousand_bad_lines_harm_nobody() {
    let (_dir, mut node) = node();
    let bad = "{\"src\":\"c1\",\"dest\":\"n1\",\"body\":{\"type\":\"or_set_add\",\"element\":1}}\n\n\u{0}\n[]\nnull\n{}\n\"\n";
    assert!(node.write(bad.repeat(1_000).as_bytes()), "the node reads on");
    assert_eq!(node.read(), Vec::<String>::new());
    let unasked = node.drain();
    assert!(unasked.is_empty(), "{unasked:#?}");
    node.stop();
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells");
    line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
}
