//! What a slot must be like, looked at from outside: its disk, its store, its index.

use std::path::{Path, PathBuf};

use super::book::Book;
use super::model::Model;
use super::rules::Rule;
use super::slot::{DIR, Running, Slot};
use crate::crdt::Verdict;
use crate::storage::disk::{self, Disk, Kept};
use crate::storage::log::SegmentBytes;
use crate::storage::log::segment::{file_name, parse_file_name};
use crate::storage::manifest::Manifest;
use crate::storage::replay::log_dir;
use crate::storage::store::reserve_path;
use crate::storage::{NoIndex, Store, StoreError};

impl Slot {
    /// Checks what is due after a commit.
    ///
    /// # Panics
    /// If the store does not hold what it must.
    pub fn check_now_and_then(&mut self, book: &Book) {
        let running = self.running.as_mut().expect("it is up");
        let commits = running.commits;
        let floor = &running.replica.store().state().floor;
        let joined = running.floor != *floor;
        if joined {
            running.floor = floor.clone();
        }
        if joined || commits.is_multiple_of(16) {
            self.check_truth();
        }
        if joined || commits.is_multiple_of(32) {
            self.check_log();
        }
        if commits.is_multiple_of(32) {
            self.check_index(book);
        }
    }

    /// Invariant 1: the records are exactly those that the definition says.
    ///
    /// # Panics
    /// If they are not.
    pub fn check_truth(&self) {
        let Running { model, replica, .. } = self.running();
        let store = replica.store();
        for (records, place) in [(store.records(&[]), "shown"), (store.stored_records(&[]), "stored")] {
            let records = records.map(|record| {
                let record = record.expect("a simulated index can be read");
                (record.element(), record.tag())
            });
            if let Some(difference) = model.difference(records) {
                Rule::Truth.broken(&format!("{}, as {place}: {difference}", self.id));
            }
        }
        self.past.names.check(replica.store());
    }

    /// Invariant 3, of what the log may be used for: whoever holds what the floor says, or what the snapshot does, gets
    /// from it exactly what it lacks, each operation when it is next.
    ///
    /// # Panics
    /// If not.
    pub fn check_log(&self) {
        let store = self.store();
        let snapshot = store.snapshot().map(|snapshot| &snapshot.header().context.vv);
        for from in [Some(&store.state().floor), snapshot].into_iter().flatten().filter(|vv| store.can_serve(vv)) {
            let Ok(delta) = store.delta(from, usize::MAX) else { continue };
            let mut held = from.clone();
            for op in &delta.ops {
                let next = op.judge(&held) == Verdict::Next;
                Rule::Context
                    .must(next, || format!("{}: the log has a gap above its floor before {}", self.id, op.dot));
                held.advance(op.dot);
            }
            Rule::Context.must(held == *store.vv(), || format!("{}: the log has a gap above its floor", self.id));
        }
    }

    /// Invariant 2, at once: what leaves speaks of the log, so the log's end and its name must be durable.
    ///
    /// # Panics
    /// If they are not.
    pub fn check_durable(&mut self, book: &Book) {
        let dir = log_dir(Path::new(DIR));
        let newest = self.disk.list(&dir).unwrap_or_default().into_iter().rfind(|name| parse_file_name(name).is_some());
        if let Some(newest) = newest {
            let durable = self.disk.is_durable(&dir.join(&newest));
            Rule::Durable.must(durable, || format!("{} speaks, and {newest} is not durable", self.id));
        }
        let running = self.running_mut();
        running.releases += 1;
        if running.releases.is_multiple_of(64) {
            self.check_by_power_cut(book);
        }
    }

