//! Simulated datagrams: what QUIC itself runs over in the loop of two simulated nodes.
//!
//! ```text
//!   QuicLink ── quinn ── Socket ──┐                      ┌── Socket ── quinn ── QuicLink
//!                  └── Clockwork  └── Air: what is under └── way to each end ──┘
//! ```
//! Datagrams are lost, come twice, overtake each other, are cut off, slowed down, all by the seed
//! and in virtual time. A process that stands still takes nothing in and sends nothing; a dead one
//! says nothing any more.
//!
//! Faults are the seed's, bytes are not: keys, connection ids and the length of a signature come
//! from the system. So two runs of a seed are alike and not the same, and are judged by the oracles
//! and never by their trace.
//!
//! Deliberately absent: congestion, sizes that a network does not carry, resets (only an end point
//! can make one that QUIC believes).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, UdpPoller};

use crate::fault::Reached;
use crate::gate::Gate;
use crate::link::{End, Trouble};
use crate::rng::Rng;
use crate::timeline::{Micros, Sleep, Timeline};
use crate::world::spawn;

/// A datagram's way when nothing is wrong, at least and at most, in µs.
const DELAY: (Micros, Micros) = (50, 400);
/// Bytes that wait for an end to take them; what is more is lost.
const INBOX_BYTES_MAX: usize = 4 << 20;
/// How long datagrams come twice when a session is to, in µs.
const TWICE_FOR: Micros = 1_000_000;

/// How often which datagram meets with what, of a thousand, all the time.
#[derive(Clone, Copy, Debug)]
struct Rates {
    lost: u64,
    twice: u64,
    /// Overtaken by what is sent later.
    late: u64,
}

/// The air between two nodes. Cheap to clone: all clones are the same.
#[derive(Clone)]
pub struct Air {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    timeline: Timeline,
}

struct State {
    rng: Rng,
    reached: Reached,
    rates: Rates,
    sides: [Side; 2],
    /// By arrival.
    flying: BTreeMap<(Micros, u64), (End, Vec<u8>)>,
    next: u64,
    slow: (Micros, Micros),
    uneven_until: Micros,
    twice_until: Micros,
    /// Bytes a ms, and until when.
    narrow: (u64, Micros),
    /// Since when, how long each turn takes, and until when.
    flap: (Micros, Micros, Micros),
}

#[derive(Default)]
struct Side {
    /// Sockets of earlier processes are dead.
    generation: u64,
    is_there: bool,
    inbox: VecDeque<Vec<u8>>,
    inbox_bytes: usize,
    waker: Option<Waker>,
    cut_until: Micros,
    /// When the last datagram that keeps its place arrives.
    last: Micros,
    /// When the narrow way to it is free again.
    busy: Micros,
}

/// Where an end is found.
pub fn address_of(end: End) -> SocketAddr {
    let host = match end {
        End::A => 1,
        End::B => 2,
    };
    SocketAddr::from(([10, 0, 0, host], 7_000))
}

impl Air {
    /// Nobody is there yet. How bad it is all the time comes from `rng`.
    pub fn new(mut rng: Rng, timeline: Timeline, reached: Reached) -> Self {
        let rates = Rates {
            lost: *rng.pick(&[0, 5, 50]),
            twice: *rng.pick(&[0, 10, 50]),
            late: *rng.pick(&[0, 10, 100]),
        };
        let state = Mutex::new(State {
            rng,
            reached,
            rates,
            sides: Default::default(),
            flying: BTreeMap::new(),
            next: 0,
            slow: (0, 0),
            uneven_until: 0,
            twice_until: 0,
            narrow: (0, 0),
            flap: (0, 1, 0),
        });
        let shared = Arc::new(Shared { state, timeline });
        Self { shared }
    }

    /// A socket for a new process at `end`. Earlier ones are dead.
    pub fn attach(&self, end: End, gate: &Gate) -> Arc<Socket> {
        let mut state = self.shared.lock();
        let side = state.vacate(end);
        side.is_there = true;
        let generation = side.generation;
        Arc::new(Socket { shared: Arc::clone(&self.shared), end, generation, gate: gate.clone() })
    }

    /// What quinn runs on.
    pub fn runtime(&self) -> Arc<dyn Runtime> {
        // tokio's clock stands still between whole milliseconds, this one doesn't.
        let timeline = self.shared.timeline.clone();
        let now = tokio::time::Instant::now().into_std();
        let origin = now.checked_sub(Duration::from_micros(timeline.now())).unwrap_or(now);
        Arc::new(Clockwork { timeline, origin })
    }

    /// The process at `end` is gone, without a word.
    pub fn crash(&self, end: End) {
        self.shared.lock().vacate(end);
    }

