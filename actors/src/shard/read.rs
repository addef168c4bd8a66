//! Reads of one shard: pages of events, and heads.
//!
//! A page is made from committed state only. Its batches come from frames in the cache; what is
//! missing is read from the log, each frame once however many pages want it. The shard keeps no
//! cursor between pages, so a reader costs nothing while it is slow.

use std::collections::BTreeMap;

use bytes::Bytes;
use celeriant_schema::event::EventBody;
use celeriant_schema::limits::{PAGE_BYTES_TARGET, SECTOR_BYTES};
use celeriant_schema::{
    AggregateKey, BatchHeader, HeadInfo, HeadQuery, Page, ReadBatch, ReadEvent, ReadQuery, Refusal,
    Request, Response, Stamp, Version,
};
use celeriant_storage::directory::{BatchLocation, Fault};
use celeriant_storage::disk::{Completion, Done, Token};
use celeriant_storage::log::Fetch;
use celeriant_storage::{Error, Identity, frame};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::core::{Core, Effect, Role};
use crate::clock::Micros;
use crate::work::{Task, Work};

/// Batches that one page looks at, matching or not.
const PAGE_BATCHES_MAX: usize = 1024;
/// Frames that one page reads ahead: enough to keep a device busy, few enough to stay fair.
const READ_AHEAD: usize = 8;
/// Bytes of batches that one page looks at without a match before it says where to go on.
const PAGE_SCAN_BYTES_MAX: usize = 4 * PAGE_BYTES_TARGET;
/// What looking at a batch costs besides its bytes.
const SCAN_BATCH_BYTES: usize = 1 << 10;
/// An event on a page besides its body: version, hash, length.
const EVENT_OVERHEAD_BYTES: usize = 48;
/// A page may keep a frame in memory until it is sent if it needs at least 1/4 of it; else it
/// copies.
const PINNED_SHARE: usize = 4;
/// Reads that wait for a stamp; more are refused.
const WAITING_READS_MAX: usize = 10_000;

/// How long an answer waits for the proof that this node still leads, in µs. A leader that is not
/// deposed gets a lease many times in this time.
const PROOF_WAIT_MAX: Micros = 5_000_000;

type FramePlace = (u32, u32);

/// Pages in the making.
#[derive(Debug)]
pub(super) struct Reads<R> {
    next: u64,
    /// By number; waiting for the frame they need next.
    pages: HashMap<u64, PageInProgress<R>, FixedState>,
    /// Frames being read, and who waits for them.
    loads: HashMap<FramePlace, Vec<u64>, FixedState>,
    tokens: HashMap<Token, (BatchLocation, Fetch), FixedState>,
    /// Waiting for a `min_stamp`, lowest first.
    waiting: BTreeMap<(Stamp, u64), Task<R>>,
}

#[derive(Debug)]
struct PageInProgress<R> {
    route: R,
    query: ReadQuery,
    page: Page,
    plan: Vec<(Version, Version, BatchLocation)>,
    at: usize,
    bytes: usize,
    scanned: usize,
    events: u64,
    /// Lowest and highest version wanted.
    range: (Version, Version),
}

/// What looking a read up in the directory comes to.
enum Found {
    Answer(Response),
    Plan(Plan),
}

/// The batches of a page.
struct Plan {
    /// Newest version.
    version: Version,
    /// What the page's content is complete up to.
    stamp: Stamp,
    /// Lowest and highest version wanted.
    range: (Version, Version),
    /// In reading order.
    batches: Vec<(Version, Version, BatchLocation)>,
}

impl<R> Default for Reads<R> {
    fn default() -> Self {
        Self {
            next: 0,
            pages: HashMap::with_hasher(FixedState::default()),
            loads: HashMap::with_hasher(FixedState::default()),
            tokens: HashMap::with_hasher(FixedState::default()),
            waiting: BTreeMap::new(),
        }
    }
}

impl<R> Reads<R> {
    /// A token for an operation of the disk.
    pub(super) fn next_token(&mut self) -> Token {
        self.next += 1;
        self.next - 1
    }

