//! Simulated links: `net::link::Link` between two nodes, with everything that a network may do.
//!
//! ```text
//!   SimLink (one process' end) ──send, poll──► Cable   the network between the two, for ever
//!                                                │  ties    sessions: what is under way, each lane
//!                                                │  steps   what happens when
//!                                                └► Trouble cut, flapping, slow, reset …
//! ```
//! A lane is a queue that only its head leaves, so nothing on it is ever reordered; lanes have
//! delays of their own, so control overtakes bulk and now and then the reverse. A cut holds back
//! what arrives (QUIC sends it again) and lets go of it afterwards; whoever hears nothing for the
//! idle time goes down, each side by itself. A dead process says nothing: its peer finds out by the
//! idle time, or from the next process, which replaces it. Both ends of a session come up and go
//! down at different times.
//!
//! Delays and faults come from the seed, time from the [`Timeline`]. A paused process is a
//! partition of its cable for as long as the world does not poll it.
//!
//! Deliberately absent: packets, congestion, certificates: a peer is who its hello says.

mod tie;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use celeriant_net::link::{Event, Lane, Link, Sent, SessionId, Target};
use celeriant_schema::peer::Hello;

use self::tie::State;
use crate::fault::Reached;
use crate::rng::Rng;
use crate::timeline::{Micros, Timeline};
use crate::trace::Trace;

/// One of the two ends of a cable.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum End {
    /// The first node's.
    A,
    /// The second node's.
    B,
}

impl End {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The one on the other side.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// What can be wrong with a cable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trouble {
    /// Nothing arrives at one end.
    Cut {
        /// Which end.
        to: End,
        /// For how long.
        lasts: Micros,
    },
    /// Nothing arrives at either end.
    Partition {
        /// For how long.
        lasts: Micros,
    },
    /// Partitioned and healed in turn.
    Flap {
        /// How long each turn takes.
        period: Micros,
        /// For how long in all.
        lasts: Micros,
    },
    /// Everything takes this much longer.
    Slow {
        /// How much.
        extra: Micros,
        /// For how long.
        lasts: Micros,
    },
    /// Delays differ widely from message to message: lanes overtake each other.
    Uneven {
        /// For how long.
        lasts: Micros,
    },
    /// Bulk is let through only so fast.
    Narrow {
        /// How fast.
        bytes_per_ms: u64,
        /// For how long.
        lasts: Micros,
    },
    /// The session is lost at both ends, with what is under way.
    Reset,
    /// Another session comes about although one stands.
    Duplicate,
}

impl Trouble {
    /// Any of them, with amounts from `rng`.
    pub fn any(rng: &mut Rng) -> Self {
        let lasts = if rng.chance(300) { rng.between(1, 20_000_000) } else { rng.below(400_000) };
        match rng.below(8) {
            0 => Self::Cut { to: *rng.pick(&End::BOTH), lasts },
            1 => Self::Partition { lasts },
            2 => Self::Flap { period: rng.between(1_000, 2_000_000), lasts: lasts * 3 },
            3 => Self::Slow { extra: rng.between(1_000, 400_000), lasts },
            4 => Self::Uneven { lasts },
            5 => Self::Narrow { bytes_per_ms: rng.between(1, 20_000), lasts },
            6 => Self::Reset,
            _ => Self::Duplicate,
        }
    }
}

/// How the links of a cable behave when nothing is wrong. Times in µs.
#[derive(Clone, Copy, Debug)]
pub struct Behaviour {
    /// A message's way, at least and at most.
    pub delay: (Micros, Micros),
    /// An end that has heard nothing for so long goes down.
    pub idle: Micros,
    /// Shortest and longest pause between attempts.
    pub pause: (Micros, Micros),
    /// Bytes that a lane takes and that the peer has not; by lane.
    pub buffers: [usize; 2],
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            delay: (50, 400),
            idle: 3_000_000,
            pause: (50_000, 1_000_000),
            buffers: [1 << 20, 4 << 20],
        }
    }
}

