//! Little-endian reading and writing that every encoding of this crate is made of.
//!
//! [`Reader`] takes things off the front of untrusted bytes: it never panics, never allocates and
//! never reads what is not there.

use crate::refusal::Refusal;

/// Why bytes are not what they should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end before the thing they describe.
    #[error("{what} ends early")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// There are more bytes than the thing needs, or a length contradicts another.
    #[error("{what} has a length that does not add up")]
    Length {
        /// What was being read.
        what: &'static str,
    },
    /// Something is larger than a limit.
    #[error("{what} is larger than {limit}")]
    Limit {
        /// What.
        what: &'static str,
        /// The limit, in bytes or entries.
        limit: u64,
    },
    /// A value that is not allowed there.
    #[error("{what} {reason}")]
    Invalid {
        /// What.
        what: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Bytes of the log that make no sense.
    #[error("{0}")]
    Malformed(&'static str),
    /// Not an aggregate key.
    #[error("key: {0}")]
    Key(#[from] crate::key::KeyError),
}

impl DecodeError {
    pub(crate) const fn new(reason: &'static str) -> Self {
        Self::Malformed(reason)
    }

    pub(crate) const fn invalid(what: &'static str, reason: &'static str) -> Self {
        Self::Invalid { what, reason }
    }

    /// The refusal that tells a client, with `place` (`"events[3]."`, or nothing) before the field.
    pub(crate) fn refusal_at(&self, place: &str) -> Refusal {
        let (field, reason) = match self {
            Self::Limit { what, limit } => {
                return Refusal::TooLarge { what: format!("{place}{what}"), limit: *limit };
            }
            Self::Truncated { what } => (*what, "ends early".to_owned()),
            Self::Length { what } => (*what, "has a length that does not add up".to_owned()),
            Self::Invalid { what, reason } => (*what, (*reason).to_owned()),
            Self::Malformed(reason) => ("record", (*reason).to_owned()),
            Self::Key(error) => ("key", error.to_string()),
        };
        Refusal::InvalidArgument { field: format!("{place}{field}"), reason }
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        error.refusal_at("")
    }
}

/// Takes numbers and pieces off the front of a slice.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

macro_rules! read_number {
    ($($name:ident: $type:ty),*) => {$(
        #[inline]
        pub(crate) fn $name(&mut self) -> Result<$type, DecodeError> {
            Ok(<$type>::from_le_bytes(self.array()?))
        }
    )*};
}

impl<'a> Reader<'a> {
    /// `what` is named in errors.
    #[inline]
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let Some((head, rest)) = self.rest.split_at_checked(count) else {
            return Err(DecodeError::Truncated { what: self.what });
        };
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(DecodeError::Truncated { what: self.what });
        };
        self.rest = rest;
        Ok(*head)
    }

    read_number!(u8: u8, u16: u16, u32: u32, u64: u64, i64: i64, u128: u128);

    #[inline]
    pub(crate) fn hash(&mut self) -> Result<crate::Hash, DecodeError> {
        Ok(crate::Hash(self.array()?))
    }

    /// A length and so many bytes of UTF-8.
    pub(crate) fn text(
        &mut self,
        what: &'static str,
        bytes_max: usize,
    ) -> Result<&'a str, DecodeError> {
        let count = usize::from(self.u16()?);
        if count > bytes_max {
            return Err(DecodeError::Limit { what, limit: bytes_max as u64 });
        }
        std::str::from_utf8(self.take(count)?)
            .map_err(|_| DecodeError::invalid(what, "is not valid UTF-8"))
    }

    /// A flag byte or word of which only `known` may be set.
    #[inline]
    pub(crate) fn flags(&mut self, known: u8) -> Result<u8, DecodeError> {
        let flags = self.u8()?;
        if flags & !known != 0 {
            return Err(DecodeError::invalid(self.what, "has flags that are not known"));
        }
        Ok(flags)
    }

    /// `count` bytes that are reserved and zero.
    #[inline]
    pub(crate) fn zeroes(&mut self, count: usize) -> Result<(), DecodeError> {
        if self.take(count)?.iter().any(|byte| *byte != 0) {
            return Err(DecodeError::invalid(self.what, "has reserved bytes that are not zero"));
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Nothing may be left.
    #[inline]
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Length { what: self.what }) }
    }
}
