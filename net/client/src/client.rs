//! The client: a few connections, and the rules by which a request is sent again.
//!
//! ```text
//! attempt ─▶ answer                        done
//!         ─▶ refused, nothing was done     again after a pause: Overloaded, NoLeader, NotLeader
//!         ─▶ lost, or outcome unknown      again if doing it twice is the same as doing it once
//!                                          (reads; writes with sequences), else UnknownOutcome
//!         ─▶ anything else                 the caller decides
//! ```
//!
//! A write with sequences is sent again **identically**, so the store recognises it. A write
//! without is never sent again once it may have arrived, not even with an exact guard: if the first
//! one landed, the second one's Conflict would tell the caller that nothing was appended.

#[cfg(test)]
mod client_test;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use celeriant_schema::{AggregateKey, AlreadyApplied, Refusal, Request, Response};
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::event::IntoId;
use crate::link::{Attempt, Link, Route};
use crate::queries::{Head, List};
use crate::{ClientId, Error, Event, Once, Read, Write, Writer, url};

/// How a [`Client`] behaves. `Client::connect` uses the defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// A call takes at most this long, with everything that is sent again.
    pub timeout: Duration,
    /// Reaching one node takes at most this long.
    pub connect_timeout: Duration,
    /// Connections to the store. Requests that concern one aggregate use the same one.
    pub connections: usize,
    /// Told to the node, for its logs.
    pub name: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(3),
            connections: 1,
            name: String::from(concat!("celeriant-client ", env!("CARGO_PKG_VERSION"))),
        }
    }
}

/// A store, as an application sees it. Cheap to clone; all clones share its connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    links: Vec<Link>,
    options: Options,
    next_id: AtomicU64,
}

/// What may be done when nobody knows whether an attempt was done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Resend {
    /// Twice is the same as once.
    Safe,
    /// Twice could be twice.
    Never,
}

