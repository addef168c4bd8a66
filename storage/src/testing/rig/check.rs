//! Holds a log and its directory against the model.

use super::*;
use crate::directory::Listing;
use crate::disk::Done;

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
