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
