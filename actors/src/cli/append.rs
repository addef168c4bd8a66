//! `append`, `delete`, `trim`: one change of one aggregate.

use std::cmp::Ordering;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use bytes::Bytes;
use celeriant_client::{Event, Write};
use celeriant_net::json;
use celeriant_schema::{ContentType, Receipt};
use serde::de::IgnoredAny;

use super::args::{Append, Condition, Delete, Global, Trim};
use super::connect;
use super::failure::Failure;
use super::output::Output;

/// Appends and prints the receipt.
pub(super) async fn run(append: Append, global: &Global, output: &Output) -> Result<(), Failure> {
    let event = event(&append)?;
    let client = connect(global).await?;
    let write = client.append(&append.key, [event]);
    print_receipt(&on(append.on, write).await?, output)
}

/// Deletes and prints the receipt.
pub(super) async fn delete(
    delete: Delete,
    global: &Global,
    output: &Output,
) -> Result<(), Failure> {
    let mut write = connect(global).await?.delete(&delete.key);
    if delete.never_recreate {
        write = write.never_recreate();
    }
    if delete.forget_sequences {
        write = write.forget_sequences();
    }
    print_receipt(&on(delete.on, write).await?, output)
}

/// Trims and prints the receipt.
pub(super) async fn trim(trim: Trim, global: &Global, output: &Output) -> Result<(), Failure> {
    let write = connect(global).await?.trim(&trim.key, trim.keep_from);
    print_receipt(&on(trim.on, write).await?, output)
}

fn on(condition: Condition, write: Write) -> Write {
    let write = write.expect(condition.expect);
    match (condition.client_id, condition.sequence) {
        (Some(client_id), Some(sequence)) => write.client(client_id).sequence(sequence),
        _ => write,
    }
}

fn event(append: &Append) -> Result<Event, Failure> {
    let Some(content_type) = json::parse_content_type(&append.content_type) else {
        let name = &append.content_type;
        return Err(Failure::usage(format!(
            "--content-type {name}: must be json, avro, protobuf or bytes"
        )));
    };
    let payload = payload(&append.data)?;
    if content_type == ContentType::Json {
        check_json("--data", &payload)?;
    }
    let mut event = Event::new(&append.event_type, content_type, payload)?;
    if let Some(id) = append.event_id {
        event = event.with_id(id);
    }
    for (key, value) in &append.meta {
        event = event.with_metadata(key, value);
    }
    Ok(event)
}

/// The text itself, `@FILE`, or `-` for standard input.
fn payload(data: &str) -> Result<Bytes, Failure> {
    match data.strip_prefix('@') {
        Some(file) => read_file(Path::new(file)),
        None if data == "-" => read_file(Path::new("-")),
        None => Ok(Bytes::from(data.to_owned())),
    }
}

/// All of a file; `-` is standard input.
pub(super) fn read_file(path: &Path) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        io::stdin().lock().read_to_end(&mut bytes)?;
        return Ok(bytes.into());
    }
    match fs::read(path) {
        Ok(bytes) => Ok(bytes.into()),
        Err(error) => Err(Failure::usage(format!("{}: {error}", path.display()))),
    }
}

/// Payloads that say that they are JSON are.
pub(super) fn check_json(what: &str, payload: &[u8]) -> Result<(), Failure> {
    match serde_json::from_slice::<IgnoredAny>(payload) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::usage(format!(
            "{what}: not JSON: {error}; other payloads need --content-type or data_base64"
        ))),
    }
}

/// A receipt, for scripts or people.
pub(super) fn print_receipt(receipt: &Receipt, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&json::receipt(receipt));
    }
    for write in &receipt.writes {
        let (first, last) = (write.first_version, write.last_version);
        let versions = match first.value().cmp(&last.value()) {
            Ordering::Less => format!("{first}–{last}"),
            Ordering::Equal => first.to_string(),
            // What takes away moves no version.
            Ordering::Greater => format!("still {last}"),
        };
        let known = if receipt.already_applied { "  (had landed before)" } else { "" };
        output
            .line(&format!("{}  version {versions}  stamp {}{known}", write.key, receipt.stamp))?;
    }
    Ok(())
}
