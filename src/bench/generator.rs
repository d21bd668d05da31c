//! Which request comes next, and when.

use serde_json::{Value, json};

use super::history::{Request, Workload};
use super::options::Options;

/// Draws requests from the seed.
pub struct Generator {
    random: fastrand::Rng,
    workload: Workload,
    elements: u64,
    read_share: f64,
    remove_share: f64,
    next_number: u64,
    interval_ns: f64,
    due_ns: u64,
}

impl Generator {
    /// The same requests for the same options.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Generator {
            random: fastrand::Rng::with_seed(options.seed ^ 0x6f70_6572_6174_6e73),
            workload: options.workload,
            elements: options.elements,
            read_share: options.read_share,
            remove_share: options.remove_share,
            next_number: 0,
            interval_ns: 1e9 / options.rate,
            due_ns: 0,
        }
    }

    /// When the next request is due. As Jepsen's `stagger`: 0 to twice the mean after the one before.
    #[must_use]
    pub fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// The request that is due now, and which of `free` clients sends it.
    pub fn next(&mut self, now_ns: u64, free: usize) -> (Request, usize) {
        // What could not be sent in time since no client was free is not made up for.
        let stagger_ns = (self.random.f64() * 2.0 * self.interval_ns) as u64;
        self.due_ns = self.due_ns.max(now_ns.saturating_sub((2.0 * self.interval_ns) as u64)) + stagger_ns;
        (self.request(), self.random.usize(..free))
    }

    fn request(&mut self) -> Request {
        let share = self.random.f64();
        match self.workload {
            Workload::OrSet if share < self.read_share => Request::Read,
            Workload::OrSet if share < self.read_share + self.remove_share => {
                Request::Remove { element: self.element() }
            }
            Workload::OrSet => Request::Add { element: self.element() },
            Workload::GSet | Workload::Broadcast if share < self.read_share => Request::Read,
            Workload::GSet | Workload::Broadcast => Request::Add { element: json!(self.number()) },
            Workload::Echo => Request::Echo { echo: json!(format!("Please echo {}", self.random.u64(..128))) },
            Workload::UniqueIds => Request::Generate,
        }
    }

    /// Half of the elements are integers, half are strings.
    fn element(&mut self) -> Value {
        let number = self.random.u64(..self.elements);
        if number.is_multiple_of(2) { json!(number / 2) } else { json!(format!("e{}", number / 2)) }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }
}
