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
/// Tells keys of codes apart from whatever else is derived from a hash.
const CODE_CONTEXT: &str = "celeriant 2026 code of a token of an api key";
/// Size of a key's secret part, in bytes.
pub const SECRET_BYTES: usize = 32;
/// Longest key as text, in bytes.
pub(crate) const TEXT_BYTES: usize = PREFIX.len() + 16 + 1 + 2 * SECRET_BYTES;

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

    /// The whole key as text: for its holder, and for nobody's log.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, to_hex(&self.secret))
    }

    fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
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

    /// A code (MAC) for `content` that only those can make who have the key, or this hash of it.
    pub fn code(&self, content: &[u8]) -> [u8; 32] {
        *self.keyed(content).as_bytes()
    }

    /// Whether `code` is that of `content`. Takes the same time for any other code.
    pub fn is_code(&self, code: [u8; 32], content: &[u8]) -> bool {
        blake3::Hash::from_bytes(code) == self.keyed(content)
    }

    fn keyed(&self, content: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&blake3::derive_key(CODE_CONTEXT, &self.0), content)
    }
}

impl fmt::Display for ApiKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ApiKeyHash {
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
        assert_eq!(text.len(), TEXT_BYTES);
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
    fn a_code_is_of_one_content_and_one_key() {
        let (hash, other) = (key().hash(), ApiKey::new(ApiKeyId::new(1), [1; SECRET_BYTES]).hash());
        let code = hash.code(b"content");
        assert!(hash.is_code(code, b"content"));
        assert!(!hash.is_code(code, b"Content") && !other.is_code(code, b"content"));
        let mut last = code;
        last[31] ^= 1;
        assert!(!hash.is_code(last, b"content"));
        assert_ne!(code, hash.0, "and tells nothing of the hash");
    }

    #[test]
    fn nothing_but_reveal_tells_the_secret() {
        let said = format!("{:?} {:?} {}", key(), key().id(), key().hash());
        assert!(!said.contains("5a5a"), "{said}");
        assert!(!ApiKeyError.to_string().contains("5a5a"));
    }
}
