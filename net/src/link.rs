//! The `Link` seam: how the two nodes of a pair reach each other.
//!
//! ```text
//! owner ── send(session, lane, message) ──▶ Link ═══ one session at a time ═══ Link of the peer
//!       ◀── Up · Received · Room · Down · Failed ── (poll_event)
//!
//! quic     QUIC with mutual TLS            production
//! backoff  pauses between attempts         under it
//! ```
//! Operations and events are values, so that a replicator can be a state machine without I/O and a
//! simulation can delay, hold back or lose what it likes.
//!
//! Contract. A link has at most one session at a time; sessions are numbered, later ones higher,
//! and every event names its session, as every operation does: nothing of an old session is taken
//! for the new one's. Within a session, of what one side sends on a lane the other receives a
//! prefix, in order, nothing twice. Lanes don't wait for each other. After `Down` nothing more
//! comes of that session; what was sent and not answered may or may not have arrived. A peer that
//! is `Up` has been proven: certificate, cluster and store agree.
//!
//! Silence is not failure: a session may stay up while nothing gets through, and go down although
//! the peer lives. Whoever must know asks, over the control lane, and judges by its own clock.
//!
//! Backpressure. A lane takes messages while less than its buffer is unsent, then says
//! [`Sent::Full`] and keeps nothing; a [`Event::Room`] follows when half of it is free. What
//! was received and not taken stays bounded too: an owner that doesn't poll stops its peer.
//!
//! Deliberately absent: what messages mean, requests and answers, who leads, and any use of a
//! session's state as evidence for it.

mod backoff;
pub mod quic;

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use celeriant_schema::StoreId;
use celeriant_schema::peer::{BULK_BYTES_MAX, CONTROL_BYTES_MAX, Hello};

use crate::tls::Untrusted;

/// A way of its own through the link: in order in itself, independent of the other.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Lane {
    /// Small messages that must not wait: heartbeats, promises, acknowledgements.
    Control,
    /// Frames of the log.
    Bulk,
}

impl Lane {
    /// Both, the urgent one first.
    pub const ALL: [Self; 2] = [Self::Control, Self::Bulk];

    /// Largest message, in bytes.
    pub const fn message_bytes_max(self) -> usize {
        match self {
            Self::Control => CONTROL_BYTES_MAX,
            Self::Bulk => BULK_BYTES_MAX,
        }
    }

    /// Its place in [`Lane::ALL`].
    pub const fn index(self) -> usize {
        match self {
            Self::Control => 0,
            Self::Bulk => 1,
        }
    }
}

/// One time of being connected, by its number within this process: the later, the higher. The
/// peer counts for itself.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionId(u64);

impl SessionId {
    /// Before the first.
    pub const NONE: Self = Self(0);

    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The bare number.
    pub const fn value(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whom a link is for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Target {
    /// The peer's store; `None` = any other store of the cluster, whichever comes first.
    pub store: Option<StoreId>,
    /// Where to find it, host and port each, tried in turn; none = wait until it comes.
    pub addresses: Vec<String>,
}

/// What became of a message that was to be sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use = "a message that was not taken is not kept"]
pub enum Sent {
    /// It will leave, in its turn, unless the session ends first.
    Taken,
    /// The lane's buffer is full: try again after [`Event::Room`].
    Full,
    /// That session is not up (any more).
    Gone,
}

/// What happens on a link.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// There is a session.
    Up {
        /// Its number.
        session: SessionId,
        /// Who is there; store and cluster as its certificate says.
        peer: Hello,
    },
    /// A message has come.
    Received {
        /// Of which session.
        session: SessionId,
        /// On which lane.
        lane: Lane,
        /// As it was sent.
        message: Bytes,
    },
    /// The lane takes messages again.
    Room {
        /// Of which session.
        session: SessionId,
        /// Which lane.
        lane: Lane,
    },
    /// The session is over.
    Down {
        /// Its number.
        session: SessionId,
        /// Why, as far as this side knows.
        reason: Reason,
    },
    /// An attempt to come together came to nothing. The link goes on trying. Of several between
    /// two polls only the last is told.
    Failed {
        /// Whose attempt: the address, and which side dialed.
        with: String,
        /// Why.
        reason: Reason,
    },
}

/// Why a session ended, or did not come about.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The owner dropped it, or aims at another peer.
    #[error("dropped by this node")]
    Dropped,
    /// The peer closed it in order.
    #[error("closed by the peer")]
    Closed,
    /// Nothing was heard for the idle time.
    #[error("nothing was heard for too long")]
    TimedOut,
    /// The peer's machine knows nothing of it any more.
    #[error("reset by the peer")]
    Reset,
    /// A newer session with the same peer has taken its place.
    #[error("replaced by a newer session")]
    Replaced,
    /// The peer cannot prove that it may be here.
    #[error("peer not trusted: {0}")]
    Untrusted(#[from] Untrusted),
    /// The peer does not trust this node: its own certificate is at fault, or theirs.
    #[error("refused by the peer: {0}")]
    RefusedByPeer(String),
    /// Its hello says another cluster or store than its certificate.
    #[error("the peer's hello contradicts its certificate")]
    Contradiction,
    /// It is of the cluster, but not the peer that is aimed at.
    #[error("store {0} is not the peer")]
    WrongStore(StoreId),
    /// It does not speak this language.
    #[error("the peer breaks the protocol: {0}")]
    Protocol(String),
    /// It cannot be reached, or the system refuses.
    #[error("{0}")]
    Unreachable(String),
}

/// One node's end of the way to its peer. Owned by one actor; used from one thread.
pub trait Link: Send + 'static {
    /// Whom to be connected with from here on. A session with another store ends.
    fn aim(&mut self, target: Target);

    /// Hands over a message; it leaves with the next [`Link::poll_event`]. Never blocks.
    ///
    /// # Panics
    /// When the message is larger than [`Lane::message_bytes_max`].
    fn send(&mut self, session: SessionId, lane: Lane, message: Bytes) -> Sent;

    /// Ends a session, if it still is one: `Down` follows, then a new attempt.
    fn drop_session(&mut self, session: SessionId);

    /// Ends the session in good order, if there is one, and begins none any more. The peer hears of
    /// it while the owner lives and its runtime runs; it is said once and may be lost.
    fn close(&mut self);

    /// Sends what was handed over and takes the next event. `Pending` registers the waker. A link
    /// only lives while it is polled.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event>;
}

/// Waits for the next event.
pub async fn next_event<L: Link>(link: &mut L) -> Event {
    poll_fn(|cx| link.poll_event(cx)).await
}
