//! Feeds, as one shard serves them to the watches of its node (semantics.md §6).
//!
//! ```text
//! live:      committed frames ─► held ──closed stamp──► decoded once ─► every watch that listens
//! catching up:      ask ─► log, behind a stamp ─► frames ─► decoded, filtered ─► that watch
//!                           └ where there is nothing for it: `skip`
//! ```
//! Both give batches in the order of their stamps and say up to which stamp they are complete.
//! Neither passes the closed stamp: behind it lies what may yet become visible in the past of a
//! cursor (F3). Which legs count is what the directory says.
//!
//! Live is cheap and gives up easily: too much held back, a page that is not in memory, another
//! core in this one's place, and the watches are told that they have lost the thread. They catch up
//! and listen again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use celeriant_schema::event::EventBody;
use celeriant_schema::record::{FrameBatch, decode_batches};
use celeriant_schema::{AggregateKey, FeedBatch, Lsn, Notice, ReadBatch, Selector, Stamp, Version};
use celeriant_storage::directory::Fault;
use celeriant_storage::frame::FrameHeader;
use celeriant_storage::log::{self, DurableFrame};

use super::core::{Core, Effect};
use super::search::Purpose;
use super::skip::Next;
use crate::work::{FeedAsk, FeedLook, FeedNews, FeedPart, Step, Work};

/// Frames that wait for a decision, in bytes: more, and live gives up.
const HELD_BYTES_MAX: usize = 32 << 20;
/// What is read at a time when a watch begins to listen, in bytes.
const LISTEN_BYTES: usize = 1 << 20;

/// What a shard keeps for the watches of its node.
#[derive(Debug, Default)]
pub(super) struct Feed {
    /// Watches that are told everything.
    listeners: Vec<usize>,
    /// Watches that will be, once what is committed and not closed has been read.
    joining: Vec<usize>,
    /// Committed frames, in log order, that were not told.
    held: VecDeque<Held>,
    /// Those before them, while they are being read for who begins to listen.
    read: VecDeque<Held>,
    /// What an earlier turn still reads is for nobody.
    turn: u64,
    held_bytes: usize,
    /// Everything up to here was told.
    told: Stamp,
    /// Something was committed since, or somebody asks.
    is_news: bool,
    /// They wait for the disk.
    asks: BTreeMap<u64, Asked>,
}

/// An ask that waits for the disk.
#[derive(Debug)]
struct Asked {
    ask: FeedAsk,
    /// The closed stamp when it began: behind it may be more by now than was looked for.
    closed: Stamp,
    /// See [`FeedLook`].
    is_second: bool,
}

#[derive(Debug)]
struct Held {
    first_lsn: Lsn,
    first_stamp: Stamp,
    last_stamp: Stamp,
    bytes: Bytes,
}

/// How far the batches of a frame were told.
enum Told {
    /// All of them.
    Whole,
    /// Up to here: what lies behind is not decided, or may not be passed yet.
    Upto(Stamp),
    /// It is no frame.
    Nothing,
}

impl Feed {
    fn is_on(&self) -> bool {
        !self.listeners.is_empty() || !self.joining.is_empty()
    }

    /// Nobody listens.
    fn forget(&mut self) {
        self.held.clear();
        self.read.clear();
        self.turn += 1;
        self.held_bytes = 0;
    }
}

impl Held {
    fn of(bytes: Bytes) -> Option<Self> {
        let header = FrameHeader::decode(&bytes).ok()?;
        let FrameHeader { first_lsn, first_stamp, last_stamp, .. } = header;
        Some(Self { first_lsn, first_stamp, last_stamp, bytes })
    }
}

impl<R> Core<R> {
    /// A frame is committed and shown.
    pub(super) fn feed(&mut self, frame: &DurableFrame) {
        let feed = &mut self.feed;
        if !feed.is_on() {
            return;
        }
        feed.is_news = true;
        feed.held_bytes += frame.bytes.len();
        feed.held.extend(Held::of(frame.bytes.clone()));
    }

    /// A watch wants to be told everything from now on.
    pub(super) fn listen(&mut self, watch: usize, effects: &mut Vec<Effect<R>>) {
        if self.feed.joining.contains(&watch) {
            return;
        }
        self.feed.listeners.retain(|listener| *listener != watch);
        let is_first = !self.feed.is_on();
        self.feed.joining.push(watch);
        if is_first {
            // Of a write that waits for its decision, the frame is committed already.
            self.read_for_listeners(self.closed_stamp(), effects);
        } else if self.feed.joining.len() == 1 {
            self.join_listeners(effects);
        }
    }

