//! The decisions of a watch: a state machine without I/O, clock or randomness.
//!
//! A poll is answered from the ring when it starts there, else from the shards. When there is
//! nothing for it, it waits, and is answered with a bare checkpoint when its time is over: so a
//! reader of a rare thing gets on, and whoever is gone is forgotten.
//!
//! ```text
//! taken ──► due ──┬─► answered                     as fast as the thread allows: [`Share`]
//!            ▲    ├─► waiting: all up to the head is for others
//!            │    └─► catching up, queued, stalled: reads the log
//!            └── something happens that concerns it ──┘
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use celeriant_schema::limits::PAGE_BYTES_TARGET;
use celeriant_schema::{
    AggregateKey, FeedBatch, FeedPage, FeedQuery, Refusal, Request, Selector, ShardId, Stamp,
};

use super::ring::{Entry, Ring, last_stamp, page_bytes};
use super::share::Share;
use super::topics::Topics;
use crate::clock::Micros;
use crate::shard::feed::narrow;
use crate::work::{FeedAsk, FeedNews, FeedPart, Step, Task};

/// Polls that may wait; more are refused.
const WAITING_MAX: usize = 50_000;
/// Polls that read the log at a time; the others take turns.
const CATCHING_UP_MAX: usize = 8;
/// What was read of the log is told as a whole up to this: what is cut off is read again.
const JOINED_BYTES_MAX: usize = 2 * PAGE_BYTES_TARGET;
/// Least log that a shard looks at for one page, in bytes.
const LOOK_BYTES_MIN: usize = 64 << 10;
/// After so many ticks without anybody, the shards are told to be silent.
const IDLE_TICKS: u32 = 30;
/// Whoever wants to begin at what comes next waits for that at least, in µs: a shard says at once
/// where that is, unless it is busy or has just been started.
const BEGINNING_MIN: Micros = 1_000_000;
/// When the thread has no time, the next look at it is so much later, in µs.
const REST: Micros = 1_000;
/// When a watch is full, or does not know yet where to begin.
const OVERLOAD_RETRY_MS: u32 = 1_000;

/// What the shell must do.
#[derive(Debug)]
pub enum Effect<R> {
    /// Tell a shard.
    Step(ShardId, Step),
    /// Answer a client.
    Reply(R, FeedPage),
    /// Refuse a client.
    Refuse(R, Refusal),
}

/// A page that somebody wants.
#[derive(Debug)]
pub(super) struct Poll<R> {
    pub(super) route: R,
    pub(super) query: FeedQuery,
    /// Shared with the shards that are asked.
    types: Arc<[Bytes]>,
    /// Answered then, whatever there is.
    until: Micros,
}

impl<R> Poll<R> {
    fn reply(self, mut page: FeedPage) -> Effect<R> {
        if self.query.headers_only {
            page.drop_payloads();
        }
        Effect::Reply(self.route, page)
    }
}

/// A poll that reads the log.
#[derive(Debug)]
struct CatchingUp<R> {
    poll: Poll<R>,
    parts: Vec<FeedPart>,
    missing: usize,
}

/// One watch.
#[derive(Debug)]
pub struct Core<R> {
    index: usize,
    shards: u16,
    ring: Ring,
    /// Shards that were told to tell, or would be told again.
    is_on: bool,
    idle_ticks: u32,
    /// For which stamp each shard was asked how far it is: once is enough, since one that cannot
    /// tell more then tells it by itself when it can.
    nudged: Vec<Stamp>,
    /// Want to begin at what comes next, before anybody knows where that is.
    beginning: Vec<Poll<R>>,
    /// There may be something for them.
    due: VecDeque<Poll<R>>,
    /// What is watched, and who waits for it: all in the ring is for others.
    topics: Topics<R>,
    share: Share,
    next_ask: u64,
    catching_up: BTreeMap<u64, CatchingUp<R>>,
    /// Wait for their turn to read the log.
    queued: VecDeque<Poll<R>>,
    /// Have read the log to its end, which is before the ring begins.
    stalled: Vec<Poll<R>>,
    /// Nobody may wait any more.
    is_released: bool,
}

impl<R> Poll<R> {
    fn after(&self) -> Stamp {
        self.query.after.unwrap_or_default()
    }

    /// Nothing up to `stamp` is for it.
    fn not_before(mut self, stamp: Stamp) -> Self {
        self.query.after = Some(self.after().max(stamp));
        self
    }
}

