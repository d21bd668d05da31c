//! What runs did, in figures.

use super::slot::Crash;
use crate::storage::disk::Kept;

/// See the module's text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Runs.
    pub seeds: u64,
    /// Clients' requests that were answered.
    pub client_ops: u64,
    /// Clients' requests under the name of an earlier one.
    pub repeats: u64,
    /// Process starts.
    pub starts: u64,
    /// Starts that cut off a torn tail.
    pub torn_tails: u64,
    /// Starts that took over the index that was there.
    pub indexes_trusted: u64,
    /// Processes that were stopped in good order.
    pub clean_stops: u64,
    /// Processes that were killed, or ended themselves because their store had failed.
    pub kills: u64,
    /// Power cuts that left nothing of what was not synced.
    pub cuts_to_nothing: u64,
    /// Power cuts that left the oldest of it.
    pub cuts_to_prefix: u64,
    /// Power cuts that left any of it.
    pub cuts_to_subset: u64,
    /// Power cuts that left all of it.
    pub cuts_to_all: u64,
    /// Crashes in the middle of a change to the disk.
    pub crashes_at_io: u64,
    /// … of those, while the process was starting.
    pub crashes_in_recovery: u64,
    /// Writes and changes of names that failed.
    pub write_errors: u64,
    /// Writes that failed half-way.
    pub short_writes: u64,
    /// Syncs that failed.
    pub failed_syncs: u64,
    /// Writes for which the disk was too full, that ended a process.
    pub disk_full: u64,
    /// Logs that were damaged, and refused.
    pub damaged: u64,
    /// Stores that were wiped.
    pub wipes: u64,
    /// Stores that were set back.
    pub rollbacks: u64,
    /// Copies that were run beside their original.
    pub copies: u64,
    /// Acknowledged operations that were lost with the only stores that held them.
    pub lost: u64,
    /// Messages between nodes.
    pub messages: u64,
    /// Offers of state deltas.
    pub offers: u64,
    /// State deltas that were merged.
    pub state_deltas: u64,
    /// The slowest agreement after the faults, in virtual milliseconds.
    pub slowest_ms: u64,
    /// The most messages that an agreement after the faults took.
    pub most_messages: u64,
}

impl Tally {
    /// Takes in what another run did.
    pub fn add(&mut self, other: &Self) {
        for (sum, figure) in self.sums().into_iter().zip((*other).clone().sums()) {
            *sum += *figure;
        }
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
        self.most_messages = self.most_messages.max(other.most_messages);
    }

    /// The figures that add up.
    fn sums(&mut self) -> [&mut u64; 26] {
        [
            &mut self.seeds,
            &mut self.client_ops,
            &mut self.repeats,
            &mut self.starts,
            &mut self.torn_tails,
            &mut self.indexes_trusted,
            &mut self.clean_stops,
            &mut self.kills,
            &mut self.cuts_to_nothing,
            &mut self.cuts_to_prefix,
            &mut self.cuts_to_subset,
            &mut self.cuts_to_all,
            &mut self.crashes_at_io,
            &mut self.crashes_in_recovery,
            &mut self.write_errors,
            &mut self.short_writes,
            &mut self.failed_syncs,
            &mut self.disk_full,
            &mut self.damaged,
            &mut self.wipes,
            &mut self.rollbacks,
            &mut self.copies,
            &mut self.lost,
            &mut self.messages,
            &mut self.offers,
            &mut self.state_deltas,
        ]
    }

    /// All power cuts.
    pub fn power_cuts(&self) -> u64 {
        self.cuts_to_nothing + self.cuts_to_prefix + self.cuts_to_subset + self.cuts_to_all
    }

    /// A process has died.
    pub fn died(&mut self, crash: Crash) {
        let figure = match crash {
            Crash::Kill => &mut self.kills,
            Crash::PowerCut(Kept::Nothing) => &mut self.cuts_to_nothing,
            Crash::PowerCut(Kept::Prefix(_)) => &mut self.cuts_to_prefix,
            Crash::PowerCut(Kept::Subset(_)) => &mut self.cuts_to_subset,
            Crash::PowerCut(Kept::Everything) => &mut self.cuts_to_all,
        };
        *figure += 1;
    }
}
