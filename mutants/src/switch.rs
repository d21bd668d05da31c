//! Which mutant is switched on: this file becomes a module of the crate whose mutants are tried.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

struct Switch {
    mutant: u32,
    /// A file that is told which mutants are met.
    met: Option<(String, Vec<AtomicBool>)>,
}

static SWITCH: OnceLock<Switch> = OnceLock::new();

fn read() -> Switch {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let met = std::env::var("MUTANTS_MET").ok().map(|path| {
        let count = number("MUTANTS").unwrap_or(0);
        (path, (0..count).map(|_| AtomicBool::new(false)).collect())
    });
    Switch { mutant: number("MUTANT").unwrap_or(u32::MAX), met }
}

/// The number of the mutant that is switched on; called where those from `first` to `last` are.
pub fn chosen(first: u32, last: u32) -> u32 {
    let switch = SWITCH.get_or_init(read);
    if let Some((path, met)) = &switch.met
        && !met[first as usize].swap(true, Ordering::Relaxed)
        && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path)
    {
        let _ = file.write_all(format!("{first} {last}\n").as_bytes());
    }
    switch.mutant
}
