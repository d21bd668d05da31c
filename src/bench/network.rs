//! The network between nodes, as Maelstrom's (its `net.clj`): each node has one inbox, ordered by due time. Its thread
//! takes the first message, and then waits until that one is due: what comes in meanwhile waits behind it, also a
//! client's request. Messages to and from clients have no latency. A partition drops a message when it is delivered,
//! not when it is sent.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::options::Latency;

/// A message on its way to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it.
    pub from: Source,
    /// The whole line, with its end.
    pub line: Vec<u8>,
    /// When it was sent, in nanoseconds since the run began.
    pub sent_ns: u64,
    /// When it is due.
    pub due_ns: u64,
    /// The second one of a message that arrives twice.
    pub duplicate: bool,
}

/// Who sent a message to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A node.
    Node(usize),
    /// A client.
    Client,
}

#[derive(Debug, PartialEq, Eq)]
struct Queued {
    packet: Packet,
    number: u64,
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.packet.due_ns, self.number).cmp(&(other.packet.due_ns, other.number))
    }
}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What waits for one node.
#[derive(Debug, Default)]
pub struct Inbox {
    queue: BinaryHeap<Reverse<Queued>>,
    /// Taken out already: everything else waits behind it. And when it can go at the earliest.
    taken: Option<(Packet, u64)>,
    number: u64,
}

impl Inbox {
    /// A message that will be delivered when it is due.
    pub fn push(&mut self, packet: Packet) {
        self.number += 1;
        self.queue.push(Reverse(Queued { packet, number: self.number }));
    }

    /// When there is something to deliver; the first message is taken out now.
    pub fn wake_ns(&mut self) -> Option<u64> {
        if self.taken.is_none() {
            let Reverse(queued) = self.queue.pop()?;
            let due_ns = queued.packet.due_ns;
            self.taken = Some((queued.packet, due_ns));
        }
        self.taken.as_ref().map(|(_, due_ns)| *due_ns)
    }

    /// The next message that is due, and since when nothing but the bench kept it.
    pub fn pop(&mut self, now_ns: u64) -> Option<(Packet, u64)> {
        let free_ns = self.wake_ns()?;
        let taken = if free_ns <= now_ns { self.taken.take() } else { None };
        if taken.is_some() {
            self.hold(free_ns);
        }
        taken
    }

    /// What was behind a message that went at `free_ns` could not go before that.
    fn hold(&mut self, free_ns: u64) {
        if let Some(Reverse(queued)) = self.queue.pop() {
            let due_ns = queued.packet.due_ns.max(free_ns);
            self.taken = Some((queued.packet, due_ns));
        }
    }

    /// A new process waits for nothing yet: `init`, which is due at once, goes before what the old one waited for.
    pub fn restart(&mut self) {
        if let Some((packet, _)) = self.taken.take() {
            self.push(packet);
        }
    }

    /// The node's process is dead: what clients have sent to it is lost.
    pub fn drop_clients(&mut self) -> Vec<Packet> {
        let (lost, kept): (Vec<Packet>, _) =
            self.take_all().into_iter().partition(|packet| packet.from == Source::Client);
        kept.into_iter().for_each(|packet| self.push(packet));
        lost
    }

    /// Everything that waits, in the order in which it would go.
    pub fn take_all(&mut self) -> Vec<Packet> {
        let first = self.taken.take().map(|(packet, _)| packet);
        let rest = std::mem::take(&mut self.queue).into_sorted_vec().into_iter().rev();
        first.into_iter().chain(rest.map(|Reverse(queued)| queued.packet)).collect()
    }
}

/// What happens to messages between nodes.
#[derive(Debug)]
pub struct Links {
    latency: Latency,
    /// The partitions in force: which fault, and the links that it cuts, as sender and receiver.
    cuts: Vec<(u64, Vec<(usize, usize)>)>,
    /// The faults in force that lose messages, and how often.
    losses: Vec<(u64, f64)>,
    duplicates: Vec<(u64, f64)>,
    slow: Vec<u64>,
}

/// Under the fault `slow`: how many times as long a message takes, …
const SLOW_FACTOR: u64 = 10;
/// … but at least this.
const SLOW_LEAST_NS: u64 = 100_000_000;

impl Links {
    /// All whole.
    #[must_use]
    pub fn new(latency: Latency) -> Self {
        Links { latency, cuts: vec![], losses: vec![], duplicates: vec![], slow: vec![] }
    }

    /// Cuts links, given as sender and receiver.
    pub fn cut(&mut self, fault: u64, links: Vec<(usize, usize)>) {
        self.cuts.push((fault, links));
    }

    /// Loses each message with this probability.
    pub fn lose(&mut self, fault: u64, probability: f64) {
        self.losses.push((fault, probability));
    }

    /// Sends each message twice with this probability.
    pub fn duplicate(&mut self, fault: u64, probability: f64) {
        self.duplicates.push((fault, probability));
    }

    /// Messages take longer.
    pub fn slow(&mut self, fault: u64) {
        self.slow.push(fault);
    }

    /// Ends a fault.
    pub fn mend(&mut self, fault: u64) {
        self.cuts.retain(|(number, _)| *number != fault);
        self.losses.retain(|(number, _)| *number != fault);
        self.duplicates.retain(|(number, _)| *number != fault);
        self.slow.retain(|number| *number != fault);
    }

