//! What an operator may order about schemas, and what is answered: JSON.

use celeriant_net::json::{base64, from_base64};
use celeriant_schema::registry::{Proposal, Registered};
use celeriant_schema::system::{Format, Policy, SchemaName, SchemaSource, SystemEvent};
use celeriant_schema::{Refusal, limits::SCHEMA_BYTES_MAX, limits::SCHEMA_MESSAGE_BYTES_MAX};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Outcome, Registrar, deadline};

/// An order.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SchemaOrder {
    /// A schema, from now on and for ever.
    Register {
        /// `org/type/event_type@major.minor`, with type `*` for all.
        schema: String,
        /// `json`, `avro`, `protobuf` or `protobuf-set`.
        format: String,
        /// Full name of the Protobuf message; empty otherwise.
        #[serde(default)]
        message: String,
        /// The schema's text; of a `protobuf-set`, its bytes in base64.
        text: String,
        /// Takes compatibility that cannot be decided on the operator's word.
        #[serde(default)]
        force: bool,
        /// Only says whether it would be taken.
        #[serde(default)]
        dry_run: bool,
    },
    /// What an org, or one type of it, demands from now on.
    Policy {
        /// Which org.
        org: String,
        /// Which type of it; absent for all that have no policy of their own.
        #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
        kind: Option<String>,
        /// Event types without a schema are refused.
        closed: bool,
        /// Events whose type has a schema may be encrypted, and are then not checked.
        allow_encrypted: bool,
    },
    /// All schemas and policies of an org, without their texts.
    List {
        /// Which org.
        org: String,
    },
    /// One schema with its text.
    Show {
        /// As in `Register`.
        schema: String,
    },
}

impl Registrar {
    pub(super) async fn carry_out(&mut self, order: SchemaOrder) -> Result<Value, Refusal> {
        match order {
            SchemaOrder::Register { schema, format, message, text, force, dry_run } => {
                let name: SchemaName = schema.parse().map_err(|e| Refusal::invalid("schema", e))?;
                let source = source(&format, message, text)?;
                let org = name.org().to_owned();
                let outcome = self
                    .append(&org, |all| all.propose(name.clone(), source.clone(), force), dry_run)
                    .await?;
                let outcome = match outcome {
                    Outcome::Landed => "registered",
                    Outcome::Known => "known",
                    Outcome::WouldLand => "acceptable",
                };
                Ok(json!({"schema": schema, "outcome": outcome}))
            }
            SchemaOrder::Policy { org, kind, closed, allow_encrypted } => {
                let policy = Policy { closed, allow_encrypted };
                let event = SystemEvent::PolicySet { org: org.clone(), kind: kind.clone(), policy };
                event.check().map_err(|error| Refusal::invalid("org or type", error))?;
                self.append(
                    &org,
                    |all| match all.policies(&org).any(|set| set == (kind.as_deref(), policy)) {
                        true => Ok(Proposal::Known),
                        false => Ok(Proposal::Append(event.clone(), all.version(&org))),
                    },
                    false,
                )
                .await?;
                Ok(policy_json(kind.as_deref(), policy))
            }
            SchemaOrder::List { org } => {
                self.read(&org, false, deadline()).await?;
                let schemas = self.registry.schemas(&org);
                let schemas: Vec<Value> =
                    schemas.map(|(name, known)| schema_json(&name, known)).collect();
                let policies = self.registry.policies(&org);
                let policies: Vec<Value> =
                    policies.map(|(kind, policy)| policy_json(kind, policy)).collect();
                Ok(json!({"org": org, "schemas": schemas, "policies": policies}))
            }
            SchemaOrder::Show { schema } => {
                let name: SchemaName = schema.parse().map_err(|e| Refusal::invalid("schema", e))?;
                self.read(name.org(), false, deadline()).await?;
                let known = self.registry.schema(&name);
                let known = known.ok_or(Refusal::SchemaUnknown { schema })?;
                let mut shown = schema_json(&name, known);
                shown["text"] = json!(match known.source.format {
                    Format::ProtobufSet => base64(&known.source.text),
                    _ => String::from_utf8_lossy(&known.source.text).into_owned(),
                });
                Ok(shown)
            }
        }
    }
}

fn source(format: &str, message: String, text: String) -> Result<SchemaSource, Refusal> {
    let format: Format = format.parse().map_err(|error| Refusal::invalid("format", error))?;
    if message.len() > SCHEMA_MESSAGE_BYTES_MAX {
        return Err(Refusal::invalid(
            "message",
            format!("has more than {SCHEMA_MESSAGE_BYTES_MAX} bytes"),
        ));
    }
    let text = match format {
        Format::ProtobufSet => {
            from_base64(&text).ok_or_else(|| Refusal::invalid("text", "is not base64"))?
        }
        _ => text.into_bytes(),
    };
    if text.len() > SCHEMA_BYTES_MAX {
        let limit = SCHEMA_BYTES_MAX as u64;
        return Err(Refusal::TooLarge { what: "schema".into(), limit });
    }
    Ok(SchemaSource { format, message, text: text.into() })
}

fn schema_json(name: &SchemaName, known: &Registered) -> Value {
    let usable = known.validator.as_ref().err().map(ToString::to_string);
    json!({
        "schema": name.to_string(),
        "format": known.source.format.to_string(),
        "message": known.source.message,
        "forced": known.forced,
        "unusable": usable,
    })
}

fn policy_json(kind: Option<&str>, policy: Policy) -> Value {
    let Policy { closed, allow_encrypted } = policy;
    json!({"type": kind, "closed": closed, "allow_encrypted": allow_encrypted})
}
