//! `watch`: what happens, as it happens.

use std::io::Write;

use celeriant_client::Watched;
use celeriant_net::json::Begin;
use serde_json::{Value, json};

use super::args::{Global, Watch};
use super::failure::Failure;
use super::output::Output;
use super::{connect, query};

/// Prints events until it is stopped, or, with an end, until that.
pub(super) async fn run(watch: Watch, global: &Global, output: &Output) -> Result<(), Failure> {
    let client = connect(global).await?;
    let mut request = client.watch_each(watch.selectors);
    request = match watch.from {
        Begin::Now => request.now(),
        Begin::After(stamp) => request.after(stamp),
    };
    if !watch.types.is_empty() {
        request = request.types(watch.types.iter().map(String::as_str));
    }
    if watch.until.is_some() {
        request = request.until_now();
    }
    if watch.headers_only {
        request = request.headers_only();
    }
    if watch.any {
        request = request.any();
    }
    let mut feed = request.stream();
    let mut lines = output.lines();
    while let Some(told) = feed.next().await {
        match told? {
            Watched::Batch { key, batch } => {
                for event in &batch.events {
                    query::print_with_key(&mut lines, &key, &batch, event, output)?;
                }
            }
            Watched::Deleted { key, version, stamp, recreate, .. } => {
                let line = json!({
                    "notice": "deleted", "key": key.as_str(), "version": version.value(),
                    "stamp": stamp.value(), "recreate": recreate,
                });
                let text = format!("{key:<32}  deleted at version {version}");
                print(&mut lines, output, &line, &text)?;
            }
            Watched::Trimmed { key, first_available, stamp, .. } => {
                let line = json!({
                    "notice": "trimmed", "key": key.as_str(), "stamp": stamp.value(),
                    "first_available": first_available.value(),
                });
                let text = format!("{key:<32}  trimmed below version {first_available}");
                print(&mut lines, output, &line, &text)?;
            }
            Watched::Checkpoint { stamp, caught_up } => {
                if watch.checkpoints && output.is_json() {
                    let line = json!({ "checkpoint": stamp.value(), "caught_up": caught_up });
                    writeln!(lines, "{line}")?;
                }
                // Behind every page is one: what is known is shown.
                lines.flush()?;
            }
        }
    }
    lines.flush()?;
    Ok(())
}

fn print(out: &mut impl Write, to: &Output, line: &Value, text: &str) -> Result<(), Failure> {
    match to.is_json() {
        true => writeln!(out, "{line}")?,
        false => writeln!(out, "{text}")?,
    }
    Ok(())
}
