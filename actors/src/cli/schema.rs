//! `schema`: what payloads must conform to.

use std::path::PathBuf;

use celeriant_actors::admin::Order;
use celeriant_actors::schemas::order::SchemaOrder;
use celeriant_net::json::base64;
use clap::{Subcommand, ValueEnum};
use serde_json::Value;

use super::args::Global;
use super::cluster::order;
use super::failure::Failure;
use super::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum SchemaAction {
    /// Register a schema, from now on and for ever
    Register {
        #[command(flatten)]
        schema: SchemaFile,
        /// Take it although it cannot be decided whether it fits to the version before it
        #[arg(long)]
        force: bool,
    },
    /// Say whether a schema would be registered, without registering it
    Check {
        #[command(flatten)]
        schema: SchemaFile,
    },
    /// All schemas and policies of an org
    List {
        /// Which org
        org: String,
    },
    /// Print the text of a schema
    Show {
        /// org/type; type * stands for every type of the org
        #[arg(value_name = "ORG/TYPE")]
        place: String,
        /// Which one: event type and version
        #[arg(long = "type", value_name = "NAME@MAJOR.MINOR")]
        name: String,
    },
    /// What an org, or one type of it, demands of event types without schema and of encrypted ones
    #[command(group = clap::ArgGroup::new("demand").required(true))]
    Policy {
        /// org/type; or org for all its types that have no policy of their own
        #[arg(value_name = "ORG[/TYPE]")]
        place: String,
        /// Event types without a schema are refused
        #[arg(long, group = "demand")]
        closed: bool,
        /// Event types without a schema are taken
        #[arg(long, group = "demand")]
        open: bool,
        /// Events whose type has a schema may be encrypted, and are then not checked
        #[arg(long)]
        allow_encrypted: bool,
    },
}

/// A schema in a file.
#[derive(Debug, clap::Args)]
pub(super) struct SchemaFile {
    /// org/type; type * stands for every type of the org
    #[arg(value_name = "ORG/TYPE")]
    place: String,
    /// Event type and version
    #[arg(long = "type", value_name = "NAME@MAJOR.MINOR")]
    name: String,
    /// What it is written in
    #[arg(long)]
    kind: SchemaKind,
    /// The schema; for Protobuf a .proto file or an encoded FileDescriptorSet
    #[arg(long)]
    file: PathBuf,
    /// Full name of the Protobuf message that payloads are
    #[arg(long)]
    message: Option<String>,
}

/// What a schema is written in.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum SchemaKind {
    /// JSON Schema, 2020-12 unless the text says otherwise
    JsonSchema,
    /// Avro
    Avro,
    /// Protobuf
    Protobuf,
}

pub(super) async fn run(
    action: SchemaAction,
    global: &Global,
    output: &Output,
) -> Result<(), Failure> {
    let ask = async |action| order(global, &global.url, &Order::Schema(action)).await;
    match action {
        SchemaAction::Register { schema, force } => {
            output.json(&ask(register(&schema, force, false)?).await?)
        }
        SchemaAction::Check { schema } => output.json(&ask(register(&schema, false, true)?).await?),
        SchemaAction::Show { place, name } => {
            let shown = ask(SchemaOrder::Show { schema: format!("{place}/{name}") }).await?;
            match output.is_json() {
                true => output.json(&shown),
                false => output.line(shown["text"].as_str().unwrap_or_default()),
            }
        }
        SchemaAction::Policy { place, closed, open: _, allow_encrypted } => {
            let (org, kind) = match place.split_once('/') {
                Some((org, "*")) => (org, None),
                Some((org, kind)) => (org, Some(kind.to_owned())),
                None => (place.as_str(), None),
            };
            let org = org.to_owned();
            output.json(&ask(SchemaOrder::Policy { org, kind, closed, allow_encrypted }).await?)
        }
        SchemaAction::List { org } => list(&ask(SchemaOrder::List { org }).await?, output),
    }
}

fn register(file: &SchemaFile, force: bool, dry_run: bool) -> Result<SchemaOrder, Failure> {
    let bytes = std::fs::read(&file.file)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.file.display())))?;
    let (format, text) = match file.kind {
        SchemaKind::JsonSchema => ("json", text(file, bytes)?),
        SchemaKind::Avro => ("avro", text(file, bytes)?),
        SchemaKind::Protobuf => match String::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => ("protobuf", text),
            Ok(set) => ("protobuf-set", base64(set.as_bytes())),
            Err(set) => ("protobuf-set", base64(set.as_bytes())),
        },
    };
    Ok(SchemaOrder::Register {
        schema: format!("{}/{}", file.place, file.name),
        format: format.into(),
        message: file.message.clone().unwrap_or_default(),
        text,
        force,
        dry_run,
    })
}

fn text(file: &SchemaFile, bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes)
        .map_err(|_| Failure::usage(format!("{}: is not UTF-8", file.file.display())))
}

/// One line a schema or policy.
fn list(report: &Value, output: &Output) -> Result<(), Failure> {
    let all = |name: &str| report[name].as_array().cloned().unwrap_or_default();
    let (schemas, policies) = (all("schemas"), all("policies"));
    if output.is_json() {
        return schemas.iter().chain(&policies).try_for_each(|entry| output.json(entry));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let schema = |entry: &Value| {
        let forced = if entry["forced"] == true { "forced" } else { "" };
        let row = [text(&entry["schema"]), text(&entry["format"]), text(&entry["message"])];
        [row.as_slice(), &[forced.to_owned(), text(&entry["unusable"])]].concat()
    };
    let rows: Vec<Vec<String>> = schemas.iter().map(schema).collect();
    output.table(&["SCHEMA", "FORMAT", "MESSAGE", "FORCED", "UNUSABLE"], &rows)?;
    let policy = |entry: &Value| {
        let kind = entry["type"].as_str().unwrap_or("*").to_owned();
        vec![kind, entry["closed"].to_string(), entry["allow_encrypted"].to_string()]
    };
    match policies.is_empty() {
        true => Ok(()),
        false => {
            let rows: Vec<Vec<String>> = policies.iter().map(policy).collect();
            output.table(&["TYPE", "CLOSED", "ALLOW ENCRYPTED"], &rows)
        }
    }
}
