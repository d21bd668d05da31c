//! `orset backup`. What a copy holds and why it may be started: [`crate::repair::backup`].

use std::path::PathBuf;

use clap::Args;

use super::one_store_at;
use crate::repair::backup::backup;

/// Said below the options.
pub const AFTER_HELP: &str = "The copy is of one instant, made durable, checked, and gets its name last. To restore it, \
stop the node, put the copy in place of its store (DATA-DIR/NODE-ID), and start: it goes on under a replica id of its own, \
and what was done since comes back from the peers. The index is not copied; the first start builds it.

Exit codes:
  0  fine
  1  failed: the store is damaged, or cannot be read, or the copy cannot be written; nothing is left of the copy then.
     If NEW is there all the same it is complete: only the output could not be written, or NEW's name not be synced
  2  wrong usage; also: STORE is no store, or NEW exists or would lie inside STORE
  4  the store was written by a newer orset";

/// Options of the backup.
#[derive(Args, Debug)]
pub struct BackupArgs {
    /// The store (the directory with the file `manifest`); its node may be running
    #[arg(value_name = "STORE")]
    store: PathBuf,
    /// The copy: a directory that does not exist yet
    #[arg(value_name = "NEW")]
    new: PathBuf,
}

/// Copies the store.
pub fn run(args: &BackupArgs) -> anyhow::Result<()> {
    let store = one_store_at(&args.store)?;
    let copied = backup(&store, &args.new)?;
    let (lsn, bytes) = (copied.lsn, copied.bytes);
    super::say(&format!("{}: a copy of {} as of LSN {lsn}, {bytes} bytes", args.new.display(), store.display()))
}