impl Client {
    /// Connects to `celeriant://host:port[,host:port]`, with default [`Options`].
    ///
    /// # Errors
    /// `Error::Url`, or `Error::Connect` when no node answers.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        Self::connect_with(url, Options::default()).await
    }

    /// Connects to `celeriant://host:port[,host:port]`.
    ///
    /// # Errors
    /// `Error::Url`, or `Error::Connect` when no node answers.
    pub async fn connect_with(url: &str, options: Options) -> Result<Self, Error> {
        let route = Arc::new(Route::new(url::parse(url)?, &options));
        let mut links = vec![Link::open(Arc::clone(&route)).await?];
        while links.len() < options.connections {
            links.push(Link::lazy(Arc::clone(&route)));
        }
        Ok(Self { inner: Arc::new(Inner { links, options, next_id: AtomicU64::new(1) }) })
    }

    /// Appends events to one aggregate. Await it; see [`Write`] for guards and sequences.
    pub fn append(&self, key: &AggregateKey, events: impl IntoIterator<Item = Event>) -> Write {
        self.write().append(key, events)
    }

    /// One atomic write over many aggregates, on whatever shards. Await it.
    pub fn write(&self) -> Write {
        Write::new(self.clone())
    }

    /// Reads an aggregate's events.
    pub fn read(&self, key: &AggregateKey) -> Read {
        Read::new(self.clone(), key.clone())
    }

    /// An aggregate's state without its events. Await it.
    pub fn head(&self, key: &AggregateKey) -> Head {
        Head::new(self.clone(), key.clone())
    }

    /// Names of all orgs.
    pub fn list_orgs(&self) -> List {
        List::new(self.clone(), None, None)
    }

    /// Names of an org's aggregate types.
    pub fn list_types(&self, org: &str) -> List {
        List::new(self.clone(), Some(org), None)
    }

    /// Ids of an org's aggregates of one type.
    pub fn list(&self, org: &str, aggregate_type: &str) -> List {
        List::new(self.clone(), Some(org), Some(aggregate_type))
    }

    /// Decides and appends exactly once, under a client id that is stable for a service.
    pub fn writer(&self, client_id: impl IntoId<ClientId>) -> Writer {
        Writer::new(self.clone(), client_id.into_id())
    }

    /// Decides and appends once per request, however often the request comes: `request_id` is the
    /// idempotency key, used as a client id of its own.
    pub fn once(&self, request_id: impl IntoId<ClientId>) -> Once {
        Once::new(self.clone(), request_id.into_id())
    }

    /// Asks the store for a sign of life; how long that took.
    ///
    /// # Errors
    /// `Error::Connect` or `Error::Timeout` when there is none.
    pub async fn ping(&self) -> Result<Duration, Error> {
        let begin = Instant::now();
        match self.call(&Request::Ping, Resend::Safe, self.timeout()).await? {
            Response::Pong => Ok(begin.elapsed()),
            other => Err(unexpected(&other)),
        }
    }

    /// Whether the connection answers now; not asked twice.
    #[cfg(test)]
    async fn ping_once(&self) -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_millis(50);
        match self.inner.links[0].attempt(u64::MAX, &Request::Ping, deadline).await? {
            Attempt::Answer(..) => Ok(()),
            _ => Err(Error::Timeout { definite: true }),
        }
    }

    /// How this client behaves.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.inner.options.timeout
    }

    /// Sends a request, again where that is safe and can help, until it is answered or `timeout`
    /// has passed.
    pub(crate) async fn call(
        &self,
        request: &Request,
        resend: Resend,
        timeout: Duration,
    ) -> Result<Response, Error> {
        let deadline = Instant::now() + timeout;
        let link = self.link_for(request);
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        // Whether an earlier attempt may have been done, or may still be.
        let mut in_doubt = false;
        // Why the latest attempt was not done, if it certainly was not.
        let mut refused: Option<Refusal>;
        loop {
            let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
            let pause = match link.attempt(id, request, deadline).await? {
                Attempt::Answer(Response::Refused(refusal), connection) => {
                    if let Refusal::NotLeader { leader } = &refusal {
                        link.reroute(leader.clone(), connection);
                    }
                    refused = Some(refusal.clone());
                    match judge(refusal, resend)? {
                        Step::Done(response) => return Ok(response),
                        Step::Again { after, doubt } => {
                            in_doubt |= doubt;
                            after
                        }
                    }
                }
                Attempt::Answer(response, _) => return Ok(response),
                Attempt::Lost { sent } => {
                    in_doubt |= sent;
                    refused = None;
                    Duration::ZERO
                }
                Attempt::TimedOut { sent } => {
                    return Err(link.out_of_time(!(in_doubt || sent)));
                }
            };
            if in_doubt && resend == Resend::Never {
                return Err(Error::UnknownOutcome);
            }
            let pause = pause.max(backoff.wait());
            if Instant::now() + pause >= deadline {
                return Err(match refused {
                    Some(refusal) if !in_doubt => refusal.into(),
                    _ => link.out_of_time(!in_doubt),
                });
            }
            sleep(pause).await;
        }
    }

    /// One aggregate, one connection: so its requests are handled in the order they were made.
    fn link_for(&self, request: &Request) -> &Link {
        let links = &self.inner.links;
        let key = match request {
            Request::Write(write) => write.members.first().map(|member| &member.key),
            Request::Read(query) => Some(&query.key),
            Request::Head(query) => Some(&query.key),
            Request::List(_) | Request::Ping => None,
        };
        let spread = u16::try_from(links.len()).unwrap_or(u16::MAX);
        &links[key.map_or(0, |key| usize::from(key.shard(spread).value()))]
    }
}

enum Step {
    Done(Response),
    /// `doubt`: nobody knows whether it was done.
    Again {
        after: Duration,
        doubt: bool,
    },
}

/// What a refusal means for sending again.
fn judge(refusal: Refusal, resend: Resend) -> Result<Step, Error> {
    let again = |after, doubt| Ok(Step::Again { after, doubt });
    match refusal {
        // The store recognised this very write: it has landed, and this is its receipt.
        Refusal::Conflict { already_applied: AlreadyApplied::Receipt(mut receipt), .. } => {
            receipt.already_applied = true;
            Ok(Step::Done(Response::Receipt(*receipt)))
        }
        Refusal::Overloaded { retry_after_ms, .. } => {
            again(Duration::from_millis(u64::from(retry_after_ms)), false)
        }
        Refusal::NoLeader | Refusal::NotLeader { .. } => again(Duration::ZERO, false),
        Refusal::UnknownOutcome if resend == Resend::Safe => again(Duration::ZERO, true),
        Refusal::DeadlineExceeded { definite } if resend == Resend::Safe => {
            again(Duration::ZERO, !definite)
        }
        other => Err(other.into()),
    }
}

pub(crate) fn unexpected(response: &Response) -> Error {
    let kind = match response {
        Response::Receipt(_) => "a receipt",
        Response::Page(_) => "a page",
        Response::Head(_) => "a head",
        Response::List(_) => "a list",
        Response::Pong => "a pong",
        Response::Refused(_) => "a refusal",
    };
    Error::Protocol { reason: format!("{kind} does not answer this request") }
}
