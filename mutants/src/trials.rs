//! Runs tests: each once with no mutant, to see which mutants it meets; then, for a mutant, those that meet it, until one fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One test of one test binary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Test {
    pub binary: String,
    pub executable: PathBuf,
    pub name: String,
    /// How much processor time it takes with no mutant.
    pub seconds: f64,
    /// The numbers of the mutants that it meets.
    pub meets: Vec<usize>,
}

/// How a test has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    Passed,
    Failed,
    /// It used up its processor time, or did nothing for a minute and more.
    OutOfTime,
    /// There is no such program, or it may not be run.
    NotBegun,
}

/// Where and how tests are run.
pub struct Place<'a> {
    pub tree: &'a Path,
    /// How many mutants there are.
    pub mutants: usize,
}

/// Builds the test binaries of the planted sources: all of them, or those named.
pub fn build(tree: &Path, binaries: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--locked", "--no-run", "--message-format=json-render-diagnostics"]).current_dir(tree);
    for binary in binaries {
        match *binary {
            "lib" => cargo.arg("--lib"),
            name => cargo.args(["--test", name]),
        };
    }
    let output = cargo.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the planted sources' tests do not build");
    let text = String::from_utf8(output.stdout)?;
    let artifacts = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let found = artifacts.filter_map(|value| {
        let test = value["profile"]["test"] == true;
        let executable = value["executable"].as_str().filter(|_| test)?;
        let target = &value["target"];
        let name = if target["kind"][0] == "lib" { "lib" } else { target["name"].as_str()? };
        (target["kind"][0] != "bin").then(|| (name.to_owned(), PathBuf::from(executable)))
    });
    Ok(found.collect())
}

impl Place<'_> {
    /// The names of a binary's tests.
    pub fn names(&self, executable: &Path) -> Result<Vec<String>> {
        let output = Command::new(executable).args(["--list", "--format", "terse"]).current_dir(self.tree).output()?;
        let text = String::from_utf8(output.stdout)?;
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }

    /// Runs a test with no mutant; `None` if it does not pass, or meets none.
    pub fn measure(&self, binary: &str, executable: &Path, name: &str, scratch: &Path) -> Result<Option<Test>> {
        let _ = fs::remove_file(scratch);
        let mut test = Test {
            binary: binary.to_owned(),
            executable: executable.to_owned(),
            name: name.to_owned(),
            seconds: 60.0,
            meets: Vec::new(),
        };
        let mut command = self.command(&[&test]);
        command.env("MUTANTS_MET", scratch).env("MUTANTS", self.mutants.to_string());
        let (ended, seconds) = wait(command, 900)?;
        test.seconds = seconds;
        if ended != Ended::Passed {
            eprintln!("left out, as it does not pass with no mutant: {binary} {name}");
            return Ok(None);
        }
        let met = fs::read_to_string(scratch).unwrap_or_default();
        for line in met.lines() {
            let (first, last) = line.split_once(' ').context("two numbers")?;
            test.meets.extend(first.parse::<usize>()?..=last.parse()?);
        }
        test.meets.sort_unstable();
        test.meets.dedup();
        Ok((!test.meets.is_empty()).then_some(test))
    }

    /// Runs tests of one binary with a mutant, one after the other in one process; says which has failed, if it can be told. Tests
    /// of real processes may fail for another reason: they have to fail twice, and to pass with no mutant in between.
    pub fn run(&self, tests: &[&Test], mutant: usize, real: bool, scratch: &Path) -> Result<(Ended, Option<String>)> {
        let mut last = self.once(tests, Some(mutant), scratch)?;
        if real && last.0 != Ended::Passed {
            if self.once(tests, None, scratch)?.0 != Ended::Passed {
                eprintln!("fails with no mutant too, this time: {} {}", tests[0].binary, tests[0].name);
                return Ok((Ended::Passed, None));
            }
            last = self.once(tests, Some(mutant), scratch)?;
        }
        Ok(last)
    }

    fn once(&self, tests: &[&Test], mutant: Option<usize>, scratch: &Path) -> Result<(Ended, Option<String>)> {
        let mut command = self.command(tests);
        if let Some(mutant) = mutant {
            command.env("MUTANT", mutant.to_string());
        }
        command.stdout(fs::File::create(scratch)?);
        let (ended, _) = wait(command, (60.0 + 20.0 * seconds(tests)) as u64)?;
        ensure!(ended != Ended::NotBegun, "{} cannot be run", tests[0].executable.display());
        let said = String::from_utf8_lossy(&fs::read(scratch)?).into_owned();
        let failed = said.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
        Ok((ended, failed.map(str::to_owned)))
    }

    fn command(&self, tests: &[&Test]) -> Command {
        // Processor time, not time: the machine may be busy, and a loop without end is busy too.
        let limit = 5.0 + 5.0 * seconds(tests);
        let mut command = Command::new("prlimit");
        command.args([format!("--cpu={limit:.0}"), "--as=6000000000".to_owned(), "--core=0".to_owned()]);
        command.arg(&tests[0].executable).args(["--exact", "--test-threads=1"]);
        // Nothing more once one has failed; the test runner has that for nightly compilers only.
        command.args(["-Zunstable-options", "--fail-fast"]).env("RUSTC_BOOTSTRAP", "1");
        command.args(tests.iter().map(|test| &test.name));
        command.current_dir(self.tree).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let settings = [("ORSET_SEEDS", "20"), ("ORSET_KILLS", "10"), ("ORSET_PHASES", "5"), ("PROPTEST_CASES", "64")];
        for (name, value) in settings {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        command
    }
}

