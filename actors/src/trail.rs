//! The trail of operators' orders: who ordered what, when, and what became of it.
//!
//! ```text
//! router ── an order that changes something, and who gave it ──▶ Trail
//!     1. OrderGiven  ─▶ $system/audit/<year>-<month>      without this, nothing is done
//!     2. the order itself, asked of the node like any other
//!     3. OrderDone   ─▶ the same place                    and the answer goes back
//! ```
//! One order after the other. Of an order with no `OrderDone` it is not known what became of it:
//! the node stopped, or led no more. Orders about the cluster are given when something is broken:
//! where nothing can be noted they are carried out all the same, and the log of the process says
//! so.
//! Bounded: an event is at most a few KiB, an aggregate is a month, and what only looks is not
//! noted. Deliberately absent: what clients write, which says by itself who wrote it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use celeriant_net::json::time;
use celeriant_schema::{
    AggregateKey, ContentType, Event, Guard, Refusal, Request, Response, Version,
};
use kameo::Actor;
use kameo::actor::ActorRef;
use kameo::error::Infallible;
use kameo::message::{Context, Message};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::admin::Order;
use crate::clock::Clock;
use crate::insider::Insider;
use crate::route::Route;

const ORDER_GIVEN: &str = "OrderGiven";
const ORDER_DONE: &str = "OrderDone";
/// An order is given up after this: a hand-over takes its time.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is noted must be durable by then.
const NOTE_PATIENCE: Duration = Duration::from_secs(10);
/// Longest text of an order, of a name or of an outcome, in bytes.
const TEXT_BYTES_MAX: usize = 4 << 10;

/// An order, who gives it, and the way back.
pub struct TrailMail {
    /// What was asked, parsed and checked.
    pub order: Order,
    /// Who asks, as his connection knows him.
    pub by: String,
    /// Whom to answer.
    pub route: Route,
}

/// The actor. One a node, beside the cores.
pub struct Trail {
    insider: Insider,
    clock: Arc<dyn Clock>,
}

impl Trail {
    /// Notes and orders by the way of `insider`.
    pub fn new(insider: Insider, clock: Arc<dyn Clock>) -> Self {
        Self { insider, clock }
    }

    async fn carry_out(&self, order: &Order, by: &str) -> Response {
        let given = json!({"by": cut(by), "order": shown(order)});
        let number = match self.note(ORDER_GIVEN, &given).await {
            Ok(number) => Some(number),
            Err(error) if is_urgent(order, &error) => {
                tracing::warn!(by, ?order, %error, "an order is not in the trail");
                None
            }
            Err(refusal) => return Response::Refused(refusal),
        };
        let text = match serde_json::to_vec(order) {
            Ok(text) => Bytes::from(text),
            Err(error) => return Response::Refused(Refusal::invalid("order", error)),
        };
        let (bytes, deadline) = (text.len(), Instant::now() + PATIENCE);
        let answer = self.insider.ask(Request::Admin(text), bytes, deadline).await;
        let outcome = match &answer {
            Response::Refused(refusal) => cut(&format!("{}: {refusal}", refusal.name())).to_owned(),
            _ => "done".to_owned(),
        };
        let number = number.map(Version::value);
        let done = json!({"of": number, "by": cut(by), "outcome": outcome});
        if let Err(error) = self.note(ORDER_DONE, &done).await {
            // After a hand-over it is the other node that could.
            tracing::warn!(by, outcome, %error, "what became of an order is not in the trail");
        }
        answer
    }

    /// Appends one event; its version.
    async fn note(&self, event_type: &str, what: &Value) -> Result<Version, Refusal> {
        let now = self.clock.wall();
        let event = Event::plain(event_type, ContentType::Json, what.to_string());
        let noted = (place(now)?, Guard::Any, Event { client_time: now, ..event });
        let receipt = self.insider.append([noted], Instant::now() + NOTE_PATIENCE).await?;
        Ok(receipt.writes.first().map_or(Version::NONE, |write| write.last_version))
    }
}

/// Whether an order cannot wait until it can be noted. One that another node must be given can.
fn is_urgent(order: &Order, error: &Refusal) -> bool {
    match order {
        Order::Recover { .. } => true,
        Order::HandOver | Order::Replace { .. } => !matches!(error, Refusal::NotLeader { .. }),
        _ => false,
    }
}

/// Where orders of this time are noted.
fn place(unix_micros: i64) -> Result<AggregateKey, Refusal> {
    let time = time(unix_micros);
    let month = time.as_str().and_then(|time| time.get(..7)).unwrap_or("unknown");
    AggregateKey::new(celeriant_schema::key::SYSTEM_ORG, "audit", month)
        .map_err(|error| Refusal::invalid("clock", error))
}

/// An order as it is noted: a schema's text is in the schema's own event.
fn shown(order: &Order) -> Value {
    let mut shown = serde_json::to_value(order).unwrap_or_default();
    if let Some(text) = shown.get_mut("text") {
        *text = json!(format!("{} bytes", text.as_str().map_or(0, str::len)));
    }
    match shown.to_string() {
        text if text.len() > TEXT_BYTES_MAX => json!(cut(&text)),
        _ => shown,
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

impl Actor for Trail {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(trail: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(trail)
    }
}

impl Message<TrailMail> for Trail {
    type Reply = ();

    async fn handle(&mut self, mail: TrailMail, _: &mut Context<Self, ()>) {
        let TrailMail { order, by, route } = mail;
        route.answer(self.carry_out(&order, &by).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schemas::order::SchemaOrder;

    #[test]
    fn what_is_noted_is_bounded_and_leaves_the_text_of_schemas_out() {
        let order = |text: &str, message: &str| {
            Order::Schema(SchemaOrder::Register {
                schema: "acme/account/T@1.0".into(),
                format: "json".into(),
                message: message.into(),
                text: text.into(),
                force: false,
                dry_run: false,
            })
        };
        let noted = shown(&order("{}", ""));
        assert_eq!(
            (&noted["text"], &noted["schema"]),
            (&json!("2 bytes"), &json!("acme/account/T@1.0"))
        );
        let long = shown(&order("{}", &"ü".repeat(TEXT_BYTES_MAX)));
        assert!(long.as_str().expect("text").len() <= TEXT_BYTES_MAX);
        assert_eq!(
            place(1_764_489_600_000_000).expect("a month").as_str(),
            "$system/audit/2025-11"
        );
    }
}
