//! What the election hears of the follower: what it holds, whether it has caught up, whether it
//! owes an answer for too long.
//!
//! While nothing but the follower is needed for acknowledgements, what it holds is told at most
//! once an interval: shards have acknowledged by it long before. Otherwise a change of the set may
//! wait for it: it is told at once, and again every interval in which the follower was heard,
//! because the election listens to a store only from when it is a member.

use celeriant_schema::{Epoch, Lsn, ShardId, StoreId};

use super::core::{Effect, Settings};
use crate::clock::Micros;
use crate::election::vocabulary::Event as Fact;

#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Since when it owes an answer, without a word that was one. Off at most: a needless or a late
    /// reconfiguration.
    owes_since: Option<Micros>,
    /// Told that it is silent.
    is_silent: bool,
    /// Told that it has caught up.
    is_caught_up: bool,
    /// It holds more, or may, than was told.
    has_news: bool,
    told_at: Option<Micros>,
    /// It has said something since.
    is_heard: bool,
    /// As at the last look.
    is_urgent: bool,
    is_short: bool,
    pace: Pace,
}

/// How fast the follower acknowledges: one append at a time is timed, whichever it is.
#[derive(Debug, Default)]
struct Pace {
    /// What is timed, and since when.
    timed: Option<(ShardId, Lsn, Micros)>,
    /// Since when the fastest is looked for, in how many, and what it was.
    since: Micros,
    count: u32,
    fastest: Micros,
}

/// Fewer than that say nothing about a follower.
const PACE_COUNT: u32 = 10;

/// How the follower stands at the end of a flush.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) store: StoreId,
    pub(super) epoch: Epoch,
    /// Something is asked or on its way, and not answered.
    pub(super) owes: bool,
    pub(super) has_caught_up: bool,
    /// It does not hold what it had acknowledged: it counts for nothing until it does again.
    pub(super) is_short: bool,
    /// A change of the set may wait for what it holds.
    pub(super) is_urgent: bool,
}

impl Watch {
    /// It has said something, whatever it was.
    pub(super) fn heard(&mut self) {
        self.is_heard = true;
    }

    /// It has answered something.
    pub(super) fn answered(&mut self) {
        self.owes_since = None;
        if std::mem::take(&mut self.is_silent) {
            self.told_at = None;
        }
    }

    /// It holds more.
    pub(super) fn holds_more(&mut self) {
        self.has_news = true;
    }

    /// Another epoch or session: it must catch up anew.
    pub(super) fn restart(&mut self) {
        self.owes_since = None;
        self.pace = Pace::default();
        self.is_caught_up = false;
    }

    /// Whether the election thinks that it has caught up.
    pub(super) fn is_caught_up(&self) -> bool {
        self.is_caught_up
    }

    /// Tells what has changed.
    pub(super) fn look(
        &mut self,
        now: Micros,
        look: Look,
        upto: impl FnOnce() -> Vec<Lsn>,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) {
        let Look { store, epoch, owes, has_caught_up, is_short, is_urgent } = look;
        if owes {
            self.owes_since.get_or_insert(now);
        } else {
            self.owes_since = None;
        }
        (self.is_urgent, self.is_short) = (is_urgent, is_short);
        let is_over = |at: Micros| now >= at.saturating_add(settings.report_every);
        let is_over = self.told_at.is_none_or(is_over);
        let tells = self.would_tell() && (is_over || self.has_news && is_urgent);
        if tells {
            (self.has_news, self.is_heard, self.told_at) = (false, false, Some(now));
            effects.push(Effect::Election(Fact::FollowerHolds { store, epoch, upto: upto() }));
        }
        let is_due = |since: Micros| now >= since.saturating_add(settings.suspect_after);
        if self.owes_since.is_some_and(is_due) && !self.is_silent {
            (self.is_silent, self.is_caught_up) = (true, false);
            effects.push(Effect::Election(Fact::FollowerSilent { store }));
        }
        if has_caught_up && !self.is_silent && (tells || !self.is_caught_up) {
            self.is_caught_up = true;
            effects.push(Effect::Election(Fact::FollowerCaughtUp { store }));
        }
    }

    /// Times acknowledgements. `held`: up to where the follower holds a shard; `sent`: the end of
    /// something that is on its way. Over long enough, what was the fastest?
    pub(super) fn time(
        &mut self,
        now: Micros,
        held: impl Fn(ShardId) -> Lsn,
        sent: impl FnOnce() -> Option<(ShardId, Lsn)>,
        settings: &Settings,
    ) -> Option<Micros> {
        let pace = &mut self.pace;
        match pace.timed {
            Some((shard, lsn, at)) if held(shard) >= lsn => {
                let took = now.saturating_sub(at);
                pace.timed = None;
                (pace.since, pace.fastest) = match pace.count {
                    0 => (at, took),
                    _ => (pace.since, pace.fastest.min(took)),
                };
                pace.count += 1;
            }
            Some(_) => return None,
            None => pace.timed = sent().map(|(shard, lsn)| (shard, lsn, now)),
        }
        let is_long = now >= pace.since.saturating_add(settings.pace_over);
        if pace.count < PACE_COUNT || !is_long {
            return None;
        }
        let timed = pace.timed;
        let fastest = std::mem::take(pace).fastest;
        pace.timed = timed;
        Some(fastest)
    }

    /// Whether there is something to tell once the interval is over.
    fn would_tell(&self) -> bool {
        let is_asked = self.is_urgent && self.is_heard && !self.is_silent;
        !self.is_short && (self.has_news || is_asked)
    }

    /// When to look if nothing happens before.
    pub(super) fn next_deadline(&self, settings: &Settings) -> Option<Micros> {
        let owes = self.owes_since.filter(|_| !self.is_silent);
        let silent_at = owes.map(|since| since.saturating_add(settings.suspect_after));
        let told_at = self.told_at.filter(|_| self.would_tell());
        let tell_at = told_at.map(|at| at.saturating_add(settings.report_every));
        silent_at.into_iter().chain(tell_at).min()
    }
}
