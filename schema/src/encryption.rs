//! The envelope around payloads that clients encrypt: AES-256-GCM, end to end (semantics.md §7).
//!
//! ```text
//! data key (256 bit, in a key ring) ─┐
//! nonce (192 random bits, per batch) ┴ blake3::derive_key ─> key of the batch
//! index of the event in its batch ────────────────────────> 96-bit nonce of the event
//! aggregate, type, version, client, sequence ─────────────> associated data
//! ```
//! The 192 bits make the key of every batch another one, so AES-GCM's limit on random nonces is
//! never near; and within a batch every event has an index of its own. The associated data ties the
//! ciphertext to its place: moved to another aggregate, type, client, sequence or index, it does
//! not open. The exact bytes are listed in `docs/encryption.md`.
//!
//! Deliberately absent: where keys and random bits come from. That is the client's.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use bytes::Bytes;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::event::{Envelope, Event};
use crate::ids::{ClientId, Sequence};
use crate::key::AggregateKey;

/// Bytes that encryption adds to a payload: the tag.
pub const TAG_BYTES: usize = 16;
/// Bytes of the random part of an envelope.
pub const NONCE_BYTES: usize = 24;

/// Context of the derivation. Public: it tells this use of a data key from any other.
const CONTEXT: &str = "celeriant 2026-11 payload encryption v1";

/// A secret of 256 bits. Its memory is wiped when it goes; `Debug` does not show it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DataKey([u8; 32]);

impl DataKey {
    /// Wraps the secret. The caller wipes its own copy.
    pub const fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// The secret itself, to keep it somewhere.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataKey(…)")
    }
}

/// Where a batch is, or will be: what its ciphertext is tied to.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Which aggregate.
    pub key: &'a AggregateKey,
    /// Who writes.
    pub client_id: ClientId,
    /// The batch's number, if the writer uses them.
    pub sequence: Option<Sequence>,
}

/// Why a payload does not open: another key, another place, or changed bytes. Nobody can tell
/// which.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("does not open: it was made with another key or for another place, or was changed")]
pub struct Sealed;

/// What encrypts one batch under one data key.
pub struct BatchCipher {
    cipher: Aes256Gcm,
    nonce: [u8; NONCE_BYTES],
}

impl BatchCipher {
    /// For the batch of this nonce. To seal, the nonce is 192 fresh random bits, drawn once for a
    /// batch: a retry sends the bytes that were sealed before.
    pub fn new(key: &DataKey, nonce: [u8; NONCE_BYTES]) -> Self {
        let mut material = Zeroizing::new([0; 32 + NONCE_BYTES]);
        material[..32].copy_from_slice(&key.0);
        material[32..].copy_from_slice(&nonce);
        let derived = Zeroizing::new(blake3::derive_key(CONTEXT, &*material));
        Self { cipher: Aes256Gcm::new((&*derived).into()), nonce }
    }

    /// Encrypts the payload of event `index` of its batch, and puts the envelope around it.
    pub fn seal(&self, place: &Place<'_>, index: u32, key_id: &str, event: &mut Event) {
        let aad = associated_data(place, event);
        let payload = Payload { msg: &event.payload, aad: &aad };
        let sealed = self.cipher.encrypt(&event_nonce(index), payload);
        // The cipher refuses only messages of 64 GiB and more; a payload has at most 8 MiB.
        let sealed = sealed.expect("a payload is shorter than what AES-GCM can take");
        event.payload = Bytes::from(sealed);
        event.envelope = Some(Envelope { key_id: key_id.to_owned(), nonce: self.nonce });
    }

    /// Decrypts the payload of event `index` of its batch.
    ///
    /// # Errors
    /// When it was not sealed with this key, for this place, or was changed since.
    pub fn open(&self, place: &Place<'_>, index: u32, event: &Event) -> Result<Bytes, Sealed> {
        let aad = associated_data(place, event);
        let payload = Payload { msg: &event.payload, aad: &aad };
        self.cipher.decrypt(&event_nonce(index), payload).map(Bytes::from).map_err(|_| Sealed)
    }
}

impl std::fmt::Debug for BatchCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BatchCipher(…)")
    }
}

fn event_nonce(index: u32) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&index.to_le_bytes());
    nonce.into()
}

