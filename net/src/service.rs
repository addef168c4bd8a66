//! What stands behind a connection: requests go in by the batch, answers come back by the batch.
//!
//! ```text
//! connection ── submit(all requests of one read) ──▶ Service   (router and shards, or a fake)
//!            ◀── ReplySender::send(all answers of one commit) ──
//! ```
//!
//! One message per read and one per commit, not one per request: at a million requests a second the
//! messages would cost more than the requests. Deliberately absent: futures per request. A request
//! is answered by its id, whenever, in any order, exactly once.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use celeriant_schema::{Refusal, Request, Response};
use tokio::time::Instant;

/// A node as its connections see it.
pub trait Service: Clone + Send + Sync + 'static {
    /// Takes over everything that was decoded from one read of one connection, in the order of
    /// arrival. Must not block. Every request must be answered exactly once through `replies`,
    /// or a clone of it; until then it counts against the connection's limits.
    fn submit(&self, requests: Vec<Incoming>, replies: &ReplySender);
}

/// Asks the leader, for a gateway on a node that does not lead: whoever speaks HTTP finds one node,
/// and is not told to look for another.
pub trait Elsewhere: Send + Sync {
    /// Asks the node at `leader`, an address for clients, or whoever leads by then. What the leader
    /// refuses comes back as a refusal.
    fn ask(
        &self,
        leader: String,
        request: Request,
        patience: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Response, Refusal>> + Send + '_>>;
}

/// One request, as it came in.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Given by the connection, unique while the request is unanswered; its answer carries the
    /// same.
    pub id: u64,
    /// After this nobody waits for the answer any more; a write not yet appended is refused with
    /// `DeadlineExceeded { definite: true }`.
    pub deadline: Option<Instant>,
    /// What it takes on the wire, frame header included: the unit of admission.
    pub bytes: u32,
    /// What is asked.
    pub request: Request,
    /// Who asks, of an operator's order; `None`: the node itself.
    pub by: Option<String>,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The request's id.
    pub id: u64,
    /// The answer.
    pub response: Response,
}

/// The way back to one connection. Cheap to clone, usable from every thread.
#[derive(Clone, Debug)]
pub struct ReplySender(Arc<Near>);

/// The connection's end of the way back.
#[derive(Debug)]
pub struct ReplyReceiver {
    queue: Arc<Queue>,
}

/// Shared by all clones of a sender; when it goes, there are none left.
#[derive(Debug)]
struct Near {
    connection: u64,
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
}

/// A lock around a queue, because everything there is taken at once: the lock is held for as long
/// as it takes to move a few answers, and costs less than a channel's slot for each.
#[derive(Debug, Default)]
struct State {
    replies: VecDeque<Reply>,
    waker: Option<Waker>,
    is_closed: bool,
    is_abandoned: bool,
}

/// Answers for which a quiet connection keeps room.
pub(crate) const IDLE_ANSWERS: usize = 16;

/// Numbers connections within this process.
static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

impl ReplySender {
    /// A new way back, and its far end. Unbounded, because it is bounded by what it answers: a
    /// connection stops reading requests when too many are unanswered.
    pub fn channel() -> (Self, ReplyReceiver) {
        let queue = Arc::new(Queue::default());
        let connection = NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed);
        let near = Near { connection, queue: Arc::clone(&queue) };
        (Self(Arc::new(near)), ReplyReceiver { queue })
    }

    /// Number of the connection, unique in this process: for grouping answers by connection.
    pub fn connection(&self) -> u64 {
        self.0.connection
    }

    /// Hands over answers that were released together; they leave in one write. Never blocks. If
    /// the connection is gone they are dropped: its client will ask again elsewhere.
    pub fn send(&self, replies: Vec<Reply>) {
        self.send_each(replies.into_iter());
    }

    /// The same, without a list of their own. Takes all of them, also if the connection is gone.
    pub fn send_each(&self, replies: impl Iterator<Item = Reply>) {
        let mut state = self.0.queue.lock();
        if state.is_abandoned {
            drop(state);
            return replies.for_each(drop);
        }
        state.replies.extend(replies);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.is_closed = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Queue {
    /// A panic while holding it cannot leave it half-changed in a way that matters: it ends the
    /// node.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReplyReceiver {
    /// Takes all answers that are there, behind what is in `into`. `Ready(false)`: every sender is
    /// gone and everything was taken.
    pub fn poll_take(&mut self, cx: &mut Context<'_>, into: &mut VecDeque<Reply>) -> Poll<bool> {
        let mut state = self.queue.lock();
        if !state.replies.is_empty() {
            match into.is_empty() {
                true => {
                    std::mem::swap(into, &mut state.replies);
                    if into.len() <= IDLE_ANSWERS && state.replies.capacity() > IDLE_ANSWERS {
                        // Room that a burst needed; a quiet connection holds next to nothing.
                        state.replies = VecDeque::new();
                    }
                }
                false => into.append(&mut state.replies),
            }
            return Poll::Ready(true);
        }
        if state.is_closed {
            return Poll::Ready(false);
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits for answers, then takes all that are there. `None` = every sender is gone and
    /// everything was taken.
    pub async fn recv(&mut self) -> Option<Vec<Reply>> {
        let mut replies = VecDeque::new();
        let open = poll_fn(|cx| self.poll_take(cx, &mut replies)).await;
        open.then(|| replies.into())
    }
}

impl Drop for ReplyReceiver {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.is_abandoned = true;
        let dropped = std::mem::take(&mut state.replies);
        drop(state);
        // Outside of the lock: pages may be large.
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pong(id: u64) -> Reply {
        Reply { id, response: Response::Pong }
    }

    fn ids(replies: Option<Vec<Reply>>) -> Option<Vec<u64>> {
        replies.map(|replies| replies.iter().map(|reply| reply.id).collect())
    }

    #[tokio::test]
    async fn what_waits_is_taken_at_once_and_in_order() {
        let (sender, mut receiver) = ReplySender::channel();
        sender.send(vec![pong(1), pong(2)]);
        sender.clone().send_each([pong(3)].into_iter());
        assert_eq!(ids(receiver.recv().await), Some(vec![1, 2, 3]));
        sender.send(vec![pong(4)]);
        drop(sender);
        assert_eq!(ids(receiver.recv().await), Some(vec![4]));
        assert_eq!(ids(receiver.recv().await), None);
    }

    #[tokio::test]
    async fn a_receiver_that_waits_is_woken_by_answers_and_by_the_last_senders_end() {
        let (sender, mut receiver) = ReplySender::channel();
        let other = sender.clone();
        let answer = async {
            tokio::task::yield_now().await;
            drop(sender);
            tokio::task::yield_now().await;
            other.send(vec![pong(1)]);
            tokio::task::yield_now().await;
            drop(other);
        };
        let wait = async { (ids(receiver.recv().await), ids(receiver.recv().await)) };
        assert_eq!(tokio::join!(wait, answer).0, (Some(vec![1]), None));
    }

    #[test]
    fn answers_to_a_connection_that_is_gone_are_dropped() {
        let (sender, receiver) = ReplySender::channel();
        sender.send(vec![pong(1)]);
        drop(receiver);
        sender.send(vec![pong(2)]);
        assert!(sender.0.queue.lock().replies.is_empty());
    }
}
