//! `compact`: what was deleted leaves the disks, node by node.

use std::time::Duration;

use celeriant_actors::admin::Order;
use celeriant_client::Url;
use serde_json::{Value, json};

use super::args::Global;
use super::cluster::{ask, order};
use super::failure::Failure;
use super::output::Output;

/// What to do.
#[derive(Debug, clap::Args)]
pub(super) struct Compact {
    /// Until that is done
    #[arg(long)]
    wait: bool,
}

/// Between two questions how far it is.
const PAUSE: Duration = Duration::from_millis(200);

/// An order as the process that took it knows it.
struct Ordered {
    number: u64,
    boot: Value,
}

/// Each node compacts for itself, so each is told; a node that is away is still to be.
pub(super) async fn run(compact: Compact, global: &Global, output: &Output) -> Result<(), Failure> {
    let url: Url = global.url.parse()?;
    let mut ordered = Vec::new();
    let mut away = 0;
    let mut is_away = |address: &str, failure: &Failure| {
        away += 1;
        output.json(&json!({"address": address, "pending": failure.to_string()}))
    };
    for address in url.addresses() {
        let node = url.of(address).to_string();
        match order_one(global, &node).await {
            Ok(answer) => ordered.push((address, node, answer)),
            Err(failure) => is_away(address, &failure)?,
        }
    }
    for (address, node, order) in ordered {
        match status_of(&compact, global, &node, order).await {
            Ok((status, number)) => output.json(&report(address, &status, number))?,
            Err(failure) => is_away(address, &failure)?,
        }
    }
    match away {
        0 => Ok(()),
        _ => Err(Failure::Node("not every node was reached: see above".into())),
    }
}

async fn order_one(global: &Global, node: &str) -> Result<Ordered, Failure> {
    let answer = order(global, node, &Order::Compact).await?;
    let number = answer["compaction"].as_u64().unwrap_or_default();
    Ok(Ordered { number, boot: answer["boot"].clone() })
}

/// What a node says of an order, and the order's number: when it is done, if that is waited for.
async fn status_of(
    compact: &Compact,
    global: &Global,
    node: &str,
    mut ordered: Ordered,
) -> Result<(Value, u64), Failure> {
    loop {
        let status = ask(global, node).await?;
        if status["boot"] != ordered.boot {
            // The node was started anew: it remembers what it has erased, but no orders.
            ordered = order_one(global, node).await?;
            continue;
        }
        if !compact.wait || is_done(&status, ordered.number) {
            return Ok((status, ordered.number));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn shards(status: &Value) -> impl Iterator<Item = &Value> {
    status["shards"].as_array().into_iter().flatten()
}

fn is_done(status: &Value, number: u64) -> bool {
    shards(status).all(|shard| shard["compacted"].as_u64() >= Some(number))
}

fn report(address: &str, status: &Value, number: u64) -> Value {
    let sum = |name: &str| shards(status).filter_map(|shard| shard[name].as_u64()).sum::<u64>();
    let is_done = is_done(status, number);
    let upto = shards(status).filter_map(|shard| shard["erased_upto"].as_u64());
    // Of a shard that is done and has no such stamp, nothing was ever deleted.
    let upto = upto.filter(|upto| !is_done || *upto > 0).min();
    let mut report = json!({
        "address": address,
        "node_id": status["node_id"],
        "done": is_done,
        "reclaimed_bytes": sum("reclaimed_bytes"),
        "erased_bytes": sum("erased_bytes"),
        "erased_upto": upto,
    });
    if status["in_sync"].is_array() {
        // Nobody else is told when the last round with a deleted event is collected.
        report["bucket"] = json!("holds what is in its rounds until they are collected");
    }
    report
}
