//! Real time, for telling how fast the simulation is; nothing in a run ever sees it.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::{Duration, Instant};

/// Measures from when it was started.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: Instant,
}

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Real time since then.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
