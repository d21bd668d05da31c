//! Tries every mutant that `cargo mutants` lists for orset, in one build.
//!
//! `cargo mutants` builds the tests anew for each of its some 1,500 mutants, and runs all of them: many hours. Here all mutants are
//! planted into one copy of the sources, each where it can be switched on by an environment variable, and the tests are built
//! once. Each test is run once to see which mutants it meets at all; a mutant is then tried against those that meet it, the
//! cheapest first, until one fails.
//!
//! ```text
//! list     what cargo mutants lists
//! sites    where the mutants are in a file, and what stands there instead
//! plant    writes that into a copy, and leaves out what does not compile
//! switch   becomes a module of the copy: which mutant is on
//! trials   runs tests
//! outcome  what has come out, kept in a file: a second run goes on, and tries again what was missed
//! ```
//!
//! Where a mutant cannot be switched (in a constant, or a function whose type is only known from its body), it is listed as one to be
//! tried by `cargo mutants` itself.
//!
//! ```text
//! cargo run --manifest-path mutants/Cargo.toml [-- PLACE…]       only those whose place begins so: src/crdt/, src/crdt/op.rs:108:
//! ```

mod list;
mod outcome;
mod plant;
mod sites;
mod trials;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, thread};

use anyhow::{Context, Result, ensure};

use list::Mutant;
use outcome::{Found, Outcomes};
use trials::{Ended, Test};

/// Those that need no process of their own come first, and the whole of them is cheap.
const FIRST: [&str; 8] =
    ["lib", "set_laws", "store", "storage", "crash", "migrations", "format", "corpus"];
/// Those that a mutant which lives through the first is tried against.
const THEN: [&str; 7] = ["requests", "replicas", "log_damage", "small_scopes", "index_kill", "wire_sync", "sim"];
/// Tests of real processes: what they say depends on time as well.
const REAL: [&str; 14] = [
    "dump",
    "repair",
    "recovery",
    "stores",
    "process",
    "power",
    "kill",
    "protocol",
    "wire",
    "reads",
    "shrink",
    "bad_input",
    "cluster",
    "supervise",
];

fn main() -> Result<()> {
    let prefixes: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a directory above")?;
    let out = std::env::var_os("MUTANTS_DIR").map_or_else(|| root.join("target/mutants"), PathBuf::from);
    let tree = out.join("tree");
    fs::create_dir_all(&tree)?;
    let mutants = list::mutants(root)?;
    copy(root, &tree, &mutants)?;
    let mut outcomes = Outcomes::open(&out.join("outcomes.ndjson"), &mutants)?;
    let planted = plant::plant(root, &tree, &mutants, outcomes.left_out())?;
    for (number, why) in planted.unviable {
        outcomes.add(number, Found::Unviable(why))?;
    }
    for (number, why) in planted.by_itself {
        outcomes.add(number, Found::ByItself(why))?;
    }
    let outcomes = Mutex::new(outcomes);
    // First only what takes no time.
    let rounds = [
        (&FIRST[..], 0.3),
        (&FIRST[..], f64::INFINITY),
        (&THEN[..], 5.0),
        (&REAL[..], f64::INFINITY),
        (&THEN[..], f64::INFINITY),
    ];
    let only: Option<usize> = std::env::var("MUTANTS_ROUNDS").ok().and_then(|text| text.parse().ok());
    for (binaries, most_seconds) in rounds.into_iter().take(only.unwrap_or(usize::MAX)) {
        let left = outcomes.lock().expect("no panic").open_ones();
        let left: Vec<usize> =
            left.into_iter().filter(|n| prefixes.is_empty() || begins(&mutants[*n], &prefixes)).collect();
        if left.is_empty() {
            break;
        }
        let mut tests = tests(&tree, &out, mutants.len(), binaries)?;
        tests.retain(|test| test.seconds <= most_seconds);
        println!(
            "{} mutants, {} tests of {}, each up to {most_seconds} s",
            left.len(),
            tests.len(),
            binaries.join(", ")
        );
        try_all(&tree, &mutants, &left, &tests, &outcomes)?;
    }
    let outcomes = outcomes.into_inner().expect("no panic");
    outcomes.report(&prefixes);
    Ok(())
}

fn begins(mutant: &Mutant, prefixes: &[String]) -> bool {
    prefixes.iter().any(|prefix| mutant.file.starts_with(prefix) || mutant.name.starts_with(prefix))
}

