//! What must hold for any bytes whatever, as plain functions: tests call them with random and with
//! damaged input, a fuzzer with what it finds.
//!
//! Each takes arbitrary bytes, panics when a rule is broken and otherwise says nothing. The rules:
//! nothing that opens a file panics or allocates by what a length claims; what is accepted as a
//! frame can be read batch by batch; what decodes encodes to the same bytes again.

use bytes::Bytes;
use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::record::Record;
use celeriant_schema::{BootId, Epoch, Hash, Lsn, Stamp};

use crate::Identity;
use crate::codec::{crc32c, put};
use crate::directory::{BatchLocation, count_row};
use crate::frame::{Builder, Context, FRAME_HEADER_BYTES, FrameHeader, read_batch};
use crate::inspect::RunRows;
use crate::manifest::Manifest;
use crate::run::forge;
use crate::scan::{Chain, Placed, Stop};
use crate::segment::{FIRST_FRAME_OFFSET, SegmentHeader};
use crate::store::superblock::{self, Reading};
use crate::watermark::Watermark;

/// A segment file. Returns how many frames were accepted.
pub fn segment(data: &[u8]) -> usize {
    let header = SegmentHeader::decode(data);
    if let Ok(header) = header {
        assert_eq!(header.encode(), data[..SECTOR_BYTES], "a header page has two forms");
    }
    let identity = header.map_or(Identity::default(), |header| header.identity);
    let content = Bytes::copy_from_slice(data);
    let mut chain = Chain::start(identity);
    let mut offset = FIRST_FRAME_OFFSET as usize;
    let mut frames = 0;
    while offset < content.len() {
        let rest = content.slice(offset..);
        let Ok((header, records)) = frame(&chain, &rest) else { break };
        check_records(&identity, &rest.slice(..header.frame_bytes()), &records);
        chain.advance(&header);
        offset += header.frame_bytes();
        frames += 1;
    }
    frames
}

fn frame(chain: &Chain, bytes: &Bytes) -> Result<(FrameHeader, Vec<Placed>), Stop> {
    let header = chain.header(bytes, bytes.len() as u64)?;
    let records = chain.records(&header, &bytes.slice(..header.frame_bytes()))?;
    Ok((header, records))
}

fn check_records(identity: &Identity, frame: &Bytes, records: &[Placed]) {
    for (record_offset, record) in records {
        let (Record::Write(write) | Record::Leg(write)) = record else { continue };
        for batch in &write.batches {
            let location = BatchLocation {
                segment: 1,
                frame_offset: 1,
                frame_bytes: frame.len() as u32,
                record_offset: *record_offset,
                batch_offset: batch.offset,
            };
            let read = read_batch(frame, identity, &location);
            let (header, key, events) = read.unwrap_or_else(|flaw| panic!("unreadable: {flaw}"));
            assert_eq!((&key, header.last_version), (&batch.key, batch.last_version));
            assert_eq!(events.len(), batch.len());
        }
    }
}

/// The content of a frame whose checksums are right: the first byte says how many records it
/// claims, the second how much of the rest are large payloads.
pub fn frame_content(data: &[u8]) {
    let Some(([count, share], rest)) = data.split_first_chunk::<2>() else { return };
    let split = rest.len() - rest.len() * usize::from(*share) / 256;
    let (meta, blobs) = rest.split_at(split);
    let mut builder = Builder::new();
    let stamp = Stamp::new(1);
    for record in 0..(*count).max(1) {
        let len = if record == 0 { meta.len() } else { 0 };
        builder.push((stamp, stamp), len, |out, _, payloads| {
            if record == 0 {
                out.copy_from_slice(meta);
                payloads.push(Bytes::copy_from_slice(blobs));
            }
            Hash::ZERO
        });
    }
    let identity = Identity::default();
    let context = Context {
        identity,
        epoch: Epoch::new(1),
        boot: BootId::new(1),
        first_lsn: Lsn::new(1),
        durable_upto: Lsn::ZERO,
        prev_hash: Hash::ZERO,
    };
    let (header, buffer) = builder.seal(&context, None);
    let frame = buffer.into_bytes();
    // The hash is not right; everything before it has been gone through by the time that is seen.
    match Chain::start(identity).records(&header, &frame) {
        Ok(records) => check_records(&identity, &frame, &records),
        Err(stop) => assert!(matches!(stop, Stop::Damaged(_)), "{stop:?}"),
    }
}

/// A frame's header with a checksum that is right.
pub fn frame_header(data: &[u8]) {
    let mut page = vec![0; SECTOR_BYTES];
    let len = data.len().min(FRAME_HEADER_BYTES);
    page[..len].copy_from_slice(&data[..len]);
    put(&mut page, 0, b"CLRFRM\r\n\x01\x00");
    let checksum = crc32c(&page[..FRAME_HEADER_BYTES - 4]);
    put(&mut page, FRAME_HEADER_BYTES - 4, &checksum.to_le_bytes());
    let Ok(header) = FrameHeader::decode(&page) else { return };
    assert!(
        header.frame_bytes() >= header.content_bytes() && header.last_lsn() >= header.first_lsn
    );
    let mut again = [0; FRAME_HEADER_BYTES];
    header.encode(&mut again);
    assert_eq!(again, page[..FRAME_HEADER_BYTES], "a frame's header has two forms");
    let chain = Chain::start(header.identity);
    let _ = chain.header(&page, page.len() as u64);
    let _ = chain.is_behind(&page);
}

