//! One connection to the store that heals itself, shared by everything that has something to ask.
//!
//! ```text
//! attempt() ─ queue ─▶ driver task ─▶ socket        the driver connects, introduces itself, sends,
//!     ▲                    │                        matches answers to requests by id, and starts
//!     └──── answer ────────┘                        over when the connection is lost
//! ```
//!
//! While there is no connection, requests wait in the queue until their own deadline. The one thing
//! that must never be wrong is whether a request may have left this process: see [`Stage`].
//! Deliberately absent: sending again. That is decided by the caller, who knows what is asked.

mod driver;
mod stage;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use celeriant_schema::limits::REQUEST_BYTES_MAX;
use celeriant_schema::{ClusterId, Refusal, Request, Response, wire};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::{Error, Options};
use stage::Stage;

/// Requests that wait for their turn on one connection.
const QUEUE: usize = 1024;

/// How one attempt went.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// Answered, over the connection with this number.
    Answer(Response, u64),
    /// The connection is gone. Not `sent`: the request never left this process.
    Lost { sent: bool },
    /// The deadline passed. Not `sent`: it did not and will not leave this process.
    TimedOut { sent: bool },
}

/// Where the nodes are, and what was learned about them. Shared by all links of a client.
#[derive(Debug)]
pub(crate) struct Route {
    addresses: Vec<String>,
    name: String,
    connect_timeout: Duration,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Of the first node that answered; another one is another store.
    cluster: Option<ClusterId>,
    /// What it said a request may weigh.
    request_bytes_max: usize,
    /// Why the latest attempt to connect failed; `None` after a success.
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
            Some(refusal @ Refusal::UnsupportedProtocol { .. }) => refusal.into(),
            _ => Self::Connect { address: failure.address, reason: failure.reason },
        }
    }
}

impl Route {
    pub(crate) fn new(addresses: Vec<String>, options: &Options) -> Self {
        let known = Known { request_bytes_max: REQUEST_BYTES_MAX, ..Known::default() };
        Self {
            addresses,
            name: options.name.clone(),
            connect_timeout: options.connect_timeout,
            known: Mutex::new(known),
        }
    }

    /// A panic while holding it cannot leave it half-changed: every change is one assignment.
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
    answer: oneshot::Sender<(Response, u64)>,
}

#[derive(Debug)]
enum Message {
    Call(Call),
    /// The node behind connection `from` does not lead; `leader` may.
    Reroute {
        leader: Option<String>,
        from: u64,
    },
}

/// A handle to one connection.
#[derive(Debug)]
pub(crate) struct Link {
    messages: mpsc::Sender<Message>,
    route: Arc<Route>,
}

impl Link {
    /// Connects now.
    pub(crate) async fn open(route: Arc<Route>) -> Result<Self, Error> {
        let socket = driver::connect_first(&route).await?;
        Ok(Self::start(route, Some(socket)))
    }

    /// Connects when there is something to ask.
    pub(crate) fn lazy(route: Arc<Route>) -> Self {
        Self::start(route, None)
    }

    fn start(route: Arc<Route>, socket: Option<driver::Socket>) -> Self {
        let (messages, queue) = mpsc::channel(QUEUE);
        tokio::spawn(driver::run(Arc::clone(&route), queue, socket));
        Self { messages, route }
    }

    /// Sends `request` once and waits for its answer.
    ///
    /// # Errors
    /// `Error::TooLarge` when no node would take it.
    pub(crate) async fn attempt(
        &self,
        id: u64,
        request: &Request,
        deadline: Instant,
    ) -> Result<Attempt, Error> {
        let frame = self.encode(id, request, deadline)?;
        let stage = Arc::new(Stage::default());
        let (answer, answered) = oneshot::channel();
        let call = Call { id, frame, stage: Arc::clone(&stage), answer };
        match timeout_at(deadline, self.messages.send(Message::Call(call))).await {
            Ok(Ok(())) => {}
            // The driver ends only with its runtime: nothing was or will be sent.
            Ok(Err(_)) => return Ok(Attempt::Lost { sent: false }),
            Err(_) => return Ok(Attempt::TimedOut { sent: false }),
        }
        Ok(match timeout_at(deadline, answered).await {
            Ok(Ok((response, connection))) => Attempt::Answer(response, connection),
            Ok(Err(_)) => Attempt::Lost { sent: !stage.cancel() },
            Err(_) => Attempt::TimedOut { sent: !stage.cancel() },
        })
    }

    fn encode(&self, id: u64, request: &Request, deadline: Instant) -> Result<Bytes, Error> {
        // The node gives up a little earlier than the caller, so that its word on what was done
        // still arrives.
        let left = deadline.saturating_duration_since(Instant::now());
        let left = left - (left / 10).min(Duration::from_millis(200));
        let deadline_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
        let mut frame = BytesMut::new();
        wire::encode_request(id, deadline_ms, request, &mut frame)?;
        let limit = self.route.known().request_bytes_max;
        if frame.len() - wire::FRAME_LENGTH_BYTES > limit {
            let what = String::from("request");
            return Err(Error::TooLarge { what, limit: limit as u64 });
        }
        Ok(frame.freeze())
    }

    /// The node behind `connection` refused to lead: go to `leader`, or to the next address.
    pub(crate) fn reroute(&self, leader: Option<String>, connection: u64) {
        // A full queue has other such messages in it.
        let _ = self.messages.try_send(Message::Reroute { leader, from: connection });
    }

    /// What a call that ran out of time is told.
    pub(crate) fn out_of_time(&self, definite: bool) -> Error {
        match self.route.known().failure.clone() {
            Some(failure) if definite => failure.into(),
            _ => Error::Timeout { definite },
        }
    }
}
