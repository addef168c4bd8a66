//! The link over QUIC with mutual TLS 1.3.
//!
//! ```text
//! QuicLink   attempts (dialed, accepted) ──▶ candidates ──▶ the one session ──▶ events
//!   transport   what quinn and rustls are told             attempt   from a datagram to a greeting
//!   choice      which connection becomes the session       session   two lanes, read and written
//! ```
//! One connection, two bidirectional streams, one a lane: a stream is exactly "in order or not at
//! all". Not a stream per batch: batches of different streams overtake each other, and putting them
//! in order again would be a second reassembly. Not datagrams: a heartbeat may be lost, a promise
//! may not, and both share the control lane so that a later one tells that the earlier ones came.
//! The control stream has the higher priority: whatever waits on it leaves with the next packet,
//! however much bulk is queued. A message is its length (u32) and its bytes.
//!
//! Both sides dial and both listen: whichever comes up last finds the other at once, and a firewall
//! that blocks one direction doesn't matter. So two connections may come about at a time. One side
//! decides: the **arbiter**, the one with the higher store id. After both greetings it tells one
//! connection that it is chosen, and numbers it; the other side confirms. Nobody else closes or
//! chooses, hence there is never a moment in which each side keeps another one. A connection that
//! comes while a session stands replaces it if the peer is another process, or says that it has
//! lost the session; else it is superfluous and closed. So a half-open session lasts no longer than
//! the first greeting after it.
//!
//! Attempts have a deadline, and between them lies a jittered pause that doubles up to a bound: the
//! randomness is a seed of the settings, the clock is tokio's. An idle session is kept open by
//! QUIC's own keep-alives; when nothing is heard for the idle time the session ends. That time
//! is longer than what retransmission can repair and shorter than where its doubling probes would
//! find the healed network later than a new attempt does. It is no failure detector.
//!
//! quinn runs one task per endpoint and one per connection on the runtime that is entered, which
//! must be the owner's; everything else happens inside [`Link::poll_event`]. Memory of a session is
//! at most its lanes' buffers, what is in flight, QUIC's receive window and one message a lane. The
//! owner should be a task, not what `block_on` is given: that one has a turn only after 61 turns of
//! tasks, which under load is milliseconds.
//!
//! Deliberately absent: resumption and early data (every session proves itself), migration, more
//! than one peer.

mod attempt;
mod choice;
mod session;
mod transport;

#[cfg(test)]
mod quic_test;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use celeriant_schema::StoreId;
use celeriant_schema::peer::Hello;
use quinn::{AsyncUdpSocket, Endpoint, Incoming, Runtime, TokioRuntime};
use tokio::time::{Instant, Sleep, sleep, timeout};

use self::attempt::{Candidate, Failure};
use self::choice::{Choice, Last};
use self::session::Session;
use self::transport::Code;
use super::backoff::Backoff;
use super::{Event, Lane, Link, Reason, Sent, SessionId, Target};
use crate::tls::{self, Credentials};

/// How the link behaves. Plain data.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of control messages that may wait to be sent.
    pub control_buffer: usize,
    /// Bytes of bulk messages that may wait to be sent.
    pub bulk_buffer: usize,
    /// Bytes sent and not acknowledged, at most. What is on its way queues up in the receiver's
    /// system, in front of control; measured here, 3 MiB carry 1 GB/s at 0.3 ms. A network of
    /// 10 ms needs 10 MiB for that.
    pub in_flight: u32,
    /// QUIC's receive windows: bytes that came and were not taken.
    pub window: u32,
    /// Largest UDP payload, at most 6,500 bytes: quinn hands ten at a time to the system, which
    /// takes less than 65,507 bytes and drops what is more without a word. Found by probing.
    pub mtu_max: u16,
    /// A session ends when nothing was heard for so long.
    pub idle_timeout: Duration,
    /// A session that has nothing to say lets the peer know that it is there, so often.
    pub keep_alive: Duration,
    /// An attempt that has come to no session by then is given up, at either side.
    pub attempt_timeout: Duration,
    /// Shortest and longest pause between two attempts.
    pub pause: (Duration, Duration),
    /// Of the jitter: different on every node and at every start.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            control_buffer: 1 << 20,
            bulk_buffer: 2 << 20,
            in_flight: 3 << 20,
            window: 16 << 20,
            mtu_max: transport::MTU_MAX,
            idle_timeout: Duration::from_secs(3),
            keep_alive: Duration::from_millis(500),
            attempt_timeout: Duration::from_secs(2),
            pause: (Duration::from_millis(50), Duration::from_secs(1)),
            seed: 1,
        }
    }
}

