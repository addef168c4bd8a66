//! Every byte of a small export, changed, cut and continued.

use bytes::Bytes;
use celeriant_client::{ClientId, Hash, Stamp};
use celeriant_schema::event::EventBody;
use celeriant_schema::hash::{EventContext, chain_start, event_hash};
use celeriant_schema::{
    BatchHeader, ContentType, Event, FeedBatch, Notice, ReadBatch, ReadEvent, Retention, WriteId,
};

use super::*;
use crate::cli::export::file::Writer;

fn header(first: u64, last: u64, stamp: u64) -> BatchHeader {
    BatchHeader {
        first_version: Version::new(first),
        last_version: Version::new(last),
        client_id: ClientId::new(9),
        sequence: None,
        server_time: 7,
        stamp: Stamp::new(stamp),
        write_id: WriteId::default(),
    }
}

/// Event 1, its deletion, event 2.
fn batches() -> Vec<FeedBatch> {
    let key: AggregateKey = "acme/account/a".parse().expect("valid");
    let mut hash = chain_start(&key);
    let mut batches = Vec::new();
    for version in 1..=2 {
        let header = header(version, version, 10 * version);
        let mut bytes = Vec::new();
        let event = Event::plain("T", ContentType::Bytes, &b"what happened"[..]);
        event.encode_into(&mut bytes).expect("valid");
        let body = EventBody::new(&bytes).expect("valid");
        let BatchHeader { first_version: version, stamp, server_time, client_id, .. } = header;
        let context =
            EventContext { prev: hash, version, stamp, server_time, client_id, sequence: None };
        hash = event_hash(&context, body.head(), body.payload());
        let events = vec![ReadEvent { version, hash, body: Bytes::from(bytes) }];
        let batch = ReadBatch { header, events };
        batches.push(FeedBatch { key: key.clone(), batch, notice: None });
        if version.value() == 1 {
            let what = Retention::Delete { recreate: true, forget_sequences: false };
            let batch = ReadBatch { header: self::header(2, 1, 15), events: vec![] };
            batches.push(FeedBatch {
                key: key.clone(),
                batch,
                notice: Some(Notice { what, hash }),
            });
        }
    }
    batches
}

fn page(batches: &[FeedBatch], upto: u64) -> FeedPage {
    FeedPage { batches: batches.to_vec(), upto: Stamp::new(upto), head: Stamp::new(30) }
}

fn export(pages: &[FeedPage]) -> Vec<u8> {
    let header = Header::new("a cluster".into(), "acme/account".into());
    let mut writer = Writer::new(Vec::new(), &header).expect("memory");
    let mut histories = Histories::new(Selector::All);
    for page in pages {
        histories.take(page).expect("honest");
        writer.page(page).expect("memory");
    }
    let mark = Mark::of(&histories.finish().expect("whole"));
    writer.end(&mark).expect("memory").0
}

fn verify(bytes: &[u8]) -> Result<Checked, Wrong> {
    let reader = Reader::open(bytes)?;
    Ok(Verifier { reader, against: &mut None }.verify()?.1)
}

#[test]
fn every_changed_byte_every_cut_and_everything_behind_the_end_is_found() {
    let all = batches();
    let mut bytes = export(&[page(&all[..1], 10), page(&all[1..], 25)]);
    let checked = verify(&bytes).expect("whole");
    assert_eq!((checked.events, checked.notices, checked.upto.value()), (2, 1, 25));
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            assert!(verify(&bytes).is_err(), "bit {bit} of byte {at}");
            bytes[at] ^= 1 << bit;
        }
        let cut = verify(&bytes[..at]).expect_err("cut");
        let is_named = match at {
            0..8 => matches!(cut, Wrong::File(Flaw::NotAnExport)),
            _ => matches!(cut, Wrong::File(Flaw::Cut(_))),
        };
        assert!(is_named, "{at}: {cut}");
    }
    bytes.push(0);
    assert!(matches!(verify(&bytes), Err(Wrong::File(Flaw::Beyond(_)))));
}

