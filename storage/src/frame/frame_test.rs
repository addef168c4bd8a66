//! Frames: golden bytes, damage, tears.

use celeriant_schema::record::EpochStart;

use super::*;
use crate::testing::identity;

fn frame_of(records: u64) -> (FrameHeader, Bytes) {
    let mut builder = Builder::new();
    for number in 1..=records {
        let stamp = Stamp::new(number * 10);
        let start =
            EpochStart { epoch: Epoch::new(2), boot: BootId::new(3), server_time: 4, stamp };
        let offset = builder.push((stamp, stamp), EpochStart::LEN, |meta, blob_base, blobs| {
            assert_eq!(blob_base as u64, (number - 1) * 5000);
            blobs.push(Bytes::from(vec![number as u8; 5000]));
            start.encode(meta)
        });
        assert_eq!(offset as u64, (number - 1) * EpochStart::LEN as u64);
    }
    let context = Context {
        identity: identity(),
        epoch: Epoch::new(2),
        boot: BootId::new(3),
        first_lsn: Lsn::new(100),
        durable_upto: Lsn::new(97),
        prev_hash: Hash([9; 32]),
    };
    let (header, buffer) = builder.seal(&context, None);
    assert!(builder.is_empty() && builder.content_bytes() == FRAME_HEADER_BYTES);
    (header, buffer.into_bytes())
}

#[test]
fn a_frame_comes_back_as_it_was() {
    let (header, frame) = frame_of(3);
    assert_eq!(frame.len(), header.frame_bytes());
    assert_eq!(verify(&frame, &identity()), Ok(header));
    assert_eq!((header.first_lsn, header.last_lsn()), (Lsn::new(100), Lsn::new(102)));
    assert_eq!((header.first_stamp, header.last_stamp), (Stamp::new(10), Stamp::new(30)));
    assert_eq!(header.meta(&frame).len(), 3 * EpochStart::LEN);
    assert_eq!(header.blobs(&frame).len(), 15_000);
    assert!(header.blobs(&frame)[5000..10_000].iter().all(|byte| *byte == 2));
}

#[test]
fn every_flipped_byte_of_a_frame_is_seen() {
    let (_, frame) = frame_of(1);
    for at in 0..frame.len() {
        let mut flipped = frame.to_vec();
        flipped[at] ^= 0x80;
        assert!(verify(&flipped, &identity()).is_err(), "byte {at}");
    }
}

#[test]
fn a_frame_that_is_too_short_or_too_long_is_refused() {
    let (_, frame) = frame_of(1);
    assert_eq!(verify(&frame[..4096], &identity()), Err(Flaw::Lengths));
    assert_eq!(verify(&[&frame[..], &[0; 4096]].concat(), &identity()), Err(Flaw::Lengths));
    assert_eq!(verify(&frame[..100], &identity()), Err(Flaw::Lengths));
}

#[test]
fn a_cut_short_frame_looks_torn_and_a_flipped_one_does_not() {
    let (header, frame) = frame_of(2);
    for piece in 1..header.content_bytes() / TORN_BYTES {
        let mut torn = frame.to_vec();
        torn[piece * TORN_BYTES..(piece + 1) * TORN_BYTES].fill(0);
        assert!(may_be_torn(&torn, &header), "piece {piece}");
    }
    for at in 0..frame.len() {
        let mut flipped = frame.to_vec();
        flipped[at] ^= 1;
        assert!(!may_be_torn(&flipped, &header), "byte {at}");
    }
}

#[test]
fn the_hash_covers_identity_place_and_records_but_not_durable_upto() {
    let (header, _) = frame_of(2);
    let records = [Hash([1; 32]), Hash([2; 32])];
    let hash = header.hash_over(records);
    let durable = FrameHeader { durable_upto: Lsn::new(1), ..header };
    assert_eq!(durable.hash_over(records), hash);
    let others = [
        FrameHeader { epoch: Epoch::new(9), ..header },
        FrameHeader { boot: BootId::new(9), ..header },
        FrameHeader { first_lsn: Lsn::new(9), ..header },
        FrameHeader { count: 9, ..header },
        FrameHeader { first_stamp: Stamp::new(9), ..header },
        FrameHeader { last_stamp: Stamp::new(9), ..header },
        FrameHeader { prev_hash: Hash::ZERO, ..header },
    ];
    assert!(others.iter().all(|other| other.hash_over(records) != hash));
    assert_ne!(header.hash_over([records[1], records[0]]), hash);
}

#[test]
fn the_header_of_a_frame_has_these_bytes() {
    let (_, frame) = frame_of(1);
    let hex = |range: std::ops::Range<usize>| -> String {
        frame[range].iter().map(|byte| format!("{byte:02x}")).collect()
    };
    assert_eq!(&frame[..8], b"CLRFRM\r\n");
    assert_eq!(hex(8..16), "0100030001000000", "format, shard, count");
    assert_eq!(hex(16..32), "11ce000000000000eeffc00000000000", "cluster");
    assert_eq!(hex(32..48), "02000000000000000300000000000000", "epoch, boot");
    assert_eq!(hex(48..64), "64000000000000006100000000000000", "first lsn, durable_upto");
    assert_eq!(hex(64..80), "0a000000000000000a00000000000000", "stamps");
    assert_eq!(hex(80..88), "2800000088130000", "records, large payloads");
    assert_eq!(hex(88..120), "09".repeat(32), "hash of the frame before");
    assert!(frame[156..188].iter().all(|byte| *byte == 0), "reserved");
}
