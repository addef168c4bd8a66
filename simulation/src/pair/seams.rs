//! Eyes on what a node says to its peer.

use std::task::{Context, Poll};

use bytes::Bytes;
use celeriant_net::link::{self, Lane, Link, Sent, SessionId, Target};
use celeriant_schema::peer::Message;

use crate::overseer::Overseer;

/// A link whose messages are seen.
pub struct Seen<L> {
    inner: L,
    node: usize,
    overseer: Overseer,
}

impl<L> Seen<L> {
    /// Of node `node`.
    pub fn new(inner: L, node: usize, overseer: &Overseer) -> Self {
        Self { inner, node, overseer: overseer.clone() }
    }
}

impl<L: Link> Link for Seen<L> {
    fn aim(&mut self, target: Target) {
        self.inner.aim(target);
    }

    fn send(&mut self, session: SessionId, lane: Lane, message: Bytes) -> Sent {
        let said = Message::decode(&message);
        let sent = self.inner.send(session, lane, message);
        match (sent, said) {
            (Sent::Taken, Ok(message)) => self.overseer.said(self.node, &message),
            (Sent::Taken, Err(error)) => self.overseer.stammered(self.node, &error.to_string()),
            _ => {}
        }
        sent
    }

    fn drop_session(&mut self, session: SessionId) {
        self.inner.drop_session(session);
    }

    fn close(&mut self) {
        self.inner.close();
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<link::Event> {
        self.inner.poll_event(cx)
    }
}
