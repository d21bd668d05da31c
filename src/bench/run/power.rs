//! Runs in which the power is cut: each node's store lies on a machine of its own.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;

use super::super::files::remove_tree;
use super::super::history::NodeChange;
use super::super::nemesis::Planned;
use super::super::node::{Process, StoreTask};
use super::super::power::{Machine, MountKeeper, Tree};
use super::Runner;

/// What a node may take for the kernel's boot id: see `docs/power.md`.
const BOOT_ID: &str = "ORSET_BOOT_ID";

/// A node's data directory, and its environment.
type Place = (PathBuf, Vec<(OsString, OsString)>);

/// Sees to it that the machine has power and the node a directory for its store.
pub(super) fn switch_on(machine: &mut Machine, id: &str) -> io::Result<Place> {
    if !machine.has(id.as_ref()) {
        machine.put_tree(id.as_ref(), Some(&Tree::empty()));
    }
    machine.power_on()?;
    let boot_id = format!("{id}-boot-{}", machine.boots());
    Ok((machine.point().to_owned(), vec![(BOOT_ID.into(), boot_id.into())]))
}

impl Runner<'_> {
    /// Gives each node a machine, if its power is to be cut.
    pub(super) fn plug_machines_in(&mut self) -> io::Result<Option<MountKeeper>> {
        if !self.options.cuts_power() {
            return Ok(None);
        }
        let points: Vec<PathBuf> = self.nodes.iter().map(|node| self.dir.machine(&node.id)).collect();
        let keeper = MountKeeper::start(&points)?;
        for (node, point) in self.nodes.iter_mut().zip(&points) {
            node.machine = Some(Machine::new(point)?);
        }
        Ok(Some(keeper))
    }

    /// Cuts a node's power, whether its process lives or not.
    pub(super) fn cut_power(&mut self, number: usize, fault: &Planned) -> io::Result<()> {
        let node = &mut self.nodes[number];
        // A machine that another cut has switched off has nothing more to lose.
        let Some(machine) = node.machine.as_mut().filter(|machine| machine.is_on()) else { return Ok(()) };
        let process = node.process.as_mut().filter(|process| !process.killed);
        let alive = process.is_some();
        // The same for the same run, whatever else is drawn.
        let seed = self.options.seed ^ (fault.number << 16) ^ number as u64;
        let mut random = fastrand::Rng::with_seed(seed ^ 0x0070_6f77_6572);
        let cut = machine.cut(fault.forgetting, &mut random, || process.map_or(Ok(()), Process::kill))?;
        if alive {
            self.killed(number)?;
        }
        self.note_node(number, NodeChange::PowerCut { kept: cut.kept, forgotten: cut.forgotten })
    }

    /// Does to a store on a machine what is otherwise done to one in `data/`. Its node is down.
    pub(super) fn do_task_on_machine(&mut self, number: usize, task: StoreTask) -> io::Result<NodeChange> {
        let id = self.nodes[number].id.clone();
        let (name, copy): (&OsStr, _) = (id.as_ref(), self.dir.copy(&id));
        let Some(machine) = &mut self.nodes[number].machine else {
            return Err(io::Error::other("a task on a machine that is not there"));
        };
        Ok(match task {
            StoreTask::Copy => {
                remove_tree(&copy)?;
                if let Some(tree) = machine.tree(name) {
                    if let Some(above) = copy.parent() {
                        std::fs::create_dir_all(above)?;
                    }
                    tree.write(&copy)?;
                }
                NodeChange::Copied
            }
            StoreTask::Wipe => {
                machine.put_tree(name, None);
                NodeChange::Wiped
            }
            StoreTask::Restore => {
                let tree = if copy.exists() { Some(Tree::read(&copy)?) } else { None };
                machine.put_tree(name, tree.as_ref());
                NodeChange::RolledBack
            }
        })
    }

    /// Lays the stores out in `data/`, as they would be in any other run, and unmounts all.
    pub(super) fn lay_stores_out(&mut self) -> io::Result<()> {
        for node in &mut self.nodes {
            let Some(machine) = node.machine.take() else { continue };
            if let Some(tree) = machine.tree(node.id.as_ref()) {
                tree.write(&self.dir.node_data(&node.id))?;
            }
        }
        // Empty now; there is none in a run without power cuts.
        let _ = std::fs::remove_dir(self.dir.machines());
        Ok(())
    }
}
