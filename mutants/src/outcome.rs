//! What has come out, mutant by mutant, in a file that is only ever added to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::list::Mutant;

/// What has become of a mutant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Found {
    /// It does not compile.
    Unviable(String),
    /// It cannot be switched on, and has to be tried by itself.
    ByItself(String),
    /// This test has failed.
    Caught(String),
    /// This test has not come to its end.
    OutOfTime(String),
    /// None of the tests that meet it has failed; there are so many.
    Missed { tests: usize },
}

#[derive(Serialize, Deserialize)]
struct Line {
    mutant: String,
    found: Found,
}

/// See the module's text.
pub struct Outcomes<'a> {
    file: File,
    mutants: &'a [Mutant],
    found: BTreeMap<usize, Found>,
}

impl<'a> Outcomes<'a> {
    /// Goes on with what the file says of these mutants.
    pub fn open(path: &Path, mutants: &'a [Mutant]) -> Result<Self> {
        let numbers: HashMap<&str, usize> = mutants.iter().enumerate().map(|(n, m)| (m.name.as_str(), n)).collect();
        let mut found = BTreeMap::new();
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            let line: Line = serde_json::from_str(line)?;
            if let Some(number) = numbers.get(line.mutant.as_str()) {
                found.insert(*number, line.found);
            }
        }
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self { file, mutants, found })
    }

    /// Those that have not been caught; those that have not even been tried come first.
    pub fn open_ones(&self) -> Vec<usize> {
        let all = 0..self.mutants.len();
        let untried = all.clone().filter(|n| !self.found.contains_key(n));
        let missed = all.filter(|n| matches!(self.found.get(n), Some(Found::Missed { .. })));
        untried.chain(missed).collect()
    }

    /// Those that cannot be planted.
    pub fn left_out(&self) -> HashSet<usize> {
        let out = |found: &Found| matches!(found, Found::Unviable(_) | Found::ByItself(_));
        self.found.iter().filter(|(_, found)| out(found)).map(|(n, _)| *n).collect()
    }

    /// Takes note.
    pub fn add(&mut self, number: usize, found: Found) -> Result<()> {
        if self.found.get(&number) == Some(&found) {
            return Ok(());
        }
        let line = Line { mutant: self.mutants[number].name.clone(), found: found.clone() };
        writeln!(self.file, "{}", serde_json::to_string(&line)?)?;
        self.found.insert(number, found);
        Ok(())
    }

    /// Prints the figures of each file, and the mutants that were not caught.
    pub fn report(&self, prefixes: &[String]) {
        let mut files: BTreeMap<&str, [usize; 6]> = BTreeMap::new();
        for (number, mutant) in self.mutants.iter().enumerate() {
            let kind = match self.found.get(&number) {
                Some(Found::Caught(_)) => 0,
                Some(Found::OutOfTime(_)) => 1,
                Some(Found::Unviable(_)) => 2,
                Some(Found::Missed { .. }) => 3,
                Some(Found::ByItself(_)) => 4,
                None => 5,
            };
            for key in [mutant.file.as_str(), "together"] {
                files.entry(key).or_default()[kind] += 1;
            }
        }
        println!(
            "| file | caught | out of time | do not compile | missed | by themselves | not tried |\n|---|---|---|---|---|---|---|"
        );
        for (file, [caught, time, unviable, missed, alone, open]) in files {
            println!("| {file} | {caught} | {time} | {unviable} | {missed} | {alone} | {open} |");
        }
        for (number, found) in &self.found {
            let mutant = &self.mutants[*number];
            if prefixes.is_empty() || crate::begins(mutant, prefixes) {
                match found {
                    Found::Missed { tests } => println!("missed by {tests} tests: {}", mutant.name),
                    Found::ByItself(why) => println!("to be tried by itself ({why}): {}", mutant.name),
                    _ => {}
                }
            }
        }
    }
}
