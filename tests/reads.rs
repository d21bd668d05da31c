//! Whole reads that are too large for one message: what they show, and what they cost.
//!
//! The properties drive one replica on a simulated disk, with pieces of a few bytes, so that there are many; the sessions
//! are with the real binary, and with sets many times larger than a piece.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use orset::crdt::{Element, NodeId};
use orset::maelstrom::encode;
use orset::replica::{ElementList, Outgoing, Replica, ReplicaConfig, Reply, Request, Style, Ticket};
use orset::storage::disk::{Kept, MemDisk};
use orset::storage::{MemorySource, Store, StoreLimits};
use proptest::prelude::*;
use rustix::process::{Pid, Signal};
use support::node::Node;
use support::on_disk::options;
use support::{binary, temp_dir, wait_until};

fn open(disk: &MemDisk, read_piece_bytes: usize) -> Replica {
    let (store, recovery) = Store::open(options(disk, 0, StoreLimits::default()), &mut MemorySource).unwrap();
    let mut replica =
        Replica::new(store, &recovery, ReplicaConfig { read_piece_bytes, ..ReplicaConfig::default() }, 1, 0);
    replica.hear_a_line(0);
    replica
}

fn ticket(msg_id: i64, style: Style) -> Ticket {
    Ticket { client: "c1".into(), msg_id, style, arrived_ms: 0 }
}

/// Numbers, some so long that their keys hold only a hash.
fn element(n: u8) -> Element {
    let long = if n.is_multiple_of(5) { "7".repeat(140) } else { String::new() };
    Element::from_canonical(format!("{n}{long}").as_bytes())
}

fn shown(elements: &ElementList) -> Vec<String> {
    elements.iter().map(|element| String::from_utf8(element.to_vec()).unwrap()).collect()
}

/// All elements of a store, in key order.
fn elements_of(replica: &Replica) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for record in replica.store().records(&[]) {
        let element = record.unwrap().element().as_str().to_owned();
        if found.last() != Some(&element) {
            found.push(element);
        }
    }
    found
}

/// Has the index take in all that is durable, as its thread does from time to time.
fn feed(replica: &mut Replica) {
    let store = replica.store_mut();
    let index = store.index().cloned().unwrap();
    for batch in store.take_feed() {
        index.apply(&batch.changes, batch.position).unwrap();
    }
    store.maintain();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// However large the pieces are, the line is the one that a reply in one message is put into.
    #[test]
    fn the_pieces_of_a_read_are_one_line(
        numbers in prop::collection::vec(any::<u8>(), 0..60),
        piece_bytes in 1..600usize,
        style in prop::sample::select(vec![Style::OrSet, Style::GSet, Style::Broadcast]),
    ) {
        let mut replica = open(&MemDisk::default(), piece_bytes);
        for (n, number) in numbers.into_iter().enumerate() {
            replica.client(ticket(n as i64, Style::OrSet), Request::Add(element(number)), 0).unwrap();
        }
        replica.commit(0).unwrap();
        let mut whole = ElementList::default();
        elements_of(&replica).iter().for_each(|element| whole.push(element.as_bytes()));
        let own = NodeId::new("n1").unwrap();
        let mut expected = Vec::new();
        let reply = Reply::Elements(whole);
        encode(&mut expected, &own, 7, &Outgoing::Reply { ticket: ticket(99, style), reply });

        replica.client(ticket(99, style), Request::Read, 0).unwrap();
        let mut line = Vec::new();
        let mut commits = 0;
        while commits == 0 || replica.is_reading() {
            commits += 1;
            for message in replica.commit(0).unwrap() {
                encode(&mut line, &own, 7, &message);
            }
        }
        prop_assert_eq!(String::from_utf8(line).unwrap(), String::from_utf8(expected).unwrap());
    }
}

/// What happens around a read.
#[derive(Clone, Debug)]
enum Step {
    Add(u8),
    Remove(u8),
    Read,
    Feed,
    Commit,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = 0..40u8;
    let step = prop_oneof![
        4 => number.clone().prop_map(Step::Add),
        2 => number.prop_map(Step::Remove),
        1 => Just(Step::Read),
        1 => Just(Step::Feed),
        4 => Just(Step::Commit),
    ];
    prop::collection::vec(step, 1..120)
}

/// A read that has been asked for: what was there all the time, and what was there at any time.
struct Asked {
    always: BTreeSet<String>,
    ever: BTreeSet<String>,
    shown: Vec<String>,
}

/// One replica, and what its reads may show.
struct Watched {
    disk: MemDisk,
    replica: Replica,
    reads: BTreeMap<i64, Asked>,
    /// The requests that have not been answered, in their order.
    unanswered: Vec<i64>,
    /// The read of which there is more to come.
    under_way: Option<i64>,
}

