//! Payloads that say whose they are, again and again from their first byte on: wherever a piece of
//! one is found, it is known of which event it is.
//!
//! ```text
//! | magic 4 | operation 4 | member 2 | event 2 | checksum 4 | magic 4 | … | filling, < 16 bytes |
//! ```
//! What is shorter than a mark says nothing. An operation that lands twice marks both alike.

use crate::ledger::OperationId;

/// Operation, member of it and event of that.
pub type Mark = (OperationId, usize, usize);

const MAGIC: [u8; 4] = [0xc7, 0x1e, 0xe5, 0x9d];
/// Size of a mark, in bytes.
pub const MARK_BYTES: usize = 16;
const FILLING: u8 = 0x55;
/// What is looked through at a time, in bytes.
const PIECE_BYTES: usize = 1024;
const ZEROES: [u8; PIECE_BYTES] = [0; PIECE_BYTES];

/// A payload of `len` bytes.
pub fn payload((operation, member, event): Mark, len: usize) -> Vec<u8> {
    let mut mark = [0; MARK_BYTES];
    mark[..4].copy_from_slice(&MAGIC);
    mark[4..8].copy_from_slice(&(operation as u32).to_le_bytes());
    mark[8..10].copy_from_slice(&(member as u16).to_le_bytes());
    mark[10..12].copy_from_slice(&(event as u16).to_le_bytes());
    let checksum = crc_fast::crc32_iscsi(&mark[..12]);
    mark[12..].copy_from_slice(&checksum.to_le_bytes());
    let mut payload = mark.repeat(len / MARK_BYTES);
    payload.resize(len, FILLING);
    payload
}

/// The marks in `bytes`, wherever they lie; of a run of equal ones maybe only some.
pub fn marks(bytes: &[u8]) -> impl Iterator<Item = Mark> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
            let piece = &rest[..PIECE_BYTES.min(rest.len())];
            // Most of a disk is zeroes.
            let found = match piece == &ZEROES[..piece.len()] {
                true => None,
                false => piece.iter().position(|byte| *byte == MAGIC[0]),
            };
            let Some(found) = found else {
                at += piece.len();
                continue;
            };
            at += found + 1;
            if let Some(mark) = read(&rest[found..]) {
                at += MARK_BYTES - 1;
                return Some(mark);
            }
        }
    })
}

/// The mark that `bytes` begin with.
fn read(bytes: &[u8]) -> Option<Mark> {
    let mark: [u8; MARK_BYTES] = bytes.get(..MARK_BYTES)?.try_into().ok()?;
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | *byte as usize);
    let found = || (number(&mark[4..8]), number(&mark[8..10]), number(&mark[10..12]));
    let is_one = mark.starts_with(&MAGIC)
        && number(&mark[12..]) == crc_fast::crc32_iscsi(&mark[..12]) as usize;
    is_one.then(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_a_payload_says_whose_it_is() {
        let mark = (70_000, 3, 258);
        let payload = payload(mark, 64);
        assert_eq!(payload.len(), 64);
        for from in 0..64 - 2 * MARK_BYTES {
            let piece = &payload[from..from + 2 * MARK_BYTES];
            assert_eq!(marks(piece).next(), Some(mark), "from {from}");
        }
        let far = [&[0; 5_000][..], &payload, &[0; 3_000]].concat();
        assert_eq!(marks(&far).count(), 4);
        let among = [&[0xc7, 1, 0xc7][..], &payload, &[0xc7]].concat();
        assert!(marks(&among).count() == 4 && marks(&among).all(|found| found == mark));
        assert_eq!(marks(&payload[..MARK_BYTES - 1]).next(), None);
    }
}
