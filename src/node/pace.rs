//! Compaction's pace, so that those who wait for the log hardly notice it.
//!
//! A compaction is a sequence of steps: a segment read, a MiB of snapshot written and synced. Its thread works half of the
//! time: after each step it rests as long as the step took, so a slow disk or a busy processor gets the longer rests. As soon
//! as somebody waits for the snapshot, or the log grows faster than this (see
//! [`Store::compaction_is_urgent`](crate::storage::Store::compaction_is_urgent)), it goes on without rests.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::storage::compaction::CompactionPlan;
use crate::storage::{Snapshot, StoreError};

/// A step that took very long says more about the moment than about the work.
const MAX_REST: Duration = Duration::from_millis(250);

/// How long to rest after a step that took `worked`.
fn rest_after(worked: Duration) -> Duration {
    worked.min(MAX_REST)
}

/// Tells a compaction, once, that it is to go on without rests.
#[derive(Debug, Default)]
pub struct Urgency {
    urgent: Mutex<bool>,
    changed: Condvar,
}

impl Urgency {
    /// From now on no rests; one that has begun ends.
    pub fn raise(&self) {
        *self.urgent.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits so long, or until it is urgent.
    fn rest(&self, patience: Duration) {
        let urgent = self.urgent.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout_while(urgent, patience, |urgent| !*urgent));
    }
}

/// Runs a compaction at its pace.
///
/// # Errors
/// As [`CompactionPlan::run`].
pub fn run(plan: CompactionPlan, urgency: &Urgency) -> Result<Snapshot, StoreError> {
    let mut began = Instant::now();
    plan.run_in_steps(&mut || {
        urgency.rest(rest_after(began.elapsed()));
        began = Instant::now();
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_works_half_of_the_time_and_never_rests_long() {
        let ms = Duration::from_millis;
        assert_eq!(rest_after(ms(3)), ms(3));
        assert_eq!(rest_after(ms(40)), ms(40));
        assert_eq!(rest_after(ms(5_000)), MAX_REST);
    }

    /// Were the word not heard, this would take hours.
    #[test]
    fn a_rest_ends_when_it_becomes_urgent_and_then_there_are_none() {
        let urgency = Urgency::default();
        std::thread::scope(|scope| {
            scope.spawn(|| urgency.rest(Duration::from_secs(36_000)));
            urgency.raise();
        });
        urgency.rest(Duration::from_secs(36_000));
    }
}