/// What the session's way through the network is like.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Path {
    /// Smoothed, as QUIC measures it.
    pub round_trip: Duration,
    /// UDP payload that is known to get through, in bytes.
    pub mtu: u16,
    /// Packets sent in this session.
    pub sent_packets: u64,
    /// Packets of these that were given up for lost, and their content sent again.
    pub lost_packets: u64,
}

/// Why there is no link at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The node's own certificate is for something else than its hello says.
    #[error("this node's certificate is for {found}, but the node is {own}")]
    OwnName {
        /// What the certificate says.
        found: String,
        /// What the node is.
        own: tls::Name,
    },
}

/// What all attempts of a link share.
struct Shared {
    settings: Settings,
    credentials: Credentials,
    hello: Hello,
    last: Mutex<Last>,
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Attempt = Boxed<Result<Candidate, Failure>>;

/// Connections that are being greeted at a time; more are turned away.
const GREETINGS_MAX: usize = 8;

/// Bytes of messages that an owner takes at a stretch. Then quinn's tasks, which share the thread,
/// have their turn: else a window full of bulk would keep them from what comes on control.
const STRETCH_BYTES: usize = 512 << 10;

/// A link over QUIC.
pub struct QuicLink {
    endpoint: Endpoint,
    shared: Arc<Shared>,
    target: Target,
    address: usize,
    backoff: Backoff,
    dial: Dial,
    accept: Boxed<Option<Incoming>>,
    /// It was looked whether somebody comes.
    is_open: bool,
    greeting: Vec<Attempt>,
    /// The arbiter's: told that it is chosen, not confirmed yet; and those that come after it.
    choosing: Option<Attempt>,
    spares: VecDeque<Candidate>,
    /// The other side's: greeted, waiting to be chosen.
    waiting: Vec<Attempt>,
    session: Option<Session>,
    newest: SessionId,
    events: VecDeque<Event>,
    failed: Option<Event>,
    /// Bytes taken since everybody else had a turn.
    stretch: usize,
    /// Has left.
    is_closed: bool,
}

enum Dial {
    Ready,
    Pausing(Pin<Box<Sleep>>),
    Dialing(Attempt),
}

impl QuicLink {
    /// Listens on `address` as `hello` says, on the tokio runtime that is entered.
    ///
    /// # Errors
    /// When the address is taken, or the certificates are not for this node.
    pub fn bind(
        address: SocketAddr,
        hello: Hello,
        credentials: Credentials,
        settings: Settings,
    ) -> Result<Self, Error> {
        let listen = |source| Error::Listen { address, source };
        let runtime: Arc<dyn Runtime> = Arc::new(TokioRuntime);
        let socket = transport::udp_socket(address).map_err(listen)?;
        let socket = runtime.wrap_udp_socket(socket).map_err(listen)?;
        Self::over(socket, runtime, hello, credentials, settings)
    }

