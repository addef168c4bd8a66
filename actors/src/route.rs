//! The way back to a client, and answers collected so that each connection gets one message.

use celeriant_net::{Reply, ReplySender};
use celeriant_schema::Response;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::admission::Permit;

/// Where a request's answer goes. Holds the request's share of the admission budget until then.
#[derive(Debug)]
pub struct Route {
    /// The connection.
    pub replies: ReplySender,
    /// The client's number for the request.
    pub id: u64,
    /// Given back when the answer leaves.
    pub permit: Permit,
}

/// Answers of one moment, grouped by connection in the order of their first answer.
#[derive(Debug, Default)]
pub struct Outbox {
    groups: Vec<(ReplySender, Vec<Reply>)>,
    /// Connection → place in `groups`.
    places: HashMap<u64, usize, FixedState>,
}

impl Outbox {
    /// Adds an answer.
    pub fn push(&mut self, route: Route, response: Response) {
        let reply = Reply { id: route.id, response };
        let next = self.groups.len();
        let place = *self.places.entry(route.replies.connection()).or_insert(next);
        match self.groups.get_mut(place) {
            Some((_, replies)) => replies.push(reply),
            None => self.groups.push((route.replies, vec![reply])),
        }
    }

    /// Sends what was collected, one message a connection.
    pub fn flush(&mut self) {
        self.places.clear();
        for (to, replies) in self.groups.drain(..) {
            to.send(replies);
        }
    }
}