    /// Forgets everything; returns who waits.
    pub(super) fn take_all(&mut self) -> Vec<R> {
        self.loads.clear();
        self.tokens.clear();
        let mut pages: Vec<_> = self.pages.drain().collect();
        pages.sort_unstable_by_key(|(number, _)| *number);
        let waiting = std::mem::take(&mut self.waiting).into_values().map(|task| task.route);
        pages.into_iter().map(|(_, page)| page.route).chain(waiting).collect()
    }
}

impl<R> Core<R> {
    /// Answers a `Read` or `Head`, now or when its frames have been read.
    pub(super) fn read(&mut self, now: Micros, task: Task<R>, effects: &mut Vec<Effect<R>>) {
        let (key, min_stamp, any) = match &task.request {
            Request::Read(query) => (&query.key, query.min_stamp, query.any),
            Request::Head(query) => (&query.key, query.min_stamp, query.any),
            other => unreachable!("{other:?} is no read"),
        };
        match &self.role {
            Role::Leading(_) => self.show_if_decided(key),
            Role::Following(_) if any && self.standing.is_settled() => self.show_if_joined(key),
            // Not before all shards show what was committed when this process began: one alone may
            // show its part of a write whose other parts the others don't know to be committed.
            Role::Following(_) => {
                let refused = Response::Refused(self.refusal());
                return effects.push(Effect::Reply(task.route, refused));
            }
        }
        let reached = self.closed_stamp();
        if let Some(wanted) = min_stamp.filter(|wanted| *wanted > reached) {
            return self.wait_for_stamp(now, task, wanted, reached, effects);
        }
        let answered = match &task.request {
            Request::Head(query) => self.head(query, reached).map(Found::Answer),
            Request::Read(query) => self.plan(query, reached),
            other => unreachable!("{other:?} is no read"),
        };
        match (answered, task.request) {
            (Ok(Found::Answer(response)), _) => {
                effects.push(read_effect(any, task.route, response))
            }
            (Ok(Found::Plan(plan)), Request::Read(query)) => {
                self.start_page(task.route, query, plan, effects);
            }
            (Ok(Found::Plan(_)), other) => unreachable!("{other:?} needs no plan"),
            (Err(fault), request) => {
                let task = Task { request, ..task };
                self.park(Work::Task(task), fault.into(), effects);
            }
        }
    }

    /// Every event with a stamp up to here that this shard will ever have is visible.
    pub(super) fn closed_stamp(&self) -> Stamp {
        if let Role::Following(follower) = &self.role {
            return follower.closed_stamp();
        }
        let below = |stamp: Stamp| Stamp::new(stamp.value() - 1);
        let appended = self.pending.iter().find_map(|pending| pending.stamp).map(below);
        let undecided = self.first_undecided().map(below);
        // Also while a write is on its way: no log may keep its stamp, and the next leader's clock
        // may be behind.
        let open = self.stamps.durable();
        open.min(appended.unwrap_or(open)).min(undecided.unwrap_or(open))
    }

    /// Takes the end of a frame's read.
    ///
    /// # Errors
    /// A device that cannot read back the log: the node must stop (replication.md §5).
    pub(super) fn complete_read(
        &mut self,
        completion: Completion,
        effects: &mut Vec<Effect<R>>,
    ) -> Result<(), Error> {
        let Some((at, fetch)) = self.reads.tokens.remove(&completion.token) else {
            unreachable!("token {} was never started", completion.token);
        };
        let place = (at.segment, at.frame_offset);
        let waiters = self.reads.loads.remove(&place).unwrap_or_default();
        let opened = match completion.outcome {
            Ok(Done::Read(buffer)) => fetch
                .take(buffer)
                .and_then(|bytes| frame::verify(&bytes, &self.identity).map(|_| bytes)),
            Ok(other) => unreachable!("a read ended as {other:?}"),
            Err(error) => return Err(Error::Io(error)),
        };
        match opened {
            Ok(bytes) => {
                self.cache.insert(at.segment, at.frame_offset, bytes.clone());
                for page in waiters {
                    self.continue_page(page, Some((place, bytes.clone())), effects);
                }
            }
            Err(damage) => {
                let (segment, frame) = place;
                tracing::error!(segment, frame, %damage, "damaged frame");
                for page in waiters {
                    self.fail_page(page, place, effects);
                }
            }
        }
        Ok(())
    }

