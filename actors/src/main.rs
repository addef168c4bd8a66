//! The program `celeriant`: a node, and every tool that talks to one.

// People and scripts are outside of what is simulated: the command line uses clocks and spawns as
// it likes, and prints.
#![allow(clippy::disallowed_methods)]

mod cli;

use std::process::ExitCode;

/// Requests and answers are many small allocations that one thread makes and often another frees;
/// the system's allocator spends a tenth of a busy shard's time on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