#[test]
fn blocks_that_are_left_out_swapped_or_from_elsewhere_are_found() {
    let all = batches();
    let one = export(&[page(&all[..1], 10), page(&all[1..], 25)]);
    let mut starts = vec![8];
    while let Some(header) = one.get(*starts.last().expect("one")..).filter(|it| !it.is_empty()) {
        let packed = u32::from_le_bytes(header[8..12].try_into().expect("four")) as usize;
        starts.push(starts.last().expect("one") + 44 + packed);
    }
    let block = |at: usize| &one[starts[at]..starts[at + 1]];
    assert_eq!(starts.len(), 5);
    for order in [&[0, 2, 3][..], &[0, 1, 3], &[0, 2, 1, 3], &[0, 1, 1, 2, 3], &[0, 3]] {
        let blocks = order.iter().flat_map(|at| block(*at)).copied();
        let made: Vec<u8> = one[..8].iter().copied().chain(blocks).collect();
        assert!(matches!(verify(&made), Err(Wrong::File(Flaw::Changed(_)))), "{order:?}");
    }
}

#[test]
fn whoever_writes_blocks_anew_still_has_to_match_the_events_chains() {
    let mut forged = page(&batches(), 25);
    let Some(event) = forged.batches[2].batch.events.first_mut() else { panic!("an event") };
    let mut body = event.body.to_vec();
    *body.last_mut().expect("bytes") ^= 1;
    event.body = body.into();
    let header = Header::new("a cluster".into(), "*".into());
    let mut writer = Writer::new(Vec::new(), &header).expect("memory");
    writer.page(&forged).expect("memory");
    let upto = Stamp::new(25);
    let mark = Mark::of(&Checked { aggregates: 1, events: 2, granted: 0, notices: 1, upto });
    let error = verify(&writer.end(&mark).expect("memory").0).expect_err("forged").to_string();
    assert!(error.contains("acme/account/a: version 2 has hash"), "{error}");

    // An end mark that does not tell of what is there.
    let writer = Writer::new(Vec::new(), &header).expect("memory");
    let mark = Mark::of(&Checked { aggregates: 1, upto, ..Checked::default() });
    let error = verify(&writer.end(&mark).expect("memory").0).expect_err("less").to_string();
    assert!(error.contains("end mark"), "{error}");
}

fn against(version: u64, hash: Hash, stamp: u64) -> Option<Against> {
    let (key, version) = ("acme/account/a".parse().expect("valid"), Version::new(version));
    let (shard, lsn, stamp, is_leg) = (0.into(), 1.into(), Stamp::new(stamp), false);
    let (client_id, server_time) = (ClientId::new(9), 7);
    let included = Included { hash, stamp, client_id, server_time, shard, lsn, is_leg };
    let head = AuditHead { cluster: "a cluster".into(), shards: vec![] };
    Some(Against { head, proofs: vec![Held { key, version, included, events: None }] })
}

#[test]
fn what_is_proved_has_to_be_there_with_its_hash_unless_it_came_later() {
    let all = batches();
    let bytes = export(&[page(&all, 25)]);
    let hash = all[2].batch.events[0].hash;
    let held = |mut against: Option<Against>| {
        let reader = Reader::open(&bytes[..]).expect("whole");
        let verified = Verifier { reader, against: &mut against }.verify();
        verified.map(|_| against.expect("given").proofs[0].events).map_err(|it| it.to_string())
    };
    assert_eq!(held(against(2, hash, 20)), Ok(Some(2)), "both lead up to it");
    let other = held(against(2, Hash::ZERO, 20)).expect_err("another");
    assert!(other.contains("version 2 has hash"), "{other}");
    let cut = held(against(3, hash, 25)).expect_err("cut");
    assert!(cut.contains("version 3 is proved to have been"), "{cut}");
    assert_eq!(held(against(3, hash, 26)), Ok(None), "it came later");

    let mut foreign = against(2, hash, 20);
    foreign.iter_mut().for_each(|against| against.head.cluster = "another".into());
    assert!(held(foreign).expect_err("foreign").contains("another cluster"));
}
