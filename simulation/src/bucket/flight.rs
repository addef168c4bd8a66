//! An operation between its start and its end.

use std::fmt;

use celeriant_storage::bucket::{
    BucketError, Cause, Conflict, Done, ETag, Effect, Lane, Op, Outcome, Token,
};

use super::State;
use super::faults::{Ailment, Course, NodeId, Times};
use crate::fault::Reached;
use crate::timeline::Micros;
use crate::trace::digest;

/// An operation under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) number: u64,
    /// Node and number of the handle that it came through.
    pub(super) handle: (NodeId, u64),
    pub(super) token: Token,
    pub(super) lane: Lane,
    pub(super) op: Op,
    pub(super) course: Course,
    pub(super) deadline: Micros,
    /// Not there yet.
    pub(super) travels: bool,
    /// Not answered yet.
    pub(super) open: bool,
    /// What the bucket said.
    pub(super) answer: Option<Outcome>,
}

/// What happens next to a flight.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// It is there: its effect, if any.
    Arrives,
    /// Its answer is due.
    Answers,
}

/// Told of everything that changes in a bucket, at that very moment.
#[derive(Debug)]
pub struct Change<'a> {
    /// Whose doing; `None` when it is an operator's or a backup's.
    pub node: Option<NodeId>,
    /// Which object.
    pub key: &'a str,
    /// Its content before.
    pub before: Option<&'a [u8]>,
    /// Its content now.
    pub after: Option<&'a [u8]>,
}

impl Flight {
    /// A number that stands for the operation.
    pub(super) fn digest(&self) -> u64 {
        let subject = digest(self.op.subject().as_bytes());
        let detail = match &self.op {
            Op::PutIfAbsent { body, .. } => digest(body),
            Op::PutIfMatch { body, etag, .. } => digest(body) ^ digest(etag.as_str().as_bytes()),
            Op::List { after, .. } => digest(after.as_deref().unwrap_or_default().as_bytes()),
            _ => 0,
        };
        subject ^ detail.rotate_left(7) ^ digest(self.op.name().as_bytes()).rotate_left(13)
    }

    fn error(&self, cause: Cause, effect: Effect) -> Outcome {
        Err(BucketError::new(&self.op, cause, effect, "simulated"))
    }

    fn lost(&self, cause: Cause) -> Outcome {
        Err(BucketError::lost(&self.op, cause, "simulated"))
    }
}

impl fmt::Display for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, handle: (node, _), course, op, .. } = self;
        write!(f, "#{number} node {node} {} {}", op.name(), op.subject())?;
        if *course == Course::Plain { Ok(()) } else { write!(f, " ({course:?})") }
    }
}

impl State {
    /// The request is where it is carried out, unless something is in the way.
    pub(super) fn arrive(&mut self, flight: &mut Flight, reached: &Reached) {
        flight.travels = false;
        if self.ailments.cut_to.contains(&flight.handle.0) && flight.course != Course::Unreachable {
            reached.note("bucket-cut-to");
            return;
        }
        flight.answer = match flight.course {
            Course::Vanishes => {
                reached.note("bucket-silent");
                None
            }
            Course::Unreachable => {
                reached.note("bucket-unreachable");
                Some(flight.error(Cause::Unreachable, Effect::None))
            }
            Course::Answers(Cause::Denied) => {
                reached.note("bucket-denied");
                Some(flight.error(Cause::Denied, Effect::None))
            }
            Course::Answers(cause) => {
                reached.note("bucket-unavailable");
                Some(flight.lost(cause))
            }
            Course::Plain => Some(Ok(self.carry_out(flight))),
            Course::Ails(ailment) => self.ail(flight, ailment, reached),
        };
    }

    fn ail(&mut self, flight: &Flight, ailment: Ailment, reached: &Reached) -> Option<Outcome> {
        let carried_out = match ailment {
            Ailment::RefusedAfterSuccess
            | Ailment::ErrorAfterSuccess
            | Ailment::AppliedLater
            | Ailment::LostReply => Some(self.carry_out(flight)),
            _ => None,
        };
        // Counted when it made a difference: a put that is refused anyway loses nothing.
        let hid_success = matches!(carried_out, Some(Done::Put { .. } | Done::Deleted));
        if hid_success || ailment == Ailment::LostReply || carried_out.is_none() {
            reached.note(ailment.counter());
        }
        match (ailment, carried_out) {
            (Ailment::Conflict, _) => Some(Ok(Done::Conflict(Conflict::Concurrent))),
            (Ailment::RefusedAfterSuccess, Some(Done::Put { .. })) => {
                Some(Ok(Done::Conflict(Conflict::Precondition)))
            }
            (Ailment::RefusedAfterSuccess, done) => done.map(Ok),
            (Ailment::Error | Ailment::ErrorAfterSuccess, _) => {
                Some(flight.lost(Cause::Unavailable))
            }
            (Ailment::LostReply | Ailment::LostRequest, _) => Some(flight.lost(Cause::Lost)),
            (Ailment::Throttled, _) => Some(flight.lost(Cause::Throttled)),
            (Ailment::AppliedLater, _) => None,
        }
    }

    fn carry_out(&mut self, flight: &Flight) -> Done {
        let key = flight.op.subject();
        let before = self.objects.body(key).cloned();
        let done = self.objects.apply(&flight.op, self.ailments.heedless);
        if let Some(observer) = &self.observer
            && matches!(done, Done::Put { .. } | Done::Deleted)
        {
            let after = self.objects.body(key);
            observer(&Change {
                node: Some(flight.handle.0),
                key,
                before: before.as_deref(),
                after: after.map(|body| &body[..]),
            });
        }
        done
    }

    /// How a flight ends now; `None` when it has to wait for its deadline.
    pub(super) fn ending(
        &self,
        flight: &mut Flight,
        now: Micros,
        reached: &Reached,
    ) -> Option<Outcome> {
        let unheard = self.ailments.cut_from.contains(&flight.handle.0)
            && flight.course != Course::Unreachable;
        if unheard && flight.answer.take().is_some() {
            reached.note("bucket-cut-from");
        }
        match flight.answer.take() {
            Some(outcome) => Some(outcome),
            None if now >= flight.deadline => {
                reached.note("bucket-deadline");
                Some(flight.lost(Cause::Deadline))
            }
            None => None,
        }
    }
}

/// A number that stands for an outcome.
pub(super) fn code(outcome: &Outcome) -> u64 {
    let of = |etag: &ETag| digest(etag.as_str().as_bytes());
    match outcome {
        Ok(Done::Found { etag, .. }) => 1 ^ of(etag),
        Ok(Done::Absent) => 2,
        Ok(Done::Put { etag }) => 3 ^ of(etag),
        Ok(Done::Conflict(conflict)) => 4 + ((*conflict as u64) << 8),
        Ok(Done::Listed { objects, .. }) => 5 + ((objects.len() as u64) << 8),
        Ok(Done::Deleted) => 6,
        Err(error) => 7 ^ digest(error.cause.to_string().as_bytes()) ^ ((error.effect as u64) << 8),
    }
}

impl Times {
    /// The two steps of a flight, with their times.
    pub(super) fn steps(&self) -> [(Micros, Step); 2] {
        [(self.arrives, Step::Arrives), (self.answered, Step::Answers)]
    }
}
