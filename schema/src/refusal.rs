//! Every error a client can see: one enum for wire, client, gateway and docs (semantics.md §10).

use std::fmt;

use crate::ids::{Sequence, Stamp, Version};
use crate::key::AggregateKey;
use crate::response::Receipt;

/// Whether and how trying again can help.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Retry {
    /// It will never work as it is.
    Never,
    /// Send the identical request again.
    Same,
    /// Read, decide again, send a new request.
    AfterReading,
    /// Send the identical request to the other node.
    OtherNode,
}

/// What a conflict knows about an earlier landing of the same write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AlreadyApplied {
    /// The sequence has not been used (or none was given).
    None,
    /// This very write has landed: treat the conflict as success.
    Receipt(Box<Receipt>),
    /// The sequence is older than what is remembered: read the aggregate by client, then decide.
    Unknown,
}

/// One guard that failed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Conflict {
    /// Which aggregate.
    pub key: AggregateKey,
    /// What the write expected.
    pub expected: crate::request::Guard,
    /// Where the aggregate is.
    pub actual: Version,
}

/// Why a request was not done. Numbers and names are stable.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// One or more guards failed; nothing was appended.
    #[error("conflict on {} aggregate(s){}", conflicts.len(), FirstConflict(conflicts))]
    Conflict {
        /// Every aggregate whose guard failed.
        conflicts: Vec<Conflict>,
        /// Whether this very write had landed before.
        already_applied: AlreadyApplied,
    },
    /// The sequence was used by a different write under the same client id.
    #[error("sequence {sequence} of {key} was used by another write: read again and decide anew")]
    SequenceReused {
        /// Which aggregate.
        key: AggregateKey,
        /// The sequence.
        sequence: Sequence,
    },
    /// The sequence is older than what is remembered.
    #[error(
        "sequence {sequence} of {key} is older than the {} remembered",
        crate::limits::SEQUENCES_REMEMBERED
    )]
    SequenceStale {
        /// Which aggregate.
        key: AggregateKey,
        /// The sequence.
        sequence: Sequence,
    },
    /// The sequence is beyond the next one.
    #[error("sequence of {key} must be {expected}")]
    SequenceGap {
        /// Which aggregate.
        key: AggregateKey,
        /// The only sequence that can be used next.
        expected: Sequence,
    },
    /// There is no such aggregate.
    #[error("{key} does not exist")]
    NotFound {
        /// Which aggregate.
        key: AggregateKey,
    },
    /// The aggregate is deleted: it has nothing to read or to trim, and if it may not be recreated,
    /// takes no events.
    #[error("{key} is deleted")]
    Deleted {
        /// Which aggregate.
        key: AggregateKey,
    },
    /// The events asked for are gone.
    #[error("{key} starts at version {first_available}")]
    Trimmed {
        /// Which aggregate.
        key: AggregateKey,
        /// Lowest version that can be read.
        first_available: Version,
    },
    /// An event does not conform to its schema; nothing was appended.
    #[error("event {event} of {key} does not conform to its schema: {path}: {reason}")]
    SchemaViolation {
        /// Which aggregate's batch.
        key: AggregateKey,
        /// Which event of the batch, from 0.
        event: u32,
        /// Where in the payload, as a JSON pointer; empty for the whole of it.
        path: String,
        /// What is wrong there. Never quotes the payload.
        reason: String,
    },
    /// Another schema is registered under this name, and a registered schema never changes.
    #[error("schema {schema} is registered already, with another text")]
    SchemaExists {
        /// Its name, `org/type/event_type@major.minor`.
        schema: String,
    },
    /// The text is no schema, or one that this store does not take.
    #[error("schema {schema} is not usable: {reason}")]
    SchemaInvalid {
        /// Its name.
        schema: String,
        /// What is wrong.
        reason: String,
    },
    /// A minor version that does not fit to the one before it.
    #[error("schema {schema} is not compatible with the version before it: {}", reasons.join("; "))]
    SchemaIncompatible {
        /// Its name.
        schema: String,
        /// What does not fit, each with its place; at most
        /// [`crate::limits::SCHEMA_REASONS_MAX`].
        reasons: Vec<String>,
    },
    /// There is no such schema.
    #[error("schema {schema} is not registered")]
    SchemaUnknown {
        /// Its name.
        schema: String,
    },
    /// This node does not lead.
    #[error("not the leader{}", leader.as_ref().map(|l| format!("; {l} is")).unwrap_or_default())]
    NotLeader {
        /// Address of the leader, if known.
        leader: Option<String>,
    },
    /// Nobody leads at the moment.
    #[error("no leader at the moment")]
    NoLeader,
    /// The node did not reach the stamp asked for in time.
    #[error("not yet at stamp {wanted}; committed up to {reached}")]
    NotYet {
        /// Asked for.
        wanted: Stamp,
        /// Reached.
        reached: Stamp,
    },
    /// A queue, cache or disk is full; nothing was appended.
    #[error("overloaded ({what}); try again in {retry_after_ms} ms")]
    Overloaded {
        /// What is full.
        what: String,
        /// When it may be worth trying again, in ms.
        retry_after_ms: u32,
    },
    /// Something is larger than a limit.
    #[error("{what} is larger than {limit}")]
    TooLarge {
        /// What.
        what: String,
        /// The limit, in bytes or entries.
        limit: u64,
    },
    /// The request makes no sense.
    #[error("{field}: {reason}")]
    InvalidArgument {
        /// Which field.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// The server does not speak the client's protocol version.
    #[error("unsupported protocol; supported: {min} to {max}")]
    UnsupportedProtocol {
        /// Oldest supported.
        min: u16,
        /// Newest supported.
        max: u16,
    },
    /// Whoever asks has not said who he is, and those may do nothing.
    #[error("not authenticated: {reason}")]
    Unauthenticated {
        /// What to show.
        reason: String,
    },
    /// Whoever asks may not do this.
    #[error("permission denied: {action} of {resource} is not granted")]
    PermissionDenied {
        /// Name of the operation, as in a grant.
        action: String,
        /// What it is for: `org/type`, `*` for all.
        resource: String,
    },
    /// The deadline passed.
    #[error("deadline exceeded ({})", if *definite { "nothing done" } else { "outcome unknown" })]
    DeadlineExceeded {
        /// Nothing was appended; otherwise the outcome is unknown.
        definite: bool,
    },
    /// It may or may not be committed: send the identical request again.
    #[error("outcome unknown: send the identical request again")]
    UnknownOutcome,
    /// A bug or a damaged log; the id is in the server's log.
    #[error("internal error {id}")]
    Internal {
        /// Finds the details in the server's log.
        id: u64,
    },
}

