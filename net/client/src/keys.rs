//! Keys that payloads are encrypted with: who has them, how they change, and how they end.
//!
//! ```text
//! Event::encrypt_for("user-17") ─▶ KeyRing::current ─▶ sealed on the way out
//! Recorded::payload             ◀─ KeyRing::find    ◀─ opened on the way in, or Shredded
//! ```
//! The store never sees a key. Give [`crate::Options`] a ring; [`FileKeyRing`] keeps one in a file,
//! others (a key service) implement [`KeyRing`].
//!
//! **Shredding.** One key per *subject*, a person for instance, encrypts all that is about it.
//! Destroying a subject's keys makes those events unreadable everywhere at once: in the log, its
//! copies and backups. Key ids stay in the store for ever, so they must not name anybody.

mod file;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

pub use celeriant_schema::encryption::DataKey;
pub use file::FileKeyRing;

/// A key, and the name under which events say that they were encrypted with it.
#[derive(Clone, Debug)]
pub struct NamedKey {
    /// 1–128 bytes; names the key, and nobody.
    pub id: String,
    /// The secret.
    pub key: DataKey,
}

/// What a ring knows of a key.
#[derive(Clone, Debug)]
pub enum Found {
    /// Here it is.
    Key(DataKey),
    /// It was destroyed, for good.
    Shredded,
    /// It never was in this ring.
    Unknown,
}

/// A ring could not be asked. Carries no secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyError {
    /// What happened.
    pub reason: String,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key ring: {}", self.reason)
    }
}

impl std::error::Error for KeyError {}

/// The answer of a ring, which may be far away.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, KeyError>> + Send + 'a>>;

/// Where data keys come from. Its `Debug` must not show them.
pub trait KeyRing: fmt::Debug + Send + Sync {
    /// The key that what is written about `subject` is encrypted with from now on; a new one, of
    /// 256 random bits, if there is none.
    fn current<'a>(&'a self, subject: &'a str) -> Answer<'a, NamedKey>;

    /// The key that was once returned under this id.
    fn find<'a>(&'a self, key_id: &'a str) -> Answer<'a, Found>;
}

/// Fills from the operating system's generator.
pub(crate) fn random(bytes: &mut [u8]) -> Result<(), KeyError> {
    getrandom::fill(bytes).map_err(|error| KeyError { reason: format!("no randomness: {error}") })
}
