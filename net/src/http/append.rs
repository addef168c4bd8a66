//! `POST …/events`, `DELETE …`, `POST …/trim` and `POST /v1/write`: guards and sequences from
//! headers and bodies.

use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use celeriant_schema::event::unix_micros;
use celeriant_schema::{
    AggregateKey, AlreadyApplied, ClientId, Guard, Receipt, Refusal, Request, Response as Answer,
    Retention, Sequence, Version,
};

use super::call::Call;
use super::problem::Problem;
use super::read::answer;
use super::{Gateway, SMALL, unexpected};
use crate::json::{self, Part, Writing, parse_number};
use crate::service::Service;

/// Whose sequences these are.
pub(super) const CLIENT_ID: HeaderName = HeaderName::from_static("celeriant-client-id");
/// For exactly-once.
pub(super) const SEQUENCE: HeaderName = HeaderName::from_static("celeriant-sequence");
/// The same for whoever cannot count: a name for the request.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
/// Tells these client ids apart from whatever else is hashed.
const IDEMPOTENCY_CONTEXT: &str = "celeriant 2026 idempotency-key to client id";

/// Appends to one aggregate.
pub(super) async fn append<V: Service>(
    gateway: &Gateway<V>,
    mut call: Call,
) -> Result<Response, Problem> {
    let key = call.key()?;
    let precondition = precondition(&call)?;
    let (client_id, sequence) = exactly_once(&call)?.unzip();
    let body = call.take_json(&gateway.settings, &gateway.budget).await?;
    let appended = json::parse_append(&body.bytes, unix_micros())?;
    let guard = guard(precondition, appended.guard)?;
    let part = Part { key, guard, sequence, events: appended.events, retention: None };
    let writing = Writing { client_id, parts: vec![part] };
    let written = write(gateway, writing, body.bytes.len()).await;
    written.map(|receipt| created(&receipt)).map_err(|refusal| problem(refusal, precondition))
}

/// Deletes an aggregate.
pub(super) async fn delete<V: Service>(
    gateway: &Gateway<V>,
    call: Call,
) -> Result<Response, Problem> {
    let precondition = precondition(&call)?;
    let retention = Retention::Delete {
        recreate: !call.switch("never_recreate")?,
        forget_sequences: call.switch("forget_sequences")?,
    };
    let named = (call.key()?, exactly_once(&call)?);
    take_away(gateway, named, precondition, precondition.unwrap_or_default(), retention).await
}

/// Takes away an aggregate's first events.
pub(super) async fn trim<V: Service>(
    gateway: &Gateway<V>,
    mut call: Call,
) -> Result<Response, Problem> {
    let precondition = precondition(&call)?;
    let named = (call.key()?, exactly_once(&call)?);
    let body = call.take_json(&gateway.settings, &gateway.budget).await?;
    let trimming = json::parse_trim(&body.bytes)?;
    let guard = guard(precondition, trimming.guard)?;
    let retention = Retention::Trim { keep_from: trimming.keep_from };
    take_away(gateway, named, precondition, guard, retention).await
}

async fn take_away<V: Service>(
    gateway: &Gateway<V>,
    (key, named): (AggregateKey, Option<(ClientId, Sequence)>),
    precondition: Option<Guard>,
    guard: Guard,
    retention: Retention,
) -> Result<Response, Problem> {
    let (client_id, sequence) = named.unzip();
    let part = Part { key, guard, sequence, events: Vec::new(), retention: Some(retention) };
    let writing = Writing { client_id, parts: vec![part] };
    let written = write(gateway, writing, SMALL).await;
    let receipt = written.map_err(|refusal| problem(refusal, precondition))?;
    Ok(answer(&json::receipt(&receipt)))
}

/// What headers say, or the body.
fn guard(precondition: Option<Guard>, body: Option<Guard>) -> Result<Guard, Problem> {
    match (precondition, body) {
        (Some(_), Some(_)) => {
            Err(Problem::invalid("expect", "not together with If-Match, If-None-Match"))
        }
        (header, body) => Ok(header.or(body).unwrap_or_default()),
    }
}

/// A guard of HTTP's own has a status of its own.
fn problem(refusal: Refusal, precondition: Option<Guard>) -> Problem {
    match refusal {
        Refusal::Conflict { .. } if precondition.is_some() => {
            Problem::with_status(StatusCode::PRECONDITION_FAILED, refusal)
        }
        refusal => refusal.into(),
    }
}

/// Writes to many aggregates, all or none.
pub(super) async fn write_many<V: Service>(
    gateway: &Gateway<V>,
    mut call: Call,
) -> Result<Response, Problem> {
    let named = exactly_once(&call)?;
    let body = call.take_json(&gateway.settings, &gateway.budget).await?;
    let mut writing = json::parse_write(&body.bytes, unix_micros())?;
    if let Some((client_id, sequence)) = named {
        if writing.client_id.is_some() || writing.parts.iter().any(|part| part.sequence.is_some()) {
            let is_key = call.header(&IDEMPOTENCY_KEY)?.is_some();
            let header = if is_key { IDEMPOTENCY_KEY } else { CLIENT_ID };
            let reason = "not together with client_id and sequence in the body";
            return Err(Problem::invalid(header.as_str(), reason));
        }
        writing.client_id = Some(client_id);
        for part in writing.parts.iter_mut().filter(|part| part.changes()) {
            part.sequence = Some(sequence);
        }
    }
    let receipt = write(gateway, writing, body.bytes.len()).await?;
    Ok(created(&receipt))
}

