//! Rows byte by byte, and what joining several gives.

use celeriant_schema::{BootId, Epoch};

use super::*;

fn key() -> RowKey {
    RowKey::aggregate(&"acme/order/7".parse().expect("a key"))
}

fn head(first: u64, last: u64, created: Option<i64>) -> HeadRow {
    HeadRow {
        first_version: Version::new(first),
        version: Version::new(last),
        hash: Hash([last as u8; 32]),
        created,
        updated: 1000 + last as i64,
        stamp: Stamp::new(last * 10),
        deleted: last == 9,
        is_final: last == 8,
    }
}

fn chunk(first: u64, batches: u64) -> (RowKey, Bytes) {
    let place = |at| Place {
        first_version: Version::new(first + at),
        location: BatchLocation {
            segment: 1,
            frame_offset: 2,
            frame_bytes: 4096,
            record_offset: 3,
            batch_offset: 4,
        },
    };
    let places: Vec<_> = (0..batches).map(place).collect();
    let mut value = Vec::new();
    Chunk::encode(&places, Version::new(first + batches - 1), &mut value);
    (key().places(Version::new(first)), value.into())
}

fn encoded(head: &HeadRow) -> Bytes {
    let mut value = Vec::new();
    head.encode(&mut value);
    value.into()
}

#[test]
fn rows_have_the_bytes_that_the_format_says() {
    assert_eq!(&*key().head(), b"acme\0order\0\x37\0\x01");
    assert_eq!(
        &*key().client(ClientId::new(5)),
        b"acme\0order\0\x37\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x05"
    );
    assert_eq!(&*key().places(Version::new(258)), b"acme\0order\0\x37\0\x03\0\0\0\0\0\0\x01\x02");
    let txn = TxnId { epoch: Epoch::new(1), boot: BootId::new(2), counter: 3 };
    let outcome = b"\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03";
    assert_eq!(&*RowKey::outcome(txn), outcome);
    let mut expected = vec![3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    expected.extend([9; 32]);
    expected.extend([0, 0, 0, 0, 0, 0, 0, 0x80]);
    expected.extend(1009i64.to_le_bytes());
    expected.extend([90, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(encoded(&head(3, 9, None)), expected);
    let mut expected = vec![8, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];
    for number in [1u32, 2, 4096, 3, 4] {
        expected.extend(number.to_le_bytes());
    }
    assert_eq!(chunk(8, 1).1, expected);
    assert_eq!(&*key().cut(), b"acme\0order\0\x37\0\x04");
    let mut cut = Vec::new();
    CutRow { first_available: Version::new(5), forgotten: Stamp::new(6) }.encode(&mut cut);
    assert_eq!(cut, [5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
    let erased = "acme/order/7".parse().expect("a key");
    let erasure = Erasure { stamp: Stamp::new(258), key: erased, upto: Version::new(4) };
    let row = RowKey::erasure(erasure.stamp);
    assert_eq!(&*row, b"\x01\0\0\0\0\0\0\x01\x02");
    let mut value = Vec::new();
    encode_erasure(&erasure, &mut value);
    assert_eq!(value, b"\x04\0\0\0\0\0\0\0acme/order/7");
    assert_eq!(decode_erasure(&row, &value.into()), Ok(erasure));
    let location = BatchLocation {
        segment: 1,
        frame_offset: 2,
        frame_bytes: 4096,
        record_offset: 3,
        batch_offset: 4,
    };
    let leg = AbortedLeg { stamp: Stamp::new(258), txn, location };
    let row = RowKey::aborted(leg.stamp);
    assert_eq!(&*row, b"\x02\0\0\0\0\0\0\x01\x02");
    let mut value = Vec::new();
    encode_aborted(&leg, &mut value);
    let mut expected: Vec<u8> = [1u64, 2, 3].iter().flat_map(|it| it.to_le_bytes()).collect();
    expected.extend([1u32, 2, 4096, 3, 4].iter().flat_map(|it| it.to_le_bytes()));
    assert_eq!(value, expected);
    assert_eq!(decode_aborted(&row, &value.clone().into()), Ok(leg));
    value.push(0);
    assert_eq!(decode_aborted(&row, &value.into()), Err(Flaw::Lengths));
}

#[test]
fn keys_and_kinds_are_told_apart_and_nonsense_is_refused() {
    let prefix = key().len();
    assert_eq!(RowKind::of(&key().head()), Ok((prefix, RowKind::Head)));
    assert_eq!(RowKind::of(&key().client(ClientId::new(1))), Ok((prefix, RowKind::Client)));
    assert_eq!(RowKind::of(&key().places(Version::new(1))), Ok((prefix, RowKind::Places)));
    assert_eq!(RowKind::of(&key().cut()), Ok((prefix, RowKind::Cut)));
    assert_eq!(RowKind::of(&RowKey::erasure(Stamp::new(1))), Ok((0, RowKind::Erasure)));
    assert_eq!(RowKind::of(&RowKey::aborted(Stamp::new(1))), Ok((0, RowKind::Aborted)));
    assert_eq!(RowKind::of(&RowKey::outcome(TxnId::default())), Ok((0, RowKind::Outcome)));
    for nonsense in [
        &b""[..],
        b"a",
        b"a\0b\0c",
        b"a\0b\0c\0",
        b"a\0b\0c\0\x01x",
        b"a\0b\0c\0\x05",
        b"\0",
        b"\x01",
        b"\x02",
    ] {
        assert!(RowKind::of(nonsense).is_err(), "{nonsense:?}");
    }
}

#[test]
fn heads_join_to_the_newest_with_the_oldest_beginning() {
    let (old, middle, new) = (head(1, 4, Some(7)), head(5, 5, None), head(6, 8, None));
    let values = [encoded(&new), encoded(&middle), encoded(&old)];
    let joined = combine(&key().head(), &values).expect("they continue each other");
    let expected = HeadRow { first_version: Version::new(1), created: Some(7), ..new };
    assert_eq!(HeadRow::decode(&joined), Ok(expected));
    let torn = combine(&key().head(), &[encoded(&new), encoded(&old)]);
    assert_eq!(torn, Err(Flaw::Chain("versions of an aggregate")));
}

#[test]
fn what_was_cut_stays_cut_and_a_head_may_have_no_version_of_its_own() {
    let encoded_cut = |first, forgotten| {
        let mut value = Vec::new();
        let cut = CutRow { first_available: Version::new(first), forgotten: Stamp::new(forgotten) };
        cut.encode(&mut value);
        Bytes::from(value)
    };
    let joined = combine(&key().cut(), &[encoded_cut(5, 0), encoded_cut(3, 7)]).expect("cuts");
    assert_eq!(joined, encoded_cut(5, 7));
    let deleted = HeadRow { deleted: true, ..head(5, 4, None) };
    assert_eq!(HeadRow::decode(&encoded(&deleted)), Ok(deleted));
    let values = [encoded(&deleted), encoded(&head(1, 4, Some(7)))];
    let joined = combine(&key().head(), &values).and_then(|value| HeadRow::decode(&value));
    let expected = HeadRow { first_version: Version::new(1), created: Some(7), ..deleted };
    assert_eq!(joined, Ok(expected));
    assert!(HeadRow::decode(&encoded(&head(6, 4, None))).is_err(), "a version is missing");
}

#[test]
fn neighbouring_places_become_one_row_while_they_fit() {
    let mut joiner = Joiner::default();
    let mut rows: Vec<(Vec<u8>, u64)> = Vec::new();
    let mut out = |key: &[u8], value: &[u8], _| {
        rows.push((key.to_vec(), Chunk::decode(value).expect("intact").places.len() as u64));
    };
    let mut first = 1;
    for batches in [10, 30, 24, 1, 63, 64, 2] {
        let (key, value) = chunk(first, batches);
        joiner.push(&key, &value, &mut out).expect("in order");
        first += batches;
    }
    let (gap, value) = chunk(first + 1, 1);
    assert!(joiner.push(&gap, &value, &mut out).is_err(), "a version is missing");
    joiner.flush(&mut out);
    let expected = [(1, 64), (65, 64), (129, 64), (193, 2)];
    let expected = expected.map(|(first, len)| (key().places(Version::new(first)).to_vec(), len));
    assert_eq!(rows, expected);
}
