//! A request that is encoded once and then only patched: its id, its aggregates, its versions.
//!
//! Where those lie is not known here: they are found by encoding with values that occur nowhere
//! else.

use bytes::{Bytes, BytesMut};
use celeriant_schema::record::write_size;
use celeriant_schema::wire::encode_request;
use celeriant_schema::{
    AggregateKey, ClientId, ContentType, EncodedEvents, Event, Guard, Member, ReadQuery, Refusal,
    Request, Version, Write,
};

use super::super::args::Work;

/// Aggregates of a run have numbers below this.
pub(super) const NUMBER_MAX: usize = 1_000_000_000;

/// Digits of an aggregate's number in its key.
const DIGITS: usize = 9;
/// Where a frame has its id: behind length, kind, flags and reserved bytes.
const ID_AT: usize = 8;

/// Numbers and versions that stand for "patch me".
const NUMBERS: [usize; 2] = [987_654_321, 987_654_320];
const VERSIONS: [u64; 2] = [0x0011_2233_4455_6677, 0x0012_2233_4455_6688];

/// The encoded request and its places.
pub(super) struct Template {
    frame: BytesMut,
    /// Of each aggregate: where its number and its version lie.
    places: Vec<(usize, usize)>,
}

/// Of all aggregates.
pub(super) const ORG: &str = "bench";
const KIND: &str = "account";

/// Key of an aggregate of a run.
pub(super) fn key(run: &str, number: usize) -> AggregateKey {
    key_of(KIND, run, number)
}

fn key_of(kind: &str, run: &str, number: usize) -> AggregateKey {
    let id = format!("{run}-{number:0DIGITS$}");
    // Eight hexadecimal digits, a hyphen and digits: always a valid name.
    AggregateKey::new(ORG, kind, &id).unwrap_or_else(|error| panic!("{kind}/{id}: {error}"))
}

/// Number of an aggregate of any run.
pub(super) fn number(key: &AggregateKey) -> Option<usize> {
    key.id().rsplit_once('-')?.1.parse().ok()
}

impl Template {
    /// For one kind of work; `payload` bytes in the one event that each aggregate gets.
    pub(super) fn of(work: Work, run: &str, payload: usize) -> Result<Self, Refusal> {
        match work {
            Work::Write => Self::appending(run, 1, 1, payload),
            Work::Transfer => Self::appending(run, 2, 1, payload),
            Work::Read | Work::Stream | Work::Watch | Work::CatchUp => {
                Self::find(&Request::Read(read_query(run)), 1)
            }
        }
    }

    /// Appends `events` events to each of `members` aggregates, each guarded by its version.
    pub(super) fn appending(
        run: &str,
        members: usize,
        events: usize,
        payload: usize,
    ) -> Result<Self, Refusal> {
        Self::appending_to(|number| key(run, number), members, events, payload)
    }

    /// The same, to aggregates of this type.
    pub(super) fn appending_to_type(
        kind: &str,
        run: &str,
        payload: usize,
    ) -> Result<Self, Refusal> {
        Self::appending_to(|number| key_of(kind, run, number), 1, 1, payload)
    }

    fn appending_to(
        key: impl Fn(usize) -> AggregateKey,
        members: usize,
        events: usize,
        payload: usize,
    ) -> Result<Self, Refusal> {
        let events = EncodedEvents::encode(&vec![event(payload); events])?;
        let member = |at: usize| Member {
            key: key(NUMBERS[at]),
            guard: Guard::Exact(Version::new(VERSIONS[at])),
            sequence: None,
            events: events.clone(),
            retention: None,
        };
        let members_made = (0..members).map(member).collect();
        let write = Write { client_id: ClientId::NONE, members: members_made };
        Self::find(&Request::Write(write), members)
    }

