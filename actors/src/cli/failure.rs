//! What went wrong, how scripts see it (exit code, error object), how people see it.

use std::fmt;
use std::io;

use celeriant_actors::settings::ConfigError;
use celeriant_client::Error;
use serde_json::{Value, json};

use super::shapes;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// Wrong usage or configuration; nothing was tried.
    Usage(Vec<String>),
    /// The client or the store says no, or nothing.
    Client(Box<Error>),
    /// A node stopped or didn't start.
    Node(String),
    /// Files, or standard input and output.
    Io(io::Error),
    /// Some requests of a load failed.
    Load(String),
    /// What was to be shown did not come true.
    Demo(String),
    /// A history is not the one that was hashed.
    Mismatch(String),
}

impl Failure {
    pub(super) fn usage(reason: impl Into<String>) -> Self {
        Self::Usage(vec![reason.into()])
    }

    /// As documented in `cli.rs`.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Client(error) => match error.as_ref() {
                Error::Url { .. }
                | Error::Tls { .. }
                | Error::Encode { .. }
                | Error::InvalidArgument { .. } => 2,
                Error::Connect { .. }
                | Error::UnknownOutcome
                | Error::Timeout { .. }
                | Error::Protocol { .. } => 3,
                _ => 1,
            },
            Self::Node(_) | Self::Io(_) | Self::Load(_) | Self::Demo(_) | Self::Mismatch(_) => 1,
        }
    }

    /// Whoever read our output has had enough: not an error.
    pub(super) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The error as an object.
    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Usage(reasons) => {
                json!({"error": "Usage", "message": reasons.join("; "), "reasons": reasons})
            }
            Self::Client(error) => shapes::error(error),
            Self::Node(message) => json!({"error": "NodeStopped", "message": message}),
            Self::Io(error) => json!({"error": "Io", "message": error.to_string()}),
            Self::Load(message) => json!({"error": "Load", "message": message}),
            Self::Demo(message) => json!({"error": "Demo", "message": message}),
            Self::Mismatch(message) => json!({"error": "Mismatch", "message": message}),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(reasons) => f.write_str(&reasons.join("\n")),
            Self::Client(error) => match error.refusal() {
                Some(refusal) => write!(f, "{} ({}): {error}", refusal.name(), refusal.code()),
                None => write!(f, "{error}"),
            },
            Self::Node(message)
            | Self::Load(message)
            | Self::Demo(message)
            | Self::Mismatch(message) => f.write_str(message),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(Box::new(error))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.reasons)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_refused_from_wrong_from_unknown() {
        let key = "a/b/c".parse().expect("a key");
        let code = |error: Error| Failure::from(error).exit_code();
        assert_eq!(code(Error::NotFound { key }), 1);
        assert_eq!(code(Error::Url { reason: String::new() }), 2);
        assert_eq!(code(Error::UnknownOutcome), 3);
        assert_eq!(code(Error::Timeout { definite: true }), 3);
        assert_eq!(Failure::usage("no").exit_code(), 2);
    }
}
