//! What the figures were measured on.

use std::process::Command;

/// Name and value of what is worth knowing.
pub fn machine() -> Vec<(&'static str, String)> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |line: &str| line.split_once(':').map(|(_, value)| value.trim().to_owned());
    let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(value);
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    let disk = said("stat", &["--file-system", "--format=%T", env!("CARGO_MANIFEST_DIR")]);
    let changed = said("git", &["status", "--porcelain", "--", "src", "benches"]).is_some_and(|text| !text.is_empty());
    let revision = said("git", &["rev-parse", "--short", "HEAD"]);
    let known = [
        ("processor", model.map(|model| format!("{model}, {cores} cores"))),
        ("memory", kib.map(|kib| format!("{:.0} GiB", kib / 1024.0 / 1024.0))),
        ("file system", disk),
        ("kernel", said("uname", &["-sr"]).and_then(|text| Some(text.split('-').next()?.to_owned()))),
        ("compiler", said("rustc", &["--version"])),
        ("Redis", said("redis-server", &["--version"]).and_then(|text| Some(text.split(" sha").next()?.to_owned()))),
        ("revision", revision.map(|text| if changed { format!("{text}, with changes") } else { text })),
        ("day", said("date", &["+%Y-%m-%d"])),
    ];
    known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// What a program says, if it is there and content.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
