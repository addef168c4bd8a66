//! Lets clients in: one listener per thread, a cap on connections over all of them.
//!
//! With `SO_REUSEPORT` every thread has its own queue of new connections and the system deals them
//! out; a connection then stays on its thread.
//!
//! ```text
//! accept ─▶ Door: is there room? ─▶ handshakes: TLS, if the door asks for it ─▶ connection
//! ```
//! Deliberately absent: a thread that accepts for all.

mod handshakes;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use celeriant_schema::Refusal;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::connection::{self, Ended};
use crate::keyring::Keyring;
use crate::rights::Rights;
use crate::rooms::Rooms;
use crate::service::Service;
use crate::settings::{Settings, Stop};
use crate::tls::Acceptor;
use handshakes::Handshakes;

/// Connections that wait to be accepted, per listener.
const BACKLOG: u32 = 1024;
/// A peer that vanished without a word is noticed after about this and three probes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// Pause after a failed accept: the usual cause, no more file descriptors, does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Clients that are being told that the node is full; above it they are just cut off.
const REFUSALS_MAX: usize = 64;

/// Counts connections over all listeners that share it, and says how clients come in.
#[derive(Clone, Debug, Default)]
pub struct Door {
    open: Arc<AtomicUsize>,
    tls: Option<Acceptor>,
    keyring: Option<Arc<Keyring>>,
    rooms: Option<Rooms>,
}

impl Door {
    /// Clients come in over TLS; through the default one they come in the clear.
    pub fn with_tls(acceptor: Acceptor) -> Self {
        Self { tls: Some(acceptor), ..Self::default() }
    }

    /// Whoever comes in may show a key of `keyring`.
    #[must_use]
    pub fn with_keys(self, keyring: Arc<Keyring>) -> Self {
        Self { keyring: Some(keyring), ..self }
    }

    /// Orgs have so much room.
    #[must_use]
    pub fn with_rooms(self, rooms: Rooms) -> Self {
        Self { rooms: Some(rooms), ..self }
    }

    /// Of one who came in through this door from `peer`.
    fn rights(&self, rights: Rights, peer: SocketAddr) -> Rights {
        let is_private = self.tls.is_some() || peer.ip().is_loopback();
        rights.with_keys(self.keyring.clone(), is_private).with_rooms(self.rooms.clone())
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn enter(&self, max: usize) -> Option<Inside> {
        // Count first, look after: two racers may both be sent away, never both be let in.
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let inside = Inside(Arc::clone(&self.open));
        (before < max).then_some(inside)
    }
}

/// Counts as open until it is dropped.
struct Inside(Arc<AtomicUsize>);

/// A client that was let in.
struct Guest {
    peer: SocketAddr,
    _inside: Inside,
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Listens on `address`. With `reuse_port` several listeners, one per thread, may share it.
///
/// # Errors
/// When the address is taken, or not this machine's.
pub fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restarted node takes its port back although old connections linger in the system.
    socket.set_reuseaddr(true)?;
    if reuse_port {
        share_port(&socket)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(unix)]
fn share_port(socket: &TcpSocket) -> io::Result<()> {
    socket.set_reuseport(true)
}

#[cfg(not(unix))]
fn share_port(_socket: &TcpSocket) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system cannot share a port"))
}

/// Serves every client that connects to `listener`, until `stop`; then takes no more, lets every
/// connection answer what was submitted, and returns. Connections run on the calling thread's
/// runtime and end with this future.
pub async fn serve<V: Service>(
    listener: TcpListener,
    service: V,
    settings: Arc<Settings>,
    door: Door,
    stop: Stop,
) {
    let limits = Limits {
        connections_max: settings.connections_max,
        handshakes_max: settings.handshakes_max,
        handshake_timeout: settings.handshake_timeout,
    };
    let host = Binary { service, settings, stop: stop.clone() };
    host_clients(listener, host, limits, door, stop).await;
}

/// What a listener does with those whom it let in.
pub(crate) trait Host: Clone + Send + 'static {
    /// Serves one to its end, and ends soon after the signal to stop.
    fn serve<S>(
        self,
        stream: S,
        peer: SocketAddr,
        rights: Rights,
    ) -> impl Future<Output = ()> + Send
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Tells one that there is no room, within a moment.
    fn send_away(self, stream: TcpStream) -> impl Future<Output = ()> + Send;
}

