//! Which faults happen, when, and to whom. Every kind has its own timeline, so that kinds overlap.

use super::history::FaultKind;
use super::options::Options;
use super::power::Forgetting;

/// A fault.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Counts the faults of a run.
    pub number: u64,
    /// Which kind.
    pub kind: FaultKind,
    /// Places of the nodes that it hits; empty: all links.
    pub nodes: Vec<usize>,
    /// What it does to the links.
    pub links: LinkFault,
    /// What it has the disks of its nodes forget, if it cuts their power.
    pub forgetting: Forgetting,
    /// For people.
    pub text: String,
    end_ns: u64,
}

/// What a fault does to the links between nodes.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkFault {
    /// Nothing.
    None,
    /// Cuts these, as sender and receiver.
    Cut(Vec<(usize, usize)>),
    /// Loses messages with this probability.
    Lose(f64),
    /// Sends them twice with this probability.
    Duplicate(f64),
    /// Slows them down.
    Slow,
}

/// A change of what is in force.
#[derive(Clone, Debug)]
pub enum Step {
    /// A fault begins.
    Begin(Planned),
    /// It ends.
    End(Planned),
}

/// Draws faults from the seed.
pub struct Nemesis {
    random: fastrand::Rng,
    ids: Vec<String>,
    interval_ns: f64,
    timeline: Vec<(FaultKind, u64)>,
    active: Vec<Planned>,
    next_number: u64,
}

impl Nemesis {
    /// The same faults for the same options.
    #[must_use]
    pub fn new(options: &Options, ids: Vec<String>) -> Self {
        let interval_ns = options.nemesis_interval.as_nanos() as f64;
        let mut random = fastrand::Rng::with_seed(options.seed ^ 0x6661_756c_7473);
        let timeline =
            options.nemesis.iter().map(|kind| (*kind, between(&mut random, interval_ns, 0.2, 1.0))).collect();
        Nemesis { random, ids, interval_ns, timeline, active: Vec::new(), next_number: 0 }
    }

    /// What is due by `now_ns`.
    pub fn steps(&mut self, now_ns: u64) -> Vec<Step> {
        let mut steps = Vec::new();
        let interval_ns = self.interval_ns;
        self.active.retain(|fault| {
            let over = fault.end_ns <= now_ns;
            if over {
                steps.push(Step::End(fault.clone()));
            }
            !over
        });
        for place in 0..self.timeline.len() {
            let (kind, begin_ns) = self.timeline[place];
            if begin_ns > now_ns {
                continue;
            }
            let end_ns = now_ns + between(&mut self.random, interval_ns, 0.2, 0.7);
            self.timeline[place].1 = end_ns + between(&mut self.random, interval_ns, 0.2, 0.8);
            if let Some(fault) = self.plan(kind, end_ns) {
                self.active.push(fault.clone());
                steps.push(Step::Begin(fault));
            }
        }
        steps
    }

    /// When there is something to do.
    #[must_use]
    pub fn wake_ns(&self) -> Option<u64> {
        let begins = self.timeline.iter().map(|(_, begin_ns)| *begin_ns);
        begins.chain(self.active.iter().map(|fault| fault.end_ns)).min()
    }

    /// Ends everything; nothing begins any more.
    pub fn heal(&mut self) -> Vec<Step> {
        self.timeline.clear();
        self.active.drain(..).map(Step::End).collect()
    }

    /// What is in force.
    #[must_use]
    pub fn active(&self) -> &[Planned] {
        &self.active
    }

    fn plan(&mut self, kind: FaultKind, end_ns: u64) -> Option<Planned> {
        let all: Vec<usize> = (0..self.ids.len()).collect();
        let percent = |share: f64| format!("{:.0} % of the messages", share * 100.0);
        let forgetting = if kind.cuts_power() { Forgetting::draw(&mut self.random) } else { Forgetting::All };
        let (nodes, links, text) = match kind {
            FaultKind::Kill | FaultKind::Pause | FaultKind::Power => {
                (self.some_nodes(), LinkFault::None, String::new())
            }
            FaultKind::KillAll | FaultKind::PowerAll => (all, LinkFault::None, String::new()),
            FaultKind::Wipe | FaultKind::Rollback => (vec![self.spared_node()?], LinkFault::None, String::new()),
            FaultKind::Partition => {
                let (cut, text) = self.partition()?;
                (vec![], LinkFault::Cut(cut), text)
            }
            FaultKind::Loss => {
                let share = 0.05 + 0.45 * self.random.f64();
                (vec![], LinkFault::Lose(share), percent(share))
            }
            FaultKind::Duplicate => {
                let share = 0.05 + 0.45 * self.random.f64();
                (vec![], LinkFault::Duplicate(share), percent(share))
            }
            FaultKind::Slow => (vec![], LinkFault::Slow, "ten times as long, at least 100 ms".to_owned()),
        };
        let mut text = if text.is_empty() { self.names(&nodes) } else { text };
        if kind.cuts_power() {
            text = format!("{text}: {}", forgetting.text());
        }
        self.next_number += 1;
        Some(Planned { number: self.next_number - 1, kind, nodes, links, forgetting, text, end_ns })
    }