    /// A watch needs no more.
    pub(super) fn unlisten(&mut self, watch: usize) {
        let feed = &mut self.feed;
        feed.listeners.retain(|listener| *listener != watch);
        feed.joining.retain(|listener| *listener != watch);
        if !feed.is_on() {
            feed.forget();
        }
    }

    /// A watch cannot go on before it knows more: it is told the closed stamp.
    pub(super) fn nudged(&mut self) {
        self.feed.is_news = true;
    }

    fn read_for_listeners(&mut self, behind: Stamp, effects: &mut Vec<Effect<R>>) {
        let step = self.log.read_behind(behind, self.committed, LISTEN_BYTES);
        self.found(Purpose::Listen { turn: self.feed.turn }, step, effects);
    }

    /// Takes what was read for those who begin to listen; `None`: there was nothing.
    pub(super) fn listeners_found(
        &mut self,
        turn: u64,
        frames: Option<&Bytes>,
        effects: &mut Vec<Effect<R>>,
    ) {
        if turn != self.feed.turn {
            return;
        }
        // Frames that were committed meanwhile are held already.
        let known = self.feed.held.front().map(|held| held.first_lsn);
        let is_new = |lsn: Lsn| lsn <= self.committed && known.is_none_or(|known| lsn < known);
        let mut last = None;
        for frame in frames.into_iter().flat_map(split) {
            let held = Held::of(frame).filter(|held| is_new(held.first_lsn));
            last = held.as_ref().map(|held| held.last_stamp);
            let Some(held) = held else { break };
            self.feed.held_bytes += held.bytes.len();
            self.feed.read.push_back(held);
        }
        match last {
            Some(_) if self.feed.held_bytes > HELD_BYTES_MAX => self.lose_listeners(effects),
            // Perhaps that was not all.
            Some(last) => self.read_for_listeners(last, effects),
            None => {
                let mut held = std::mem::take(&mut self.feed.read);
                held.append(&mut self.feed.held);
                self.feed.held = held;
                self.join_listeners(effects);
            }
        }
    }

    fn join_listeners(&mut self, effects: &mut Vec<Effect<R>>) {
        self.feed.told = self.tellable();
        let joining = std::mem::take(&mut self.feed.joining);
        let upto = self.feed.told;
        effects
            .extend(joining.iter().map(|watch| Effect::Feed(*watch, FeedNews::Listening { upto })));
        self.feed.listeners.extend(joining);
    }

    /// Up to which stamp nothing is held back.
    fn tellable(&self) -> Stamp {
        let closed = self.closed_stamp();
        let held = self.feed.held.front().filter(|held| held.last_stamp > closed);
        held.map_or(closed, |held| closed.min(below(held.first_stamp)))
    }

    /// Tells those who listen what is new. Called after everything that happens.
    pub(super) fn tell_listeners(&mut self, effects: &mut Vec<Effect<R>>) {
        let feed = &self.feed;
        if feed.listeners.is_empty() || (!feed.is_news && feed.held.is_empty()) {
            return;
        }
        let closed = self.closed_stamp();
        let mut told = Vec::new();
        while let Some(held) = self.feed.held.pop_front_if(|held| held.last_stamp <= closed) {
            self.feed.held_bytes -= held.bytes.len();
            // What is deleted meanwhile, its notice follows: the watches take it out.
            let take = |batch| told.push(batch);
            let span = (Stamp::ZERO, closed);
            match self.batches_of(&held.bytes, span, |_| true, |_| Ok(Version::NONE), take) {
                Ok(Told::Whole) => {}
                _ => return self.lose_listeners(effects),
            }
        }
        if self.feed.held_bytes > HELD_BYTES_MAX {
            return self.lose_listeners(effects);
        }
        let upto = self.tellable();
        let was_asked = std::mem::take(&mut self.feed.is_news);
        if !was_asked && told.is_empty() && upto == self.feed.told {
            return;
        }
        self.feed.told = upto;
        let batches: Arc<[FeedBatch]> = told.into();
        for watch in &self.feed.listeners {
            let batches = Arc::clone(&batches);
            effects.push(Effect::Feed(*watch, FeedNews::Told { batches, upto }));
        }
    }