    /// The same over any datagrams, with any runtime: for QUIC inside a simulation.
    ///
    /// # Errors
    /// As [`QuicLink::bind`].
    pub fn over(
        socket: Arc<dyn AsyncUdpSocket>,
        runtime: Arc<dyn Runtime>,
        hello: Hello,
        credentials: Credentials,
        settings: Settings,
    ) -> Result<Self, Error> {
        check_own_name(&hello, &credentials)?;
        let backoff = Backoff::new(settings.pause.0, settings.pause.1, settings.seed);
        let last = Mutex::default();
        let shared = Arc::new(Shared { settings, credentials, hello, last });
        let endpoint = transport::endpoint(&shared, socket, runtime)?;
        Ok(Self {
            accept: accept(endpoint.clone()),
            is_open: false,
            endpoint,
            shared,
            target: Target::default(),
            address: 0,
            backoff,
            dial: Dial::Ready,
            greeting: Vec::new(),
            choosing: None,
            spares: VecDeque::new(),
            waiting: Vec::new(),
            session: None,
            newest: SessionId::NONE,
            events: VecDeque::new(),
            failed: None,
            stretch: 0,
            is_closed: false,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// For metrics. `None` without a session.
    pub fn path(&self) -> Option<Path> {
        self.session.as_ref().map(Session::path)
    }

    /// Tells the peer that the session is over and waits until that has left, a second at most. It
    /// is said once and may be lost, as any datagram; then the peer finds out by itself.
    pub async fn shut(self) {
        let endpoint = self.endpoint.clone();
        drop(self);
        // Nothing depends on it: a peer that doesn't hear finds out by itself.
        let _ = timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    }

    fn is_arbiter_over(&self, peer: StoreId) -> bool {
        self.shared.hello.store > peer
    }

    /// Attempts go on until nothing moves any more.
    fn poll_attempts(&mut self, cx: &mut Context<'_>) {
        self.poll_accept(cx);
        self.poll_dial(cx);
        for candidate in self.poll_list(cx, |link| &mut link.greeting) {
            self.greeted(candidate);
        }
        for candidate in self.poll_list(cx, |link| &mut link.waiting) {
            self.begin(candidate);
        }
        while let Some(attempt) = &mut self.choosing {
            let Poll::Ready(outcome) = attempt.as_mut().poll(cx) else { break };
            self.choosing = None;
            match outcome {
                Ok(candidate) => self.begin(candidate),
                Err(failure) => self.note_failure(failure),
            }
            // Most are not needed any more; the first that is, is chosen.
            while self.choosing.is_none()
                && let Some(spare) = self.spares.pop_front()
            {
                self.greeted(spare);
            }
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) {
        // Who came before that has waited since, and took it for the time that this network needs:
        // QUIC would send to this node as slowly. Let him come again.
        let is_late = !std::mem::replace(&mut self.is_open, true);
        while let Poll::Ready(incoming) = self.accept.as_mut().poll(cx) {
            let Some(incoming) = incoming else {
                // Its socket is gone, and with it everything that could come: said once.
                self.accept = Box::pin(std::future::pending());
                let reason = Reason::Unreachable("the endpoint's socket failed".into());
                return self.note_failure(Failure { with: String::new(), reason });
            };
            self.accept = accept(self.endpoint.clone());
            if self.greeting.len() < GREETINGS_MAX && !is_late {
                self.greeting.push(attempt::accept(Arc::clone(&self.shared), incoming));
            } else {
                incoming.refuse();
            }
        }
    }

    fn poll_list(
        &mut self,
        cx: &mut Context<'_>,
        list: fn(&mut Self) -> &mut Vec<Attempt>,
    ) -> Vec<Candidate> {
        let mut done = Vec::new();
        let mut at = 0;
        while let Some(attempt) = list(self).get_mut(at) {
            match attempt.as_mut().poll(cx) {
                Poll::Ready(outcome) => {
                    drop(list(self).swap_remove(at));
                    match outcome {
                        Ok(candidate) => done.push(candidate),
                        Err(failure) => self.note_failure(failure),
                    }
                }
                Poll::Pending => at += 1,
            }
        }
        done
    }

    fn poll_dial(&mut self, cx: &mut Context<'_>) {
        loop {
            let idle = self.session.is_none() && self.choosing.is_none() && self.waiting.is_empty();
            match &mut self.dial {
                Dial::Ready if idle && !self.target.addresses.is_empty() => {
                    let address = self.target.addresses[self.address].clone();
                    self.address = (self.address + 1) % self.target.addresses.len();
                    let (endpoint, shared) = (self.endpoint.clone(), Arc::clone(&self.shared));
                    self.dial = Dial::Dialing(attempt::dial(shared, endpoint, address));
                }
                Dial::Ready => return,
                Dial::Pausing(pause) => match pause.as_mut().poll(cx) {
                    Poll::Ready(()) => self.dial = Dial::Ready,
                    Poll::Pending => return,
                },
                Dial::Dialing(attempt) => match attempt.as_mut().poll(cx) {
                    Poll::Ready(Ok(candidate)) => {
                        self.pause();
                        self.greeted(candidate);
                    }
                    Poll::Ready(Err(failure)) => {
                        self.note_failure(failure);
                        self.pause();
                    }
                    Poll::Pending => return,
                },
            }
        }
    }

    fn pause(&mut self) {
        self.dial = Dial::Pausing(Box::pin(sleep(self.backoff.pause())));
    }

    /// Both have introduced themselves: now one of the two decides.
    fn greeted(&mut self, candidate: Candidate) {
        let Some(candidate) = self.wanted(candidate) else { return };
        if !self.is_arbiter_over(candidate.greeting.hello.store) {
            self.waiting.push(attempt::be_chosen(Arc::clone(&self.shared), candidate));
            return;
        }
        let current = self.session.as_ref().map(Session::held);
        let boot = self.shared.hello.boot;
        match choice::judge(current, self.choosing.is_some(), &candidate.greeting, boot) {
            Choice::Choose => {
                let number = self.shared.last().next_number();
                self.choosing = Some(attempt::choose(Arc::clone(&self.shared), candidate, number));
            }
            Choice::Spare if self.spares.len() < GREETINGS_MAX => self.spares.push_back(candidate),
            Choice::Spare | Choice::Superfluous => candidate.close(Code::Superfluous),
        }
    }

    /// Closes a candidate that is not of the store that this side is aimed at.
    fn wanted(&mut self, candidate: Candidate) -> Option<Candidate> {
        let store = candidate.greeting.hello.store;
        if self.target.store.is_none_or(|wanted| wanted == store) {
            return Some(candidate);
        }
        let (with, reason) = (candidate.with.clone(), Reason::WrongStore(store));
        candidate.close(Code::WrongStore);
        self.note_failure(Failure { with, reason });
        None
    }

    /// The candidate is the session from here on, at this side, unless the aim has changed since it
    /// was greeted.
    fn begin(&mut self, candidate: Candidate) {
        let Some(candidate) = self.wanted(candidate) else { return };
        let held = candidate.held();
        if self.session.as_ref().is_some_and(|session| session.held().is_newer_than(&held)) {
            return candidate.close(Code::Superfluous);
        }
        self.end(Reason::Replaced, Code::Replaced);
        self.newest = self.newest.next();
        self.shared.last().hold(held);
        let peer = candidate.greeting.hello.clone();
        self.events.push_back(Event::Up { session: self.newest, peer });
        self.session = Some(Session::new(self.newest, candidate, &self.shared.settings));
        self.dial = Dial::Ready;
    }

    fn end(&mut self, reason: Reason, code: Code) {
        let Some(session) = self.session.take() else { return };
        self.shared.last().lose();
        // A session that did not last is as good as a failed attempt.
        if session.began.elapsed() > self.shared.settings.pause.1 {
            self.backoff.reset();
        }
        self.events.push_back(Event::Down { session: session.id, reason });
        session.close(code);
        self.pause();
    }

    fn note_failure(&mut self, failure: Failure) {
        let Failure { with, reason } = failure;
        if reason != Reason::Replaced {
            self.failed = Some(Event::Failed { with, reason });
        }
    }
}

impl Link for QuicLink {
    fn aim(&mut self, target: Target) {
        if target == self.target {
            return;
        }
        self.target = target;
        self.address = 0;
        self.backoff.reset();
        let store = self.session.as_ref().map(|session| session.store);
        if store.is_some_and(|store| self.target.store.is_some_and(|wanted| wanted != store)) {
            self.end(Reason::Dropped, Code::Dropped);
        }
        self.dial = Dial::Ready;
    }

    fn send(&mut self, session: SessionId, lane: Lane, message: Bytes) -> Sent {
        match &mut self.session {
            Some(current) if current.id == session && !self.is_closed => {
                current.send(lane, message)
            }
            _ => Sent::Gone,
        }
    }

    fn drop_session(&mut self, session: SessionId) {
        if self.session.as_ref().is_some_and(|current| current.id == session) {
            self.end(Reason::Dropped, Code::Dropped);
        }
    }

    fn close(&mut self) {
        self.endpoint.close(Code::Closed.into(), Code::Closed.text().as_bytes());
        self.is_closed = true;
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.is_closed {
            return Poll::Pending;
        }
        if self.stretch >= STRETCH_BYTES {
            self.stretch = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let event = self.poll_next(cx);
        match &event {
            Poll::Ready(Event::Received { message, .. }) => self.stretch += message.len(),
            Poll::Ready(_) => {}
            Poll::Pending => self.stretch = 0,
        }
        event
    }
}

impl QuicLink {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        if let Some(session) = &mut self.session
            && let Poll::Ready((reason, code)) = session.poll(cx, &mut self.events)
        {
            self.end(reason, code);
        }
        // Messages first: attempts are rare, and looking for them costs more.
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        // Whatever begins or ends a session here leaves an event, so it is polled again.
        self.poll_attempts(cx);
        self.events.pop_front().or_else(|| self.failed.take()).map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for QuicLink {
    fn drop(&mut self) {
        self.endpoint.close(Code::Closed.into(), b"stopped");
    }
}

impl Shared {
    fn last(&self) -> std::sync::MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept(endpoint: Endpoint) -> Boxed<Option<Incoming>> {
    Box::pin(async move { endpoint.accept().await })
}

fn check_own_name(hello: &Hello, credentials: &Credentials) -> Result<(), Error> {
    let own = tls::Name { cluster: hello.cluster, store: hello.store };
    match credentials.current().name() {
        Some(name) if name == own => Ok(()),
        Some(name) => Err(Error::OwnName { found: name.to_string(), own }),
        None => Err(Error::OwnName { found: String::from("no store"), own }),
    }
}

/// When a session began.
fn now() -> Instant {
    Instant::now()
}
