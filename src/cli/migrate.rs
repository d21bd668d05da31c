//! `orset migrate`. The steps, and how they are run: [`crate::storage::migrations`].

use std::path::{Path, PathBuf};

use clap::Args;

use super::stores_at;
use crate::storage::disk::RealDisk;
use crate::storage::envelope::FORMAT_VERSION;
use crate::storage::migrations::TODAY;
use crate::storage::{Replay, StoreError, StoreLock};

/// Said below the options.
pub const AFTER_HELP: &str = "`orset serve` does the same at its start. A store of an older orset is brought to today's format \
step by step; a step that was interrupted is done again. An older orset does not read the store any more then: make a backup \
first.

Exit codes:
  0  fine; also: nothing was to be done
  1  failed: the store is damaged (which is looked for if there is something to do), or cannot be read or written, or the
     output cannot be written
  2  wrong usage; also: PATH is neither a store nor a data directory
  3  the store is in use by another process (not with --dry-run)
  4  the store was written by a newer orset";

/// Options of the migration.
#[derive(Args, Debug)]
pub struct MigrateArgs {
    /// A store, or a data directory with several
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Brings the stores to today's format.
pub fn run(args: &MigrateArgs) -> anyhow::Result<()> {
    let stores = stores_at(&args.path)?;
    // One bad store does not keep the others from being looked at; the first failure is the command's.
    let mut failed = None;
    for store in &stores {
        match migrate(store, args.dry_run) {
            Ok(said) => super::say(&said)?,
            Err(error) => match &failed {
                None => failed = Some(error),
                Some(_) => eprintln!("orset: {error}"),
            },
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

fn migrate(store: &Path, dry_run: bool) -> Result<String, StoreError> {
    let _lock = if dry_run { None } else { StoreLock::acquire_existing(store)? };
    let format = TODAY.format_of_store(&RealDisk, store)?;
    let steps: Vec<String> =
        TODAY.pending(format).map(|step| format!("format {} to {}: {}", step.from, step.to, step.name)).collect();
    if steps.is_empty() {
        return Ok(format!("{}: format {FORMAT_VERSION}, nothing to be done", store.display()));
    }
    // What is damaged is left as it is, as by a start.
    Replay::check_store(&RealDisk, store)?;
    if !dry_run {
        TODAY.bring_up(&RealDisk, store, None)?;
    }
    let would = if dry_run { "would be brought from" } else { "brought from" };
    Ok(format!("{}: {would} {}", store.display(), steps.join(", ")))
}
