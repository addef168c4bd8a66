//! `read`, `head` and `ls`: what the store has.

use std::io::Write;

use celeriant_client::{Batch, Client, Error, Recorded};
use celeriant_net::json;
use celeriant_schema::{AggregateKey, Version};
use serde_json::{Value, json};

use super::args::{Global, Head, Ls, Read};
use super::failure::Failure;
use super::output::Output;
use super::{connect, shapes};

/// Prints events as they arrive.
pub(super) async fn read(read: Read, global: &Global, output: &Output) -> Result<(), Failure> {
    let client = connect(global).await?;
    let mut left = read.limit.unwrap_or(u64::MAX);
    let mut batches = request(&client, &read).stream();
    let mut lines = output.lines();
    let mut printed = 0u64;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        let in_order: Vec<&Recorded> = match read.backwards {
            true => batch.events.iter().rev().collect(),
            false => batch.events.iter().collect(),
        };
        // The store never splits a batch, a limit does.
        for event in in_order.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            print(&mut lines, &read.key, &batch, event, output)?;
            (left, printed) = (left - 1, printed + 1);
        }
        if left == 0 {
            break;
        }
    }
    lines.flush()?;
    if printed == 0 && batches.version() == Version::NONE && read.limit != Some(0) {
        return Err(Error::NotFound { key: read.key }.into());
    }
    Ok(())
}

fn request(client: &Client, read: &Read) -> celeriant_client::Read {
    let mut request = client.read(&read.key).from(read.from.unwrap_or(0));
    if let Some(to) = read.to {
        request = request.to(to);
    }
    if read.backwards {
        request = request.backwards();
    }
    if let Some(limit) = read.limit {
        request = request.limit(limit.max(1));
    }
    if !read.types.is_empty() {
        request = request.types(read.types.iter().map(String::as_str));
    }
    if let Some(client_id) = read.client_id {
        request = request.client(client_id);
    }
    if read.any { request.any() } else { request }
}

fn print(
    lines: &mut impl Write,
    key: &AggregateKey,
    batch: &Batch,
    event: &Recorded,
    output: &Output,
) -> Result<(), Failure> {
    if output.is_json() {
        let line = shapes::event(key.as_str(), batch, event).map_err(std::io::Error::other)?;
        writeln!(lines, "{line}")?;
        return Ok(());
    }
    let time = text(json::time(batch.server_time));
    let payload = json::payload_text(event);
    writeln!(lines, "{:>8}  {time}  {:<24}  {payload}", event.version, event.event_type)?;
    Ok(())
}

/// One event of a feed, which needs its key.
pub(super) fn print_with_key(
    lines: &mut impl Write,
    key: &AggregateKey,
    batch: &Batch,
    event: &Recorded,
    output: &Output,
) -> Result<(), Failure> {
    if !output.is_json() {
        write!(lines, "{key:<32}  ")?;
    }
    print(lines, key, batch, event, output)
}

/// Prints an aggregate's state.
pub(super) async fn head(head: Head, global: &Global, output: &Output) -> Result<(), Failure> {
    let client = connect(global).await?;
    let mut request = client.head(&head.key);
    if let Some(client_id) = head.client_id {
        request = request.client(client_id);
    }
    let info = request.await?;
    if info.version == Version::NONE {
        return Err(Error::NotFound { key: head.key }.into());
    }
    let shape = json::head(head.key.as_str(), &info, head.client_id);
    if output.is_json() {
        return output.json(&shape);
    }
    let fields = shape.as_object().into_iter().flatten();
    let fields: Vec<(&str, String)> =
        fields.map(|(name, value)| (name.as_str(), text(value.clone()))).collect();
    output.fields(&fields)
}

/// Prints names.
pub(super) async fn ls(ls: Ls, global: &Global, output: &Output) -> Result<(), Failure> {
    let client = connect(global).await?;
    let of = ls.of.as_deref().unwrap_or("");
    let of = of.strip_suffix('/').unwrap_or(of);
    let (org, kind) = match of.split_once('/') {
        _ if of.is_empty() => (None, None),
        None => (Some(of), None),
        Some((org, kind)) if !kind.contains('/') => (Some(org), Some(kind)),
        Some(_) => return Err(Failure::usage(format!("{of}: must be ORG or ORG/TYPE"))),
    };
    let list = match (org, kind) {
        (None, _) => client.list_orgs(),
        (Some(org), None) => client.list_types(org),
        (Some(org), Some(kind)) => client.list(org, kind),
    };
    let mut names = list.prefix(ls.prefix).stream();
    let mut lines = output.lines();
    while let Some(name) = names.next().await {
        let name = name?;
        let shape = match (org, kind) {
            (None, _) => json!({"org": name}),
            (Some(org), None) => json!({"org": org, "type": name}),
            (Some(org), Some(kind)) => json!({"key": format!("{org}/{kind}/{name}")}),
        };
        match output.is_json() {
            true => writeln!(lines, "{shape}")?,
            false => writeln!(lines, "{name}")?,
        }
    }
    lines.flush()?;
    Ok(())
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
