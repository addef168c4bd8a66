//! Clean-up of the bucket logs: rounds that nobody can need any more (R14).
//!
//! ```text
//!   List ── a page ──► candidates ── one at a time, with pauses ──► Delete
//!     ▲                                                               │
//!     └──────────────── the page is done, there are more ◄────────────┘
//! ```
//! Whether an epoch's rounds may go is the caller's to know, as [`Facts`]; they are asked before
//! every single deletion. Fences stay for ever: the request of a leader that was asleep for a year
//! must still find its slot taken. A list tells them by their size, which no round has; that it may
//! be late only means that something is deleted later.
//!
//! Where it was, is [`Gc::cursor`]: it may end at any time and go on there. Deliberately absent:
//! when to run it, the archive.

use std::collections::VecDeque;

use celeriant_schema::Epoch;
use celeriant_storage::bucket::{Completion, Done, Key, Op, Request, Token};

use super::Settings;
use super::slot::{FENCE_BYTES, Name, PREFIX};
use crate::clock::Micros;
use crate::election::register::{Active, Set};

/// What must hold for anything to be deleted (R14).
#[derive(Clone, Debug)]
pub struct Facts {
    /// The set that rules is a pair.
    pub is_pair: bool,
    /// The logs that it rests on.
    pub chain: Vec<Epoch>,
    /// For each node, an epoch in which it has acknowledged.
    pub acknowledged: [Epoch; 2],
    /// Both nodes durably hold every entry of the logs below those epochs.
    pub both_hold_all: bool,
}

impl Facts {
    /// What the ruling configuration says, and what the two nodes do.
    pub fn new(active: &Active, acknowledged: [Epoch; 2], both_hold_all: bool) -> Self {
        let is_pair = matches!(active.set, Set::Pair(..));
        let chain = active.chain.iter().map(|link| link.epoch).collect();
        Self { is_pair, chain, acknowledged, both_hold_all }
    }

    /// Whether the rounds of this epoch may go.
    pub fn frees(&self, epoch: Epoch) -> bool {
        let is_below = self.acknowledged.iter().all(|acknowledged| *acknowledged > epoch);
        self.is_pair && self.both_hold_all && is_below && !self.chain.contains(&epoch)
    }
}

/// What the clean-up learns.
#[derive(Debug)]
pub enum Event {
    /// Begin; or the deadline is there.
    Tick,
    /// What holds now.
    Facts(Facts),
    /// An operation of the bucket ended.
    Bucket(Completion),
}

/// What must happen.
#[derive(Debug)]
pub enum Effect {
    /// Start an operation of the bucket, without retries.
    Bucket(Token, Request),
    /// Everything was looked at, or nothing may be deleted any more.
    Done {
        /// So many rounds are gone.
        deleted: u64,
    },
}

/// One walk through the slots.
#[derive(Debug)]
pub struct Gc {
    facts: Facts,
    settings: Settings,
    /// Everything up to here, by name, is gone or stays.
    cursor: Option<String>,
    /// The rest of a page: rounds that may go.
    page: VecDeque<(Epoch, String)>,
    /// The last name of that page.
    listed: Option<String>,
    /// There are, or may be, more behind it.
    has_more: bool,
    /// The operation under way.
    token: Option<Token>,
    tokens: Token,
    /// Nothing is sent before.
    at: Micros,
    failures: u32,
    deleted: u64,
    is_over: bool,
}

impl Gc {
    /// From the beginning, or from where an earlier one was. Nothing happens before the first
    /// [`Event::Tick`]. Deletes at most one round each [`Settings::interval`].
    pub fn new(facts: Facts, cursor: Option<String>, settings: Settings) -> Self {
        Self {
            facts,
            settings,
            listed: cursor.clone(),
            cursor,
            page: VecDeque::new(),
            has_more: true,
            token: None,
            tokens: 0,
            at: 0,
            failures: 0,
            deleted: 0,
            is_over: false,
        }
    }

    /// Where to go on some other time; `None`: at the beginning.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// Takes one event and says what must happen.
    pub fn handle(&mut self, now: Micros, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Tick => {}
            Event::Facts(facts) => self.facts = facts,
            Event::Bucket(completion) => self.complete(now, completion),
        }
        if !self.is_over && self.token.is_none() && self.at <= now {
            self.go_on(now, effects);
        }
    }

    /// When [`Event::Tick`] has something to do though nothing happens.
    pub fn next_deadline(&self) -> Option<Micros> {
        (!self.is_over && self.token.is_none()).then_some(self.at)
    }

    fn go_on(&mut self, now: Micros, effects: &mut Vec<Effect>) {
        let may = |(epoch, _): &(Epoch, String)| self.facts.frees(*epoch);
        let op = match self.page.front() {
            Some(next) if may(next) => Op::Delete { key: Key::new(next.1.clone()) },
            // What holds has changed: look again some other time.
            Some(_) => return self.finish(effects),
            None if self.has_more => {
                self.cursor.clone_from(&self.listed);
                Op::List { prefix: PREFIX.to_owned(), after: self.listed.clone() }
            }
            None => {
                self.cursor = None;
                return self.finish(effects);
            }
        };
        if matches!(op, Op::Delete { .. }) {
            self.at = now.saturating_add(self.settings.interval);
        }
        self.tokens += 1;
        self.token = Some(self.tokens);
        let request = Request::data(op, self.settings.deadline(self.failures));
        effects.push(Effect::Bucket(self.tokens, request));
    }

    fn finish(&mut self, effects: &mut Vec<Effect>) {
        self.is_over = true;
        effects.push(Effect::Done { deleted: self.deleted });
    }

    fn complete(&mut self, now: Micros, completion: Completion) {
        let Some(_) = self.token.take_if(|token| *token == completion.token) else { return };
        match completion.outcome {
            Ok(Done::Deleted) => {
                self.failures = 0;
                self.deleted += 1;
                self.cursor = self.page.pop_front().map(|(_, name)| name);
            }
            Ok(Done::Listed { objects, more }) => {
                self.failures = 0;
                self.take_page(objects, more);
            }
            _ => {
                self.failures += 1;
                self.at = self.at.max(now.saturating_add(self.settings.pause(self.failures)));
            }
        }
    }

    fn take_page(&mut self, objects: Vec<(String, u64)>, more: bool) {
        // A list that does not get further would never end.
        let last = objects.last().map(|(name, _)| name.clone());
        self.has_more = more && last > self.listed;
        self.listed = last.max(self.listed.take());
        let rounds = objects.into_iter().filter(|(_, bytes)| *bytes > FENCE_BYTES as u64);
        let named = rounds.filter_map(|(name, _)| Some((Name::numbers_of(&name)?.0, name)));
        self.page = named.filter(|(epoch, _)| self.facts.frees(*epoch)).collect();
    }
}

#[cfg(test)]
mod gc_test;
