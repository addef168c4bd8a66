//! The simulated bucket: `storage::bucket::Bucket` in memory, with everything that an object store
//! and the way to it may do to its users.
//!
//! ```text
//!   SimBucket   one process' handle ─┐
//!   SimBucket   of the other node  ──┴─ start, poll_complete ─►  Cloud   one bucket, for ever
//!                                          arrives: the effect │ objects   atomic, linearizable
//!                                          answers: the outcome│ steps     by time, then number
//! ```
//! Each operation takes effect at one moment, when it arrives; its answer travels on its own and
//! may be lost, come late or be wrong in the ways that [`Ailment`] names. A request outlives the
//! process that sent it: after a crash it may still arrive. Latencies and faults come from the
//! seed, and each fault is counted when it really made a difference. With a [`Timeline`] steps
//! happen when their time comes; without one, in that same order, when somebody waits.
//!
//! Deliberately absent: HTTP. The embedded bucket of `storage` has the same faults on the wire.

mod faults;
mod flight;
mod objects;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use celeriant_storage::bucket::{Bucket, BucketError, Cause, Completion, InFlight, Request, Token};

pub use self::faults::{Ailment, Ailments, NodeId, Outage};
pub use self::flight::Change;
use self::flight::{Flight, Step, code};
pub use self::objects::{Objects, etag_of};
use crate::fault::Reached;
use crate::rng::Rng;
use crate::timeline::{Micros, Timeline};
use crate::trace::Trace;

/// Operations in flight on each lane of a handle, as in production.
const IN_FLIGHT_MAX: usize = 8;

