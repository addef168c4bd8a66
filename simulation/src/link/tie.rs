//! What is going on in a cable: its ends, its sessions, and the steps that are planned.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

use bytes::Bytes;
use celeriant_net::link::{Event, Lane, Reason, Sent, SessionId, Target};
use celeriant_schema::peer::Hello;

use super::{Behaviour, End, Trouble};
use crate::fault::Reached;
use crate::rng::Rng;
use crate::timeline::Micros;
use crate::trace::{Trace, digest};

/// Something that happens at its time.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// An end tries to reach the other.
    Dial { end: End, generation: u64 },
    /// A session comes up at an end.
    Rise { tie: u64, end: End },
    /// A session ends at an end.
    Fall { tie: u64, end: End, reason: Reason },
    /// Something may have arrived.
    Look { tie: u64, to: End },
    /// An end that has heard nothing since that cut goes down.
    Idle { to: End, cut: u64 },
    /// A cut ends, unless it has been drawn out since.
    Mend { to: End, cut: u64 },
    /// The next turn of flapping.
    Flap { period: Micros, until: Micros },
}

/// One direction of one session: what is under way, in the order of sending.
#[derive(Debug, Default)]
struct Pipe {
    /// By lane.
    lanes: [VecDeque<Parcel>; 2],
    /// Bytes that the other side has taken, on their way back; with their lane.
    credits: VecDeque<(Micros, Lane, usize)>,
    /// When the bulk lane has let everything through.
    busy: Micros,
}

#[derive(Debug)]
struct Parcel {
    at: Micros,
    serial: u64,
    message: Bytes,
    held: bool,
}

/// How far a session has come at an end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Rising,
    Up(SessionId),
    Gone,
}

/// A session, from the first attempt until both ends have forgotten it.
#[derive(Debug)]
struct Tie {
    stages: [Stage; 2],
    /// By the end that receives.
    pipes: [Pipe; 2],
    /// By the end that sends, by lane: bytes that the other has not taken.
    unsent: [[usize; 2]; 2],
    refused: [[bool; 2]; 2],
}

/// Nothing arrives until then.
#[derive(Clone, Copy, Debug)]
struct Cut {
    number: u64,
    until: Micros,
}

#[derive(Debug, Default)]
struct Side {
    generation: u64,
    hello: Option<Hello>,
    target: Target,
    ready: VecDeque<Event>,
    waker: Option<Waker>,
    tie: Option<u64>,
    newest: SessionId,
    failures: u32,
    /// What stops everything to this end.
    cut: Option<Cut>,
}

pub(super) struct State {
    behaviour: Behaviour,
    rng: Rng,
    trace: Trace,
    reached: Reached,
    sides: [Side; 2],
    ties: BTreeMap<u64, Tie>,
    steps: BTreeMap<(Micros, u64), Step>,
    planned: Vec<Micros>,
    woken: [bool; 2],
    next: u64,
    slow: (Micros, Micros),
    uneven_until: Micros,
    narrow: (u64, Micros),
}

impl State {
    pub(super) fn new(behaviour: Behaviour, rng: Rng, trace: Trace, reached: Reached) -> Self {
        Self {
            behaviour,
            rng,
            trace,
            reached,
            sides: Default::default(),
            ties: BTreeMap::new(),
            steps: BTreeMap::new(),
            planned: Vec::new(),
            woken: [false; 2],
            next: 1,
            slow: (0, 0),
            uneven_until: 0,
            narrow: (0, 0),
        }
    }

    pub(super) fn attach(&mut self, end: End, hello: Hello, now: Micros) -> u64 {
        self.crash(end, now);
        let side = &mut self.sides[end.index()];
        side.hello = Some(hello);
        side.generation
    }

    pub(super) fn crash(&mut self, end: End, now: Micros) {
        let side = &mut self.sides[end.index()];
        side.generation += 1;
        side.hello = None;
        side.target = Target::default();
        side.ready.clear();
        side.waker = None;
        (side.newest, side.failures, side.tie) = (SessionId::NONE, 0, None);
        let at = now + self.behaviour.idle;
        let ids: Vec<u64> = self.ties.keys().copied().collect();
        for id in ids {
            let Some(tie) = self.ties.get_mut(&id) else { continue };
            if std::mem::replace(&mut tie.stages[end.index()], Stage::Gone) != Stage::Gone {
                // What it had sent may still arrive; then there is silence.
                self.plan(at, Step::Fall { tie: id, end: end.other(), reason: Reason::TimedOut });
            }
        }
        self.forget_ties();
    }

