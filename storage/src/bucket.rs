//! The `Bucket` seam: the third place. An object store that decides races, as operations that
//! complete later.
//!
//! ```text
//!   s3         aws-sdk-s3, a thread per lane      production           feature s3
//!   embedded   an S3 endpoint in this process     demo, tests          feature embedded-bucket
//!   probe      refuses a bucket that lies         at start, server check
//!   location   s3://bucket/prefix
//! ```
//! Contract. Operations on one key are linearizable: each takes effect at one moment between its
//! start and its completion, and every later `Get` sees it. A conditional put wins or changes
//! nothing, also among racers. A body that is read is a body that was put, whole.
//!
//! That holds for what completed with a [`Done`]. A [`BucketError`] whose [`Effect`] is `Unknown`
//! may have happened, may happen at any later time (a request that was given up is still under
//! way), or never. A [`Conflict`] is only hearsay about ourselves: something between us and the
//! bucket may have sent our request twice, and the second one met the first. So whoever mutates
//! puts a fresh nonce into every body and resolves every outcome but `Put` by a `Get` (rule R15).
//! Nothing here retries.
//!
//! Equal bodies may have equal ETags. `List` may be late, and nothing may depend on it.
//!
//! The lanes don't share a connection, a thread or a bound: an upload of data never delays the
//! register. Each has a bound of operations in flight; what is started above it fails at once,
//! with no effect.

#[cfg(feature = "embedded-bucket")]
pub mod embedded;
mod location;
pub mod probe;
#[cfg(feature = "s3")]
pub mod s3;

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

pub use crate::bucket::location::{Location, LocationError};

/// Longest key in bytes, without the location's prefix.
pub const KEY_BYTES_MAX: usize = 200;

/// Most names that one `List` returns.
pub const LIST_KEYS_MAX: usize = 1000;

/// Largest body in bytes that a `Get` accepts and a put may have: a round of 4 MiB, with a frame
/// that may be larger than that by itself, fits many times.
pub const BODY_BYTES_MAX: usize = 64 << 20;

/// Chosen by whoever starts an operation; comes back with its completion.
pub type Token = u64;

/// Name of an object below the cluster's prefix, such as `config` or `wal/00000007/00000001`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key(String);

impl Key {
    /// A name of letters, digits, `-`, `_`, `.` and, between such, `/`.
    ///
    /// # Panics
    /// When it isn't: keys are made by us, from numbers, never by a peer.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        assert!(
            text.len() <= KEY_BYTES_MAX && text.split('/').all(plain),
            "{text:?} is not a plain key"
        );
        Self(text)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the bucket calls a version of an object. Opaque; equal bodies may have equal ones.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ETag(String);

impl ETag {
    /// As the bucket says it, quotes included.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// As the bucket says it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One operation.
#[derive(Clone, Debug)]
pub enum Op {
    /// Reads an object.
    Get {
        /// Which.
        key: Key,
    },
    /// Makes an object, unless there is one (`If-None-Match: *`).
    PutIfAbsent {
        /// Which.
        key: Key,
        /// Its whole content.
        body: Bytes,
    },
    /// Replaces an object, if it is the version that `etag` names (`If-Match`).
    PutIfMatch {
        /// Which.
        key: Key,
        /// As a `Get` or put of that object said.
        etag: ETag,
        /// Its whole new content.
        body: Bytes,
    },
    /// Up to [`LIST_KEYS_MAX`] names in order. For people, clean-up and the probe, never for
    /// correctness.
    List {
        /// What they begin with.
        prefix: String,
        /// Only names after this one.
        after: Option<String>,
    },
    /// Removes an object, whatever its version, or does nothing when there is none.
    Delete {
        /// Which.
        key: Key,
    },
}

impl Op {
    /// Short name, for errors and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Get { .. } => "get",
            Self::PutIfAbsent { .. } => "put_if_absent",
            Self::PutIfMatch { .. } => "put_if_match",
            Self::List { .. } => "list",
            Self::Delete { .. } => "delete",
        }
    }

    /// Key or prefix that it is about.
    pub fn subject(&self) -> &str {
        match self {
            Self::Get { key } | Self::Delete { key } => key.as_str(),
            Self::PutIfAbsent { key, .. } | Self::PutIfMatch { key, .. } => key.as_str(),
            Self::List { prefix, .. } => prefix,
        }
    }

    /// Whether it may change the bucket.
    pub fn mutates(&self) -> bool {
        matches!(self, Self::PutIfAbsent { .. } | Self::PutIfMatch { .. } | Self::Delete { .. })
    }

    /// What is left of it when nobody knows how it ended.
    pub fn effect_if_lost(&self) -> Effect {
        if self.mutates() { Effect::Unknown } else { Effect::None }
    }
}