impl Watched {
    fn ask(&mut self, msg_id: i64, request: Request) {
        if request == Request::Read {
            let now: BTreeSet<String> = elements_of(&self.replica).into_iter().collect();
            self.reads.insert(msg_id, Asked { always: now.clone(), ever: now, shown: Vec::new() });
        }
        self.unanswered.push(msg_id);
        self.replica.client(ticket(msg_id, Style::OrSet), request, 0).unwrap();
        let now: BTreeSet<String> = elements_of(&self.replica).into_iter().collect();
        for asked in self.reads.values_mut() {
            asked.always.retain(|element| now.contains(element));
            asked.ever.extend(now.iter().cloned());
        }
    }

    fn commit(&mut self) {
        // A message shows no more than what has happened until now.
        let held = self.replica.store().vv().clone();
        let messages = self.replica.commit(0).unwrap();
        let after_cut = open(&self.disk.after_cut(Kept::Nothing), 1 << 20);
        assert!(held.is_within(after_cut.store().vv()), "{held:?} may be seen, and may be lost");
        for message in messages {
            let Outgoing::Reply { ticket, reply } = message else { panic!("there are no peers") };
            let (elements, first, last) = match reply {
                Reply::Elements(elements) => (elements, true, true),
                Reply::Piece { elements, first, last } => (elements, first, last),
                _ => (ElementList::default(), true, true),
            };
            assert_eq!(self.under_way, (!first).then_some(ticket.msg_id), "between two pieces nothing else is said");
            self.under_way = (!last).then_some(ticket.msg_id);
            if first {
                assert_eq!(self.unanswered.remove(0), ticket.msg_id, "replies come in the order of the requests");
            }
            if let Some(asked) = self.reads.get_mut(&ticket.msg_id) {
                asked.shown.extend(shown(&elements));
                if last {
                    self.check_read(ticket.msg_id);
                }
            }
        }
    }

