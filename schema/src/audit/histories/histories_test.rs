//! What a store that tells the truth gives, and what one that does not.

use bytes::Bytes;

use super::*;
use crate::event::Event;
use crate::hash::{EventContext, event_hash};
use crate::ids::{ClientId, WriteId};
use crate::request::Retention;
use crate::response::ReadBatch;
use crate::samples::plain_event;

/// Everything that ever happened, in order.
#[derive(Default)]
struct Store {
    all: Vec<FeedBatch>,
    chains: BTreeMap<String, (Version, Hash)>,
    stamp: u64,
}

fn key(id: &str) -> AggregateKey {
    format!("acme/account/{id}").parse().expect("valid")
}

impl Store {
    fn header(&self, first: Version, last: Version) -> BatchHeader {
        BatchHeader {
            first_version: first,
            last_version: last,
            client_id: ClientId::new(9),
            sequence: None,
            server_time: 7,
            stamp: Stamp::new(self.stamp),
            write_id: WriteId::default(),
        }
    }

    fn append(&mut self, id: &str, count: u64) {
        let key = key(id);
        let (at, mut hash) =
            self.chains.get(id).copied().unwrap_or((Version::NONE, chain_start(&key)));
        let last = Version::new(at.value() + count);
        let header = self.header(at.next(), last);
        let mut events = Vec::new();
        for ahead in 0..count {
            let event: Event = plain_event("T", format!("{id} {ahead}").as_bytes());
            let mut bytes = Vec::new();
            event.encode_into(&mut bytes).expect("valid");
            let body = EventBody::new(&bytes).expect("valid");
            let version = Version::new(at.value() + ahead + 1);
            let stamp = Stamp::new(self.stamp + ahead);
            let BatchHeader { server_time, client_id, sequence, .. } = header;
            let context =
                EventContext { prev: hash, version, stamp, server_time, client_id, sequence };
            hash = event_hash(&context, body.head(), body.payload());
            events.push(ReadEvent { version, hash, body: Bytes::from(bytes) });
        }
        self.stamp += count;
        self.chains.insert(id.to_owned(), (last, hash));
        self.all.push(FeedBatch { key, batch: ReadBatch { header, events }, notice: None });
    }

    fn take_away(&mut self, id: &str, what: Retention) {
        let (at, hash) = self.chains[id];
        let header = self.header(at.next(), at);
        self.stamp += 1;
        let (batch, notice) = (ReadBatch { header, events: vec![] }, Some(Notice { what, hash }));
        self.all.push(FeedBatch { key: key(id), batch, notice });
    }

    /// Entries `range`, as a page has them when the first `known` entries are there.
    fn page(&self, range: std::ops::Range<usize>, known: usize) -> FeedPage {
        let mut batches = self.all[range.clone()].to_vec();
        for entry in &self.all[..known] {
            let Some(notice) = entry.notice else { continue };
            let first = notice.what.first_available(entry.batch.header.first_version);
            for batch in batches.iter_mut().filter(|batch| batch.key == entry.key) {
                batch.batch.events.retain(|event| {
                    event.version >= first || batch.batch.header.stamp > entry.batch.header.stamp
                });
            }
        }
        batches.retain(|batch| batch.notice.is_some() || !batch.batch.events.is_empty());
        let next = self.all.get(range.end).map_or(self.stamp, |it| it.batch.header.stamp.value());
        FeedPage { batches, upto: Stamp::new(next - 1), head: Stamp::new(self.stamp - 1) }
    }

    fn pages(&self, known: impl Fn(usize) -> usize) -> Vec<FeedPage> {
        (0..self.all.len()).map(|at| self.page(at..at + 1, known(at))).collect()
    }
}

const DELETE: Retention = Retention::Delete { recreate: true, forget_sequences: false };

fn trim(keep_from: u64) -> Retention {
    Retention::Trim { keep_from: Version::new(keep_from) }
}

/// Deleted and begun anew, trimmed, trimmed beyond the end, trimmed and then deleted, untouched.
fn store() -> Store {
    let mut store = Store { stamp: 10, ..Store::default() };
    for id in ["a", "b", "c", "d", "e"] {
        store.append(id, 2);
    }
    store.append("b", 3);
    store.take_away("a", DELETE);
    store.take_away("b", trim(4));
    store.append("a", 2);
    store.take_away("c", trim(100));
    store.append("c", 1);
    store.take_away("d", trim(2));
    store.take_away("d", DELETE);
    store.append("e", 1);
    store
}

fn check(pages: &[FeedPage]) -> Result<Checked, HistoryError> {
    let mut histories = Histories::new("acme".parse().expect("valid"));
    pages.iter().try_for_each(|page| histories.take(page))?;
    histories.finish()
}

