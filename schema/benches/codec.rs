//! Codecs and keys, timed: what the wire and the router cost per request.
//!
//! `cargo bench -p celeriant-schema`. What is run is in `codec/work.rs`, which the instruction
//! counts of `celeriant-actors` run too.

#[path = "shared/measured.rs"]
mod measured;
#[path = "shared/timed.rs"]
mod timed;
#[path = "codec/work.rs"]
mod work;

fn main() {
    timed::time("codec", work::all());
}
