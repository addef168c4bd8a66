//! A handler in the style of an HTTP service whose callers repeat requests: each is done once.
//!
//! The caller chooses an idempotency key for what it wants and sends it again until it gets an
//! answer, perhaps to another replica. `Client::once` makes the key a client id: the store then
//! knows whether it was done, also after a crash between doing it and answering.
//!
//! `cargo run -p celeriant-client --example idempotent_handler` against a node at `CELERIANT_URL`
//! (default `celeriant://localhost:7440`).

#![allow(clippy::disallowed_methods)] // Concerns the server: an application may draw random ids.

use celeriant_client::{Aggregate, AggregateKey, Client, ExecuteError, Retry};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Debug, Deserialize, Serialize)]
enum OrderEvent {
    ItemAdded { sku: String, quantity: u32 },
}

#[derive(Debug, Default)]
struct Order {
    items: u32,
}

impl Aggregate for Order {
    type Event = OrderEvent;

    fn apply(&mut self, event: OrderEvent) {
        let OrderEvent::ItemAdded { quantity, .. } = event;
        self.items += quantity;
    }
}

/// What a caller sends: `POST /orders/{order}/items` with an `Idempotency-Key` header.
struct Request {
    idempotency_key: &'static str,
    order: AggregateKey,
    sku: &'static str,
    quantity: u32,
}

/// The same key from another caller must be another request: mix in who is calling.
fn request_id(caller: &str, idempotency_key: &str) -> Uuid {
    let caller = Uuid::new_v5(&Uuid::NAMESPACE_URL, caller.as_bytes());
    Uuid::new_v5(&caller, idempotency_key.as_bytes())
}

/// Status code and body of the answer.
async fn add_item(client: &Client, caller: &str, request: &Request) -> (u16, String) {
    let once = client.once(request_id(caller, request.idempotency_key));
    let decide = |order: &Order| {
        if order.items + request.quantity > 10 {
            return Err("an order holds at most 10 items");
        }
        let (sku, quantity) = (request.sku.to_owned(), request.quantity);
        Ok(vec![OrderEvent::ItemAdded { sku, quantity }])
    };
    match once.execute(&request.order, decide).await {
        Ok(outcome) => {
            let version = outcome.receipt.map(|receipt| receipt.writes[0].last_version);
            let version = version.unwrap_or_default();
            let status = if outcome.already_applied { 200 } else { 201 };
            (status, format!("order at version {version}"))
        }
        Err(ExecuteError::Refused(reason)) => (422, reason.to_owned()),
        // The caller may simply send it again: it is still done only once.
        Err(ExecuteError::Store(error)) if error.retry() == Retry::Same => (503, error.to_string()),
        Err(ExecuteError::Store(error)) => (500, error.to_string()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("CELERIANT_URL");
    let client = Client::connect(url.as_deref().unwrap_or("celeriant://localhost:7440")).await?;
    let order = AggregateKey::new("examples", "order", &Uuid::new_v4().to_string())?;
    let add = |idempotency_key, quantity| Request {
        idempotency_key,
        order: order.clone(),
        sku: "tea",
        quantity,
    };

    let requests = [
        ("first", add("k-1", 4)),
        ("the same again: its answer was lost on the way", add("k-1", 4)),
        ("another one that looks the same", add("k-2", 4)),
        ("more than fits", add("k-3", 4)),
    ];
    for (what, request) in &requests {
        let (status, body) = add_item(&client, "shop.example", request).await;
        println!("{status} {body:<40} {what}");
    }
    let head = client.head(&order).await?;
    println!("{order} has {} events", head.version);
    Ok(())
}