/// Copies what git knows, as it is now, but for the files that mutants are planted into. Those that are the same already stay as
/// they are, so that cargo need not build anew; sources that are gone go from the copy too, as cargo builds the tests that it finds.
fn copy(root: &Path, tree: &Path, mutants: &[Mutant]) -> Result<()> {
    let mut planted: HashSet<&str> = mutants.iter().map(|mutant| mutant.file.as_str()).collect();
    planted.insert("src/lib.rs");
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().context("git")?;
    ensure!(output.status.success(), "git ls-files fails");
    let known = String::from_utf8(output.stdout)?;
    let known: HashSet<&str> = known.split_terminator('\0').filter(|name| root.join(name).exists()).collect();
    for dir in ["src", "tests", "benches", "examples"] {
        remove_unknown(tree, &tree.join(dir), &known)?;
    }
    for name in known.into_iter().filter(|name| !planted.contains(name)) {
        let (from, to) = (root.join(name), tree.join(name));
        let Ok(bytes) = fs::read(&from) else { continue };
        if fs::read(&to).is_ok_and(|old| old == bytes) {
            continue;
        }
        fs::create_dir_all(to.parent().context("a directory above")?)?;
        fs::copy(from, to)?;
    }
    Ok(())
}

fn remove_unknown(tree: &Path, dir: &Path, known: &HashSet<&str>) -> Result<()> {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry?.path();
        let name = path.strip_prefix(tree)?.to_str().context("a name in UTF-8")?;
        if path.is_dir() {
            remove_unknown(tree, &path, known)?;
        } else if !known.contains(name) && name != "src/mutants.rs" {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Builds the binaries and measures all their tests.
fn tests(tree: &Path, out: &Path, mutants: usize, binaries: &[&str]) -> Result<Vec<Test>> {
    let place = trials::Place { tree, mutants };
    let mut names = Vec::new();
    let built = trials::build(tree, binaries)?;
    let kept = out.join(format!("tests-of-{}.json", binaries[0]));
    if let Some(tests) = measured(&kept, &built) {
        return Ok(tests);
    }
    for (binary, executable) in built {
        let found = place.names(&executable)?;
        names.extend(found.into_iter().map(|name| (binary.clone(), executable.clone(), name)));
    }
    let (next, tests) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    side_by_side(|worker| {
        let scratch = out.join(format!("met-{worker}"));
        while let Some((binary, executable, name)) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(test) = place.measure(binary, executable, name, &scratch)? {
                tests.lock().expect("no panic").push(test);
            }
        }
        Ok(())
    })?;
    let mut tests = tests.into_inner().expect("no panic");
    tests.sort_by(|a, b| (&a.binary, &a.name).cmp(&(&b.binary, &b.name)));
    fs::write(kept, serde_json::to_vec(&tests)?)?;
    Ok(tests)
}

/// What was measured when nothing that has been built since was older.
fn measured(kept: &Path, built: &[(String, PathBuf)]) -> Option<Vec<Test>> {
    let time = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let measured = time(kept)?;
    let fresh = built.iter().all(|(_, executable)| time(executable).is_some_and(|built| built < measured));
    fresh.then(|| serde_json::from_slice(&fs::read(kept).ok()?).ok()).flatten()
}

/// Does the same in as many threads as there are processors, or in `MUTANTS_WORKERS`.
fn side_by_side(work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let asked = std::env::var("MUTANTS_WORKERS").ok().and_then(|text| text.parse().ok());
    let count = asked.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..count)
            .map(|n| {
                scope.spawn({
                    let work = &work;
                    move || work(n)
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })
}

fn try_all(tree: &Path, mutants: &[Mutant], left: &[usize], tests: &[Test], outcomes: &Mutex<Outcomes>) -> Result<()> {
    let place = trials::Place { tree, mutants: mutants.len() };
    let next = AtomicUsize::new(0);
    side_by_side(|worker| {
        let scratch = tree.with_file_name(format!("said-{worker}"));
        while let Some(&mutant) = left.get(next.fetch_add(1, Ordering::Relaxed)) {
            let groups = trials::groups(tests, mutant);
            let mut found = Found::Missed { tests: groups.iter().map(Vec::len).sum() };
            for group in groups {
                let binary = &group[0].binary;
                let (ended, failed) = place.run(&group, mutant, REAL.contains(&binary.as_str()), &scratch)?;
                let by = format!("{binary} {}", failed.as_deref().unwrap_or(&group[0].name));
                match ended {
                    Ended::Passed | Ended::NotBegun => continue,
                    Ended::Failed => found = Found::Caught(by),
                    Ended::OutOfTime => found = Found::OutOfTime(by),
                }
                break;
            }
            outcomes.lock().expect("no panic").add(mutant, found)?;
        }
        Ok(())
    })
}
