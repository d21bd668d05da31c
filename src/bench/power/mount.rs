//! Mounting, and that nothing stays mounted.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fuser::{BackgroundSession, Config, MountOption};
use rustix::mount::{UnmountFlags, unmount};

use super::fs::{PowerFs, Slot};

/// A mounted file system. Dropping it unmounts it, also if somebody has files open there: those go on failing until
/// they are closed.
pub struct Mounted {
    point: PathBuf,
    session: Option<BackgroundSession>,
}

impl Mounted {
    /// Mounts what is in `slot`.
    ///
    /// # Errors
    /// If there is no FUSE, or this process may not use it.
    pub fn new(slot: Slot, point: &Path) -> io::Result<Self> {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("orset-power".to_owned()),
            MountOption::DefaultPermissions,
            MountOption::NoDev,
            MountOption::NoSuid,
        ];
        let session = fuser::spawn_mount(PowerFs(slot), point, &config)?;
        Ok(Mounted { point: point.to_owned(), session: Some(session) })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a dying process may still hold files. Without the right to do so, fusermount3 does it, by way of fuser.
        let _ = unmount(&self.point, UnmountFlags::DETACH);
        // Its threads end by themselves once the last file is closed. They are not waited for.
        drop(self.session.take());
    }
}

/// Why power cannot be cut here.
#[derive(Debug, thiserror::Error)]
#[error(
    "the nemesis power needs FUSE, and cannot {0} here: {1}. It takes /dev/fuse, and either root or the program fusermount3 (Debian: fuse3)"
)]
pub struct NoPower(&'static str, io::Error);

/// Tries whether a file system can be mounted and used.
///
/// # Errors
/// If it cannot.
pub fn check() -> Result<(), NoPower> {
    let dir = tempfile::tempdir().map_err(|error| NoPower("make a directory to mount on", error))?;
    let slot = Slot::default();
    *super::fs::lock(&slot) = Some(super::Disk::default());
    let mounted = Mounted::new(slot, dir.path()).map_err(|error| NoPower("mount a file system", error))?;
    let outcome = fs::write(dir.path().join("probe"), b"is it writable?");
    drop(mounted);
    outcome.map_err(|error| NoPower("write to what it has mounted", error))
}

/// Waits for the end of its input, which is our death, and unmounts its arguments.
const KEEPER: &str = "trap '' HUP INT QUIT PIPE ALRM TERM USR1 USR2 TSTP TTIN TTOU; read -r _
for point; do umount -l \"$point\" || fusermount3 -u -z \"$point\"; done";

/// Unmounts when we are gone, also by SIGKILL: a shell that waits for the end of a pipe which only we hold.
pub struct MountKeeper(std::process::Child);

impl MountKeeper {
    /// For these mount points.
    ///
    /// # Errors
    /// If there is no `/bin/sh`.
    pub fn start(points: &[PathBuf]) -> io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c".into(), KEEPER.into(), OsString::from("sh")]).args(points);
        command.current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(MountKeeper)
    }
}

impl Drop for MountKeeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It finds nothing mounted any more, and ends.
        let _ = self.0.wait();
    }
}