    pub(super) fn is_of(&self, end: End, generation: u64) -> bool {
        self.sides[end.index()].generation == generation
    }

    pub(super) fn is_up(&self, end: End) -> bool {
        self.sides[end.index()].tie.is_some()
    }

    pub(super) fn aim(&mut self, end: End, target: Target, now: Micros) {
        let store = self.sides[end.other().index()].hello.as_ref().map(|hello| hello.store);
        let side = &mut self.sides[end.index()];
        side.target = target;
        side.failures = 0;
        let unwanted = side.target.store.is_some() && side.target.store != store;
        if let Some(tie) = side.tie.filter(|_| unwanted) {
            self.fall(tie, end, Reason::Dropped, now);
            self.tell_closed(tie, end, now);
        }
        self.dial_in(end, 0, now);
    }

    pub(super) fn send(
        &mut self,
        end: End,
        session: SessionId,
        lane: Lane,
        message: Bytes,
        now: Micros,
    ) -> Sent {
        let delay = self.delay(now);
        let per_ms = if now < self.narrow.1 { self.narrow.0.max(1) } else { 1_000_000 };
        let Some(id) = self.sides[end.index()].tie else { return Sent::Gone };
        let serial = self.number();
        let Some(tie) = self.ties.get_mut(&id) else { return Sent::Gone };
        if tie.stages[end.index()] != Stage::Up(session) {
            return Sent::Gone;
        }
        let (unsent, limit) = (&mut tie.unsent[end.index()], self.behaviour.buffers);
        if unsent[lane.index()] >= limit[lane.index()] {
            tie.refused[end.index()][lane.index()] = true;
            self.reached.note("link buffer full");
            return Sent::Full;
        }
        unsent[lane.index()] += message.len();
        let pipe = &mut tie.pipes[end.other().index()];
        let start = match lane {
            Lane::Control => now,
            Lane::Bulk => {
                pipe.busy = pipe.busy.max(now) + message.len() as u64 * 1000 / per_ms;
                pipe.busy
            }
        };
        let at = start + delay;
        let words = [id, end as u64, lane.index() as u64, digest(&message), at];
        let text = format_args!("{now} link {end:?} sends {} on {lane:?}, {at}", message.len());
        self.trace.note(&words, text);
        pipe.lanes[lane.index()].push_back(Parcel { at, serial, message, held: false });
        self.plan(at, Step::Look { tie: id, to: end.other() });
        Sent::Taken
    }

    pub(super) fn drop_session(&mut self, end: End, session: SessionId, now: Micros) {
        let Some(id) = self.sides[end.index()].tie else { return };
        if self.ties.get(&id).is_some_and(|tie| tie.stages[end.index()] == Stage::Up(session)) {
            self.fall(id, end, Reason::Dropped, now);
            self.tell_closed(id, end, now);
        }
    }

    /// The process leaves in good order.
    pub(super) fn close(&mut self, end: End, now: Micros) {
        if let Some(id) = self.sides[end.index()].tie {
            self.fall(id, end, Reason::Dropped, now);
            self.tell_closed(id, end, now);
        }
        self.crash(end, now);
    }

    /// The next event of an end; what is taken makes room at the sender, later.
    pub(super) fn take_event(&mut self, end: End, now: Micros) -> Option<Event> {
        let event = self.sides[end.index()].ready.pop_front()?;
        if let Event::Received { session, lane, message } = &event
            && let Some(id) = self.sides[end.index()].tie
        {
            let at = now + self.delay(now);
            if let Some(tie) = self.ties.get_mut(&id)
                && tie.stages[end.index()] == Stage::Up(*session)
            {
                let credits = &mut tie.pipes[end.other().index()].credits;
                credits.push_back((at, *lane, message.len()));
                self.plan(at, Step::Look { tie: id, to: end.other() });
            }
        }
        Some(event)
    }

    pub(super) fn wait(&mut self, end: End, waker: Waker) {
        self.sides[end.index()].waker = Some(waker);
    }

