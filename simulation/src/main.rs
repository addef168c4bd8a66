//! The simulator's program; see [`simulation::cli`].

// The world owns every task that it spawns; the ban is for what runs inside it.
#![allow(clippy::disallowed_methods)]

use std::process::ExitCode;

fn main() -> ExitCode {
    simulation::cli::main()
}
