//! Virtual time in µs: a heap of wake-ups, laid over tokio's paused clock.
//!
//! ```text
//!   tokio   |      1 ms       |      2 ms       |        timers of the node, whole milliseconds
//!   here       ·   ·· ·           · ·    ·               disks, clients, faults, in µs
//! ```
//! tokio's paused timers count milliseconds, devices don't. When the runtime has nothing left to do
//! (`on_thread_park`), the next wake-up within the running millisecond fires; only when there is
//! none does tokio's clock move on, to its own next timer or to the millisecond of our next
//! wake-up, for which the driver task keeps a timer. So nothing ever waits in real time, and order
//! depends on nothing but the seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

/// Virtual time since the world began, in µs.
pub type Micros = u64;

const MICROS_PER_TICK: Micros = 1000;
/// Whoever asks for the time so often, and no time passes, spins: thousands are usual.
const LOOKS_MAX: u32 = 10_000_000;

/// The world's time. Cheap to clone: all clones are one time.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    now: Micros,
    /// How often it was asked for since it moved.
    looks: u32,
    origin: Option<Instant>,
    heap: BinaryHeap<Reverse<(Micros, u64)>>,
    wakers: BTreeMap<u64, Waker>,
    tickets: u64,
    /// Tick for which the driver keeps a timer.
    armed: Option<u64>,
    driver: Option<Waker>,
}

impl Timeline {
    /// A runtime that runs on this time. Everything of a world lives in it.
    ///
    /// # Panics
    /// When the system gives no memory for a runtime.
    pub fn runtime(&self) -> tokio::runtime::Runtime {
        let idle = self.clone();
        let built = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .on_thread_park(move || idle.on_idle())
            .build();
        match built {
            Ok(runtime) => runtime,
            Err(error) => panic!("no runtime: {error}"),
        }
    }

    /// Must run as long as the world: moves tokio's clock to where the next wake-up is.
    pub async fn drive(self) {
        let origin = Instant::now();
        self.lock().origin = Some(origin);
        let mut sleep = std::pin::pin!(tokio::time::sleep_until(origin));
        std::future::poll_fn(|cx| {
            loop {
                let armed = {
                    let mut inner = self.lock();
                    inner.driver = Some(cx.waker().clone());
                    inner.armed
                };
                let Some(tick) = armed else { return Poll::<()>::Pending };
                let at = origin + Duration::from_millis(tick);
                if sleep.deadline() != at {
                    sleep.as_mut().reset(at);
                }
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.lock().armed = None;
            }
        })
        .await;
    }

    /// Virtual time.
    ///
    /// # Panics
    /// When something spins: it would never end.
    pub fn now(&self) -> Micros {
        let mut inner = self.lock();
        inner.follow_tokio();
        inner.looks += 1;
        let Inner { now, looks, .. } = *inner;
        assert!(looks < LOOKS_MAX, "something spins at {now} µs, and no time passes");
        now
    }

    /// Wakes `waker` at `at`, or as soon as everything else has come to rest when that is past.
    pub fn wake_at(&self, at: Micros, waker: Waker) -> u64 {
        let mut inner = self.lock();
        let ticket = inner.tickets;
        inner.tickets += 1;
        let at = at.max(inner.now);
        inner.heap.push(Reverse((at, ticket)));
        inner.wakers.insert(ticket, waker);
        ticket
    }

    /// Waits for `micros`.
    pub fn sleep(&self, micros: Micros) -> Sleep {
        self.sleep_until(self.now() + micros)
    }

    /// Waits until `at`.
    pub fn sleep_until(&self, at: Micros) -> Sleep {
        Sleep { timeline: self.clone(), at, ticket: None }
    }

    /// The runtime has nothing to do: fire the next wake-up, or see to it that time moves there.
    fn on_idle(&self) {
        let mut inner = self.lock();
        inner.follow_tokio();
        let waker = inner.next_due();
        let driver = inner.driver.clone();
        // A waker may drop or schedule anything: not under the lock.
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
            // Whatever was woken may not be a task; without one to run the runtime would let time
            // pass instead of asking here again.
            if let Some(driver) = driver {
                driver.wake();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn follow_tokio(&mut self) {
        if let Some(origin) = self.origin {
            self.pass_to(origin.elapsed().as_millis() as u64 * MICROS_PER_TICK);
        }
    }

    fn pass_to(&mut self, at: Micros) {
        if at > self.now {
            (self.now, self.looks) = (at, 0);
        }
    }

    /// The next wake-up of the running millisecond; else the driver, if it must move its timer.
    fn next_due(&mut self) -> Option<Waker> {
        loop {
            let Reverse((at, ticket)) = self.heap.peek().copied()?;
            let tick = at / MICROS_PER_TICK;
            if tick > self.now / MICROS_PER_TICK {
                let moved = self.armed.replace(tick) != Some(tick);
                return self.driver.clone().filter(|_| moved);
            }
            self.heap.pop();
            // Nobody when its sleeper lost interest.
            if let Some(waker) = self.wakers.remove(&ticket) {
                self.pass_to(at);
                return Some(waker);
            }
        }
    }
}

/// Waits for a virtual time.
#[derive(Debug)]
pub struct Sleep {
    timeline: Timeline,
    at: Micros,
    ticket: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.timeline.now() >= self.at {
            return Poll::Ready(());
        }
        self.forget();
        let ticket = self.timeline.wake_at(self.at, cx.waker().clone());
        self.ticket = Some(ticket);
        Poll::Pending
    }
}

impl Sleep {
    fn forget(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let waker = self.timeline.lock().wakers.remove(&ticket);
            drop(waker);
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `body` in a world of its own and returns what it returns.
    fn world<T>(body: impl AsyncFnOnce(Timeline) -> T) -> T {
        let timeline = Timeline::default();
        timeline.runtime().block_on(async {
            tokio::spawn(timeline.clone().drive());
            tokio::task::yield_now().await;
            body(timeline.clone()).await
        })
    }

    #[test]
    fn microseconds_pass_in_order_between_the_ticks_of_tokio() {
        world(async |time: Timeline| {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let tasks = [2_300, 900, 2_100, 40_000].map(|at| {
                let (time, seen) = (time.clone(), seen.clone());
                tokio::spawn(async move {
                    time.sleep_until(at).await;
                    seen.lock().expect("lock").push(time.now());
                })
            });
            tokio::time::sleep(Duration::from_millis(3)).await;
            seen.lock().expect("lock").push(time.now());
            for task in tasks {
                task.await.expect("ran");
            }
            assert_eq!(*seen.lock().expect("lock"), [900, 2_100, 2_300, 3_000, 40_000]);
        });
    }

    #[test]
    fn a_sleep_that_is_dropped_leaves_nothing_behind() {
        world(async |time: Timeline| {
            let lost = time.sleep(500);
            tokio::select! {
                biased;
                () = lost => panic!("it was longer"),
                () = time.sleep(200) => {}
            }
            assert_eq!(time.now(), 200);
            time.sleep(1_000).await;
            assert_eq!(time.now(), 1_200);
        });
    }

    #[test]
    #[should_panic(expected = "something spins at 200 µs")]
    fn whatever_looks_at_the_time_for_ever_is_stopped() {
        world(async |time: Timeline| {
            time.sleep(200).await;
            loop {
                time.now();
            }
        });
    }

    #[test]
    fn an_hour_takes_no_time() {
        world(async |time: Timeline| {
            time.sleep(3_600_000_000).await;
            assert_eq!(time.now(), 3_600_000_000);
        });
    }
}