/// Way of an operation to the bucket.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Lane {
    /// The register, fences, the probe: small and urgent.
    Control,
    /// Slots of the log, the archive: large.
    Data,
}

impl Lane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Control, Self::Data];

    /// Place in an array of two.
    pub const fn index(self) -> usize {
        match self {
            Self::Control => 0,
            Self::Data => 1,
        }
    }

    /// Short name, for threads and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Data => "data",
        }
    }
}

/// An operation, how it travels, and how long its caller waits.
#[derive(Clone, Debug)]
pub struct Request {
    /// What.
    pub op: Op,
    /// How.
    pub lane: Lane,
    /// It completes within this time, if need be with [`Cause::Deadline`].
    pub deadline: Duration,
}

impl Request {
    /// On the control lane.
    pub fn control(op: Op, deadline: Duration) -> Self {
        Self { op, lane: Lane::Control, deadline }
    }

    /// On the data lane.
    pub fn data(op: Op, deadline: Duration) -> Self {
        Self { op, lane: Lane::Data, deadline }
    }
}

/// What an operation achieved, or was told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Done {
    /// Of `Get`: there is such an object.
    Found {
        /// Its version.
        etag: ETag,
        /// Its whole content.
        body: Bytes,
    },
    /// Of `Get`: there is none.
    Absent,
    /// Of a put: it has happened.
    Put {
        /// The version that it made.
        etag: ETag,
    },
    /// Of a put: refused. See the contract about what that says of earlier tries.
    Conflict(Conflict),
    /// Of `List`.
    Listed {
        /// Names and sizes in bytes, by name.
        objects: Vec<(String, u64)>,
        /// There are more after the last one.
        more: bool,
    },
    /// Of `Delete`: there is none now.
    Deleted,
}

/// Why the bucket refused a conditional put.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Conflict {
    /// 412: the object exists, or has another version.
    Precondition,
    /// 409: another put of that object was under way. Says nothing about who wins.
    Concurrent,
    /// 404 to a `PutIfMatch`: there is no such object.
    Missing,
}

/// What is left of an operation that failed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Effect {
    /// It has not happened and never will.
    None,
    /// It may have happened, and may yet.
    Unknown,
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The lane is full: a bound that its user should have kept.
    #[error("too many operations in flight")]
    Busy,
    /// No answer within the deadline.
    #[error("no answer in time")]
    Deadline,
    /// No connection: no such host, refused, no route, TLS refused.
    #[error("cannot be reached")]
    Unreachable,
    /// The connection broke before the answer.
    #[error("connection lost before the answer")]
    Lost,
    /// The bucket says that it cannot now (5xx).
    #[error("the bucket is not available")]
    Unavailable,
    /// The bucket says that this is too much (429, 503 SlowDown).
    #[error("the bucket asks to slow down")]
    Throttled,
    /// Credentials are missing, wrong or expired, or don't permit it.
    #[error("credentials missing or refused")]
    Denied,
    /// There is no such bucket.
    #[error("no such bucket")]
    NoBucket,
    /// The body is larger than allowed.
    #[error("body too large")]
    TooLarge,
    /// The bucket does not do this: a wrong region or endpoint, or a store that lacks it.
    #[error("the bucket refuses the request")]
    Refused,
    /// The answer makes no sense.
    #[error("the answer cannot be understood")]
    Garbled,
    /// This end is shutting down.
    #[error("closed")]
    Closed,
}

/// An operation that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("bucket: {op} {subject}: {cause}{}{detail}", if .detail.is_empty() { "" } else { ": " })]
pub struct BucketError {
    /// Which kind of operation.
    pub op: &'static str,
    /// Key or prefix.
    pub subject: String,
    /// Why.
    pub cause: Cause,
    /// What is left of it.
    pub effect: Effect,
    /// What the other side or the system said, for people.
    pub detail: String,
}

