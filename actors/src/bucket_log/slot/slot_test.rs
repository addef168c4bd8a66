//! Slots as bytes: one form of each, nothing else passes.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::bucket_log::rig::{CLUSTER, frame};

fn name() -> Name {
    Name { cluster: CLUSTER, epoch: Epoch::new(7), slot: 3 }
}

fn seal() -> Seal {
    Seal::new(Some(b"secret"))
}

/// Two pieces of one shard, one of another.
fn round() -> Round {
    let mut rng = SmallRng::seed_from_u64(1);
    let first = frame(ShardId::new(2), 7, Position::default(), 3, 1, &mut rng);
    let second = frame(ShardId::new(2), 7, first.end, 1, 2, &mut rng);
    let other = frame(ShardId::new(900), 6, first.end, 1, 1, &mut rng);
    Round::from([(ShardId::new(2), vec![first, second]), (ShardId::new(900), vec![other])])
}

fn body() -> Bytes {
    data(&name(), 11, &round(), &seal())
}

type Change = fn(&mut Vec<u8>);

/// Changed bytes, sealed by one who knows the secret.
fn resealed(change: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut bytes = body().to_vec();
    bytes.truncate(bytes.len() - SEAL_BYTES);
    change(&mut bytes);
    let hash = seal().hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes.into()
}

fn decode(body: &Bytes) -> Result<Slot, SlotError> {
    Slot::decode(&name(), body, &seal())
}

#[test]
fn what_is_written_is_read_and_shares_memory_with_the_body() {
    let body = body();
    let Slot { nonce: 11, content: Content::Data(parts) } = decode(&body).expect("a slot") else {
        panic!("not the round");
    };
    let round = round();
    assert_eq!(parts.len(), 2);
    for (part, (shard, pieces)) in parts.iter().zip(&round) {
        assert_eq!(part.shard, *shard);
        assert_eq!(part.frames.before, pieces[0].before);
        assert_eq!(part.frames.end, pieces[pieces.len() - 1].end);
        let whole: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes.to_vec()).collect();
        assert_eq!(part.frames.bytes, whole, "byte for byte");
        let memory = body.as_ptr_range();
        assert!(memory.contains(&part.frames.bytes.as_ptr()), "not copied");
    }
    // Written again, it is the same.
    let again = parts.into_iter().map(|part| (part.shard, vec![part.frames])).collect();
    assert_eq!(data(&name(), 11, &again, &seal()), body);
}

#[test]
fn a_fence_is_read() {
    let body = fence(&name(), 5, &seal());
    assert_eq!(body.len(), FENCE_BYTES);
    assert_eq!(decode(&body), Ok(Slot { nonce: 5, content: Content::Fence }));
}

#[test]
fn the_bytes_are_those_of_the_table() {
    let body = fence(&name(), 5, &Seal::new(None));
    let mut expected = b"CLRSLOT\n\x01\0\x02\0\0\0\0\0\xc1".to_vec();
    expected.resize(32, 0);
    expected.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 5]);
    expected.resize(72, 0);
    assert_eq!(body[..72], expected);
}

#[test]
fn every_truncation_and_every_changed_byte_is_refused() {
    for body in [body(), fence(&name(), 5, &seal())] {
        let mut longer = body.to_vec();
        longer.push(0);
        assert!(decode(&longer.into()).is_err());
        let mut changed = body.to_vec();
        for at in 0..body.len() {
            assert!(decode(&body.slice(..at)).is_err(), "cut at {at}");
            let flip = if at < 512 { 0xff } else { 1 << (at % 8) };
            changed[at] ^= flip;
            assert!(decode(&changed.clone().into()).is_err(), "byte {at} changed");
            changed[at] ^= flip;
        }
    }
}

