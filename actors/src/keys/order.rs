//! What an operator may order about API keys, and what is answered: JSON.

use std::sync::Arc;

use celeriant_net::json::time;
use celeriant_net::keyring::Holder;
use celeriant_net::tls::Grant;
use celeriant_net::token::token_key;
use celeriant_schema::{ApiKey, ApiKeyId, ClientId, Refusal, SECRET_BYTES};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::event::KeyEvent;
use super::{KEYS_MAX, Keys, PATIENCE};

/// Longest name of a key, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Grants of one key.
const GRANTS_MAX: usize = 64;
/// About a hundred years.
const LASTS_S_MAX: u64 = 100 * 366 * 86_400;

/// An order.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum KeyOrder {
    /// A new key. The answer tells it, this once.
    Create {
        /// What people call it.
        name: String,
        /// What it allows, as `org:type:operations`.
        grants: Vec<String>,
        /// The client id that only its holder writes under, and that he writes under only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client_id: Option<String>,
        /// How long it counts, in seconds; absent: until it is revoked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lasts_s: Option<u64>,
    },
    /// All keys that are not revoked. Never a secret.
    List,
    /// A key counts no more, from the next request on.
    Revoke {
        /// Which one, as `List` shows it.
        id: String,
    },
}

impl Keys {
    pub(super) async fn carry_out(&mut self, order: KeyOrder) -> Result<Value, Refusal> {
        match order {
            KeyOrder::Create { name, grants, client_id, lasts_s } => {
                let (key, holder) = self.make(name, &grants, client_id.as_deref(), lasts_s)?;
                let event = KeyEvent::Created { id: key.id(), holder: Box::new(holder) };
                self.append(|keys| match keys.holders.len() < KEYS_MAX {
                    true => Ok(Some(event.clone())),
                    false => {
                        let (what, limit) = ("number of API keys".into(), KEYS_MAX as u64);
                        Err(Refusal::TooLarge { what, limit })
                    }
                })
                .await?;
                let holder = self.holders.get(&key.id()).map(Arc::clone);
                let mut report = holder.map_or_else(|| json!({}), |it| self.shown(key.id(), &it));
                report["key"] = json!(key.reveal());
                Ok(report)
            }
            KeyOrder::List => {
                self.read(false, Instant::now() + PATIENCE).await?;
                let shown = self.holders.iter().map(|(id, holder)| self.shown(*id, holder));
                Ok(json!({"keys": shown.collect::<Vec<_>>()}))
            }
            KeyOrder::Revoke { id } => {
                let id: ApiKeyId = id.parse().map_err(|_| {
                    Refusal::invalid("id", "must be 16 hex digits, as `key list` shows them")
                })?;
                self.append(|keys| {
                    Ok(keys.holders.contains_key(&id).then_some(KeyEvent::Revoked { id }))
                })
                .await?;
                Ok(json!({"id": id.to_string(), "revoked": true}))
            }
        }
    }

    /// A key with its secret, and all that is kept of it.
    fn make(
        &self,
        name: String,
        grants: &[String],
        client_id: Option<&str>,
        lasts_s: Option<u64>,
    ) -> Result<(ApiKey, Holder), Refusal> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            let why = format!("must have 1 to {NAME_BYTES_MAX} bytes, and no control characters");
            return Err(Refusal::invalid("name", why));
        }
        if grants.is_empty() || grants.len() > GRANTS_MAX {
            let why = format!("must be 1 to {GRANTS_MAX}: a key opens nothing but what it says");
            return Err(Refusal::invalid("grants", why));
        }
        let grants: Result<Vec<Grant>, _> = grants.iter().map(|text| text.parse()).collect();
        let grants = grants.map_err(|error| Refusal::invalid("grants", error))?;
        let client_id: Option<ClientId> = client_id
            .map(|text| text.parse().map_err(|error| Refusal::invalid("client_id", error)))
            .transpose()?;
        if client_id == Some(ClientId::NONE) {
            return Err(Refusal::invalid("client_id", "must not be zero: that is nobody"));
        }
        if lasts_s.is_some_and(|seconds| !(1..=LASTS_S_MAX).contains(&seconds)) {
            return Err(Refusal::invalid("lasts_s", format!("must be 1 to {LASTS_S_MAX}")));
        }
        let now = self.clock.wall();
        let expires_at = lasts_s.map(|seconds| now + seconds as i64 * 1_000_000);
        let (mut id, mut secret) = ([0; 8], [0; SECRET_BYTES]);
        (self.random)(&mut id);
        (self.random)(&mut secret);
        let key = ApiKey::new(ApiKeyId::new(u64::from_le_bytes(id)), secret);
        let (hash, token_key) = (key.hash(), Some(token_key(&key)));
        let created_at = now;
        let holder = Holder { name, hash, token_key, grants, client_id, created_at, expires_at };
        Ok((key, holder))
    }

    fn shown(&self, id: ApiKeyId, holder: &Holder) -> Value {
        let now = self.clock.wall();
        json!({
            "id": id.to_string(),
            "name": holder.name,
            "grants": holder.grants.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "client_id": holder.client_id.map(|client| client.to_string()),
            "created": time(holder.created_at),
            "expires": holder.expires_at.map(time),
            "expired": holder.expires_at.is_some_and(|end| end <= now),
        })
    }
}
