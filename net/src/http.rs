//! The gateway: the store over HTTP, for whoever has no client of its own.
//!
//! ```text
//! server   connections: time for heads and answers, sizes, TLS, the signal to stop
//! routes   one table of what there is: the router and openapi.json are both made of it
//! call     a request taken apart; what the route does not know is refused by name
//! append   events and atomic writes        read    events, heads, names
//! sync     what a device wrote while away   schemas  what payloads must conform to
//! keys     API keys, and tokens of them
//! watch    feeds: pages, and Server-Sent Events
//! node     health, cluster, openapi.json   problem refusals as problem+json
//! inspector a page for people              cors    whose pages may use all this
//! asker    a request to the Service as a future
//! ```
//! It asks the very same [`Service`] that the connections of the binary protocol ask, and knows
//! nothing of a write, a read or a feed but their spelling: one path, one meaning. Memory is
//! bounded by connections × one page, bodies by a budget of their own; a client that is slow is
//! served slowly, one that stands still is dropped.
//!
//! What a connection may do is checked where the service is asked: `asker`, by [`crate::rights`].
//!
//! Deliberately absent: HTTP/2 (a proxy speaks it where it is wanted), sessions, compression.

mod append;
mod asker;
mod audit;
mod call;
mod cors;
mod inspector;
mod keys;
mod node;
mod openapi;
mod problem;
mod read;
mod routes;
mod schemas;
mod server;
mod sync;
mod text;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use celeriant_schema::limits::REQUEST_BYTES_MAX;
use celeriant_schema::{Refusal, Request, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::listener::{Door, Limits, host_clients};
use crate::service::{Elsewhere, Service};
use crate::settings::Stop;
use asker::Asker;
use call::Call;
use problem::Problem;

/// Limits and times of a gateway. Plain data.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Connections that may be open at a time.
    pub connections_max: usize,
    /// TLS handshakes under way; for one more, the oldest ends.
    pub handshakes_max: usize,
    /// A TLS handshake that is not over by then is given up.
    pub handshake_timeout: Duration,
    /// Between two requests of a connection, and until a request's head is there.
    pub head_timeout: Duration,
    /// Largest head of a request, in bytes, and what waits to be written of an answer.
    pub head_bytes_max: usize,
    /// Until a request's body is there.
    pub body_timeout: Duration,
    /// Largest body of a request, in bytes. JSON and base64 take more than what they mean.
    pub body_bytes_max: usize,
    /// Bodies of all requests that are not answered, in bytes.
    pub bodies_bytes_max: usize,
    /// Until the node has answered.
    pub request_timeout: Duration,
    /// Questions to the node that may be open at a time.
    pub questions_max: usize,
    /// Pages of events that may be held at a time, until their clients have taken them.
    pub pages_max: usize,
    /// A client that takes nothing of what waits for it for this long is cut off.
    pub stall_timeout: Duration,
    /// How long a closing connection may take to answer what was asked.
    pub drain_timeout: Duration,
    /// A sign of life on a watch where nothing happens.
    pub heartbeat: Duration,
    /// Origins whose pages may use the gateway, besides its own.
    pub cors: Vec<String>,
    /// It listens on loopback and asks nobody who he is: only names that cannot be anybody else's
    /// are answered to.
    pub is_local: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            handshakes_max: 256,
            handshake_timeout: Duration::from_secs(5),
            head_timeout: Duration::from_secs(30),
            head_bytes_max: 64 << 10,
            body_timeout: Duration::from_secs(30),
            body_bytes_max: REQUEST_BYTES_MAX / 3 * 4,
            bodies_bytes_max: 32 << 20,
            request_timeout: Duration::from_secs(10),
            questions_max: 16_384,
            pages_max: 128,
            stall_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(5),
            cors: Vec::new(),
            is_local: false,
        }
    }
}

/// Serves whoever connects to `listener`, until `stop`; then takes no more, ends watches, answers
/// what was asked, and returns. Everything runs on the calling thread's runtime and ends with this
/// future. `elsewhere`: asks the leader, where that may be another node.
pub async fn serve<V: Service>(
    listener: TcpListener,
    service: V,
    elsewhere: Option<Arc<dyn Elsewhere>>,
    settings: Settings,
    door: Door,
    stop: Stop,
) {
    let settings = Arc::new(settings);
    let limits = Limits {
        connections_max: settings.connections_max,
        handshakes_max: settings.handshakes_max,
        handshake_timeout: settings.handshake_timeout,
    };
    let (asker, answers) = Asker::new(service, settings.questions_max, elsewhere);
    let gateway = Gateway {
        asker,
        budget: Budget::new(&settings),
        settings: Arc::clone(&settings),
        stop: stop.clone(),
    };
    let server = server::Server::new(routes::router(gateway), settings, stop.clone());
    tokio::select! {
        biased;
        () = answers.bring() => {}
        () = host_clients(listener, server, limits, door, stop) => {}
    }
}

