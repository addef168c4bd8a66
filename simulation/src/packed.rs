//! Packed segments, read as storage/docs/format.md §6 describes them, by nothing of what the store
//! reads them with.

use std::cell::RefCell;

use zstd::bulk::Decompressor;

const PIECE_BYTES: usize = 128 << 10;
const PIECE_HEADER: usize = 8;
const PAGE_BYTES: usize = 4096;
const CHECKSUM_AT: usize = PAGE_BYTES - 4;
const MAGIC: &[u8] = b"CLRPCK\r\n";
/// Larger than any segment of a simulation: what says more is damaged.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Which segment is in the file `name`, and how often that was packed; 0: it is as it was written.
pub fn segment_of(name: &str) -> Option<(u32, u32)> {
    let (number, ending) = name.split_once('.')?;
    let generation = match ending {
        "seg" => 0,
        ending => ending.strip_suffix(".pack")?.parse().ok()?,
    };
    Some((number.parse().ok()?, generation))
}

/// The bytes of the segment that was packed into `file`; zeroes in the place of a piece that is
/// damaged. `None`: the file does not say where its pieces are.
pub fn unpack(file: &[u8]) -> Option<Vec<u8>> {
    let (body, footer) = file.split_at_checked(file.len().checked_sub(PAGE_BYTES)?)?;
    let is_whole = footer.starts_with(MAGIC)
        && crc(&footer[..CHECKSUM_AT]) == number(&footer[CHECKSUM_AT..], 4)
        && number(&footer[32..], 8) <= SEGMENT_BYTES_MAX;
    if !is_whole {
        return None;
    }
    let mut content = vec![0; number(&footer[32..], 8) as usize];
    let table = body.get(number(&footer[40..], 8) as usize..)?;
    let table = table.get(..4 * content.len().div_ceil(PIECE_BYTES))?;
    if crc(table) != number(&footer[48..], 4) {
        return None;
    }
    let mut start = 0;
    for (end, out) in table.chunks(4).zip(content.chunks_mut(PIECE_BYTES)) {
        let end = number(end, 4) as usize * PAGE_BYTES;
        let piece = body.get(start..end).and_then(|piece| unpack_piece(piece, out.len()));
        if let Some(piece) = piece {
            out.copy_from_slice(&piece);
        }
        start = end;
    }
    Some(content)
}

/// `file` with `content` in the place of the segment's bytes that it holds.
pub fn repack(file: &[u8], content: &[u8]) -> Vec<u8> {
    let (mut packed, mut table) = (Vec::new(), Vec::new());
    for piece in content.chunks(PIECE_BYTES) {
        if piece.iter().any(|byte| *byte != 0) {
            packed.extend(pack_piece(piece));
        }
        table.extend(((packed.len() / PAGE_BYTES) as u32).to_le_bytes());
    }
    let mut footer = file[file.len() - PAGE_BYTES..].to_vec();
    footer[40..48].copy_from_slice(&(packed.len() as u64).to_le_bytes());
    footer[48..52].copy_from_slice(&(crc(&table) as u32).to_le_bytes());
    let checksum = crc(&footer[..CHECKSUM_AT]) as u32;
    footer[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
    table.resize(table.len().next_multiple_of(PAGE_BYTES), 0);
    [packed, table, footer].concat()
}

/// Every piece that lies in `file`, whether the file is whole or not.
pub fn pieces(file: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let starts = (0..file.len()).step_by(PAGE_BYTES);
    starts.filter_map(|start| unpack_piece(&file[start..], PIECE_BYTES))
}

/// What was packed into a piece, which is at most `len` bytes.
fn unpack_piece(piece: &[u8], len: usize) -> Option<Vec<u8>> {
    let (header, rest) = piece.split_at_checked(PIECE_HEADER)?;
    let packed = rest.get(..number(&header[4..], 4) as usize).filter(|it| !it.is_empty())?;
    let is_whole = crc(packed) == number(header, 4);
    is_whole.then(|| decompress(packed, len)).flatten()
}

fn decompress(packed: &[u8], len: usize) -> Option<Vec<u8>> {
    thread_local! {
        // Making one costs as much as its work.
        static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    DECOMPRESSOR.with_borrow_mut(|decompressor| {
        if decompressor.is_none() {
            *decompressor = Decompressor::new().ok();
        }
        decompressor.as_mut()?.decompress(packed, len).ok()
    })
}

fn pack_piece(content: &[u8]) -> Vec<u8> {
    let packed = match zstd::bulk::compress(content, 1) {
        Ok(packed) => packed,
        Err(error) => panic!("{} bytes are not packed: {error}", content.len()),
    };
    let (checksum, len) = (crc(&packed) as u32, packed.len() as u32);
    let mut piece = [&checksum.to_le_bytes()[..], &len.to_le_bytes(), &packed].concat();
    piece.resize(piece.len().next_multiple_of(PAGE_BYTES), 0);
    piece
}

fn number(bytes: &[u8], len: usize) -> u64 {
    let bytes = bytes.get(..len).unwrap_or_default();
    bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn crc(bytes: &[u8]) -> u64 {
    u64::from(crc_fast::crc32_iscsi(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(content: &[u8]) -> Vec<u8> {
        let mut footer = vec![0; PAGE_BYTES];
        footer[..8].copy_from_slice(MAGIC);
        footer[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
        repack(&footer, content)
    }

    #[test]
    fn what_is_packed_comes_out_again_except_a_piece_that_is_damaged() {
        let mut content = vec![0; 3 * PIECE_BYTES + 4_096];
        content[5] = 7;
        content[2 * PIECE_BYTES + 9] = 8;
        let mut file = packed(&content);
        assert_eq!(unpack(&file).as_ref(), Some(&content));
        assert_eq!(pieces(&file).count(), 2, "zeroes take no piece");
        file[PIECE_HEADER + 2] ^= 1;
        content[5] = 0;
        assert_eq!(unpack(&file).as_ref(), Some(&content));
        let table = 2 * PAGE_BYTES;
        file[table] ^= 1;
        assert_eq!(unpack(&file), None);
        assert_eq!(pieces(&file).count(), 1);
        assert_eq!(unpack(&file[..file.len() - PAGE_BYTES]), None);
    }

    #[test]
    fn names_of_segments_are_told_from_others() {
        assert_eq!(segment_of("00000012.seg"), Some((12, 0)));
        assert_eq!(segment_of("00000012.3.pack"), Some((12, 3)));
        assert_eq!(segment_of("00000012.run"), None);
        assert_eq!(segment_of("manifest"), None);
    }
}
