//! One connection to one node, shared by everything that has something to ask of it.
//!
//! ```text
//! attempt() ─ queue ─▶ driver task ─▶ socket        the driver connects when something is asked,
//!     ▲                    │                        introduces itself, sends, matches answers to
//!     └──── answer ────────┘                        requests by id
//! ```
//!
//! When the node cannot be reached, or the connection is lost, everything that waits is told so at
//! once: another node may do. The one thing that must never be wrong is whether a request may have
//! left this process: see [`Stage`].
//! Deliberately absent: sending again, and choosing the node. That is up to `resend` and `nodes`.

mod dial;
mod driver;
mod session;
mod stage;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use celeriant_schema::limits::REQUEST_BYTES_MAX;
use celeriant_schema::{ClusterId, FeedPage, Following, Refusal, Request, Response, wire};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::nodes::{NodeId, Nodes};
use crate::{Credentials, Error, Options};
#[cfg(test)]
pub(crate) use dial::Dialing;
pub(crate) use dial::{Dial, Tcp};
pub use dial::{Pipe, dial};
use stage::Stage;

/// Requests that wait for their turn on one connection.
const QUEUE: usize = 1024;

/// How one attempt went.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// Answered.
    Answer(Response),
    /// There is no connection, or no more. Not `sent`: the request never left this process.
    Lost { sent: bool },
    /// The deadline passed. Not `sent`: it did not and will not leave this process.
    TimedOut { sent: bool },
}

/// What all links of a client share: what is known of the nodes, and how to speak to them.
#[derive(Debug)]
pub(crate) struct Shared {
    dial: Arc<dyn Dial>,
    name: String,
    credentials: Option<Credentials>,
    connect_timeout: Duration,
    silence_timeout: Duration,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    nodes: Nodes,
    /// Of the first node that answered; another one is another store.
    cluster: Option<ClusterId>,
    /// What the latest node said a request may weigh.
    request_bytes_max: usize,
    /// Why the latest attempt to reach a node failed; `None` after a success.
    failure: Option<Failure>,
}

#[derive(Clone, Debug)]
struct Failure {
    address: String,
    reason: String,
    refusal: Option<Refusal>,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure.refusal {
            Some(
                refusal @ (Refusal::UnsupportedProtocol { .. } | Refusal::Unauthenticated { .. }),
            ) => refusal.into(),
            _ => Self::Connect { address: failure.address, reason: failure.reason },
        }
    }
}

impl Shared {
    pub(crate) fn new(nodes: Nodes, options: &Options, dial: Arc<dyn Dial>) -> Self {
        // Whoever waits only so long must notice in time to ask another node.
        let share = options.timeout / 3;
        let known =
            Known { nodes, cluster: None, request_bytes_max: REQUEST_BYTES_MAX, failure: None };
        Self {
            dial,
            name: options.name.clone(),
            credentials: options.shown(),
            connect_timeout: options.connect_timeout.min(share),
            silence_timeout: options.silence_timeout.min(share),
            known: Mutex::new(known),
        }
    }

    /// Looks at the nodes, or changes what is known of them.
    pub(crate) fn nodes<T>(&self, with: impl FnOnce(&mut Nodes) -> T) -> T {
        with(&mut self.known().nodes)
    }

    /// Which store the nodes are of, once one has answered.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.known().cluster
    }

    /// Why the latest attempt to reach a node failed.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.known().failure.clone().map(Error::from)
    }

    /// The node was not reached, or lost.
    fn down(&self, node: NodeId, took: Duration, failure: Failure) {
        tracing::debug!(?failure, "no connection");
        let mut known = self.known();
        known.nodes.down(Instant::now(), node, took);
        known.failure = Some(failure);
    }

    /// The node answered something.
    fn up(&self, node: NodeId) {
        let mut known = self.known();
        known.nodes.up(node);
        known.failure = None;
    }

    /// A panic while holding it is a bug in `nodes`, whose changes are small enough to go on with.
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request on its way to the socket.
#[derive(Debug)]
struct Call {
    id: u64,
    frame: Bytes,
    stage: Arc<Stage>,
    owed: Owed,
}

/// The pages of a feed that follow the one that answered. Ends with the last, or with the
/// connection. As many as are bounded by what was asked for may be held.
pub(crate) type Pages = mpsc::UnboundedReceiver<FeedPage>;

