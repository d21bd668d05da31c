//! Where a store's index comes from: opened, or built anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Index, IndexError, IndexHome, IndexPosition, MemoryIndex, SledIndex, current_boot_id};
use crate::crdt::Records;

/// Opens and builds indexes. The index's position is compared with the log by whoever asks.
pub trait IndexSource: Send {
    /// The index that is there, if it may be trusted as far as can be told without the log. `clean` says that the store
    /// was closed in good order, the index made durable with it.
    ///
    /// # Errors
    /// Why it is of no use, for people.
    fn open(&mut self, clean: bool) -> Result<Arc<dyn Index>, String>;

    /// A new index of these records, in place of the one that is there (which goes on being readable by those who hold it).
    ///
    /// # Errors
    /// If it cannot be built.
    fn rebuild(&mut self, records: Records<'_>, position: IndexPosition) -> Result<Arc<dyn Index>, IndexError>;

    /// Hands to the system what the index still buffers, and takes note of how far it has come, for those who must not
    /// open it. To be called every second or so.
    ///
    /// # Errors
    /// If the index cannot be written any more.
    fn note(&mut self, position: IndexPosition) -> Result<(), IndexError>;

    /// How far the index that is there had come by the last note, also if it must not be opened. To be asked before that.
    fn noted(&self) -> Option<IndexPosition> {
        None
    }

    /// Says why the index must not be written to just now, if so.
    ///
    /// # Errors
    /// If there is too little room on the disk.
    fn check_room(&self) -> Result<(), IndexError> {
        Ok(())
    }

    /// Sees to it that the index that is there is not trusted at the next start.
    fn distrust(&mut self);

    /// Deletes indexes that have been replaced, as far as nobody holds them any more; says whether that was all of them.
    /// To be called now and then after a rebuild.
    fn discard_replaced(&mut self) -> bool {
        true
    }

    /// Closes the index, so that it may be trusted after a power cut too, and says where it stands. Nobody else may
    /// hold it any more.
    ///
    /// # Errors
    /// If it could not be made durable: then it was no clean stop for the index.
    fn close(&mut self) -> Result<Option<IndexPosition>, IndexError>;
}

/// No index at all: the store then reads its snapshot, and keeps everything after it in memory.
#[derive(Clone, Copy, Debug)]
pub struct NoIndex;

impl IndexSource for NoIndex {
    fn open(&mut self, _clean: bool) -> Result<Arc<dyn Index>, String> {
        Err("there is none".into())
    }

    fn rebuild(&mut self, _records: Records<'_>, _position: IndexPosition) -> Result<Arc<dyn Index>, IndexError> {
        Err(IndexError::Corrupt { path: PathBuf::new(), what: "not wanted".into() })
    }

    fn note(&mut self, _position: IndexPosition) -> Result<(), IndexError> {
        Ok(())
    }

    fn distrust(&mut self) {}

    fn close(&mut self) -> Result<Option<IndexPosition>, IndexError> {
        Ok(None)
    }
}

/// An index in memory, built anew at every start: for simulated stores.
#[derive(Clone, Copy, Debug)]
pub struct MemorySource;

impl IndexSource for MemorySource {
    fn open(&mut self, _clean: bool) -> Result<Arc<dyn Index>, String> {
        Err("it was in memory".into())
    }

    fn rebuild(&mut self, records: Records<'_>, position: IndexPosition) -> Result<Arc<dyn Index>, IndexError> {
        let index = MemoryIndex::default();
        let put = |record: crate::crdt::Record| (record.key, crate::crdt::Change::Put(record.long_element));
        let changes = records.map(|record| record.map(put)).collect::<Result<Vec<_>, _>>()?;
        index.apply(&changes, position)?;
        Ok(Arc::new(index))
    }

    fn note(&mut self, _position: IndexPosition) -> Result<(), IndexError> {
        Ok(())
    }

    fn distrust(&mut self) {}