    /// Those who listen have lost the thread.
    pub(super) fn lose_listeners(&mut self, effects: &mut Vec<Effect<R>>) {
        let feed = &mut self.feed;
        let all = feed.listeners.drain(..).chain(feed.joining.drain(..));
        effects.extend(all.map(|watch| Effect::Feed(watch, FeedNews::Lost)));
        feed.forget();
    }

    /// A watch wants what is behind a stamp.
    pub(super) fn ask_feed(&mut self, ask: FeedAsk, effects: &mut Vec<Effect<R>>) {
        let step = self.log.read_behind(ask.after, self.committed, ask.bytes);
        self.look_for(ask, step, false, effects);
    }

    fn look_for(
        &mut self,
        ask: FeedAsk,
        step: log::Step,
        is_second: bool,
        effects: &mut Vec<Effect<R>>,
    ) {
        let number = self.reads.next_token();
        self.feed.asks.insert(number, Asked { ask, closed: self.closed_stamp(), is_second });
        self.found(Purpose::Feed { ask: number }, step, effects);
    }

    /// Asks that wait for the disk, for the core that comes after this one.
    pub(super) fn take_asks(&mut self) -> Vec<Work<R>> {
        let asks = std::mem::take(&mut self.feed.asks).into_values();
        asks.map(|asked| Work::Step(Step::Feed { ask: asked.ask, look: None })).collect()
    }

    /// Takes what an ask has read, and where that ends; `None`: there was nothing.
    pub(super) fn ask_found(
        &mut self,
        number: u64,
        found: Option<(Bytes, (u32, u32))>,
        effects: &mut Vec<Effect<R>>,
    ) {
        let Some(Asked { ask, closed, is_second }) = self.feed.asks.remove(&number) else { return };
        match found {
            Some((frames, end)) => {
                self.answer_feed(ask, FeedLook { frames, end, is_second }, effects);
            }
            None => {
                let part = FeedPart { batches: Vec::new(), upto: closed, head: closed };
                answer(&ask, part, effects);
            }
        }
    }

    /// Answers with what was read for the ask, or reads on where there is more for it.
    pub(super) fn answer_feed(
        &mut self,
        ask: FeedAsk,
        look: FeedLook,
        effects: &mut Vec<Effect<R>>,
    ) {
        match self.part_and_next(&ask, &look) {
            Ok((_, Next::At(place))) => {
                let step = self.log.read_behind_from(place, ask.after, self.committed, ask.bytes);
                self.look_for(ask, step, true, effects);
            }
            Ok((part, Next::Nothing)) => {
                answer(&ask, FeedPart { upto: part.head, ..part }, effects)
            }
            Ok((part, Next::Unknown)) => answer(&ask, part, effects),
            Err(fault) => {
                let again = Step::Feed { ask, look: Some(look) };
                self.park(Work::Step(again), fault.into(), effects);
            }
        }
    }

    /// What was read has for the ask, and where to go on if that is nothing.
    fn part_and_next(&self, ask: &FeedAsk, look: &FeedLook) -> Result<(FeedPart, Next), Fault> {
        let part = self.part_of(ask, &look.frames)?;
        // Once, so that whoever watches comes in between.
        let may_skip = part.batches.is_empty() && part.upto < part.head && !look.is_second;
        let next = match may_skip {
            true => self.next_for(ask, look.end)?,
            false => Next::Unknown,
        };
        Ok((part, next))
    }

    fn part_of(&self, ask: &FeedAsk, frames: &Bytes) -> Result<FeedPart, Fault> {
        let closed = self.closed_stamp();
        let mut part = FeedPart { batches: Vec::new(), upto: closed, head: closed };
        let mut end = Lsn::ZERO;
        let mut last = Stamp::ZERO;
        for frame in split(frames) {
            let Ok(header) = FrameHeader::decode(&frame) else { break };
            if header.last_lsn() > self.committed {
                return Ok(part);
            }
            (end, last) = (header.last_lsn(), header.last_stamp);
            let wanted = |key: &[u8]| ask.selector.matches_bytes(key);
            let first = |key: &AggregateKey| self.directory.first_available(key, &self.pins);
            let take = |batch| part.batches.extend(ask.narrow(batch));
            match self.batches_of(&frame, (ask.after, closed), wanted, first, take)? {
                Told::Whole => {}
                Told::Upto(stamp) => {
                    part.upto = stamp;
                    return Ok(part);
                }
                Told::Nothing => unreachable!("frames are checked when they are read"),
            }
        }
        if end < self.committed {
            part.upto = closed.min(last);
        }
        Ok(part)
    }

