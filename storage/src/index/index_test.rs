//! Index files: round trip and damage.

use celeriant_schema::BootId;

use super::*;
use crate::testing::{identity, key};

fn remembered(sequence: u64) -> Remembered {
    Remembered {
        sequence: Sequence::new(sequence),
        first_version: Version::new(sequence),
        last_version: Version::new(sequence),
        hash: Hash([sequence as u8; 32]),
        stamp: Stamp::new(sequence * 8),
        write_hash: Hash([7; 32]),
    }
}

fn entry(number: u64) -> Entry {
    let batch = |version| EntryBatch {
        first_version: Version::new(version),
        frame_offset: 5,
        frame_bytes: 4096,
        record_offset: 80,
        batch_offset: 104,
    };
    Entry {
        key: key(number),
        first_version: Version::new(3),
        last_version: Version::new(9),
        hash: Hash([4; 32]),
        created: -5,
        updated: 6,
        stamp: Stamp::new(99),
        batches: vec![batch(3), batch(7)],
        clients: vec![EntryClient { id: ClientId::new(1), remembered: vec![remembered(3)] }],
    }
}

fn sealed() -> SealedSegment {
    let txn = TxnId { epoch: Epoch::new(1), boot: BootId::new(2), counter: 3 };
    let outcome = |leg, commit| LegOutcome { txn, leg_lsn: Lsn::new(leg), commit };
    SealedSegment {
        identity: identity(),
        segment: 4,
        first_lsn: Lsn::new(10),
        last_lsn: Lsn::new(20),
        prev_hash: Hash([1; 32]),
        last_hash: Hash([2; 32]),
        end: 8192,
        last_stamp: Stamp::new(400),
        max_epoch: Epoch::new(5),
        applied_upto: Lsn::new(22),
        outcomes: vec![outcome(11, true), outcome(13, false)],
    }
}

fn block(entries: Vec<Entry>) -> Bytes {
    encode(&sealed(), entries.into_iter())
}

#[test]
fn an_index_comes_back_as_it_was() {
    let entries = vec![entry(1), entry(2), entry(3)];
    let index = Index::decode(block(entries.clone()), &identity(), 4).expect("intact");
    assert_eq!(index.sealed, sealed());
    assert_eq!(index.aggregates(), 3);
    let read: Vec<Entry> = index.entries().collect::<Result<_, _>>().expect("intact");
    assert_eq!(read, entries);
}

#[test]
fn an_index_of_nothing_is_an_index() {
    let index = Index::decode(block(Vec::new()), &identity(), 4).expect("intact");
    assert_eq!(index.entries().count(), 0);
}

#[test]
fn every_flipped_byte_and_every_cut_of_an_index_is_seen() {
    let content = block(vec![entry(1), entry(2)]);
    for at in 0..content.len() {
        let mut flipped = content.to_vec();
        flipped[at] ^= 2;
        assert!(Index::decode(flipped.into(), &identity(), 4).is_err(), "byte {at}");
        assert!(Index::decode(content.slice(..at), &identity(), 4).is_err(), "cut at {at}");
    }
}

#[test]
fn another_segments_index_is_refused() {
    let content = block(vec![entry(1)]);
    let refused = Index::decode(content.clone(), &identity(), 5).expect_err("another segment");
    assert_eq!(refused, Flaw::Foreign("segment"));
    let other = Identity { shard: ShardId::new(1), ..identity() };
    assert!(Index::decode(content, &other, 4).is_err());
}

#[test]
fn keys_and_versions_out_of_order_are_refused() {
    let wrong_versions = Entry { first_version: Version::new(4), ..entry(1) };
    for entries in [vec![entry(2), entry(1)], vec![entry(1), entry(1)], vec![wrong_versions]] {
        let index = Index::decode(block(entries), &identity(), 4).expect("intact as a file");
        assert!(index.entries().any(|entry| entry.is_err()));
    }
}
