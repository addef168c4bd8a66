//! The way back to a client, and answers collected so that each connection gets few messages.

use celeriant_net::{Reply, ReplySender};
use celeriant_schema::{Refusal, Response};
use serde_json::Value;

use crate::admission::Permit;
use crate::quotas::Bill;

/// Where a request's answer goes. Holds the request's share of the admission budget until then.
#[derive(Debug)]
pub struct Route {
    /// The connection.
    pub replies: ReplySender,
    /// The client's number for the request.
    pub id: u64,
    /// Given back when the answer leaves.
    pub permit: Permit,
    /// Paid when it is known how large the answer is. `None`: nobody counts.
    pub bill: Option<Box<Bill>>,
}

impl Route {
    /// Answers now, by itself.
    pub fn answer(self, response: Response) {
        let Self { replies, id, permit, bill } = self;
        if let Some(bill) = bill {
            bill.pay(&response);
        }
        replies.send(vec![Reply { id, response }]);
        drop(permit);
    }

    /// Answers an order with what it came to.
    pub fn report(self, outcome: Result<Value, Refusal>) {
        self.answer(match outcome {
            Ok(report) => Response::Admin(report.to_string().into()),
            Err(refusal) => Response::Refused(refusal),
        });
    }
}

/// Answers of one moment, in order. What one connection gets in a row goes to it in one message; it
/// leaves in one write in any case, because the connection takes all that is there.
#[derive(Debug, Default)]
pub struct Outbox {
    replies: Vec<Reply>,
    /// Connection and how many of `replies` in a row are for it.
    runs: Vec<(ReplySender, usize)>,
}

impl Outbox {
    /// Adds an answer.
    pub fn push(&mut self, route: Route, response: Response) {
        if let Some(bill) = &route.bill {
            bill.pay(&response);
        }
        self.replies.push(Reply { id: route.id, response });
        match self.runs.last_mut() {
            Some((to, count)) if to.connection() == route.replies.connection() => *count += 1,
            _ => self.runs.push((route.replies, 1)),
        }
    }

    /// Sends what was collected, one message a run.
    pub fn flush(&mut self) {
        let mut replies = self.replies.drain(..);
        for (to, count) in self.runs.drain(..) {
            to.send_each(replies.by_ref().take(count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Admission;

    #[tokio::test]
    async fn answers_reach_their_own_connection_also_next_to_one_that_is_gone() {
        let admission = Admission::new(1 << 20);
        let (first, mut at_first) = ReplySender::channel();
        let (gone, at_gone) = ReplySender::channel();
        let (last, mut at_last) = ReplySender::channel();
        drop(at_gone);
        let mut outbox = Outbox::default();
        for (id, to) in [(1, &first), (2, &first), (3, &gone), (4, &gone), (5, &last), (6, &first)]
        {
            let permit = admission.admit(0).expect("room");
            outbox.push(Route { replies: to.clone(), id, permit, bill: None }, Response::Pong);
        }
        outbox.flush();
        let ids = |replies: Option<Vec<Reply>>| -> Vec<u64> {
            replies.expect("open").iter().map(|reply| reply.id).collect()
        };
        assert_eq!(ids(at_first.recv().await), [1, 2, 6]);
        assert_eq!(ids(at_last.recv().await), [5]);
        assert_eq!(admission.used(), 0, "permits return when answers leave");
    }
}
