//! What is wrong with a bucket or with the way to it, and how an operation fares under that.

use std::collections::{BTreeMap, BTreeSet};

use celeriant_storage::bucket::{Cause, Op, Request};
use serde::{Deserialize, Serialize};

use super::State;
use crate::disk::Latency;
use crate::timeline::Micros;

/// Which node of the cluster talks.
pub type NodeId = u16;

/// One thing to go wrong with one operation.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ailment {
    /// A put is answered 409 and not carried out.
    Conflict,
    /// A put wins and is answered 412: something on the way sent it twice.
    RefusedAfterSuccess,
    /// Answered 500, not carried out.
    Error,
    /// Answered 500, carried out.
    ErrorAfterSuccess,
    /// No answer in time; carried out up to a minute later, whatever has happened since.
    AppliedLater,
    /// Carried out; the connection breaks before the answer.
    LostReply,
    /// The connection breaks before the request is there.
    LostRequest,
    /// Answered 503 SlowDown, not carried out.
    Throttled,
}

impl Ailment {
    /// All.
    pub const ALL: [Self; 8] = [
        Self::Conflict,
        Self::RefusedAfterSuccess,
        Self::Error,
        Self::ErrorAfterSuccess,
        Self::AppliedLater,
        Self::LostReply,
        Self::LostRequest,
        Self::Throttled,
    ];

    fn befalls(self, op: &Op) -> bool {
        match self {
            Self::Conflict | Self::RefusedAfterSuccess => {
                matches!(op, Op::PutIfAbsent { .. } | Op::PutIfMatch { .. })
            }
            Self::ErrorAfterSuccess | Self::AppliedLater => op.mutates(),
            _ => true,
        }
    }

    /// Name of its counter.
    pub(super) fn counter(self) -> &'static str {
        match self {
            Self::Conflict => "bucket-conflict",
            Self::RefusedAfterSuccess => "bucket-refused-after-success",
            Self::Error => "bucket-error",
            Self::ErrorAfterSuccess => "bucket-error-after-success",
            Self::AppliedLater => "bucket-applied-later",
            Self::LostReply => "bucket-lost-reply",
            Self::LostRequest => "bucket-lost-request",
            Self::Throttled => "bucket-throttled",
        }
    }
}

/// How a bucket is down.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outage {
    /// Connections are refused: known at once to have had no effect.
    Refuses,
    /// Nothing comes back, nothing gets there.
    Silent,
    /// Answers 503 to everything.
    Unavailable,
}

/// What is wrong with a bucket.
#[derive(Clone, Debug)]
pub struct Ailments {
    /// How long requests take, there and back together.
    pub latency: Latency,
    /// They take this many times longer.
    pub slowness: u64,
    /// The whole bucket is down.
    pub outage: Option<Outage>,
    /// Nodes whose requests don't get there.
    pub cut_to: BTreeSet<NodeId>,
    /// Nodes that hear no answer.
    pub cut_from: BTreeSet<NodeId>,
    /// Nodes whose credentials are gone.
    pub denied: BTreeSet<NodeId>,
    /// Each befalls the next operation that it can, then is gone.
    pub pending: Vec<Ailment>,
    /// How many operations in a thousand each befalls.
    pub per_mille: BTreeMap<Ailment, u64>,
    /// Planted bug: conditions are ignored.
    pub heedless: bool,
}

impl Default for Ailments {
    fn default() -> Self {
        Self {
            latency: Latency { from: 5_000, to: 45_000, outliers_per_mille: 10 },
            slowness: 1,
            outage: None,
            cut_to: BTreeSet::new(),
            cut_from: BTreeSet::new(),
            denied: BTreeSet::new(),
            pending: Vec::new(),
            per_mille: BTreeMap::new(),
            heedless: false,
        }
    }
}

impl Ailments {
    /// Nothing is wrong any more; latency stays.
    pub fn heal(&mut self) {
        *self = Self { latency: self.latency, ..Self::default() };
    }
}

/// How an operation fares, decided when it starts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Course {
    /// As it should.
    Plain,
    /// Never sent.
    Unreachable,
    /// Sent, never there, never answered.
    Vanishes,
    /// Answered with this, not carried out.
    Answers(Cause),
    /// As the ailment says.
    Ails(Ailment),
}

/// When an operation takes effect and when its answer is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) arrives: Micros,
    pub(super) answered: Micros,
    pub(super) deadline: Micros,
}

impl State {
    pub(super) fn course(&mut self, node: NodeId, op: &Op) -> Course {
        let ailments = &mut self.ailments;
        match ailments.outage {
            Some(Outage::Refuses) => return Course::Unreachable,
            Some(Outage::Silent) => return Course::Vanishes,
            Some(Outage::Unavailable) => return Course::Answers(Cause::Unavailable),
            None => {}
        }
        if ailments.denied.contains(&node) {
            return Course::Answers(Cause::Denied);
        }
        if let Some(at) = ailments.pending.iter().position(|ailment| ailment.befalls(op)) {
            return Course::Ails(ailments.pending.remove(at));
        }
        for (ailment, per_mille) in &ailments.per_mille {
            if ailment.befalls(op) && self.rng.chance(*per_mille) {
                return Course::Ails(*ailment);
            }
        }
        Course::Plain
    }

    pub(super) fn times(&mut self, now: Micros, request: &Request, course: Course) -> Times {
        let mut took = self.ailments.latency.draw(&mut self.rng);
        took += match &request.op {
            // About 100 MB/s.
            Op::PutIfAbsent { body, .. } | Op::PutIfMatch { body, .. } => body.len() as u64 / 100,
            _ => 0,
        };
        took *= self.ailments.slowness;
        let there = self.rng.between(took / 4, took * 3 / 4);
        let deadline = now + u64::try_from(request.deadline.as_micros()).unwrap_or(u64::MAX / 2);
        let (arrives, answered) = match course {
            Course::Unreachable => (now, now + self.rng.between(100, 2_000)),
            Course::Vanishes => (now, deadline),
            Course::Ails(Ailment::AppliedLater) => {
                (deadline + self.rng.between(0, 60_000_000), deadline)
            }
            _ => (now + there, now + took),
        };
        Times { arrives, answered: answered.min(deadline), deadline }
    }
}
