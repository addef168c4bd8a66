//! Audit heads and proofs, for browsers: made here of what the shards answer, as the client crate
//! makes them for programs.
//!
//! Each takes a bounded read after the other, of all frames of a log: minutes for a large one. What
//! comes of it can be checked without believing this gateway, but for one thing: a head that is
//! asked for here and now stands for what the gateway says. Keep heads.

use std::time::Duration;

use axum::response::Response;
use celeriant_schema::audit::head::{AuditHead, FramesPage, Walk};
use celeriant_schema::audit::inclusion::{Evidence, InclusionProof, Seek, Sought};
use celeriant_schema::{AggregateKey, ReadQuery, Refusal, Version};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Gateway;
use super::call::Call;
use super::problem::Problem;
use super::read::{answer, read};
use crate::json::parse_number;
use crate::service::Service;

/// How long frames are read for one call.
const AUDIT_TIMEOUT: Duration = Duration::from_mins(5);

/// The head of everything that is committed.
pub(super) async fn head<V: Service>(gateway: &Gateway<V>) -> Result<Response, Problem> {
    let making = async {
        let FramesPage { cluster, shards: count, .. } = page(gateway, 0, 0).await?;
        let mut shards = Vec::new();
        for shard in 0..count {
            shards.push(walk(gateway, Walk::new(shard, None)).await?.head());
        }
        Ok::<_, Refusal>(AuditHead { cluster, shards })
    };
    Ok(answer(&json!(in_time(making).await?)))
}

/// A proof, and the head of its shard that it is for.
pub(super) async fn proof<V: Service>(
    gateway: &Gateway<V>,
    call: Call,
) -> Result<Response, Problem> {
    let key = call.key()?;
    let version = parse_number(call.path("version"))
        .map(Version::new)
        .ok_or_else(|| Refusal::invalid("version", "must be a number below 2^53"))?;
    let frames = call.number("frames")?;
    let making = async {
        let sought = sought(gateway, key.clone(), version).await?;
        let evidence: Evidence = ask(
            gateway,
            &json!({
                "order": "audit", "do": "event", "key": key.as_str(),
                "version": version.value(), "stamp": sought.stamp.value(),
            }),
        )
        .await?;
        let walk = Walk::new(evidence.frame.shard, frames).proving(evidence.lsn());
        let walk = self::walk(gateway, walk).await?;
        let (cluster, shards) = (evidence.frame.cluster.clone(), vec![walk.head()]);
        let later = || Refusal::invalid("frames", "the event came behind so many");
        let path = walk.proof().ok_or_else(later)?;
        let proof = InclusionProof::new(&key, version, sought, evidence, &path);
        Ok::<_, Refusal>(json!({"proof": proof, "head": AuditHead { cluster, shards }}))
    };
    Ok(answer(&in_time(making).await?))
}

async fn in_time<T>(making: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    let made = timeout(AUDIT_TIMEOUT, making).await;
    made.unwrap_or(Err(Refusal::DeadlineExceeded { definite: true }))
}

/// The event that is to be proved, and the hash before it.
async fn sought<V: Service>(
    gateway: &Gateway<V>,
    key: AggregateKey,
    version: Version,
) -> Result<Sought, Refusal> {
    let mut seek = Seek::new(&key, version);
    let mut query = ReadQuery { from: seek.from(), to: Some(version), ..ReadQuery::all(key) };
    loop {
        let page = read(gateway, &query).await?;
        if let Some(sought) = seek.take(&page.batches) {
            return Ok(sought);
        }
        let absent = || Refusal::invalid("version", "it, or the one before it, cannot be read");
        query.from = page.next.ok_or_else(absent)?;
    }
}

async fn walk<V: Service>(gateway: &Gateway<V>, mut walk: Walk) -> Result<Walk, Refusal> {
    while let Some(after) = walk.after() {
        let page = page(gateway, walk.head().shard, after).await?;
        let more = walk.take(&page.frames).map_err(|error| Refusal::invalid("frames", error))?;
        if !more {
            break;
        }
    }
    Ok(walk)
}

async fn page<V: Service>(
    gateway: &Gateway<V>,
    shard: u16,
    after: u64,
) -> Result<FramesPage, Refusal> {
    let order = json!({"order": "audit", "do": "frames", "shard": shard, "after": after});
    ask(gateway, &order).await
}

async fn ask<V: Service, T: DeserializeOwned>(
    gateway: &Gateway<V>,
    order: &Value,
) -> Result<T, Refusal> {
    serde_json::from_value(gateway.order(order).await?).map_err(|error| {
        tracing::error!(%error, "not an answer to what an audit asked");
        Refusal::Internal { id: 0 }
    })
}
