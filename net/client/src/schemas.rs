//! Schemas: what payloads must conform to, registered once and for ever.
//!
//! Orders to the store, as JSON: those of `celeriant schema` and of the gateway. All of them may be
//! given again, so the client does when it must: what is registered already is known, and a policy
//! that is set twice is set.

pub use celeriant_schema::system::Format;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::resend::Resend;
use crate::{Client, Error};

/// What became of a registration.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Outcome {
    /// It is there from now on.
    Registered,
    /// It was there already.
    Known,
    /// It would be registered: nothing was done.
    Acceptable,
}

/// A registered schema.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[non_exhaustive]
pub struct Schema {
    /// `org/type/event_type@major.minor`, with type `*` for all.
    #[serde(rename = "schema")]
    pub name: String,
    /// What it is written in.
    #[serde(deserialize_with = "format")]
    pub format: Format,
    /// Full name of the Protobuf message; empty otherwise.
    pub message: String,
    /// Somebody gave his word that it fits to the version before it.
    pub forced: bool,
    /// Why this version of the server cannot use it, if it cannot.
    pub unusable: Option<String>,
    /// Only of a schema that was asked for by name.
    pub text: Option<String>,
}

/// What an org, or one type of it, demands.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Policy {
    /// Which type; `None`: all that have no policy of their own.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Event types without a schema are refused.
    pub closed: bool,
    /// Events whose type has a schema may be encrypted, and are then not checked.
    pub allow_encrypted: bool,
}

/// All that is known of an org's schemas.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[non_exhaustive]
pub struct OrgSchemas {
    /// Without their texts.
    pub schemas: Vec<Schema>,
    /// Those that were set.
    pub policies: Vec<Policy>,
}

/// A registration, being put together: end it with [`Registration::register`] or
/// [`Registration::check`].
#[derive(Clone, Debug)]
#[must_use = "nothing is registered before register()"]
pub struct Registration {
    client: Client,
    order: Value,
}

impl Client {
    /// A schema named `org/type/event_type@major.minor`, with type `*` for every type of the org.
    pub fn schema(&self, name: &str, format: Format, text: impl Into<String>) -> Registration {
        let order = json!({
            "order": "schema", "do": "register", "schema": name,
            "format": format.to_string(),
            "text": text.into(),
        });
        Registration { client: self.clone(), order }
    }

    /// A registered schema with its text.
    ///
    /// # Errors
    /// `Error::SchemaUnknown` when there is none.
    pub async fn show_schema(&self, name: &str) -> Result<Schema, Error> {
        self.schemas(json!({"order": "schema", "do": "show", "schema": name})).await
    }

    /// All schemas and policies of an org.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_schemas(&self, org: &str) -> Result<OrgSchemas, Error> {
        self.schemas(json!({"order": "schema", "do": "list", "org": org})).await
    }

    /// What `org` demands from now on.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set_schema_policy(&self, org: &str, policy: &Policy) -> Result<(), Error> {
        let mut order = json!(policy);
        (order["order"], order["do"], order["org"]) =
            (json!("schema"), json!("policy"), json!(org));
        self.schemas::<Policy>(order).await.map(drop)
    }

    async fn schemas<T: DeserializeOwned>(&self, order: Value) -> Result<T, Error> {
        let report = self.order(order.to_string(), Resend::Sequenced).await?;
        serde_json::from_slice(&report)
            .map_err(|error| Error::Protocol { reason: format!("a report: {error}") })
    }
}

fn format<'de, D: Deserializer<'de>>(text: D) -> Result<Format, D::Error> {
    String::deserialize(text)?.parse().map_err(D::Error::custom)
}

impl Registration {
    /// Full name of the Protobuf message that payloads are.
    pub fn message(mut self, name: &str) -> Self {
        self.order["message"] = json!(name);
        self
    }

    /// Takes it although it cannot be decided whether it fits to the version before it.
    pub fn force(mut self) -> Self {
        self.order["force"] = json!(true);
        self
    }

    /// Registers it, from now on and for ever.
    ///
    /// # Errors
    /// `Error::SchemaExists`, `SchemaInvalid` or `SchemaIncompatible`, with the reasons.
    pub async fn register(self) -> Result<Outcome, Error> {
        #[derive(Deserialize)]
        struct Report {
            outcome: Outcome,
        }
        let report: Report = self.client.schemas(self.order).await?;
        Ok(report.outcome)
    }

    /// Says whether it would be registered, without registering it.
    ///
    /// # Errors
    /// As [`Registration::register`].
    pub async fn check(mut self) -> Result<Outcome, Error> {
        self.order["dry_run"] = json!(true);
        self.register().await
    }
}