/// Told of every change of an object, at that very moment.
pub type Observer = Arc<dyn Fn(&Change<'_>) + Send + Sync>;

/// A bucket. Cheap to clone: all clones are the same.
#[derive(Clone)]
pub struct Cloud {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    timeline: Option<Timeline>,
    trace: Trace,
    reached: Reached,
    this: Weak<Shared>,
}

struct State {
    objects: Objects,
    flights: BTreeMap<u64, Flight>,
    steps: BTreeMap<(Micros, u64), (u64, Step)>,
    /// Handles that are alive.
    clients: BTreeMap<Handle, Client>,
    /// Numbers handles.
    attached: u64,
    /// Numbers flights.
    started: u64,
    /// Numbers steps.
    scheduled: u64,
    now: Micros,
    rng: Rng,
    ailments: Ailments,
    observer: Option<Observer>,
}

/// What a handle waits for.
struct Client {
    in_flight: InFlight,
    ready: VecDeque<Completion>,
    waker: Option<Waker>,
}

impl Client {
    fn new() -> Self {
        let (in_flight, ready) = (InFlight::new(IN_FLIGHT_MAX), VecDeque::new());
        Self { in_flight, ready, waker: None }
    }
}

impl Cloud {
    /// An empty bucket. Faults that make a difference are counted in `reached`.
    pub fn new(rng: Rng, timeline: Option<Timeline>, trace: Trace, reached: Reached) -> Self {
        let state = State {
            objects: Objects::default(),
            flights: BTreeMap::new(),
            steps: BTreeMap::new(),
            clients: BTreeMap::new(),
            attached: 0,
            started: 0,
            scheduled: 0,
            now: 0,
            rng,
            ailments: Ailments::default(),
            observer: None,
        };
        let shared = Arc::new_cyclic(|this| Shared {
            state: Mutex::new(state),
            timeline,
            trace,
            reached,
            this: this.clone(),
        });
        Self { shared }
    }

    /// A bucket for a test: no world; steps happen when somebody waits.
    pub fn alone(seed: u64) -> Self {
        Self::new(Rng::new(seed), None, Trace::default(), Reached::default())
    }

    /// A handle for a new process of `node`. Handles given out before to that node are dead from
    /// here on; their requests still travel.
    pub fn attach(&self, node: NodeId) -> SimBucket {
        self.shared.lock().clients.retain(|(of, _), _| *of != node);
        self.handle(node)
    }

    /// Two handles for a new process of `node`, as [`Cloud::attach`].
    pub fn attach_two(&self, node: NodeId) -> (SimBucket, SimBucket) {
        (self.attach(node), self.handle(node))
    }

    fn handle(&self, node: NodeId) -> SimBucket {
        let mut state = self.shared.lock();
        let handle = (node, state.attached);
        state.attached += 1;
        state.clients.insert(handle, Client::new());
        SimBucket { shared: Arc::clone(&self.shared), handle }
    }

    /// The process of `node` is gone. Of its requests that have not arrived, each is lost or
    /// arrives all the same, by chance.
    pub fn crash(&self, node: NodeId) {
        let mut state = self.shared.lock();
        let State { clients, flights, rng, .. } = &mut *state;
        clients.retain(|(of, _), _| *of != node);
        for flight in
            flights.values_mut().filter(|flight| flight.handle.0 == node && flight.travels)
        {
            if rng.chance(500) {
                flight.travels = false;
            } else {
                self.shared.reached.note("bucket-outlived-its-sender");
            }
            let words = [flight.number, u64::from(flight.travels)];
            self.shared.trace.note(&words, format_args!("bucket {flight}: its sender crashed"));
        }
    }

    /// What is in the bucket now.
    pub fn image(&self) -> Objects {
        self.shared.lock().objects.clone()
    }

    /// An object's content now.
    pub fn body(&self, key: &str) -> Option<Bytes> {
        self.shared.lock().objects.body(key).cloned()
    }

    /// Changes what is wrong.
    pub fn ail(&self, change: impl FnOnce(&mut Ailments)) {
        change(&mut self.shared.lock().ailments);
    }

    /// Whether some operation is to meet with something.
    pub fn is_ailing(&self) -> bool {
        !self.shared.lock().ailments.pending.is_empty()
    }

    /// Takes an object away, as an operator's mistake does. `false` when there is none.
    pub fn lose(&self, key: &str) -> bool {
        self.meddle(key, "bucket-object-deleted", |objects| objects.lose(key))
    }

    /// Puts the version before the last `back` ones back. `false` when that changes nothing.
    pub fn restore(&self, key: &str, back: usize) -> bool {
        self.meddle(key, "bucket-version-restored", |objects| objects.restore(key, back))
    }

    /// Puts an object back to what it once was, as an operator does.
    pub fn put_back(&self, key: &str, body: Bytes) {
        self.meddle(key, "bucket-object-put-back", |objects| objects.put_back(key, body));
    }

    fn meddle(&self, key: &str, name: &str, act: impl FnOnce(&mut Objects) -> bool) -> bool {
        let mut state = self.shared.lock();
        let before = state.objects.body(key).cloned();
        let changed = act(&mut state.objects);
        if changed {
            self.shared.reached.note(name);
            let words = [crate::trace::digest(key.as_bytes())];
            self.shared.trace.note(&words, format_args!("{name} {key}"));
            if let Some(observer) = &state.observer {
                let after = state.objects.body(key).map(|body| &body[..]);
                observer(&Change { node: None, key, before: before.as_deref(), after });
            }
        }
        changed
    }

    /// Calls `observer` with every change of an object.
    pub fn observe(&self, observer: Observer) {
        self.shared.lock().observer = Some(observer);
    }

    /// How often each fault made a difference.
    pub fn reached(&self) -> &Reached {
        &self.shared.reached
    }

    /// Operations under way, as text: those that nobody waits for any more too.
    pub fn under_way(&self) -> Vec<String> {
        self.shared.lock().flights.values().map(ToString::to_string).collect()
    }
}

/// One process' way to a [`Cloud`].
pub struct SimBucket {
    shared: Arc<Shared>,
    handle: Handle,
}

impl Bucket for SimBucket {
    fn start(&mut self, token: Token, request: Request) {
        self.shared.start(self.handle, token, request);
    }

    fn poll_complete(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        self.shared.poll_complete(self.handle, cx)
    }
}

/// Whose handle, and which.
type Handle = (NodeId, u64);

impl State {
    fn schedule(&mut self, at: Micros, number: u64, step: Step) {
        self.steps.insert((at, self.scheduled), (number, step));
        self.scheduled += 1;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, handle: Handle, token: Token, request: Request) {
        let mut state = self.lock();
        let Some(client) = state.clients.get_mut(&handle) else { return };
        if !client.in_flight.enter(request.lane) {
            let outcome = Err(BucketError::unsent(&request.op, Cause::Busy));
            client.ready.push_back(Completion { token, outcome });
            let waker = client.waker.take();
            drop(state);
            return waker.into_iter().for_each(Waker::wake);
        }
        let number = state.started;
        state.started += 1;
        let now = self.timeline.as_ref().map_or(state.now, Timeline::now);
        let (node, _) = handle;
        let course = state.course(node, &request.op);
        let times = state.times(now, &request, course);
        let Request { op, lane, .. } = request;
        let flight = Flight {
            number,
            handle,
            token,
            lane,
            op,
            course,
            deadline: times.deadline,
            travels: true,
            open: true,
            answer: None,
        };
        let words = [number, u64::from(node), flight.digest(), times.arrives, times.answered];
        self.trace.note(&words, format_args!("{now} bucket starts {flight} {times:?}"));
        state.flights.insert(number, flight);
        for (at, step) in times.steps() {
            state.schedule(at, number, step);
        }
        drop(state);
        times.steps().iter().for_each(|(at, _)| self.wake_at(*at));
    }

    fn wake_at(&self, at: Micros) {
        if let (Some(timeline), Some(this)) = (&self.timeline, self.this.upgrade()) {
            timeline.wake_at(at, Waker::from(this));
        }
    }

    fn poll_complete(&self, handle: Handle, cx: &mut Context<'_>) -> Poll<Completion> {
        let mut state = self.lock();
        let mut wakers = Vec::new();
        loop {
            let Some(client) = state.clients.get_mut(&handle) else { return Poll::Pending };
            if let Some(completion) = client.ready.pop_front() {
                drop(state);
                wakers.into_iter().for_each(Waker::wake);
                return Poll::Ready(completion);
            }
            client.waker = Some(cx.waker().clone());
            let waits = celeriant_storage::bucket::Lane::ALL
                .iter()
                .any(|lane| client.in_flight.count(*lane) > 0);
            // Without a world time moves when somebody waits.
            let due = state.steps.keys().next().filter(|_| self.timeline.is_none() && waits);
            let Some((at, _)) = due.copied() else { break };
            state.now = state.now.max(at);
            wakers.extend(self.step(&mut state, at));
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Poll::Pending
    }

    /// Does everything whose time has come; returns whom to wake.
    fn step(&self, state: &mut State, now: Micros) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(entry) = state.steps.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let (number, step) = entry.remove();
            let Some(mut flight) = state.flights.remove(&number) else { continue };
            match step {
                Step::Arrives if flight.travels => self.arrive(state, now, &mut flight),
                Step::Arrives => {}
                Step::Answers => wakers.extend(self.answer(state, now, &mut flight)),
            }
            if flight.travels || flight.open {
                state.flights.insert(number, flight);
            }
        }
        wakers
    }

    fn arrive(&self, state: &mut State, now: Micros, flight: &mut Flight) {
        state.arrive(flight, &self.reached);
        let code = flight.answer.as_ref().map_or(0, code);
        let words = [flight.number, now, code];
        self.trace.note(&words, format_args!("{now} bucket has {flight}: {:?}", flight.answer));
    }

    fn answer(&self, state: &mut State, now: Micros, flight: &mut Flight) -> Option<Waker> {
        let Some(outcome) = state.ending(flight, now, &self.reached) else {
            state.schedule(flight.deadline, flight.number, Step::Answers);
            self.wake_at(flight.deadline);
            return None;
        };
        flight.open = false;
        let words = [flight.number, now, code(&outcome)];
        self.trace.note(&words, format_args!("{now} bucket answers {flight}: {outcome:?}"));
        let client = state.clients.get_mut(&flight.handle)?;
        client.in_flight.leave(flight.lane);
        client.ready.push_back(Completion { token: flight.token, outcome });
        client.waker.take()
    }
}

/// The time of some step has come.
impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        let mut state = self.lock();
        let now = self.timeline.as_ref().map_or(state.now, Timeline::now);
        let wakers = self.step(&mut state, now);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod bucket_test;
