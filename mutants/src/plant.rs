//! Writes all mutants into a copy of the sources, and leaves out those that do not compile.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::list::Mutant;
use crate::sites::{Numbers, Piece, Site, sites};

/// What has become of the mutants that cannot be switched on.
#[derive(Default)]
pub struct Planted {
    /// The compiler refuses the change itself, and says why.
    pub unviable: BTreeMap<usize, String>,
    /// The change cannot be switched where it stands: it has to be tried by itself.
    pub by_itself: BTreeMap<usize, String>,
}

/// Plants into the copy at `tree` of the sources at `root` all mutants but those that are left out already.
pub fn plant(root: &Path, tree: &Path, mutants: &[Mutant], mut left_out: HashSet<usize>) -> Result<Planted> {
    let mut planted = Planted::default();
    let mut constant = HashSet::new();
    let files: HashSet<&str> = mutants.iter().map(|mutant| mutant.file.as_str()).collect();
    let library = fs::read_to_string(root.join("src/lib.rs"))?;
    write(&tree.join("src/lib.rs"), &(library + "\n#[doc(hidden)]\npub mod mutants;\n"))?;
    write(&tree.join("src/mutants.rs"), include_str!("switch.rs"))?;
    for round in 1.. {
        let numbers = Numbers { mutants, left_out: &left_out, constant: &constant };
        let mut placed = HashSet::new();
        for file in &files {
            let text = fs::read_to_string(root.join(file))?;
            let found = sites(file, &text, &numbers).with_context(|| (*file).to_owned())?;
            placed.extend(found.placed);
            for number in found.forbidden {
                planted.unviable.insert(number, "the language forbids it".to_owned());
            }
            let rendered = render(&text, 0..text.len(), &found.sites, 0);
            write(&tree.join(file), &rendered)?;
        }
        let errors = check(tree)?;
        eprintln!("round {round}: {} mutants placed, {} errors", placed.len(), errors.len());
        if errors.is_empty() {
            for number in (0..mutants.len()).filter(|number| !placed.contains(number)) {
                if !left_out.contains(&number) {
                    planted.by_itself.insert(number, "in a constant".to_owned());
                }
            }
            return Ok(planted);
        }
        let before = (left_out.len(), constant.len());
        for error in errors {
            if let Some(name) = error.constant() {
                constant.insert(name);
            } else if let Some(number) = error.mutant(tree) {
                left_out.insert(number);
                planted.unviable.insert(number, error.message);
            } else {
                let first = error.site(tree).with_context(|| format!("no site at {error:?}"))?;
                let key = |mutant: &Mutant| (mutant.file.clone(), mutant.span.start, mutant.genre);
                for number in (first..mutants.len()).take_while(|n| key(&mutants[*n]) == key(&mutants[first])) {
                    left_out.insert(number);
                    planted.by_itself.insert(number, error.message.clone());
                }
            }
        }
        if before == (left_out.len(), constant.len()) {
            bail!("the compiler's errors do not become fewer");
        }
    }
    unreachable!("the loop is endless")
}

/// Leaves a file as it is that has this text already, so that cargo need not build anew.
pub fn write(path: &Path, text: &str) -> Result<()> {
    if !fs::read_to_string(path).is_ok_and(|old| old == text) {
        fs::create_dir_all(path.parent().context("a directory above")?)?;
        fs::write(path, text)?;
    }
    Ok(())
}

fn render(text: &str, range: std::ops::Range<usize>, sites: &[Site], from: usize) -> String {
    let mut out = String::new();
    let mut at = range.start;
    for (n, site) in sites.iter().enumerate().skip(from) {
        if site.range.start < at || site.range.end > range.end {
            continue;
        }
        out += &text[at..site.range.start];
        for piece in &site.pieces {
            match piece {
                Piece::Text(new) => out += new,
                Piece::Source(part) => out += &render(text, part.clone(), sites, n + 1),
            }
        }
        at = site.range.end;
    }
    out + &text[at..range.end]
}

#[derive(Debug)]
struct Complaint {
    code: String,
    message: String,
    /// File and line.
    at: Vec<(String, usize)>,
}

impl Complaint {
    /// The function that somebody calls where only the compiler can.
    fn constant(&self) -> Option<String> {
        let name = (self.code == "E0015").then(|| self.message.split('`').nth(1))??;
        name.rsplit("::").next().map(str::to_owned)
    }

    /// The mutant on whose line it is.
    fn mutant(&self, tree: &Path) -> Option<usize> {
        self.at.iter().find_map(|(file, line)| {
            let text = fs::read_to_string(tree.join(file)).ok()?;
            marked(text.lines().nth(line - 1)?, "/*@", "@*/")
        })
    }

    /// The first mutant of the last site that begins at or before it.
    fn site(&self, tree: &Path) -> Option<usize> {
        let (file, line) = self.at.first()?;
        let text = fs::read_to_string(tree.join(file)).ok()?;
        let before: Vec<&str> = text.lines().take(*line).collect();
        before.iter().rev().find_map(|line| marked(line, "/*#", "#*/").or_else(|| marked(line, "/*@", "@*/")))
    }
}

fn marked(line: &str, before: &str, after: &str) -> Option<usize> {
    let (_, rest) = line.rsplit_once(before)?;
    rest.split_once(after)?.0.parse().ok()
}

fn check(tree: &Path) -> Result<Vec<Complaint>> {
    let mut cargo = Command::new("cargo");
    cargo.args(["check", "--locked", "--lib", "--profile", "test", "--message-format=json"]).current_dir(tree);
    let output = cargo.stderr(Stdio::null()).output()?;
    let mut complaints = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
        let message = &value["message"];
        let Some(spans) = message["spans"].as_array().filter(|spans| !spans.is_empty()) else { continue };
        if message["level"] != "error" {
            continue;
        }
        let spans = spans.iter().filter(|span| span["is_primary"] == true);
        let at = spans.filter_map(|span| {
            Some((span["file_name"].as_str()?.to_owned(), usize::try_from(span["line_start"].as_u64()?).ok()?))
        });
        complaints.push(Complaint {
            code: message["code"]["code"].as_str().unwrap_or_default().to_owned(),
            message: message["message"].as_str().unwrap_or_default().to_owned(),
            at: at.collect(),
        });
    }
    if complaints.is_empty() && !output.status.success() {
        bail!("cargo check fails without a word");
    }
    Ok(complaints)
}
