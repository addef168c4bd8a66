//! API keys: an operator's orders, as `celeriant key` gives them; and tokens, made here.

use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Gateway;
use super::call::Call;
use super::problem::Problem;
use super::read::answer;
use crate::json::time;
use crate::service::Service;
use crate::token::NewToken;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "an object with name and grants")]
struct NewKey {
    name: String,
    grants: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lasts_s: Option<u64>,
}

/// Makes a key. The answer tells it, this once.
pub(super) async fn create<V: Service>(
    gateway: &Gateway<V>,
    mut call: Call,
) -> Result<Response, Problem> {
    let key: NewKey = gateway.take(&mut call).await?;
    let mut create = json!(key);
    (create["order"], create["do"]) = (json!("key"), json!("create"));
    Ok(told_once(&gateway.order(&create).await?))
}

/// All keys that are not revoked, without their secrets.
pub(super) async fn list<V: Service>(gateway: &Gateway<V>) -> Result<Response, Problem> {
    Ok(answer(&gateway.order(&json!({"order": "key", "do": "list"})).await?))
}

/// Ends a key, and its tokens.
pub(super) async fn revoke<V: Service>(
    gateway: &Gateway<V>,
    call: Call,
) -> Result<Response, Problem> {
    let revoke = json!({"order": "key", "do": "revoke", "id": call.path("id")});
    Ok(answer(&gateway.order(&revoke).await?))
}

/// Makes a token of the key that was shown. Nobody is asked: what it takes is in the keyring.
pub(super) async fn make_token<V: Service>(
    gateway: &Gateway<V>,
    mut call: Call,
) -> Result<Response, Problem> {
    let new: NewToken = gateway.take(&mut call).await?;
    let token = call.rights.make_token(call.shown(), &new)?;
    let expires = time(token.scope().expires_at());
    Ok(told_once(&json!({
        "token": token.reveal(),
        "expires": expires,
        "selectors": new.selectors,
        "rights": new.rights,
        "client_id": new.client_id,
    })))
}

/// What nobody on the way may keep.
fn told_once(object: &Value) -> Response {
    let mut response = answer(object);
    *response.status_mut() = StatusCode::CREATED;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
