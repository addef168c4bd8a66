//! The client: brings together where to send (`nodes`), over what (`link`), and whether to send
//! again (`resend`).
//!
//! ```text
//! call ─▶ nodes: where, and when? ─▶ link: one attempt ─▶ nodes: who leads, who is there?
//!   ▲                                                       │
//!   └────────────── after a pause ◀─ again ◀─ resend: done, failed, or again?
//! ```

#[cfg(test)]
mod client_test;
#[cfg(test)]
mod failover_test;
#[cfg(test)]
mod random_test;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use celeriant_schema::{
    AggregateKey, ClusterId, Credential, CredentialError, Refusal, Request, Response, Selector,
    Version,
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::backoff::{self, Backoff};
use crate::event::IntoId;
use crate::keys::KeyRing;
use crate::link::{Attempt, Dial, Link, Pages, Shared, Tcp};
use crate::nodes::{Choice, NodeId, Nodes, Place};
use crate::queries::{Head, List};
use crate::resend::{Course, Next, Resend};
use crate::{ClientId, Credentials, Error, Event, Once, Read, Tls, Url, Watch, Write, Writer};

/// Longest timeout: longer ones are as good as none.
const TIMEOUT_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Most connections to one node.
const CONNECTIONS_MAX: usize = 64;
/// A read that any node may answer waits for a follower half of its time, and at most this long.
const FOLLOWER_PATIENCE: Duration = Duration::from_secs(1);
/// What can be sent again waits for a leader half of its time, and at most this long, if there is
/// another node to ask.
pub(crate) const LEADER_PATIENCE: Duration = Duration::from_secs(3);

/// Holds the API key of whoever connects without saying one.
const API_KEY_VARIABLE: &str = "CELERIANT_API_KEY";

/// How a [`Client`] behaves. `Client::connect` uses the defaults.
///
/// While leadership moves from one node to the other, calls take longer: nothing is answered for a
/// second or two, sometimes for several. A `timeout` well above that lets them ride it out.
#[derive(Clone, Debug)]
pub struct Options {
    /// A call takes at most this long, with everything that is sent again: what can be goes to
    /// another node, if there is one, when a node has not answered it for 3 s (nor for half of
    /// what is left).
    pub timeout: Duration,
    /// Reaching one node takes at most this long, and at most a third of `timeout`; then the next
    /// one is tried.
    pub connect_timeout: Duration,
    /// A node that owes an answer and gives no sign of life for this long (nor for a third of
    /// `timeout`) is taken for gone: what can be sent again goes to the next one. It is asked for
    /// a sign of life after half of this, so a request that merely takes long is not given up, and
    /// a connection on which answers come costs nothing.
    pub silence_timeout: Duration,
    /// Connections to each node that is spoken to: 1 to 64. Requests that concern one aggregate
    /// use the same one.
    pub connections: usize,
    /// Certificates to connect with. What the URL says of TLS comes first: its own certificates, or
    /// `tls=off`. Without either, connections are in the clear.
    pub tls: Option<Tls>,
    /// Whose rights to use: those of an API key besides those of a certificate, or those of a token
    /// of one, and then no others. What the URL says comes first. Sent over TLS, or to this
    /// machine, and nowhere else.
    pub api_key: Option<Credential>,
    /// The same for a token that ends before the client does: asked instead of `api_key` at each
    /// new connection, and again when the node no longer takes what was shown on one.
    pub credentials: Option<Credentials>,
    /// Told to the node, for its logs.
    pub name: String,
    /// Keys for payloads that are encrypted; see [`Event::encrypt_for`].
    pub keys: Option<Arc<dyn KeyRing>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(2),
            silence_timeout: Duration::from_millis(1_500),
            connections: 1,
            tls: None,
            api_key: None,
            credentials: None,
            name: String::from(concat!("celeriant-client ", env!("CARGO_PKG_VERSION"))),
            keys: None,
        }
    }
}

impl Options {
    /// What is shown, if anything, wherever it comes from.
    pub(crate) fn shown(&self) -> Option<Credentials> {
        self.credentials.clone().or_else(|| self.api_key.clone().map(Credentials::from))
    }
}

/// A store, as an application sees it. Cheap to clone; all clones share its connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    /// Of the nodes that something was asked of.
    links: Mutex<BTreeMap<NodeId, Arc<[Link]>>>,
    options: Options,
    next_id: AtomicU64,
    seed: u64,
}

