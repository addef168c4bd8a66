//! The log in the bucket: what stands in for the second disk while only one node is there.
//!
//! ```text
//!   wal/<epoch>/0   wal/<epoch>/1   …   wal/<epoch>/k        one object a round, created once
//!        ▲               ▲                   ▲
//!        └── rounds ── PutIfAbsent ──        └── FENCE: whoever takes over ends the log (chain)
//!            of the epoch's leader
//!   chain    reads the logs that a configuration rests on, in order, and fences the last one
//!   gc       deletes rounds that both nodes hold; a fence stays for ever
//! ```
//! Rules R12 to R15 of replication.md. All of it are state machines without I/O, clock or
//! randomness: events in, effects out; nonces and the time are given. A shell carries requests to
//! the bucket and completions back; tokens are numbered by each machine for itself, so it is the
//! shell that keeps late completions of one from the next.
//!
//! Deliberately absent: when to upload or to take over (the election's), what a frame means (the
//! log's), the archive, LIST for anything but clean-up.

pub mod chain;
mod create;
mod fetch;
pub mod gc;
mod logs;
pub mod rounds;
pub mod seal;
pub mod slot;
mod track;

#[cfg(test)]
mod lives_test;
#[cfg(test)]
mod rig;

use std::time::Duration;

use celeriant_storage::bucket::{Cause, Outcome};

use crate::clock::Micros;

pub use self::logs::BucketLogs;
pub use self::seal::Seal;

/// Bounds and pauses. None of them matters for safety.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Rounds that are not full begin at most so often, in µs. Longer: fewer requests to pay for,
    /// later acknowledgements.
    pub interval: Micros,
    /// A round is full with so many bytes of frames; a larger frame travels alone.
    pub round_bytes: usize,
    /// Slots under way at a time, for upload and for download. Bounds memory.
    pub in_flight_max: usize,
    /// Given to an operation at its first try, in µs; later tries get up to eight times as much, so
    /// that a large body passes a slow line at last.
    pub deadline: Micros,
    /// Least and most of the pause after a failure of the bucket, in µs.
    pub retry: (Micros, Micros),
}

impl Default for Settings {
    fn default() -> Self {
        const MS: Micros = 1_000;
        Self {
            interval: 50 * MS,
            round_bytes: slot::ROUND_BYTES_MAX,
            in_flight_max: 4,
            deadline: 10_000 * MS,
            retry: (100 * MS, 2_000 * MS),
        }
    }
}

impl Settings {
    /// How long to wait after so many failures in a row, at least one.
    fn pause(&self, failures: u32) -> Micros {
        let (least, most) = self.retry;
        least.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(most)
    }

    /// How long an operation may take after so many in a row that took too long.
    fn deadline(&self, timeouts: u32) -> Duration {
        Duration::from_micros(self.deadline.saturating_mul(1 << timeouts.min(3)))
    }
}

/// How many in a row took too long, after one more that failed, and so many before it.
fn timeouts(before: u32, failed: &Outcome) -> u32 {
    let is_late = failed.as_ref().is_err_and(|error| error.cause == Cause::Deadline);
    if is_late { before + 1 } else { 0 }
}
