//! Visits every state of a model, the near ones first, so that the first trace found is a shortest.
//!
//! ```text
//! level n: chunks of states ──► threads: every step of every state ──► seen? ──► level n+1
//!                                                │ broken invariant
//!                                                └─► walk the parents back, replay, print
//! ```
//! Levels are finished one after the other: the number of states and the length of a counterexample
//! don't depend on how many threads looked. Memory is fixed by [`Limits`]; a search that would need
//! more stops and says so.
//!
//! stateright (0.31) was looked at and not taken: each waiting state of its breadth-first checker
//! carries its whole path, its set of states doubles when it is full, its threads don't finish
//! levels together, so that a trace need not be a shortest, and it brings a web server along. What
//! is needed of it are the 200 lines below.
//!
//! Deliberately absent: liveness (a model may declare states in which nothing can happen broken).

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::seen::{Inserted, Print, Seen, Slot};
use crate::stopwatch::Stopwatch;

/// A protocol as states and steps.
pub trait Model: Sync {
    /// Everything there is at one moment.
    type State: Copy + Debug + Hash + Send;

    /// Where it starts.
    fn initial(&self) -> Self::State;

    /// Adds every step that may be the next one.
    fn steps(&self, state: &Self::State, steps: &mut Steps<Self::State>);

    /// The invariant that doesn't hold in `state`, if one doesn't.
    fn broken(&self, state: &Self::State) -> Option<Broken>;

    /// What is wrong when no step but faults is possible in `state`.
    fn stuck(&self, _state: &Self::State) -> Option<Broken> {
        None
    }

    /// Fingerprint of the state, or of the one of those it is symmetric to that stands for all.
    fn print(&self, state: &Self::State) -> Print {
        Print::of(state)
    }
}

/// An invariant that does not hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Broken {
    /// Its number in replication.md §7.
    pub invariant: &'static str,
    /// What was seen.
    pub what: &'static str,
}

/// Steps out of one state.
pub struct Steps<S> {
    next: Vec<S>,
    /// Texts are made only when a trace is printed.
    labels: Option<Vec<String>>,
    progress: bool,
}

impl<S> Steps<S> {
    fn unlabelled() -> Self {
        Self { next: Vec::new(), labels: None, progress: false }
    }

    /// Changes every state that was added.
    pub fn for_each(&mut self, change: impl FnMut(&mut S)) {
        self.next.iter_mut().for_each(change);
    }

    /// A step of the protocol that leads to `state`.
    pub fn add(&mut self, state: S, label: impl FnOnce() -> String) {
        self.progress = true;
        self.add_fault(state, label);
    }

    /// A step that the protocol does not count on: a crash, a wrong suspicion.
    pub fn add_fault(&mut self, state: S, label: impl FnOnce() -> String) {
        self.next.push(state);
        if let Some(labels) = &mut self.labels {
            labels.push(label());
        }
    }
}

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// States that the table has room for; 15 bytes each.
    pub states_max: usize,
    /// States that may wait in two neighbouring levels together.
    pub waiting_bytes_max: usize,
    /// Steps from the start.
    pub depth_max: u32,
    /// Threads that search.
    pub threads: usize,
}

/// How a search ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// Every reachable state was seen.
    Complete,
    /// Every state within `depth_max` steps was seen.
    Depth,
    /// A limit of memory was met.
    Memory,
    /// An invariant does not hold.
    Broken,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Steps tried.
    pub transitions: u64,
    /// Longest of the shortest ways to a state.
    pub depth: u32,
    /// Most bytes that table and waiting states took.
    pub bytes: usize,
    /// Real time.
    pub took: Duration,
    /// How it ended.
    pub end: End,
    /// The way to a broken invariant.
    pub counterexample: Option<Counterexample>,
}

/// A shortest way to a state in which an invariant does not hold.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// Which.
    pub broken: Broken,
    /// Step by step.
    pub steps: Vec<String>,
    /// The state at the end.
    pub state: String,
}

/// States that one thread takes at a time.
const CHUNK_STATES: usize = 1_024;
/// Room in a chunk: steps out of its last state included, so that it never doubles.
const CHUNK_ROOM: usize = CHUNK_STATES + 128;

type Chunk<S> = Vec<(Slot, S)>;

/// What the threads of one search share.
struct Search<'a, M: Model> {
    model: &'a M,
    limits: Limits,
    seen: Seen,
    transitions: AtomicU64,
    waiting: AtomicUsize,
    full: AtomicBool,
    found: Mutex<Option<(Broken, Slot)>>,
}

/// Visits the states of `model` until all are seen, an invariant is broken or a limit is met.
pub fn explore<M: Model>(model: &M, limits: Limits) -> Report {
    let watch = Stopwatch::start();
    let search = Search {
        model,
        limits,
        seen: Seen::with_room_for(limits.states_max),
        transitions: AtomicU64::new(0),
        waiting: AtomicUsize::new(0),
        full: AtomicBool::new(false),
        found: Mutex::new(None),
    };
    let (depth, waiting_max, end) = search.run();
    let counterexample = search.counterexample();
    Report {
        states: search.seen.states(),
        transitions: search.transitions.load(Ordering::Relaxed),
        depth: counterexample.as_ref().map_or(depth, |found| found.steps.len() as u32),
        bytes: search.seen.bytes() + waiting_max * size_of::<(Slot, M::State)>(),
        took: watch.elapsed(),
        end,
        counterexample,
    }
}

