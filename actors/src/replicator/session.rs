//! The session with the peer as the replicator uses it: messages in, messages out, what a full lane
//! does not take kept until it does.
//!
//! What waits is bounded: frames by the window, everything else by [`WAITING_MAX`], since a peer
//! that takes no heartbeat is as good as gone.

use std::collections::VecDeque;

use bytes::Bytes;
use celeriant_net::link::{Lane, Link, Sent, SessionId};
use celeriant_schema::peer::Message;

/// Most messages that wait on a lane.
const WAITING_MAX: usize = 4_096;

/// A session, or none.
#[derive(Debug, Default)]
pub(super) struct Session {
    id: Option<SessionId>,
    /// By lane.
    waiting: [VecDeque<Bytes>; 2],
}

impl Session {
    pub(super) fn begin(&mut self, id: SessionId) {
        self.end();
        self.id = Some(id);
    }

    /// What was not sent never will be.
    pub(super) fn end(&mut self) {
        self.id = None;
        self.waiting.iter_mut().for_each(VecDeque::clear);
    }

    pub(super) fn is(&self, id: SessionId) -> bool {
        self.id == Some(id)
    }

    /// Sends, now or when there is room. Without a session it is lost.
    ///
    /// # Errors
    /// When the session must end: for people.
    pub(super) fn send<L: Link>(&mut self, link: &mut L, message: &Message) -> Result<(), String> {
        let Some(id) = self.id else { return Ok(()) };
        let lane = if message.is_bulk() { Lane::Bulk } else { Lane::Control };
        let bytes = message.encode().map_err(|error| format!("cannot be sent: {error}"))?;
        let waiting = &mut self.waiting[lane.index()];
        if waiting.len() >= WAITING_MAX {
            return Err(format!("{WAITING_MAX} messages wait on the {lane:?} lane"));
        }
        if !waiting.is_empty() || link.send(id, lane, bytes.clone()) == Sent::Full {
            waiting.push_back(bytes);
        }
        Ok(())
    }

    /// A lane takes messages again.
    pub(super) fn send_waiting<L: Link>(&mut self, link: &mut L, lane: Lane) {
        let Some(id) = self.id else { return };
        let waiting = &mut self.waiting[lane.index()];
        while let Some(bytes) = waiting.pop_front() {
            if link.send(id, lane, bytes.clone()) == Sent::Full {
                return waiting.push_front(bytes);
            }
        }
    }

    /// Gives the session up.
    pub(super) fn drop<L: Link>(&mut self, link: &mut L) {
        if let Some(id) = self.id {
            link.drop_session(id);
        }
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use celeriant_net::link::{Event, Target};
    use celeriant_schema::{Epoch, Lsn, ShardId};

    use super::*;

    /// Takes so many messages.
    #[derive(Default)]
    struct NarrowLink {
        room: usize,
        taken: Vec<(SessionId, Lane, Bytes)>,
        dropped: Vec<SessionId>,
    }

    impl Link for NarrowLink {
        fn aim(&mut self, _: Target) {}

        fn send(&mut self, session: SessionId, lane: Lane, message: Bytes) -> Sent {
            if self.room == 0 {
                return Sent::Full;
            }
            self.room -= 1;
            self.taken.push((session, lane, message));
            Sent::Taken
        }

        fn drop_session(&mut self, session: SessionId) {
            self.dropped.push(session);
        }

        fn close(&mut self) {}

        fn poll_event(&mut self, _: &mut Context<'_>) -> Poll<Event> {
            Poll::Pending
        }
    }

    fn message(number: u64) -> Message {
        let (shard, lsn) = (ShardId::new(0), Lsn::new(number));
        Message::Locate { request: number, shard, lsn }
    }

    fn numbers(link: &NarrowLink) -> Vec<u64> {
        let number = |(.., bytes): &(SessionId, Lane, Bytes)| match Message::decode(bytes) {
            Ok(Message::Locate { request, .. }) => request,
            other => panic!("{other:?}"),
        };
        link.taken.iter().map(number).collect()
    }

    #[test]
    fn what_a_full_lane_does_not_take_goes_out_in_its_turn() {
        let (mut session, mut link) = (Session::default(), NarrowLink::default());
        session.begin(SessionId::NONE.next());
        link.room = 1;
        (1..=3).for_each(|number| session.send(&mut link, &message(number)).expect("small"));
        link.room = 1;
        session.send(&mut link, &message(4)).expect("small");
        assert_eq!(numbers(&link), [1], "nothing overtakes what waits");
        session.send_waiting(&mut link, Lane::Bulk);
        session.send_waiting(&mut link, Lane::Control);
        assert_eq!(numbers(&link), [1, 2]);
        link.room = 9;
        session.send_waiting(&mut link, Lane::Control);
        assert_eq!(numbers(&link), [1, 2, 3, 4]);
    }

    #[test]
    fn nothing_of_a_session_is_sent_in_the_next_one() {
        let (mut session, mut link) = (Session::default(), NarrowLink::default());
        let (first, second) = (SessionId::NONE.next(), SessionId::NONE.next().next());
        session.begin(first);
        session.send(&mut link, &message(1)).expect("small");
        session.drop(&mut link);
        assert_eq!((&link.dropped[..], session.is(first)), (&[first][..], false));
        session.begin(second);
        link.room = 9;
        session.send_waiting(&mut link, Lane::Control);
        assert!(link.taken.is_empty());
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up() {
        let (mut session, mut link) = (Session::default(), NarrowLink::default());
        session.begin(SessionId::NONE.next());
        let heartbeat =
            Message::Heartbeat { number: 1, epoch: Epoch::new(1), ver: 1, shards: Vec::new() };
        let sent = (0..=WAITING_MAX).map(|_| session.send(&mut link, &heartbeat));
        assert_eq!(sent.filter(Result::is_err).count(), 1);
    }
}
