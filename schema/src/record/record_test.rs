//! Tests of records: encoding, reading back, hashes, damage.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::event::Event;
use crate::fuzzing;
use crate::hash::chain_start;
use crate::samples::{self, damage, hex, plain_event, sample_write};

/// A write and where everything of it is, ready to be drafted.
#[derive(Clone, Debug)]
struct Case {
    client_id: ClientId,
    write_id: WriteId,
    server_time: i64,
    stamp: u64,
    participants: Vec<ShardId>,
    batches: Vec<Given>,
    blob_base: u32,
}

/// A batch; without events it takes away.
type Given = (AggregateKey, Guard, Option<Sequence>, u64, Hash, EncodedEvents, Option<Retention>);

/// What encoding a case gave.
struct Encoded {
    meta: Bytes,
    /// With `blob_base` bytes before it that belong to somebody else.
    blobs: Bytes,
    hash: Hash,
    batches: Vec<EncodedBatch>,
    last_stamp: Stamp,
}

impl Case {
    fn encode(&self) -> Encoded {
        let batches: Vec<_> = self
            .batches
            .iter()
            .map(|(key, guard, sequence, first, prev_hash, events, retention)| BatchDraft {
                key,
                guard: *guard,
                sequence: *sequence,
                first_version: Version::new(*first),
                prev_hash: *prev_hash,
                events,
                retention: *retention,
            })
            .collect();
        let draft = WriteDraft {
            client_id: self.client_id,
            write_id: self.write_id,
            write_hash: Hash([7; 32]),
            server_time: self.server_time,
            stamp: Stamp::new(self.stamp),
            leg: (!self.participants.is_empty()).then_some(&self.participants[..]),
            batches: &batches,
        };
        let (mut meta, mut blobs) = (vec![0xa5; draft.meta_len()], Vec::new());
        let mut encoded = Vec::new();
        let hash = draft.encode(&mut meta, self.blob_base, &mut blobs, &mut encoded);
        let payloads = blobs.concat();
        assert_eq!(payloads.len(), draft.blob_len());
        assert!(meta.len().is_multiple_of(8));
        let mut area = vec![0xee; self.blob_base as usize];
        area.extend_from_slice(&payloads);
        let last_stamp = draft.last_stamp();
        Encoded { meta: meta.into(), blobs: area.into(), hash, batches: encoded, last_stamp }
    }
}

fn case() -> impl Strategy<Value = Case> {
    let batch = (
        samples::key(),
        samples::guard(),
        proptest::option::of(samples::sequence()),
        1..1_u64 << 40,
        samples::hash(),
        prop_oneof![
            4 => samples::events(1..4).prop_map(|events| (events, None)),
            1 => samples::retention().prop_map(|it| (EncodedEvents::default(), Some(it))),
        ],
    );
    let batch = batch.prop_map(|(key, guard, sequence, first, hash, (events, retention))| {
        (key, guard, sequence, first, hash, events, retention)
    });
    let participants = vec(any::<u16>().prop_map(ShardId::new), 0..6);
    let ids = (samples::client_id(), samples::write_id(), any::<i64>(), 1..1_u64 << 50);
    (ids, participants, vec(batch, 0..4), 0..100_u32).prop_filter_map(
        "a write has batches",
        |((client_id, write_id, server_time, stamp), participants, batches, blob_base)| {
            let possible = !batches.is_empty() || !participants.is_empty();
            possible.then_some(Case {
                client_id,
                write_id,
                server_time,
                stamp,
                participants,
                batches,
                blob_base,
            })
        },
    )
}

fn sample_case() -> Case {
    let write = sample_write();
    let appending = write.members.iter().filter(|member| !member.events.is_empty());
    let batches = appending.map(|member| {
        let start = chain_start(&member.key);
        (member.key.clone(), member.guard, member.sequence, 8, start, member.events.clone(), None)
    });
    Case {
        client_id: write.client_id,
        write_id: WriteId { epoch: Epoch::new(2), boot: BootId::new(0xb007), counter: 11 },
        server_time: 1_800_000_000_000_001,
        stamp: 1000,
        participants: Vec::new(),
        batches: batches.collect(),
        blob_base: 0,
    }
}

fn only_record(encoded: &Encoded) -> (Record, Hash) {
    let mut records = decode_records(&encoded.meta, &encoded.blobs, 1);
    let (offset, record, hash) = records.next().expect("one").expect("valid");
    assert_eq!(offset, 0);
    assert!(records.next().is_none());
    (record, hash)
}

