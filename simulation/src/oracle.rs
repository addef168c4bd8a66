//! Was everything that clients were told true? Checked at rest, against what is in the store in the
//! end.
//!
//! ```text
//! ledger   what was asked and answered, in which order   ┐
//! history  every batch there is, gone or not             ┴──►  bounds ──► reads · refusals · lists
//! ```
//! Each answer was computed at some moment between sending and answering. Then an aggregate was at
//! least at the step that anyone had been told of before the sending, and at most at the newest one
//! whose writer had sent by the time of the answer. An answer is right if it is right at some such
//! moment.

mod lists;
mod progress;
mod reads;
mod refusals;
mod schemas;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use celeriant_schema::{AggregateKey, Refusal, Request, Response, Stamp};

use self::progress::Progress;
use crate::history::{History, Standing, Step};
use crate::invariants::{
    Violations, i08_one_entry_per_position, i09_exactly_once, i10_guards_and_atomicity,
    i11_linearizable, i20_feeds,
};
use crate::ledger::{Attempt, Ledger, Operation, Order, Place};

/// What happened in a run that explains answers that need an explanation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Excuses {
    /// Durable bytes were damaged for a while.
    pub rot: bool,
    /// A disk had no space, or clients sent very much.
    pub overload: bool,
    /// The node stopped, failed or crashed.
    pub outage: bool,
    /// A clock of a pair stood still, and with it a lease: no read is known to be linearizable.
    pub clock: bool,
}

/// Everything that is known at rest.
pub struct Evidence {
    /// What was asked and answered.
    pub operations: Vec<Operation>,
    /// What is there.
    pub history: History,
    /// What explains refusals.
    pub excuses: Excuses,
    /// Shards of the node.
    pub shards: u16,
    progress: Progress,
    registrations: Vec<schemas::Registration>,
    /// Nodes may be behind.
    may_be_behind: bool,
}

/// Between which moments an answer was computed.
#[derive(Clone, Copy, Debug)]
struct When {
    sent: Order,
    answered: Order,
    place: Place,
    /// The node that answered may be behind: what others had told says nothing.
    is_behind: bool,
}

impl Evidence {
    /// Of a run that has come to rest.
    pub fn new(ledger: &Ledger, history: History, excuses: Excuses, shards: u16) -> Self {
        let operations = ledger.operations();
        let progress = Progress::of(&operations, &history, shards);
        let registrations = schemas::registrations(&operations);
        let may_be_behind = false;
        Self { operations, history, excuses, shards, progress, registrations, may_be_behind }
    }

    /// Of a pair, whose follower may be behind.
    #[must_use]
    pub fn of_pair(self) -> Self {
        Self { may_be_behind: true, ..self }
    }

    fn when(&self, request: &Request, attempt: &Attempt, answered: Order) -> When {
        let anybody = match request {
            Request::Read(query) => query.any,
            Request::Head(query) => query.any,
            Request::List(_) | Request::Feed(_) => true,
            Request::Write(_) | Request::Admin(_) | Request::Ping => false,
        };
        let is_behind = (anybody || self.excuses.clock) && self.may_be_behind;
        When { sent: attempt.sent, answered, place: attempt.place, is_behind }
    }

    /// Lowest step at which the aggregate can have been for someone who asked then.
    fn lowest(&self, key: &AggregateKey, when: When) -> Step {
        let place = when.is_behind.then_some(when.place);
        self.progress.step(place, key, when.sent)
    }

    /// A process never says a lower stamp than before.
    fn check_stamp(&self, key: &AggregateKey, stamp: Stamp, when: When) -> Result<(), String> {
        let lowest = self.progress.stamp(when.place, key.shard(self.shards), when.sent);
        match stamp >= lowest {
            true => Ok(()),
            false => Err(format!("stamp {stamp}, but the same process had said {lowest}")),
        }
    }

    /// Highest step at which the aggregate can have been when something was answered at `answered`.
    fn highest(&self, key: &AggregateKey, answered: Order) -> Step {
        let sent_before = |batch: &crate::history::Batch| {
            let origin = batch.origin.and_then(|id| self.operations.get(id));
            origin.is_some_and(|operation| operation.first_sent() < answered)
        };
        self.history.batches(key).iter().rposition(sent_before).map_or(0, |last| last + 1)
    }

    /// All steps at which the aggregate can have been then.
    fn steps(&self, key: &AggregateKey, when: When) -> RangeInclusive<Step> {
        self.lowest(key, when)..=self.highest(key, when.answered)
    }