/// The network between two nodes. Cheap to clone: all clones are one cable.
#[derive(Clone)]
pub struct Cable {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    timeline: Timeline,
    this: Weak<Shared>,
}

impl Cable {
    /// A cable with nobody at its ends.
    pub fn new(
        behaviour: Behaviour,
        rng: Rng,
        timeline: Timeline,
        trace: Trace,
        reached: Reached,
    ) -> Self {
        let state = Mutex::new(State::new(behaviour, rng, trace, reached));
        let shared = Arc::new_cyclic(|this| Shared { state, timeline, this: this.clone() });
        Self { shared }
    }

    /// An end for a new process that says `hello`. Links given out for that end before are dead.
    pub fn attach(&self, end: End, hello: Hello) -> SimLink {
        let generation = self.shared.change(|state, now| state.attach(end, hello, now));
        SimLink { shared: Arc::clone(&self.shared), end, generation }
    }

    /// The process at `end` is gone, without a word.
    pub fn crash(&self, end: End) {
        self.shared.change(|state, now| state.crash(end, now));
    }

    /// Something goes wrong.
    pub fn trouble(&self, trouble: Trouble) {
        self.shared.change(|state, now| state.trouble(trouble, now));
    }

    /// Nothing is wrong from here on.
    pub fn heal(&self) {
        self.shared.change(State::heal);
    }

    /// Whether the process at `end` has a session.
    pub fn is_up(&self, end: End) -> bool {
        self.shared.lock().is_up(end)
    }
}

/// One process' end of a [`Cable`].
pub struct SimLink {
    shared: Arc<Shared>,
    end: End,
    generation: u64,
}

impl Link for SimLink {
    fn aim(&mut self, target: Target) {
        let (end, generation) = (self.end, self.generation);
        self.shared.change(|state, now| {
            if state.is_of(end, generation) {
                state.aim(end, target, now);
            }
        });
    }

    fn send(&mut self, session: SessionId, lane: Lane, message: Bytes) -> Sent {
        let bytes_max = lane.message_bytes_max();
        assert!(message.len() <= bytes_max, "{} bytes on {lane:?}", message.len());
        let (end, generation) = (self.end, self.generation);
        self.shared.change(|state, now| match state.is_of(end, generation) {
            true => state.send(end, session, lane, message, now),
            false => Sent::Gone,
        })
    }

    fn drop_session(&mut self, session: SessionId) {
        let (end, generation) = (self.end, self.generation);
        self.shared.change(|state, now| {
            if state.is_of(end, generation) {
                state.drop_session(end, session, now);
            }
        });
    }

    fn close(&mut self) {
        let (end, generation) = (self.end, self.generation);
        self.shared.change(|state, now| {
            if state.is_of(end, generation) {
                state.close(end, now);
            }
        });
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let (end, generation) = (self.end, self.generation);
        self.shared.change(|state, now| {
            if !state.is_of(end, generation) {
                return Poll::Pending;
            }
            match state.take_event(end, now) {
                Some(event) => Poll::Ready(event),
                None => {
                    state.wait(end, cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    }
}

impl Shared {
    /// Changes the state, then sees to it that what it planned happens and that owners look.
    fn change<T>(&self, change: impl FnOnce(&mut State, Micros) -> T) -> T {
        let now = self.timeline.now();
        let mut state = self.lock();
        let result = change(&mut state, now);
        let planned = state.take_planned();
        let wakers = state.take_wakers();
        drop(state);
        if let Some(this) = self.this.upgrade() {
            for at in planned {
                self.timeline.wake_at(at, Waker::from(Arc::clone(&this)));
            }
        }
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time of some step has come.
impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.change(|state, now| {
            while let Some(step) = state.next_step(now) {
                state.carry_out(step, now);
            }
        });
    }
}

#[cfg(test)]
mod link_test;
