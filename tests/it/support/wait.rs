//! Waiting for a condition. The only place in the workspace where a thread sleeps: other processes
//! cannot be waited for in any better way than by looking again.

use std::time::{Duration, Instant};

/// A machine may be slow; whoever waits for something that never comes hears of it this late.
const PATIENCE: Duration = Duration::from_secs(120);

/// Looks again and again until `look` finds something.
///
/// # Panics
/// After two minutes, with what was waited for.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
