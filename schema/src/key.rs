//! The name of an aggregate: `org/type/id`.
//!
//! Kept as one buffer of text, so that a key decoded from a network buffer costs no allocation and
//! comparing, hashing and storing it are one memory operation each.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::ids::ShardId;
use crate::limits::NAME_BYTES_MAX;

/// The store's own org: schemas, policies, keys. Only the store itself writes there.
pub const SYSTEM_ORG: &str = "$system";

/// `org / type / id`, validated. Cheap to clone. Ordered by org, then type, then id, each as bytes.
#[derive(Clone, Eq, PartialEq)]
pub struct AggregateKey {
    text: Bytes,
    org_len: u8,
    type_len: u8,
}

/// Why a text is not a key.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not three parts.
    #[error("a key is written org/type/id; this has {parts} part(s)")]
    Parts {
        /// How many parts it has.
        parts: usize,
    },
    /// One of the parts is not a name.
    #[error("{part} {reason}")]
    Name {
        /// `org`, `type` or `id`.
        part: &'static str,
        /// What is wrong with it.
        reason: NameError,
    },
    /// A selector of several is made of plain ones.
    #[error("several selectors are 2 to 64, and none of them several again")]
    Selectors,
}

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// More than [`NAME_BYTES_MAX`] bytes.
    #[error("is longer than 128 bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("is not valid UTF-8")]
    Utf8,
    /// `/`, a control character, or `:` where it is not allowed.
    #[error(
        "has a character that is not allowed: '/', a control character, or ':' in org and type"
    )]
    Character,
    /// `.` or `..`.
    #[error("may not be '.' or '..'")]
    Dots,
    /// Leading `$` or `*`.
    #[error("may not start with '$' or '*'")]
    Leading,
}

/// Which part of a key a name is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NamePart {
    /// The organisation: first part.
    Org,
    /// The aggregate type: second part.
    Type,
    /// The aggregate's id: third part.
    Id,
}

impl NamePart {
    const fn label(self) -> &'static str {
        match self {
            Self::Org => "org",
            Self::Type => "type",
            Self::Id => "id",
        }
    }
}

/// Checks one part of a key.
///
/// # Errors
/// What is wrong with it; see [`NameError`].
pub fn check_name(part: NamePart, name: &[u8]) -> Result<(), NameError> {
    check_start(part, name)?;
    if is_plain(name) && !name.contains(&b'/') {
        return Ok(());
    }
    let text = std::str::from_utf8(name).map_err(|_| NameError::Utf8)?;
    let forbidden = |c: char| c == '/' || c.is_control() || (c == ':' && part != NamePart::Id);
    if text.chars().any(forbidden) {
        return Err(NameError::Character);
    }
    Ok(())
}

/// What is wrong with a name whatever its characters are.
fn check_start(part: NamePart, name: &[u8]) -> Result<(), NameError> {
    match name {
        [] => Err(NameError::Empty),
        _ if name.len() > NAME_BYTES_MAX => Err(NameError::TooLong),
        b"." | b".." => Err(NameError::Dots),
        // Looked at last: nearly no name gets here.
        [b'$' | b'*', ..] if part != NamePart::Org || name != SYSTEM_ORG.as_bytes() => {
            Err(NameError::Leading)
        }
        _ => Ok(()),
    }
}

/// Nearly all names are plain, and looking at bytes is several times faster than at characters; all
/// of them, without stopping at the first that is not, because that makes one loop over vectors.
fn is_plain(text: &[u8]) -> bool {
    text.iter().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~') & (*byte != b':'))
}

impl AggregateKey {
    /// Takes the text `org/type/id` without copying it.
    ///
    /// # Errors
    /// When it is not three valid names.
    pub fn from_bytes(text: Bytes) -> Result<Self, KeyError> {
        let mut slashes = text.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        let (Some(first), Some(second), None) = (slashes.next(), slashes.next(), slashes.next())
        else {
            let parts = text.iter().filter(|b| **b == b'/').count() + 1;
            return Err(KeyError::Parts { parts });
        };
        let parts = [
            (NamePart::Org, &text[..first]),
            (NamePart::Type, &text[first + 1..second]),
            (NamePart::Id, &text[second + 1..]),
        ];
        let plain = is_plain(&text);
        for (part, name) in parts {
            let checked = if plain { check_start(part, name) } else { check_name(part, name) };
            checked.map_err(|reason| KeyError::Name { part: part.label(), reason })?;
        }
        let (org_len, type_len) = (first as u8, (second - first - 1) as u8);
        Ok(Self { text, org_len, type_len })
    }

