//! One connection of the load: slots with a request in flight each, one buffer out, one buffer in.
//!
//! An aggregate is in flight at most once, so its version is always known and no guard ever fails:
//! a conflict is an error of the store (or of this file).

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use celeriant_client::Error;
use celeriant_schema::limits::PAGE_BYTES_TARGET;
use celeriant_schema::wire::{Outbound, decode_outbound};
use celeriant_schema::{Refusal, Response};
use tokio::time::{sleep, timeout_at};

use super::super::args::Work;
use super::super::failure::Failure;
use super::Run;
use super::pace::Pace;
use super::stats::Shared;
use super::template::{self, Template};
use super::wire::{Wire, protocol};

/// Kinds of frames that answer, as in the wire's documentation.
const RECEIPT: u8 = 0x90;
const PAGE: u8 = 0x91;
/// Every so many answers one is decoded and checked.
const SAMPLE: u64 = 64;
/// How long answers may come after the end.
const DRAIN: Duration = Duration::from_secs(10);
/// Appends in flight while preparing what will be read.
const PREPARING: usize = 64;

/// Aggregates that are used together, by their number within the connection.
#[derive(Clone, Copy)]
struct Unit {
    first: usize,
    second: Option<usize>,
}

struct Flight {
    unit: Unit,
    since: Instant,
    /// Of a read: where the page in flight starts.
    from: u64,
}

struct Connection {
    work: Work,
    wire: Wire,
    template: Template,
    /// Number of the first aggregate.
    base: usize,
    units: VecDeque<Unit>,
    /// Events in each aggregate.
    versions: Vec<u64>,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    answers: u64,
    /// What a complete read brings.
    events: usize,
    decode_all: bool,
}

/// What became of requests since the last look.
#[derive(Default)]
struct Answered {
    succeeded: Vec<Instant>,
    errors: Vec<&'static str>,
    pause: Option<Duration>,
}

/// Connects, prepares, waits for the others, puts the load.
pub(super) async fn run(run: Arc<Run>, index: usize, stats: Shared) -> Result<(), Failure> {
    let prepared = Connection::prepare(&run, index).await;
    // Also when it failed: the others wait for everybody.
    run.prepared.wait().await;
    let mut connection = prepared?;
    let started = *run.started.get_or_init(Instant::now);
    connection.measure(&run, index, started, &stats).await
}

impl Connection {
    async fn prepare(run: &Run, index: usize) -> Result<Self, Failure> {
        let bench = &run.bench;
        let (wire, welcome) = Wire::connect(&run.target).await?;
        let share = run.share(index);
        let template = Template::of(bench.work, &run.name, bench.payload).map_err(Error::from)?;
        let mut connection = Self {
            work: bench.work,
            wire,
            template,
            base: share.start,
            units: VecDeque::new(),
            versions: vec![0; share.len()],
            flights: Vec::new(),
            free: Vec::new(),
            answers: 0,
            events: bench.events,
            decode_all: bench.events * (bench.payload + 100) > PAGE_BYTES_TARGET / 2,
        };
        connection.units = units(&run.name, &share, bench.work, welcome.shards);
        if bench.work == Work::Read {
            connection.fill(run).await?;
        }
        connection.set_slots(bench.pipeline);
        Ok(connection)
    }

    fn set_slots(&mut self, slots: usize) {
        self.flights = (0..slots).map(|_| None).collect();
        self.free = (0..slots).rev().collect();
    }

    /// Appends the events that will be read.
    async fn fill(&mut self, run: &Run) -> Result<(), Failure> {
        let (events, payload) = (run.bench.events, run.bench.payload);
        let appending = Template::appending(&run.name, 1, events, payload).map_err(Error::from)?;
        let reading = std::mem::replace(&mut self.template, appending);
        self.work = Work::Write;
        self.set_slots(PREPARING);
        let (mut left, mut answered) = (self.units.len(), Answered::default());
        while left > 0 || self.free.len() < self.flights.len() {
            while left > 0 && self.send(Instant::now()) {
                left -= 1;
            }
            self.wire.exchange().await?;
            self.take_answers(&mut answered)?;
            if let Some(name) = answered.errors.first() {
                return Err(Failure::Load(format!("preparing what will be read: {name}")));
            }
        }
        self.template = reading;
        self.work = Work::Read;
        Ok(())
    }

