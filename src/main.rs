//! The `orset` command.

fn main() {}
