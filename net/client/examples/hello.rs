//! Writes two events and reads them back.
//!
//! `cargo run -p celeriant-client --example hello` against a node at `CELERIANT_URL`
//! (default `celeriant://localhost:7440`).

#![allow(clippy::disallowed_methods)] // Concerns the server: an application may draw random ids.

use celeriant_client::{AggregateKey, Client, Error, Event, Expect};
use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize, Serialize)]
struct Greeted {
    whom: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("CELERIANT_URL");
    let client = Client::connect(url.as_deref().unwrap_or("celeriant://localhost:7440")).await?;
    let key = AggregateKey::new("examples", "greeting", &uuid::Uuid::new_v4().to_string())?;

    // The store has the events durably on disk when this returns.
    let receipt = client
        .append(
            &key,
            [
                Event::json("Greeted", &Greeted { whom: "world".into() })?,
                Event::json("Greeted@1.1", &Greeted { whom: "you".into() })?
                    .with_metadata("correlation_id", "hello-1"),
            ],
        )
        .expect(Expect::NoStream)
        .await?;
    println!("{key} is at version {}", receipt.writes[0].last_version);

    let mut batches = client.read(&key).stream();
    while let Some(batch) = batches.next().await {
        for event in batch?.events {
            let greeted: Greeted = event.to_json()?;
            println!("{} {} {:?} {}", event.version, event.event_type, greeted, event.hash);
        }
    }

    // Somebody who thinks that there is nothing yet is told how far things are.
    let late = Event::json("Greeted", &Greeted { whom: "nobody".into() })?;
    match client.append(&key, [late]).expect(Expect::NoStream).await {
        Err(Error::Conflict { conflicts, .. }) => {
            println!("refused, as it should be: {key} is at version {}", conflicts[0].actual);
        }
        other => println!("unexpected: {other:?}"),
    }
    Ok(())
}
