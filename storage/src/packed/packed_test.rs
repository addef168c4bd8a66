//! Tests of packed segments: every part comes back, every flaw is seen.

use proptest::prelude::*;

use super::*;
use crate::testing::{Dice, identity};

/// Three pieces and a half: text, noise, zeroes, text.
fn original() -> Vec<u8> {
    let mut dice = Dice::new(7);
    let mut bytes: Vec<u8> = (0..PIECE_BYTES).map(|at| (at / 97 % 251) as u8).collect();
    bytes.extend((0..PIECE_BYTES).map(|_| dice.roll(256) as u8));
    bytes.resize(3 * PIECE_BYTES, 0);
    bytes.extend((0..PIECE_BYTES / 2).map(|at| (at % 13) as u8));
    bytes
}

fn packed(original: &[u8]) -> (Table, Vec<u8>) {
    let mut table = Table::new(original.len() as u64);
    let mut file = Vec::new();
    while let Some(piece) = table.next_piece() {
        let piece = table.pack(&original[piece.start as usize..piece.end as usize]);
        file.extend_from_slice(piece.as_deref().unwrap_or_default());
    }
    file.extend_from_slice(&table.encode(&identity(), 4));
    (table, file)
}

fn open(file: &[u8]) -> Result<Table, Flaw> {
    let last = file.len().checked_sub(SECTOR_BYTES).ok_or(Flaw::Lengths)?;
    let footer = Footer::decode(&file[last..], &identity(), 4, file.len() as u64)?;
    let at = footer.table_at() as usize;
    Table::decode(&footer, &file[at..at + footer.table_len()])
}

fn read(table: &Table, file: &[u8], offset: u64, len: u32) -> Result<Bytes, Flaw> {
    let range = table.range(offset, len);
    table.unpack(offset, len, &file[range.start as usize..range.end as usize])
}

#[test]
fn a_segment_is_smaller_packed_and_zeroes_take_nothing() {
    let original = original();
    let (table, file) = packed(&original);
    assert!(file.len() < PIECE_BYTES + PIECE_BYTES / 4, "{} bytes", file.len());
    assert_eq!(table.ends[2], table.ends[1], "the piece of zeroes");
    assert_eq!(open(&file), Ok(table));
}

#[test]
fn all_of_it_comes_back() {
    let original = original();
    let (table, file) = packed(&original);
    let all = read(&table, &file, 0, 9 * PIECE_BYTES as u32).expect("intact");
    assert!(all == original, "it is as it was");
    let behind = read(&table, &file, original.len() as u64, 4096).expect("nothing to read");
    assert!(behind.is_empty());
}

proptest! {
    #[test]
    fn every_part_comes_back(offset in 0..460_u64, sectors in 1..140_u32) {
        let original = original();
        let (table, file) = packed(&original);
        let (offset, len) = (offset * 1024, sectors * 4096);
        let part = read(&table, &file, offset, len).expect("intact");
        let start = original.len().min(offset as usize);
        let end = original.len().min(offset as usize + len as usize);
        prop_assert!(part == original[start..end]);
    }
}

#[test]
fn every_flipped_byte_is_seen_or_was_padding() {
    let original: Vec<u8> = original().into_iter().skip(PIECE_BYTES - 9000).take(20_480).collect();
    let (_, file) = packed(&original);
    let mut unseen = 0;
    for at in 0..file.len() {
        let mut flipped = file.clone();
        flipped[at] ^= 0x40;
        match open(&flipped).and_then(|table| read(&table, &flipped, 0, original.len() as u32)) {
            Err(_) => {}
            Ok(read) => {
                assert!(read == original, "byte {at}: something else was read");
                unseen += 1;
            }
        }
    }
    assert!(unseen < 2 * SECTOR_BYTES, "{unseen} of {} bytes are padding", file.len());
}

#[test]
fn what_is_cut_short_or_of_another_segment_is_refused() {
    let (_, file) = packed(&original());
    for sectors in 0..file.len() / SECTOR_BYTES {
        assert!(open(&file[..sectors * SECTOR_BYTES]).is_err(), "cut to {sectors} sectors");
    }
    let (page, len) = (&file[file.len() - SECTOR_BYTES..], file.len() as u64);
    assert_eq!(Footer::decode(page, &identity(), 5, len), Err(Flaw::Foreign("segment")));
    let other = Identity { shard: ShardId::new(99), ..identity() };
    assert_eq!(Footer::decode(page, &other, 4, len), Err(Flaw::Foreign("shard")));
    assert_eq!(Footer::decode(page, &identity(), 4, len + 4096), Err(Flaw::Lengths));
}

#[test]
fn names_and_numbers_agree() {
    assert_eq!(packed_name(12, 3), "00000012.3.pack");
    assert_eq!(parse_packed_name("00000012.3.pack"), Some((12, 3)));
    let strangers =
        ["00000012.0.pack", "12.1.pack", "00000012.01.pack", "00000012.pack", "a.1.pack"];
    for stranger in strangers {
        assert_eq!(parse_packed_name(stranger), None, "{stranger}");
    }
}