impl BucketError {
    /// `op` failed.
    pub fn new(op: &Op, cause: Cause, effect: Effect, detail: impl Into<String>) -> Self {
        let (name, subject) = (op.name(), op.subject().to_owned());
        Self { op: name, subject, cause, effect, detail: detail.into() }
    }

    /// `op` was never sent.
    pub fn unsent(op: &Op, cause: Cause) -> Self {
        Self::new(op, cause, Effect::None, "")
    }

    /// `op` may have been carried out.
    pub fn lost(op: &Op, cause: Cause, detail: impl Into<String>) -> Self {
        Self::new(op, cause, op.effect_if_lost(), detail)
    }
}

/// How an operation ended.
pub type Outcome = Result<Done, BucketError>;

/// End of an operation.
#[derive(Debug)]
pub struct Completion {
    /// As given to [`Bucket::start`].
    pub token: Token,
    /// What came of it.
    pub outcome: Outcome,
}

/// The cluster's part of an object store. Owned by one actor; used from one thread.
pub trait Bucket: Send + 'static {
    /// Sends `request` on its way; its completion comes from [`Bucket::poll_complete`], within the
    /// deadline. Operations overtake each other. Never blocks.
    fn start(&mut self, token: Token, request: Request);

    /// Takes the next completion. `Pending` registers the waker. With nothing in flight it stays
    /// pending.
    fn poll_complete(&mut self, cx: &mut Context<'_>) -> Poll<Completion>;
}

/// Token that [`run`] uses.
const RUN: Token = Token::MAX;

/// Starts one operation and waits for it: for start-up and tools, when nothing else is in flight.
///
/// # Errors
/// What the operation failed with.
pub async fn run<B: Bucket>(bucket: &mut B, request: Request) -> Outcome {
    bucket.start(RUN, request);
    let completion = poll_fn(|cx| bucket.poll_complete(cx)).await;
    assert_eq!(completion.token, RUN, "run() while other operations are in flight");
    completion.outcome
}

/// Counts what is in flight, per lane.
#[derive(Debug)]
pub struct InFlight {
    counts: [usize; 2],
    max: usize,
}

impl InFlight {
    /// At most `max` on each lane.
    pub fn new(max: usize) -> Self {
        Self { counts: [0; 2], max }
    }

    /// Counts one more; `false` when its lane is full.
    pub fn enter(&mut self, lane: Lane) -> bool {
        let count = &mut self.counts[lane.index()];
        let admitted = *count < self.max;
        *count += usize::from(admitted);
        admitted
    }

    /// One has completed.
    pub fn leave(&mut self, lane: Lane) {
        let count = &mut self.counts[lane.index()];
        assert!(*count > 0, "more completions than operations on the {} lane", lane.name());
        *count -= 1;
    }

    /// How many are in flight on `lane`.
    pub fn count(&self, lane: Lane) -> usize {
        self.counts[lane.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_plain() {
        for key in ["config", "wal/7/0", "probe/ab-c/x_1.y"] {
            assert_eq!(Key::new(key).as_str(), key);
        }
        for bad in ["", "/a", "a/", "a//b", "../a", "a/.b", "a b", "ä", "a\0", &"x".repeat(201)] {
            let made = std::panic::catch_unwind(|| Key::new(bad));
            assert!(made.is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_lane_that_is_full_does_not_fill_the_other() {
        let mut in_flight = InFlight::new(2);
        assert!(in_flight.enter(Lane::Data) && in_flight.enter(Lane::Data));
        assert!(!in_flight.enter(Lane::Data) && in_flight.enter(Lane::Control));
        in_flight.leave(Lane::Data);
        assert!(in_flight.enter(Lane::Data));
        assert_eq!((in_flight.count(Lane::Control), in_flight.count(Lane::Data)), (1, 2));
    }

    #[test]
    fn only_what_mutates_can_be_in_doubt() {
        let key = Key::new("config");
        let get = Op::Get { key: key.clone() };
        let put = Op::PutIfAbsent { key, body: Bytes::new() };
        assert_eq!(BucketError::lost(&get, Cause::Lost, "").effect, Effect::None);
        assert_eq!(BucketError::lost(&put, Cause::Lost, "").effect, Effect::Unknown);
        let text = BucketError::lost(&put, Cause::Lost, "reset").to_string();
        assert_eq!(text, "bucket: put_if_absent config: connection lost before the answer: reset");
    }
}
