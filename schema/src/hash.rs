//! Blake3 over what must not change unnoticed: event chain, record, frame, write.
//!
//! A frame's hash covers its records' hashes; a record's hash covers its events' hashes; an event's hash
//! covers the one before it and its own bytes. So compaction can drop payloads and keep only hashes, and
//! everything that remains still verifies. The exact bytes are listed in `storage/docs/format.md`.

use std::fmt;

/// 32 bytes of Blake3. All zero stands for "nothing before".
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Before the first frame of a log.
    pub const ZERO: Self = Self([0; 32]);
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<blake3::Hash> for Hash {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}
