//! The index section: a copy of the index, looked at.

use std::path::Path;

use anyhow::Context;

use super::rows::IndexRow;
use super::{List, Printer, show_records};
use crate::crdt::Base;
use crate::dump::View;
use crate::storage::index::{Index, IndexCopy, IndexError, SledIndex};
use crate::storage::{StoreError, StoreLock};

/// A copy of the index, or why there is none.
pub type Copy = Result<IndexCopy, String>;

/// Copies the index of a store under its lock. `insist`: it is an error if a node has the store open.
pub fn copy(store: &Path, insist: bool) -> anyhow::Result<Copy> {
    let lock = match StoreLock::acquire_existing(store) {
        Err(error @ StoreError::InUse { .. }) if insist => {
            return Err(error).context("the index of a running node cannot be looked at");
        }
        Err(StoreError::InUse { .. }) => return Ok(Err("the node is running, and has its index open".to_owned())),
        // Not to be allowed to lock is no reason to hide the rest.
        Err(error) if !insist => return Ok(Err(error.to_string())),
        lock => lock?,
    };
    let copy = IndexCopy::take(store).map_err(|error| reason(&error));
    // A node that starts meanwhile waits for the lock for two seconds only.
    drop(lock);
    Ok(copy)
}

/// Shows the copy.
pub fn show(printer: &mut dyn Printer, view: &View, copy: Copy) -> anyhow::Result<()> {
    let copy = match copy {
        Ok(copy) => copy,
        Err(unavailable) => return Ok(printer.index(&IndexRow::Unavailable { unavailable })?),
    };
    let shown = copy.look::<(), anyhow::Error>(|index| show_open(printer, view, &copy, index));
    match shown {
        // A broken index is what somebody who asks for it wants to be told about, and no failure of the dump.
        Err(error) => match error.downcast_ref::<IndexError>().map(reason) {
            Some(unavailable) => Ok(printer.index(&IndexRow::Unavailable { unavailable })?),
            None => Err(error),
        },
        Ok(()) => Ok(()),
    }
}

fn show_open(printer: &mut dyn Printer, view: &View, copy: &IndexCopy, index: &SledIndex) -> anyhow::Result<()> {
    let (position, counts) = (index.position(), index.counts());
    printer.index(&IndexRow::Open {
        directory: format!("index/{}", copy.state().number),
        closed: copy.state().closed,
        lsn: position.lsn.0,
        checksum: position.checksum,
        elements: counts.elements,
        tags: counts.tags,
        trees: index.tree_names(),
    })?;
    printer.list(List::IndexRecords)?;
    let broken = match show_records(printer, index.records(&[]), view) {
        Err(error) if error.is::<StoreError>() => Some(format!("{error:#}")),
        shown => shown.map(|()| None)?,
    };
    printer.end_list()?;
    if let Some(unavailable) = broken {
        printer.index(&IndexRow::Unavailable { unavailable })?;
    }
    Ok(())
}

/// Why an index cannot be shown, without the name of the copy, which is gone by now.
fn reason(error: &IndexError) -> String {
    match error {
        IndexError::Unusable { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}