    /// Answers reads whose stamp has been reached.
    pub(super) fn resume_reached_reads(&mut self, now: Micros, effects: &mut Vec<Effect<R>>) {
        if self.reads.waiting.is_empty() {
            return;
        }
        let reached = self.closed_stamp();
        while let Some(first) = self.reads.waiting.first_entry() {
            if first.key().0 > reached {
                return;
            }
            let task = first.remove();
            self.read(now, task, effects);
        }
    }

    /// Looks at all waiting reads again: some may have waited long enough.
    pub(super) fn resume_all_reads(&mut self, now: Micros, effects: &mut Vec<Effect<R>>) {
        for task in std::mem::take(&mut self.reads.waiting).into_values() {
            self.read(now, task, effects);
        }
    }

    fn wait_for_stamp(
        &mut self,
        now: Micros,
        task: Task<R>,
        wanted: Stamp,
        reached: Stamp,
        effects: &mut Vec<Effect<R>>,
    ) {
        let patient = task.deadline.is_some_and(|deadline| now < deadline);
        if patient && self.reads.waiting.len() < WAITING_READS_MAX {
            self.reads.next += 1;
            self.reads.waiting.insert((wanted, self.reads.next), task);
            return;
        }
        let refusal = Refusal::NotYet { wanted, reached };
        effects.push(Effect::Reply(task.route, Response::Refused(refusal)));
    }

    fn head(&self, query: &HeadQuery, read_stamp: Stamp) -> Result<Response, Fault> {
        let Some(head) = self.directory.head(&query.key, &self.pins)? else {
            return Ok(Response::Refused(Refusal::NotFound { key: query.key.detached() }));
        };
        let last_sequence = match query.client {
            Some(client) => self.directory.last_sequence(&query.key, client, &self.pins)?,
            None => None,
        };
        let last_sequence = last_sequence.map(|newest| newest.sequence);
        Ok(Response::Head(HeadInfo {
            version: head.version,
            hash: head.hash,
            created: head.created,
            updated: head.updated,
            stamp: head.stamp,
            deleted: head.deleted,
            first_available: head.first_available,
            last_sequence,
            read_stamp,
        }))
    }

    /// Finds the batches of a page.
    fn plan(&self, query: &ReadQuery, stamp: Stamp) -> Result<Found, Fault> {
        let refused = |refusal| Ok(Found::Answer(Response::Refused(refusal)));
        let key = || query.key.detached();
        let version = match self.directory.standing(&query.key, &self.pins)? {
            None => return refused(Refusal::NotFound { key: key() }),
            Some(head) if head.deleted => return refused(Refusal::Deleted { key: key() }),
            Some(head) => head.version,
        };
        let first_available = self.directory.first_available(&query.key, &self.pins)?;
        let is_gone = |version: Version| Version::NONE < version && version < first_available;
        // From the first means from the first that there is.
        if (query.from > Version::new(1) && is_gone(query.from)) || query.to.is_some_and(is_gone) {
            return refused(Refusal::Trimmed { key: key(), first_available });
        }
        let first = query.from.max(first_available);
        let last = query.to.unwrap_or(version).min(version);
        let (key, back) = (&query.key, query.backwards);
        let batches = match first <= last {
            true => self.directory.locate(key, first, last, back, PAGE_BATCHES_MAX, &self.pins)?,
            false => Vec::new(),
        };
        Ok(Found::Plan(Plan { version, stamp, range: (first, last), batches }))
    }

    fn start_page(&mut self, route: R, query: ReadQuery, plan: Plan, effects: &mut Vec<Effect<R>>) {
        let Plan { version, stamp, range, batches: plan } = plan;
        let page = Page { version, stamp, batches: Vec::new(), next: None };
        let number = self.reads.next;
        self.reads.next += 1;
        let building = PageInProgress {
            route,
            query,
            page,
            plan,
            at: 0,
            bytes: 0,
            scanned: 0,
            events: 0,
            range,
        };
        self.reads.pages.insert(number, building);
        self.continue_page(number, None, effects);
    }

