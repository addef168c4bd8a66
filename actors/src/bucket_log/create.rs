//! An object that is being created, until it is known whose body is there (R15).
//!
//! ```text
//!          Put
//!   due ────────────────────────────────▶ made
//!    ▲   │ refused, or nobody knows         ▲ ours
//!    │   ▼                                  │
//!    │  due to ask ── GET: ─────────────────┤
//!    └── nothing there (yet)                └▶ another's
//! ```
//! Every try puts the same bytes under the same condition, so that whichever arrives first is the
//! only one that can, and one that arrives later changes nothing. A conflict is hearsay: the body
//! that a `GET` finds decides, compared as a whole.

use bytes::Bytes;
use celeriant_storage::bucket::{Done, Effect as Left, Key, Op, Outcome, Request, Token};

use super::{Settings, timeouts};
use crate::clock::Micros;

/// A body that a slow line may need more than one deadline for.
const LARGE_BYTES: usize = 256 << 10;

/// An object that is to exist.
#[derive(Debug)]
pub(super) struct Creation {
    key: Key,
    body: Bytes,
    step: Step,
    /// Some try may have happened, or may yet.
    maybe: bool,
    /// In a row.
    failures: u32,
    /// Those of them that were not answered in time.
    timeouts: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// Nothing is under way; what is next begins then.
    Due {
        at: Micros,
        ask: bool,
    },
    Putting(Token),
    Asking(Token),
    /// It is there, or something else is.
    Settled,
}

/// What a completion says.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum News {
    /// It is not settled yet.
    Nothing,
    /// Our body is there.
    Made,
    /// Another body is there, and ours never will be.
    Other(Bytes),
}

impl Creation {
    pub(super) fn new(key: Key, body: Bytes) -> Self {
        let step = Step::Due { at: 0, ask: false };
        Self { key, body, step, maybe: false, failures: 0, timeouts: 0 }
    }

    pub(super) fn body(&self) -> &Bytes {
        &self.body
    }

    /// Our body is there, or another.
    pub(super) fn is_settled(&self) -> bool {
        self.step == Step::Settled
    }

    /// When the next request may be sent; `None`: one is under way, or nothing is left to do.
    pub(super) fn due(&self) -> Option<Micros> {
        match self.step {
            Step::Due { at, .. } => Some(at),
            _ => None,
        }
    }

    /// Whether a completion with this token is for it.
    pub(super) fn awaits(&self, token: Token) -> bool {
        matches!(self.step, Step::Putting(it) | Step::Asking(it) if it == token)
    }

    /// The next operation. Only when it is due.
    pub(super) fn next(&mut self, token: Token) -> Op {
        let Step::Due { ask, .. } = self.step else { unreachable!("{:?} is not due", self.step) };
        let key = self.key.clone();
        if ask {
            self.step = Step::Asking(token);
            return Op::Get { key };
        }
        self.step = Step::Putting(token);
        Op::PutIfAbsent { key, body: self.body.clone() }
    }

    /// How that operation is sent: rounds on the lane for data, a fence on that for control.
    pub(super) fn request(
        &mut self,
        token: Token,
        settings: &Settings,
        how: fn(Op, std::time::Duration) -> Request,
    ) -> Request {
        // Only what is large can need longer: whoever waits long for a bucket that is silent learns
        // late that it is back.
        let is_large = self.body.len() > LARGE_BYTES;
        let deadline = settings.deadline(if is_large { self.timeouts } else { 0 });
        how(self.next(token), deadline)
    }

    /// Takes the outcome of the operation that it awaits.
    pub(super) fn complete(&mut self, now: Micros, outcome: Outcome, settings: &Settings) -> News {
        let puts = matches!(self.step, Step::Putting(_));
        match outcome {
            Ok(Done::Put { .. }) if puts => self.settle(News::Made),
            Ok(Done::Conflict(_)) if puts => {
                self.maybe = true;
                // At once: most often it is there, by this very try or an earlier one.
                self.step = Step::Due { at: now, ask: true };
                News::Nothing
            }
            Ok(Done::Found { body, .. }) if !puts => match body == self.body {
                true => self.settle(News::Made),
                false => self.settle(News::Other(body)),
            },
            Ok(Done::Absent) if !puts => {
                // An earlier try may still arrive. With a pause: whoever refused it was no object.
                self.again(now, false, settings)
            }
            outcome => {
                // An answer that fits no question leaves everything open.
                self.timeouts = timeouts(self.timeouts, &outcome);
                let left = outcome.map_or_else(|error| error.effect, |_| Left::Unknown);
                self.maybe |= puts && left == Left::Unknown;
                self.again(now, self.maybe, settings)
            }
        }
    }

    fn settle(&mut self, news: News) -> News {
        self.step = Step::Settled;
        news
    }

    fn again(&mut self, now: Micros, ask: bool, settings: &Settings) -> News {
        self.failures += 1;
        self.step = Step::Due { at: now.saturating_add(settings.pause(self.failures)), ask };
        News::Nothing
    }
}