/// What every operation is given. Cheap to clone.
#[derive(Clone)]
struct Gateway<V> {
    asker: Asker<V>,
    budget: Budget,
    settings: Arc<Settings>,
    stop: Stop,
}

impl<V: Service> Gateway<V> {
    /// Asks the node something small.
    async fn ask(&self, request: Request) -> Result<Response, Refusal> {
        self.asker.ask(request, SMALL, self.settings.request_timeout).await
    }

    /// Gives an order, and returns the report.
    async fn order(&self, order: &Value) -> Result<Value, Refusal> {
        let order = Bytes::from(order.to_string());
        let (bytes, patience) = (order.len(), self.settings.request_timeout);
        let answer = self.asker.ask(Request::Admin(order), bytes, patience).await?;
        let report = match &answer {
            Response::Admin(report) => serde_json::from_slice(report).ok(),
            _ => None,
        };
        report.ok_or_else(|| unexpected(&answer))
    }

    /// A small body as what it stands for.
    async fn take<T: DeserializeOwned>(&self, call: &mut Call) -> Result<T, Problem> {
        let body = call.take_json(&self.settings, &self.budget).await?;
        serde_json::from_slice(&body.bytes).map_err(|error| Problem::invalid("body", error))
    }
}

/// What a question without a body counts as, in bytes.
const SMALL: usize = 256;
/// When there is no memory: about as long as it takes to answer some of those before.
const FULL_RETRY_MS: u32 = 1_000;

/// Memory that all connections share.
#[derive(Clone)]
struct Budget {
    bodies: Arc<Semaphore>,
    pages: Arc<Semaphore>,
}

impl Budget {
    fn new(settings: &Settings) -> Self {
        // A single body must fit.
        let bodies = settings.bodies_bytes_max.max(settings.body_bytes_max);
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits));
        Self { bodies: semaphore(bodies), pages: semaphore(settings.pages_max) }
    }

    /// Room for a part of a body.
    fn bytes(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.bodies).try_acquire_many_owned(bytes);
        room.map_err(|_| full("bodies of requests"))
    }

    /// Room for a page, now.
    fn page_now(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.pages).try_acquire_owned().ok()
    }

    /// Room for a page, in turn.
    async fn page(&self, patience: Duration) -> Result<OwnedSemaphorePermit, Refusal> {
        match timeout(patience, Arc::clone(&self.pages).acquire_owned()).await {
            Ok(Ok(page)) => Ok(page),
            _ => Err(full("pages that their readers have not taken")),
        }
    }
}

fn full(what: &str) -> Refusal {
    Refusal::Overloaded { what: what.into(), retry_after_ms: FULL_RETRY_MS }
}

/// The node answered something that is no answer to what was asked.
fn unexpected(response: &Response) -> Refusal {
    tracing::error!(?response, "not an answer to what was asked");
    Refusal::Internal { id: 0 }
}

/// The way of requests over HTTP, for tests of rights: whoever shows `authorization` on a
/// connection with `rights` asks them of `service`.
#[cfg(test)]
pub(crate) async fn ask_as<V: Service>(
    service: V,
    rights: &crate::Rights,
    authorization: &str,
    requests: &[Request],
) -> Result<Vec<Result<Response, Refusal>>, Refusal> {
    let shown = call::credential(Some(authorization), None)?;
    let rights = shown.map_or_else(|| Ok(rights.clone()), |shown| rights.with(&shown))?;
    let (asker, answers) = Asker::new(service, 1, None);
    let asker = asker.on_behalf_of(rights);
    let asking = async {
        let mut outcomes = Vec::new();
        for request in requests {
            outcomes.push(asker.ask(request.clone(), SMALL, Duration::from_secs(10)).await);
        }
        outcomes
    };
    tokio::select! {
        biased;
        () = answers.bring() => unreachable!("it goes on"),
        outcomes = asking => Ok(outcomes),
    }
}

#[cfg(test)]
mod http_test;
