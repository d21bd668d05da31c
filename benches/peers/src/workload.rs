//! The operations that all libraries do.

/// How elements look; all are 16 bytes of JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Names {
    /// Nothing that a compressor could shorten by much.
    Scattered,
    /// What differs is a number that goes up.
    Numbered,
}

impl Names {
    /// Element `n`, without the quotes.
    pub fn element(self, n: u64) -> String {
        match self {
            Self::Scattered => format!("{:014x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8),
            Self::Numbered => format!("elt-{n:010}"),
        }
    }

    /// For people.
    pub fn example(self) -> String {
        format!("like {}", self.element(4711))
    }
}

/// One operation.
#[derive(Clone, Debug)]
pub enum Change {
    /// Adds an element that was never there.
    Add(String),
    /// Removes one that is there.
    Remove(String),
}

/// See the module's text.
pub struct Workload {
    /// What both replicas come to hold.
    pub common: Vec<Change>,
    /// What only one has done: 1 % of that.
    pub more: Vec<Change>,
    /// How many elements there are in the end.
    pub elements: usize,
}

impl Workload {
    /// So many operations, and 1 % more.
    pub fn new(names: Names, ops: usize, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut live, mut next) = (Vec::new(), 0);
        let mut change = || {
            if rng.u32(0..10) < 3 && !live.is_empty() {
                return Change::Remove(live.swap_remove(rng.usize(0..live.len())));
            }
            let element = names.element(next);
            next += 1;
            live.push(element.clone());
            Change::Add(element)
        };
        let common = (0..ops).map(|_| change()).collect();
        let more = (0..ops / 100).map(|_| change()).collect();
        Self { common, more, elements: live.len() }
    }
}
