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
}

impl Door {
    /// Clients come in over TLS; through the default one they come in the clear.
    pub fn with_tls(acceptor: Acceptor) -> Self {
        Self { open: Arc::default(), tls: Some(acceptor) }
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
    mut stop: Stop,
) {
    let host = Host { service, settings, stop: stop.clone() };
    let mut visitors = Visitors::new(&host.settings);
    loop {
        tokio::select! {
            biased;
            () = stop.wait() => break,
            Some(_) = visitors.connections.join_next(), if !visitors.connections.is_empty() => {}
            secured = visitors.handshakes.next() => if let Some((stream, guest)) = secured {
                visitors.connections.spawn(host.clone().run(stream, guest));
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
    handshakes: Handshakes,
    connections: JoinSet<()>,
    refusals: Door,
}

impl Visitors {
    fn new(settings: &Settings) -> Self {
        let handshakes = Handshakes::new(settings.handshakes_max, settings.handshake_timeout);
        Self { handshakes, connections: JoinSet::new(), refusals: Door::default() }
    }

    fn let_in<V: Service>(
        &mut self,
        host: &Host<V>,
        door: &Door,
        stream: TcpStream,
        peer: SocketAddr,
    ) {
        let Some(inside) = door.enter(host.settings.connections_max) else {
            // Over TLS nobody is told: it would take a session.
            if door.tls.is_none()
                && let Some(inside) = self.refusals.enter(REFUSALS_MAX)
            {
                self.connections.spawn(send_away(stream, inside));
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
            None => drop(self.connections.spawn(host.clone().run(stream, guest))),
        }
    }
}

/// What every connection of a listener is given.
#[derive(Clone)]
struct Host<V> {
    service: V,
    settings: Arc<Settings>,
    stop: Stop,
}

impl<V: Service> Host<V> {
    async fn run<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S, guest: Guest) {
        let peer = guest.peer;
        match connection::serve(stream, self.service, self.settings, self.stop).await {
            Ended::Closed | Ended::Stopped => {}
            Ended::Refused(refusal) => tracing::info!(%peer, %refusal, "connection refused"),
            Ended::TimedOut => tracing::info!(%peer, "connection timed out"),
            Ended::Failed(error) => tracing::debug!(%peer, %error, "connection failed"),
        }
    }
}

async fn send_away(stream: TcpStream, _inside: Inside) {
    let what = String::from("connections");
    connection::refuse(stream, &Refusal::Overloaded { what, retry_after_ms: 1000 }).await;
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
