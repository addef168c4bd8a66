//! Asks the node from inside, like any client: for actors that keep what they know in its log.

use std::sync::atomic::{AtomicU64, Ordering};

use celeriant_net::{Incoming, ReplySender, Service};
use celeriant_schema::{Refusal, Request, Response};
use tokio::time::{Instant, timeout_at};

use crate::router::Router;

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

    /// Asks; `bytes` is what the request is admitted as.
    pub async fn ask(&self, request: Request, bytes: usize, deadline: Instant) -> Response {
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
