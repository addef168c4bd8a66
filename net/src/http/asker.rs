//! Turns a request into a future: the service answers by id, in batches; whoever asked waits for
//! one answer.
//!
//! What only the leader answers is asked of the leader, where that is another node. One way back
//! for all that the gateway asks. A question whose asker is gone (a client that hung up) stays
//! noted until its answer comes, because until then the node works on it: the number of notes is
//! the number of questions that are open, and it is bounded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use celeriant_schema::{Refusal, Request, Response};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::rights::Rights;
use crate::service::{Elsewhere, Incoming, ReplyReceiver, ReplySender, Service};

/// Behind a request's own deadline, for the answer that it has passed to come.
const GRACE: Duration = Duration::from_secs(1);
/// When too much is open: about as long as it takes to answer some of it.
const RETRY_MS: u32 = 100;

/// Asks the service. Cheap to clone: all clones are one.
#[derive(Clone)]
pub(super) struct Asker<V> {
    service: V,
    sender: ReplySender,
    open: Arc<Mutex<Open>>,
    open_max: usize,
    elsewhere: Option<Arc<dyn Elsewhere>>,
    rights: Rights,
}

/// Brings the answers to those who asked.
pub(super) struct Answers {
    receiver: ReplyReceiver,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    next: u64,
    asked: BTreeMap<u64, oneshot::Sender<Response>>,
}

impl<V: Service> Asker<V> {
    /// At most `open_max` questions may be open. [`Answers::bring`] must run meanwhile. Asks what
    /// the gateway itself wants to know, which is everything.
    pub(super) fn new(
        service: V,
        open_max: usize,
        elsewhere: Option<Arc<dyn Elsewhere>>,
    ) -> (Self, Answers) {
        let (sender, receiver) = ReplySender::channel();
        let open = Arc::default();
        let answers = Answers { receiver, open: Arc::clone(&open) };
        let rights = Rights::all();
        (Self { service, sender, open, open_max, elsewhere, rights }, answers)
    }

    /// The same for one who may do less.
    pub(super) fn on_behalf_of(mut self, rights: Rights) -> Self {
        self.rights = rights;
        self
    }

    /// Asks, and waits for the answer. `bytes`: what the question took on its way here.
    ///
    /// # Errors
    /// What is wrong with the request by itself, what is not granted, what the service refuses,
    /// `Overloaded` when too much is open, `DeadlineExceeded` when there is no answer in time.
    pub(super) async fn ask(
        &self,
        mut request: Request,
        bytes: usize,
        patience: Duration,
    ) -> Result<Response, Refusal> {
        request.check()?;
        self.rights.check(&request)?;
        self.rights.shorten_wait(&mut request);
        let deadline = Instant::now() + patience;
        // Payloads are shared, not copied.
        let by = self.rights.orders(&request);
        let passed_on = self.elsewhere.as_ref().map(|elsewhere| (elsewhere, request.clone()));
        match self.ask_here(request, by.clone(), bytes, deadline).await {
            Err(Refusal::NotLeader { leader: Some(leader) })
                if let Some((to, request)) = passed_on =>
            {
                let request = on_behalf_of(by, request);
                to.ask(leader, request, deadline.saturating_duration_since(Instant::now())).await
            }
            answer => answer,
        }
    }

    async fn ask_here(
        &self,
        request: Request,
        by: Option<String>,
        bytes: usize,
        deadline: Instant,
    ) -> Result<Response, Refusal> {
        let (id, answer) = self.note()?;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let incoming = Incoming { id, deadline: Some(deadline), bytes, request, by };
        self.service.submit(vec![incoming], &self.sender);
        let answer = timeout_at(deadline + GRACE, answer).await;
        match answer.map(|answer| answer.map(|response| self.rights.review(response))) {
            Ok(Ok(Response::Refused(refusal))) => Err(refusal),
            Ok(Ok(response)) => Ok(response),
            // The node ends without a word, or is late: nobody can tell what became of it.
            Ok(Err(_)) => Err(Refusal::UnknownOutcome),
            Err(_) => Err(Refusal::DeadlineExceeded { definite: false }),
        }
    }

