//! One request over HTTP, taken apart: path, query string, headers, body. Whatever the route does
//! not know is refused by name, so that a misspelt filter never reads as "no filter".

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams, Request};
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use bytes::{Bytes, BytesMut};
use celeriant_schema::{AggregateKey, Credential, CredentialError, Refusal};
use futures_util::StreamExt;
use percent_encoding::percent_decode_str;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::problem::Problem;
use super::routes::Route;
use super::{Budget, Settings};
use crate::json::parse_number;
use crate::rights::Rights;
use crate::rooms::Seat;

/// The parameter for whoever cannot send headers.
const TOKEN: &str = "token";

/// What a connection takes of its orgs' room. It is known who asks when he does.
#[derive(Clone, Default)]
pub(super) struct Seats(Arc<Mutex<Vec<Seat>>>);

/// A request, taken apart.
pub(super) struct Call {
    /// Its headers.
    pub(super) headers: HeaderMap,
    /// Of whoever is on the other end.
    pub(super) rights: Rights,
    shown: Option<Credential>,
    path: Vec<(String, String)>,
    query: Vec<(String, String)>,
    body: Body,
}

/// A body, and its share of the memory for bodies.
pub(super) struct Taken {
    /// All of it.
    pub(super) bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

impl Call {
    /// Takes `request` apart, as `route` describes it.
    ///
    /// # Errors
    /// Texts that are none, and parameters that the route does not have.
    pub(super) async fn new(route: &Route, request: Request) -> Result<Self, Problem> {
        let (mut head, body) = request.into_parts();
        let path = path(&mut head).await?;
        let query = query(head.uri.query().unwrap_or_default())?;
        for (at, (name, _)) in query.iter().enumerate() {
            if !route.query.iter().any(|known| known.name == name) {
                let known: Vec<&str> = route.query.iter().map(|known| known.name).collect();
                let reason = match known.is_empty() {
                    true => "no such parameter: there are none here".to_owned(),
                    false => format!("no such parameter; there are: {}", known.join(", ")),
                };
                return Err(Problem::invalid(name, reason));
            }
            if query[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(Problem::invalid(name, "is there twice"));
            }
        }
        let rights = head.extensions.remove().unwrap_or_else(Rights::none);
        let mut call = Self { headers: head.headers, rights, shown: None, path, query, body };
        call.shown = credential(call.header(&AUTHORIZATION)?, call.parameter(TOKEN))?;
        if let Some(shown) = &call.shown {
            call.rights = call.rights.with(shown)?;
        }
        if !route.operation.is_of_the_node()
            && let Some(Seats(seats)) = head.extensions.get()
        {
            // Poisoned: a seat is there or not.
            call.rights.sit(&mut seats.lock().unwrap_or_else(PoisonError::into_inner))?;
        }
        Ok(call)
    }

    /// The API key or token that was shown.
    pub(super) fn shown(&self) -> Option<&Credential> {
        self.shown.as_ref()
    }

    /// A part of the path.
    pub(super) fn path(&self, name: &str) -> &str {
        let part = self.path.iter().find(|(known, _)| known == name);
        part.map_or("", |(_, value)| value)
    }

    /// The aggregate that the path names.
    pub(super) fn key(&self) -> Result<AggregateKey, Refusal> {
        let key = AggregateKey::new(self.path("org"), self.path("type"), self.path("id"));
        key.map_err(|error| Refusal::invalid("path", error))
    }

    /// A parameter of the query string.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let parameter = self.query.iter().find(|(known, _)| known == name);
        parameter.map(|(_, value)| value.as_str())
    }

