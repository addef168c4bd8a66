//! Whether a request is sent again: the one place that decides it, without I/O or clock.
//!
//! ```text
//! attempt ─▶ answer                        done
//!         ─▶ refused, nothing was done     again: NotLeader, NoLeader, Overloaded, NotYet
//!                                          Unauthenticated, if there is something newer to show
//!         ─▶ lost, or outcome unknown      again if doing it twice is the same as doing it once
//!                                          (reads; writes with sequences), else UnknownOutcome
//!         ─▶ anything else                 the caller decides
//! ```
//!
//! A write with sequences is sent again **identically**, so the store recognises it. A write
//! without is never sent again once it may have arrived, not even with an exact guard: if the first
//! one landed, the second one's Conflict would tell the caller that nothing was appended.
//! Deliberately absent: where to (`nodes`), and the clock: the caller ends it when time is up.

#[cfg(test)]
mod resend_test;

use std::time::Duration;

use celeriant_schema::{AlreadyApplied, Refusal, Response};

use crate::Error;
use crate::backoff::Backoff;
use crate::link::Attempt;

/// Between attempts at a node that is full, late, or unsure; waits for nodes are up to `nodes`.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// The longest such pause, unless the node asks for a longer one.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What it means to do a request twice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Resend {
    /// Nothing.
    Read,
    /// The store recognises it: twice is once.
    Sequenced,
    /// Twice could be twice.
    Unsequenced,
}

/// One request's attempts so far.
#[derive(Debug)]
pub(crate) struct Course {
    resend: Resend,
    /// An earlier attempt may have been done, or may still be. Reads never are in doubt.
    in_doubt: bool,
    /// A node did not answer in time: whatever others say later explains less.
    is_late: bool,
    /// Why the latest attempt was not done, if it certainly was not.
    refused: Option<Refusal>,
    backoff: Backoff,
    attempts: u32,
    /// Who no longer may can show something newer, over another connection.
    pub(crate) renews: bool,
}

/// What follows from an attempt.
#[derive(Debug)]
pub(crate) enum Next {
    Done(Response),
    Failed(Error),
    /// Again, identically, after a pause.
    Again(Duration),
}

impl Course {
    pub(crate) fn new(resend: Resend, seed: u64) -> Self {
        let backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX, seed);
        let (in_doubt, is_late, renews) = (false, false, false);
        Self { resend, in_doubt, is_late, refused: None, backoff, attempts: 0, renews }
    }

    /// Attempts that have been taken in.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Takes in how an attempt went.
    pub(crate) fn take(&mut self, attempt: Attempt) -> Next {
        self.attempts = self.attempts.saturating_add(1);
        self.refused = None;
        match attempt {
            Attempt::Answer(Response::Refused(refusal)) => self.take_refusal(refusal),
            Attempt::Answer(response) => Next::Done(response),
            Attempt::Lost { sent } => self.doubt(sent, Error::UnknownOutcome, Duration::ZERO),
            Attempt::TimedOut { sent } => {
                self.is_late |= sent;
                self.doubt(sent, Error::Timeout { definite: false }, Duration::ZERO)
            }
        }
    }

    fn take_refusal(&mut self, refusal: Refusal) -> Next {
        let pause = match &refusal {
            // Whom to ask, and how soon, is known to `nodes`.
            Refusal::NoLeader | Refusal::NotLeader { .. } => Duration::ZERO,
            Refusal::NotYet { .. } => self.backoff.wait(),
            Refusal::Unauthenticated { .. } if self.renews => self.backoff.wait(),
            Refusal::Overloaded { retry_after_ms, .. } => {
                Duration::from_millis(u64::from(*retry_after_ms)) + self.backoff.wait()
            }
            Refusal::DeadlineExceeded { definite: true } => self.backoff.wait(),
            Refusal::DeadlineExceeded { definite: false } => {
                let pause = self.backoff.wait();
                return self.doubt(true, Error::Timeout { definite: false }, pause);
            }
            Refusal::UnknownOutcome => {
                let pause = self.backoff.wait();
                return self.doubt(true, Error::UnknownOutcome, pause);
            }
            _ => return self.end(refusal),
        };
        self.refused = Some(refusal);
        Next::Again(pause)
    }

    fn doubt(&mut self, maybe_done: bool, error: Error, pause: Duration) -> Next {
        let doubt = maybe_done && self.resend != Resend::Read;
        self.in_doubt |= doubt;
        match doubt && self.resend == Resend::Unsequenced {
            true => Next::Failed(error),
            false => Next::Again(pause),
        }
    }

    /// A refusal that sending again does not change.
    fn end(&self, refusal: Refusal) -> Next {
        match refusal {
            // The store recognised this very write: it has landed, and this is its receipt.
            Refusal::Conflict { already_applied: AlreadyApplied::Receipt(mut receipt), .. } => {
                receipt.already_applied = true;
                Next::Done(Response::Receipt(*receipt))
            }
            Refusal::Conflict { .. }
            | Refusal::SequenceReused { .. }
            | Refusal::SequenceStale { .. }
            | Refusal::SequenceGap { .. } => Next::Failed(refusal.into()),
            // Whoever refuses for another reason has not looked whether an earlier attempt landed.
            other if self.in_doubt && other.definite() => Next::Failed(Error::UnknownOutcome),
            other => Next::Failed(other.into()),
        }
    }

    /// What the caller is told when the next attempt could not even be made.
    pub(crate) fn not_sent(self, error: Error) -> Error {
        if self.in_doubt { Error::UnknownOutcome } else { error }
    }

    /// What the caller is told when time is up; `failure`: why a node could not be reached.
    pub(crate) fn out_of_time(self, failure: Option<Error>) -> Error {
        if self.in_doubt || self.is_late {
            return Error::Timeout { definite: !self.in_doubt };
        }
        let refused = self.refused.map(Error::from);
        refused.or(failure).unwrap_or(Error::Timeout { definite: true })
    }
}
