//! A state of the whole: three replicas, all operations that there have ever been, and what may still happen.
//!
//! The network has no state of its own. Whatever was ever sent may arrive at any time, any number of times, or never: so
//! every operation that somebody has made stays on offer. Operations arrive one by one; a longer message is several
//! arrivals in a row. A state delta is under way as a whole from the moment at which it is pulled, and its parts may arrive
//! when its sender has long gone on, or died.

use std::fmt;

use orset::crdt::Dot;

use super::site::{Place, place_of};
use super::table::Number;

/// A state, by the numbers that its parts have in [`Memory`](super::memory::Memory).
#[derive(Clone, Copy)]
pub struct World {
    pub sites: [Number; 3],
    /// All that was ever made.
    pub past: Number,
    pub left: Left,
}

/// What may still happen.
#[derive(Clone, Copy)]
pub struct Left {
    pub changes: u8,
    pub faults: u8,
    pub snapshots: u8,
    pub joins: u8,
}

/// Something that may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Add(Place, u8),
    Remove(Place, u8),
    /// The number is the arrival's.
    Arrives(Place, Dot, Number),
    Compacts(Place),
    Pulls(Place, Place),
    NextPart(Place),
    Crashes(Place),
    IsWiped(Place),
}

impl Action {
    /// Where it happens.
    pub fn place(&self) -> Place {
        match self {
            Self::Add(place, _)
            | Self::Remove(place, _)
            | Self::Arrives(place, ..)
            | Self::Compacts(place)
            | Self::Pulls(place, _)
            | Self::NextPart(place)
            | Self::Crashes(place)
            | Self::IsWiped(place) => *place,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = |place: &Place| place + 1;
        match self {
            Self::Add(place, number) => write!(f, "n{} adds {number}", n(place)),
            Self::Remove(place, number) => write!(f, "n{} removes {number}", n(place)),
            Self::Arrives(place, dot, _) => {
                let (from, life) = place_of(dot.replica);
                write!(f, "operation {} of n{}, life {life}, arrives at n{}", dot.seq, n(&from), n(place))
            }
            Self::Compacts(place) => write!(f, "n{} makes a snapshot and drops its log", n(place)),
            Self::Pulls(place, from) => write!(f, "n{} pulls a state delta from n{}", n(place), n(from)),
            Self::NextPart(place) => write!(f, "the next part arrives at n{}", n(place)),
            Self::Crashes(place) => write!(f, "n{} is killed and started", n(place)),
            Self::IsWiped(place) => write!(f, "n{} loses its store", n(place)),
        }
    }
}

impl Left {
    /// What is left after an action.
    #[must_use]
    pub fn after(self, action: Action) -> Self {
        let mut left = self;
        match action {
            Action::Add(..) | Action::Remove(..) => left.changes -= 1,
            Action::Compacts(_) => left.snapshots -= 1,
            Action::Pulls(..) => left.joins -= 1,
            Action::Crashes(_) | Action::IsWiped(_) => left.faults -= 1,
            Action::Arrives(..) | Action::NextPart(_) => {}
        }
        left
    }
}
