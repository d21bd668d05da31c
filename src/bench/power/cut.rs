//! What a power cut leaves of a [`Disk`].
//!
//! Everything that was synced is there. Of the rest, which is a sequence of small changes (a sector of a file, a file's
//! length, a name), any subset may be: a disk writes in whatever order it likes. Two of these are drawn separately,
//! since real ones come close to them: nothing of it, and a prefix (a disk that keeps the order).

use std::collections::{BTreeMap, BTreeSet};

use super::disk::{Disk, Ino, Inode, Kind, ROOT};

/// What a power cut forgets of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgetting {
    /// All of it.
    All,
    /// All after a point that is drawn.
    AfterAPoint,
    /// A subset that is drawn.
    ASubset,
}

impl Forgetting {
    /// One of the three.
    pub fn draw(random: &mut fastrand::Rng) -> Self {
        [Forgetting::All, Forgetting::AfterAPoint, Forgetting::ASubset][random.usize(..3)]
    }

    /// For people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Forgetting::All => "all that was not synced is forgotten",
            Forgetting::AfterAPoint => "the later part of what was not synced is forgotten",
            Forgetting::ASubset => "a subset of what was not synced is forgotten",
        }
    }
}

/// What a power cut did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Unsynced changes that had got to the disk.
    pub kept: u64,
    /// Unsynced changes that are forgotten.
    pub forgotten: u64,
}

impl Disk {
    /// Cuts the power. The same changes before it and the same state of `random` give the same disk.
    pub fn cut(&mut self, forgetting: Forgetting, random: &mut fastrand::Rng) -> Cut {
        let moments = self.unsynced_moments();
        let kept = choose(&moments, forgetting, random);
        let cut = Cut { kept: kept.len() as u64, forgotten: (moments.len() - kept.len()) as u64 };
        for inode in self.inodes.values_mut() {
            if let Kind::File { content, .. } = &mut inode.kind {
                content.cut(|moment| kept.contains(&moment));
            }
        }
        for change in std::mem::take(&mut self.names) {
            if kept.contains(&change.moment) {
                self.make_durable(&change);
            }
        }
        self.power_on();
        cut
    }

    fn unsynced_moments(&self) -> Vec<u64> {
        let mut moments: Vec<u64> = self.names.iter().map(|change| change.moment).collect();
        for inode in self.inodes.values() {
            if let Kind::File { content, .. } = &inode.kind {
                moments.extend(content.unsynced().iter().map(|(moment, _)| *moment));
            }
        }
        moments.sort_unstable();
        moments
    }

    /// Everybody sees what is durable, and nobody has anything open.
    fn power_on(&mut self) {
        self.unsynced_bytes = 0;
        let mut durable: BTreeMap<Ino, Vec<(std::ffi::OsString, Ino)>> = BTreeMap::new();
        for (ino, inode) in &mut self.inodes {
            inode.lookups = 0;
            inode.links = 0;
            if let Kind::Dir { names, durable: kept, .. } = &mut inode.kind {
                names.clear();
                durable.insert(*ino, kept.iter().map(|(name, named)| (name.clone(), *named)).collect());
            }
        }
        self.inodes.entry(ROOT).and_modify(|root| root.links = 2);
        for (dir, names) in durable {
            for (name, ino) in names {
                let cookie = self.moment;
                self.moment += 1;
                self.give(dir, &name, ino, cookie);
            }
        }
        self.drop_unreachable();
    }

    /// Drops everything that no name leads to.
    pub(super) fn drop_unreachable(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut next = vec![ROOT];
        while let Some(dir) = next.pop() {
            if let Some(Inode { kind: Kind::Dir { names, .. }, .. }) = self.inodes.get(&dir) {
                next.extend(names.values().map(|(ino, _)| *ino).filter(|ino| reached.insert(*ino)));
            }
        }
        self.inodes.retain(|ino, _| reached.contains(ino));
    }
}

/// Which of the changes had got to the disk.
fn choose(moments: &[u64], forgetting: Forgetting, random: &mut fastrand::Rng) -> BTreeSet<u64> {
    match forgetting {
        Forgetting::All => BTreeSet::new(),
        Forgetting::AfterAPoint => moments[..random.usize(..=moments.len())].iter().copied().collect(),
        Forgetting::ASubset => {
            // Also nearly all and nearly none.
            let share = random.f64();
            moments.iter().copied().filter(|_| random.f64() < share).collect()
        }
    }
}
