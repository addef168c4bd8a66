//! A payload's bytes, taken off the front, for the formats that are walked beside their schema.

use super::Violation;

/// What is left of a payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Violation> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(Violation::new("ends early"));
        };
        self.rest = rest;
        Ok(taken)
    }

    /// A number in groups of seven bits, the lowest first, as Avro and Protobuf write them. `None`:
    /// it does not fit 64 bits.
    pub(super) fn varint(&mut self) -> Result<Option<u64>, Violation> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}
