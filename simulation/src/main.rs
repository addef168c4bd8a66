//! The simulator's program; see [`simulation::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    simulation::cli::main()
}