    /// Something goes wrong. `false` for what there is not.
    pub fn trouble(&self, trouble: Trouble) -> bool {
        let now = self.shared.timeline.now();
        self.shared.lock().trouble(trouble, now)
    }

    /// From here on only what goes wrong all the time does.
    pub fn heal(&self) {
        let mut state = self.shared.lock();
        state.sides.iter_mut().for_each(|side| side.cut_until = 0);
        (state.slow, state.narrow, state.flap) = ((0, 0), (0, 0), (0, 1, 0));
        (state.uneven_until, state.twice_until) = (0, 0);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(self: &Arc<Self>, from: End, datagram: &[u8]) {
        let now = self.timeline.now();
        let arrivals = self.lock().send(from, datagram, now);
        for at in arrivals.into_iter().flatten() {
            self.timeline.wake_at(at, Waker::from(Arc::clone(self)));
        }
    }
}

/// The time of some datagram has come.
impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        let now = self.timeline.now();
        let wakers = self.lock().deliver(now);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl State {
    fn vacate(&mut self, end: End) -> &mut Side {
        let side = &mut self.sides[end as usize];
        let cut_until = side.cut_until;
        let generation = side.generation + 1;
        *side = Side { generation, cut_until, ..Side::default() };
        side
    }

    fn trouble(&mut self, trouble: Trouble, now: Micros) -> bool {
        match trouble {
            Trouble::Cut { to, lasts } => self.cut(to, now + lasts),
            Trouble::Partition { lasts } => {
                End::BOTH.into_iter().for_each(|to| self.cut(to, now + lasts));
            }
            Trouble::Flap { period, lasts } => self.flap = (now, period.max(1), now + lasts),
            Trouble::Slow { extra, lasts } => self.slow = (extra, now + lasts),
            Trouble::Uneven { lasts } => self.uneven_until = now + lasts,
            Trouble::Narrow { bytes_per_ms, lasts } => {
                self.narrow = (bytes_per_ms.max(1), now + lasts);
            }
            Trouble::Duplicate => self.twice_until = now + TWICE_FOR,
            Trouble::Reset => return false,
        }
        true
    }

    fn cut(&mut self, to: End, until: Micros) {
        let side = &mut self.sides[to as usize];
        side.cut_until = side.cut_until.max(until);
    }

    fn is_cut(&self, to: End, now: Micros) -> bool {
        let (since, period, until) = self.flap;
        let flaps = now < until && ((now - since) / period).is_multiple_of(2);
        flaps || now < self.sides[to as usize].cut_until
    }

    /// When it arrives, if it does; perhaps twice.
    fn send(&mut self, from: End, datagram: &[u8], now: Micros) -> [Option<Micros>; 2] {
        self.reached.note("datagram sent");
        if self.rng.chance(self.rates.lost) {
            self.reached.note("datagram lost");
            return [None; 2];
        }
        let to = from.other();
        let is_twice = now < self.twice_until || self.rng.chance(self.rates.twice);
        let first = self.arrival(to, datagram.len(), now);
        self.fly(first, to, datagram);
        let second = is_twice.then(|| {
            self.reached.note("datagram sent twice");
            let second = first + self.rng.between(1, 20_000);
            self.fly(second, to, datagram);
            second
        });
        [Some(first), second]
    }

    fn arrival(&mut self, to: End, bytes: usize, now: Micros) -> Micros {
        let mut delay = self.rng.between(DELAY.0, DELAY.1);
        if now < self.slow.1 {
            self.reached.note("datagram slowed");
            delay += self.slow.0;
        }
        let overtakes = now < self.uneven_until;
        if overtakes {
            delay *= self.rng.between(1, 100);
        }
        let is_late = overtakes || self.rng.chance(self.rates.late);
        let (per_ms, until) = self.narrow;
        let side = &mut self.sides[to as usize];
        let mut start = now;
        if now < until {
            side.busy = side.busy.max(now) + bytes as u64 * 1_000 / per_ms;
            start = side.busy;
        }
        if is_late {
            self.reached.note("datagram overtaken");
            return start + delay + self.rng.between(1, 2_000);
        }
        side.last = side.last.max(start + delay);
        side.last
    }

    fn fly(&mut self, at: Micros, to: End, datagram: &[u8]) {
        self.next += 1;
        self.flying.insert((at, self.next), (to, datagram.to_vec()));
    }

    fn deliver(&mut self, now: Micros) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let (to, datagram) = entry.remove();
            if self.is_cut(to, now) {
                self.reached.note("datagram cut off");
                continue;
            }
            let side = &mut self.sides[to as usize];
            if !side.is_there || side.inbox_bytes + datagram.len() > INBOX_BYTES_MAX {
                self.reached.note("datagram to nobody");
                continue;
            }
            side.inbox_bytes += datagram.len();
            side.inbox.push_back(datagram);
            wakers.extend(side.waker.take());
        }
        wakers
    }
}