    fn find(request: &Request, members: usize) -> Result<Self, Refusal> {
        let mut frame = BytesMut::new();
        encode_request(1, 0, request, &mut frame)?;
        let places = (0..members).map(|at| {
            let number = place(&frame, format!("{:0DIGITS$}", NUMBERS[at]).as_bytes());
            let version = place(&frame, &VERSIONS[at].to_le_bytes());
            (number, version)
        });
        let places = places.collect();
        Ok(Self { frame, places })
    }

    /// Appends the request with these values: per aggregate its number and version.
    pub(super) fn put(&mut self, id: u64, values: &[(usize, u64)], out: &mut Vec<u8>) {
        self.frame[ID_AT..ID_AT + 8].copy_from_slice(&id.to_le_bytes());
        for ((number_at, version_at), (number, version)) in self.places.iter().zip(values) {
            let mut rest = *number;
            for digit in self.frame[*number_at..number_at + DIGITS].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            self.frame[*version_at..version_at + 8].copy_from_slice(&version.to_le_bytes());
        }
        out.extend_from_slice(&self.frame);
    }
}

/// What one request adds to the log, in bytes: its record, without its share of a frame's header
/// and padding. `None`: it adds nothing, or in several shards.
pub(super) fn record_bytes(work: Work, run: &str, payload: usize) -> Option<usize> {
    let events = EncodedEvents::encode(&[event(payload)]).ok().filter(|_| work == Work::Write)?;
    let (meta, blobs) = write_size([(&key(run, 0), &events, None)].into_iter(), 0);
    Some(meta + blobs)
}

fn event(payload: usize) -> Event {
    Event::plain(
        "Added",
        ContentType::Json,
        Bytes::from(format!("\"{}\"", "x".repeat(payload.saturating_sub(2)))),
    )
}

fn read_query(run: &str) -> ReadQuery {
    ReadQuery { from: Version::new(VERSIONS[0]), ..ReadQuery::all(key(run, NUMBERS[0])) }
}

/// Where `needle` lies, which must be in exactly one place.
fn place(frame: &[u8], needle: &[u8]) -> usize {
    let mut found = frame.windows(needle.len()).enumerate().filter(|(_, part)| *part == needle);
    match (found.next(), found.next()) {
        (Some((at, _)), None) => at,
        (first, _) => panic!("{needle:?} is in the frame {}", first.map_or("nowhere", |_| "twice")),
    }
}

#[cfg(test)]
mod tests {
    use celeriant_schema::wire::{Inbound, decode_inbound, split_frame};

    use super::*;

    fn decode(frame: &[u8]) -> (u64, Request) {
        let mut input = BytesMut::from(frame);
        let frame = split_frame(&mut input, 1 << 20).expect("small").expect("whole");
        match decode_inbound(frame).expect("valid") {
            Inbound::Request { id, request, .. } => (id, request),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_patched_write_is_what_encoding_it_anew_gives() {
        let mut template = Template::of(Work::Transfer, "0badcafe", 100).expect("it fits");
        let mut out = Vec::new();
        template.put(7, &[(42, 3), (999_999_999, 0)], &mut out);
        let (id, Request::Write(write)) = decode(&out) else { panic!("a write") };
        assert_eq!(id, 7);
        assert_eq!(write.members[0].key.as_str(), "bench/account/0badcafe-000000042");
        assert_eq!(write.members[0].guard, Guard::Exact(Version::new(3)));
        assert_eq!(write.members[1].key.as_str(), "bench/account/0badcafe-999999999");
        assert_eq!(write.members[1].guard, Guard::Exact(Version::NONE));
        let event = write.members[0].events.iter().next().expect("an event");
        assert_eq!(event.payload().len(), 100);
    }

    #[test]
    fn a_patched_read_asks_for_the_right_page() {
        let mut template = Template::of(Work::Read, "0badcafe", 100).expect("it fits");
        let mut out = Vec::new();
        template.put(9, &[(5, 11)], &mut out);
        let (id, Request::Read(query)) = decode(&out) else { panic!("a read") };
        assert_eq!((id, query.from), (9, Version::new(11)));
        assert_eq!(query.key.as_str(), "bench/account/0badcafe-000000005");
    }
}
