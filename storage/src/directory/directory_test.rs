//! The directory: places, sequences, listings, and the same again from indexes.

use celeriant_schema::{ListPage, Lsn};

use super::*;
use crate::index::Index;
use crate::log::SealedSegment;
use crate::testing::{Dice, identity};

fn key(text: &str) -> AggregateKey {
    text.parse().expect("a key")
}

fn batch(first: u64, last: u64, segment: u32) -> AppliedBatch {
    AppliedBatch {
        first_version: Version::new(first),
        last_version: Version::new(last),
        hash: Hash([last as u8; 32]),
        server_time: last as i64 * 10,
        stamp: Stamp::new(first * 100),
        last_stamp: Stamp::new(last * 100),
        write_stamp: Stamp::new(last * 100 + 1),
        client_id: ClientId::new(5),
        sequence: Some(Sequence::new(first)),
        write_hash: Hash([9; 32]),
        location: BatchLocation {
            segment,
            frame_offset: first as u32,
            frame_bytes: 4096,
            record_offset: 0,
            batch_offset: 104,
        },
    }
}

fn sealed(segment: u32) -> SealedSegment {
    SealedSegment {
        identity: identity(),
        segment,
        first_lsn: Lsn::new(1),
        last_lsn: Lsn::new(9),
        prev_hash: Hash::ZERO,
        last_hash: Hash::ZERO,
        end: 4096,
        last_stamp: Stamp::new(1),
        max_epoch: celeriant_schema::Epoch::new(1),
        applied_upto: Lsn::new(9),
        outcomes: Vec::new(),
    }
}

fn reload(directory: &Directory, segments: &[u32]) -> Directory {
    let mut again = Directory::new(1);
    for segment in segments {
        let block = directory.index_block(&sealed(*segment));
        let index = Index::decode(block, &identity(), *segment).expect("intact");
        for entry in index.entries() {
            again.load(*segment, entry.expect("intact"));
        }
    }
    again
}

#[test]
fn batches_are_found_by_version_in_both_directions() {
    let mut directory = Directory::new(0);
    let key = key("a/b/c");
    for (first, last) in [(1, 3), (4, 4), (5, 9)] {
        directory.apply(&key, &batch(first, last, 1));
    }
    let locate = |from, to, backwards, max| -> Vec<(u64, u64)> {
        let (from, to) = (Version::new(from), Version::new(to));
        let found = directory.locate(&key, from, to, backwards, max);
        found.iter().map(|(first, last, _)| (first.value(), last.value())).collect()
    };
    assert_eq!(locate(1, 9, false, 9), [(1, 3), (4, 4), (5, 9)]);
    assert_eq!(locate(0, 99, true, 9), [(5, 9), (4, 4), (1, 3)]);
    assert_eq!(locate(2, 4, false, 9), [(1, 3), (4, 4)]);
    assert_eq!(locate(6, 6, true, 9), [(5, 9)]);
    assert_eq!(locate(4, 5, false, 9), [(4, 4), (5, 9)]);
    assert_eq!(locate(4, 5, true, 9), [(5, 9), (4, 4)]);
    assert_eq!(locate(1, 9, false, 2), [(1, 3), (4, 4)]);
    assert_eq!(locate(1, 9, true, 1), [(5, 9)]);
    assert_eq!(locate(10, 12, false, 9), []);
    assert_eq!(locate(5, 4, false, 9), []);
}

#[test]
fn the_last_sixteen_sequences_of_a_client_are_remembered() {
    let mut directory = Directory::new(0);
    let key = key("a/b/c");
    (1..=40).for_each(|version| directory.apply(&key, &batch(version, version, 1)));
    let sequences = directory.sequences(&key, ClientId::new(5)).expect("used");
    assert_eq!((sequences.oldest().value(), sequences.highest().value()), (25, 40));
    assert_eq!(sequences.find(Sequence::new(24)), None);
    let found = sequences.find(Sequence::new(30)).expect("remembered");
    assert_eq!((found.first_version.value(), found.stamp.value()), (30, 3001));
    assert!(directory.sequences(&key, ClientId::new(6)).is_none());
}