impl<R> Core<R> {
    /// Number `index` of a node with so many shards.
    pub fn new(index: usize, shards: u16) -> Self {
        Self {
            index,
            shards,
            ring: Ring::new(shards),
            is_on: false,
            idle_ticks: 0,
            nudged: vec![Stamp::ZERO; shards.into()],
            beginning: Vec::new(),
            due: VecDeque::new(),
            topics: Topics::default(),
            share: Share::default(),
            next_ask: 0,
            catching_up: BTreeMap::new(),
            queued: VecDeque::new(),
            stalled: Vec::new(),
            is_released: false,
        }
    }

    /// Somebody wants a page.
    pub fn take(&mut self, now: Micros, task: Task<R>, effects: &mut Vec<Effect<R>>) {
        let Request::Feed(query) = task.request else {
            unreachable!("only pages of feeds are asked of a watch");
        };
        let wait = Micros::from(if self.is_released { 0 } else { query.wait_ms }) * 1_000;
        let until = task.deadline.map_or(now + wait, |deadline| deadline.min(now + wait));
        let types = query.types.iter().cloned().collect();
        let poll = Poll { route: task.route, query, types, until };
        if self.held() >= WAITING_MAX {
            let what = "watchers of this thread".into();
            let refusal = Refusal::Overloaded { what, retry_after_ms: OVERLOAD_RETRY_MS };
            return effects.push(Effect::Refuse(poll.route, refusal));
        }
        self.switch_on(effects);
        match poll.query.after {
            None if self.ring.is_live() => self.answer_head(poll, effects),
            None if self.is_released => effects.push(unready(poll)),
            None => self.beginning.push(Poll { until: until.max(now + BEGINNING_MIN), ..poll }),
            Some(_) => self.due.push_back(poll),
        }
    }

    /// Polls that are not answered.
    fn held(&self) -> usize {
        let at_rest = self.beginning.len() + self.topics.waiting() + self.stalled.len();
        at_rest + self.due.len() + self.queued.len() + self.catching_up.len()
    }

    fn switch_on(&mut self, effects: &mut Vec<Effect<R>>) {
        self.idle_ticks = 0;
        if !self.is_on {
            self.is_on = true;
            self.tell_all(effects, |watch| Step::Listen { watch });
        }
    }

    fn tell_all(&self, effects: &mut Vec<Effect<R>>, step: impl Fn(usize) -> Step) {
        let all = (0..self.shards).map(ShardId::new);
        effects.extend(all.map(|shard| Effect::Step(shard, step(self.index))));
    }

    fn answer_head(&mut self, poll: Poll<R>, effects: &mut Vec<Effect<R>>) {
        // Whoever asks for that comes back for what follows.
        self.topics.begin(&poll.query.selector, self.ring.latest());
        let head = self.ring.complete();
        let page = FeedPage { batches: Vec::new(), upto: head, head };
        effects.push(poll.reply(page));
    }

    fn deliver(&mut self, poll: Poll<R>, page: FeedPage, effects: &mut Vec<Effect<R>>) {
        self.share.spend(&page);
        effects.push(poll.reply(page));
    }

    /// Answers now or later.
    fn serve(&mut self, now: Micros, mut poll: Poll<R>, effects: &mut Vec<Effect<R>>) {
        let (floor, head) = self.ring.range();
        if !self.ring.is_live() || poll.after() < floor {
            return self.catch_up(poll, effects);
        }
        let topic = match poll.query.wait_ms {
            0 => self.topics.find(&poll.query.selector),
            _ => self.topics.begin(&poll.query.selector, self.ring.latest()),
        };
        let Some((topic, listed)) =
            topic.and_then(|topic| Some((topic, self.topics.entries(topic, poll.after())?)))
        else {
            return self.catch_up(poll, effects);
        };
        let page = page_of(&poll, self.ring.listed_behind(listed, poll.after()), head);
        if page.batches.is_empty() && poll.query.wait_ms == 0 && !self.is_released {
            // At rest nobody tells how far he has come: an end that a page from the log has named
            // may be beyond what was told, and who goes on to there would ask for ever.
            return self.catch_up(poll, effects);
        }
        if !page.batches.is_empty() || self.is_over(now, &poll) {
            return self.deliver(poll, page, effects);
        }
        poll.query.after = Some(poll.after().max(head));
        self.topics.add(topic, poll);
    }

    fn is_over(&self, now: Micros, poll: &Poll<R>) -> bool {
        self.is_released || poll.until <= now
    }

