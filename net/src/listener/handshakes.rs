//! TLS handshakes under way: bounded in number and in time.
//!
//! Whoever has not proved anything yet can only push out others like it. When there are too many,
//! the oldest goes: one that is meant takes milliseconds, those that are opened to be held are the
//! oldest, so a flood of them costs honest clients nothing but a few milliseconds.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::Guest;
use crate::rights::Rights;
use crate::tls::Acceptor;

/// A client that has said who it is, as far as it must.
pub(super) type Secured = (TlsStream<TcpStream>, Rights, Guest);

/// Of one listener.
pub(super) struct Handshakes {
    max: usize,
    patience: Duration,
    running: JoinSet<Option<Secured>>,
    /// Oldest first; those that are over stay until they are the oldest.
    order: VecDeque<AbortHandle>,
}

impl Handshakes {
    pub(super) fn new(max: usize, patience: Duration) -> Self {
        Self { max: max.max(1), patience, running: JoinSet::new(), order: VecDeque::new() }
    }

    /// Begins one; the oldest ends for it if there are too many.
    pub(super) fn begin(&mut self, acceptor: Acceptor, stream: TcpStream, guest: Guest) {
        let patience = self.patience;
        let shake_hands = async move {
            let peer = guest.peer;
            let result = timeout(patience, acceptor.accept(stream)).await;
            match result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok((stream, rights)) => Some((stream, rights, guest)),
                Err(error) => {
                    tracing::info!(%peer, %error, "no TLS session with a client");
                    None
                }
            }
        };
        while self.order.front().is_some_and(AbortHandle::is_finished) {
            self.order.pop_front();
        }
        // Those that are over but were not taken yet count too: a handshake holds no more then.
        if self.running.len() >= self.max
            && let Some(oldest) = self.order.pop_front()
        {
            tracing::info!("too many clients begin a TLS session: the one that takes longest ends");
            oldest.abort();
        }
        self.order.push_back(self.running.spawn(shake_hands));
    }

    /// The next one that is over: a client, or nobody. Waits for ever while there is none.
    pub(super) async fn next(&mut self) -> Option<Secured> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Secured>> {
        match self.running.poll_join_next(cx) {
            // One that was pushed out, or that panicked, brings nobody.
            Poll::Ready(Some(over)) => Poll::Ready(over.ok().flatten()),
            // Without any there is nothing to wait for; the next one comes with an accept.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
