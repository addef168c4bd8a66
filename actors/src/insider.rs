//! Asks the node from inside, like any client: for actors that keep what they know in its log.

use std::sync::atomic::{AtomicU64, Ordering};

use celeriant_net::{Incoming, ReplySender, Service};
use celeriant_schema::{
    AggregateKey, ClientId, EncodedEvents, Event, Guard, Member, Page, ReadQuery, Receipt, Refusal,
    Request, Response, Version, Write,
};
use tokio::time::{Instant, timeout_at};

use crate::router::Router;

/// What a request is admitted as, besides what it carries, in bytes.
const REQUEST_BYTES: usize = 1 << 10;

/// Nobody's rights are asked.
pub struct Insider {
    router: Router,
    next_id: AtomicU64,
}

impl Insider {
    /// By the way of `router`.
    pub fn new(router: Router) -> Self {
        Self { router, next_id: AtomicU64::new(1) }
    }

    /// The next page of an aggregate, from `from` on, up to what this node shows (`any`) or what
    /// there is. `None`: the aggregate never existed.
    ///
    /// # Errors
    /// Why there is none: nothing was done.
    pub async fn page(
        &self,
        key: AggregateKey,
        from: Version,
        any: bool,
        deadline: Instant,
    ) -> Result<Option<Page>, Refusal> {
        let query = ReadQuery { from, any, ..ReadQuery::all(key) };
        match self.ask(Request::Read(query), 0, deadline).await {
            Response::Page(page) => Ok(Some(page)),
            Response::Refused(Refusal::NotFound { .. }) => Ok(None),
            // Of a read it is known: nothing was done.
            Response::Refused(Refusal::UnknownOutcome) => Err(Refusal::NoLeader),
            Response::Refused(refusal) => Err(refusal),
            other => unreachable!("{other:?} answers no read"),
        }
    }

    /// Appends one event to each of these, all or none.
    ///
    /// # Errors
    /// Why that is not certain to have happened.
    pub async fn append(
        &self,
        events: impl IntoIterator<Item = (AggregateKey, Guard, Event)>,
        deadline: Instant,
    ) -> Result<Receipt, Refusal> {
        let member = |(key, guard, event): (AggregateKey, Guard, Event)| {
            let events = EncodedEvents::encode(&[event])?;
            Ok(Member { key, guard, sequence: None, events, retention: None })
        };
        let members: Vec<_> = events.into_iter().map(member).collect::<Result<_, Refusal>>()?;
        let more = REQUEST_BYTES * members.len().saturating_sub(1);
        let bytes = members.iter().map(|member| member.events.as_bytes().len()).sum::<usize>();
        let write = Request::Write(Write { client_id: ClientId::NONE, members });
        match self.ask(write, bytes + more, deadline).await {
            Response::Receipt(receipt) => Ok(receipt),
            Response::Refused(refusal) => Err(refusal),
            other => unreachable!("{other:?} answers no write"),
        }
    }

    /// Asks; `bytes` is what the request carries.
    pub async fn ask(&self, request: Request, bytes: usize, deadline: Instant) -> Response {
        let bytes = bytes + REQUEST_BYTES;
        let (replies, mut inbox) = ReplySender::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let incoming =
            Incoming { id, deadline: Some(deadline), bytes: bytes as u32, request, by: None };
        self.router.submit(vec![incoming], &replies);
        drop(replies);
        // What waits for a deadline is answered only when somebody looks at it.
        let answered = timeout_at(deadline, inbox.recv()).await.ok().flatten();
        let answered = answered.and_then(|mut answers| answers.pop());
        // Or whoever had to answer is gone: the node stops.
        answered.map_or(Response::Refused(Refusal::UnknownOutcome), |reply| reply.response)
    }
}