    fn note(&self) -> Result<(u64, oneshot::Receiver<Response>), Refusal> {
        let mut open = lock(&self.open);
        if open.asked.len() >= self.open_max {
            let what = "unanswered requests over HTTP".into();
            return Err(Refusal::Overloaded { what, retry_after_ms: RETRY_MS });
        }
        open.next += 1;
        let id = open.next;
        let (sender, answer) = oneshot::channel();
        open.asked.insert(id, sender);
        Ok((id, answer))
    }
}

impl Answers {
    /// Does it for ever.
    pub(super) async fn bring(mut self) {
        while let Some(replies) = self.receiver.recv().await {
            for reply in replies {
                let asked = lock(&self.open).asked.remove(&reply.id);
                match asked {
                    // Whoever has hung up wants no answer.
                    Some(asked) => drop(asked.send(reply.response)),
                    None => tracing::error!(id = reply.id, "answer to nothing that was asked"),
                }
            }
        }
    }
}

/// What another node is asked in this one's name says whose order it is.
fn on_behalf_of(by: Option<String>, request: Request) -> Request {
    let (Some(by), Request::Admin(order)) = (by, &request) else { return request };
    match serde_json::from_slice::<Value>(order) {
        // An audit asks a shard, and changes nothing.
        Ok(what) if what["order"] != "audit" => {
            let order = json!({"order": "for", "by": by, "what": what});
            Request::Admin(order.to_string().into())
        }
        // What is wrong with it, the other node says.
        _ => request,
    }
}

/// A panic while holding it cannot leave it half-changed: each change is one call.
fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use celeriant_schema::ListQuery;

    use super::*;
    use crate::service::Reply;

    /// Answers a batch when it is told to.
    #[derive(Clone, Default)]
    struct Slow(Arc<Mutex<Vec<(u64, ReplySender)>>>);

    impl Service for Slow {
        fn submit(&self, requests: Vec<Incoming>, replies: &ReplySender) {
            let asked = requests.into_iter().map(|incoming| (incoming.id, replies.clone()));
            self.0.lock().expect("whole").extend(asked);
        }
    }

    impl Slow {
        fn answer_all(&self) {
            for (id, replies) in self.0.lock().expect("whole").drain(..) {
                replies.send(vec![Reply { id, response: Response::Pong }]);
            }
        }
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn questions_are_answered_bounded_and_given_up_in_time() {
        let service = Slow::default();
        let (asker, answers) = Asker::new(service.clone(), 2, None);
        let script = async {
            let ping = || asker.ask(Request::Ping, 10, PATIENCE);
            let (one, other, ()) = tokio::join!(ping(), ping(), async { service.answer_all() });
            assert_eq!((one, other), (Ok(Response::Pong), Ok(Response::Pong)));

            // An asker that is gone counts until its question is answered.
            for _ in 0..2 {
                tokio::select! {
                    biased;
                    _ = ping() => panic!("nobody answers"),
                    () = std::future::ready(()) => {}
                }
            }
            assert!(matches!(ping().await, Err(Refusal::Overloaded { .. })));
            service.answer_all();
            tokio::task::yield_now().await;
            let late = ping().await;
            assert_eq!(late, Err(Refusal::DeadlineExceeded { definite: false }));

            let list = ListQuery {
                org: None,
                kind: Some("t".into()),
                prefix: String::new(),
                after: None,
                limit: 1,
            };
            let wrong = asker.ask(Request::List(list), 10, PATIENCE).await;
            assert!(matches!(wrong, Err(Refusal::InvalidArgument { .. })), "not even asked");
        };
        tokio::select! {
            biased;
            () = answers.bring() => panic!("it goes on"),
            () = script => {}
        }
    }
}