    /// Whether the aggregate can have stood like that then.
    fn possible(&self, key: &AggregateKey, when: When, fits: impl Fn(&Standing) -> bool) -> bool {
        self.steps(key, when).any(|step| fits(&self.history.standing(key, step)))
    }
}

/// Checks all answers and the whole log.
pub fn check_final(evidence: &Evidence, violations: &Violations) {
    let Evidence { operations, history, .. } = evidence;
    i08_one_entry_per_position::check_final(operations, history, violations);
    i09_exactly_once::check_final(operations, history, violations);
    i10_guards_and_atomicity::check_final(operations, history, violations);
    schemas::check_log(evidence, violations);
    let mut lists = BTreeMap::new();
    for (id, operation) in operations.iter().enumerate() {
        for attempt in &operation.attempts {
            let Some((answered, response)) = &attempt.answer else { continue };
            let when = evidence.when(&operation.request, attempt, *answered);
            if !when.is_behind {
                let told =
                    |key: &AggregateKey| history.standing(key, evidence.lowest(key, when)).version;
                i11_linearizable::check(id, &operation.request, response, told, violations);
            }
            let found = match (&*operation.request, response) {
                // Of the store's own nothing is known but what is there in the end.
                (Request::Read(query), Response::Page(_)) if query.key.is_system() => Ok(()),
                (Request::Read(query), Response::Page(page)) => {
                    reads::check_page(evidence, query, page, when)
                }
                (Request::Head(query), Response::Head(head)) => {
                    reads::check_head(evidence, query, head, when)
                }
                (Request::List(query), Response::List(page)) => {
                    let place = when.is_behind.then_some(when.place);
                    let names = || lists::Names::new(evidence, place);
                    lists.entry(place).or_insert_with(names).check(evidence, query, page, when)
                }
                (Request::Feed(query), Response::Feed(page)) => {
                    let may_be_at =
                        |key: &AggregateKey, step| step <= evidence.highest(key, *answered);
                    i20_feeds::check_page(history, query, page, may_be_at)
                }
                (Request::Write(_), Response::Receipt(receipt)) => {
                    refusals::check_receipt(evidence, operation, receipt, attempt)
                }
                (Request::Ping, Response::Pong) => Ok(()),
                (Request::Admin(order), Response::Admin(report)) => {
                    schemas::check_report(evidence, order, report, when)
                }
                (_, Response::Refused(refusal)) => {
                    check_refusal(evidence, operation, attempt, refusal, when)
                }
                _ => Err("the answer is not one to this request".into()),
            };
            if let Err(what) = found {
                let rule = rule_of(response);
                violations.add(rule, format_args!("operation {id}, {what}; {operation:?}"));
            }
        }
    }
}

fn rule_of(response: &Response) -> &'static str {
    match response {
        Response::Page(_) => "reads",
        Response::Head(_) => "heads",
        Response::List(_) => "lists",
        Response::Feed(_) => i20_feeds::RULE,
        Response::Receipt(_) => "receipts",
        Response::Refused(_) => "refusals",
        Response::Admin(_) => schemas::RULE,
        Response::Pong => "answers",
    }
}

fn check_refusal(
    evidence: &Evidence,
    operation: &Operation,
    attempt: &Attempt,
    refusal: &Refusal,
    when: When,
) -> Result<(), String> {
    let excuses = &evidence.excuses;
    let excused = match refusal {
        // Or a feed that could not begin, on a node that was just about to stop.
        Refusal::Overloaded { .. } => {
            let is_feed = matches!(*operation.request, Request::Feed(_));
            // Or schemas that could not be read.
            let has_schemas = !evidence.registrations.is_empty();
            excuses.overload || is_feed && excuses.outage || has_schemas && excuses.rot
        }
        Refusal::InvalidArgument { .. } => schemas::is_too_low(evidence, &operation.request, when),
        Refusal::DeadlineExceeded { definite } => attempt.deadline && *definite,
        Refusal::NoLeader | Refusal::NotLeader { .. } | Refusal::UnknownOutcome => excuses.outage,
        Refusal::Internal { .. } => excuses.rot,
        // A read that waited for its stamp in vain: only while writes were stuck, or out of time.
        Refusal::NotYet { wanted, reached } => wanted > reached,
        _ => {
            return match &*operation.request {
                Request::Read(query) => reads::check_refused(evidence, query, refusal, when),
                Request::Head(query) => reads::check_unknown(evidence, &query.key, refusal, when),
                _ => refusals::check(evidence, operation, attempt, refusal, when),
            };
        }
    };
    match excused {
        true => Ok(()),
        false => Err(format!("nothing explains the refusal {refusal:?}")),
    }
}
