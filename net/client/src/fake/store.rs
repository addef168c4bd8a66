//! Aggregates in memory: guards first, then sequences, all or nothing.

use std::collections::BTreeMap;

use celeriant_schema::event::EventBody;
use celeriant_schema::hash::{EventContext, chain_start, event_hash, write_hash};
use celeriant_schema::{
    AggregateKey, AggregateReceipt, AlreadyApplied, BatchHeader, ClientId, Conflict, FeedBatch,
    FeedPage, FeedQuery, Guard, Hash, HeadInfo, ListPage, Page, ReadBatch, ReadEvent, ReadQuery,
    Receipt, Refusal, Request, Response, Sequence, Stamp, Version, Write, WriteId,
};

/// Batches on one page: few, so that reading takes several.
const PAGE_BATCHES: usize = 2;

/// Everything that has been written.
#[derive(Debug, Default)]
pub(crate) struct Store {
    aggregates: BTreeMap<AggregateKey, Vec<ReadBatch>>,
    sequences: BTreeMap<(ClientId, AggregateKey), Vec<Used>>,
    /// Lowest version that is left, of those that were trimmed.
    trimmed: BTreeMap<AggregateKey, Version>,
    stamp: u64,
    /// Sequences remembered with their receipts; `None` = all.
    pub(crate) remembered: Option<usize>,
}

/// A sequence, the write that used it, and what it was answered.
type Used = (Sequence, Hash, Receipt);

enum Sequenced {
    Next,
    Landed(Receipt),
    Forgotten(Refusal),
    Refused(Refusal),
}

