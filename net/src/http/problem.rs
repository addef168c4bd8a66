//! Refusals as answers: `application/problem+json` (RFC 9457) with the fields of every other error.

use std::fmt;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use celeriant_schema::Refusal;
use serde_json::{Value, json};

use crate::json;

/// A refusal, and what it is in HTTP.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    refusal: Refusal,
}

impl Problem {
    /// With another status than the refusal's own.
    pub(super) fn with_status(status: StatusCode, refusal: Refusal) -> Self {
        Self { status, refusal }
    }

    /// Something about the request makes no sense.
    pub(super) fn invalid(field: &str, reason: impl fmt::Display) -> Self {
        Refusal::invalid(field, reason).into()
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// The object: one error is one shape, wherever it is told.
    pub(super) fn to_json(&self) -> Value {
        let mut object = json::refusal(&self.refusal);
        object["title"] = json!(self.refusal.name());
        object["status"] = json!(self.status.as_u16());
        object
    }

    fn retry_after(&self) -> Option<u32> {
        match &self.refusal {
            Refusal::Overloaded { retry_after_ms, .. } => Some(retry_after_ms.div_ceil(1_000)),
            Refusal::NotLeader { .. } | Refusal::NoLeader | Refusal::NotYet { .. } => Some(1),
            _ => None,
        }
    }
}

/// What a refusal is in HTTP.
fn status(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::InvalidArgument { .. } | Refusal::UnsupportedProtocol { .. } => {
            StatusCode::BAD_REQUEST
        }
        Refusal::Unauthenticated { .. } => StatusCode::UNAUTHORIZED,
        Refusal::PermissionDenied { .. } => StatusCode::FORBIDDEN,
        Refusal::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::NotFound { .. } | Refusal::SchemaUnknown { .. } => StatusCode::NOT_FOUND,
        Refusal::Deleted { .. } | Refusal::Trimmed { .. } => StatusCode::GONE,
        Refusal::Conflict { .. }
        | Refusal::SequenceReused { .. }
        | Refusal::SequenceStale { .. }
        | Refusal::SequenceGap { .. }
        | Refusal::SchemaExists { .. }
        | Refusal::SchemaIncompatible { .. } => StatusCode::CONFLICT,
        Refusal::SchemaViolation { .. } | Refusal::SchemaInvalid { .. } => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        Refusal::NotLeader { .. }
        | Refusal::NoLeader
        | Refusal::NotYet { .. }
        | Refusal::Overloaded { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::DeadlineExceeded { .. } | Refusal::UnknownOutcome => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self { status: status(&refusal), refusal }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.to_json().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}
