//! The `orset` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    orset::cli::main()
}