/// How many may come in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connections_max: usize,
    pub(crate) handshakes_max: usize,
    pub(crate) handshake_timeout: Duration,
}

/// Lets clients in and gives them to `host`; see [`serve`].
pub(crate) async fn host_clients<H: Host>(
    listener: TcpListener,
    host: H,
    limits: Limits,
    door: Door,
    mut stop: Stop,
) {
    let mut visitors = Visitors::new(limits);
    loop {
        tokio::select! {
            biased;
            () = stop.wait() => break,
            Some(_) = visitors.connections.join_next(), if !visitors.connections.is_empty() => {}
            secured = visitors.handshakes.next() => if let Some((stream, rights, guest)) = secured {
                let rights = door.rights(rights, guest.peer);
                visitors.connections.spawn(guest.stay(host.clone(), stream, rights));
            },
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => visitors.let_in(&host, &door, stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop((listener, visitors.handshakes));
    while visitors.connections.join_next().await.is_some() {}
}

/// Everybody who came in by one listener.
struct Visitors {
    connections_max: usize,
    handshakes: Handshakes,
    connections: JoinSet<()>,
    refusals: Door,
}

impl Visitors {
    fn new(limits: Limits) -> Self {
        Self {
            connections_max: limits.connections_max,
            handshakes: Handshakes::new(limits.handshakes_max, limits.handshake_timeout),
            connections: JoinSet::new(),
            refusals: Door::default(),
        }
    }

    fn let_in<H: Host>(&mut self, host: &H, door: &Door, stream: TcpStream, peer: SocketAddr) {
        let Some(inside) = door.enter(self.connections_max) else {
            // Over TLS nobody is told: it would take a session.
            if door.tls.is_none()
                && let Some(inside) = self.refusals.enter(REFUSALS_MAX)
            {
                let sent_away = host.clone().send_away(stream);
                self.connections.spawn(async move {
                    sent_away.await;
                    drop(inside);
                });
            }
            return;
        };
        if let Err(error) = tune(&stream) {
            tracing::debug!(%peer, %error, "connection lost at once");
            return;
        }
        let guest = Guest { peer, _inside: inside };
        match &door.tls {
            Some(tls) => self.handshakes.begin(tls.clone(), stream, guest),
            None => {
                let stay = guest.stay(host.clone(), stream, door.rights(Rights::all(), peer));
                self.connections.spawn(stay);
            }
        }
    }
}

impl Guest {
    async fn stay<H: Host, S>(self, host: H, stream: S, rights: Rights)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        host.serve(stream, self.peer, rights).await;
        drop(self);
    }
}

/// Serves the binary protocol.
#[derive(Clone)]
struct Binary<V> {
    service: V,
    settings: Arc<Settings>,
    stop: Stop,
}

impl<V: Service> Host for Binary<V> {
    async fn serve<S>(self, stream: S, peer: SocketAddr, rights: Rights)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match connection::serve(stream, self.service, rights, self.settings, self.stop).await {
            Ended::Closed | Ended::Stopped => {}
            Ended::Refused(refusal) => tracing::info!(%peer, %refusal, "connection refused"),
            Ended::TimedOut => tracing::info!(%peer, "connection timed out"),
            Ended::Failed(error) => tracing::debug!(%peer, %error, "connection failed"),
        }
    }

    async fn send_away(self, stream: TcpStream) {
        let what = String::from("connections");
        connection::refuse(stream, &Refusal::Overloaded { what, retry_after_ms: 1000 }).await;
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