#[test]
fn whatever_was_taken_away_by_when_it_was_read_the_rest_verifies() {
    let store = store();
    // Each page as when it was read at once, at the end, and at any time between.
    for end in 0..=store.all.len() {
        let checked = check(&store.pages(|at| (at + 1).max(end))).expect("honest");
        assert_eq!((checked.aggregates, checked.notices), (5, 5), "{end}");
        assert_eq!(checked.upto.value(), store.stamp - 1);
    }
    let all = check(&store.pages(|at| at + 1)).expect("honest");
    assert_eq!((all.events, all.granted), (17, 0), "nothing was gone yet");
    let rest = check(&store.pages(|_| store.all.len())).expect("honest");
    assert_eq!((rest.events, rest.granted), (2 + 1 + 1 + 3, 1), "only b's 4 leads on from nothing");
}

#[test]
fn every_event_and_notice_that_is_left_out_or_repeated_is_found() {
    let store = store();
    for known in [0, store.all.len()] {
        let honest = store.pages(|at| (at + 1).max(known));
        let mut last = BTreeMap::new();
        for (at, page) in honest.iter().enumerate() {
            last.extend(page.batches.iter().map(|batch| (batch.key.as_str().to_owned(), at)));
        }
        for at in (0..honest.len()).filter(|at| !honest[*at].batches.is_empty()) {
            let mut twice = honest.clone();
            twice.insert(at, honest[at].clone());
            assert!(matches!(check(&twice), Err(HistoryError::Order { .. })), "{at}");
            // Nothing behind the last of an aggregate tells of it.
            if last.values().any(|last| *last == at) {
                continue;
            }
            let mut without = honest.clone();
            without[at].batches.clear();
            let later = |above: Version| {
                let key = &honest[at].batches[0].key;
                store.all[at + 1..].iter().any(|it| {
                    let first =
                        |notice: Notice| notice.what.first_available(it.batch.header.first_version);
                    it.key == *key && it.notice.map(first) > Some(above)
                })
            };
            // What is taken away later may be missing, and so may a notice of what nobody misses.
            let is_found = match honest[at].batches[0].batch.events.last() {
                Some(last) => !later(last.version),
                None => known > 0 && !later(Version::NONE),
            };
            assert_eq!(check(&without).is_err(), is_found, "{at} of {known}");
        }
    }
}

#[test]
fn a_gap_is_named_with_the_versions_that_are_missing() {
    let store = store();
    let mut pages = store.pages(|_| store.all.len());
    let trimmed = pages.iter().position(|page| {
        page.batches.first().is_some_and(|it| it.key == key("b") && it.notice.is_some())
    });
    pages.remove(trimmed.expect("one"));
    let Err(HistoryError::Missing { key: named, first, last, .. }) = check(&pages) else {
        panic!("nothing says that 1 to 3 are gone")
    };
    assert_eq!((named, first.value(), last.value()), (key("b"), 1, 3));
}

#[test]
fn what_is_changed_is_named_by_aggregate_and_what_was_not_selected_too() {
    let store = store();
    let honest = store.pages(|_| store.all.len());
    for at in 0..honest.len() {
        for batch in 0..honest[at].batches.len() {
            let mut changed = honest.clone();
            let entry = &mut changed[at].batches[batch];
            let named = entry.key.clone();
            match (&mut entry.notice, entry.batch.events.first_mut()) {
                (Some(notice), _) => notice.hash.0[3] ^= 1,
                (None, Some(event)) => event.hash.0[3] ^= 1,
                (None, None) => continue,
            }
            match check(&changed) {
                Err(HistoryError::Chain { key, .. } | HistoryError::Notice { key, .. }) => {
                    assert_eq!(key, named);
                }
                // Of what is gone as a whole nothing else tells the hash.
                other => assert!(other.is_ok() && named == key("d"), "{named}: {other:?}"),
            }
        }
    }
    let mut foreign = Histories::new("acme/order".parse().expect("valid"));
    let refused = honest.iter().try_for_each(|page| foreign.take(page));
    assert!(matches!(refused, Err(HistoryError::NotSelected { .. })), "{refused:?}");
}

#[test]
fn a_standing_says_from_where_on_nothing_is_missing() {
    let store = store();
    let mut histories = Histories::new(Selector::All);
    for page in store.pages(|_| store.all.len()) {
        histories.take(&page).expect("honest");
    }
    let standing = |id| {
        let (chain, since) = histories.standing(&key(id)).expect("known");
        (chain.version().value(), since.value())
    };
    assert_eq!((standing("a"), standing("b"), standing("e")), ((4, 3), (5, 4), (3, 1)));
    assert_eq!(histories.standing(&key("nobody")), None);
}
