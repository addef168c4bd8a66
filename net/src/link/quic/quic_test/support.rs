//! Two nodes on loopback, each with a wire that can be cut, driven together until something holds.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use celeriant_schema::peer::Hello;
use celeriant_schema::{BootId, ClusterId, StoreId};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::time::timeout;

use super::super::{QuicLink, Settings, transport};
use crate::link::{Event, Lane, Link, Reason, Sent, SessionId, Target, next_event};
use crate::tls::{Authority, Credentials, Issued, Material, Name, Subject, Validity};

/// Of all nodes, unless a test says otherwise.
pub(super) const CLUSTER: ClusterId = ClusterId::new(77);

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub(super) enum Valid {
    Past,
    Now,
    Future,
}

/// Short times, and windows that fill quickly.
pub(super) fn quick() -> Settings {
    Settings {
        in_flight: 1 << 20,
        window: 1 << 20,
        bulk_buffer: 1 << 20,
        idle_timeout: Duration::from_millis(500),
        keep_alive: Duration::from_millis(100),
        attempt_timeout: Duration::from_millis(400),
        pause: (Duration::from_millis(5), Duration::from_millis(50)),
        ..Settings::default()
    }
}

pub(super) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Tests may look at the clock.
#[allow(clippy::disallowed_methods)]
fn validity(valid: Valid) -> Validity {
    let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
    let from = match valid {
        Valid::Past => now - 3 * day,
        Valid::Now => now - day,
        Valid::Future => now + day,
    };
    Validity { from, lasts: 2 * day }
}

pub(super) fn authority() -> Authority {
    Authority::new("test", validity(Valid::Now)).expect("made")
}

pub(super) fn issue(
    authority: &Authority,
    cluster: ClusterId,
    store: StoreId,
    valid: Valid,
) -> Issued {
    let node = Some(Name { cluster, store });
    let subject = Subject { name: "node".into(), node, ..Subject::default() };
    authority.issue(&subject, validity(valid)).expect("made")
}

pub(super) fn material(
    authority: &Authority,
    cluster: ClusterId,
    store: StoreId,
    valid: Valid,
) -> Material {
    let issued = issue(authority, cluster, store, valid);
    let ca = &authority.issued().certificate;
    Material::from_pem(ca, &issued.certificate, &issued.key).expect("usable")
}

pub(super) fn credentials(
    authority: &Authority,
    cluster: ClusterId,
    store: StoreId,
    valid: Valid,
) -> Credentials {
    Credentials::of(material(authority, cluster, store, valid))
}

/// A link, its wire, and what has happened on it.
pub(super) struct Node {
    pub(super) link: QuicLink,
    pub(super) wire: Arc<Wire>,
    pub(super) session: SessionId,
    pub(super) ups: Vec<Hello>,
    pub(super) downs: Vec<Reason>,
    pub(super) failures: Vec<Reason>,
    pub(super) received: Vec<(Lane, Bytes)>,
    pub(super) rooms: usize,
}

impl Node {
    pub(super) fn new(authority: &Authority, store: u128, boot: u64, settings: Settings) -> Self {
        let credentials = credentials(authority, CLUSTER, StoreId::new(store), Valid::Now);
        Self::with(credentials, store, boot, settings)
    }

    pub(super) fn with(c: Credentials, store: u128, boot: u64, settings: Settings) -> Self {
        Self::of_cluster(c, CLUSTER, store, boot, settings)
    }

    pub(super) fn of_cluster(
        credentials: Credentials,
        cluster: ClusterId,
        store: u128,
        boot: u64,
        settings: Settings,
    ) -> Self {
        let (store, boot) = (StoreId::new(store), BootId::new(boot));
        let hello = Hello { cluster, store, boot, ..Hello::default() };
        let wire = Arc::new(Wire::new());
        let socket = Arc::clone(&wire) as Arc<dyn AsyncUdpSocket>;
        let settings = Settings { seed: boot.value(), ..settings };
        let link = QuicLink::over(socket, Arc::new(TokioRuntime), hello, credentials, settings);
        Self {
            link: link.expect("listens"),
            wire,
            session: SessionId::NONE,
            ups: Vec::new(),
            downs: Vec::new(),
            failures: Vec::new(),
            received: Vec::new(),
            rooms: 0,
        }
    }

