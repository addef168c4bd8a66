//! `POST /v1/sync`: what a device wrote while it was away, in its own order, safe to repeat.
//!
//! The body is that of `/v1/write`, but each member is a write of its own, with a sequence of its
//! own. One after the other, because a device's later writes may rest on its earlier ones: what is
//! refused holds up whatever comes later for the same aggregate, and what nobody knows the outcome
//! of, or must be tried again, holds up everything. A sequence that was refused is not used up, so
//! a device can drop such a write and number on, or send another under the same sequence.
//!
//! With a conflict comes what the device has missed, so that it can decide without asking again.

use std::collections::BTreeSet;

use axum::response::Response;
use celeriant_schema::event::unix_micros;
use celeriant_schema::{
    AggregateKey, ClientId, Guard, ReadQuery, Receipt, Refusal, Retry, Sequence, Version,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::append::write;
use super::call::Call;
use super::problem::Problem;
use super::read::{json_body, read};
use super::text::{self, Told};
use super::{Gateway, SMALL};
use crate::json::{self, Part, Writing};
use crate::service::Service;

/// Events that a conflict brings along, about: a batch is not split.
const MISSED_MAX: u64 = 100;
/// Of all conflicts of an answer, in bytes of text, about. Beyond that an answer only says that
/// there are more.
const MISSED_BYTES_MAX: usize = 1 << 20;

/// Writes them, one after the other, and says what became of each.
pub(super) async fn sync<V: Service>(
    gateway: &Gateway<V>,
    mut call: Call,
) -> Result<Response, Problem> {
    let body = call.take_json(&gateway.settings, &gateway.budget).await?;
    let writing = json::parse_write(&body.bytes, unix_micros())?;
    let client = check(&writing)?;
    let room = gateway.budget.page(gateway.settings.request_timeout).await?;
    let mut batch = Batch {
        gateway,
        client,
        ends: Instant::now() + gateway.settings.request_timeout,
        refused: BTreeSet::new(),
        has_stopped: false,
        missed_bytes: 0,
    };
    let mut results = Vec::with_capacity(writing.parts.len());
    for part in writing.parts {
        results.push(batch.result(part).await?);
    }
    Ok(json_body(format!("{{\"results\":[{}]}}", results.join(",")), room))
}

/// The request as a whole makes sense; whose it is.
fn check(writing: &Writing) -> Result<ClientId, Refusal> {
    for (at, part) in writing.parts.iter().enumerate() {
        let missing = |what| Err(Refusal::invalid(format!("writes[{at}].{what}"), "missing"));
        match part.sequence {
            None => return missing("sequence"),
            Some(_) if !part.changes() => return missing("events"),
            Some(_) => {}
        }
    }
    writing.client_id.ok_or_else(|| Refusal::invalid("client_id", "missing"))
}

/// What becomes of a device's writes.
struct Batch<'a, V> {
    gateway: &'a Gateway<V>,
    client: ClientId,
    /// What is not begun by then is for the next request.
    ends: Instant,
    /// Aggregates of which a write was refused.
    refused: BTreeSet<AggregateKey>,
    /// Something must be tried again: what follows may rest on it.
    has_stopped: bool,
    missed_bytes: usize,
}

impl<V: Service> Batch<'_, V> {
    /// Tries one, unless it must wait: an object of the answer, as text.
    async fn result(&mut self, part: Part) -> Result<String, Refusal> {
        let (key, guard) = (part.key.clone(), part.guard);
        let start = json!({
            "key": key.as_str(), "sequence": part.sequence.map(Sequence::value),
        });
        self.has_stopped |= Instant::now() >= self.ends;
        if self.has_stopped || self.refused.contains(&key) {
            return Ok(told(start, "held", json!({})).to_string());
        }
        let refusal = match self.write(part).await {
            Ok(receipt) => {
                let status = if receipt.already_applied { "already_applied" } else { "accepted" };
                let more = json!({"receipt": json::receipt(&receipt)});
                return Ok(told(start, status, more).to_string());
            }
            Err(refusal) => refusal,
        };
        let problem = json!({"problem": Problem::from(refusal.clone()).to_json()});
        // What is not granted now may be later; a device must not throw it away.
        let is_denied =
            matches!(refusal, Refusal::PermissionDenied { .. } | Refusal::Unauthenticated { .. });
        let again = matches!(refusal.retry(), Retry::Same | Retry::OtherNode);
        if again || is_denied || !refusal.definite() {
            self.has_stopped = true;
            return Ok(told(start, "retry", problem).to_string());
        }
        self.refused.insert(key.clone());
        match refusal {
            Refusal::Conflict { .. } => {
                let (missed, more) = self.missed(key, guard).await;
                let mut object = told(start, "conflict", problem);
                object["more"] = json!(more);
                let text = text::with_events(&object, "missed", &missed, false)?;
                self.missed_bytes += text.len();
                Ok(text)
            }
            _ => Ok(told(start, "invalid", problem).to_string()),
        }
    }

    async fn write(&self, part: Part) -> Result<Receipt, Refusal> {
        let bytes = part.events.iter().map(|event| event.payload.len()).sum::<usize>() + SMALL;
        let writing = Writing { client_id: Some(self.client), parts: vec![part] };
        write(self.gateway, writing, bytes).await
    }

    /// What was appended behind what the device knew, and whether that is not all.
    async fn missed(&self, key: AggregateKey, guard: Guard) -> (Vec<Told>, bool) {
        let known = match guard {
            Guard::Exact(version) => version,
            Guard::NoStream => Version::NONE,
            // Nothing is there, or whatever is there will do.
            Guard::Exists | Guard::Any => return (Vec::new(), false),
        };
        if self.missed_bytes > MISSED_BYTES_MAX {
            return (Vec::new(), true);
        }
        let from = Version::new(known.value().saturating_add(1));
        let query = ReadQuery { from, limit: Some(MISSED_MAX), ..ReadQuery::all(key) };
        match read(self.gateway, &query).await {
            Ok(page) => {
                let more = page.next.is_some();
                (Told::of_page(&query.key, page, false), more)
            }
            // The conflict stands, whatever keeps its events from being read now.
            Err(_) => (Vec::new(), true),
        }
    }
}

/// An object of the answer.
fn told(mut start: Value, status: &str, more: Value) -> Value {
    start["status"] = json!(status);
    if let (Some(object), Value::Object(more)) = (start.as_object_mut(), more) {
        object.extend(more);
    }
    start
}
