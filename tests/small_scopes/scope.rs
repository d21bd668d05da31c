//! How much may happen in a search.

/// Upper bounds; all that lies within them is visited.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Adds and removes by clients.
    pub changes: u8,
    /// Crashes and wipes.
    pub faults: u8,
    /// Snapshots, each of which drops the log before it.
    pub snapshots: u8,
    /// State deltas that are begun.
    pub joins: u8,
    /// Whether a `Start` may arrive without the operation after it. (They are in one frame and one message, unless that is
    /// cut just there.)
    pub lone_starts: bool,
}
