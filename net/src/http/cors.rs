//! Pages of other origins: only those that are configured (CORS, Fetch standard §3.2).
//!
//! A browser asks before it sends anything but a plain GET, and shows an answer to a page only if
//! the answer says so. Bodies must be JSON by their type, so nothing that changes the store is ever
//! sent unasked.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ORIGIN, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

const METHODS: &str = "GET, POST";
const HEADERS: &str = "content-type, accept, authorization, if-match, if-none-match, \
                       celeriant-client-id, celeriant-sequence, idempotency-key, last-event-id";
const EXPOSED: &str = "etag, retry-after";
/// A browser may remember the answer for an hour.
const MAX_AGE: &str = "3600";

/// Answers a browser that asks whether it may, and says in every answer who may see it.
pub(super) async fn answer(origins: Arc<[String]>, request: Request, next: Next) -> Response {
    let origin = allowed(request.headers(), &origins);
    let asks = request.method() == Method::OPTIONS;
    let mut response = match asks {
        true => StatusCode::NO_CONTENT.into_response(),
        false => next.run(request).await,
    };
    let headers = response.headers_mut();
    // What is text stays text, whatever it looks like.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.append(VARY, HeaderValue::from_static("origin"));
    let Some(origin) = origin else { return response };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    if asks {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    }
    response
}

/// The origin of a request, if its pages may use the gateway.
fn allowed(headers: &HeaderMap, origins: &[String]) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    origins.iter().any(|known| known.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}