    fn check_read(&mut self, msg_id: i64) {
        let asked = self.reads.remove(&msg_id).unwrap();
        let once: BTreeSet<String> = asked.shown.iter().cloned().collect();
        assert_eq!(once.len(), asked.shown.len(), "each element once: {:?}", asked.shown);
        assert!(asked.always.is_subset(&once), "{:?} were there all the time; shown: {once:?}", asked.always);
        assert!(once.is_subset(&asked.ever), "{once:?} are shown; there were {:?}", asked.ever);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is added, removed, moved into the index and asked for between two pieces; and if the power is cut when a
    /// piece is out.
    #[test]
    fn what_is_there_all_the_time_is_in_every_read_once_and_nothing_that_is_not_durable(
        steps in steps(),
        piece_bytes in 1..400usize,
    ) {
        let disk = MemDisk::default();
        disk.set_capacity(Some(64 << 10));
        let replica = open(&disk, piece_bytes);
        let mut watched =
            Watched { disk, replica, reads: BTreeMap::new(), unanswered: Vec::new(), under_way: None };
        for n in 0..20 {
            watched.ask(n, Request::Add(element(2 * n as u8)));
        }
        for (msg_id, step) in (100..).zip(steps) {
            match step {
                Step::Add(n) => watched.ask(msg_id, Request::Add(element(n))),
                Step::Remove(n) => watched.ask(msg_id, Request::Remove(element(n))),
                Step::Read => watched.ask(msg_id, Request::Read),
                Step::Feed => feed(&mut watched.replica),
                Step::Commit => watched.commit(),
            }
        }
        watched.commit();
        while watched.replica.is_reading() {
            watched.commit();
        }
        prop_assert!(watched.unanswered.is_empty() && watched.reads.is_empty());
    }
}

/// Adds so many elements of a KiB without waiting in between.
fn load(node: &mut Node, elements: usize) {
    let filler = "x".repeat(1000);
    let adds: Vec<(i64, String)> = (0..elements)
        .map(|n| node.line_of(&format!("\"type\":\"or_set_add\",\"element\":\"{n:08}{filler}\"")))
        .collect();
    for some in adds.chunks(200) {
        node.write(some.iter().map(|(_, line)| line.as_str()).collect::<String>().as_bytes());
        node.reply(some.last().expect("chunks are not empty").0);
    }
}

fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Starts a node on a store that is there, with its pipes in the test's hand.
fn serve(data_dir: &Path) -> Child {
    let mut command = Command::new(binary());
    command.args(["serve", "--node-id", "n1", "--data-dir"]).arg(data_dir).env_remove("RUST_LOG");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it can be started")
}

fn request(msg_id: i64, body: &str) -> String {
    format!("{{\"src\":\"c1\",\"dest\":\"n1\",\"body\":{{\"msg_id\":{msg_id},{body}}}}}\n")
}

const ELEMENTS: usize = 20_000;

#[test]
fn a_read_of_20_mb_takes_no_more_memory_than_pages_do() {
    let dir = temp_dir();
    let mut node = Node::start(dir.path(), "n1", &[]);
    load(&mut node, ELEMENTS);
    node.stop();
    let mut child = serve(dir.path());
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut line = String::new();
    // What the index keeps of its files, it keeps of whatever is read.
    let mut pages = 0;
    let mut after = String::new();
    while pages * 200 < ELEMENTS {
        pages += 1;
        stdin
            .write_all(request(pages as i64, &format!("\"type\":\"or_set_read\",\"limit\":200{after}")).as_bytes())
            .unwrap();
        line.clear();
        stdout.read_line(&mut line).unwrap();
        let (_, next) = line.split_once("\"next\": ").unwrap_or(("", ", \"msg_id\""));
        after = format!(",\"after\":{}", next.split_once(", \"msg_id\"").unwrap().0);
    }
    let before = peak_kib(child.id());
    stdin.write_all(request(1_000, "\"type\":\"or_set_read\"").as_bytes()).unwrap();
    // Not kept here either: only counted.
    let (mut bytes, mut commas) = (0, 0);
    loop {
        let chunk = stdout.fill_buf().unwrap();
        let length = chunk.iter().position(|byte| *byte == b'\n').map_or(chunk.len(), |n| n + 1);
        (bytes, commas) = (bytes + length, commas + chunk[..length].iter().filter(|byte| **byte == b',').count());
        let ended = chunk[..length].ends_with(b"\n");
        stdout.consume(length);
        if ended {
            break;
        }
    }
    assert!(bytes > ELEMENTS * 1_000 && commas == ELEMENTS - 1 + 5, "{bytes} bytes, {commas} commas");
    let after = peak_kib(child.id());
    assert!(after - before < 4 << 10, "{before} KiB before the read, {after} after it");
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn large_reads_in_a_row_with_changes_between_them_are_answered_in_order() {
    let dir = temp_dir();
    let mut node = Node::start(dir.path(), "n1", &[]);
    load(&mut node, 2_000);
    let mut lines = String::new();
    for body in [
        "\"type\":\"or_set_read\"",
        "\"type\":\"or_set_add\",\"element\":\"new\"",
        "\"type\":\"or_set_read\"",
        "\"type\":\"or_set_contains\",\"element\":\"new\"",
        "\"type\":\"read\"",
    ] {
        lines += &node.line_of(body).1;
    }
    let last = node.line_of("\"type\":\"or_set_add\",\"element\":\"last\"").0;
    lines += &request(last, "\"type\":\"or_set_add\",\"element\":\"last\"");
    node.write(lines.as_bytes());
    let replies: Vec<_> = (last - 5..=last).map(|msg_id| node.reply(msg_id)).collect();
    let count = |n: usize, key| replies[n].elements(key).len();
    assert!((2_000..=2_002).contains(&count(0, "elements")), "{}", count(0, "elements"));
    assert!((2_001..=2_002).contains(&count(2, "elements")), "{}", count(2, "elements"));
    assert!(replies[3].text.contains("\"value\": true"), "{}", replies[3].text);
    assert!((2_001..=2_002).contains(&count(4, "value")), "{}", count(4, "value"));
    node.stop();
}

/// What becomes of a node whose reply is under way, and whose pipe is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    /// SIGTERM, and nobody reads on.
    SignalledAndUnread,
    /// SIGTERM, and the reader reads on.
    Signalled,
    /// The end of the input, and the reader reads on.
    EndOfInput,
}

/// Found by trial: a node that was told to stop cut the line of a client that went on reading it, and ended with 0.
#[test]
fn a_reader_gets_its_whole_line_after_a_stop_and_who_does_not_read_holds_nothing_up() {
    let dir = temp_dir();
    let mut node = Node::start(dir.path(), "n1", &[]);
    load(&mut node, 2_000);
    node.stop();
    for ending in [Ending::SignalledAndUnread, Ending::Signalled, Ending::EndOfInput] {
        let mut child = serve(dir.path());
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(request(1, "\"type\":\"or_set_read\"").as_bytes()).unwrap();
        let mut stdout = child.stdout.take().unwrap();
        wait_until("the pipe is full", || rustix::io::ioctl_fionread(&stdout).unwrap() >= 60_000);
        if ending != Ending::EndOfInput {
            rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        }
        if ending == Ending::SignalledAndUnread {
            wait_until("it has ended", || child.try_wait().unwrap().is_some());
        }
        if ending == Ending::EndOfInput {
            drop(stdin);
        }
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert_eq!(text.ends_with("}}\n"), ending != Ending::SignalledAndUnread, "{ending:?}: {} bytes", text.len());
    }
}