    /// Adds batches while their frames are at hand. `loaded` is at hand even if the cache let it
    /// go.
    fn continue_page(
        &mut self,
        number: u64,
        loaded: Option<(FramePlace, Bytes)>,
        effects: &mut Vec<Effect<R>>,
    ) {
        let Some(mut building) = self.reads.pages.remove(&number) else { return };
        while let Some(batch) = building.wanted() {
            let (_, _, place) = batch;
            let frame_place = (place.segment, place.frame_offset);
            let found = match &loaded {
                Some((at, bytes)) if *at == frame_place => Some(bytes.clone()),
                _ => self.cache.get(place.segment, place.frame_offset),
            };
            let Some(frame) = found else {
                self.load_ahead(number, &building, effects);
                self.reads.pages.insert(number, building);
                return;
            };
            if !building.take(&frame, &self.identity, batch) {
                self.reads.pages.insert(number, building);
                self.cache.forget(place.segment, place.frame_offset);
                return self.fail_page(number, frame_place, effects);
            }
        }
        let any = building.query.any;
        let (route, page) = building.finish();
        effects.push(read_effect(any, route, Response::Page(page)));
    }

    /// An answer that needs a lease waits for one. Given back, with what it is answered instead,
    /// when nothing will come of that: the shard has just told everybody else that it leads no
    /// more.
    pub fn hold_unproven(
        &mut self,
        now: Micros,
        route: R,
        response: Response,
    ) -> Option<(R, Response)> {
        if self.is_closing {
            return Some((route, Response::Refused(self.refusal())));
        }
        self.unproven.push((now + PROOF_WAIT_MAX, route, response));
        None
    }

    /// No answer waits for a lease.
    pub fn is_proven(&self) -> bool {
        self.unproven.is_empty()
    }

    /// There may be a lease again.
    pub(super) fn resume_unproven(&mut self, effects: &mut Vec<Effect<R>>) {
        let waiting = std::mem::take(&mut self.unproven).into_iter();
        effects.extend(waiting.map(|(_, route, response)| Effect::Read(route, response)));
    }

    /// Whoever has waited long enough for a proof is answered without one.
    pub(super) fn refuse_unproven(&mut self, now: Micros, effects: &mut Vec<Effect<R>>) {
        for (until, route, response) in std::mem::take(&mut self.unproven) {
            if now < until {
                self.unproven.push((until, route, response));
            } else {
                effects.push(Effect::Reply(route, Response::Refused(Refusal::NoLeader)));
            }
        }
    }

    /// Starts reading the frame that the page needs next, and a few after it.
    fn load_ahead(
        &mut self,
        number: u64,
        building: &PageInProgress<R>,
        effects: &mut Vec<Effect<R>>,
    ) {
        for (ahead, (_, _, place)) in
            building.plan[building.at..].iter().take(READ_AHEAD).enumerate()
        {
            let frame_place = (place.segment, place.frame_offset);
            if let Some(waiters) = self.reads.loads.get_mut(&frame_place) {
                if ahead == 0 {
                    waiters.push(number);
                }
                continue;
            }
            if ahead > 0 && self.cache.get(place.segment, place.frame_offset).is_some() {
                continue;
            }
            let offset = u64::from(place.frame_offset) * SECTOR_BYTES as u64;
            let fetch = self.log.fetch(place.segment, offset, place.frame_bytes);
            let Some((fetch, op)) = fetch else {
                unreachable!("segment {} is in the directory, so it is open", place.segment);
            };
            let token = self.reads.next_token();
            let waiters = if ahead == 0 { vec![number] } else { Vec::new() };
            self.reads.loads.insert(frame_place, waiters);
            self.reads.tokens.insert(token, (*place, fetch));
            effects.push(Effect::Disk(token, op));
        }
    }