    pub(super) fn trouble(&mut self, trouble: Trouble, now: Micros) {
        self.trace.note(&[now, 0x7b], format_args!("{now} link trouble {trouble:?}"));
        match trouble {
            Trouble::Cut { to, lasts } => {
                self.reached.note("link cut one way");
                self.cut(to, lasts, now);
            }
            Trouble::Partition { lasts } => {
                self.reached.note("link partitioned");
                End::BOTH.into_iter().for_each(|to| self.cut(to, lasts, now));
            }
            Trouble::Flap { period, lasts } => {
                self.carry_out(Step::Flap { period: period.max(1), until: now + lasts }, now);
            }
            Trouble::Slow { extra, lasts } => self.slow = (extra, now + lasts),
            Trouble::Uneven { lasts } => self.uneven_until = now + lasts,
            Trouble::Narrow { bytes_per_ms, lasts } => self.narrow = (bytes_per_ms, now + lasts),
            Trouble::Reset => self.reset(now),
            Trouble::Duplicate if End::BOTH.into_iter().all(|end| self.is_up(end)) => {
                self.reached.note("link duplicate session");
                self.tie(now);
            }
            Trouble::Duplicate => {}
        }
    }

    pub(super) fn heal(&mut self, now: Micros) {
        (self.slow, self.uneven_until, self.narrow) = ((0, 0), 0, (0, 0));
        self.steps.retain(|_, step| !matches!(step, Step::Flap { .. }));
        for to in End::BOTH {
            if let Some(cut) = &mut self.sides[to.index()].cut {
                cut.until = now;
                let cut = cut.number;
                self.carry_out(Step::Mend { to, cut }, now);
            }
        }
    }

