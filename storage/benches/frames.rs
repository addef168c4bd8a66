//! The group commit, timed: records into the open frame, sealing, checking a frame again.
//!
//! `cargo bench -p celeriant-storage`. What is run is in `frames/work.rs`, which the instruction
//! counts of `celeriant-actors` run too.

#[path = "../../schema/benches/shared/measured.rs"]
mod measured;
#[path = "frames/nowhere.rs"]
mod nowhere;
#[path = "../../schema/benches/shared/timed.rs"]
mod timed;
#[path = "frames/work.rs"]
mod work;

fn main() {
    timed::time("frames", work::all());
}
