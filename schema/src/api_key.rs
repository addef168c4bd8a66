//! API keys: what a client shows instead of a certificate, or beside one.
//!
//! ```text
//! celeriant_key_<16 hex digits: which one>_<64 hex digits: 256 random bits>
//! ```
//! The store keeps a hash only. It is a fast one: a slow hash makes guessing a *password*
//! expensive, and nobody guesses 256 random bits, at any speed. Two hashes are compared in a time
//! that does not depend on where they differ, and nothing here prints the secret but
//! [`ApiKey::reveal`]. Deliberately absent: what a key allows, and until when.

use std::fmt;
use std::str::FromStr;

use crate::audit::hex::{array_from_hex, to_hex};

const PREFIX: &str = "celeriant_key_";
/// Tells these hashes apart from whatever else is hashed.
const CONTEXT: &str = "celeriant 2026 hash of an api key";
/// Tells these seeds apart from whatever else is derived from a secret, its hash above all.
const SEED_CONTEXT: &str = "celeriant 2026 ed25519 seed of the tokens of an api key";
/// Size of a key's secret part, in bytes.
pub const SECRET_BYTES: usize = 32;

/// Names a key; no secret.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ApiKeyId(u64);

/// A key, with its secret: only whoever uses it should have it.
#[derive(Clone)]
pub struct ApiKey {
    id: ApiKeyId,
    secret: [u8; SECRET_BYTES],
}

/// What the store keeps of a key: enough to know it again, not enough to show it.
#[derive(Clone, Copy, Debug)]
pub struct ApiKeyHash([u8; 32]);

/// What the store keeps to know a key's tokens: the public key of the pair that signs them. Signs
/// nothing itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TokenKey([u8; 32]);

/// The text is no key, or no key's id. It is not repeated: it may be half a secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("is not an API key: those look like {PREFIX}<16 hex digits>_<64 hex digits>")]
pub struct ApiKeyError;

impl ApiKey {
    /// A key of `secret`, which must be random, in all of its bits.
    pub const fn new(id: ApiKeyId, secret: [u8; SECRET_BYTES]) -> Self {
        Self { id, secret }
    }

    /// Which key this is.
    pub const fn id(&self) -> ApiKeyId {
        self.id
    }

    /// What the store keeps of it.
    pub fn hash(&self) -> ApiKeyHash {
        ApiKeyHash(*self.digest().as_bytes())
    }

    /// What the Ed25519 key pair that signs its tokens is made of: as secret as the key. Whoever
    /// has the hash only cannot tell it.
    pub fn token_seed(&self) -> [u8; 32] {
        *self.derive(SEED_CONTEXT).as_bytes()
    }

    /// The whole key as text: for its holder, and for nobody's log.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, to_hex(&self.secret))
    }

    fn digest(&self) -> blake3::Hash {
        self.derive(CONTEXT)
    }

    fn derive(&self, context: &str) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.id.0.to_le_bytes()).update(&self.secret);
        hasher.finalize()
    }
}

/// In a time that does not depend on where two keys differ.
impl PartialEq for ApiKey {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl Eq for ApiKey {}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}_…", self.id)
    }
}

impl FromStr for ApiKey {
    type Err = ApiKeyError;

    fn from_str(text: &str) -> Result<Self, ApiKeyError> {
        let (id, digits) =
            text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(ApiKeyError)?;
        Ok(Self { id: id.parse()?, secret: array_from_hex(digits).ok_or(ApiKeyError)? })
    }
}

impl ApiKeyId {
    /// Wraps the bare number.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }
}

impl fmt::Display for ApiKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for ApiKeyId {
    type Err = ApiKeyError;

    fn from_str(text: &str) -> Result<Self, ApiKeyError> {
        array_from_hex(text).map(|bytes| Self(u64::from_be_bytes(bytes))).ok_or(ApiKeyError)
    }
}

impl ApiKeyHash {
    /// Whether it is of `key`. Takes the same time for any other key.
    pub fn is_of(&self, key: &ApiKey) -> bool {
        blake3::Hash::from_bytes(self.0) == key.digest()
    }
}

impl fmt::Display for ApiKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl FromStr for ApiKeyHash {
    type Err = ApiKeyError;

    fn from_str(text: &str) -> Result<Self, ApiKeyError> {
        array_from_hex(text).map(Self).ok_or(ApiKeyError)
    }
}

impl TokenKey {
    /// Of these bytes, which are those of an Ed25519 public key.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl FromStr for TokenKey {
    type Err = ApiKeyError;

    fn from_str(text: &str) -> Result<Self, ApiKeyError> {
        array_from_hex(text).map(Self).ok_or(ApiKeyError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ApiKey {
        ApiKey::new(ApiKeyId::new(0xbeef), [0x5a; SECRET_BYTES])
    }

    #[test]
    fn a_key_is_read_as_it_is_written_in_one_spelling_only() {
        let text = key().reveal();
        assert_eq!(text.len(), PREFIX.len() + 16 + 1 + 2 * SECRET_BYTES);
        assert_eq!(text.parse(), Ok(key()));
        let shorter = &text[..text.len() - 1];
        for bad in ["", "celeriant_key_", shorter, &format!("{text}0"), &text.to_uppercase()] {
            assert_eq!(bad.parse::<ApiKey>(), Err(ApiKeyError), "{bad}");
        }
        assert_eq!("000000000000beef".parse(), Ok(ApiKeyId::new(0xbeef)));
        assert_eq!("beef".parse::<ApiKeyId>(), Err(ApiKeyError));
    }

    #[test]
    fn a_hash_knows_its_key_and_no_other() {
        let hash: ApiKeyHash = key().hash().to_string().parse().expect("as it is written");
        assert!(hash.is_of(&key()));
        assert!(!hash.is_of(&ApiKey::new(ApiKeyId::new(1), [0x5a; SECRET_BYTES])));
        let mut secret = [0x5a; SECRET_BYTES];
        secret[31] ^= 1;
        assert!(!hash.is_of(&ApiKey::new(key().id(), secret)));
        // What is in logs must stay readable: this never changes.
        let golden = "7a08";
        assert_eq!(&hash.to_string()[..4], golden);
    }

    #[test]
    fn a_seed_is_of_one_key_and_not_told_by_its_hash() {
        let seed = key().token_seed();
        let other = ApiKey::new(ApiKeyId::new(1), [0x5a; SECRET_BYTES]).token_seed();
        assert!(seed != other && seed != key().hash().0 && seed != [0x5a; SECRET_BYTES]);
        assert_ne!(seed, blake3::derive_key(SEED_CONTEXT, &key().hash().0));
        let public = TokenKey::new(seed);
        assert_eq!(public.to_string().parse(), Ok(public));
        assert!("5a".parse::<TokenKey>().is_err());
    }

    #[test]
    fn nothing_but_reveal_tells_the_secret() {
        let said = format!("{:?} {:?} {}", key(), key().id(), key().hash());
        assert!(!said.contains("5a5a"), "{said}");
        assert!(!ApiKeyError.to_string().contains("5a5a"));
    }
}
