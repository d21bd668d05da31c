//! Makes `docs/benchmarks.md` and its plots from the figures that the benchmarks have left in `target/benchmarks`.
//!
//! ```text
//! benches/all                   runs every benchmark, then this
//! cargo bench --bench report    this alone
//! ```
//!
//! Nothing in that page is written by hand but `remarks.md` beside this file: what was found, and why a target is missed.

#[path = "../support/figures.rs"]
#[allow(dead_code)]
mod figures;
mod machine;
mod page;
mod plots;

use std::path::Path;

use figures::Figure;

/// What is known of the targets by hand: one section `## N` for each that there is something to say of.
const REMARKS: &str = include_str!("remarks.md");

fn main() {
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("makes docs/benchmarks.md: run it with `cargo bench --bench report`");
        return;
    }
    let figures = read_figures();
    if figures.is_empty() {
        eprintln!("there are no figures in {}: run `benches/all` first", figures::directory().display());
        std::process::exit(1);
    }
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let plots = docs.join("benchmarks");
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(&plots)?;
        let drawn = plots::draw_all(&figures, &plots);
        std::fs::write(docs.join("benchmarks.md"), page::page(&figures, &drawn, &remarks()))
    };
    write().unwrap_or_else(|e| panic!("cannot write {}: {e}", docs.display()));
    println!("docs/benchmarks.md: {} figures", figures.len());
}

/// All figures, by target and name.
fn read_figures() -> Vec<Figure> {
    let Ok(entries) = std::fs::read_dir(figures::directory()) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a readable directory").path()).collect();
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    paths.iter().map(read).collect()
}

/// The remarks by the number of their target.
fn remarks() -> Vec<(u8, &'static str)> {
    let sections = REMARKS.split("\n## ").skip(1);
    let section = |text: &'static str| {
        let (number, body) = text.split_once('\n').expect("a heading and a body");
        (number.trim().parse().expect("the heading is the number of a target"), body.trim())
    };
    sections.map(section).collect()
}