impl Refusal {
    /// `InvalidArgument` of one field.
    pub fn invalid(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::InvalidArgument { field: field.into(), reason: reason.to_string() }
    }

    /// Stable number: 1xxx the request, 2xxx the state of aggregates, 3xxx the node, 4xxx
    /// schemas, 9xxx the store.
    pub const fn code(&self) -> u16 {
        match self {
            Self::InvalidArgument { .. } => 1001,
            Self::TooLarge { .. } => 1002,
            Self::UnsupportedProtocol { .. } => 1003,
            Self::Unauthenticated { .. } => 1004,
            Self::PermissionDenied { .. } => 1005,
            Self::NotFound { .. } => 2001,
            Self::Deleted { .. } => 2002,
            Self::Conflict { .. } => 2003,
            Self::SequenceReused { .. } => 2004,
            Self::SequenceStale { .. } => 2005,
            Self::SequenceGap { .. } => 2006,
            Self::Trimmed { .. } => 2007,
            Self::SchemaViolation { .. } => 4001,
            Self::SchemaExists { .. } => 4002,
            Self::SchemaInvalid { .. } => 4003,
            Self::SchemaIncompatible { .. } => 4004,
            Self::SchemaUnknown { .. } => 4005,
            Self::NotLeader { .. } => 3001,
            Self::NoLeader => 3002,
            Self::NotYet { .. } => 3003,
            Self::Overloaded { .. } => 3004,
            Self::DeadlineExceeded { .. } => 3005,
            Self::UnknownOutcome => 3006,
            Self::Internal { .. } => 9001,
        }
    }

    /// Stable name, as in semantics.md §10.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::InvalidArgument { .. } => "InvalidArgument",
            Self::TooLarge { .. } => "TooLarge",
            Self::UnsupportedProtocol { .. } => "UnsupportedProtocol",
            Self::Unauthenticated { .. } => "Unauthenticated",
            Self::PermissionDenied { .. } => "PermissionDenied",
            Self::NotFound { .. } => "NotFound",
            Self::Deleted { .. } => "Deleted",
            Self::Conflict { .. } => "Conflict",
            Self::SequenceReused { .. } => "SequenceReused",
            Self::SequenceStale { .. } => "SequenceStale",
            Self::SequenceGap { .. } => "SequenceGap",
            Self::Trimmed { .. } => "Trimmed",
            Self::SchemaViolation { .. } => "SchemaViolation",
            Self::SchemaExists { .. } => "SchemaExists",
            Self::SchemaInvalid { .. } => "SchemaInvalid",
            Self::SchemaIncompatible { .. } => "SchemaIncompatible",
            Self::SchemaUnknown { .. } => "SchemaUnknown",
            Self::NotLeader { .. } => "NotLeader",
            Self::NoLeader => "NoLeader",
            Self::NotYet { .. } => "NotYet",
            Self::Overloaded { .. } => "Overloaded",
            Self::DeadlineExceeded { .. } => "DeadlineExceeded",
            Self::UnknownOutcome => "UnknownOutcome",
            Self::Internal { .. } => "Internal",
        }
    }

    /// What can help.
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Conflict { .. } | Self::SequenceReused { .. } | Self::SequenceStale { .. } => {
                Retry::AfterReading
            }
            Self::SequenceGap { .. } => Retry::AfterReading,
            Self::NotLeader { .. } => Retry::OtherNode,
            Self::NoLeader
            | Self::NotYet { .. }
            | Self::Overloaded { .. }
            | Self::DeadlineExceeded { .. }
            | Self::UnknownOutcome => Retry::Same,
            _ => Retry::Never,
        }
    }

    /// Whether it is certain that nothing was appended.
    pub const fn definite(&self) -> bool {
        !matches!(
            self,
            Self::UnknownOutcome
                | Self::DeadlineExceeded { definite: false }
                | Self::Internal { .. }
        )
    }
}

impl Refusal {
    /// The same, with `place` (`"members[3]."`) before the field it names.
    #[must_use]
    pub fn inside(self, place: &str) -> Self {
        match self {
            Self::InvalidArgument { field, reason } => {
                Self::InvalidArgument { field: format!("{place}{field}"), reason }
            }
            Self::TooLarge { what, limit } => {
                Self::TooLarge { what: format!("{place}{what}"), limit }
            }
            other => other,
        }
    }
}

struct FirstConflict<'a>(&'a [Conflict]);

impl fmt::Display for FirstConflict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.0.first() else { return Ok(()) };
        write!(f, ": {} expected {}, is at version {}", first.key, first.expected, first.actual)
    }
}