    fn fail_page(&mut self, number: u64, place: FramePlace, effects: &mut Vec<Effect<R>>) {
        let Some(building) = self.reads.pages.remove(&number) else { return };
        let id = u64::from(place.0) << 32 | u64::from(place.1);
        let key = &building.query.key;
        tracing::error!(%key, id, "a read failed: the frame in the log is damaged");
        let refusal = Refusal::Internal { id };
        effects.push(Effect::Reply(building.route, Response::Refused(refusal)));
    }
}

impl<R> PageInProgress<R> {
    /// The batch to add next; `None` when the page is full or there is nothing more.
    fn wanted(&self) -> Option<(Version, Version, BatchLocation)> {
        let limited = self.query.limit.is_some_and(|limit| self.events >= limit);
        let full = self.bytes >= PAGE_BYTES_TARGET || self.scanned >= PAGE_SCAN_BYTES_MAX;
        if limited || full {
            return None;
        }
        self.plan.get(self.at).copied()
    }

    /// Adds the matching events of one batch; `false` if the frame does not hold what it should: a
    /// device may have put another one there, which is whole.
    fn take(
        &mut self,
        bytes: &Bytes,
        identity: &Identity,
        (first, last, place): (Version, Version, BatchLocation),
    ) -> bool {
        let Ok((header, key, events)) = frame::read_batch(bytes, identity, &place) else {
            return false;
        };
        let versions = (header.first_version, header.last_version);
        if key != self.query.key || versions != (first, last) {
            return false;
        }
        self.at += 1;
        let body_bytes = |events: &[ReadEvent]| events.iter().map(|e| e.body.len()).sum::<usize>();
        self.scanned += body_bytes(&events) + SCAN_BATCH_BYTES;
        if !self.wants_batch(&header) {
            return true;
        }
        let mut batch = ReadBatch { header, events };
        batch.events.retain(|event| self.wants_event(event));
        if batch.events.is_empty() {
            return true;
        }
        let wanted = body_bytes(&batch.events);
        if wanted * PINNED_SHARE < bytes.len() {
            for event in &mut batch.events {
                event.body = Bytes::copy_from_slice(&event.body);
            }
        }
        self.scanned = 0;
        self.bytes += wanted + batch.events.len() * EVENT_OVERHEAD_BYTES;
        self.events += batch.events.len() as u64;
        self.page.batches.push(batch);
        true
    }

    fn wants_batch(&self, header: &BatchHeader) -> bool {
        let query = &self.query;
        query.client.is_none_or(|client| client == header.client_id)
            && query.since.is_none_or(|since| header.server_time >= since)
            && query.until.is_none_or(|until| header.server_time < until)
    }

    fn wants_event(&self, event: &ReadEvent) -> bool {
        let (first, last) = self.range;
        if event.version < first || event.version > last {
            return false;
        }
        let types = &self.query.types;
        types.is_empty()
            || EventBody::new(&event.body)
                .is_ok_and(|body| types.iter().any(|kind| kind == body.event_type().as_bytes()))
    }

    /// The page, with the place to go on if the plan or the range is not used up.
    fn finish(mut self) -> (R, Page) {
        let (first, last) = self.range;
        let done = self.at.checked_sub(1).and_then(|at| self.plan.get(at));
        self.page.next = match done {
            None => None,
            Some((batch_first, _, _)) if self.query.backwards => {
                (*batch_first > first).then(|| Version::new(batch_first.value() - 1))
            }
            Some((_, batch_last, _)) => (*batch_last < last).then(|| batch_last.next()),
        };
        (self.route, self.page)
    }
}

/// A committed read is answered at once, a linearizable one only by who leads for certain (R5).
fn read_effect<R>(any: bool, route: R, response: Response) -> Effect<R> {
    if any { Effect::Reply(route, response) } else { Effect::Read(route, response) }
}

/// Which aggregate a read is about.
pub(crate) fn key_of(request: &Request) -> Option<&AggregateKey> {
    match request {
        Request::Read(query) => Some(&query.key),
        Request::Head(query) => Some(&query.key),
        _ => None,
    }
}
