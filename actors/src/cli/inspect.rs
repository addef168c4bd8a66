//! `inspect`: what segment files hold, offline and read-only.

use super::args::Inspect;
use super::failure::Failure;
use super::output::Output;

/// Prints it.
pub(super) fn run(inspect: &Inspect, _output: &Output) -> Result<(), Failure> {
    Err(Failure::usage(format!("{}: not in this version yet", inspect.dir.display())))
}
