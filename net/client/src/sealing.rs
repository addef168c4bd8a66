//! Sealing payloads on the way out, opening them on the way in.

use celeriant_schema::AggregateKey;
use celeriant_schema::encryption::{BatchCipher, NONCE_BYTES, Place};

use crate::event::Secrecy;
use crate::keys::{Found, KeyRing, random};
use crate::{Batch, Error, Event};

/// Encrypts the payloads that are for a subject. Once for a write: what is sent again are the same
/// bytes.
pub(crate) async fn seal(
    keys: Option<&dyn KeyRing>,
    place: &Place<'_>,
    events: Vec<Event>,
) -> Result<Vec<celeriant_schema::Event>, Error> {
    let mut nonce = None;
    let mut ciphers: Vec<(String, String, BatchCipher)> = Vec::new();
    let mut sealed = Vec::with_capacity(events.len());
    for (index, event) in (0..).zip(events) {
        let (mut inner, secrecy) = event.into_parts();
        let failed = |reason: String| Error::Encode { reason };
        // What was read of a secret must not get into the store in the clear by being written
        // again.
        if matches!(secrecy, Secrecy::Opened | Secrecy::Shredded) {
            let again = "was encrypted when it was read: say for whom it is to be again";
            return Err(failed(format!("event {} {again}", inner.event_type)));
        }
        if let Secrecy::For(subject) = secrecy {
            let no_ring = "is to be encrypted, but the client's options name no key ring";
            let keys =
                keys.ok_or_else(|| failed(format!("event {} {no_ring}", inner.event_type)))?;
            let at = match ciphers.iter().position(|(known, ..)| *known == subject) {
                Some(at) => at,
                None => {
                    let named =
                        keys.current(&subject).await.map_err(|error| failed(error.to_string()))?;
                    let nonce = match nonce {
                        Some(nonce) => nonce,
                        None => *nonce.insert(fresh_nonce()?),
                    };
                    ciphers.push((subject, named.id, BatchCipher::new(&named.key, nonce)));
                    ciphers.len() - 1
                }
            };
            let (_, id, cipher) = &ciphers[at];
            cipher.seal(place, index, id, &mut inner);
        }
        sealed.push(inner);
    }
    Ok(sealed)
}

/// Decrypts what the ring has keys for. What it does not know stays sealed.
///
/// # Errors
/// `Error::Decode` when something does not open although its key is there: it was moved or changed.
pub(crate) async fn open(
    keys: &dyn KeyRing,
    key: &AggregateKey,
    batch: &mut Batch,
) -> Result<(), Error> {
    let place = Place { key, client_id: batch.client_id, sequence: batch.sequence };
    let mut last: Option<(String, [u8; NONCE_BYTES], BatchCipher)> = None;
    for recorded in &mut batch.events {
        let Some(envelope) = recorded.event.envelope.clone() else { continue };
        let failed = |reason| Error::Decode { event_type: recorded.event_type.clone(), reason };
        let known = |(id, nonce, _): &&(String, [u8; NONCE_BYTES], BatchCipher)| {
            *id == envelope.key_id && *nonce == envelope.nonce
        };
        if last.as_ref().filter(known).is_none() {
            let found = keys.find(&envelope.key_id).await;
            match found.map_err(|error| failed(error.to_string()))? {
                Found::Key(key) => {
                    let cipher = BatchCipher::new(&key, envelope.nonce);
                    last = Some((envelope.key_id, envelope.nonce, cipher));
                }
                Found::Shredded => {
                    recorded.event.set_payload(bytes::Bytes::new(), Secrecy::Shredded);
                    continue;
                }
                Found::Unknown => continue,
            }
        }
        let Some((.., cipher)) = &last else { continue };
        let ahead = recorded.version.value().saturating_sub(batch.first_version.value());
        let index = u32::try_from(ahead).unwrap_or(u32::MAX);
        let opened = cipher.open(&place, index, &recorded.event);
        let opened = opened.map_err(|error| failed(error.to_string()))?;
        recorded.event.set_payload(opened, Secrecy::Opened);
    }
    Ok(())
}

fn fresh_nonce() -> Result<[u8; NONCE_BYTES], Error> {
    let mut nonce = [0; NONCE_BYTES];
    random(&mut nonce).map_err(|error| Error::Encode { reason: error.to_string() })?;
    Ok(nonce)
}

#[cfg(test)]
#[path = "sealing/sealing_test.rs"]
mod tests;
