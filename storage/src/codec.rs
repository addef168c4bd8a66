//! Little-endian reading and writing for the file formats of this crate, and the one checksum.

use celeriant_schema::Hash;

use crate::error::Flaw;

/// CRC-32C (Castagnoli) of `bytes`.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Copies `value` to `at`.
pub(crate) fn put(out: &mut [u8], at: usize, value: &[u8]) {
    out[at..at + value.len()].copy_from_slice(value);
}

/// Takes numbers off the front of a slice; never panics, whatever the bytes.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

macro_rules! number {
    ($name:ident, $type:ty) => {
        pub(crate) fn $name(&mut self) -> Result<$type, Flaw> {
            Ok(<$type>::from_le_bytes(self.array()?))
        }
    };
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Flaw> {
        let Some((head, rest)) = self.rest.split_at_checked(count) else {
            return Err(Flaw::Lengths);
        };
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    number!(u16, u16);
    number!(u32, u32);
    number!(u64, u64);
    number!(i64, i64);
    number!(u128, u128);

    pub(crate) fn hash(&mut self) -> Result<Hash, Flaw> {
        Ok(Hash(self.array()?))
    }

    /// Takes bytes that this format leaves at zero: with others it is not of this format, whatever
    /// its checksum says.
    pub(crate) fn zeroes(&mut self, count: usize) -> Result<(), Flaw> {
        // All of them, without looking after each: every read of a frame comes through here.
        match self.take(count)?.iter().fold(0, |sum, byte| sum | byte) {
            0 => Ok(()),
            _ => Err(Flaw::Decode("reserved bytes that are not zero".into())),
        }
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }
}
