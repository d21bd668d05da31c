//! The kinds of faults, and which of them a run has.

use std::fmt;
use std::str::FromStr;

/// Something that befalls nodes, their disks or the network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// Messages are lost, doubled, slow and out of order.
    Weather,
    /// Messages arrive long after they were sent.
    Late,
    /// Nothing gets from one node to another, one way.
    Cut,
    /// The nodes fall into two parts, for long.
    Partition,
    /// Snapshots and the index come along slowly.
    Lag,
    /// A process is stopped in good order.
    Stop,
    /// A process is killed.
    Kill,
    /// The power of a node goes.
    Power,
    /// A process dies, or its power goes, in the middle of a change to its disk, also while it starts.
    CrashAtIo,
    /// The power of a node goes shortly after it has started.
    PowerAfterStart,
    /// A disk refuses to write, once.
    WriteError,
    /// A disk writes half of something, once.
    ShortWrite,
    /// A disk fails to sync, once.
    FailedSync,
    /// A disk is full for a while.
    DiskFull,
    /// A byte in the middle of a log changes.
    Damage,
    /// A store is wiped.
    Wipe,
    /// A store is set back to an older copy.
    Rollback,
    /// A copy of a store runs beside it.
    Copy,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Weather,
        Self::Late,
        Self::Cut,
        Self::Partition,
        Self::Lag,
        Self::Stop,
        Self::Kill,
        Self::Power,
        Self::CrashAtIo,
        Self::PowerAfterStart,
        Self::WriteError,
        Self::ShortWrite,
        Self::FailedSync,
        Self::DiskFull,
        Self::Damage,
        Self::Wipe,
        Self::Rollback,
        Self::Copy,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weather => "weather",
            Self::Late => "late",
            Self::Cut => "cut",
            Self::Partition => "partition",
            Self::Lag => "lag",
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::Power => "power",
            Self::CrashAtIo => "crash-at-io",
            Self::PowerAfterStart => "power-after-start",
            Self::WriteError => "write-error",
            Self::ShortWrite => "short-write",
            Self::FailedSync => "failed-sync",
            Self::DiskFull => "disk-full",
            Self::Damage => "damage",
            Self::Wipe => "wipe",
            Self::Rollback => "rollback",
            Self::Copy => "copy",
        }
    }

    /// The names of all of them, separated by commas.
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// Whether acknowledged operations may be lost with it.
    pub fn loses_stores(self) -> bool {
        matches!(self, Self::Wipe | Self::Rollback | Self::Copy)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|fault| fault.name() == name).ok_or_else(|| format!("one of {}", Self::names()))
    }
}

/// A set of kinds of faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Faults(u32);

impl Default for Faults {
    fn default() -> Self {
        Self::all()
    }
}

impl Faults {
    /// No kind.
    pub const NONE: Self = Self(0);

    /// Every kind.
    pub fn all() -> Self {
        Self((1 << Fault::ALL.len()) - 1)
    }

    /// Whether a kind is in.
    pub fn has(self, fault: Fault) -> bool {
        self.0 >> fault as u32 & 1 == 1
    }

    /// Without a kind.
    #[must_use]
    pub fn without(self, fault: Fault) -> Self {
        Self(self.0 & !(1 << fault as u32))
    }

    /// The kinds that are in.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.into_iter().filter(move |fault| self.has(*fault))
    }

    /// The kinds that are not.
    pub fn missing(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.into_iter().filter(move |fault| !self.has(*fault))
    }
}