    /// Puts the load until the time is up, then takes what is still to come.
    async fn measure(
        &mut self,
        run: &Run,
        index: usize,
        started: Instant,
        stats: &Shared,
    ) -> Result<(), Failure> {
        let bench = &run.bench;
        let from = started + bench.warmup;
        let end = from + bench.duration;
        let mut pace = match bench.rate {
            Some(rate) => Some(Pace::new(started, rate, index, bench.connections)?),
            None => None,
        };
        let mut waiting: VecDeque<Instant> = VecDeque::new();
        let mut answered = Answered::default();
        loop {
            let now = Instant::now();
            match &mut pace {
                Some(pace) => {
                    while let Some(due) = pace.take_due(now.min(end)) {
                        waiting.push_back(due);
                    }
                    while !waiting.is_empty() && self.send(waiting[0]) {
                        waiting.pop_front();
                    }
                }
                None => while now < end && self.send(now) {},
            }
            let idle = self.free.len() == self.flights.len() && waiting.is_empty();
            if now >= end && (idle || now > end + DRAIN) {
                break;
            }
            self.wait(if now < end { pace.as_mut() } else { None }, end).await?;
            self.take_answers(&mut answered)?;
            let open = pace.is_some();
            self.note(&mut answered, run, stats, |since, now| {
                let counts = if open { since } else { now };
                since >= from && counts < end
            });
            if let Some(pause) = answered.pause.take() {
                sleep(pause).await;
            }
        }
        for _ in 0..self.flights.len() - self.free.len() + waiting.len() {
            stats.error("NoAnswer");
        }
        Ok(())
    }

    /// Until bytes can be moved, the next request is due, or it is long over.
    async fn wait(&mut self, pace: Option<&mut Pace>, end: Instant) -> Result<(), Failure> {
        let due = async {
            match pace {
                Some(pace) => pace.wait().await,
                None => pending().await,
            }
        };
        let moved = async {
            tokio::select! {
                biased;
                moved = self.wire.exchange() => moved,
                due = due => due.map_err(Failure::from),
            }
        };
        let latest = if Instant::now() < end { end } else { end + DRAIN };
        let latest = latest + Duration::from_millis(1);
        timeout_at(latest.into(), moved).await.unwrap_or(Ok(()))
    }

    fn note(
        &self,
        answered: &mut Answered,
        run: &Run,
        stats: &Shared,
        counts: impl Fn(Instant, Instant) -> bool,
    ) {
        let now = Instant::now();
        run.done.fetch_add(answered.succeeded.len() as u64, Ordering::Relaxed);
        run.errors.fetch_add(answered.errors.len() as u64, Ordering::Relaxed);
        for since in answered.succeeded.drain(..) {
            if counts(since, now) {
                stats.record(now - since);
            }
        }
        answered.errors.drain(..).for_each(|name| stats.error(name));
    }

    /// Puts a request into the output, if a slot and an aggregate are free.
    fn send(&mut self, since: Instant) -> bool {
        if self.free.is_empty() || self.units.is_empty() {
            return false;
        }
        let (Some(slot), Some(unit)) = (self.free.pop(), self.units.pop_front()) else {
            return false;
        };
        self.flights[slot] = Some(Flight { unit, since, from: 0 });
        self.put(slot);
        true
    }

    fn put(&mut self, slot: usize) {
        let Some(flight) = &self.flights[slot] else { return };
        let version = |at: usize| match self.work {
            Work::Read => flight.from,
            _ => self.versions[at],
        };
        let value = |at: usize| (self.base + at, version(at));
        let values = [value(flight.unit.first), value(flight.unit.second.unwrap_or(0))];
        self.template.put(slot as u64 + 1, &values, &mut self.wire.output);
    }

    fn take_answers(&mut self, answered: &mut Answered) -> Result<(), Failure> {
        while let Some(frame) = self.wire.next_frame()? {
            let bytes = self.wire.bytes(&frame);
            let (kind, id) = (bytes[0], bytes[4..12].first_chunk().copied().unwrap_or_default());
            let slot = u64::from_le_bytes(id).wrapping_sub(1) as usize;
            let Some(flight) = self.flights.get_mut(slot).and_then(Option::take) else {
                return Err(protocol("an answer to nothing that was asked"));
            };
            self.answers += 1;
            let expected = if self.work == Work::Read { PAGE } else { RECEIPT };
            let sampled = self.decode_all || self.answers.is_multiple_of(SAMPLE);
            if kind == expected && !sampled {
                self.succeed(slot, flight, answered);
                continue;
            }
            let decoded = decode_outbound(Bytes::copy_from_slice(bytes));
            match decoded.map_err(|error| protocol(&error.to_string()))? {
                Outbound::Response { response, .. } => {
                    self.judge(slot, flight, response, answered);
                }
                _ => return Err(protocol("an answer of another kind")),
            }
        }
        Ok(())
    }

