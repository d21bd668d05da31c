//! Deterministic simulation: replicas and their stores in virtual time, on simulated disks, over a simulated network.
//! The very code of the node below its event loop, driven by plain numbers that are all drawn from one seed.
//!
//! ```text
//! many      many seeds on several threads
//! run       one seed, its shrinking if it fails, and its trace
//! ───────
//! chaos     what befalls the nodes, step by step; then the faults end, and all must agree
//! faults    its kinds
//! cluster   the event loop, and what may be done to a node
//! slot      one replica on one disk, and its background work
//! index     an index in memory that outlives its process
//! network   latency, loss, duplication, cuts; messages go through their form on the wire
//! ───────
//! rules     what must hold, and where it is looked at
//! checks    what a slot must be like, from outside
//! book      every operation that was made, and the definition of the set
//! model     what one replica must hold: plain sets
//! claims    what messages say, against what their sender holds
//! oracle    what clients may rely on
//! ───────
//! story     what happened, in words
//! words     how that is put
//! tally     and in figures
//! ```
//!
//! ```
//! use orset::sim::{Faults, Options, run, trace};
//! let options = Options { seed: 7, nodes: 3, steps: 20, faults: Faults::all() };
//! assert!(run(&options).map_err(|failure| failure.what)?.client_ops > 0);
//! assert_eq!(trace(&options), trace(&options));
//! # Ok::<(), String>(())
//! ```
//!
//! # How a run is judged
//!
//! The simulation sees every operation when it is made, and writes it into a [`book`]. From then on a replica's version
//! vector says exactly which records it must hold, which replies it must give, and what it may claim: nothing has to be
//! guessed, also of operations whose client was never answered. What is wrong is a panic: of a checker, which names the
//! [rule](rules) that was broken, or of the product's own assertions. [`run`] catches it.
//!
//! # Caveats
//!
//! Only what is below the event loop is driven: `node`, sled and real files have tests of their own. A compaction runs in
//! one go, at a time of its own but not in the middle of a commit. The same numbers give the same run on every machine,
//! and another run after any change of the simulation itself.

pub mod book;
mod chaos;
mod checks;
pub mod claims;
pub mod cluster;
pub mod faults;
pub mod index;
mod many;
pub mod model;
pub mod named;
pub mod network;
pub mod oracle;
#[cfg(feature = "planted-bugs")]
pub mod plant;
pub mod rules;
mod run;
pub mod slot;
pub mod story;
pub mod tally;
mod words;

pub use faults::{Fault, Faults};
pub use many::run_many;
pub use run::{Failure, Options, run, trace};
pub use tally::Tally;
