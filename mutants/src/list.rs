//! The mutants, as `cargo mutants --list --json` names them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// What a mutant changes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Deserialize)]
pub enum Genre {
    /// A function gives back something else at once.
    FnValue,
    /// Another binary operator.
    BinaryOperator,
    /// No unary operator.
    UnaryOperator,
    /// A match arm less.
    MatchArm,
    /// A match arm's guard is always, or never, true.
    MatchArmGuard,
    /// A field of a struct expression has its base's value.
    StructField,
}

/// A place in a file: line and column, in characters, from 1 on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Deserialize)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

/// From where to where.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Span {
    pub start: Place,
}

/// One change to one file.
#[derive(Clone, Debug, Deserialize)]
pub struct Mutant {
    /// Tells it apart from all others: the place and the change, in words.
    pub name: String,
    pub file: String,
    pub genre: Genre,
    pub replacement: String,
    pub span: Span,
}

/// All mutants of the checkout at `root`; which files they are in is set in its `.cargo/mutants.toml`.
pub fn mutants(root: &Path) -> Result<Vec<Mutant>> {
    let output = Command::new("cargo").args(["mutants", "--list", "--json"]).current_dir(root).output();
    let output = output.context("cargo mutants (cargo install cargo-mutants --locked)")?;
    ensure!(output.status.success(), "cargo mutants --list: {}", String::from_utf8_lossy(&output.stderr));
    let mut mutants: Vec<Mutant> = serde_json::from_slice(&output.stdout)?;
    // Files that are compiled in from elsewhere have names like `src/storage/../../migrations/mod.rs`.
    for mutant in &mut mutants {
        let mut parts = Vec::new();
        for part in mutant.file.split('/') {
            match part {
                ".." => _ = parts.pop(),
                part => parts.push(part),
            }
        }
        mutant.file = parts.join("/");
    }
    // Those of one site get numbers that follow each other.
    mutants.sort_by(|a, b| (&a.file, a.span.start, a.genre).cmp(&(&b.file, b.span.start, b.genre)));
    Ok(mutants)
}