    fn catch_up(&mut self, poll: Poll<R>, effects: &mut Vec<Effect<R>>) {
        if self.catching_up.len() >= CATCHING_UP_MAX {
            return self.queued.push_back(poll);
        }
        let after = poll.after();
        self.next_ask += 1;
        let number = self.next_ask;
        let asked = asked(&poll.query.selector, self.shards);
        let bytes = (PAGE_BYTES_TARGET / asked.len()).max(LOOK_BYTES_MIN);
        for shard in &asked {
            let ask = FeedAsk {
                number,
                watch: self.index,
                selector: poll.query.selector.clone(),
                types: Arc::clone(&poll.types),
                after,
                bytes,
            };
            effects.push(Effect::Step(*shard, Step::Feed { ask, look: None }));
        }
        let (missing, parts) = (asked.len(), Vec::new());
        self.catching_up.insert(number, CatchingUp { poll, parts, missing });
    }

    /// A shard tells something. Whom it concerns is answered by [`Core::settle`].
    pub fn hear(
        &mut self,
        now: Micros,
        shard: ShardId,
        news: FeedNews,
        effects: &mut Vec<Effect<R>>,
    ) {
        let at = usize::from(shard.value());
        match news {
            FeedNews::Listening { upto } if self.is_on => {
                if self.ring.listening(at, upto) {
                    for poll in std::mem::take(&mut self.beginning) {
                        self.answer_head(poll, effects);
                    }
                    self.due.extend(self.stalled.drain(..));
                }
            }
            FeedNews::Told { batches, upto } if self.is_on => {
                let is_watched = |key: &AggregateKey| self.topics.is_watched(key);
                self.ring.told(at, &batches, upto, is_watched);
            }
            FeedNews::Lost if self.is_on => {
                self.nudged[at] = Stamp::ZERO;
                self.ring.lost(at);
                effects.push(Effect::Step(shard, Step::Listen { watch: self.index }));
                // What they wait for may be in none of the news.
                let head = self.ring.range().1;
                let waiting = self.topics.take_if(|_| true);
                self.due.extend(waiting.into_iter().map(|poll| poll.not_before(head)));
            }
            FeedNews::Part { number, part } => self.part(now, number, part, effects),
            // Said before it heard that nobody listens any more.
            FeedNews::Listening { .. } | FeedNews::Told { .. } | FeedNews::Lost => {}
        }
    }

    /// Everything that arrived together was heard: answers whom it concerns, as far as the thread,
    /// which has worked for `busy` µs since it began, has time for it.
    pub fn settle(&mut self, now: Micros, busy: Micros, effects: &mut Vec<Effect<R>>) {
        self.merge(effects);
        self.share.look(now, busy);
        while (self.share.is_left() || self.is_released)
            && let Some(poll) = self.due.pop_front()
        {
            self.serve(now, poll, effects);
        }
    }

    /// When it is to look again whether the thread has time, if anything is left to deliver.
    pub fn next_look(&self, now: Micros) -> Option<Micros> {
        (!self.due.is_empty()).then_some(now + REST)
    }

    /// What is complete enters the ring; whom it concerns is due.
    fn merge(&mut self, effects: &mut Vec<Effect<R>>) {
        let before = self.ring.range().1;
        let added = self.ring.merge();
        let mut concerned = Vec::new();
        for (number, entry) in self.ring.newest(added) {
            self.topics.told(number, &entry.batch().key, &mut concerned);
        }
        // Of what was there before, nothing was for those who waited.
        self.due.extend(concerned.into_iter().map(|poll| poll.not_before(before)));
        self.ring.trim();
        if self.topics.is_full() {
            self.topics.look(self.ring.first(), self.ring.latest(), false);
        }
        if self.ring.range().1 > before {
            self.due.extend(self.stalled.drain(..));
        }
        let Some(next) = self.ring.next() else { return };
        for at in self.ring.behind_stamp(next) {
            if self.nudged[at] < next {
                self.nudged[at] = next;
                effects.push(Effect::Step(ShardId::new(at as u16), Step::Nudge));
            }
        }
    }

    fn part(&mut self, now: Micros, number: u64, part: FeedPart, effects: &mut Vec<Effect<R>>) {
        let Some(catching_up) = self.catching_up.get_mut(&number) else { return };
        catching_up.parts.push(part);
        catching_up.missing -= 1;
        if catching_up.missing > 0 {
            return;
        }
        let Some(done) = self.catching_up.remove(&number) else { return };
        let CatchingUp { mut poll, parts, .. } = done;
        let after = poll.after();
        let page = joined(parts, after);
        if !page.batches.is_empty() || self.is_over(now, &poll) {
            self.deliver(poll, page, effects);
        } else if page.upto > after {
            // Goes on behind what concerns nobody, without troubling the client.
            poll.query.after = Some(page.upto);
            self.serve(now, poll, effects);
        } else {
            self.stalled.push(poll);
        }
        // One that is served from the ring leaves its turn to the next.
        while self.catching_up.len() < CATCHING_UP_MAX
            && let Some(poll) = self.queued.pop_front()
        {
            self.serve(now, poll, effects);
        }
    }