impl Client {
    /// Connects to `celeriant://host:port[,host:port]`, with the API key, or the token of one, in
    /// `CELERIANT_API_KEY`, if there is one, and otherwise with default [`Options`]. Name all nodes
    /// of the store: any of them that is up tells which one leads.
    ///
    /// # Errors
    /// `Error::Url` (also when the variable holds neither), or `Error::Connect` when no node
    /// answers.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let key = std::env::var(API_KEY_VARIABLE).ok().filter(|key| !key.is_empty());
        let wrong =
            |error: CredentialError| Error::Url { reason: format!("{API_KEY_VARIABLE} {error}") };
        let api_key = key.map(|key| key.trim().parse().map_err(wrong)).transpose()?;
        Self::connect_with(url, Options { api_key, ..Options::default() }).await
    }

    /// Connects to `celeriant://host:port[,host:port]`; see [`Url`] for what may follow.
    ///
    /// # Errors
    /// `Error::Url` or `Error::Tls`, or `Error::Connect` when no node answers.
    pub async fn connect_with(url: &str, options: Options) -> Result<Self, Error> {
        let parsed = url.parse::<Url>()?;
        let tls = parsed.tls(options.tls.as_ref())?;
        let options = match parsed.api_key()? {
            Some(key) => Options { api_key: Some(key), credentials: None, ..options },
            None => options,
        };
        Self::connect_over(Arc::new(Tcp { tls }), backoff::seed(), url, options).await
    }

    pub(crate) async fn connect_over(
        dial: Arc<dyn Dial>,
        seed: u64,
        url: &str,
        options: Options,
    ) -> Result<Self, Error> {
        let nodes = Nodes::new(url.parse::<Url>()?.into_addresses(), seed);
        let ids = nodes.ids();
        let shared = Arc::new(Shared::new(nodes, &options, dial));
        let links = Mutex::default();
        let inner = Inner { shared, links, options, next_id: AtomicU64::new(1), seed };
        let client = Self { inner: Arc::new(inner) };
        let deadline = Instant::now() + client.timeout().min(TIMEOUT_MAX);
        for id in ids {
            if let (Attempt::Answer(_), _) =
                client.inner.send(id, &Request::Ping, deadline, deadline).await?
            {
                return Ok(client);
            }
        }
        Err(client.inner.shared.failure().unwrap_or(Error::Timeout { definite: true }))
    }

    /// Appends events to one aggregate. Await it; see [`Write`] for guards and sequences.
    pub fn append(&self, key: &AggregateKey, events: impl IntoIterator<Item = Event>) -> Write {
        self.write().append(key, events)
    }

    /// Deletes an aggregate. Await it; see [`Write::delete`].
    pub fn delete(&self, key: &AggregateKey) -> Write {
        self.write().delete(key)
    }

    /// Takes away an aggregate's events below a version. Await it.
    pub fn trim(&self, key: &AggregateKey, keep_from: impl Into<Version>) -> Write {
        self.write().trim(key, keep_from)
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

    /// Watches what happens to many aggregates, from the first event ever on if nothing else is
    /// said.
    pub fn watch(&self, selector: Selector) -> Watch {
        Watch::new(self.clone(), selector)
    }

    /// Watches what any of `selectors` covers, as one feed with one cursor: two to 64 of them, or
    /// one as [`Client::watch`].
    pub fn watch_each(&self, selectors: impl IntoIterator<Item = Selector>) -> Watch {
        let mut selectors: Vec<Selector> = selectors.into_iter().collect();
        match selectors.len() {
            1 => self.watch(selectors.remove(0)),
            _ => self.watch(Selector::Several(selectors)),
        }
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

    /// Asks the node that is believed to lead, or another one, for a sign of life; how long that
    /// took.
    ///
    /// # Errors
    /// `Error::Connect` or `Error::Timeout` when there is none.
    pub async fn ping(&self) -> Result<Duration, Error> {
        let begin = Instant::now();
        match self.call(&Request::Ping, Resend::Read, self.timeout()).await? {
            Response::Pong => Ok(begin.elapsed()),
            other => Err(unexpected(&other)),
        }
    }

    /// Gives a node an operator's order, as JSON, and returns its report, as JSON: for tools. Goes
    /// to the leader once the node that was asked says that only that one can do it. Sent again
    /// only if it certainly was not carried out.
    ///
    /// # Errors
    /// As those of a write without sequences.
    pub async fn admin(&self, order: impl Into<String>) -> Result<String, Error> {
        let report = self.order(order.into(), Resend::Unsequenced).await?;
        Ok(String::from_utf8_lossy(&report).into_owned())
    }

    /// Gives an order, and returns the report.
    pub(crate) async fn order(&self, order: String, resend: Resend) -> Result<Bytes, Error> {
        match self.call(&Request::Admin(order.into()), resend, self.timeout()).await? {
            Response::Admin(report) => Ok(report),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a request as it is, for gateways, which pass on what others have asked: like the calls
    /// above, again where that is safe, until `timeout` has passed.
    ///
    /// # Errors
    /// As those of the call that makes such a request.
    pub async fn pass_on(&self, request: &Request, timeout: Duration) -> Result<Response, Error> {
        let resend = match request {
            Request::Write(write) => crate::write::resend(write),
            Request::Admin(_) => Resend::Unsequenced,
            _ => Resend::Read,
        };
        self.call(request, resend, timeout).await
    }

    /// Which store this is: of the first node that answered.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.inner.shared.cluster()
    }

    /// How this client behaves.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.inner.options.timeout
    }

    /// Waits between tries of something that is more than one request.
    pub(crate) fn backoff(&self, first: Duration, max: Duration) -> Backoff {
        Backoff::new(first, max, self.inner.next_seed())
    }

    /// Sends a request, again where that is safe and can help, until it is answered or `timeout`
    /// has passed.
    pub(crate) async fn call(
        &self,
        request: &Request,
        resend: Resend,
        timeout: Duration,
    ) -> Result<Response, Error> {
        let any = match request {
            Request::Read(query) => query.any,
            Request::Head(query) => query.any,
            _ => false,
        };
        Ok(self.call_to(any, request, resend, timeout).await?.0)
    }

    /// The same, also to nodes that do not lead, if `any` will do; and the pages that follow the
    /// answer.
    pub(crate) async fn call_to(
        &self,
        any: bool,
        request: &Request,
        resend: Resend,
        timeout: Duration,
    ) -> Result<(Response, Option<Pages>), Error> {
        let inner = &*self.inner;
        let deadline = Instant::now() + timeout.min(TIMEOUT_MAX);
        let mut course = Course::new(resend, inner.next_seed());
        course.renews = inner.options.credentials.is_some();
        loop {
            let place = if any { Place::Any(course.attempts()) } else { Place::Leader };
            let Some(choice) = inner.choose(place, deadline).await else {
                return Err(course.out_of_time(inner.shared.failure()));
            };
            let once = resend == Resend::Unsequenced;
            let attempt = inner.attempt(choice, place, request, once, deadline).await;
            let (attempt, pages) = match attempt {
                Ok(attempt) => attempt,
                Err(error) => return Err(course.not_sent(error)),
            };
            let pause = match course.take(attempt) {
                Next::Done(response) => return Ok((response, pages)),
                Next::Failed(error) => return Err(error),
                Next::Again(pause) => pause,
            };
            if Instant::now() + pause >= deadline {
                return Err(course.out_of_time(inner.shared.failure()));
            }
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
    }
}

impl Inner {
    /// Waits until a node may be asked; `None`: that is not before `deadline`.
    async fn choose(&self, place: Place, deadline: Instant) -> Option<Choice> {
        loop {
            let now = Instant::now();
            let choice = self.shared.nodes(|nodes| nodes.choose(now, place));
            if choice.at <= now {
                return Some(choice);
            }
            if choice.at >= deadline {
                return None;
            }
            // Others may learn more meanwhile: then look again.
            sleep_until(choice.at).await;
        }
    }

    /// One attempt, and what it says about the nodes.
    async fn attempt(
        &self,
        choice: Choice,
        place: Place,
        request: &Request,
        once: bool,
        deadline: Instant,
    ) -> Result<(Attempt, Option<Pages>), Error> {
        let begin = Instant::now();
        let half = deadline.saturating_duration_since(begin) / 2;
        let until = match request {
            // A page of a feed takes its time wherever it is asked for.
            Request::Feed(_) => deadline,
            _ if choice.spread => begin + half.min(FOLLOWER_PATIENCE),
            _ if once || self.shared.nodes(|nodes| nodes.is_alone()) => deadline,
            _ => begin + half.min(LEADER_PATIENCE),
        };
        let (attempt, pages) = self.send(choice.node, request, until, deadline).await?;
        let now = Instant::now();
        self.shared.nodes(|nodes| match &attempt {
            Attempt::Answer(Response::Refused(Refusal::NotLeader { leader })) => {
                nodes.does_not_lead(now, choice, leader.as_deref());
            }
            Attempt::Answer(Response::Refused(Refusal::NoLeader)) => {
                nodes.does_not_lead(now, choice, None);
            }
            Attempt::Answer(Response::Refused(Refusal::NotYet { .. }))
            | Attempt::TimedOut { .. }
                if choice.spread =>
            {
                nodes.is_behind(now, choice, now - begin);
            }
            // It is there, and cannot do it: perhaps it leads nobody any more, and is the last to
            // hear of it.
            Attempt::TimedOut { .. } => nodes.does_not_lead(now, choice, None),
            Attempt::Answer(answer) if place == Place::Leader && only_a_leader_says(answer) => {
                nodes.leads(choice);
            }
            _ => {}
        });
        Ok((attempt, pages))
    }

    async fn send(
        &self,
        node: NodeId,
        request: &Request,
        until: Instant,
        deadline: Instant,
    ) -> Result<(Attempt, Option<Pages>), Error> {
        // Forgotten meanwhile: there are newer addresses.
        let Some(links) = self.links(node) else {
            return Ok((Attempt::Lost { sent: false }, None));
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let link = &links[lane(request, links.len())];
        let (attempt, pages) = link.attempt(id, request, until, deadline).await?;
        if matches!(attempt, Attempt::Answer(Response::Refused(Refusal::Unauthenticated { .. }))) {
            self.renew(node, &links);
        }
        Ok((attempt, pages))
    }

    /// What was shown on these connections does not count any more: requests to come go over new
    /// ones. Others end on these, which close behind them.
    fn renew(&self, node: NodeId, used: &Arc<[Link]>) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let is_current = links.get(&node).is_some_and(|links| Arc::ptr_eq(links, used));
        if is_current && self.options.credentials.is_some() {
            links.remove(&node);
        }
    }

    fn links(&self, node: NodeId) -> Option<Arc<[Link]>> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(links) = links.get(&node) {
            return Some(Arc::clone(links));
        }
        let (ids, address) =
            self.shared.nodes(|nodes| (nodes.ids(), nodes.address(node).map(str::to_owned)));
        let address = address?;
        links.retain(|id, _| ids.contains(id));
        let link = |_| Link::new(Arc::clone(&self.shared), node, address.clone());
        let made: Arc<[Link]> =
            (0..self.options.connections.clamp(1, CONNECTIONS_MAX)).map(link).collect();
        links.insert(node, Arc::clone(&made));
        Some(made)
    }

    fn next_seed(&self) -> u64 {
        self.seed ^ self.next_id.fetch_add(1, Ordering::Relaxed).wrapping_mul(0xd134_2543_de82_ef95)
    }
}

/// Whether a node that does not lead cannot have given this answer.
fn only_a_leader_says(answer: &Response) -> bool {
    match answer {
        Response::Pong | Response::Admin(_) | Response::Feed(_) => false,
        // The state of aggregates; others are about the request, or the node.
        Response::Refused(refusal) => (2000..3000).contains(&refusal.code()),
        _ => true,
    }
}

/// One aggregate, one connection: so its requests are handled in the order they were made.
fn lane(request: &Request, lanes: usize) -> usize {
    let key = match request {
        Request::Write(write) => write.members.first().map(|member| &member.key),
        Request::Read(query) => Some(&query.key),
        Request::Head(query) => Some(&query.key),
        Request::List(_) | Request::Feed(_) | Request::Ping | Request::Admin(_) => None,
    };
    let lanes = u16::try_from(lanes).unwrap_or(u16::MAX);
    key.map_or(0, |key| usize::from(key.shard(lanes).value()))
}

pub(crate) fn unexpected(response: &Response) -> Error {
    let kind = match response {
        Response::Receipt(_) => "a receipt",
        Response::Page(_) => "a page",
        Response::Head(_) => "a head",
        Response::List(_) => "a list",
        Response::Feed(_) => "a page of a feed",
        Response::Pong => "a pong",
        Response::Admin(_) => "a report",
        Response::Refused(_) => "a refusal",
    };
    Error::Protocol { reason: format!("{kind} does not answer this request") }
}