/// One process' socket.
pub struct Socket {
    shared: Arc<Shared>,
    end: End,
    generation: u64,
    gate: Gate,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("end", &self.end).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let is_dead = self.shared.lock().sides[self.end as usize].generation != self.generation;
        if is_dead || self.gate.is_closed() || transmit.destination != address_of(self.end.other())
        {
            return Ok(());
        }
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        transmit.contents.chunks(size).for_each(|one| self.shared.send(self.end, one));
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if self.gate.holds(cx) {
            return Poll::Pending;
        }
        let mut state = self.shared.lock();
        let side = &mut state.sides[self.end as usize];
        if side.generation != self.generation {
            return Poll::Pending;
        }
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let Some(datagram) = side.inbox.pop_front() else { break };
            side.inbox_bytes -= datagram.len();
            let len = datagram.len().min(buffer.len());
            buffer[..len].copy_from_slice(&datagram[..len]);
            let addr = address_of(self.end.other());
            *meta = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        side.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(address_of(self.end))
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// quinn's runtime: the world's time, the world's tasks.
#[derive(Debug)]
struct Clockwork {
    timeline: Timeline,
    /// When the world's time was 0.
    origin: Instant,
}

impl Runtime for Clockwork {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let (timeline, origin) = (self.timeline.clone(), self.origin);
        let sleep = timeline.sleep_until(micros(origin, at));
        Box::pin(Timer { timeline, origin, sleep })
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        // They end with their connections, or with the runtime.
        drop(spawn(future));
    }

    fn wrap_udp_socket(&self, _: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(ErrorKind::Unsupported.into())
    }

    fn now(&self) -> Instant {
        self.origin + Duration::from_micros(self.timeline.now())
    }
}

#[derive(Debug)]
struct Timer {
    timeline: Timeline,
    origin: Instant,
    sleep: Sleep,
}

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        let at = micros(self.origin, at);
        self.sleep = self.timeline.sleep_until(at);
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.sleep).poll(cx)
    }
}

/// Never early.
fn micros(origin: Instant, at: Instant) -> Micros {
    at.saturating_duration_since(origin).as_nanos().div_ceil(1_000) as Micros
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of the datagrams that came, in order.
    fn through(trouble: Option<Trouble>, rates: Rates) -> Vec<u8> {
        let timeline = Timeline::default();
        timeline.runtime().block_on(async {
            let _driver = spawn(timeline.clone().drive());
            tokio::task::yield_now().await;
            let air = Air::new(Rng::new(7), timeline.clone(), Reached::default());
            air.shared.lock().rates = rates;
            let sockets = End::BOTH.map(|end| air.attach(end, &Gate::default()));
            trouble.into_iter().for_each(|trouble| assert!(air.trouble(trouble)));
            for number in 0..100 {
                sockets[0].shared.send(End::A, &[number]);
                timeline.sleep(100).await;
            }
            timeline.sleep(1_000_000).await;
            let state = air.shared.lock();
            state.sides[1].inbox.iter().map(|datagram| datagram[0]).collect()
        })
    }

    const FINE: Rates = Rates { lost: 0, twice: 0, late: 0 };

    #[test]
    fn datagrams_keep_their_order_until_something_is_wrong() {
        assert_eq!(through(None, FINE), (0..100).collect::<Vec<_>>());
        let lost = through(None, Rates { lost: 300, ..FINE });
        assert!(lost.len() < 90 && lost.is_sorted(), "{lost:?}");
        let twice = through(None, Rates { twice: 300, ..FINE });
        assert!(twice.len() > 110, "{twice:?}");
        let late = through(None, Rates { late: 300, ..FINE });
        assert!(late.len() == 100 && !late.is_sorted(), "{late:?}");
        let uneven = through(Some(Trouble::Uneven { lasts: 1_000_000 }), FINE);
        assert!(uneven.len() == 100 && !uneven.is_sorted(), "{uneven:?}");
    }

    #[test]
    fn a_cut_takes_what_arrives_while_it_lasts() {
        let cut = through(Some(Trouble::Cut { to: End::B, lasts: 5_000 }), FINE);
        assert!((40..=60).contains(&cut.len()) && cut.last() == Some(&99), "{cut:?}");
        let other = through(Some(Trouble::Cut { to: End::A, lasts: 5_000 }), FINE);
        assert_eq!(other.len(), 100);
        let flaps = through(Some(Trouble::Flap { period: 1_000, lasts: 10_000 }), FINE);
        assert!((35..=65).contains(&flaps.len()), "{flaps:?}");
    }
}
