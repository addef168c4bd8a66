//! A shard's decisions, timed: from an accepted write to its receipt, and a read from memory.
//!
//! `cargo bench -p celeriant-actors --bench core`. What is run is in `core/work.rs`, which
//! `instructions.rs` counts too.

#[path = "../../schema/benches/shared/measured.rs"]
mod measured;
#[path = "../../storage/benches/frames/nowhere.rs"]
mod nowhere;
#[path = "../../schema/benches/shared/timed.rs"]
mod timed;
#[path = "core/work.rs"]
mod work;

fn main() {
    timed::time("core", work::all());
}
