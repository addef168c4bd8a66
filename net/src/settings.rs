//! What a listener and its connections need to know: plain data, and the signal to stop.

use std::time::Duration;

use celeriant_schema::ClusterId;
use celeriant_schema::limits;
use tokio::sync::watch;

/// Identity and limits of the client side of a node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Told to every client, so that it notices when it talks to another cluster.
    pub cluster_id: ClusterId,
    /// This node's name.
    pub node_id: String,
    /// Number of shards of the cluster.
    pub shards: u16,
    /// Connections that may be open at a time, over all listeners that share a [`crate::Door`].
    pub connections_max: usize,
    /// Unanswered requests of one connection; above it the socket is not read.
    pub requests_max: usize,
    /// Bytes of unanswered requests, and of the answers they may bring, of one connection; above
    /// it the socket is not read.
    pub bytes_max: usize,
    /// Largest request on the wire, in bytes.
    pub request_bytes_max: usize,
    /// TLS handshakes under way of one listener; for one more, the oldest ends.
    pub handshakes_max: usize,
    /// A TLS handshake that is not over by then is given up.
    pub handshake_timeout: Duration,
    /// A connection that has not introduced itself by then is closed.
    pub hello_timeout: Duration,
    /// A client that takes nothing of what waits for it for this long is cut off.
    pub stall_timeout: Duration,
    /// How long a closing connection may take to answer what was submitted.
    pub drain_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster_id: ClusterId::default(),
            node_id: String::from("node"),
            shards: 1,
            connections_max: 20_000,
            requests_max: limits::CONNECTION_REQUESTS_MAX,
            bytes_max: limits::CONNECTION_BYTES_MAX,
            request_bytes_max: limits::REQUEST_BYTES_MAX,
            handshakes_max: 1_024,
            handshake_timeout: Duration::from_secs(5),
            hello_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Tells listeners and connections to stop. Dropping it tells them, too.
#[derive(Debug)]
pub struct Shutdown {
    sender: watch::Sender<bool>,
}

/// The listening side of a [`Shutdown`].
#[derive(Clone, Debug)]
pub struct Stop {
    receiver: watch::Receiver<bool>,
}

impl Shutdown {
    /// A signal that has not been given yet.
    pub fn new() -> Self {
        Self { sender: watch::Sender::new(false) }
    }

    /// A listener for the signal.
    pub fn stop(&self) -> Stop {
        Stop { receiver: self.sender.subscribe() }
    }

    /// Gives the signal: no more connections or requests are taken; what was submitted is answered.
    pub fn trigger(&self) {
        self.sender.send_replace(true);
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

/// A signal given elsewhere: `true` = stop; a sender that is gone counts as `true`.
impl From<watch::Receiver<bool>> for Stop {
    fn from(receiver: watch::Receiver<bool>) -> Self {
        Self { receiver }
    }
}

impl Stop {
    /// Whether the signal was given. Cheap.
    pub fn is_set(&self) -> bool {
        self.receiver.has_changed().is_err() || *self.receiver.borrow()
    }

    /// Waits for the signal.
    pub async fn wait(&mut self) {
        // An error means that the other end is gone: as good as the signal.
        let _ = self.receiver.wait_for(|stopped| *stopped).await;
    }
}