/// What a node owes to a caller.
#[derive(Debug)]
struct Owed {
    /// Until it has come.
    answer: Option<oneshot::Sender<Response>>,
    /// Where pages that follow go.
    further: Option<(Following, mpsc::UnboundedSender<FeedPage>)>,
}

impl Owed {
    /// For `request`: what the node owes, and where it arrives.
    fn of(request: &Request) -> (Self, oneshot::Receiver<Response>, Option<Pages>) {
        let (answer, answered) = oneshot::channel();
        let (further, pages) = match request {
            Request::Feed(query) if query.more > 0 => {
                let (sender, pages) = mpsc::unbounded_channel();
                (Some((Following::new(query), sender)), Some(pages))
            }
            _ => (None, None),
        };
        (Self { answer: Some(answer), further }, answered, pages)
    }

    /// Nobody waits for it any more.
    fn is_dropped(&self) -> bool {
        self.answer.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    /// Hands over what came in a frame of so many bytes; whether more is to come. A caller that is
    /// gone has no use for it.
    fn take(&mut self, response: Response, frame_bytes: usize) -> bool {
        let goes_on = match (&mut self.further, &response) {
            (Some((following, _)), Response::Feed(page)) => following.goes_on(page, frame_bytes),
            _ => false,
        };
        let is_heard = match (self.answer.take(), &self.further, response) {
            (Some(answer), _, response) => answer.send(response).is_ok(),
            (None, Some((_, pages)), Response::Feed(page)) => pages.send(page).is_ok(),
            // Whoever asks on is refused again.
            _ => false,
        };
        goes_on && is_heard
    }
}

/// A handle to one connection. Without handles it ends.
#[derive(Debug)]
pub(crate) struct Link {
    calls: mpsc::Sender<Call>,
    node: NodeId,
    shared: Arc<Shared>,
}

impl Link {
    /// Connects when there is something to ask.
    pub(crate) fn new(shared: Arc<Shared>, node: NodeId, address: String) -> Self {
        let (calls, queue) = mpsc::channel(QUEUE);
        tokio::spawn(driver::run(Arc::clone(&shared), node, address, queue));
        Self { calls, node, shared }
    }

    /// Sends `request` once, for the node to give up at `deadline`, and waits for its answer
    /// `until` then. With the pages that follow it, if it asked for any.
    ///
    /// # Errors
    /// `Error::TooLarge` when the node would not take it.
    pub(crate) async fn attempt(
        &self,
        id: u64,
        request: &Request,
        until: Instant,
        deadline: Instant,
    ) -> Result<(Attempt, Option<Pages>), Error> {
        let frame = self.encode(id, request, deadline)?;
        let (owed, answered, pages) = Owed::of(request);
        let attempt = self.send(Call { id, frame, stage: Arc::default(), owed }, answered, until);
        Ok((attempt.await, pages))
    }

    async fn send(
        &self,
        call: Call,
        answered: oneshot::Receiver<Response>,
        until: Instant,
    ) -> Attempt {
        let stage = Arc::clone(&call.stage);
        match timeout_at(until, self.calls.send(call)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                // The driver ends only with its runtime: nothing was or will be sent.
                let reason = String::from("the runtime that the client was made in is gone");
                let failure = Failure { address: String::new(), reason, refusal: None };
                self.shared.down(self.node, Duration::ZERO, failure);
                return Attempt::Lost { sent: false };
            }
            Err(_) => return Attempt::TimedOut { sent: false },
        }
        match timeout_at(until, answered).await {
            Ok(Ok(response)) => Attempt::Answer(response),
            Ok(Err(_)) => Attempt::Lost { sent: !stage.cancel() },
            Err(_) => Attempt::TimedOut { sent: !stage.cancel() },
        }
    }

    fn encode(&self, id: u64, request: &Request, deadline: Instant) -> Result<Bytes, Error> {
        // The node gives up a little earlier than the caller, so that its word on what was done
        // still arrives.
        let left = deadline.saturating_duration_since(Instant::now());
        let left = left - (left / 10).min(Duration::from_millis(200));
        let deadline_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
        let mut frame = BytesMut::new();
        wire::encode_request(id, deadline_ms, request, &mut frame)?;
        let limit = self.shared.known().request_bytes_max;
        if frame.len() - wire::FRAME_LENGTH_BYTES > limit {
            let what = String::from("request");
            return Err(Error::TooLarge { what, limit: limit as u64 });
        }
        Ok(frame.freeze())
    }
}