impl<M: Model> Search<'_, M> {
    fn run(&self) -> (u32, usize, End) {
        let first = self.model.initial();
        let Inserted::New(slot) = self.seen.insert_first(self.model.print(&first)) else {
            return (0, 0, End::Memory);
        };
        let (mut depth, mut waiting_max) = (0, 1);
        let mut level = vec![vec![(slot, first)]];
        self.waiting.store(1, Ordering::Relaxed);
        if let Some(broken) = self.model.broken(&first) {
            self.find(broken, slot);
        }
        while !level.is_empty() {
            if depth >= self.limits.depth_max {
                return (depth, waiting_max, End::Depth);
            }
            level = self.finish(level);
            waiting_max = waiting_max.max(self.waiting.load(Ordering::Relaxed));
            let found = self.found.lock().is_ok_and(|found| found.is_some());
            if found || self.full.load(Ordering::Relaxed) {
                return (depth + 1, waiting_max, if found { End::Broken } else { End::Memory });
            }
            depth += u32::from(!level.is_empty());
        }
        (depth, waiting_max, End::Complete)
    }

    /// Takes every step out of a level and gives the next one.
    fn finish(&self, level: Vec<Chunk<M::State>>) -> Vec<Chunk<M::State>> {
        let threads = self.limits.threads.clamp(1, level.len().max(1));
        let todo = Mutex::new(level);
        let next = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| self.work(&todo, &next));
            }
            self.work(&todo, &next);
        });
        next.into_inner().unwrap_or_default()
    }

    fn work(&self, todo: &Mutex<Vec<Chunk<M::State>>>, next: &Mutex<Vec<Chunk<M::State>>>) {
        let take = || todo.lock().ok().and_then(|mut chunks| chunks.pop());
        let give = |chunk| next.lock().map(|mut chunks| chunks.push(chunk)).unwrap_or_default();
        let mut steps = Steps::unlabelled();
        let mut fresh = Chunk::with_capacity(CHUNK_ROOM);
        while let Some(chunk) = take() {
            let taken = chunk.len();
            for (slot, state) in chunk {
                self.expand(slot, &state, &mut steps, &mut fresh);
                if fresh.len() >= CHUNK_STATES {
                    self.wait(fresh.len());
                    give(std::mem::replace(&mut fresh, Chunk::with_capacity(CHUNK_ROOM)));
                }
            }
            self.waiting.fetch_sub(taken, Ordering::Relaxed);
            let done = self.found.lock().is_ok_and(|found| found.is_some());
            if done || self.full.load(Ordering::Relaxed) {
                return;
            }
        }
        if !fresh.is_empty() {
            self.wait(fresh.len());
            give(fresh);
        }
    }

    fn expand(
        &self,
        slot: Slot,
        state: &M::State,
        steps: &mut Steps<M::State>,
        fresh: &mut Chunk<M::State>,
    ) {
        steps.progress = false;
        self.model.steps(state, steps);
        self.transitions.fetch_add(steps.next.len() as u64, Ordering::Relaxed);
        if !steps.progress
            && let Some(broken) = self.model.stuck(state)
        {
            self.find(broken, slot);
        }
        for next in steps.next.drain(..) {
            match self.seen.insert(self.model.print(&next), slot) {
                Inserted::Known => {}
                Inserted::Full => self.full.store(true, Ordering::Relaxed),
                Inserted::New(slot) => {
                    if let Some(broken) = self.model.broken(&next) {
                        self.find(broken, slot);
                    }
                    fresh.push((slot, next));
                }
            }
        }
    }

    fn wait(&self, states: usize) {
        let waiting = self.waiting.fetch_add(states, Ordering::Relaxed) + states;
        if waiting * size_of::<(Slot, M::State)>() > self.limits.waiting_bytes_max {
            self.full.store(true, Ordering::Relaxed);
        }
    }

    fn find(&self, broken: Broken, slot: Slot) {
        if let Ok(mut found) = self.found.lock() {
            found.get_or_insert((broken, slot));
        }
    }

    /// Replays the way to what was found, this time with texts.
    fn counterexample(&self) -> Option<Counterexample> {
        let (broken, slot) = self.found.lock().ok().and_then(|found| *found)?;
        let mut state = self.model.initial();
        let mut taken = Vec::new();
        for print in self.seen.path(slot).into_iter().skip(1) {
            let mut steps = Steps { next: Vec::new(), labels: Some(Vec::new()), progress: false };
            self.model.steps(&state, &mut steps);
            let at = steps.next.iter().position(|next| self.model.print(next) == print)?;
            state = steps.next[at];
            taken.extend(steps.labels.map(|mut labels| labels.swap_remove(at)));
        }
        Some(Counterexample { broken, steps: taken, state: format!("{state:#?}") })
    }
}