fn write_of(record: Record) -> WriteRecord {
    match record {
        Record::Write(write) | Record::Leg(write) => write,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn a_write_survives_its_record(case in case()) {
        let encoded = case.encode();
        let (record, hash) = only_record(&encoded);
        prop_assert_eq!(hash, encoded.hash);
        prop_assert_eq!(matches!(record, Record::Leg(_)), !case.participants.is_empty());
        let write = write_of(record);
        prop_assert_eq!(write.client_id, case.client_id);
        prop_assert_eq!(write.write_id, case.write_id);
        prop_assert_eq!(write.write_hash, Hash([7; 32]));
        prop_assert_eq!(write.server_time, case.server_time);
        prop_assert_eq!(write.stamp.value(), case.stamp);
        prop_assert_eq!(&write.participants, &case.participants);
        prop_assert_eq!(write.batches.len(), case.batches.len());
        let mut stamp = case.stamp;
        for ((view, told), given) in write.batches.iter().zip(&encoded.batches).zip(&case.batches) {
            let (key, guard, sequence, first, _, events, retention) = given;
            prop_assert_eq!(view.retention, *retention);
            prop_assert_eq!((&view.key, view.guard, view.sequence), (key, *guard, *sequence));
            prop_assert_eq!(view.first_version.value(), *first);
            prop_assert_eq!(view.last_version.value(), first + events.len() as u64 - 1);
            prop_assert_eq!((view.offset, view.hash), (told.offset, told.hash));
            prop_assert_eq!(view.first_version, told.first_version);
            prop_assert_eq!(view.last_version, told.last_version);
            prop_assert_eq!(view.stamp.value(), stamp);
            stamp += events.len().max(1) as u64;
            prop_assert_eq!(view.last_stamp.value(), stamp - 1);
            prop_assert!(view.last_stamp <= encoded.last_stamp);
            let joined: Vec<u8> = view
                .events(&encoded.blobs)
                .flat_map(|event| event.expect("valid").body().to_vec())
                .collect();
            prop_assert_eq!(&joined, events.as_bytes());
        }
        prop_assert_eq!(encoded.last_stamp.value(), (stamp - 1).max(case.stamp));
    }

    #[test]
    fn a_batch_is_found_where_encoding_put_it(case in case()) {
        let encoded = case.encode();
        for (told, given) in encoded.batches.iter().zip(&case.batches) {
            let (key, _, sequence, first, prev, events, _) = given;
            let found = batch_at(&encoded.meta, &encoded.blobs, 0, told.offset);
            let (header, found_key, read) = found.expect("there");
            prop_assert_eq!(&found_key, key);
            prop_assert_eq!(header.sequence, *sequence);
            prop_assert_eq!(header.client_id, case.client_id);
            prop_assert_eq!(header.write_id, case.write_id);
            let mut context = EventContext {
                prev: *prev,
                version: Version::new(*first),
                stamp: header.stamp,
                server_time: case.server_time,
                client_id: case.client_id,
                sequence: *sequence,
            };
            prop_assert_eq!(read.len(), events.len());
            for (event, body) in read.iter().zip(events) {
                prop_assert_eq!(&event.body[..], body.whole());
                prop_assert_eq!(event.version, context.version);
                prop_assert_eq!(event.hash, event_hash(&context, body.head(), body.payload()));
                context.prev = event.hash;
                context.version = context.version.next();
                context.stamp = Stamp::new(context.stamp.value() + 1);
            }
            prop_assert_eq!(context.prev, told.hash);
        }
    }

    #[test]
    fn whoever_reads_along_gets_the_batches_of_his_keys(
        cases in vec(case(), 1..4),
        bit in 0..3_u32,
    ) {
        let encoded: Vec<Encoded> = cases.iter().map(Case::encode).collect();
        let meta: Vec<u8> = encoded.iter().flat_map(|it| it.meta.to_vec()).collect();
        let meta = Bytes::from(meta);
        // Half of the keys, by chance.
        let ones = |key: &[u8]| key.iter().map(|byte| byte.count_ones()).sum::<u32>();
        let wanted = |key: &[u8]| ones(key) >> bit & 1 == 0;
        let (count, mut given) = (cases.len() as u32, cases.iter().flat_map(|it| &it.batches));
        for batch in decode_batches(&meta, count, wanted) {
            let batch = batch.expect("valid");
            let (key, .., first, _, _, _) =
                given.find(|(key, ..)| wanted(key.as_bytes())).expect("as many");
            prop_assert_eq!(&batch.view.key, key);
            prop_assert_eq!(batch.header.first_version.value(), *first);
        }
        prop_assert!(!given.any(|(key, ..)| wanted(key.as_bytes())), "none is left out");
        let mut cut = decode_batches(&meta, count + 1, |_| true);
        let last = cut.by_ref().last();
        prop_assert!(matches!(last, Some(Err(_))) && cut.next().is_none());
    }

    #[test]
    fn erased_events_leave_their_hashes_and_nothing_else(
        case in case(),
        picked: prop::sample::Index,
        cut in 0..5_u64,
    ) {
        prop_assume!(!case.batches.is_empty());
        let encoded = case.encode();
        let at = picked.index(case.batches.len());
        let (key, _, _, first, _, events, _) = &case.batches[at];
        let upto = Version::new((first + cut).saturating_sub(1));
        let (mut meta, mut blobs) = (encoded.meta.to_vec(), encoded.blobs.to_vec());
        let versions = (Version::new(*first), upto);
        let place = (0, encoded.batches[at].offset);
        let gone = erase(&mut meta, &mut blobs, place, key, versions).expect("there");
        let bodies = events.iter().take(cut as usize);
        prop_assert_eq!(gone, bodies.map(|body| body.whole().len() as u64).sum::<u64>());
        prop_assert_eq!(erase(&mut meta, &mut blobs, place, key, versions), Ok(0), "again");
        let left = Encoded { meta: meta.into(), blobs: blobs.into(), ..case.encode() };
        let (record, hash) = only_record(&left);
        prop_assert_eq!(hash, encoded.hash);
        let write = write_of(record);
        for (number, (view, given)) in write.batches.iter().zip(&case.batches).enumerate() {
            let gone = if number == at { cut as usize } else { 0 };
            let stored = view.events(&left.blobs).map(|event| event.expect("valid"));
            let mut erased = stored.take(gone);
            prop_assert!(erased.all(|event| event.is_erased() && event.body().is_empty()));
            let (_, _, read) = batch_at(&left.meta, &left.blobs, 0, view.offset).expect("there");
            prop_assert_eq!(read.len(), given.5.len().saturating_sub(gone));
            for (event, (index, body)) in read.iter().zip(given.5.iter().enumerate().skip(gone)) {
                prop_assert_eq!(event.version.value(), given.3 + index as u64);
                prop_assert_eq!(&event.body[..], body.whole());
            }
        }
    }

    #[test]
    fn of_an_aborted_leg_every_event_goes_and_nothing_else(case in case()) {
        let (encoded, txn) = (case.encode(), case.write_id);
        let (mut meta, mut blobs) = (encoded.meta.to_vec(), encoded.blobs.to_vec());
        let erased = erase_leg(&mut meta, &mut blobs, 0, txn);
        if case.participants.is_empty() {
            prop_assert!(erased.is_err(), "a write is never aborted");
            return Ok(());
        }
        let bodies = case.batches.iter().flat_map(|(_, _, _, _, _, events, _)| events.iter());
        prop_assert_eq!(erased, Ok(bodies.map(|body| body.whole().len() as u64).sum::<u64>()));
        prop_assert_eq!(erase_leg(&mut meta, &mut blobs, 0, txn), Ok(0), "again");
        let apart = blobs.split_off(case.blob_base as usize);
        prop_assert!(apart.iter().all(|byte| *byte == 0));
        prop_assert!(blobs.iter().all(|byte| *byte == 0xee), "of somebody else");
        blobs.extend(apart);
        let left = Encoded { meta: meta.into(), blobs: blobs.into(), ..case.encode() };
        let (record, hash) = only_record(&left);
        prop_assert_eq!(hash, encoded.hash);
        let leg = write_of(record);
        prop_assert_eq!(leg.batches.len(), case.batches.len());
        for (view, told) in leg.batches.iter().zip(&encoded.batches) {
            prop_assert_eq!((view.hash, view.last_version), (told.hash, told.last_version));
            let mut events = view.events(&left.blobs).map(|event| event.expect("valid"));
            prop_assert!(events.all(|event| event.is_erased()));
        }
    }

    #[test]
    fn decisions_and_epochs_survive_their_records(
        txn in samples::write_id(),
        commit: bool,
        lsn: u64,
        stamp in samples::stamp(),
        server_time: i64,
    ) {
        let resolve = Resolve { txn, commit, leg_lsn: Lsn::new(lsn), stamp };
        let start = EpochStart { epoch: txn.epoch, boot: txn.boot, server_time, stamp };
        let mut meta = vec![0xa5; Resolve::LEN + EpochStart::LEN];
        let resolve_hash = resolve.encode(&mut meta[..Resolve::LEN]);
        let start_hash = start.encode(&mut meta[Resolve::LEN..]);
        let (meta, blobs) = (Bytes::from(meta), Bytes::new());
        let records: Result<Vec<_>, _> = decode_records(&meta, &blobs, 2).collect();
        let records = records.expect("valid");
        let [(0, Record::Resolve(first), first_hash), (at, Record::EpochStart(second), hash)] =
            &records[..]
        else {
            panic!("{records:?}");
        };
        prop_assert_eq!((first, *first_hash), (&resolve, resolve_hash));
        prop_assert_eq!((second, *hash, *at as usize), (&start, start_hash, Resolve::LEN));
    }

    #[test]
    fn arbitrary_bytes_are_decoded_or_refused(data in vec(any::<u8>(), 0..300)) {
        fuzzing::record(&data);
        let (meta, blobs) = (Bytes::from(data.clone()), Bytes::from(data));
        let _ = batch_at(&meta, &blobs, 0, 104);
    }

    #[test]
    fn damaged_records_are_decoded_or_refused(
        case in case(),
        damages in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let encoded = Case { blob_base: 0, ..case }.encode();
        let mut data = fuzz_input(&encoded);
        for (at, byte) in &damages {
            let at = at.index(data.len());
            data[at] = *byte;
        }
        fuzzing::record(&data);
        let meta = Bytes::from(data).slice(2..);
        for batch in &encoded.batches {
            let _ = batch_at(&meta, &encoded.blobs, 0, batch.offset);
        }
    }
}

fn fuzz_input(encoded: &Encoded) -> Vec<u8> {
    let length = (encoded.blobs.len() as u16).to_le_bytes();
    [&length[..], &encoded.meta, &encoded.blobs].concat()
}

#[test]
fn every_truncation_and_every_flipped_byte_is_decoded_or_refused() {
    damage(&fuzz_input(&sample_case().encode()), fuzzing::record);
    let large = large_payload_case().encode();
    let meta = large.meta.len();
    assert!(large.blobs.len() > meta, "the payload lies apart");
    damage(&large.meta, |meta| {
        let meta = Bytes::copy_from_slice(meta);
        decode_records(&meta, &large.blobs, 1).for_each(drop);
        let _ = batch_at(&meta, &large.blobs, 0, large.batches[0].offset);
    });
}

fn large_payload_case() -> Case {
    let mut case = sample_case();
    let events = [plain_event("Small", b"s"), plain_event("Large", &[3; 3000])];
    case.batches.truncate(1);
    case.batches[0].5 = EncodedEvents::encode(&events).expect("valid");
    case
}

#[test]
fn only_payloads_above_the_limit_are_stored_apart() {
    let batch = |bytes: usize| {
        let mut case = sample_case();
        let event = plain_event("T", &vec![1; bytes]);
        case.batches.truncate(1);
        case.batches[0].5 = EncodedEvents::encode(&[event]).expect("valid");
        case.encode().blobs.len()
    };
    assert_eq!(batch(INLINE_PAYLOAD_BYTES_MAX), 0);
    assert_eq!(batch(INLINE_PAYLOAD_BYTES_MAX + 1), INLINE_PAYLOAD_BYTES_MAX + 1);
}

#[test]
fn a_body_that_lies_in_one_piece_is_read_without_copying() {
    let encoded = large_payload_case().encode();
    let (_, _, events) =
        batch_at(&encoded.meta, &encoded.blobs, 0, encoded.batches[0].offset).expect("there");
    let meta = encoded.meta.as_ptr_range();
    assert!(meta.contains(&events[0].body.as_ptr()));
    assert!(!meta.contains(&events[1].body.as_ptr()));
    assert_eq!(Event::decode(&events[1].body).map(|event| event.payload.len()), Ok(3000));
}

#[test]
fn a_record_hash_covers_the_events_hashes_and_not_their_bytes() {
    let encoded = sample_case().encode();
    let mut meta = encoded.meta.to_vec();
    let name = meta.windows(4).position(|window| window == b"Seen").expect("there");
    meta[name] = b's';
    let (meta, blobs) = (Bytes::from(meta), Bytes::new());
    let other = decode_records(&meta, &blobs, 1).next().expect("one").expect("valid");
    assert_eq!(other.2, encoded.hash, "compaction may drop the bytes");
    let mut meta = encoded.meta.to_vec();
    let at = meta.windows(32).position(|w| w == encoded.batches[0].hash.0).expect("there");
    meta[at] ^= 1;
    let meta = Bytes::from(meta);
    let other = decode_records(&meta, &blobs, 1).next().expect("one").expect("valid");
    assert_ne!(other.2, encoded.hash);
}

#[test]
fn what_a_later_version_may_write_is_refused_not_misread() {
    let refused = |change: fn(&mut Vec<u8>)| {
        let mut meta = sample_case().encode().meta.to_vec();
        change(&mut meta);
        let (meta, blobs) = (Bytes::from(meta), Bytes::new());
        decode_records(&meta, &blobs, 1).any(|record| record.is_err())
    };
    assert!(!refused(|_| {}));
    assert!(refused(|meta| meta[4] = FLAG_COMPACTED));
    assert!(refused(|meta| meta[4] = 0x80));
    assert!(refused(|meta| meta[5] = 9));
    assert!(refused(|meta| meta[WRITE_HEADER + 7] = 2));
    assert!(refused(|meta| meta[WRITE_HEADER + 7] = BATCH_FLAG_TOMBSTONE), "it has events");
    assert!(refused(|meta| meta[98] = 1));
}

#[test]
fn a_count_of_records_that_is_wrong_is_noticed() {
    let encoded = sample_case().encode();
    let errors =
        |count| decode_records(&encoded.meta, &encoded.blobs, count).filter(Result::is_err).count();
    assert_eq!((errors(0), errors(1), errors(2)), (1, 0, 1));
}

#[test]
fn the_bytes_of_records_never_change() {
    let encoded = sample_case().encode();
    assert_eq!(hex(&encoded.meta), GOLDEN_RECORD);
    assert_eq!(encoded.hash.to_string(), GOLDEN_RECORD_HASH);
    let id = WriteId { epoch: Epoch::new(2), boot: BootId::new(3), counter: 4 };
    let stamp = Stamp::new(6);
    let mut meta = [0xa5; Resolve::LEN];
    let resolve = Resolve { txn: id, commit: true, leg_lsn: Lsn::new(5), stamp };
    assert_eq!(resolve.encode(&mut meta).to_string(), GOLDEN_RESOLVE_HASH);
    assert_eq!(hex(&meta), GOLDEN_RESOLVE);
    let mut meta = [0xa5; EpochStart::LEN];
    let start = EpochStart { epoch: id.epoch, boot: id.boot, server_time: 7, stamp };
    assert_eq!(start.encode(&mut meta).to_string(), GOLDEN_START_HASH);
    assert_eq!(hex(&meta), GOLDEN_START);
}

#[test]
fn the_bytes_of_a_tombstone_never_change() {
    let retention = Retention::Delete { recreate: false, forget_sequences: true };
    let mut case = sample_case();
    case.batches.truncate(1);
    (case.batches[0].5, case.batches[0].6) = (EncodedEvents::default(), Some(retention));
    let encoded = case.encode();
    let key = case.batches[0].0.as_bytes().len();
    assert_eq!(
        encoded.meta.len(),
        WRITE_HEADER + (BATCH_HEADER + key + TOMBSTONE).next_multiple_of(8)
    );
    let batch = &encoded.meta[WRITE_HEADER..];
    let tombstone = &batch[BATCH_HEADER + key..][..TOMBSTONE];
    assert_eq!(batch[7], BATCH_FLAG_TOMBSTONE);
    assert_eq!(tombstone[..16], [1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(tombstone[16..], chain_start(&case.batches[0].0).0);
    assert_eq!(encoded.hash.to_string(), GOLDEN_TOMBSTONE_HASH);
    let trim = Retention::Trim { keep_from: Version::new(258) };
    assert_eq!(trim.to_bytes(), [2, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
}

const GOLDEN_TOMBSTONE_HASH: &str =
    "89d8094abad31c7e014fb8845362e78ba7ed3080ac9a7f22b82508731f2a38ba";
const GOLDEN_RECORD: &str = concat!(
    "f0010000000102001ec100000000000000000000000000000200000000000000",
    "07b00000000000000b0000000000000007070707070707070707070707070707",
    "070707070707070707070707070707070180982817650600e803000000000000",
    "0000000000000000080100000f00030007000000000000000300000000000000",
    "0800000000000000020000000000000061636d652f6f726465722f34383231d7",
    "0d03a53de0ba1f8987f026023aad7560df25ff0bcbc5672adab74539f7a9a45d",
    "000000ffffffff5d000000010306020100020000809828176506000200000010",
    "0f0e0d0c0b0a090807060504030201506c6163656404030075736572616e6e05",
    "00006361757365026b315a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a",
    "5a5a7b7d9b22808fb2bd989185df39428a28b2c5c580fb52b141a0b6c4ce8d45",
    "c7a98f101e000000ffffffff1e00000001000400010002000080982817650600",
    "02000000506169643432000000000000800000000d0001000000000000000000",
    "01000000000000000800000000000000010000000200000061636d652f757365",
    "722f616e6ed43e6777178bd9c37b4d86e1113c9bfe327fa38e10a647056d1c14",
    "70f980425c1c000000ffffffff1c000000010004000100020000809828176506",
    "00000000005365656e00000000000000",
);
const GOLDEN_RECORD_HASH: &str = "b5c28638e3358c26735b8872318779dee19c427dbf97e09c7536213e2c215714";
const GOLDEN_RESOLVE: &str = concat!(
    "4000000000030000020000000000000003000000000000000400000000000000",
    "0500000000000000060000000000000001000000000000000000000000000000",
);
const GOLDEN_RESOLVE_HASH: &str =
    "b46be2d166055035c00255d97c0a3e9622e82ea7e2a26dd1da995de10aeac54b";
const GOLDEN_START: &str = concat!(
    "2800000000040000020000000000000003000000000000000700000000000000",
    "0600000000000000",
);
const GOLDEN_START_HASH: &str = "9cf2e028b10086a54736b20bad91b6efa98258183c5b77a632daa7a10af5bc53";

#[test]
fn only_the_batch_that_is_meant_is_erased() {
    let case = sample_case();
    let encoded = case.encode();
    let (mut meta, mut blobs) = (encoded.meta.to_vec(), encoded.blobs.to_vec());
    let place = (0, encoded.batches[0].offset);
    let (key, first, upto) = (&case.batches[0].0, case.batches[0].3, Version::new(99));
    let other = AggregateKey::new("acme", "order", "nobody").expect("valid");
    let refused = erase(&mut meta, &mut blobs, place, &other, (Version::new(first), upto));
    assert!(refused.is_err(), "{refused:?}");
    let refused = erase(&mut meta, &mut blobs, place, key, (Version::new(first + 1), upto));
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!((meta, blobs), (encoded.meta.to_vec(), encoded.blobs.to_vec()));
}

#[test]
fn only_the_leg_that_is_meant_is_erased() {
    let case = Case { participants: vec![ShardId::new(1)], ..sample_case() };
    let encoded = case.encode();
    let (mut meta, mut blobs) = (encoded.meta.to_vec(), encoded.blobs.to_vec());
    let other = WriteId { counter: 12, ..case.write_id };
    assert!(erase_leg(&mut meta, &mut blobs, 0, other).is_err());
    assert_eq!((meta, blobs), (encoded.meta.to_vec(), encoded.blobs.to_vec()));
}

#[test]
fn what_is_left_of_an_erased_event_is_zero_and_its_record_says_so() {
    let case = large_payload_case();
    let encoded = case.encode();
    let (mut meta, mut blobs) = (encoded.meta.to_vec(), encoded.blobs.to_vec());
    let place = (0, encoded.batches[0].offset);
    let versions = (Version::new(case.batches[0].3), Version::new(99));
    erase(&mut meta, &mut blobs, place, &case.batches[0].0, versions).expect("there");
    assert!(blobs.iter().all(|byte| *byte == 0), "the payload apart is gone");
    let decodes = |meta: &[u8]| {
        let (meta, blobs) = (Bytes::copy_from_slice(meta), Bytes::from(blobs.clone()));
        decode_records(&meta, &blobs, 1).all(|record| record.is_ok())
    };
    assert!(decodes(&meta));
    let mut unsaid = meta.clone();
    unsaid[4] = 0;
    assert!(!decodes(&unsaid), "the record says that it is as it was");
    let key = case.batches[0].0.as_bytes().len();
    meta[WRITE_HEADER + BATCH_HEADER + key + EVENT_HEADER] = 1;
    assert!(!decodes(&meta), "something is left");
}
