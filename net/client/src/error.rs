//! Everything that can go wrong for a client, as one enum, and what can be done about it.
//!
//! What the store refuses keeps the fields, number and name of semantics.md §10; what only a client
//! can meet (no connection, an outcome that nobody can tell) has no number.

use std::fmt;

use celeriant_schema::{
    AggregateKey, AlreadyApplied, Conflict, Refusal, Retry, Sequence, Stamp, Version,
};

/// Why something was not done, or may not have been done: see [`Error::is_definite`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// A guard failed; nothing was appended. Read, decide again, send a new write.
    Conflict {
        /// Every aggregate whose guard failed.
        conflicts: Vec<Conflict>,
        /// `Unknown`: this write may have landed long ago; read the aggregate by client and
        /// sequence before deciding again. Never `Receipt`: that is returned as success.
        already_applied: AlreadyApplied,
    },
    /// The sequence was used by another write of the same client id; nothing was appended.
    SequenceReused {
        /// Which aggregate.
        key: AggregateKey,
        /// The sequence.
        sequence: Sequence,
    },
    /// The sequence is older than what is remembered: it was used, by this write or another.
    SequenceStale {
        /// Which aggregate.
        key: AggregateKey,
        /// The sequence.
        sequence: Sequence,
    },
    /// The sequence is beyond the next one.
    SequenceGap {
        /// Which aggregate.
        key: AggregateKey,
        /// The only one that can be used next.
        expected: Sequence,
    },
    /// There is no such aggregate.
    NotFound {
        /// Which.
        key: AggregateKey,
    },
    /// The aggregate is deleted and may not be recreated.
    Deleted {
        /// Which.
        key: AggregateKey,
    },
    /// The events asked for are gone.
    Trimmed {
        /// Which aggregate.
        key: AggregateKey,
        /// Lowest version that can be read.
        first_available: Version,
    },
    /// An event does not conform to its schema; nothing was appended.
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
    /// Another schema is registered under this name.
    SchemaExists {
        /// Its name.
        schema: String,
    },
    /// The text is no schema, or one that the store does not take.
    SchemaInvalid {
        /// Its name.
        schema: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no such schema.
    SchemaUnknown {
        /// Its name.
        schema: String,
    },
    /// A minor version that does not fit to the one before it.
    SchemaIncompatible {
        /// Its name.
        schema: String,
        /// What does not fit, each with its place.
        reasons: Vec<String>,
    },
    /// The node does not lead, and no other one that does could be found in time.
    NotLeader {
        /// Address of the leader, if known.
        leader: Option<String>,
    },
    /// Nobody leads, and nobody did until the timeout.
    NoLeader,
    /// No node reached the stamp asked for in time.
    NotYet {
        /// Asked for.
        wanted: Stamp,
        /// Reached.
        reached: Stamp,
    },
    /// The node is full, and stayed so until the timeout.
    Overloaded {
        /// What is full.
        what: String,
        /// When it may be worth trying again, in ms.
        retry_after_ms: u32,
    },
    /// Something is larger than a limit.
    TooLarge {
        /// What.
        what: String,
        /// The limit, in bytes or entries.
        limit: u64,
    },
    /// The request makes no sense.
    InvalidArgument {
        /// Which field.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// The node does not speak this client's protocol version.
    UnsupportedProtocol {
        /// Oldest it speaks.
        min: u16,
        /// Newest it speaks.
        max: u16,
    },
    /// The node wants to know who this is: connect with a certificate, an API key or a token, or
    /// what was shown does not count any more.
    Unauthenticated {
        /// What to show.
        reason: String,
    },
    /// This client's certificate does not grant it.
    PermissionDenied {
        /// Name of the operation.
        action: String,
        /// What it is for: `org/type`, `*` for all.
        resource: String,
    },
    /// A bug or a damaged log; the id is in the node's log.
    Internal {
        /// Finds the details there.
        id: u64,
    },
    /// A refusal that this version of the client has no variant for.
    Refused(Refusal),

    /// No node could be reached; nothing was sent.
    Connect {
        /// Tried last.
        address: String,
        /// What happened.
        reason: String,
    },
    /// The connection was lost after a write was sent: it may or may not be committed. Without
    /// sequences, sending it again could append it twice: read to find out, or use sequences; then
    /// the client sends again by itself. With them, this is said only when a later attempt was
    /// refused for a reason that says nothing about the earlier one.
    UnknownOutcome,
    /// Time is up.
    Timeout {
        /// Nothing was appended, nor will be. Otherwise nobody can tell yet.
        definite: bool,
    },
    /// The address is not one.
    Url {
        /// What is wrong with it.
        reason: String,
    },
    /// Certificates that cannot be used.
    Tls {
        /// What is wrong with them.
        reason: String,
    },
    /// The node sent something that is not an answer.
    Protocol {
        /// What.
        reason: String,
    },
    /// A value could not be turned into an event.
    Encode {
        /// Why.
        reason: String,
    },
    /// A stored event could not be turned into the value asked for.
    Decode {
        /// Its type.
        event_type: String,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// What can help. The client itself has already sent again what is safe to send again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } => Retry::Same,
            // Sending a write without sequences again could append it twice.
            Self::UnknownOutcome => Retry::AfterReading,
            Self::Url { .. }
            | Self::Tls { .. }
            | Self::Protocol { .. }
            | Self::Encode { .. }
            | Self::Decode { .. } => Retry::Never,
            refused => refused.refusal().map_or(Retry::Never, |refusal| refusal.retry()),
        }
    }

    /// Whether it is certain that nothing was, or will be, appended by the call that failed.
    pub fn is_definite(&self) -> bool {
        match self {
            Self::UnknownOutcome | Self::Protocol { .. } => false,
            Self::Timeout { definite } => *definite,
            // The sequence was used, and nobody remembers whether by this very write.
            Self::SequenceStale { .. }
            | Self::Conflict { already_applied: AlreadyApplied::Unknown, .. } => false,
            refused => refused.refusal().is_none_or(|refusal| refusal.definite()),
        }
    }

    /// Whether a guard failed.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Stable name, as in semantics.md §10; client-side errors have names of their own.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "Connect",
            Self::UnknownOutcome => "UnknownOutcome",
            Self::Timeout { .. } => "DeadlineExceeded",
            Self::Url { .. } => "Url",
            Self::Tls { .. } => "Tls",
            Self::Protocol { .. } => "Protocol",
            Self::Encode { .. } => "Encode",
            Self::Decode { .. } => "Decode",
            refused => refused.refusal().map_or("Refused", |refusal| refusal.name()),
        }
    }

    /// Stable number of what the store refused.
    pub fn code(&self) -> Option<u16> {
        self.refusal().map(|refusal| refusal.code())
    }

    /// The refusal in the vocabulary of the wire; `None` for what only a client can meet.
    pub fn refusal(&self) -> Option<Refusal> {
        let refusal = match self.clone() {
            Self::Conflict { conflicts, already_applied } => {
                Refusal::Conflict { conflicts, already_applied }
            }
            Self::SequenceReused { key, sequence } => Refusal::SequenceReused { key, sequence },
            Self::SequenceStale { key, sequence } => Refusal::SequenceStale { key, sequence },
            Self::SequenceGap { key, expected } => Refusal::SequenceGap { key, expected },
            Self::NotFound { key } => Refusal::NotFound { key },
            Self::Deleted { key } => Refusal::Deleted { key },
            Self::Trimmed { key, first_available } => Refusal::Trimmed { key, first_available },
            Self::SchemaViolation { key, event, path, reason } => {
                Refusal::SchemaViolation { key, event, path, reason }
            }
            Self::SchemaExists { schema } => Refusal::SchemaExists { schema },
            Self::SchemaUnknown { schema } => Refusal::SchemaUnknown { schema },
            Self::SchemaInvalid { schema, reason } => Refusal::SchemaInvalid { schema, reason },
            Self::SchemaIncompatible { schema, reasons } => {
                Refusal::SchemaIncompatible { schema, reasons }
            }
            Self::NotLeader { leader } => Refusal::NotLeader { leader },
            Self::NoLeader => Refusal::NoLeader,
            Self::NotYet { wanted, reached } => Refusal::NotYet { wanted, reached },
            Self::Overloaded { what, retry_after_ms } => {
                Refusal::Overloaded { what, retry_after_ms }
            }
            Self::TooLarge { what, limit } => Refusal::TooLarge { what, limit },
            Self::InvalidArgument { field, reason } => Refusal::InvalidArgument { field, reason },
            Self::UnsupportedProtocol { min, max } => Refusal::UnsupportedProtocol { min, max },
            Self::Unauthenticated { reason } => Refusal::Unauthenticated { reason },
            Self::PermissionDenied { action, resource } => {
                Refusal::PermissionDenied { action, resource }
            }
            Self::Internal { id } => Refusal::Internal { id },
            Self::UnknownOutcome => Refusal::UnknownOutcome,
            Self::Timeout { definite } => Refusal::DeadlineExceeded { definite },
            Self::Refused(refusal) => refusal,
            Self::Connect { .. }
            | Self::Url { .. }
            | Self::Tls { .. }
            | Self::Protocol { .. }
            | Self::Encode { .. }
            | Self::Decode { .. } => return None,
        };
        Some(refusal)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Conflict { conflicts, already_applied } => {
                Self::Conflict { conflicts, already_applied }
            }
            Refusal::SequenceReused { key, sequence } => Self::SequenceReused { key, sequence },
            Refusal::SequenceStale { key, sequence } => Self::SequenceStale { key, sequence },
            Refusal::SequenceGap { key, expected } => Self::SequenceGap { key, expected },
            Refusal::NotFound { key } => Self::NotFound { key },
            Refusal::Deleted { key } => Self::Deleted { key },
            Refusal::Trimmed { key, first_available } => Self::Trimmed { key, first_available },
            Refusal::SchemaViolation { key, event, path, reason } => {
                Self::SchemaViolation { key, event, path, reason }
            }
            Refusal::SchemaExists { schema } => Self::SchemaExists { schema },
            Refusal::SchemaUnknown { schema } => Self::SchemaUnknown { schema },
            Refusal::SchemaInvalid { schema, reason } => Self::SchemaInvalid { schema, reason },
            Refusal::SchemaIncompatible { schema, reasons } => {
                Self::SchemaIncompatible { schema, reasons }
            }
            Refusal::NotLeader { leader } => Self::NotLeader { leader },
            Refusal::NoLeader => Self::NoLeader,
            Refusal::NotYet { wanted, reached } => Self::NotYet { wanted, reached },
            Refusal::Overloaded { what, retry_after_ms } => {
                Self::Overloaded { what, retry_after_ms }
            }
            Refusal::TooLarge { what, limit } => Self::TooLarge { what, limit },
            Refusal::InvalidArgument { field, reason } => Self::InvalidArgument { field, reason },
            Refusal::UnsupportedProtocol { min, max } => Self::UnsupportedProtocol { min, max },
            Refusal::Unauthenticated { reason } => Self::Unauthenticated { reason },
            Refusal::PermissionDenied { action, resource } => {
                Self::PermissionDenied { action, resource }
            }
            Refusal::DeadlineExceeded { definite } => Self::Timeout { definite },
            Refusal::UnknownOutcome => Self::UnknownOutcome,
            Refusal::Internal { id } => Self::Internal { id },
            other => Self::Refused(other),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { address, reason } => write!(f, "cannot reach {address}: {reason}"),
            Self::UnknownOutcome => f.write_str(
                "connection lost after sending: the write may or may not be committed; read to \
                 find out",
            ),
            Self::Timeout { definite: true } => f.write_str("timeout; nothing was appended"),
            Self::Timeout { definite: false } => f.write_str("timeout; outcome unknown"),
            Self::Url { reason } => write!(f, "not a usable address: {reason}"),
            Self::Tls { reason } => write!(f, "certificates that cannot be used: {reason}"),
            Self::Protocol { reason } => write!(f, "the node broke the protocol: {reason}"),
            Self::Encode { reason } => write!(f, "value cannot become an event: {reason}"),
            Self::Decode { event_type, reason } => {
                write!(f, "event {event_type} cannot be understood: {reason}")
            }
            refused => match refused.refusal() {
                Some(refusal) => fmt::Display::fmt(&refusal, f),
                None => f.write_str(refused.name()),
            },
        }
    }
}

impl std::error::Error for Error {}
