//! What is written down about API keys, as events in org `$system`: JSON, for people, too.

use std::fmt::Display;
use std::str::FromStr;

use celeriant_net::keyring::Holder;
use celeriant_schema::event::EventBody;
use celeriant_schema::{ApiKeyId, ContentType, Event};
use serde::{Deserialize, Serialize};

const KEY_CREATED: &str = "KeyCreated";
const KEY_REVOKED: &str = "KeyRevoked";

/// One thing that was said about a key.
#[derive(Clone, Debug)]
pub enum KeyEvent {
    /// It counts from now on.
    Created {
        /// Which key.
        id: ApiKeyId,
        /// Whose it is. When it was created is said by the event's time.
        holder: Box<Holder>,
    },
    /// It counts no more.
    Revoked {
        /// Which key.
        id: ApiKeyId,
    },
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Created {
    id: String,
    name: String,
    hash: String,
    /// Not of keys that were made before tokens were signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_key: Option<String>,
    grants: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    /// In µs since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Revoked {
    id: String,
}

impl KeyEvent {
    /// As an event to append.
    pub fn to_event(&self, client_time: i64) -> Event {
        let (event_type, payload) = match self {
            Self::Created { id, holder } => {
                let created = Created {
                    id: id.to_string(),
                    name: holder.name.clone(),
                    hash: holder.hash.to_string(),
                    token_key: holder.token_key.map(|key| key.to_string()),
                    grants: holder.grants.iter().map(ToString::to_string).collect(),
                    client_id: holder.client_id.map(|client| client.to_string()),
                    expires_at: holder.expires_at,
                };
                (KEY_CREATED, serde_json::to_string(&created))
            }
            Self::Revoked { id } => {
                (KEY_REVOKED, serde_json::to_string(&Revoked { id: id.to_string() }))
            }
        };
        let payload = payload.unwrap_or_else(|error| unreachable!("plain texts: {error}"));
        Event { client_time, ..Event::plain(event_type, ContentType::Json, payload) }
    }

    /// What an event says.
    ///
    /// # Errors
    /// What is wrong with it: a newer version of the store says more.
    pub fn from_event(body: &EventBody<'_>) -> Result<Self, String> {
        let payload = body.payload();
        match body.event_type() {
            KEY_CREATED => {
                let created: Created = serde_json::from_slice(payload).map_err(text)?;
                let grants: Result<_, _> = created.grants.iter().map(|text| parse(text)).collect();
                let holder = Holder {
                    name: created.name,
                    hash: parse(&created.hash)?,
                    token_key: created.token_key.as_deref().map(parse).transpose()?,
                    grants: grants?,
                    client_id: created.client_id.as_deref().map(parse).transpose()?,
                    created_at: 0,
                    expires_at: created.expires_at,
                };
                Ok(Self::Created { id: parse(&created.id)?, holder: Box::new(holder) })
            }
            KEY_REVOKED => {
                let revoked: Revoked = serde_json::from_slice(payload).map_err(text)?;
                Ok(Self::Revoked { id: parse(&revoked.id)? })
            }
            other => Err(format!("{other} says nothing about keys")),
        }
    }
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(self::text)
}

fn text(error: impl Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use celeriant_net::token::token_key;
    use celeriant_schema::{ApiKey, SECRET_BYTES};

    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written_and_one_from_before_tokens_were_signed_too() {
        let key = ApiKey::new(ApiKeyId::new(7), [1; SECRET_BYTES]);
        let holder = Holder {
            name: "billing".into(),
            hash: key.hash(),
            token_key: Some(token_key(&key)),
            grants: vec!["acme:*:read".parse().expect("a grant")],
            client_id: None,
            created_at: 0,
            expires_at: Some(5),
        };
        let read = |holder: &Holder| {
            let created = KeyEvent::Created { id: key.id(), holder: Box::new(holder.clone()) };
            let event = created.to_event(0);
            let text = String::from_utf8(event.payload.to_vec()).expect("JSON");
            let mut bytes = Vec::new();
            event.encode_into(&mut bytes).expect("small");
            let read = KeyEvent::from_event(&EventBody::new(&bytes).expect("an event"));
            let Ok(KeyEvent::Created { id, holder }) = read else { panic!("{read:?}") };
            assert_eq!(id, key.id());
            (text, *holder)
        };
        let (text, same) = read(&holder);
        assert!(text.contains(&token_key(&key).to_string()), "{text}");
        assert_eq!(format!("{same:?}"), format!("{holder:?}"));
        let (text, old) = read(&Holder { token_key: None, ..holder.clone() });
        assert!(!text.contains("token_key"), "{text}");
        assert!(old.token_key.is_none() && old.hash.is_of(&key));
    }
}
