//! Holds a log and its directory against the model.

use celeriant_schema::record::{Record, decode_records};

use super::*;
use crate::directory::Listing;
use crate::disk::Done;
use crate::frame::FrameHeader;

impl Rig {
    /// Holds the directory, and every batch that it points to, against the model. Only when
    /// everything that was appended is durable.
    pub(crate) fn check(&mut self) {
        let known = self.accepted.iter().filter(|(_, standing)| standing.version > Version::NONE);
        let known: Vec<_> = known.map(|(key, standing)| (key.clone(), standing.clone())).collect();
        let listed = self.listed();
        assert!(known.iter().map(|(key, _)| key.as_str()).eq(listed), "aggregates");
        for (key, standing) in known {
            let head = self.head(&key).expect("known");
            assert_eq!(head.version, standing.version, "{key}");
            assert_eq!(Some(head.hash), standing.hash, "{key}");
            let brief = self.ask(|directory, pins| directory.standing(&key, pins)).expect("known");
            assert_eq!((brief.version, brief.hash), (head.version, head.hash), "{key}");
            let last = standing.last.expect("has a batch");
            assert_eq!((head.updated, head.stamp), (last.server_time, last.last_stamp), "{key}");
            if let Some(sequence) = last.sequence {
                let sequences = self.sequences(&key, last.client_id).expect("used");
                assert_eq!(sequences.newest().map(|it| it.sequence), Some(sequence));
                let remembered = sequences.find(sequence).expect("remembered");
                assert_eq!(remembered.write_hash, last.write_hash);
                assert_eq!(remembered.stamp, last.write_stamp);
            }
            self.check_batches(&key, &head);
        }
        self.check_legs();
    }

    /// What was aborted is known, and gone where that was packed; what is undecided is there.
    fn check_legs(&mut self) {
        let aborted = self.aborted();
        let mut expected = Vec::new();
        for action in &self.actions {
            let Action::Resolve { leg_lsn, commit: false, stamp } = action else { continue };
            let Action::Leg(txn, _) = &self.actions[leg_lsn.value() as usize - 1] else {
                panic!("no leg at {leg_lsn}")
            };
            expected.push((*stamp, *txn));
        }
        assert!(aborted.iter().map(|leg| (leg.stamp, leg.txn)).eq(expected), "aborted legs");
        for leg in aborted {
            let left = self.events_of_leg(leg.txn, &leg.location).len();
            assert!(left == 0 || !self.erasures.is_gone(leg.txn), "{leg:?} has {left} events");
        }
        for (lsn, _) in self.undecided.clone() {
            let Action::Leg(txn, batches) = &self.actions[lsn.value() as usize - 1] else {
                panic!("no leg at {lsn}")
            };
            let (txn, batches) = (*txn, batches.clone());
            let (_, first) = &batches[0];
            // Of one that was shown before a crash the place is not known.
            if first.location.segment > 0 {
                let count =
                    |it: &AppliedBatch| it.last_version.value() + 1 - it.first_version.value();
                let events: u64 = batches.iter().map(|(_, batch)| count(batch)).sum();
                assert_eq!(self.events_of_leg(txn, &first.location).len() as u64, events, "{txn}");
            }
        }
    }

    /// What the legs that nobody decided say, in the order of the log.
    pub(crate) fn undecided_payloads(&mut self) -> Vec<Vec<bytes::Bytes>> {
        let place = |(lsn, _): &(Lsn, TxnId)| match &self.actions[lsn.value() as usize - 1] {
            Action::Leg(txn, batches) => (*txn, batches[0].1.location),
            other => panic!("{other:?} is no leg"),
        };
        let places: Vec<_> = self.undecided.iter().map(place).collect();
        let payload = |body: bytes::Bytes| Event::decode(&body).expect("canonical").payload;
        let of_leg = |events: Vec<bytes::Bytes>| events.into_iter().map(payload).collect();
        places.iter().map(|(txn, at)| of_leg(self.events_of_leg(*txn, at))).collect()
    }

    /// Events of the leg of `txn` that are not erased.
    fn events_of_leg(&mut self, txn: TxnId, location: &BatchLocation) -> Vec<bytes::Bytes> {
        let frame = self.read_frame(location);
        let header = FrameHeader::decode(&frame).expect("a frame");
        let (meta, blobs) = (header.meta(&frame), header.blobs(&frame));
        let mut records = decode_records(&meta, &blobs, header.count).map(|it| it.expect("intact"));
        let leg = records.find_map(|(offset, record, _)| match record {
            Record::Leg(leg) if offset == location.record_offset => Some(leg),
            _ => None,
        });
        let leg = leg.expect("a leg is there");
        assert_eq!(leg.write_id, txn);
        let events = leg.batches.iter().flat_map(|batch| batch.events(&blobs));
        let events = events.map(|event| event.expect("intact"));
        events.filter(|event| !event.is_erased()).map(|event| event.body()).collect()
    }

