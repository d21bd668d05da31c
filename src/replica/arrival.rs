//! Saying how far a long state delta has come.

/// Nothing is said of one that takes less, and then so often.
const EVERY_MS: u64 = 2_000;
/// To merge so many records takes a moment, so that is said too.
const MANY_RECORDS: u64 = 100_000;

/// What has come of a state delta, and when that was last said.
pub(super) struct Arrival {
    began_ms: u64,
    said_ms: u64,
    records: u64,
}

impl Arrival {
    /// One that has been asked for just now.
    pub fn began(now_ms: u64) -> Self {
        Self { began_ms: now_ms, said_ms: now_ms, records: 0 }
    }

    /// A part with so many records has come; gives back what is to be said, if it is time.
    pub fn came(&mut self, records: usize, now_ms: u64) -> Option<String> {
        self.records += records as u64;
        if now_ms < self.said_ms + EVERY_MS {
            return None;
        }
        self.said_ms = now_ms;
        let seconds = (now_ms - self.began_ms) / 1_000;
        Some(format!("{} records have come in {seconds} s", self.records))
    }

    /// All has come; gives back what is to be said before it is merged, if that takes a while.
    pub fn ended(&self) -> Option<String> {
        (self.records >= MANY_RECORDS).then(|| format!("all has come, merging {} records", self.records))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_every_two_seconds_and_none_of_what_is_quick() {
        let mut arrival = Arrival::began(500);
        let said: Vec<_> = (1..=8).filter_map(|n| arrival.came(10, 500 + 900 * n)).collect();
        assert_eq!(said, ["30 records have come in 2 s", "60 records have come in 5 s"]);
        assert_eq!(arrival.ended(), None);
        arrival.came(100_000, 8_000);
        assert_eq!(arrival.ended().as_deref(), Some("all has come, merging 100080 records"));
    }
}
