//! What the benchmarks share: [`figures`] (what was measured, against which target), [`direct`] (a node that is spoken to
//! on its two pipes), [`redis`] (the peer of most figures), and what the tests of the real binary have ([`tests`]).

// Every benchmark is a crate of its own and uses a part of this.
#![allow(dead_code)]

pub mod direct;
pub mod figures;
pub mod redis;
#[path = "../../tests/support/mod.rs"]
pub mod tests;

/// The middle one.
pub fn median(mut figures: Vec<f64>) -> f64 {
    quantile(&mut figures, 0.5)
}

/// The figure that so large a part of them does not exceed.
pub fn quantile(figures: &mut [f64], part: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    let at = (figures.len() as f64 * part) as usize;
    figures[at.min(figures.len() - 1)]
}

/// The parts of a benchmark that the command line names: all of them if it names none. `None` if this is not
/// `cargo bench`, but `cargo test` that looks at every target.
pub fn wanted_parts(bench: &str, parts: &[&'static str]) -> Option<Vec<&'static str>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "--bench") {
        println!("a benchmark: run it with `cargo bench --bench {bench}`");
        return None;
    }
    let wanted: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.starts_with('-')).collect();
    if let Some(unknown) = wanted.iter().find(|part| !parts.contains(part)) {
        eprintln!("no part {unknown:?}; there are: {}", parts.join(" "));
        std::process::exit(2);
    }
    Some(parts.iter().copied().filter(|part| wanted.is_empty() || wanted.contains(part)).collect())
}

/// 16 bytes of canonical JSON, quotes included.
pub fn element(number: u64) -> String {
    format!("\"elt-{number:010}\"")
}