    /// Invariants 2 and 8, the long way: if the power went now, everything that was said would be there, and sound.
    ///
    /// # Panics
    /// If it would not.
    pub fn check_by_power_cut(&self, book: &Book) {
        let other =
            Slot { disk: self.disk.after_cut(Kept::Nothing), limits: self.limits, ..Slot::new(self.id.clone(), false) };
        if !other.has_reserve() {
            // A disk that was full at the last start may be so at the next, which fails then, until somebody makes room.
            other.disk.set_capacity(None);
        }
        let store = match other.open_bare() {
            Ok(store) => store,
            Err(error) => Rule::Durable.broken(&format!("{} would not start after a power cut now: {error}", self.id)),
        };
        Rule::Durable.must(self.past.durable.is_within(store.vv()), || {
            format!("{} has said {:?}; after a power cut it would hold {:?}", self.id, self.past.durable, store.vv())
        });
        // Nothing is under way when something leaves.
        self.past.names.check(&store);
        let records = store.records(&[]).map(|record| record.expect("just written")).map(|r| (r.element(), r.tag()));
        if let Some(difference) = Model::at(book, store.vv()).difference(records) {
            Rule::Durable.broken(&format!("{}, after a power cut now: {difference}", self.id));
        }
    }

    /// Invariant 6: the index holds what was held at its position, which is durable.
    ///
    /// # Panics
    /// If it does not.
    pub fn check_index(&self, book: &Book) {
        let store = self.store();
        let Some(index) = store.index() else { return };
        let position = index.position();
        Rule::Index.must(position.lsn <= store.lsn(), || format!("{}: the index is ahead of the log", self.id));
        let Some(held) = self.past.commits.get(&position.lsn) else { return };
        let model = Model::at(book, held);
        let records = index.records(&[]).map(|r| r.expect("in memory")).map(|r| (r.element(), r.tag()));
        if let Some(difference) = model.difference(records) {
            Rule::Index.broken(&format!("{}, index at LSN {}: {difference}", self.id, position.lsn));
        }
        let counted = (index.counts().elements as usize, index.counts().tags as usize);
        Rule::Index.must(counted == model.count(), || {
            format!("{}, index at LSN {}: it counts {counted:?}, not {:?}", self.id, position.lsn, model.count())
        });
    }

    /// Invariant 8: after a failed write nothing is acknowledged any more.
    ///
    /// # Panics
    /// If something would be.
    pub fn check_poisoned(&mut self) {
        let Some(running) = &mut self.running else { return };
        let closed = running.replica.store_mut().commit().is_err();
        Rule::Recovery.must(closed, || format!("{}: a write has failed, and the store goes on", self.id));
    }

    /// Whether room for a start on a full disk is set aside.
    pub fn has_reserve(&self) -> bool {
        self.disk.open(&reserve_path(Path::new(DIR))).and_then(|file| file.len()).is_ok_and(|bytes| bytes > 0)
    }

    /// Opens the store for a look, without its index.
    ///
    /// # Errors
    /// If it does not open.
    pub fn open_bare(&self) -> Result<Store, StoreError> {
        Store::open(self.options(0), &mut NoIndex).map(|(store, _)| store)
    }

    /// Frames of the log (their files, and the bytes in them) that have a good frame after them, so that they were
    /// durable once and count: what is changed there must be seen.
    pub fn places_that_count(&self) -> Vec<(PathBuf, std::ops::Range<usize>)> {
        let Ok(Some(manifest)) = Manifest::read(&self.disk, Path::new(DIR)) else { return Vec::new() };
        let dir = log_dir(Path::new(DIR));
        let read = |counter: &u64| {
            let path = dir.join(file_name(*counter));
            disk::read(&self.disk, &path).ok().and_then(|bytes| SegmentBytes::new(path, bytes).ok())
        };
        let segments: Vec<SegmentBytes> = manifest.segments.iter().filter_map(read).collect();
        let mut places = Vec::new();
        for (n, segment) in segments.iter().enumerate() {
            let length = segments.get(n + 1).and_then(|next| next.header.previous).map_or(u64::MAX, |end| end.length);
            let frames: Vec<_> = segment.frames().take_while(|frame| frame.end <= length).collect();
            // After a clean stop the last one counts too.
            let last = manifest.clean.is_some_and(|clean| clean.counter == segment.header.counter);
            let before_others = frames.iter().take(frames.len().saturating_sub(usize::from(!last)));
            let place = |at: u64| usize::try_from(at).expect("segments fit memory");
            places.extend(before_others.map(|f| (segment.path.clone(), place(f.offset)..place(f.end))));
        }
        places
    }
}
