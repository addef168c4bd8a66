//! `cluster`: what the nodes of a pair say of themselves, and what an operator may order.

use celeriant_actors::admin::{Entry, Order};
use celeriant_client::{Client, Options, Url};
use serde_json::{Value, json};

use super::args::{ClusterAction, Global};
use super::failure::Failure;
use super::options;
use super::output::Output;

mod recover;

pub(super) async fn run(
    action: ClusterAction,
    global: &Global,
    output: &Output,
) -> Result<(), Failure> {
    match action {
        ClusterAction::Status => status(global, output).await,
        ClusterAction::Handover => {
            warn("writes pause for about one round trip to the bucket");
            order(global, &global.url, &Order::HandOver).await?;
            output.json(&json!({"done": true}))
        }
        ClusterAction::Record => {
            // One node's view; the first that --url names.
            let first = global.url.split(',').next().unwrap_or_default();
            let report = order(global, first, &Order::Record).await?;
            output.line(report["scenario"].as_str().unwrap_or_default())
        }
        ClusterAction::Recover { give_up } => {
            recover::run(global, output, give_up.as_deref()).await
        }
        ClusterAction::Replace { lost, with } => replace(global, output, lost, &with).await,
    }
}

/// One node's address at a time: each has a view of its own.
async fn status(global: &Global, output: &Output) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut reached = 0;
    let url: Url = global.url.parse()?;
    for address in url.addresses() {
        let answered = ask(global, &url.of(address).to_string()).await;
        let status = match answered {
            Ok(status) => {
                reached += 1;
                with(status, address, true)
            }
            Err(failure) => {
                let status = json!({"role": "unknown", "reason": failure.to_string()});
                with(status, address, false)
            }
        };
        if output.is_json() {
            output.json(&status)?;
        } else {
            rows.push(row(&status));
        }
    }
    if !output.is_json() {
        let head = ["NODE", "ADDRESS", "ROLE", "EPOCH", "VER", "IN SYNC", "LAG", "WHY"];
        output.table(&head, &rows)?;
    }
    match reached {
        0 => Err(Failure::Node("no node could be reached".into())),
        _ => Ok(()),
    }
}

fn with(mut status: Value, address: &str, reachable: bool) -> Value {
    (status["address"], status["reachable"]) = (json!(address), json!(reachable));
    status
}

fn row(status: &Value) -> Vec<String> {
    let text = |name: &str| match &status[name] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let list = |name: &str| status[name].as_array().into_iter().flatten();
    let in_sync: Vec<&str> = list("in_sync").filter_map(Value::as_str).map(short).collect();
    let lag: u64 = list("shards").filter_map(|shard| shard["lag"].as_u64()).sum();
    let why = match &status["distrust"] {
        Value::String(distrust) => distrust.clone(),
        _ => text("reason"),
    };
    let node = match text("node_id") {
        node if node.is_empty() => "?".into(),
        node => format!("{node} ({})", short(&text("store"))),
    };
    let (lag, in_sync) = (lag.to_string(), in_sync.join(" + "));
    vec![node, text("address"), text("role"), text("epoch"), text("ver"), in_sync, lag, why]
}

/// The first part of a UUID: enough to tell two stores apart.
fn short(store: &str) -> &str {
    store.split('-').next().unwrap_or(store)
}

async fn replace(
    global: &Global,
    output: &Output,
    lost: String,
    with: &str,
) -> Result<(), Failure> {
    let status = ask(global, with).await?;
    let member: Entry = serde_json::from_value(status["member"].clone())
        .map_err(|_| Failure::usage(format!("--with {with}: that node is not one of a pair")))?;
    warn(&format!(
        "store {lost} is given up: whatever only it holds is lost, and it never comes back; store \
         {} takes its place",
        member.store
    ));
    order(global, &global.url, &Order::Replace { lost, member }).await?;
    output.json(&json!({"done": true}))
}

pub(super) async fn ask(global: &Global, url: &str) -> Result<Value, Failure> {
    order(global, url, &Order::Status).await
}

pub(super) async fn order(global: &Global, url: &str, order: &Order) -> Result<Value, Failure> {
    let client = Client::connect_with(url, Options { connections: 1, ..options(global)? }).await?;
    let order = serde_json::to_string(order).map_err(std::io::Error::from)?;
    let report = client.admin(order).await?;
    Ok(serde_json::from_str(&report).map_err(std::io::Error::from)?)
}

fn warn(text: &str) {
    eprintln!("note: {text}");
}