#[test]
fn indexes_of_all_segments_give_the_same_directory() {
    let mut directory = Directory::new(0);
    let mut dice = Dice::new(11);
    let keys: Vec<_> = (0..30).map(|n| key(&format!("o{}/t/{n}", n % 3))).collect();
    for segment in 1..=4 {
        for _ in 0..100 {
            let key = &keys[dice.roll(30) as usize];
            let first = directory.head(key).map_or(0, |head| head.version.value()) + 1;
            directory.apply(key, &batch(first, first + dice.roll(3), segment));
        }
    }
    let again = reload(&directory, &[1, 2, 3, 4]);
    assert_eq!(again.len(), directory.len());
    for key in &keys {
        assert_eq!(again.head(key), directory.head(key));
        let client = ClientId::new(5);
        assert_eq!(again.sequences(key, client), directory.sequences(key, client));
        let all = |of: &Directory| of.locate(key, Version::new(1), Version::new(999), false, 999);
        assert_eq!(all(&again), all(&directory));
    }
    assert_eq!(again.ids("o1", "t", "", None, 99), directory.ids("o1", "t", "", None, 99));
}

#[test]
fn an_index_says_what_held_at_its_segments_end_whenever_it_is_made() {
    let mut directory = Directory::new(0);
    let key = key("a/b/c");
    directory.apply(&key, &batch(1, 2, 1));
    let early = directory.index_block(&sealed(1));
    directory.apply(&key, &batch(3, 5, 2));
    assert_eq!(directory.index_block(&sealed(1)), early);
    directory.segment_indexed(1);
    let head = *reload(&directory, &[1]).head(&key).unwrap_or(directory.head(&key).expect("known"));
    assert_eq!(head.version, Version::new(5), "what was kept for segment 1 is gone");
}

#[test]
#[should_panic(expected = "batch 3..=3 on version 1")]
fn a_batch_that_leaves_a_gap_is_never_taken() {
    let mut directory = Directory::new(0);
    directory.apply(&key("a/b/c"), &batch(1, 1, 1));
    assert!(!directory.continues(&key("a/b/c"), &batch(3, 3, 1)));
    directory.apply(&key("a/b/c"), &batch(3, 3, 1));
}

#[test]
fn names_are_listed_in_order_by_prefix_and_page() {
    let mut directory = Directory::new(0);
    for text in ["b/x/1", "a/x/1", "a/y/1", "a/y/2", "a/y/10", "a-b/x/1", "a/y-/3", "ab/x/1"] {
        directory.apply(&key(text), &batch(1, 1, 1));
    }
    let names = |page: ListPage| (page.names.join(" "), page.more);
    assert_eq!(names(directory.orgs("", None, 9)), ("a a-b ab b".into(), false));
    assert_eq!(names(directory.orgs("a", None, 2)), ("a a-b".into(), true));
    assert_eq!(names(directory.orgs("a", Some("a-b"), 2)), ("ab".into(), false));
    assert_eq!(names(directory.orgs("a", Some("zz"), 2)), ("".into(), false));
    assert_eq!(names(directory.types("a", "", None, 9)), ("x y y-".into(), false));
    assert_eq!(names(directory.types("zz", "", None, 9)), ("".into(), false));
    assert_eq!(names(directory.ids("a", "y", "", None, 2)), ("1 10".into(), true));
    assert_eq!(names(directory.ids("a", "y", "", Some("10"), 2)), ("2".into(), false));
    assert_eq!(names(directory.ids("a", "y", "1", Some("0"), 9)), ("1 10".into(), false));
    assert_eq!(names(directory.ids("a", "y", "2", None, 0)), ("".into(), true));
}
