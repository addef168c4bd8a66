//! Open loop: when requests are due, and waking up at that time.
//!
//! The runtime's timers are a millisecond coarse, as much as a whole durable write takes: a timer
//! of the system wakes within tens of microseconds.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// Evenly spaced times, those of different connections between each other.
pub(super) struct Pace {
    next: Instant,
    between: Duration,
    timer: AsyncFd<OwnedFd>,
}

impl Pace {
    /// One of `connections` equal shares of `rate` requests a second.
    pub(super) fn new(
        start: Instant,
        rate: f64,
        connection: usize,
        connections: usize,
    ) -> io::Result<Self> {
        let between = Duration::from_secs_f64(connections as f64 / rate);
        let offset = between.mul_f64(connection as f64 / connections as f64);
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        // Deprecated for types that could give a descriptor away; an `OwnedFd` cannot, and the
        // alternative needs unsafe code.
        #[allow(deprecated)]
        let timer = AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)?;
        Ok(Self { next: start + offset, between, timer })
    }

    /// The time of the next request, if it has come; then the one after it is next.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next;
        if due > now {
            return None;
        }
        self.next += self.between;
        Some(due)
    }

    /// Sleeps until the next request is due.
    pub(super) async fn wait(&mut self) -> io::Result<()> {
        let left = self.next.saturating_duration_since(Instant::now());
        // Zero would disarm it.
        let left = left.max(Duration::from_nanos(1));
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let at = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let once = Itimerspec { it_interval: zero, it_value: at };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        let mut ready = self.timer.readable().await?;
        ready.clear_ready();
        let mut expirations = [0; 8];
        match rustix::io::read(self.timer.get_ref(), &mut expirations) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_were_late_keep_their_times() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let start = Instant::now();
            let mut pace = Pace::new(start, 1_000.0, 1, 2).expect("a timer");
            // Two connections share 1,000 a second: 2 ms apart, the second 1 ms behind the first.
            let late = start + Duration::from_millis(6);
            let due: Vec<Instant> = std::iter::from_fn(|| pace.take_due(late)).collect();
            let after = |ms| start + Duration::from_millis(ms);
            assert_eq!(due, [after(1), after(3), after(5)]);
            pace.wait().await.expect("a timer");
            assert!(Instant::now() >= after(7));
        });
    }
}
