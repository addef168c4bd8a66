//! Simulated disks: `storage::disk::Disk` in memory, with everything that a device may do to its
//! user.
//!
//! ```text
//!   SimDisk   one process' handle ──start, poll_complete──►  Media   a shard's directory, for ever
//!                                                          │  durable   what completed
//!                                                          │  flights   what has not
//!                                                          └► Power     counter and switch
//! ```
//! A completed operation is durable; one in flight at a crash is dropped, kept or torn, each for
//! itself, and so is a file that was made or extended and not synced. Content outlives the process:
//! a new `SimDisk` of the same `Media` finds what survived, and the handle of the process that
//! crashed is dead. Latencies and faults come from the seed.
//! With a [`Timeline`] operations end when their time comes; without one they end, in that same
//! order, when asked for.
//!
//! Deliberately absent: a page cache beyond that. The contract of the seam has none.

mod faults;
mod files;
mod flight;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use celeriant_storage::disk::{Completion, Disk, Op, Token};

pub use self::faults::{Ailment, Ailments, Latency};
pub use self::files::{Files, SECTOR};
pub use self::flight::{Fate, Flight, Outcome};
use crate::rng::Rng;
use crate::timeline::{Micros, Timeline};
use crate::trace::Trace;

/// The machine that a node's disks are in: counts their operations together and can lose power at
/// an exact one.
#[derive(Debug, Default)]
pub struct Power {
    operations: AtomicU64,
    /// Power goes when this operation has been handed to its disk; 0 = never.
    trip_at: AtomicU64,
    off: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

impl Power {
    /// Operations started since the machine was made.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// Loses power as soon as operation number `operation` (from 1) has been started.
    pub fn trip_at(&self, operation: u64) {
        self.trip_at.store(operation, Ordering::Relaxed);
    }

    /// Whether it is to lose power at some operation.
    pub fn is_tripped(&self) -> bool {
        self.trip_at.load(Ordering::Relaxed) > self.operations()
    }

