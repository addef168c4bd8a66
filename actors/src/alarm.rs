//! Waiting for a moment of the node's clock, which may run at another rate than the timer's.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::clock::{Clock, Micros};

/// One timer. Wakes, looks at the clock, waits again.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    /// What it is set to, and the timer.
    set: Option<(Micros, Pin<Box<Sleep>>)>,
}

impl Alarm {
    /// Whether `deadline` has come. If not, the task is woken when it may have.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        clock: &dyn Clock,
        deadline: Option<Micros>,
    ) -> bool {
        let Some(deadline) = deadline else {
            self.set = None;
            return false;
        };
        loop {
            let now = clock.now();
            if now >= deadline {
                self.set = None;
                return true;
            }
            let set = self.set.take().filter(|(at, _)| *at == deadline);
            let wait = Duration::from_micros(deadline - now);
            let (_, timer) = self.set.insert(set.unwrap_or((deadline, Box::pin(sleep(wait)))));
            if timer.as_mut().poll(cx) == Poll::Pending {
                return false;
            }
            self.set = None;
        }
    }
}
