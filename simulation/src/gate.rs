//! What holds a process still: a gate between a node and its seams.
//!
//! A process that stands still is not polled in production; here nothing reaches it and its clock
//! stands, which comes to the same. When it goes on, everything that came in the meantime is there
//! at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use celeriant_net::link::{self, Lane, Link, Sent, SessionId, Target};
use celeriant_storage::bucket::{self, Bucket};
use celeriant_storage::disk::{self, Disk};

/// Whether a process takes anything in. Cheap to clone: all clones are one gate.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    closed: bool,
    waiting: Vec<Waker>,
}

impl Gate {
    /// Nothing passes from here on.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Everything passes again.
    pub fn open(&self) {
        let mut inner = self.lock();
        inner.closed = false;
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether nothing passes.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Whether nothing passes; then `cx` is woken when it is open again.
    pub(crate) fn holds(&self, cx: &Context<'_>) -> bool {
        let mut inner = self.lock();
        if inner.closed && !inner.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            inner.waiting.push(cx.waker().clone());
        }
        inner.closed
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A seam behind a gate.
#[derive(Debug)]
pub struct Gated<T> {
    inner: T,
    gate: Gate,
}

impl<T> Gated<T> {
    /// `inner` behind `gate`.
    pub fn new(inner: T, gate: &Gate) -> Self {
        Self { inner, gate: gate.clone() }
    }
}

impl<D: Disk> Disk for Gated<D> {
    fn start(&mut self, token: disk::Token, op: disk::Op) {
        self.inner.start(token, op);
    }

    fn poll_complete(&mut self, cx: &mut Context<'_>) -> Poll<disk::Completion> {
        if self.gate.holds(cx) { Poll::Pending } else { self.inner.poll_complete(cx) }
    }
}

impl<B: Bucket> Bucket for Gated<B> {
    fn start(&mut self, token: bucket::Token, request: bucket::Request) {
        self.inner.start(token, request);
    }

    fn poll_complete(&mut self, cx: &mut Context<'_>) -> Poll<bucket::Completion> {
        if self.gate.holds(cx) { Poll::Pending } else { self.inner.poll_complete(cx) }
    }
}

impl<L: Link> Link for Gated<L> {
    fn aim(&mut self, target: Target) {
        self.inner.aim(target);
    }

    fn send(&mut self, session: SessionId, lane: Lane, message: Bytes) -> Sent {
        self.inner.send(session, lane, message)
    }

    fn drop_session(&mut self, session: SessionId) {
        self.inner.drop_session(session);
    }

    fn close(&mut self) {
        self.inner.close();
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<link::Event> {
        if self.gate.holds(cx) { Poll::Pending } else { self.inner.poll_event(cx) }
    }
}