    /// Power is gone: nothing starts, nothing completes.
    pub fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed)
    }

    /// Loses power now.
    pub fn cut(&self) {
        self.off.store(true, Ordering::Relaxed);
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    /// Has power again.
    pub fn restore(&self) {
        self.trip_at.store(0, Ordering::Relaxed);
        self.off.store(false, Ordering::Relaxed);
    }

    /// Ready once power is gone.
    pub fn poll_off(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_off() {
            return Poll::Ready(());
        }
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Counts one operation and says whether power goes with it.
    pub(crate) fn count(&self) -> bool {
        let operation = self.operations.fetch_add(1, Ordering::Relaxed) + 1;
        operation == self.trip_at.load(Ordering::Relaxed)
    }
}

/// Told of everything that has become durable, at that very moment.
pub type Observer = Arc<dyn Fn(&str, u64, &[u8]) + Send + Sync>;

/// One directory of a simulated machine. Cheap to clone: all clones are the same directory.
#[derive(Clone)]
pub struct Media {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    power: Arc<Power>,
    timeline: Option<Timeline>,
    trace: Trace,
    id: u64,
    this: Weak<Shared>,
}

struct State {
    durable: Files,
    flights: BTreeMap<Turn, Flight>,
    ready: VecDeque<Completion>,
    waker: Option<Waker>,
    /// Which process the directory belongs to; handles of earlier ones are dead.
    generation: u64,
    next: u64,
    now: Micros,
    rng: Rng,
    ailments: Ailments,
    observer: Option<Observer>,
    in_flight_max: usize,
    /// Segments whose file gave way to a packed one.
    packed: u64,
}

/// When an operation ends; at one time, the one that started first.
type Turn = (Micros, u64);

impl Media {
    /// An empty directory. `id` tells it from the machine's others in the trace.
    pub fn new(
        id: u64,
        rng: Rng,
        power: Arc<Power>,
        timeline: Option<Timeline>,
        trace: Trace,
    ) -> Self {
        Self::of_files(id, rng, power, timeline, trace, Files::default())
    }

    /// A directory with content.
    pub fn of_files(
        id: u64,
        rng: Rng,
        power: Arc<Power>,
        timeline: Option<Timeline>,
        trace: Trace,
        durable: Files,
    ) -> Self {
        let state = State {
            durable,
            flights: BTreeMap::new(),
            ready: VecDeque::new(),
            waker: None,
            generation: 0,
            next: 0,
            now: 0,
            rng,
            ailments: Ailments::default(),
            observer: None,
            in_flight_max: 0,
            packed: 0,
        };
        let shared = Arc::new_cyclic(|this| Shared {
            state: Mutex::new(state),
            power,
            timeline,
            trace,
            id,
            this: this.clone(),
        });
        Self { shared }
    }

    /// A directory for a test: no world, power of its own, operations end when asked for.
    pub fn alone(seed: u64, files: Files) -> Self {
        Self::of_files(0, Rng::new(seed), Arc::default(), None, Trace::default(), files)
    }

    /// A handle for a new process. Handles given out before are dead from here on.
    pub fn attach(&self) -> SimDisk {
        let mut state = self.shared.lock();
        state.generation += 1;
        state.ready.clear();
        state.end_late_writes();
        state.durable.close_all();
        SimDisk { shared: Arc::clone(&self.shared), generation: state.generation }
    }

    /// The process is gone: what it had in flight ends as `fate` says, in the order of starting.
    pub fn crash(&self, fate: &mut dyn FnMut(&Flight) -> Fate) {
        let mut state = self.shared.lock();
        state.generation += 1;
        state.ready.clear();
        state.waker = None;
        let mut flights: Vec<Flight> = std::mem::take(&mut state.flights).into_values().collect();
        flights.sort_by_key(|flight| flight.number);
        for flight in flights {
            let fate = fate(&flight);
            let words = [self.shared.id, flight.number, fate.code()];
            self.shared.trace.note(&words, format_args!("{} {fate:?} {}", self.shared.id, flight));
            if flight.changes() {
                flight::apply(&mut state.durable, &flight.op, &fate);
            }
        }
        for (name, flight) in state.unsynced(&state.durable) {
            let fate = fate(&flight);
            let words = [self.shared.id, flight.number, fate.code()];
            self.shared.trace.note(&words, format_args!("{} {fate:?} {}", self.shared.id, flight));
            state.durable.lose_unsynced(&name, &fate);
        }
        state.durable.close_all();
    }

    /// What a crash would leave; everything stays as it is.
    pub fn image_after(&self, fate: &mut dyn FnMut(&Flight) -> Fate) -> Files {
        let state = self.shared.lock();
        let mut durable = state.durable.clone();
        let mut flights: Vec<&Flight> = state.flights.values().collect();
        flights.sort_by_key(|flight| flight.number);
        for flight in flights {
            let fate = fate(flight);
            if flight.changes() {
                flight::apply(&mut durable, &flight.op, &fate);
            }
        }
        for (name, flight) in state.unsynced(&durable) {
            durable.lose_unsynced(&name, &fate(&flight));
        }
        durable.close_all();
        durable
    }

    /// What is durable now.
    pub fn image(&self) -> Files {
        self.shared.lock().durable.clone()
    }

    /// Operations in flight, in the order of starting, and files that were not synced, as text.
    pub fn in_flight(&self) -> Vec<String> {
        let state = self.shared.lock();
        let mut flights: Vec<&Flight> = state.flights.values().collect();
        flights.sort_by_key(|flight| flight.number);
        let unsynced = state.unsynced(&state.durable);
        let unsynced = unsynced.iter().map(|(_, flight)| flight);
        flights.into_iter().chain(unsynced).map(|flight| flight.to_string()).collect()
    }

    /// Most operations that were in flight at a time.
    pub fn in_flight_max(&self) -> usize {
        self.shared.lock().in_flight_max
    }

    /// Segments that were packed in all the time.
    pub fn packed(&self) -> u64 {
        self.shared.lock().packed
    }

    /// Changes what is wrong with the device.
    pub fn ail(&self, change: impl FnOnce(&mut Ailments)) {
        change(&mut self.shared.lock().ailments);
    }

    /// Takes a file away, as an operator's mistake does. `false` when there is none.
    pub fn lose(&self, name: &str) -> bool {
        self.shared.lock().durable.remove(name)
    }

    /// Whether some operation is to fail.
    pub fn is_ailing(&self) -> bool {
        !self.shared.lock().ailments.pending.is_empty()
    }

    /// Changes bytes without a word. `false` where there are none.
    pub fn overwrite(&self, name: &str, offset: u64, bytes: &[u8]) -> bool {
        self.shared.lock().durable.overwrite(name, offset, bytes)
    }

    /// Puts other content into a file without a word.
    pub fn rewrite(&self, name: &str, content: Vec<u8>) {
        self.shared.lock().durable.put(name, content);
    }

    /// Another disk, with other content, in the place of this one.
    pub fn replace(&self, files: Files) {
        self.shared.lock().durable = files;
    }

    /// Calls `observer` with name, offset and content of every write that becomes durable.
    pub fn observe(&self, observer: Observer) {
        self.shared.lock().observer = Some(observer);
    }

    /// The machine it is in.
    pub fn power(&self) -> &Arc<Power> {
        &self.shared.power
    }
}

/// One process' way to a [`Media`].
pub struct SimDisk {
    shared: Arc<Shared>,
    generation: u64,
}

impl Disk for SimDisk {
    fn start(&mut self, token: Token, op: Op) {
        self.shared.start(self.generation, token, op);
    }

    fn poll_complete(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        self.shared.poll_complete(self.generation, cx)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, generation: u64, token: Token, op: Op) {
        let mut state = self.lock();
        if generation != state.generation || self.power.is_off() {
            return;
        }
        let number = state.next;
        state.next += 1;
        let now = self.timeline.as_ref().map_or(state.now, Timeline::now);
        let outcome = state.decide(&op);
        let at = state.ends_at(now, &op, &outcome);
        let (op, outcome) = state.perhaps_lie(at, number, op, outcome);
        let flight = Flight { number, token, op, outcome };
        flight.assert_legal(&state);
        let words = [self.id, number, flight.digest(), at];
        self.trace.note(&words, format_args!("{now} disk {} starts {flight}, ends {at}", self.id));
        state.flights.insert((at, number), flight);
        state.in_flight_max = state.in_flight_max.max(state.flights.len());
        drop(state);
        if self.power.count() {
            self.power.cut();
        } else if let (Some(timeline), Some(this)) = (&self.timeline, self.this.upgrade()) {
            timeline.wake_at(at, Waker::from(this));
        }
    }

    fn poll_complete(&self, generation: u64, cx: &mut Context<'_>) -> Poll<Completion> {
        let mut state = self.lock();
        if generation != state.generation || self.power.is_off() {
            return Poll::Pending;
        }
        if self.timeline.is_none() && state.ready.is_empty() {
            let first = state.flights.keys().next().copied();
            if let Some((at, _)) = first {
                state.now = state.now.max(at);
                self.finish(&mut state, at);
            }
        }
        match state.ready.pop_front() {
            Some(completion) => Poll::Ready(completion),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Ends every operation whose time has come.
    fn finish(&self, state: &mut State, now: Micros) {
        while let Some(entry) = state.flights.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let flight = entry.remove();
            let words = [self.id, flight.number, now];
            self.trace.note(&words, format_args!("{now} disk {} ends {flight}", self.id));
            if let Some(completion) = state.complete(flight) {
                state.ready.push_back(completion);
            }
        }
    }
}

/// The time of some operation has come.
impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        let mut state = self.lock();
        if self.power.is_off() {
            return;
        }
        let now = self.timeline.as_ref().map_or(state.now, Timeline::now);
        self.finish(&mut state, now);
        let waker = if state.ready.is_empty() { None } else { state.waker.take() };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod disk_test;
