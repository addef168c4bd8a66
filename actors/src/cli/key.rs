//! `key`: what clients show instead of a certificate, or beside one.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use celeriant_actors::admin::Order;
use celeriant_actors::keys::order::KeyOrder;
use celeriant_client::ClientId;
use celeriant_net::tls::Grant;
use celeriant_schema::{Credential, CredentialError};
use clap::Subcommand;
use serde_json::Value;

use super::args::Global;
use super::cluster::order;
use super::failure::Failure;
use super::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum KeyAction {
    /// Make a key and print it: nobody can show it again
    Create {
        /// What people call it
        name: String,
        /// ORG:TYPE:OPERATIONS that it allows, like acme:account:read,append or '*:*:all'
        #[arg(long, required = true, value_name = "GRANT")]
        grant: Vec<Grant>,
        /// Its holder writes under this client id only, and nobody else does
        #[arg(long, value_name = "UUID")]
        client_id: Option<ClientId>,
        /// How long it counts; until it is revoked if nothing is said
        #[arg(long, value_name = "DAYS")]
        days: Option<u32>,
    },
    /// All keys that are not revoked, without their secrets
    List,
    /// End a key, also for those who are connected with it
    Revoke {
        /// Which one: 16 hex digits, as `key list` shows them
        id: String,
    },
}

/// Text that is not to be printed. What is wrong with it is said later, without it: the parser of
/// the command line would repeat it.
#[derive(Clone)]
pub(super) struct Secret(String);

impl Secret {
    /// The API key, or token of one, that it is; `None`: it is empty.
    pub(super) fn credential(&self) -> Result<Option<Credential>, Failure> {
        let shown = Some(self.0.trim()).filter(|shown| !shown.is_empty());
        let wrong = |error: CredentialError| Failure::usage(format!("--api-key {error}"));
        shown.map(|shown| shown.parse().map_err(wrong)).transpose()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

pub(super) async fn run(
    action: KeyAction,
    global: &Global,
    output: &Output,
) -> Result<(), Failure> {
    let ask = async |action| order(global, &global.url, &Order::Key(action)).await;
    match action {
        KeyAction::Create { name, grant, client_id, days } => {
            let made = KeyOrder::Create {
                name,
                grants: grant.iter().map(ToString::to_string).collect(),
                client_id: client_id.map(|client| client.to_string()),
                lasts_s: days.map(|days| u64::from(days) * 86_400),
            };
            let made = ask(made).await?;
            match output.is_json() {
                true => output.json(&made),
                false => output.line(made["key"].as_str().unwrap_or_default()),
            }
        }
        KeyAction::List => list(&ask(KeyOrder::List).await?, output),
        KeyAction::Revoke { id } => output.json(&ask(KeyOrder::Revoke { id }).await?),
    }
}

/// One line a key.
fn list(report: &Value, output: &Output) -> Result<(), Failure> {
    let keys = report["keys"].as_array().cloned().unwrap_or_default();
    if output.is_json() {
        return keys.iter().try_for_each(|key| output.json(key));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let row = |key: &Value| {
        let grants = key["grants"].as_array().cloned().unwrap_or_default();
        let grants: Vec<String> = grants.iter().map(text).collect();
        let named = ["id", "name", "client_id", "created", "expires"].map(|name| text(&key[name]));
        [named.as_slice(), &[grants.join(" ")]].concat()
    };
    let rows: Vec<Vec<String>> = keys.iter().map(row).collect();
    output.table(&["ID", "NAME", "CLIENT", "CREATED", "EXPIRES", "GRANTS"], &rows)
}