    /// Asks the directory; pages that it lacks are read at once.
    pub(crate) fn ask<T>(&self, lookup: impl FnMut(&Directory, &Pins) -> Result<T, Fault>) -> T {
        ask(&self.directory, &self.disk, lookup)
    }

    pub(crate) fn head(&self, key: &AggregateKey) -> Option<Head> {
        self.ask(|directory, pins| directory.head(key, pins))
    }

    fn sequences(&self, key: &AggregateKey, client: ClientId) -> Option<ClientSequences> {
        self.ask(|directory, pins| directory.sequences(key, client, pins))
    }

    /// Every key that the directory lists.
    fn listed(&self) -> Vec<String> {
        let (org, kind) = ("acme", "order");
        let all = |parents: &[&str]| {
            let mut all = Listing::with_deleted();
            let list = |directory: &Directory, pins: &Pins, all: &mut Listing| {
                directory.list(parents, "", None, 999, all, pins)
            };
            while !self.ask(|directory, pins| list(directory, pins, &mut all)) {}
            all.page.names
        };
        assert!(all(&[]).iter().all(|name| name == org));
        assert!(all(&[org]).iter().all(|name| name == kind));
        let ids = all(&[org, kind]);
        ids.iter().map(|id| format!("{org}/{kind}/{id}")).collect()
    }

    fn check_batches(&mut self, key: &AggregateKey, head: &Head) {
        let mut next = Version::new(1);
        while next <= head.version {
            let found = self.ask(|directory, pins| {
                directory.locate(key, next, head.version, false, 1000, pins)
            });
            assert!(!found.is_empty(), "{key}: nothing from {next} on");
            for (first, last, location) in found {
                assert_eq!(first, next, "{key}");
                next = last.next();
                self.check_batch(key, head, (first, last), &location);
            }
        }
        assert_eq!(next, head.version.next(), "{key}");
    }

    fn check_batch(
        &mut self,
        key: &AggregateKey,
        head: &Head,
        versions: (Version, Version),
        location: &BatchLocation,
    ) {
        let frame = self.read_frame(location);
        let (header, found, events) =
            frame::read_batch(&frame, &identity(), location).expect("a batch is there");
        assert_eq!((header.first_version, header.last_version), versions, "{key}");
        assert_eq!(&found, key);
        let (first, last) = (versions.0.value(), versions.1.value());
        let (gone, left) = self.erasures.of(key, location.segment);
        let kept = events.first().map_or(last, |event| event.version.value() - 1);
        assert!(kept.max(first - 1) >= last.min(gone.value()), "{key}: up to {gone} is erased");
        assert!(kept.min(last) <= left.value().max(first - 1), "{key}: only up to {left} may go");
        for event in &events {
            let decoded = Event::decode(&event.body).expect("canonical");
            let expected = payload(key, event.version, decoded.payload.len());
            assert_eq!(decoded.payload, expected, "{key} {}", event.version);
        }
        if versions.1 == head.version && left < head.version {
            assert_eq!(events.last().map(|event| event.hash), Some(head.hash));
        }
    }

    fn read_frame(&mut self, location: &BatchLocation) -> bytes::Bytes {
        let offset = u64::from(location.frame_offset) * 4096;
        let fetch = self.log.fetch(location.segment, offset, location.frame_bytes);
        let (fetch, op) = fetch.expect("a segment that is there");
        let Ok(Done::Read(read)) = self.disk.perform_now(op) else { panic!("not read") };
        let frame = fetch.take(read).expect("as it was packed");
        frame::verify(&frame, &identity()).expect("intact");
        frame
    }
}

/// Asks a directory whose files are on `disk`; pages that it lacks are read at once.
pub(super) fn ask<T>(
    directory: &Directory,
    disk: &MemoryDisk,
    mut lookup: impl FnMut(&Directory, &Pins) -> Result<T, Fault>,
) -> T {
    let mut pins = Pins::default();
    loop {
        match lookup(directory, &pins) {
            Ok(answer) => return answer,
            Err(Fault::Missing(page)) => pins.add(page, read_page(disk, page)),
            Err(Fault::Damaged(damage)) => panic!("{damage}"),
        }
    }
}

fn read_page(disk: &MemoryDisk, Missing(place): Missing) -> bytes::Bytes {
    let name = crate::run::run_name(place.run);
    let start = place.offset() as usize;
    let content = &disk.files[&name][start..start + place.bytes() as usize];
    let page = bytes::Bytes::copy_from_slice(content);
    assert_eq!(crate::run::verify(&page, &identity(), place), Ok(()));
    page
}