    /// Joins three names.
    ///
    /// # Errors
    /// When one of them is not a valid name.
    pub fn new(org: &str, kind: &str, id: &str) -> Result<Self, KeyError> {
        Self::from_bytes(Bytes::from(format!("{org}/{kind}/{id}")))
    }

    /// The organisation.
    pub fn org(&self) -> &str {
        self.part(0, self.org_len as usize)
    }

    /// Of the store itself: no client writes it.
    pub fn is_system(&self) -> bool {
        self.text.starts_with(b"$")
    }

    /// The aggregate type.
    pub fn kind(&self) -> &str {
        let start = self.org_len as usize + 1;
        self.part(start, start + self.type_len as usize)
    }

    /// The aggregate's own id.
    pub fn id(&self) -> &str {
        self.part(self.org_len as usize + self.type_len as usize + 2, self.text.len())
    }

    /// The whole key as text, `org/type/id`.
    pub fn as_str(&self) -> &str {
        self.part(0, self.text.len())
    }

    /// The whole key as bytes, `org/type/id`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// Where the two `/` are in [`Self::as_bytes`].
    pub fn separators(&self) -> [usize; 2] {
        let first = self.org_len as usize;
        [first, first + 1 + self.type_len as usize]
    }

    /// The same key in memory of its own: does not keep a network or log buffer alive.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { text: Bytes::copy_from_slice(&self.text), ..*self }
    }

    /// The shard that owns this aggregate: `blake3(key)[0..8] mod shards`, little-endian.
    ///
    /// # Panics
    /// When `shards` is 0.
    pub fn shard(&self, shards: u16) -> ShardId {
        if shards == 1 {
            return ShardId::new(0);
        }
        let hash = blake3::hash(&self.text);
        let mut head = [0; 8];
        head.copy_from_slice(&hash.as_bytes()[..8]);
        ShardId::new((u64::from_le_bytes(head) % u64::from(shards)) as u16)
    }

    fn part(&self, from: usize, to: usize) -> &str {
        // Validated in `from_bytes`; an empty name never passes there, so it cannot hide an error.
        std::str::from_utf8(&self.text[from..to]).unwrap_or_default()
    }
}

/// Compares two keys, given as text, by org, then type, then id. `/` sorts before every character
/// of a name, which makes comparing the joined text the same as comparing part by part.
pub fn compare_key_text(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
    match a.iter().zip(b).find(|(x, y)| x != y) {
        Some((x, y)) => rank(*x).cmp(&rank(*y)),
        None => a.len().cmp(&b.len()),
    }
}

impl Ord for AggregateKey {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_key_text(&self.text, &other.text)
    }
}

impl PartialOrd for AggregateKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl std::hash::Hash for AggregateKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write(&self.text);
    }
}

impl FromStr for AggregateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl fmt::Display for AggregateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for AggregateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_three_parts() {
        let key: AggregateKey = "acme/order/4821".parse().expect("valid");
        assert_eq!((key.org(), key.kind(), key.id()), ("acme", "order", "4821"));
        assert_eq!("acme/order".parse::<AggregateKey>(), Err(KeyError::Parts { parts: 2 }));
        assert_eq!("a/b/c/d".parse::<AggregateKey>(), Err(KeyError::Parts { parts: 4 }));
    }

    #[test]
    fn names_that_could_confuse_a_path_a_selector_or_a_terminal_are_refused() {
        let long = "x".repeat(129);
        for bad in ["", ".", "..", "$other", "*", "a\nb", "a\u{7f}", "a:b", long.as_str()] {
            assert!(AggregateKey::new(bad, "t", "i").is_err(), "{bad:?} as org");
        }
        assert!(AggregateKey::new("o", "t", "a:b").is_ok(), "':' is allowed in an id");
    }

    #[test]
    fn the_stores_own_org_is_a_name_for_orgs_only() {
        let key: AggregateKey = "$system/schemas/acme".parse().expect("valid");
        assert!(key.is_system());
        assert!("acme/$system/x".parse::<AggregateKey>().is_err());
        assert!("acme/t/$system".parse::<AggregateKey>().is_err());
        assert!("$systems/t/x".parse::<AggregateKey>().is_err());
    }

    #[test]
    fn order_is_by_part_not_by_joined_text() {
        let a = AggregateKey::new("a", "t", "z").expect("valid");
        let b = AggregateKey::new("a-b", "t", "a").expect("valid");
        assert!(a < b, "org 'a' sorts before org 'a-b' although '/' > '-'");
    }
}