/// Writes, and knows its own write again.
pub(super) async fn write<V: Service>(
    gateway: &Gateway<V>,
    writing: Writing,
    bytes: usize,
) -> Result<Receipt, Refusal> {
    let request = Request::Write(writing.into_write()?);
    match gateway.asker.ask(request, bytes, gateway.settings.request_timeout).await {
        Ok(Answer::Receipt(receipt)) => Ok(receipt),
        Ok(other) => Err(unexpected(&other)),
        // The store recognised this very write: it has landed, and this is its receipt.
        Err(Refusal::Conflict {
            already_applied: AlreadyApplied::Receipt(mut receipt), ..
        }) => {
            receipt.already_applied = true;
            Ok(*receipt)
        }
        Err(refusal) => Err(refusal),
    }
}

fn created(receipt: &Receipt) -> Response {
    let mut response = answer(&json::receipt(receipt));
    *response.status_mut() = StatusCode::CREATED;
    if let [write] = &receipt.writes[..] {
        response.headers_mut().insert(ETAG, etag(write.last_version));
    }
    response
}

/// A version as an entity tag.
pub(super) fn etag(version: Version) -> HeaderValue {
    // Digits between quotes are a header's value.
    HeaderValue::try_from(format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// The guard that headers say, if they do.
fn precondition(call: &Call) -> Result<Option<Guard>, Refusal> {
    let (matches, none) = (call.header(&IF_MATCH)?, call.header(&IF_NONE_MATCH)?);
    match (matches.map(str::trim), none.map(str::trim)) {
        (None, None) => Ok(None),
        (Some("*"), None) => Ok(Some(Guard::Exists)),
        (Some(tag), None) => match version(tag) {
            Some(version) => Ok(Some(Guard::Exact(version))),
            None => Err(Refusal::invalid("if-match", "must be one version, like \"5\", or *")),
        },
        (None, Some("*")) => Ok(Some(Guard::NoStream)),
        (None, Some(_)) => Err(Refusal::invalid("if-none-match", "must be * here")),
        (Some(_), Some(_)) => Err(Refusal::invalid("if-match", "not together with if-none-match")),
    }
}

/// The version of an entity tag.
pub(super) fn version(tag: &str) -> Option<Version> {
    let digits = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    digits.and_then(parse_number).map(Version::new)
}

/// Client id and sequence from headers, if there are any.
fn exactly_once(call: &Call) -> Result<Option<(ClientId, Sequence)>, Refusal> {
    let (client_id, sequence) = (call.header(&CLIENT_ID)?, call.header(&SEQUENCE)?);
    match (client_id, sequence, call.header(&IDEMPOTENCY_KEY)?) {
        (None, None, None) => Ok(None),
        (None, None, Some(key)) => Ok(Some((client_of(key)?, Sequence::new(1)))),
        (Some(client), Some(sequence), None) => {
            let client =
                client.parse().map_err(|error| Refusal::invalid(CLIENT_ID.as_str(), error))?;
            let sequence = parse_number(sequence).filter(|sequence| *sequence > 0);
            let reason = "must be a number from 1 to below 2^53";
            let sequence = sequence.ok_or_else(|| Refusal::invalid(SEQUENCE.as_str(), reason))?;
            Ok(Some((client, Sequence::new(sequence))))
        }
        (_, _, Some(_)) => {
            let reason = "not together with celeriant-client-id and celeriant-sequence";
            Err(Refusal::invalid(IDEMPOTENCY_KEY.as_str(), reason))
        }
        (Some(_), None, None) => {
            Err(Refusal::invalid(SEQUENCE.as_str(), "missing beside the client id"))
        }
        (None, Some(_), None) => {
            Err(Refusal::invalid(CLIENT_ID.as_str(), "missing beside the sequence"))
        }
    }
}

/// The client that only ever does what has this name. As long as nobody has to say who he is, all
/// callers share one name space.
fn client_of(key: &str) -> Result<ClientId, Refusal> {
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let reason = format!("must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} characters");
        return Err(Refusal::invalid(IDEMPOTENCY_KEY.as_str(), reason));
    }
    let hash = blake3::derive_key(IDEMPOTENCY_CONTEXT, key.as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    Ok(ClientId::new(u128::from_le_bytes(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_tag_is_one_version_in_quotes() {
        assert_eq!(version("\"5\""), Some(Version::new(5)));
        for bad in ["5", "\"\"", "\"-1\"", "W/\"5\"", "\"5\", \"6\"", "\"9007199254740992\""] {
            assert_eq!(version(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_name_of_a_request_is_one_client() {
        let client = |key: &str| client_of(key).expect("a name");
        assert_eq!(client("a"), client("a"));
        assert_ne!(client("a"), client("b"));
        assert!(client_of("").is_err() && client_of(&"x".repeat(257)).is_err());
    }
}