    /// Hands `take` the batches of a committed frame that count, of keys that are `wanted`, behind
    /// one stamp and up to another, without what was deleted or trimmed: below the version that
    /// `first` says.
    fn batches_of(
        &self,
        frame: &Bytes,
        (after, closed): (Stamp, Stamp),
        wanted: impl Fn(&[u8]) -> bool,
        first: impl Fn(&AggregateKey) -> Result<Version, Fault>,
        mut take: impl FnMut(FeedBatch),
    ) -> Result<Told, Fault> {
        let Ok(header) = FrameHeader::decode(frame) else { return Ok(Told::Nothing) };
        let (meta, blobs) = (header.meta(frame), header.blobs(frame));
        for batch in decode_batches(&meta, header.count, wanted) {
            let Ok(batch) = batch else { return Ok(Told::Nothing) };
            if batch.view.last_stamp > closed {
                return Ok(Told::Upto(closed.min(below(batch.view.stamp))));
            }
            if batch.view.last_stamp <= after {
                continue;
            }
            let counts = match batch.is_leg {
                true => self.directory.outcome(batch.header.write_id, &self.pins)?,
                false => Some(true),
            };
            match counts {
                Some(true) => {}
                Some(false) => continue,
                None => return Ok(Told::Upto(below(batch.view.stamp))),
            }
            let Ok(mut events) = batch.view.read_events(&blobs) else { return Ok(Told::Nothing) };
            let FrameBatch { header, view, .. } = batch;
            let first = first(&view.key)?;
            if first > Version::new(1) {
                events.retain(|event| event.version >= first);
            }
            if events.is_empty() && view.retention.is_none() {
                continue;
            }
            let batch = ReadBatch { header, events };
            let notice = view.retention.map(|what| Notice { what, hash: view.hash });
            take(FeedBatch { key: view.key, batch, notice });
        }
        Ok(Told::Whole)
    }
}

impl FeedAsk {
    /// What of a batch is wanted; `None`: nothing.
    fn narrow(&self, batch: FeedBatch) -> Option<FeedBatch> {
        narrow(batch, &self.selector, &self.types, self.after)
    }
}

/// What of a batch somebody wants; `None`: nothing.
pub(crate) fn narrow(
    mut batch: FeedBatch,
    selector: &Selector,
    types: &[Bytes],
    after: Stamp,
) -> Option<FeedBatch> {
    if !selector.matches(&batch.key) {
        return None;
    }
    if batch.notice.is_some() {
        return (batch.batch.header.stamp > after).then_some(batch);
    }
    let ReadBatch { header, events } = &mut batch.batch;
    let (first, stamp) = (header.first_version.value(), header.stamp.value());
    if stamp <= after.value() {
        // A cursor in the middle of a batch.
        events.retain(|event| stamp + (event.version.value() - first) > after.value());
    }
    if !types.is_empty() {
        let is_wanted = |kind: &[u8]| types.iter().any(|wanted| wanted == kind);
        events.retain(|event| {
            EventBody::new(&event.body).is_ok_and(|body| is_wanted(body.event_type().as_bytes()))
        });
    }
    (!batch.batch.events.is_empty()).then_some(batch)
}

fn answer<R>(ask: &FeedAsk, part: FeedPart, effects: &mut Vec<Effect<R>>) {
    effects.push(Effect::Feed(ask.watch, FeedNews::Part { number: ask.number, part }));
}

/// Whole frames that lie one behind the other.
pub(super) fn split(frames: &Bytes) -> impl Iterator<Item = Bytes> {
    let mut rest = frames.clone();
    std::iter::from_fn(move || {
        let bytes = FrameHeader::decode(&rest).ok()?.frame_bytes();
        (bytes <= rest.len()).then(|| rest.split_to(bytes))
    })
}

/// The greatest stamp before `stamp`.
fn below(stamp: Stamp) -> Stamp {
    Stamp::new(stamp.value().saturating_sub(1))
}