    fn succeed(&mut self, slot: usize, flight: Flight, answered: &mut Answered) {
        if self.work != Work::Read {
            for at in [Some(flight.unit.first), flight.unit.second].into_iter().flatten() {
                self.versions[at] += 1;
            }
        }
        answered.succeeded.push(flight.since);
        self.units.push_back(flight.unit);
        self.free.push(slot);
    }

    /// Looks at a decoded answer: is it the right one?
    fn judge(&mut self, slot: usize, flight: Flight, response: Response, answered: &mut Answered) {
        match response {
            Response::Receipt(receipt) => {
                let version = self.versions[flight.unit.first];
                let right = receipt.writes.first().is_some_and(|write| {
                    write.first_version.value() == version + 1 && !receipt.already_applied
                });
                if right {
                    return self.succeed(slot, flight, answered);
                }
                self.fail(slot, None, "WrongReceipt", answered);
            }
            Response::Page(page) => {
                let events: usize = page.batches.iter().map(|batch| batch.events.len()).sum();
                match page.next {
                    Some(next) if next.value() > flight.from => {
                        self.flights[slot] = Some(Flight { from: next.value(), ..flight });
                        self.put(slot);
                    }
                    None if flight.from > 0 || events == self.events => {
                        self.succeed(slot, flight, answered);
                    }
                    _ => self.fail(slot, Some(flight.unit), "WrongPage", answered),
                }
            }
            Response::Refused(refusal) => {
                // Whatever was certainly not done leaves its aggregates as they were.
                let definite = refusal.definite() && !matches!(refusal, Refusal::Conflict { .. });
                let unit = definite.then_some(flight.unit);
                if let Refusal::Overloaded { retry_after_ms, .. } = refusal {
                    answered.pause = Some(Duration::from_millis(retry_after_ms.into()));
                }
                self.fail(slot, unit, refusal.name(), answered);
            }
            _ => self.fail(slot, None, "WrongAnswer", answered),
        }
    }

    fn fail(
        &mut self,
        slot: usize,
        unit: Option<Unit>,
        name: &'static str,
        answered: &mut Answered,
    ) {
        answered.errors.push(name);
        self.units.extend(unit);
        self.free.push(slot);
    }
}

/// Aggregates, alone or in pairs; pairs on two shards wherever there are two.
fn units(run: &str, share: &std::ops::Range<usize>, work: Work, shards: u16) -> VecDeque<Unit> {
    if work != Work::Transfer {
        return (0..share.len()).map(|first| Unit { first, second: None }).collect();
    }
    let shard = |at: &usize| template::key(run, share.start + at).shard(shards.max(1));
    let mut by_shard: Vec<usize> = (0..share.len()).collect();
    by_shard.sort_by_key(shard);
    let (low, high) = by_shard.split_at(share.len() / 2);
    // With more than two shards the halves of the sorted list still meet only in the middle.
    let pairs = low.iter().zip(high);
    pairs.map(|(first, second)| Unit { first: *first, second: Some(*second) }).collect()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use celeriant_schema::wire::encode_response;
    use celeriant_schema::{Page, Receipt, Stamp, Version};

    use super::*;

    #[test]
    fn answers_are_known_by_their_kind() {
        let kind = |response| {
            let mut out = BytesMut::new();
            encode_response(1, &response, &mut out);
            out[4]
        };
        let (stamp, already_applied) = (Stamp::new(1), false);
        let receipt = Receipt { stamp, already_applied, writes: Vec::new() };
        assert_eq!(kind(Response::Receipt(receipt)), RECEIPT);
        let page = Page { version: Version::NONE, stamp, batches: Vec::new(), next: None };
        assert_eq!(kind(Response::Page(page)), PAGE);
    }

    #[test]
    fn pairs_lie_on_two_shards_and_use_no_aggregate_twice() {
        let share = 100..300;
        let pairs = units("0badcafe", &share, Work::Transfer, 2);
        let shard = |at: usize| template::key("0badcafe", share.start + at).shard(2);
        let mut used = Vec::new();
        let mut apart = 0;
        for unit in &pairs {
            let second = unit.second.expect("a pair");
            used.extend([unit.first, second]);
            apart += usize::from(shard(unit.first) != shard(second));
        }
        assert!(apart * 10 >= pairs.len() * 7, "{apart} of {}", pairs.len());
        used.sort_unstable();
        assert_eq!(used, (0..200).collect::<Vec<_>>());
    }
}
