//! The system's clocks.

use rustix::time::{ClockId, Timespec, clock_gettime};

use super::{Clock, Micros};

/// `CLOCK_BOOTTIME` and the wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Micros {
        micros(clock_gettime(ClockId::Boottime)) as Micros
    }

    fn wall(&self) -> i64 {
        micros(clock_gettime(ClockId::Realtime))
    }
}

fn micros(time: Timespec) -> i64 {
    time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
}