    /// Time has passed: answers those who have waited long enough.
    pub fn tick(&mut self, now: Micros, effects: &mut Vec<Effect<R>>) {
        let head = self.ring.range().1;
        for poll in self.topics.take_if(|poll| poll.until <= now) {
            let upto = poll.after().max(head);
            let page = FeedPage { batches: Vec::new(), upto, head };
            effects.push(poll.reply(page));
        }
        self.topics.look(self.ring.first(), self.ring.latest(), true);
        self.due.extend(self.stalled.drain(..));
        let late = self.beginning.extract_if(.., |poll| poll.until <= now);
        effects.extend(late.map(unready));
        if !self.is_on || self.held() > 0 {
            self.idle_ticks = 0;
            return;
        }
        self.idle_ticks += 1;
        if self.idle_ticks >= IDLE_TICKS {
            self.is_on = false;
            self.ring = Ring::new(self.shards);
            self.topics = Topics::default();
            self.nudged.fill(Stamp::ZERO);
            self.tell_all(effects, |watch| Step::Unlisten { watch });
        }
    }

    /// Answers all who wait, and from now on at once.
    pub fn release(&mut self, effects: &mut Vec<Effect<R>>) {
        self.is_released = true;
        let head = self.ring.range().1;
        for poll in self.topics.take_if(|_| true).into_iter().chain(self.stalled.drain(..)) {
            let upto = poll.after();
            let page = FeedPage { batches: Vec::new(), upto, head: head.max(upto) };
            effects.push(poll.reply(page));
        }
        effects.extend(self.beginning.drain(..).map(unready));
    }
}

/// Nobody knows yet where "from now on" begins.
fn unready<R>(poll: Poll<R>) -> Effect<R> {
    let what = "a shard that has not said how far it is".into();
    Effect::Refuse(poll.route, Refusal::Overloaded { what, retry_after_ms: OVERLOAD_RETRY_MS })
}

/// What these entries of the ring, which ends at `head`, have for a poll, as much as a page takes.
fn page_of<'a, R>(
    poll: &Poll<R>,
    entries: impl Iterator<Item = &'a Entry>,
    head: Stamp,
) -> FeedPage {
    let after = poll.after();
    let (mut batches, mut bytes, mut last): (Vec<FeedBatch>, _, _) = (Vec::new(), 0, after);
    for entry in entries {
        let narrowed = narrow(entry.batch().clone(), &poll.query.selector, &poll.types, after);
        let Some(batch) = narrowed else { continue };
        bytes += page_bytes(&batch);
        if bytes > PAGE_BYTES_TARGET && !batches.is_empty() {
            return FeedPage { batches, upto: last, head };
        }
        last = entry.last();
        batches.push(batch);
    }
    FeedPage { batches, upto: head.max(after), head }
}

/// What all shards have up to where the first of them ends, as much as a page may hold.
fn joined(parts: Vec<FeedPart>, after: Stamp) -> FeedPage {
    let upto = parts.iter().map(|part| part.upto).min().unwrap_or(after).max(after);
    let head = parts.iter().map(|part| part.head).min().unwrap_or(after);
    let mut batches: Vec<FeedBatch> = parts.into_iter().flat_map(|part| part.batches).collect();
    batches.retain(|batch| last_stamp(batch) <= upto);
    batches.sort_by_key(|batch| batch.batch.header.stamp);
    let mut page = FeedPage { batches, upto, head: head.max(upto) };
    let mut bytes = 0;
    let is_beyond = |(at, batch): (usize, &FeedBatch)| {
        bytes += page_bytes(batch);
        bytes > JOINED_BYTES_MAX && at > 0
    };
    let beyond = page.batches.iter().enumerate().position(is_beyond);
    if let Some(beyond) = beyond {
        page.batches.truncate(beyond);
        page.upto = page.batches.last().map_or(after, last_stamp);
    }
    page
}

/// The shards that may have something of it.
fn asked(selector: &Selector, shards: u16) -> Vec<ShardId> {
    match selector {
        Selector::Aggregate(key) => vec![key.shard(shards)],
        Selector::Several(parts) => {
            let each = parts.iter().flat_map(|part| asked(part, shards));
            each.collect::<BTreeSet<_>>().into_iter().collect()
        }
        Selector::All | Selector::Org(_) | Selector::Type { .. } => {
            (0..shards).map(ShardId::new).collect()
        }
    }
}

#[cfg(test)]
#[path = "core/core_test.rs"]
mod tests;
