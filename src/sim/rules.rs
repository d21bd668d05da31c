//! What must hold, by the numbers that the invariants have in the design; and how a run ends in which something does not.
//!
//! | rule | looked at | by |
//! |---|---|---|
//! | 1 | after every 16th commit, every start and every joined state delta, and at the end | [`Slot::check_truth`] |
//! | 2 | whenever something leaves; every 64th time by cutting the power of a copy of the disk | [`Slot::check_durable`], [`Slot::check_by_power_cut`] |
//! | 3 | every message to a peer; the log, after every 32nd commit and every joined state delta | [`check_message`], [`Slot::check_log`] |
//! | 4 | every change of a vector | [`Model::absorb`] |
//! | 5 | every operation and every start | [`Book::make`], [`Book::begin`] |
//! | 6 | every 32nd commit, and every start | [`Slot::check_index`] |
//! | 7 | every damaged log | [`Cluster::damage`] |
//! | 8 | every start (on a full disk too, if a reserve is there), and after every failed write | [`Cluster::start`], [`Slot::check_poisoned`] |
//! | 10 | two runs of one seed, in a test | [`trace`] |
//! | 14 | every start, and with 1 | [`Names::found_in`], [`Names::check`] |
//!
//! [`Slot::check_truth`]: super::slot::Slot::check_truth
//! [`Slot::check_durable`]: super::slot::Slot::check_durable
//! [`Slot::check_by_power_cut`]: super::slot::Slot::check_by_power_cut
//! [`Slot::check_index`]: super::slot::Slot::check_index
//! [`Slot::check_poisoned`]: super::slot::Slot::check_poisoned
//! [`Slot::check_log`]: super::slot::Slot::check_log
//! [`check_message`]: super::claims::check_message
//! [`Model::absorb`]: super::model::Model::absorb
//! [`Book::make`]: super::book::Book::make
//! [`Book::begin`]: super::book::Book::begin
//! [`Cluster::damage`]: super::cluster::Cluster::damage
//! [`Cluster::start`]: super::cluster::Cluster::start
//! [`Names::found_in`]: super::named::Names::found_in
//! [`Names::check`]: super::named::Names::check
//! [`trace`]: super::trace

use std::fmt;

/// See the module's text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// 1: what a store holds is the fold of what went into it: exactly what the definition says of its vector.
    Truth,
    /// 2: nothing leaves before it is durable.
    Durable,
    /// 3: a message never claims more than it carries.
    Context,
    /// 4: an operation applies when it is next and what it refers to is held.
    Order,
    /// 5: a dot is used once.
    Dots,
    /// 6: the index at P is the fold up to P.
    Index,
    /// 7: damage is refused, and nothing is changed.
    Damage,
    /// 8: a recovery has everything that had left, and after a failed write nothing is acknowledged.
    Recovery,
    /// 14: a request with a name is done once, all of it or nothing, and answered the same ever after.
    Requests,
    /// A reply says what the set's definition says.
    Replies,
    /// Once the faults stop, all agree with each other and with what clients were told, in bounded time.
    Liveness,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truth => "invariant 1, what is held is the fold of what went in",
            Self::Durable => "invariant 2, nothing leaves before it is durable",
            Self::Context => "invariant 3, a message never claims more than it carries",
            Self::Order => "invariant 4, an operation applies when it is next and what it refers to is held",
            Self::Dots => "invariant 5, a dot is used once",
            Self::Index => "invariant 6, the index at P is the fold up to P",
            Self::Damage => "invariant 7, damage is refused and nothing is changed",
            Self::Recovery => "invariant 8, a recovery has all that had left, and a failed write ends the store",
            Self::Requests => "invariant 14, a named request is done once and answered the same",
            Self::Replies => "replies are what the definition says",
            Self::Liveness => "after the faults all agree",
        })
    }
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Truth,
        Self::Durable,
        Self::Context,
        Self::Order,
        Self::Dots,
        Self::Index,
        Self::Damage,
        Self::Recovery,
        Self::Requests,
        Self::Replies,
        Self::Liveness,
    ];

    /// Ends the run if `holds` is false.
    ///
    /// # Panics
    /// That is how it ends it: whoever runs a seed catches it, as it does a panic of the product's own.
    #[track_caller]
    pub fn must(self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broken(&what());
        }
    }

    /// Ends the run.
    ///
    /// # Panics
    /// As [`Rule::must`].
    #[track_caller]
    pub fn broken(self, what: &str) -> ! {
        panic!("{self}: {what}")
    }
}