/// A manifest, as it is and with a checksum that is right.
pub fn manifest(data: &[u8]) {
    let identity = Identity::default();
    let _ = Manifest::decode(data, &identity);
    let Some(end) = data.len().checked_sub(4).filter(|end| *end >= 32) else { return };
    let mut forged = data.to_vec();
    put(&mut forged, 0, b"CLRMAN\r\n\x01\x00\x00\x00");
    put(&mut forged, 16, &[0; 16]);
    let checksum = crc32c(&forged[..end]);
    put(&mut forged, end, &checksum.to_le_bytes());
    let _ = Manifest::decode(&forged, &identity);
}

/// A run, with checksums that are right. Returns how many rows were found.
pub fn run(data: &[u8]) -> u64 {
    forge::read(data)
}

/// A row of a run: 16 bits that say how long its key is, then the key, then its value.
pub fn row(data: &[u8]) {
    let Some((len, rest)) = data.split_first_chunk::<2>() else { return };
    let at = usize::from(u16::from_le_bytes(*len)).min(rest.len());
    let (key, value) = rest.split_at(at);
    let _ = count_row(key, value, &mut RunRows::default());
}

/// One slot of a watermark file.
pub fn watermark(data: &[u8]) {
    let mut page = vec![0; SECTOR_BYTES];
    let len = data.len().min(104);
    page[..len].copy_from_slice(&data[..len]);
    put(&mut page, 0, b"CLRWMK\r\n\x01\x00\x00\x00");
    put(&mut page, 16, &[0; 16]);
    let checksum = crc32c(&page[..104]);
    put(&mut page, 104, &checksum.to_le_bytes());
    let identity = Identity::default();
    let _ = Watermark::decode(data, 0, &identity);
    let Ok(Some(note)) = Watermark::decode(&page, 0, &identity) else { return };
    assert_eq!(note.encode(&identity)[..], page, "a watermark has two forms");
}

/// The file `node`: as it is, and with checksums that are right.
pub fn superblock(data: &[u8]) {
    let _ = superblock::read(data);
    let mut forged = data.to_vec();
    for slot in forged.chunks_exact_mut(SECTOR_BYTES) {
        let end = SECTOR_BYTES - 4;
        let checksum = crc32c(&slot[..end]);
        put(slot, end, &checksum.to_le_bytes());
    }
    let Reading::Valid { superblock, whole } = superblock::read(&forged) else { return };
    let slot = superblock.encode();
    assert!(!whole || forged.starts_with(&slot), "a superblock has two forms");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Dice, Rig, small_settings};

    fn real_files() -> Vec<(String, Vec<u8>)> {
        let mut rig = Rig::new(small_settings());
        let mut dice = Dice::new(2);
        while rig.directory.run_count() == 0 {
            rig.step(&mut dice);
            rig.resolve(0, true);
        }
        rig.settle();
        rig.snapshot().files.into_iter().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn no_bytes_break_what_opens_files(data in prop::collection::vec(any::<u8>(), 0..9000)) {
            segment(&data);
            frame_content(&data);
            frame_header(&data);
            manifest(&data);
            row(&data);
            run(&data);
            watermark(&data);
            superblock(&data);
        }
    }

    #[test]
    fn real_files_with_changed_bytes_break_nothing() {
        let mut dice = Dice::new(4);
        let files = real_files();
        let mut accepted = 0;
        for (name, content) in files.iter().cycle().take(400) {
            let mut changed = content.clone();
            for _ in 0..dice.roll(4) {
                let at = dice.roll(changed.len() as u64) as usize;
                changed[at] = dice.roll(256) as u8;
            }
            match &name[name.len() - 3..] {
                "seg" => accepted += segment(&changed),
                "est" => manifest(&changed),
                "run" => changed.chunks(4096).for_each(row),
                _ => watermark(&changed),
            }
        }
        assert!(accepted > 100, "{accepted} frames");
    }

    #[test]
    fn a_real_run_with_changed_bytes_breaks_nothing() {
        let mut dice = Dice::new(8);
        let files = real_files();
        let runs: Vec<_> = files.iter().filter(|(name, _)| name.ends_with("run")).collect();
        let mut found = 0;
        for (_, content) in runs.iter().cycle().take(300) {
            let mut changed = content[..content.len() - 4096].to_vec();
            for _ in 0..dice.roll(3) {
                // Lengths and offsets are at both ends of a page.
                let page = dice.roll(changed.len() as u64 / 4096) * 4096;
                let at = match dice.roll(3) {
                    0 => page + 32 + dice.roll(100),
                    1 => page + 4095 - dice.roll(40),
                    _ => page + dice.roll(4096),
                };
                changed[at as usize] = match dice.roll(3) {
                    0 => 0,
                    1 => 255,
                    _ => dice.roll(256) as u8,
                };
            }
            found += run(&changed);
        }
        assert!(found > 1000, "{found} rows");
    }

    #[test]
    fn a_real_frames_content_with_changed_bytes_breaks_nothing() {
        let mut dice = Dice::new(6);
        for (name, content) in real_files().iter().filter(|(name, _)| name.ends_with("seg")) {
            let frame = &content[SECTOR_BYTES..];
            let Ok(header) = FrameHeader::decode(frame) else { continue };
            let body = &frame[FRAME_HEADER_BYTES..header.content_bytes()];
            let share = (usize::try_from(header.blob_len).unwrap_or(0) * 256 / body.len()) as u8;
            for _ in 0..2000 {
                let mut data = vec![header.count as u8, share];
                data.extend_from_slice(body);
                for _ in 0..1 + dice.roll(3) {
                    let at = 2 + dice.roll(body.len() as u64) as usize;
                    data[at] = match dice.roll(3) {
                        0 => 0,
                        1 => 255,
                        _ => dice.roll(256) as u8,
                    };
                }
                frame_content(&data);
            }
            assert!(name.starts_with("0000"));
        }
    }
}