    fn names(&self, nodes: &[usize]) -> String {
        nodes.iter().map(|node| self.ids[*node].as_str()).collect::<Vec<_>>().join(" ")
    }

    /// One, a minority or a majority.
    fn some_nodes(&mut self) -> Vec<usize> {
        let count = self.ids.len();
        let many = match self.random.usize(..4) {
            0 | 1 => 1,
            2 => (count / 2).max(1),
            _ => count / 2 + 1,
        };
        self.shuffled().into_iter().take(many).collect()
    }

    /// A node whose store no other fault in force has to do with.
    fn spared_node(&mut self) -> Option<usize> {
        let stores = |fault: &&Planned| matches!(fault.kind, FaultKind::Wipe | FaultKind::Rollback);
        let taken: Vec<usize> = self.active.iter().filter(stores).flat_map(|fault| fault.nodes.clone()).collect();
        self.shuffled().into_iter().find(|node| !taken.contains(node))
    }

    fn shuffled(&mut self) -> Vec<usize> {
        let mut nodes: Vec<usize> = (0..self.ids.len()).collect();
        self.random.shuffle(&mut nodes);
        nodes
    }

    /// Jepsen's partitions (`jepsen.nemesis`: halves, one node alone, majorities ring), and one that cuts one way only.
    fn partition(&mut self) -> Option<(Vec<(usize, usize)>, String)> {
        let nodes = self.shuffled();
        let count = nodes.len();
        if count < 2 {
            return None;
        }
        let both = |left: &[usize], right: &[usize]| -> Vec<(usize, usize)> {
            left.iter().flat_map(|a| right.iter().flat_map(|b| [(*a, *b), (*b, *a)])).collect()
        };
        Some(match self.random.usize(..4) {
            0 => {
                let (left, right) = nodes.split_at(count / 2);
                (both(left, right), format!("halves: {} | {}", self.names(left), self.names(right)))
            }
            1 => {
                let (alone, rest) = nodes.split_at(1);
                (both(alone, rest), format!("one against all: {}", self.names(alone)))
            }
            2 if count >= 4 => {
                let cut = cut_by_ring(count).into_iter().map(|(a, b)| (nodes[a], nodes[b])).collect();
                (cut, format!("majority ring: {}", self.names(&nodes)))
            }
            _ => {
                let (left, right) = nodes.split_at(1 + self.random.usize(..count - 1));
                let cut = left.iter().flat_map(|a| right.iter().map(|b| (*a, *b))).collect();
                (cut, format!("one-way: {} cannot reach {}", self.names(left), self.names(right)))
            }
        })
    }
}

fn between(random: &mut fastrand::Rng, unit: f64, least: f64, most: f64) -> u64 {
    (unit * (least + (most - least) * random.f64())) as u64
}

/// Each of `count` nodes sees a majority: itself and its neighbours to both sides of a ring. No two see the same one.
/// Gives the links that are cut.
fn cut_by_ring(count: usize) -> Vec<(usize, usize)> {
    let reach = (count / 2).div_ceil(2);
    let apart = |a: usize, b: usize| {
        let distance = a.abs_diff(b);
        distance.min(count - distance) > reach
    };
    let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
    pairs.filter(|(a, b)| apart(*a, *b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_majority_ring_each_sees_a_majority_and_not_all() {
        for count in 4..40 {
            let cut = cut_by_ring(count);
            for node in 0..count {
                let seen = count - cut.iter().filter(|(from, _)| *from == node).count();
                assert!(seen > count / 2 && seen < count, "{seen} of {count}");
                assert!(cut.iter().all(|(from, to)| from != to && cut.contains(&(*to, *from))));
            }
        }
    }
}
