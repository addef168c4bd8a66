//! The program `celeriant`: a node, and every tool that talks to one.

// People and scripts are outside of what is simulated: the command line uses clocks and spawns as
// it likes, and prints.
#![allow(clippy::disallowed_methods)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