    /// Whether a message can be delivered now.
    #[must_use]
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.iter().any(|(_, links)| links.contains(&(from, to)))
    }

    /// How long each copy of a message sent now takes, in nanoseconds: none if it is lost.
    pub fn send(&self, random: &mut fastrand::Rng) -> Vec<u64> {
        if self.losses.iter().any(|(_, probability)| random.f64() < *probability) {
            return vec![];
        }
        let copies = 1 + usize::from(self.duplicates.iter().any(|(_, probability)| random.f64() < *probability));
        let slow = !self.slow.is_empty();
        let mut draw = || match (self.latency.draw_ns(random), slow) {
            (latency, true) => (latency * SLOW_FACTOR).max(SLOW_LEAST_NS),
            (latency, false) => latency,
        };
        (0..copies).map(|_| draw()).collect()
    }
}

/// How long after their due times messages went, in microseconds: 16 classes for each doubling, so 6 % exact.
#[derive(Debug, Default)]
pub struct Lateness {
    counts: Vec<u64>,
    max_us: u64,
}

const CLASSES: u64 = 32;

impl Lateness {
    /// One more.
    pub fn add(&mut self, late_ns: u64) {
        let us = late_ns / 1000;
        self.max_us = self.max_us.max(us);
        let class = Self::class(us);
        if self.counts.len() <= class {
            self.counts.resize(class + 1, 0);
        }
        self.counts[class] += 1;
    }

    fn class(us: u64) -> usize {
        let shift = u64::from((us / CLASSES).checked_ilog2().map_or(0, |bits| bits + 1));
        (shift * CLASSES / 2 + (us >> shift)) as usize
    }

    /// The least class whose share reaches `quantile` (0 to 1), as its largest member.
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> u64 {
        let total: u64 = self.counts.iter().sum();
        let mut left = (total as f64 * quantile).ceil() as u64;
        let largest = |class: usize| (0..=self.max_us).rev().find(|us| Self::class(*us) <= class).unwrap_or(0);
        for (class, count) in self.counts.iter().enumerate() {
            if *count >= left {
                return largest(class);
            }
            left -= count;
        }
        self.max_us
    }

    /// The worst.
    #[must_use]
    pub fn max_us(&self) -> u64 {
        self.max_us
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::Distribution;
    use super::*;

    fn packet(from: Source, sent_ns: u64, due_ns: u64) -> Packet {
        Packet { from, line: due_ns.to_string().into_bytes(), sent_ns, due_ns, duplicate: false }
    }

    #[test]
    fn what_comes_while_a_message_is_waited_for_waits_behind_it() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.wake_ns(), None);
        inbox.push(packet(Source::Node(1), 0, 100));
        assert_eq!(inbox.wake_ns(), Some(100));
        inbox.push(packet(Source::Client, 10, 10));
        inbox.push(packet(Source::Node(2), 10, 60));
        assert_eq!(inbox.pop(99), None);
        let order: Vec<u64> = std::iter::from_fn(|| inbox.pop(150)).map(|(packet, _)| packet.due_ns).collect();
        assert_eq!(order, [100, 10, 60]);
    }

    #[test]
    fn a_dead_node_loses_only_what_clients_have_sent() {
        let mut inbox = Inbox::default();
        for from in [Source::Client, Source::Node(1), Source::Client] {
            inbox.push(packet(from, 0, 5));
        }
        assert_eq!(inbox.wake_ns(), Some(5));
        assert_eq!(inbox.drop_clients().len(), 2);
        assert_eq!(inbox.pop(5).map(|(packet, since)| (packet.from, since)), Some((Source::Node(1), 5)));
        assert_eq!(inbox.pop(5), None);
    }

    #[test]
    fn faults_of_links_end_one_by_one() {
        let mut links = Links::new(Latency { mean_ms: 1.0, distribution: Distribution::Constant });
        let mut random = fastrand::Rng::with_seed(1);
        links.cut(1, vec![(0, 1)]);
        links.cut(2, vec![(0, 1), (1, 0)]);
        links.mend(2);
        assert!(links.is_cut(0, 1) && !links.is_cut(1, 0));
        links.duplicate(3, 1.0);
        links.slow(4);
        assert_eq!(links.send(&mut random), [100_000_000, 100_000_000]);
        links.lose(5, 1.0);
        assert!(links.send(&mut random).is_empty());
        for fault in [1, 3, 4, 5] {
            links.mend(fault);
        }
        assert!(!links.is_cut(0, 1));
        assert_eq!(links.send(&mut random), [1_000_000]);
    }

    #[test]
    fn quantiles_are_exact_to_six_percent() {
        let mut lateness = Lateness::default();
        for us in 1..=10_000 {
            lateness.add(us * 1000);
        }
        for (quantile, exact) in [(0.5, 5000.0), (0.99, 9900.0), (1.0, 10_000.0)] {
            let found = lateness.quantile_us(quantile) as f64;
            assert!((0.94..=1.07).contains(&(found / exact)), "{quantile}: {found}");
        }
        assert_eq!(lateness.max_us(), 10_000);
    }
}
