//! What the node says of itself: alive, ready, its part in the cluster; and the description of all
//! this. Whether it is alive and ready, and its gauges, are for whoever comes this far.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use celeriant_schema::Refusal;
use serde_json::{Value, json};

use super::call::Call;
use super::problem::Problem;
use super::read::answer;
use super::{Gateway, openapi};
use crate::service::Service;

/// The process answers.
pub(super) fn live() -> Response {
    answer(&json!({"live": true}))
}

/// Whether the node can serve what it is asked: everything, or with `any`, what a follower may
/// answer.
pub(super) async fn ready<V: Service>(
    gateway: &Gateway<V>,
    call: Call,
) -> Result<Response, Problem> {
    let any = call.switch("any")?;
    let status = status(gateway).await?;
    let role = status["role"].as_str().unwrap_or_default();
    let is_ready = match role {
        "leader" | "alone" => true,
        "follower" => any,
        _ => false,
    };
    let mut response = answer(&json!({"ready": is_ready, "role": role}));
    if !is_ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

/// What this node knows of the cluster.
pub(super) async fn cluster<V: Service>(gateway: &Gateway<V>) -> Result<Response, Problem> {
    Ok(answer(&status(gateway).await?))
}

async fn status<V: Service>(gateway: &Gateway<V>) -> Result<Value, Refusal> {
    gateway.order(&json!({"order": "status"})).await
}

/// The same for Prometheus (text format 0.0.4).
pub(super) async fn metrics<V: Service>(gateway: &Gateway<V>) -> Result<Response, Problem> {
    let text = exposition(&status(gateway).await?);
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}

/// What was refused because of quotas, since the start: in the status, as a gauge, in words.
const OVER_QUOTA: [(&str, &str, &str); 4] = [
    (
        "over_quota",
        "celeriant_over_quota_writes",
        "Writes since the start that came before their org's turn",
    ),
    (
        "over_quota_reads",
        "celeriant_over_quota_reads",
        "Reads since the start that came before their org's turn",
    ),
    (
        "over_quota_connections",
        "celeriant_over_quota_connections",
        "Connections since the start that found no seat of their org",
    ),
    (
        "over_quota_watchers",
        "celeriant_over_quota_watchers",
        "Watchers since the start that found no seat of the org they watch",
    ),
];

fn exposition(status: &Value) -> String {
    let is_leader = matches!(status["role"].as_str(), Some("leader" | "alone"));
    let mut text = String::new();
    let mut gauge = |name: &str, what: &str, values: &mut dyn Iterator<Item = (String, u64)>| {
        text.push_str(&format!("# HELP {name} {what}\n# TYPE {name} gauge\n"));
        for (labels, value) in values {
            text.push_str(&format!("{name}{labels} {value}\n"));
        }
    };
    let one = |value| std::iter::once((String::new(), value));
    gauge("celeriant_is_leader", "Whether this node takes writes", &mut one(is_leader.into()));
    let epoch = status["epoch"].as_u64().unwrap_or_default();
    gauge("celeriant_config_epoch", "Epoch this node knows", &mut one(epoch));
    let shards = || status["shards"].as_array().into_iter().flatten();
    let of_shards = |field: &'static str| {
        shards().map(move |shard| {
            let labels = format!("{{shard=\"{}\"}}", shard["shard"]);
            (labels, shard[field].as_u64().unwrap_or_default())
        })
    };
    let (lag, commit) = ("celeriant_replication_lag_records", "celeriant_committed_records");
    gauge(lag, "Records that only this node has", &mut of_shards("lag"));
    gauge(commit, "Records that are committed", &mut of_shards("commit"));
    for (field, name, what) in OVER_QUOTA {
        let over = status[field].as_u64().unwrap_or_default();
        gauge(name, what, &mut one(over));
    }
    let members = status["in_sync"].as_array().into_iter().flatten();
    let mut members = members.filter_map(Value::as_str).map(|member| {
        // A store's id, or the bucket: nothing to escape.
        (format!("{{member=\"{member}\"}}"), 1)
    });
    gauge("celeriant_in_sync", "Members of the in-sync set", &mut members);
    text
}

/// The description of the gateway.
pub(super) fn description() -> Response {
    answer(&openapi::document())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_few_gauges() {
        let text = exposition(
            &json!({"role": "leader", "epoch": 7, "in_sync": ["a-b", "bucket"], "over_quota": 3,
            "over_quota_reads": 6, "over_quota_connections": 4, "over_quota_watchers": 5,
            "shards": [{"shard": 0, "commit": 5, "lag": 0}, {"shard": 1, "commit": 9, "lag": 2}]}),
        );
        for line in [
            "celeriant_is_leader 1",
            "celeriant_config_epoch 7",
            "celeriant_over_quota_writes 3",
            "celeriant_over_quota_reads 6",
            "celeriant_over_quota_connections 4",
            "celeriant_over_quota_watchers 5",
            "celeriant_replication_lag_records{shard=\"1\"} 2",
            "celeriant_committed_records{shard=\"0\"} 5",
            "celeriant_in_sync{member=\"bucket\"} 1",
            "# TYPE celeriant_in_sync gauge",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
        }
    }
}
