//! Feeds of a connection that are not answered to the end: what they take, and what follows.
//!
//! A client asks once for many pages; each is asked for here when the one before it is on its way,
//! so that a client that reads slowly gets no more than one ahead.

use std::collections::BTreeMap;

use celeriant_schema::{FeedQuery, Following, Request, Response};

use super::deadline;
use crate::rooms::Seat;
use crate::service::{Incoming, Reply};

/// By the ids of their requests.
#[derive(Debug, Default)]
pub(super) struct Feeds(BTreeMap<u64, Box<Feed>>);

/// One of them.
#[derive(Debug)]
pub(super) struct Feed {
    /// What is asked for the next page; `None`: there will be none.
    next: Option<(FeedQuery, Following)>,
    /// Of each page.
    deadline_ms: u32,
    /// Of the request.
    bytes: u32,
    /// Of the orgs that it watches, as long as it does.
    seats: Vec<Seat>,
}

impl Feed {
    /// What `query` asked for, in so many bytes.
    pub(super) fn new(query: &FeedQuery, deadline_ms: u32, bytes: u32, seats: Vec<Seat>) -> Self {
        let next = (query.more > 0).then(|| (query.clone(), Following::new(query)));
        Self { next, deadline_ms, bytes, seats }
    }
}

impl Feeds {
    /// One more, if there is anything to remember of it.
    pub(super) fn begin(&mut self, id: u64, feed: Feed) {
        if feed.next.is_some() || !feed.seats.is_empty() {
            self.0.insert(id, Box::new(feed));
        }
    }

    /// The request for the page behind that in `reply`; `None`: that was the last.
    pub(super) fn next(&mut self, reply: &Reply, frame_bytes: usize) -> Option<Incoming> {
        let Response::Feed(page) = &reply.response else { return None };
        let Feed { next, deadline_ms, bytes, .. } = &mut **self.0.get_mut(&reply.id)?;
        let (query, following) = next.as_mut()?;
        if !following.goes_on(page, frame_bytes) {
            return None;
        }
        query.after = Some(page.upto);
        let request = Request::Feed(query.clone());
        let deadline = deadline(*deadline_ms);
        Some(Incoming { id: reply.id, deadline, bytes: *bytes, request, by: None })
    }

    /// It is answered.
    pub(super) fn end(&mut self, id: u64) {
        self.0.remove(&id);
    }
}
