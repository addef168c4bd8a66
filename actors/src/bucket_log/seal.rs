//! What slots are sealed with, so that none is cut short, moved, changed or made by a stranger.
//!
//! Keyed BLAKE3 over all of the body. The key is derived from the cluster's secret where there is
//! one: then only a node of the cluster can make a slot, or a fence. Another key than the
//! register's, so that bytes of one can never pass for the other.

use std::fmt;

/// Key of clusters without a secret: finds damage, keeps nobody out.
const PLAIN_KEY: &[u8; 32] = b"celeriant slots v1, no secret   ";
/// Tells this use of a cluster's secret from every other.
const SECRET_CONTEXT: &str = "celeriant 2026-11 bucket log v1 sealed with the cluster secret";

/// Size of a seal, in bytes.
pub const SEAL_BYTES: usize = 32;

/// The key of a cluster's slots.
#[derive(Clone)]
pub struct Seal {
    key: [u8; 32],
    secret: bool,
}

impl Seal {
    /// Made from the content of `cluster_secret_file`, or `None` where there is none.
    pub fn new(secret: Option<&[u8]>) -> Self {
        match secret {
            Some(secret) => Self { key: blake3::derive_key(SECRET_CONTEXT, secret), secret: true },
            None => Self { key: *PLAIN_KEY, secret: false },
        }
    }

    /// The seal of these bytes. Two are compared in constant time.
    pub(super) fn hash(&self, bytes: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&self.key, bytes)
    }
}

/// Without the key.
impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").field("secret", &self.secret).finish_non_exhaustive()
    }
}