fn associated_data(place: &Place<'_>, event: &Event) -> Vec<u8> {
    let key = place.key.as_bytes();
    let mut aad = Vec::with_capacity(31 + key.len() + event.event_type.len());
    aad.extend_from_slice(&(key.len() as u16).to_le_bytes());
    aad.extend_from_slice(key);
    aad.push(event.event_type.len() as u8);
    aad.extend_from_slice(event.event_type.as_bytes());
    aad.extend_from_slice(&event.schema.major.to_le_bytes());
    aad.extend_from_slice(&event.schema.minor.to_le_bytes());
    aad.extend_from_slice(&place.client_id.value().to_le_bytes());
    aad.extend_from_slice(&crate::hash::sequence_number(place.sequence).to_le_bytes());
    aad
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::SchemaVersion;
    use crate::samples::{hex, plain_event, sample_key};

    fn key() -> DataKey {
        DataKey::new(std::array::from_fn(|at| at as u8))
    }

    fn nonce() -> [u8; NONCE_BYTES] {
        std::array::from_fn(|at| 0x40 + at as u8)
    }

    fn sealed(place: &Place<'_>, index: u32) -> Event {
        let mut event = plain_event("Placed", b"{\"card\":\"4111\"}");
        BatchCipher::new(&key(), nonce()).seal(place, index, "k1", &mut event);
        event
    }

    fn with_place<T>(work: impl FnOnce(&Place<'_>) -> T) -> T {
        let (key, client_id) = (sample_key(), ClientId::new(0xc11e));
        work(&Place { key: &key, client_id, sequence: Some(Sequence::new(3)) })
    }

    #[test]
    fn the_ciphertext_never_changes() {
        let event = with_place(|place| sealed(place, 1));
        assert_eq!(hex(&event.payload), GOLDEN);
        let nonce = nonce();
        assert_eq!(event.envelope, Some(Envelope { key_id: "k1".into(), nonce }));
    }

    /// Also made by other implementations of BLAKE3 and AES-GCM.
    const GOLDEN: &str = "940622fd605fa855d0edb9f428147e743128a7037afb42de878c36647d4534";

    #[test]
    fn what_was_sealed_opens_in_its_place() {
        with_place(|place| {
            let event = sealed(place, 1);
            assert_eq!(event.payload.len(), 15 + TAG_BYTES);
            let opened = BatchCipher::new(&key(), nonce()).open(place, 1, &event);
            assert_eq!(opened.as_deref(), Ok(&b"{\"card\":\"4111\"}"[..]));
        });
    }

    #[test]
    fn moved_or_changed_ciphertext_does_not_open() {
        with_place(|place| {
            let event = sealed(place, 1);
            let cipher = BatchCipher::new(&key(), nonce());
            let other_key = "acme/order/4822".parse().expect("valid");
            let places = [
                Place { key: &other_key, ..*place },
                Place { client_id: ClientId::new(1), ..*place },
                Place { sequence: Some(Sequence::new(4)), ..*place },
                Place { sequence: None, ..*place },
            ];
            for moved in places {
                assert_eq!(cipher.open(&moved, 1, &event), Err(Sealed), "{moved:?}");
            }
            assert_eq!(cipher.open(place, 2, &event), Err(Sealed), "another index");
            let schema = SchemaVersion { major: 1, minor: 3 };
            for changed in [
                Event { event_type: "Paid".into(), ..event.clone() },
                Event { schema, ..event.clone() },
                Event { payload: event.payload.slice(1..), ..event.clone() },
                Event { payload: Bytes::new(), ..event.clone() },
            ] {
                assert_eq!(cipher.open(place, 1, &changed), Err(Sealed), "{changed:?}");
            }
            for at in 0..event.payload.len() {
                let mut payload = event.payload.to_vec();
                payload[at] ^= 1;
                let changed = Event { payload: payload.into(), ..event.clone() };
                assert_eq!(cipher.open(place, 1, &changed), Err(Sealed), "byte {at}");
            }
        });
    }

    #[test]
    fn another_key_or_nonce_does_not_open_it() {
        with_place(|place| {
            let event = sealed(place, 1);
            let mut other = nonce();
            other[23] ^= 1;
            assert_eq!(BatchCipher::new(&key(), other).open(place, 1, &event), Err(Sealed));
            let other = BatchCipher::new(&DataKey::new([7; 32]), nonce());
            assert_eq!(other.open(place, 1, &event), Err(Sealed));
        });
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?} {:?}", key(), BatchCipher::new(&key(), nonce()));
        assert_eq!(shown, "DataKey(…) BatchCipher(…)");
    }
}