    pub(super) fn take_planned(&mut self) -> Vec<Micros> {
        std::mem::take(&mut self.planned)
    }

    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        let woken = std::mem::take(&mut self.woken);
        let sides = self.sides.iter_mut().zip(woken).filter(|(_, woken)| *woken);
        sides.filter_map(|(side, _)| side.waker.take()).collect()
    }

    pub(super) fn next_step(&mut self, now: Micros) -> Option<Step> {
        let entry = self.steps.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    pub(super) fn carry_out(&mut self, step: Step, now: Micros) {
        match step {
            Step::Dial { end, generation } if self.is_of(end, generation) => self.dial(end, now),
            Step::Dial { .. } => {}
            Step::Rise { tie, end } => self.rise(tie, end, now),
            Step::Fall { tie, end, reason } => self.fall(tie, end, reason, now),
            Step::Look { tie, to } => self.look(tie, to, now),
            Step::Idle { to, cut } if self.is_cut_by(to, cut) => {
                if let Some(tie) = self.sides[to.index()].tie {
                    self.fall(tie, to, Reason::TimedOut, now);
                    self.tell_closed(tie, to, now);
                }
            }
            Step::Mend { to, cut } if self.is_over(to, cut, now) => {
                self.sides[to.index()].cut = None;
                let ids: Vec<u64> = self.ties.keys().copied().collect();
                for tie in ids {
                    // What was lost is sent again, not at once.
                    let at = now + self.rng.between(100, 200_000);
                    self.plan(at, Step::Look { tie, to });
                }
            }
            Step::Idle { .. } | Step::Mend { .. } => {}
            Step::Flap { period, until } if now < until => {
                self.reached.note("link flapped");
                End::BOTH.into_iter().for_each(|to| self.cut(to, period, now));
                self.plan(now + 2 * period, Step::Flap { period, until });
            }
            Step::Flap { .. } => {}
        }
    }

    fn cut(&mut self, to: End, lasts: Micros, now: Micros) {
        let until = now + lasts;
        let number = match &mut self.sides[to.index()].cut {
            // One that is under way goes on, and its silence with it.
            Some(cut) => {
                cut.until = cut.until.max(until);
                cut.number
            }
            None => {
                let number = self.number();
                self.sides[to.index()].cut = Some(Cut { number, until });
                self.plan(now + self.behaviour.idle, Step::Idle { to, cut: number });
                number
            }
        };
        self.plan(until, Step::Mend { to, cut: number });
    }

    fn is_cut_by(&self, to: End, number: u64) -> bool {
        self.sides[to.index()].cut.is_some_and(|cut| cut.number == number)
    }

    fn is_over(&self, to: End, number: u64, now: Micros) -> bool {
        self.is_cut_by(to, number) && self.sides[to.index()].cut.is_some_and(|cut| cut.until <= now)
    }

    fn reset(&mut self, now: Micros) {
        for end in End::BOTH {
            if let Some(tie) = self.sides[end.index()].tie {
                self.reached.note("link reset");
                let at = now + self.rng.below(5_000);
                self.plan(at, Step::Fall { tie, end, reason: Reason::Reset });
            }
        }
    }

    fn dial_in(&mut self, end: End, pause: Micros, now: Micros) {
        let side = &self.sides[end.index()];
        if !side.target.addresses.is_empty() {
            let generation = side.generation;
            self.plan(now + pause, Step::Dial { end, generation });
        }
    }

    fn dial(&mut self, end: End, now: Micros) {
        let rising = self.ties.values().any(|tie| tie.stages[end.index()] == Stage::Rising);
        if self.sides[end.index()].tie.is_some() || rising {
            return;
        }
        let hello = |end: End| self.sides[end.index()].hello.as_ref().map(|hello| hello.store);
        let (own, other) = (hello(end), hello(end.other()));
        let wanted = |end: End, store| {
            self.sides[end.index()].target.store.is_none_or(|wanted| Some(wanted) == store)
        };
        let reason = if self.sides.iter().any(|side| side.cut.is_some()) {
            Reason::TimedOut
        } else if let (Some(store), false) = (other, wanted(end, other)) {
            Reason::WrongStore(store)
        } else if other.is_none() {
            Reason::Unreachable("nobody is there".into())
        } else if !wanted(end.other(), own) {
            Reason::RefusedByPeer("another store is expected".into())
        } else {
            return self.tie(now);
        };
        self.reached.note("link attempt failed");
        let with = format!("{:?}, dialed", end.other());
        self.push(end, Event::Failed { with, reason });
        let pause = self.pause(end);
        self.dial_in(end, pause, now);
    }

    fn pause(&mut self, end: End) -> Micros {
        let (min, max) = self.behaviour.pause;
        let failures = &mut self.sides[end.index()].failures;
        let pause = (min << (*failures).min(16)).min(max);
        *failures += 1;
        self.rng.between(pause / 2, pause)
    }

    /// A new session is under way to both ends.
    fn tie(&mut self, now: Micros) {
        let id = self.number();
        let tie = Tie {
            stages: [Stage::Rising; 2],
            pipes: Default::default(),
            unsent: [[0; 2]; 2],
            refused: [[false; 2]; 2],
        };
        self.ties.insert(id, tie);
        let mut at = now + self.delay(now) + self.delay(now);
        let first = *self.rng.pick(&End::BOTH);
        for end in [first, first.other()] {
            self.plan(at, Step::Rise { tie: id, end });
            at += self.delay(now);
        }
    }

    fn rise(&mut self, id: u64, end: End, now: Micros) {
        let at = end.index();
        let Some(tie) = self.ties.get_mut(&id) else { return };
        if tie.stages[at] != Stage::Rising {
            return;
        }
        let peer = self.sides[end.other().index()].hello.clone();
        let present = self.sides[at].hello.is_some();
        let superseded = self.sides[at].tie.is_some_and(|current| current > id);
        let (Some(peer), true) = (peer, present && !superseded && self.sides[at].cut.is_none())
        else {
            // The handshake's last words are lost: the other end finds out by silence.
            self.reached.note("link half-open");
            tie.stages[at] = Stage::Gone;
            let step = Step::Fall { tie: id, end: end.other(), reason: Reason::TimedOut };
            self.plan(now + self.behaviour.idle, step);
            let pause = self.pause(end);
            return self.dial_in(end, pause, now);
        };
        if let Some(old) = self.sides[at].tie {
            self.fall(old, end, Reason::Replaced, now);
        }
        let side = &mut self.sides[at];
        side.newest = side.newest.next();
        side.tie = Some(id);
        let session = side.newest;
        if let Some(tie) = self.ties.get_mut(&id) {
            tie.stages[at] = Stage::Up(session);
        }
        self.reached.note("link up");
        self.trace.note(&[id, now, end as u64], format_args!("{now} link {end:?} up as {session}"));
        self.push(end, Event::Up { session, peer });
        self.look(id, end, now);
    }

    /// The other end of a session that was given up is told, if anything reaches it.
    fn tell_closed(&mut self, id: u64, end: End, now: Micros) {
        let other = end.other();
        let (delay, idle) = (self.delay(now), self.behaviour.idle);
        let (at, reason) = match self.sides[other.index()].cut {
            None => (now + delay, Reason::Closed),
            Some(_) => (now + idle, Reason::TimedOut),
        };
        self.plan(at, Step::Fall { tie: id, end: other, reason });
    }

    fn fall(&mut self, id: u64, end: End, reason: Reason, now: Micros) {
        let at = end.index();
        let Some(tie) = self.ties.get_mut(&id) else { return };
        let stage = std::mem::replace(&mut tie.stages[at], Stage::Gone);
        let lost: usize = tie.pipes[at].lanes.iter().map(VecDeque::len).sum();
        tie.pipes[at] = Pipe::default();
        if let Stage::Up(session) = stage {
            self.reached.add("link messages lost with their session", lost as u64);
            self.reached.note(format!("link down: {}", name_of(&reason)));
            let text = format_args!("{now} link {end:?} {session} down: {reason}, lost {lost}");
            self.trace.note(&[id, now, at as u64, lost as u64], text);
            self.sides[at].tie = None;
            let replaced = reason == Reason::Replaced;
            self.push(end, Event::Down { session, reason });
            if !replaced {
                let pause = self.pause(end);
                self.dial_in(end, pause, now);
            }
        } else if stage == Stage::Rising {
            let pause = self.pause(end);
            self.dial_in(end, pause, now);
        }
        self.forget_ties();
    }

    fn forget_ties(&mut self) {
        self.ties.retain(|_, tie| tie.stages != [Stage::Gone; 2]);
    }

    /// Whatever has come to the head of a lane and is due arrives.
    fn look(&mut self, id: u64, to: End, now: Micros) {
        let at = to.index();
        let Some(tie) = self.ties.get_mut(&id) else { return };
        let Stage::Up(session) = tie.stages[at] else { return };
        let cut = self.sides[at].cut.is_some();
        let mut events = Vec::new();
        for lane in Lane::ALL {
            while let Some(parcel) = tie.pipes[at].lanes[lane.index()].front_mut() {
                if parcel.at > now {
                    break;
                }
                if cut {
                    if !std::mem::replace(&mut parcel.held, true) {
                        self.reached.note("link message held by a cut");
                    }
                    break;
                }
                let Some(parcel) = tie.pipes[at].lanes[lane.index()].pop_front() else { break };
                let rival = &tie.pipes[at].lanes[1 - lane.index()];
                if rival.front().is_some_and(|rival| rival.serial < parcel.serial) {
                    self.reached.note(format!("link {lane:?} overtook"));
                }
                events.push(Event::Received { session, lane, message: parcel.message });
            }
        }
        while let Some((due, lane, bytes)) = tie.pipes[at].credits.front().copied() {
            if due > now || cut {
                break;
            }
            tie.pipes[at].credits.pop_front();
            let unsent = &mut tie.unsent[at][lane.index()];
            *unsent -= bytes;
            let refused = &mut tie.refused[at][lane.index()];
            if *refused && *unsent <= self.behaviour.buffers[lane.index()] / 2 {
                *refused = false;
                events.push(Event::Room { session, lane });
            }
        }
        events.into_iter().for_each(|event| self.push(to, event));
    }

    fn delay(&mut self, now: Micros) -> Micros {
        let (from, to) = self.behaviour.delay;
        let mut delay = self.rng.between(from, to);
        if now < self.uneven_until {
            delay *= self.rng.between(1, 100);
        }
        if now < self.slow.1 {
            self.reached.note("link message slowed");
            delay += self.slow.0;
        }
        delay
    }

    fn push(&mut self, end: End, event: Event) {
        let side = &mut self.sides[end.index()];
        if side.hello.is_some() {
            side.ready.push_back(event);
            self.woken[end.index()] = true;
        }
    }

    fn plan(&mut self, at: Micros, step: Step) {
        let number = self.number();
        self.steps.insert((at, number), step);
        self.planned.push(at);
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// For counters.
fn name_of(reason: &Reason) -> &'static str {
    match reason {
        Reason::Dropped => "dropped",
        Reason::Closed => "closed by the peer",
        Reason::TimedOut => "timed out",
        Reason::Reset => "reset",
        Reason::Replaced => "replaced",
        _ => "other",
    }
}
