//! Schemas and policies: an operator's orders, as `celeriant schema` gives them.

use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::Gateway;
use super::call::Call;
use super::problem::Problem;
use super::read::answer;
use crate::service::Service;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with format and text")]
struct SchemaText {
    format: String,
    text: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with closed")]
struct PolicyText {
    closed: bool,
    #[serde(default)]
    allow_encrypted: bool,
}

/// Registers a schema, or says whether it would be.
pub(super) async fn register<V: Service>(
    gateway: &Gateway<V>,
    mut call: Call,
) -> Result<Response, Problem> {
    let (force, dry_run) = (call.switch("force")?, call.switch("dry_run")?);
    let SchemaText { format, text, message } = gateway.take(&mut call).await?;
    let register = json!({
        "order": "schema", "do": "register", "schema": name(&call), "format": format,
        "text": text, "message": message, "force": force, "dry_run": dry_run,
    });
    let report = gateway.order(&register).await?;
    let mut response = answer(&report);
    if report["outcome"] == "registered" {
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}

/// A schema with its text.
pub(super) async fn show<V: Service>(
    gateway: &Gateway<V>,
    call: Call,
) -> Result<Response, Problem> {
    let shown = json!({"order": "schema", "do": "show", "schema": name(&call)});
    Ok(answer(&gateway.order(&shown).await?))
}

/// All schemas and policies of an org.
pub(super) async fn list<V: Service>(
    gateway: &Gateway<V>,
    call: Call,
) -> Result<Response, Problem> {
    let list = json!({"order": "schema", "do": "list", "org": call.path("org")});
    Ok(answer(&gateway.order(&list).await?))
}

/// What an org demands from now on, or one type of it.
pub(super) async fn set_policy<V: Service>(
    gateway: &Gateway<V>,
    mut call: Call,
) -> Result<Response, Problem> {
    let PolicyText { closed, allow_encrypted } = gateway.take(&mut call).await?;
    let mut policy = json!({
        "order": "schema", "do": "policy", "org": call.path("org"),
        "closed": closed, "allow_encrypted": allow_encrypted,
    });
    let kind = call.path("type");
    if !kind.is_empty() {
        policy["type"] = json!(kind);
    }
    Ok(answer(&gateway.order(&policy).await?))
}

/// `org/type/event_type@major.minor`.
fn name(call: &Call) -> String {
    let part = |name| call.path(name);
    format!("{}/{}/{}@{}", part("org"), part("type"), part("event"), part("version"))
}
