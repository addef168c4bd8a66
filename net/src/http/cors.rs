//! Pages of other origins: only those that are configured (CORS, Fetch standard §3.2).
//!
//! A browser asks before it sends anything but a plain GET, and shows an answer to a page only if
//! the answer says so. Bodies must be JSON by their type, so nothing that changes the store is ever
//! sent unasked.
//!
//! A page may also give its own name the address of this machine (DNS rebinding) and then is of the
//! same origin. So a gateway on loopback that asks nobody who he is answers to addresses, localhost
//! and configured names only.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HOST, ORIGIN, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use celeriant_schema::Refusal;

use super::Settings;
use super::problem::Problem;

const METHODS: &str = "GET, POST, PUT, DELETE";
const HEADERS: &str = "content-type, accept, authorization, if-match, if-none-match, \
                       celeriant-client-id, celeriant-sequence, idempotency-key, last-event-id";
const EXPOSED: &str = "etag, retry-after";
/// A browser may remember the answer for an hour.
const MAX_AGE: &str = "3600";

/// Answers a browser that asks whether it may, and says in every answer who may see it.
pub(super) async fn answer(settings: Arc<Settings>, request: Request, next: Next) -> Response {
    let origin = allowed(request.headers(), &settings.cors);
    let asks = request.method() == Method::OPTIONS;
    let mut response = if settings.is_local && !is_ours(request.headers(), &settings.cors) {
        let reason = "must be an address, localhost, or a name in http_cors";
        let refusal = Refusal::invalid("host", reason);
        Problem::with_status(StatusCode::MISDIRECTED_REQUEST, refusal).into_response()
    } else if asks {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
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

/// Whether the name under which a request comes can only mean this machine.
fn is_ours(headers: &HeaderMap, origins: &[String]) -> bool {
    let Some(Ok(host)) = headers.get(HOST).map(HeaderValue::to_str) else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_configured =
        |origin: &String| origin.split_once("://").is_some_and(|(_, of)| of == host);
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || origins.iter().any(is_configured)
}

/// The origin of a request, if its pages may use the gateway.
fn allowed(headers: &HeaderMap, origins: &[String]) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    origins.iter().any(|known| known.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_anybody_can_point_at_this_machine_is_not_ours() {
        let origins = ["https://db.example".to_owned()];
        let ours = |host: &'static str| {
            let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
            is_ours(&headers, &origins)
        };
        for host in ["127.0.0.1:7442", "[::1]:7442", "localhost", "LocalHost:7442", "db.example"] {
            assert!(ours(host), "{host}");
        }
        for host in ["evil.example:7442", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
            assert!(!ours(host), "{host}");
        }
        assert!(!is_ours(&HeaderMap::new(), &origins));
    }
}