/// How a test has ended, and about how much processor time it took (to 20 ms, so that many are alike). It has so many seconds, in
/// which those do not count that it spends waiting for a processor: how busy the machine is does not matter. If it does nothing
/// at all for a while, it will not end.
fn wait(mut command: Command, seconds: u64) -> Result<(Ended, f64)> {
    const STEP: Duration = Duration::from_millis(20);
    const LOOK: Duration = Duration::from_secs(1);
    const MOST_IDLE_LOOKS: u32 = 20;
    let mut child = command.spawn().context("prlimit (of util-linux)")?;
    let mut left = Duration::from_secs(seconds);
    let mut step = Duration::from_millis(1);
    let (mut used, mut since, mut seen, mut idle) = (0.0, Duration::ZERO, Activity::default(), 0);
    loop {
        used = processor_seconds(child.id()).unwrap_or(used);
        if let Some(status) = child.try_wait()? {
            return Ok((ended(status), used));
        }
        // Steps are counted, not time: this process may have been stopped meanwhile, and then so was the test.
        std::thread::sleep(step);
        since += step;
        if since >= LOOK {
            let now = activity(child.id());
            let ran = since.saturating_sub(Duration::from_secs_f64((now.delay - seen.delay).max(0.0)));
            idle = if now == seen { idle + 1 } else { 0 };
            (since, seen) = (Duration::ZERO, now);
            left = left.saturating_sub(ran);
            if left.is_zero() || idle > MOST_IDLE_LOOKS {
                child.kill()?;
                child.wait()?;
                return Ok((Ended::OutOfTime, used));
            }
        }
        step = (step * 2).min(STEP);
    }
}

/// What a process and those that it has waited for have used so far.
fn processor_seconds(process: u32) -> Option<f64> {
    let ticks: Vec<f64> = stat(process)?.iter().skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
    Some(ticks.iter().sum::<f64>() / 100.0)
}

/// The fields of `/proc/…/stat` after the name.
fn stat(process: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// What the threads of a process, and of those that it has started, have done, all together, in seconds.
#[derive(Default, PartialEq)]
struct Activity {
    ran: f64,
    /// They have waited for a processor.
    delay: f64,
}

fn activity(process: u32) -> Activity {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<(u32, u32)> = numbers.filter_map(|n| Some((n, stat(n)?.get(1)?.parse().ok()?))).collect();
    let mut family = vec![process];
    let mut at = 0;
    while let Some(&parent) = family.get(at) {
        family.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(n, _)| *n));
        at += 1;
    }
    let mut found = Activity::default();
    for thread in family.iter().flat_map(|n| fs::read_dir(format!("/proc/{n}/task")).into_iter().flatten().flatten()) {
        let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        let mut nanoseconds = text.split_whitespace().filter_map(|field| field.parse::<f64>().ok());
        found.ran += nanoseconds.next().unwrap_or(0.0) / 1e9;
        found.delay += nanoseconds.next().unwrap_or(0.0) / 1e9;
    }
    found
}

fn ended(status: ExitStatus) -> Ended {
    use std::os::unix::process::ExitStatusExt;
    const SIGKILL: i32 = 9;
    const SIGXCPU: i32 = 24;
    match (status.success(), status.signal()) {
        (true, _) => Ended::Passed,
        (false, Some(SIGKILL | SIGXCPU)) => Ended::OutOfTime,
        _ if matches!(status.code(), Some(126 | 127)) => Ended::NotBegun,
        (false, _) => Ended::Failed,
    }
}

/// The tests that meet a mutant, in groups of one binary each: all that take no time, and each other one. The cheapest come first.
pub fn groups(tests: &[Test], mutant: usize) -> Vec<Vec<&Test>> {
    const NO_TIME: f64 = 0.2;
    let mut groups: Vec<Vec<&Test>> = Vec::new();
    for test in tests.iter().filter(|test| test.meets.binary_search(&mutant).is_ok()) {
        let cheap = |group: &&mut Vec<&Test>| group[0].binary == test.binary && group[0].seconds <= NO_TIME;
        match groups.iter_mut().find(cheap) {
            Some(group) if test.seconds <= NO_TIME => group.push(test),
            _ => groups.push(vec![test]),
        }
    }
    groups.sort_by(|a, b| seconds(a).total_cmp(&seconds(b)));
    groups
}

/// What tests take together.
fn seconds(tests: &[&Test]) -> f64 {
    tests.iter().map(|test| test.seconds).sum()
}