    fn close(&mut self) -> Result<Option<IndexPosition>, IndexError> {
        Ok(None)
    }
}

/// How many bytes may still be written to the disk that a directory is on; `None` if that cannot be told.
type Room = Arc<dyn Fn(&Path) -> Option<u64> + Send + Sync>;

/// The real one: sled, below the store's directory.
pub struct SledSource {
    home: IndexHome,
    room: Room,
    dir: PathBuf,
    current: Option<Arc<SledIndex>>,
    /// Indexes that were replaced while others may have held them.
    replaced: Vec<Arc<SledIndex>>,
}

/// A rebuild that takes longer than this says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// sled does not write with less room than this: on a full disk its threads die and whoever waits for them waits for
/// ever (seen: a rebuild on a full tmpfs never came back).
const LEAST_ROOM_BYTES: u64 = 8 << 20;
/// After so many records of a rebuild the room is looked at again.
const RECORDS_PER_CHECK: usize = 4096;

impl SledSource {
    /// The index of the store in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            home: IndexHome::new(dir, current_boot_id()),
            room: Arc::new(room_on_disk),
            dir: dir.to_path_buf(),
            current: None,
            replaced: Vec::new(),
        }
    }

    /// The same, on a disk that has as much room as it is told.
    #[cfg(test)]
    pub(super) fn with_room(mut self, room: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.room = Arc::new(move |_: &Path| Some(room()));
        self
    }
}

impl SledSource {
    /// Sees to it that there is room for sled, if need be by giving up indexes that are not in use. What is left of them would
    /// only keep the log from the room that it needs to be made shorter, and another is built once there is room again.
    fn make_room(&mut self) -> Result<(), IndexError> {
        if self.check_room().is_ok() {
            return Ok(());
        }
        self.home.drop_old()?;
        let Err(short) = self.check_room() else { return Ok(()) };
        if self.current.is_none() {
            self.home.drop_all()?;
        }
        Err(short)
    }
}

fn room_on_disk(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn check_room(dir: &Path, room: &Room) -> Result<(), IndexError> {
    let Some(bytes) = room(dir).filter(|bytes| *bytes < LEAST_ROOM_BYTES) else { return Ok(()) };
    let what = format!("the disk is nearly full ({bytes} bytes left), and sled does not survive a full one");
    Err(IndexError::Corrupt { path: dir.to_path_buf(), what })
}

impl IndexSource for SledSource {
    fn open(&mut self, clean: bool) -> Result<Arc<dyn Index>, String> {
        self.make_room().map_err(|why| why.to_string())?;
        let index = Arc::new(self.home.open(clean).map_err(|why| why.to_string())?);
        self.current = Some(Arc::clone(&index));
        Ok(index)
    }

    fn rebuild(&mut self, records: Records<'_>, position: IndexPosition) -> Result<Arc<dyn Index>, IndexError> {
        self.make_room()?;
        let (dir, room) = (self.dir.clone(), Arc::clone(&self.room));
        let records = records.enumerate().map(move |(n, record)| {
            if n % RECORDS_PER_CHECK == 0 {
                check_room(&dir, &room).map_err(crate::crdt::BaseError::from)?;
            }
            record
        });
        let records: Records<'_> = Box::new(records);
        let (started, mut said) = (Instant::now(), 0);
        let mut progress = |records: u64| {
            let periods = started.elapsed().as_millis() / PROGRESS_EVERY.as_millis();
            if periods > said {
                said = periods;
                tracing::info!("rebuilding the index: {records} records so far");
            }
        };
        let index = match self.current {
            // It may still be read by others, so it stays where it is until nobody does. If no new one can be built, it
            // stays in use.
            Some(_) => self.home.rebuild_beside(records, position, &mut progress)?,
            None => self.home.rebuild(records, position, &mut progress)?,
        };
        let index = Arc::new(index);
        self.replaced.extend(self.current.replace(Arc::clone(&index)));
        Ok(index)
    }

    fn note(&mut self, position: IndexPosition) -> Result<(), IndexError> {
        if let Some(index) = &self.current {
            index.flush()?;
            self.home.write_state(position)?;
        }
        Ok(())
    }

    fn noted(&self) -> Option<IndexPosition> {
        self.home.noted()
    }

    fn check_room(&self) -> Result<(), IndexError> {
        check_room(&self.dir, &self.room)
    }

    fn distrust(&mut self) {
        self.home.distrust();
    }

    fn discard_replaced(&mut self) -> bool {
        for index in std::mem::take(&mut self.replaced) {
            match Arc::try_unwrap(index) {
                // What cannot be deleted goes when the next process opens the index.
                Ok(index) => drop(self.home.discard(index)),
                Err(index) => self.replaced.push(index),
            }
        }
        self.replaced.is_empty()
    }

    fn close(&mut self) -> Result<Option<IndexPosition>, IndexError> {
        self.discard_replaced();
        match self.current.take().and_then(Arc::into_inner) {
            Some(index) => self.home.close(index).map(Some),
            None => Ok(None),
        }
    }
}
