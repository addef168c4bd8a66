//! Slots on their way here: read ahead, kept in the order of their numbers.
//!
//! An object that was found stays as it is for ever, so it may be read long before its turn. That
//! there was none is worth nothing later on: whoever acts on it does so by a create-only put.

use std::collections::VecDeque;

use bytes::Bytes;
use celeriant_schema::{ClusterId, Epoch};
use celeriant_storage::bucket::{Done, Op, Outcome, Request, Token};

use super::slot::Name;
use super::{Settings, timeouts};
use crate::clock::Micros;

/// What is known of a slot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    /// Nothing yet.
    Unknown,
    /// There was none.
    Absent,
    /// There is one, for ever.
    Found(Bytes),
}

#[derive(Debug)]
struct Fetch {
    seen: Seen,
    /// The read under way.
    token: Option<Token>,
    /// Not before, after a failure.
    at: Micros,
    failures: u32,
    /// Those of them, in a row, that were not answered in time.
    timeouts: u32,
}

/// Reads of one log, from a slot on.
#[derive(Debug)]
pub(super) struct Fetches {
    first: Name,
    queue: VecDeque<Fetch>,
}

impl Fetches {
    /// From the first slot of a log on.
    pub(super) fn new(cluster: ClusterId, epoch: Epoch) -> Self {
        Self { first: Name { cluster, epoch, slot: 0 }, queue: VecDeque::new() }
    }

    /// The slot whose turn it is.
    pub(super) fn first(&self) -> Name {
        self.first
    }

    /// What is known of it.
    pub(super) fn seen(&self) -> &Seen {
        self.queue.front().map_or(&Seen::Unknown, |fetch| &fetch.seen)
    }

    pub(super) fn set_seen(&mut self, body: Bytes) {
        if let Some(fetch) = self.queue.front_mut() {
            fetch.seen = Seen::Found(body);
        }
    }

    /// The next one's turn.
    pub(super) fn pop(&mut self) {
        self.queue.pop_front();
        self.first.slot += 1;
    }

    /// Lets up to `room` slots be read at a time; not behind one that was not there.
    pub(super) fn fill(&mut self, room: usize) {
        let ends = |queue: &VecDeque<Fetch>| queue.iter().any(|fetch| fetch.seen == Seen::Absent);
        while self.queue.len() < room && !ends(&self.queue) {
            let (seen, token) = (Seen::Unknown, None);
            self.queue.push_back(Fetch { seen, token, at: 0, failures: 0, timeouts: 0 });
        }
    }

    /// Begins the reads that are due.
    pub(super) fn start(
        &mut self,
        now: Micros,
        settings: &Settings,
        mut token: impl FnMut() -> Token,
        mut send: impl FnMut(Token, Request),
    ) {
        for (ahead, fetch) in self.queue.iter_mut().enumerate() {
            if fetch.seen == Seen::Unknown && fetch.token.is_none() && fetch.at <= now {
                let number = token();
                fetch.token = Some(number);
                let key = Name { slot: self.first.slot + ahead as u64, ..self.first }.key();
                let deadline = settings.deadline(fetch.timeouts);
                send(number, Request::data(Op::Get { key }, deadline));
            }
        }
    }

    /// When the next read is due.
    pub(super) fn next_deadline(&self) -> Option<Micros> {
        let waits = |fetch: &&Fetch| fetch.seen == Seen::Unknown && fetch.token.is_none();
        self.queue.iter().filter(waits).map(|fetch| fetch.at).min()
    }

    /// Takes the outcome of a read; one that nobody waits for says nothing.
    pub(super) fn complete(
        &mut self,
        now: Micros,
        token: Token,
        outcome: Outcome,
        settings: &Settings,
    ) {
        let awaited = |fetch: &&mut Fetch| fetch.token == Some(token);
        let Some(fetch) = self.queue.iter_mut().find(awaited) else { return };
        fetch.token = None;
        match outcome {
            Ok(Done::Found { body, .. }) => fetch.seen = Seen::Found(body),
            Ok(Done::Absent) => fetch.seen = Seen::Absent,
            outcome => {
                fetch.timeouts = timeouts(fetch.timeouts, &outcome);
                fetch.failures += 1;
                fetch.at = now.saturating_add(settings.pause(fetch.failures));
            }
        }
    }
}