    /// How others find it.
    pub(super) fn target(&self) -> Target {
        let address = self.link.local_address().expect("bound").to_string();
        Target { store: None, addresses: vec![address] }
    }

    pub(super) fn is_up(&self) -> bool {
        self.ups.len() > self.downs.len()
    }

    pub(super) fn send(&mut self, lane: Lane, message: Bytes) -> Sent {
        self.link.send(self.session, lane, message)
    }

    /// Takes one event, or lets `wait` pass.
    pub(super) async fn step(&mut self, wait: Duration) {
        if let Ok(event) = timeout(wait, next_event(&mut self.link)).await {
            self.note(event);
        }
    }

    /// Also checks that sessions follow each other as the seam says.
    fn note(&mut self, event: Event) {
        match event {
            Event::Up { session, peer } => {
                assert!(
                    session > self.session && !self.is_up(),
                    "{session} after {}",
                    self.session
                );
                self.session = session;
                self.ups.push(peer);
            }
            Event::Down { session, reason } => {
                assert!(session == self.session && self.is_up(), "{session} is not up");
                self.downs.push(reason);
            }
            Event::Received { session, lane, message } => {
                assert!(session == self.session && self.is_up(), "{session} is not up");
                self.received.push((lane, message));
            }
            Event::Room { session, .. } => {
                assert!(session == self.session && self.is_up(), "{session} is not up");
                self.rooms += 1;
            }
            Event::Failed { reason, .. } => self.failures.push(reason),
        }
    }
}

/// Two nodes with a session, the second one being the arbiter.
pub(super) async fn together() -> (Node, Node) {
    let authority = authority();
    let mut a = Node::new(&authority, 1, 11, quick());
    let mut b = Node::new(&authority, 2, 12, quick());
    super::aim_both(&mut a, &mut b);
    drive([&mut a, &mut b], |a, b| a.is_up() && b.is_up()).await;
    (a, b)
}

/// Polls both until `done`, which is looked at whenever something has happened, and every 10 ms.
pub(super) async fn drive(nodes: [&mut Node; 2], mut done: impl FnMut(&Node, &Node) -> bool) {
    let [a, b] = nodes;
    let work = async {
        while !done(a, b) {
            let next = timeout(Duration::from_millis(10), async {
                tokio::select! {
                    biased;
                    event = next_event(&mut a.link) => (true, event),
                    event = next_event(&mut b.link) => (false, event),
                }
            });
            match next.await {
                Ok((true, event)) => a.note(event),
                Ok((false, event)) => b.note(event),
                Err(_) => {}
            }
        }
    };
    if timeout(Duration::from_secs(60), work).await.is_err() {
        let of = |node: &Node| {
            let received = node.received.len();
            format!(
                "up {:?} down {:?} failed {:?} received {received}",
                node.ups.len(),
                node.downs,
                node.failures
            )
        };
        panic!("it does not come about\na: {}\nb: {}", of(a), of(b));
    }
}

/// A socket whose datagrams can be thrown away, each way.
pub(super) struct Wire {
    socket: Arc<dyn AsyncUdpSocket>,
    mute: AtomicBool,
    deaf: AtomicBool,
}

impl Wire {
    fn new() -> Self {
        let socket = transport::udp_socket(loopback()).expect("bound");
        let socket = TokioRuntime.wrap_udp_socket(socket).expect("wrapped");
        Self { socket, mute: AtomicBool::new(false), deaf: AtomicBool::new(false) }
    }

    /// From here on nothing leaves (`mute`), nothing arrives (`deaf`).
    pub(super) fn cut(&self, mute: bool, deaf: bool) {
        self.mute.store(mute, Ordering::Relaxed);
        self.deaf.store(deaf, Ordering::Relaxed);
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for Wire {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.mute.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.socket.poll_recv(cx, buffers, meta) {
                Poll::Ready(Ok(_)) if self.deaf.load(Ordering::Relaxed) => {}
                other => return other,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