    /// A number below 2^53.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.parameter(name) else { return Ok(None) };
        match parse_number(text) {
            Some(number) => Ok(Some(number)),
            None => Err(Refusal::invalid(name, "must be a number below 2^53")),
        }
    }

    /// `1` or `true`, `0` or `false`; not said means no.
    pub(super) fn switch(&self, name: &str) -> Result<bool, Refusal> {
        match self.parameter(name) {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(_) => Err(Refusal::invalid(name, "must be 1 or 0")),
        }
    }

    /// Names with commas between them.
    pub(super) fn names(&self, name: &str) -> Vec<Bytes> {
        let names = self.parameter(name).into_iter().flat_map(|text| text.split(','));
        names.map(|name| Bytes::copy_from_slice(name.as_bytes())).collect()
    }

    /// A header that is there once, as text.
    pub(super) fn header(&self, name: &HeaderName) -> Result<Option<&str>, Refusal> {
        let mut values = self.headers.get_all(name).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return match self.headers.contains_key(name) {
                true => Err(Refusal::invalid(name.as_str(), "is there twice")),
                false => Ok(None),
            };
        };
        value
            .to_str()
            .map(Some)
            .map_err(|_| Refusal::invalid(name.as_str(), "must be visible ASCII"))
    }

    /// Whether this kind of answer is asked for by name.
    pub(super) fn accepts(&self, media_type: &str) -> bool {
        let accepted = self.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut kinds = accepted.flat_map(|list| list.split(','));
        kinds.any(|kind| kind.split(';').next().unwrap_or_default().trim() == media_type)
    }

    /// Takes in the body, which must say that it is JSON: a page of another origin cannot send that
    /// unasked.
    ///
    /// # Errors
    /// When it is something else, too large, too slow, or there is no memory for it now.
    pub(super) async fn take_json(
        &mut self,
        settings: &Settings,
        budget: &Budget,
    ) -> Result<Taken, Problem> {
        let kind = self.header(&CONTENT_TYPE)?.unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let refusal = Refusal::invalid("content-type", "must be application/json");
            return Err(Problem::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, refusal));
        }
        let body = std::mem::take(&mut self.body);
        let most = settings.body_bytes_max;
        match timeout(settings.body_timeout, take(body, most, budget)).await {
            Ok(taken) => taken,
            Err(_) => {
                let refusal = Refusal::DeadlineExceeded { definite: true };
                Err(Problem::with_status(StatusCode::REQUEST_TIMEOUT, refusal))
            }
        }
    }
}

/// What is shown in the header or, by whoever cannot send that, as a parameter. Refusals do not
/// repeat it.
pub(super) fn credential(
    authorization: Option<&str>,
    token: Option<&str>,
) -> Result<Option<Credential>, Refusal> {
    let refused = |reason: String| Refusal::Unauthenticated { reason };
    let said = match (authorization, token) {
        (None, None) => return Ok(None),
        (Some(said), None) => said,
        (Some(_), Some(_)) => {
            return Err(Refusal::invalid(TOKEN, "not together with authorization"));
        }
        // Addresses are written down on the way: nothing that lasts may be in one.
        (None, Some(token)) => {
            let reason = "the parameter token takes tokens only; revoke an API key that was in an \
                          address";
            let token = token.parse().map(Credential::Token);
            return token.map(Some).map_err(|_| refused(reason.to_owned()));
        }
    };
    match said.split_once(' ') {
        Some((scheme, text)) if scheme.eq_ignore_ascii_case("bearer") => {
            let wrong = |error: CredentialError| refused(format!("what was shown {error}"));
            text.trim_start().parse().map(Some).map_err(wrong)
        }
        _ => Err(refused("authorization must be Bearer and an API key, or a token".to_owned())),
    }
}

async fn path(head: &mut Parts) -> Result<Vec<(String, String)>, Problem> {
    match RawPathParams::from_request_parts(head, &()).await {
        Ok(parts) => Ok(parts.iter().map(|(name, part)| (name.into(), part.into())).collect()),
        Err(_) => Err(Problem::invalid("path", "must be UTF-8, percent-encoded")),
    }
}

/// Names and values, decoded.
fn query(text: &str) -> Result<Vec<(String, String)>, Problem> {
    let decode = |part: &str| {
        let spaced = part.replace('+', " ");
        let decoded = percent_decode_str(&spaced).decode_utf8();
        decoded
            .map(|text| text.into_owned())
            .map_err(|_| Problem::invalid("query", "must be UTF-8"))
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode(name)?, decode(value)?))
    });
    pairs.collect()
}

/// Memory is taken as bytes arrive: what a client claims costs nothing.
async fn take(body: Body, most: usize, budget: &Budget) -> Result<Taken, Problem> {
    let too_large = || Refusal::TooLarge { what: "body".into(), limit: most as u64 };
    if body_size(&body).is_some_and(|bytes| bytes > most as u64) {
        return Err(too_large().into());
    }
    let mut share: Option<OwnedSemaphorePermit> = None;
    let mut bytes = BytesMut::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| Problem::invalid("body", error))?;
        if bytes.len() + chunk.len() > most {
            return Err(too_large().into());
        }
        let more = budget.bytes(chunk.len())?;
        match &mut share {
            Some(share) => share.merge(more),
            None => share = Some(more),
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Taken { bytes: bytes.freeze(), _share: share })
}

/// What the client says it will send.
fn body_size(body: &Body) -> Option<u64> {
    axum::body::HttpBody::size_hint(body).exact()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_string_is_decoded_or_refused() {
        let pairs = query("a=%2Fx+y&b&c=1=2&").expect("valid");
        let pairs: Vec<(&str, &str)> =
            pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("a", "/x y"), ("b", ""), ("c", "1=2")]);
        assert!(query("a=%ff").is_err());
    }
}