#[test]
fn a_stranger_makes_no_slot_and_a_copy_is_none() {
    let body = body();
    for other in [Seal::new(None), Seal::new(Some(b"Secret"))] {
        assert_eq!(Slot::decode(&name(), &body, &other), Err(SlotError::Forged));
    }
    let read = |name: Name| Slot::decode(&name, &body, &seal());
    let copied = SlotError::Elsewhere { epoch: Epoch::new(7), slot: 3 };
    assert_eq!(read(Name { slot: 4, ..name() }), Err(copied));
    assert_eq!(read(Name { epoch: Epoch::new(8), ..name() }), Err(copied));
    let foreign = Name { cluster: ClusterId::new(9), ..name() };
    assert_eq!(read(foreign), Err(SlotError::Foreign { found: CLUSTER }));
    let huge = Bytes::from(vec![0; SLOT_BYTES_MAX + 1]);
    assert_eq!(decode(&huge), Err(SlotError::TooLarge { bytes: SLOT_BYTES_MAX + 1 }));
    assert_eq!(decode(&Bytes::from_static(b"{}")), Err(SlotError::NotSlot));
}

#[test]
fn even_sealed_each_value_has_one_form() {
    let version = resealed(|bytes| bytes[8] = 2);
    assert_eq!(decode(&version), Err(SlotError::Version { found: 2 }));
    let second = HEADER_BYTES + PART_BYTES;
    let changes: [(&str, Change); 13] = [
        ("kind", |bytes| bytes[10] = 3),
        ("fence with parts", |bytes| bytes[10] = 2),
        ("reserved", |bytes| bytes[11] = 1),
        ("no parts", |bytes| bytes[64] = 0),
        ("fewer parts", |bytes| bytes[64] = 1),
        ("more parts", |bytes| bytes[64] = 3),
        ("all parts", |bytes| bytes[64..66].fill(0xff)),
        ("reserved behind parts", |bytes| bytes[71] = 1),
        ("reserved in a part", |bytes| bytes[75] = 1),
        ("same shard twice", |bytes| bytes.copy_within(72..74, HEADER_BYTES + PART_BYTES)),
        ("length not of sectors", |bytes| bytes[76] = 1),
        ("huge length", |bytes| bytes[76..80].fill(0xf0)),
        ("more behind", |bytes| bytes.extend_from_slice(&[0; SECTOR_BYTES])),
    ];
    for (what, change) in changes {
        let error = decode(&resealed(change));
        assert!(matches!(error, Err(SlotError::Invalid(_))), "{what}: {error:?}");
    }
    let too_high = resealed(|bytes| bytes[second..second + 2].fill(0xff));
    assert!(matches!(decode(&too_high), Err(SlotError::Invalid(_))));
    let empty = resealed(|bytes| {
        bytes.truncate(HEADER_BYTES);
        bytes[64] = 0;
    });
    assert!(matches!(decode(&empty), Err(SlotError::Invalid(_))), "a round of nothing");
    let backwards = resealed(|bytes| bytes[80] = 0xff);
    assert!(matches!(decode(&backwards), Err(SlotError::Invalid(_))));
}

#[test]
fn noise_is_refused_even_when_it_is_sealed() {
    let mut rng = SmallRng::seed_from_u64(3);
    for _ in 0..20_000 {
        let noise = resealed(|bytes| {
            bytes.truncate(HEADER_BYTES + rng.random_range(0..400));
            let from = if rng.random_bool(0.5) { 64 } else { 10 };
            for byte in &mut bytes[from..] {
                if rng.random_bool(0.2) {
                    *byte = rng.random();
                }
            }
        });
        assert!(decode(&noise).is_err());
    }
}

#[test]
fn keys_sort_as_their_numbers_do_and_name_one_slot() {
    let key = |epoch, slot| Name { cluster: CLUSTER, epoch: Epoch::new(epoch), slot }.key();
    assert_eq!(key(7, 3).as_str(), "wal/00000000000000000007/00000000000000000003");
    let sorted = [key(0, 0), key(0, 9), key(0, 10), key(2, 1), key(10, 0), key(u64::MAX, u64::MAX)];
    assert!(sorted.is_sorted());
    for (epoch, slot) in [(0, 0), (7, 3), (u64::MAX, u64::MAX)] {
        let numbers = Name::numbers_of(key(epoch, slot).as_str());
        assert_eq!(numbers, Some((Epoch::new(epoch), slot)));
    }
    let bad = [
        "config",
        "wal/7/3",
        "wal/00000000000000000007/00000000000000000003/x",
        "wal/+0000000000000000007/00000000000000000003",
        "wal/99999999999999999999/00000000000000000003",
        "wal/00000000000000000007",
    ];
    for key in bad {
        assert_eq!(Name::numbers_of(key), None, "{key}");
    }
}
