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

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use celeriant_schema::{Request, Response};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A node as its connections see it.
pub trait Service: Clone + Send + Sync + 'static {
    /// Takes over everything that was decoded from one read of one connection, in the order of
    /// arrival. Must not block. Every request must be answered exactly once through `replies`,
    /// or a clone of it; until then it counts against the connection's limits.
    fn submit(&self, requests: Vec<Incoming>, replies: &ReplySender);
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
pub struct ReplySender {
    connection: u64,
    batches: mpsc::UnboundedSender<Vec<Reply>>,
}

/// The connection's end of the way back.
#[derive(Debug)]
pub struct ReplyReceiver {
    batches: mpsc::UnboundedReceiver<Vec<Reply>>,
}

/// Numbers connections within this process.
static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

impl ReplySender {
    /// A new way back, and its far end. Unbounded, because it is bounded by what it answers: a
    /// connection stops reading requests when too many are unanswered.
    pub fn channel() -> (Self, ReplyReceiver) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let connection = NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed);
        (Self { connection, batches: sender }, ReplyReceiver { batches: receiver })
    }

    /// Number of the connection, unique in this process: for grouping answers by connection.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// Hands over answers that were released together; they leave in one write. Never blocks. If
    /// the connection is gone they are dropped: its client will ask again elsewhere.
    pub fn send(&self, replies: Vec<Reply>) {
        // An error means that the connection is gone, which is no news to anybody here.
        let _ = self.batches.send(replies);
    }
}

impl ReplyReceiver {
    /// Waits for answers, then takes all that are there: up to `batches` messages appended to
    /// `into`. 0 = every sender is gone and everything was taken.
    pub async fn recv_many(&mut self, into: &mut Vec<Vec<Reply>>, batches: usize) -> usize {
        self.batches.recv_many(into, batches).await
    }

    /// Like [`ReplyReceiver::recv_many`], for those who wait for several things at once.
    pub fn poll_recv_many(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<Vec<Reply>>,
        batches: usize,
    ) -> Poll<usize> {
        self.batches.poll_recv_many(cx, into, batches)
    }

    /// The next message. `None` = every sender is gone and everything was taken.
    pub async fn recv(&mut self) -> Option<Vec<Reply>> {
        self.batches.recv().await
    }
}