impl Store {
    /// The highest stamp given.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp::new(self.stamp)
    }

    /// Does what is asked; reads see what was written up to `until`.
    pub(crate) fn handle(&mut self, request: Request, until: Stamp) -> Response {
        match request {
            Request::Write(write) => match self.write(&write) {
                Ok(receipt) => Response::Receipt(receipt),
                Err(refusal) => Response::Refused(refusal),
            },
            Request::Read(query) => self.read(&query, until),
            Request::Head(query) => Response::Head(HeadInfo {
                version: self.visible(&query.key, until).last().map_or(Version::NONE, last_version),
                hash: Hash::ZERO,
                created: 0,
                updated: 0,
                stamp: until,
                deleted: false,
                first_available: *self.trimmed.get(&query.key).unwrap_or(&Version::new(1)),
                last_sequence: query.client.and_then(|client| {
                    let mut visible = self.visible(&query.key, until).iter().rev();
                    visible.find(|batch| batch.header.client_id == client)?.header.sequence
                }),
                read_stamp: until,
            }),
            Request::List(query) => {
                let after = query.after.unwrap_or_default();
                let names: Vec<String> =
                    self.aggregates.keys().map(|key| key.id().to_owned()).collect();
                let mut rest: Vec<String> = names.into_iter().filter(|id| *id > after).collect();
                let more = rest.len() > 3;
                rest.truncate(3);
                Response::List(ListPage { names: rest, more })
            }
            Request::Feed(query) => Response::Feed(self.feed(&query)),
            Request::Ping => Response::Pong,
            Request::Admin(order) => Response::Admin(order.clone()),
        }
    }

    pub(crate) fn version(&self, key: &AggregateKey) -> Version {
        self.batches(key).last().map_or(Version::NONE, last_version)
    }

    pub(crate) fn batches(&self, key: &AggregateKey) -> &[ReadBatch] {
        self.aggregates.get(key).map_or(&[], Vec::as_slice)
    }

    /// To be changed by whoever cheats.
    pub(crate) fn batches_mut(&mut self, key: &AggregateKey) -> &mut Vec<ReadBatch> {
        self.aggregates.entry(key.detached()).or_default()
    }

    /// Takes away what is below a version.
    pub(crate) fn trim(&mut self, key: &AggregateKey, keep_from: Version) {
        let batches = self.batches_mut(key);
        for batch in batches.iter_mut() {
            batch.events.retain(|event| event.version >= keep_from);
        }
        batches.retain(|batch| !batch.events.is_empty());
        self.trimmed.insert(key.detached(), keep_from);
    }

    /// Two batches at a time, so that there is something to go on with.
    fn feed(&self, query: &FeedQuery) -> FeedPage {
        let after = query.after.unwrap_or(Stamp::ZERO);
        let last = |batch: &FeedBatch| {
            batch.batch.header.stamp.value() + batch.batch.events.len() as u64 - 1
        };
        let all = self.aggregates.iter().filter(|(key, _)| query.selector.matches(key));
        let all = all.flat_map(|(key, batches)| {
            batches.iter().map(|batch| FeedBatch {
                key: key.clone(),
                batch: batch.clone(),
                notice: None,
            })
        });
        let mut batches: Vec<FeedBatch> = all.filter(|batch| last(batch) > after.value()).collect();
        batches.sort_by_key(last);
        let head = batches.last().map_or(after, |batch| Stamp::new(last(batch)));
        batches.truncate(2);
        let upto = batches.last().map_or(after, |batch| Stamp::new(last(batch)));
        FeedPage { batches, upto, head }
    }

    fn visible(&self, key: &AggregateKey, until: Stamp) -> &[ReadBatch] {
        let all = self.batches(key);
        let last_stamp =
            |batch: &ReadBatch| batch.header.stamp.value() + batch.events.len() as u64 - 1;
        &all[..all.partition_point(|batch| last_stamp(batch) <= until.value())]
    }

    fn write(&mut self, write: &Write) -> Result<Receipt, Refusal> {
        let sequenced = self.check_sequences(write);
        let failed = write.members.iter().filter(|member| {
            let version = self.version(&member.key);
            match member.guard {
                Guard::Any => false,
                Guard::NoStream => version != Version::NONE,
                Guard::Exists => version == Version::NONE,
                Guard::Exact(expected) => version != expected,
            }
        });
        let conflicts: Vec<Conflict> = failed
            .map(|member| Conflict {
                key: member.key.clone(),
                expected: member.guard,
                actual: self.version(&member.key),
            })
            .collect();
        if !conflicts.is_empty() {
            let already_applied = match sequenced {
                Sequenced::Landed(receipt) => AlreadyApplied::Receipt(Box::new(receipt)),
                Sequenced::Forgotten(_) => AlreadyApplied::Unknown,
                Sequenced::Next | Sequenced::Refused(_) => AlreadyApplied::None,
            };
            return Err(Refusal::Conflict { conflicts, already_applied });
        }
        match sequenced {
            Sequenced::Next => Ok(self.append(write)),
            Sequenced::Landed(mut receipt) => {
                receipt.already_applied = true;
                Ok(receipt)
            }
            Sequenced::Forgotten(refusal) | Sequenced::Refused(refusal) => Err(refusal),
        }
    }

    fn check_sequences(&self, write: &Write) -> Sequenced {
        let hash = write_hash(write);
        for member in write.members.iter().filter(|member| !member.events.is_empty()) {
            let Some(sequence) = member.sequence else { return Sequenced::Next };
            let key = member.key.clone();
            let used = self.sequences.get(&(write.client_id, key.clone()));
            let used = used.map_or(&[][..], Vec::as_slice);
            let expected = Sequence::new(used.len() as u64 + 1);
            if sequence > expected {
                return Sequenced::Refused(Refusal::SequenceGap { key, expected });
            }
            if sequence == expected {
                continue;
            }
            let at = sequence.value() as usize - 1;
            if self.remembered.is_some_and(|count| at + count < used.len()) {
                return Sequenced::Forgotten(Refusal::SequenceStale { key, sequence });
            }
            return match &used[at] {
                (_, then, receipt) if *then == hash => Sequenced::Landed(receipt.clone()),
                _ => Sequenced::Refused(Refusal::SequenceReused { key, sequence }),
            };
        }
        Sequenced::Next
    }

    fn append(&mut self, write: &Write) -> Receipt {
        let mut writes = Vec::new();
        for member in write.members.iter().filter(|member| !member.events.is_empty()) {
            let before = self.version(&member.key);
            let first = self.stamp + 1;
            let last = self.batches(&member.key).last().and_then(|batch| batch.events.last());
            let mut prev = last.map_or_else(|| chain_start(&member.key), |event| event.hash);
            let chained = |(at, body): (usize, EventBody<'_>)| {
                let version = before.plus(at as u64 + 1);
                let context = EventContext {
                    prev,
                    version,
                    stamp: Stamp::new(first + at as u64),
                    server_time: 0,
                    client_id: write.client_id,
                    sequence: member.sequence,
                };
                prev = event_hash(&context, body.head(), body.payload());
                let body = bytes::Bytes::copy_from_slice(body.whole());
                ReadEvent { version, hash: prev, body }
            };
            let events: Vec<ReadEvent> = member.events.iter().enumerate().map(chained).collect();
            self.stamp += events.len() as u64;
            let header = BatchHeader {
                first_version: before.next(),
                last_version: before.plus(events.len() as u64),
                client_id: write.client_id,
                sequence: member.sequence,
                server_time: 0,
                stamp: Stamp::new(first),
                write_id: WriteId::default(),
            };
            writes.push(AggregateReceipt {
                key: member.key.clone(),
                first_version: header.first_version,
                last_version: header.last_version,
                hash: events.last().map(|event| event.hash).unwrap_or_default(),
            });
            let batch = ReadBatch { header, events };
            self.aggregates.entry(member.key.detached()).or_default().push(batch);
        }
        let receipt = Receipt { stamp: Stamp::new(self.stamp), already_applied: false, writes };
        let hash = write_hash(write);
        for member in write.members.iter().filter(|member| !member.events.is_empty()) {
            if let Some(sequence) = member.sequence {
                let place = (write.client_id, member.key.detached());
                let used = self.sequences.entry(place).or_default();
                used.push((sequence, hash, receipt.clone()));
            }
        }
        receipt
    }

    fn read(&self, query: &ReadQuery, until: Stamp) -> Response {
        let visible = self.visible(&query.key, until);
        if visible.is_empty() {
            return Response::Refused(Refusal::NotFound { key: query.key.clone() });
        }
        let to = query.to.unwrap_or(Version::new(u64::MAX >> 12));
        let wanted = |batch: &&ReadBatch| {
            batch.header.last_version >= query.from
                && batch.header.first_version <= to
                && query.client.is_none_or(|client| client == batch.header.client_id)
        };
        let mut all: Vec<ReadBatch> = visible.iter().filter(wanted).cloned().collect();
        if query.backwards {
            all.reverse();
        }
        let next = all.get(PAGE_BATCHES).map(|batch| match query.backwards {
            true => batch.header.last_version,
            false => batch.header.first_version,
        });
        all.truncate(PAGE_BATCHES);
        let version = visible.last().map_or(Version::NONE, last_version);
        Response::Page(Page { version, stamp: until, batches: all, next })
    }
}

fn last_version(batch: &ReadBatch) -> Version {
    batch.header.last_version
}
