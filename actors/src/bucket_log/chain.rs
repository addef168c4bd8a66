//! A claimant's reading: the bucket logs that the ruling configuration rests on, in order, the last
//! one fenced (R13; replication.md §3, step 3b).
//!
//! ```text
//!   link 1   0 ─ 1 ─ 2 …                      up to where link 2 begins, for every shard
//!   link 2   0 ─ 1 ─ 2 ─ 3 …                  up to where link 3 begins
//!   last     0 ─ 1 ─ 2 ─ 3 ─ nothing: FENCE   a late round won? take it, go on
//!                    │
//!   GET, 4 ahead ────┴──► parts ── held by the own log? ──► Cut, Frames ──► shard
//!                                                                 Taken ◄── shard
//! ```
//! What an earlier log holds above the base of the next one is void and is not handed out. What the
//! own log holds already is not either; where it goes another way it is cut first, at the end of
//! what both have. At most four slots are in memory: being read, waiting for their turn, or handed
//! out and not taken.
//!
//! It may be begun anew at any time, after a crash too: the own log is then further. Deliberately
//! absent: whether the claim is still won, making what was taken durable, checking records: a log
//! that follows does.

use celeriant_schema::peer::{FramePlace, Position};
use celeriant_schema::{ClusterId, Epoch, Lsn, ShardId};
use celeriant_storage::Flaw;
use celeriant_storage::bucket::{Completion, Request, Token};

use super::create::{Creation, News};
use super::fetch::{Fetches, Seen};
use super::slot::{self, Content, Part, Slot, SlotError};
use super::track::{Arrival, Broken, Step, Track};
use super::{Seal, Settings};
use crate::clock::Micros;
use crate::election::register::Link;
use crate::replicator::core::Frames;

#[cfg(test)]
mod chain_test;

/// What the reader learns.
#[derive(Debug)]
pub enum Event {
    /// Begin; or the deadline is there.
    Tick,
    /// An operation of the bucket ended.
    Bucket(Completion),
    /// Answers [`Effect::Find`].
    Found {
        /// Whose.
        shard: ShardId,
        /// The place that was asked for.
        lsn: Lsn,
        /// `None`: the log is empty there.
        frame: Option<FramePlace>,
    },
    /// A shard has taken the oldest [`Effect::Frames`] that it had not.
    Taken(ShardId),
}

/// What must happen, in order.
#[derive(Debug)]
pub enum Effect {
    /// Start an operation of the bucket, without retries.
    Bucket(Token, Request),
    /// Find the own log's frame that contains a place, or is the last before it. The log as it was
    /// at the start: it changes only behind the last answer.
    Find {
        /// Whose.
        shard: ShardId,
        /// Where.
        lsn: Lsn,
    },
    /// Cut the own log: what follows is not the chain's.
    Cut {
        /// Whose.
        shard: ShardId,
        /// What remains, the end of a frame.
        to: Position,
    },
    /// Append these.
    Frames {
        /// Whose.
        shard: ShardId,
        /// They begin where the shard's log ends by then.
        frames: Frames,
    },
    /// The last log is fenced, and everything that was handed out is taken.
    Done {
        /// For each shard, where the chain ends.
        ends: Vec<Position>,
    },
    /// It cannot be read. Nothing more follows.
    Failed(ChainError),
}

/// Why a chain cannot be read (I15). Every one means that somebody meddled with the bucket or the
/// own disk, or a bug: the claim comes to nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ChainError {
    /// It makes no sense by itself.
    #[error("the chain of bucket logs {0}")]
    Chain(&'static str),
    /// The own log ends below the chain, or is another one there.
    #[error("shard {shard}: the own log does not hold lsn {} where the chain begins", base.lsn)]
    BaseNotHeld {
        /// Which shard's.
        shard: ShardId,
        /// The first link's.
        base: Position,
    },
    /// A later log rests on a slot that is not there.
    #[error("slot {slot} of epoch {epoch} is missing, and later logs rest on it")]
    Missing {
        /// Which log's.
        epoch: Epoch,
        /// Which.
        slot: u64,
    },
    /// A later log rests on a slot that is a fence.
    #[error("epoch {epoch} is fenced at slot {slot}, and later logs rest on more of it")]
    FencedEarly {
        /// Which log.
        epoch: Epoch,
        /// Where.
        slot: u64,
    },
    /// An object that is no slot of this log.
    #[error("slot {slot} of epoch {epoch} {error}")]
    Slot {
        /// Which log's.
        epoch: Epoch,
        /// Which.
        slot: u64,
        /// What it is.
        error: SlotError,
    },
    /// A shard that the cluster does not have.
    #[error("slot {slot} of epoch {epoch} names shard {shard}, which is none of the cluster's")]
    NoSuchShard {
        /// Which log's.
        epoch: Epoch,
        /// Which.
        slot: u64,
        /// It says.
        shard: ShardId,
    },
    /// A slot does not go on where those before it end.
    #[error(
        "slot {slot} of epoch {epoch}, shard {shard}: begins behind lsn {}, not behind {}",
        found.lsn, expected.lsn
    )]
    Gap {
        /// Which log's.
        epoch: Epoch,
        /// Which.
        slot: u64,
        /// Whose.
        shard: ShardId,
        /// Where the chain is.
        expected: Position,
        /// Where the slot begins.
        found: Position,
    },
    /// A slot's frames are not what it says.
    #[error("slot {slot} of epoch {epoch}, shard {shard}: {flaw}")]
    Frames {
        /// Which log's.
        epoch: Epoch,
        /// Which.
        slot: u64,
        /// Whose.
        shard: ShardId,
        /// What is wrong.
        flaw: Flaw,
    },
    /// The next log begins where this one has no frame's end.
    #[error("epoch {epoch}, shard {shard}: no frame ends where the next log begins")]
    BaseMissed {
        /// Which log.
        epoch: Epoch,
        /// Whose.
        shard: ShardId,
    },
}

/// Where a reader begins.
#[derive(Debug)]
pub struct Start {
    /// Whose logs they are.
    pub cluster: ClusterId,
    /// The ruling chain.
    pub links: Vec<Link>,
    /// For each shard, the durable end of the own log.
    pub own: Vec<Position>,
    /// Random and never used before: the fence's.
    pub nonce: u128,
}

/// A chain of bucket logs, as a claimant reads it.
#[derive(Debug)]
pub struct Reader {
    cluster: ClusterId,
    seal: Seal,
    settings: Settings,
    nonce: u128,
    links: Vec<Link>,
    /// Which link is read.
    at: usize,
    tracks: Vec<Track>,
    stage: Stage,
    fetches: Fetches,
    /// The slot whose turn it is, being compared with the own log.
    arrivals: Option<Vec<Arrival>>,
    /// In the place of the first slot that was not there.
    fence: Option<Creation>,
    /// For each slot that was handed out, the shards that have not taken their part.
    untaken: Vec<Vec<ShardId>>,
    tokens: Token,
}

#[derive(Debug, Eq, PartialEq)]
enum Stage {
    Begin,
    /// These shards have not said whether they hold the base.
    Checking(Vec<ShardId>),
    Reading,
    /// The end is known.
    Draining,
    Over,
}

impl Reader {
    /// Nothing happens before the first [`Event::Tick`].
    ///
    /// # Errors
    /// When the chain makes no sense by itself.
    pub fn new(start: Start, seal: Seal, settings: Settings) -> Result<Self, ChainError> {
        let Start { cluster, links, own, nonce } = start;
        check(&links, own.len())?;
        let shards = (0..).map(ShardId::new).zip(links[0].base.iter().zip(own));
        let tracks = shards.map(|(shard, (base, own))| Track::new(shard, *base, own)).collect();
        let fetches = Fetches::new(cluster, links[0].epoch);
        Ok(Self {
            cluster,
            seal,
            settings,
            nonce,
            links,
            at: 0,
            tracks,
            stage: Stage::Begin,
            fetches,
            arrivals: None,
            fence: None,
            untaken: Vec::new(),
            tokens: 0,
        })
    }

    /// Takes one event and says what must happen.
    pub fn handle(&mut self, now: Micros, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Tick => {}
            Event::Bucket(completion) => self.complete(now, completion),
            Event::Found { shard, lsn, frame } => {
                if let Err(error) = self.found(shard, lsn, frame) {
                    return self.fail(error, effects);
                }
            }
            Event::Taken(shard) => self.taken(shard),
        }
        if let Err(error) = self.advance(effects) {
            return self.fail(error, effects);
        }
        self.send_what_is_due(now, effects);
    }

    /// When [`Event::Tick`] has something to do though nothing happens.
    pub fn next_deadline(&self) -> Option<Micros> {
        if self.stage != Stage::Reading {
            return None;
        }
        let fence = self.fence.as_ref().and_then(Creation::due);
        fence.into_iter().chain(self.fetches.next_deadline()).min()
    }

    fn fail(&mut self, error: ChainError, effects: &mut Vec<Effect>) {
        self.stage = Stage::Over;
        effects.push(Effect::Failed(error));
    }

    /// As far as it goes without waiting.
    fn advance(&mut self, effects: &mut Vec<Effect>) -> Result<(), ChainError> {
        if self.stage == Stage::Begin {
            self.begin(effects)?;
        }
        if matches!(&self.stage, Stage::Checking(open) if open.is_empty()) {
            self.stage = Stage::Reading;
        }
        while self.stage == Stage::Reading {
            self.follow_links();
            let room = self.settings.in_flight_max.saturating_sub(self.untaken.len());
            self.fetches.fill(room);
            if !self.take_turn(effects)? {
                break;
            }
        }
        if self.stage == Stage::Draining && self.untaken.is_empty() {
            self.stage = Stage::Over;
            let ends = self.tracks.iter().map(|track| track.position).collect();
            effects.push(Effect::Done { ends });
        }
        Ok(())
    }

    /// Asks whether the own log holds what the chain rests on.
    fn begin(&mut self, effects: &mut Vec<Effect>) -> Result<(), ChainError> {
        let mut open = Vec::new();
        for track in &self.tracks {
            let (shard, base) = (track.shard, track.position);
            if track.asks_for_base().map_err(|()| ChainError::BaseNotHeld { shard, base })? {
                open.push(shard);
                effects.push(Effect::Find { shard, lsn: base.lsn });
            }
        }
        self.stage = Stage::Checking(open);
        Ok(())
    }

    fn found(
        &mut self,
        shard: ShardId,
        lsn: Lsn,
        frame: Option<FramePlace>,
    ) -> Result<(), ChainError> {
        if let Stage::Checking(open) = &mut self.stage {
            let base = self.tracks[usize::from(shard.value())].position;
            if frame.map(|frame| frame.end) != Some(base) {
                return Err(ChainError::BaseNotHeld { shard, base });
            }
            open.retain(|it| *it != shard);
            return Ok(());
        }
        let mut arrivals = self.arrivals.iter_mut().flatten();
        if let Some(arrival) = arrivals.find(|arrival| arrival.shard() == shard) {
            arrival.answer(lsn, frame);
        }
        Ok(())
    }

    /// The oldest slot with frames that the shard has not taken is one part lighter.
    fn taken(&mut self, shard: ShardId) {
        let oldest = self.untaken.iter().position(|shards| shards.contains(&shard));
        let Some(at) = oldest else { panic!("shard {shard} took frames that it was not given") };
        self.untaken[at].retain(|it| *it != shard);
        if self.untaken[at].is_empty() {
            self.untaken.remove(at);
        }
    }

    fn is_last(&self) -> bool {
        self.at + 1 == self.links.len()
    }

    /// Where the next log of the chain begins: this one ends there, for a shard.
    fn limit(&self, shard: usize) -> Option<Position> {
        self.links.get(self.at + 1).map(|next| next.base[shard])
    }

    /// On to the next log, once every shard is where it begins.
    fn follow_links(&mut self) {
        while !self.is_last() {
            let next = &self.links[self.at + 1];
            let is_there = |(track, base): (&Track, &Position)| track.position == *base;
            if self.arrivals.is_some() || !self.tracks.iter().zip(&next.base).all(is_there) {
                return;
            }
            self.fetches = Fetches::new(self.cluster, next.epoch);
            self.at += 1;
        }
    }

    /// Looks at the slot whose turn it is. `false`: something must happen first.
    fn take_turn(&mut self, effects: &mut Vec<Effect>) -> Result<bool, ChainError> {
        if self.arrivals.is_some() {
            return Ok(self.compare(effects));
        }
        let name = self.fetches.first();
        let (epoch, slot) = (name.epoch, name.slot);
        let body = match self.fetches.seen() {
            Seen::Unknown => return Ok(false),
            Seen::Absent if !self.is_last() => return Err(ChainError::Missing { epoch, slot }),
            Seen::Absent => return Ok(self.put_fence()),
            Seen::Found(body) => body.clone(),
        };
        let found = Slot::decode(&name, &body, &self.seal);
        match found.map_err(|error| ChainError::Slot { epoch, slot, error })?.content {
            Content::Fence if !self.is_last() => Err(ChainError::FencedEarly { epoch, slot }),
            Content::Fence => Ok(self.end(effects)),
            Content::Data(parts) => {
                self.arrivals = Some(self.arrive(&parts)?);
                Ok(true)
            }
        }
    }

    /// Begins to create the fence, unless that is under way.
    fn put_fence(&mut self) -> bool {
        let name = self.fetches.first();
        let body = || slot::fence(&name, self.nonce, &self.seal);
        self.fence.get_or_insert_with(|| Creation::new(name.key(), body()));
        false
    }

    fn arrive(&self, parts: &[Part]) -> Result<Vec<Arrival>, ChainError> {
        let super::slot::Name { epoch, slot, .. } = self.fetches.first();
        let mut arrivals = Vec::new();
        for part in parts {
            let shard = part.shard;
            let at = usize::from(shard.value());
            let Some(track) = self.tracks.get(at) else {
                return Err(ChainError::NoSuchShard { epoch, slot, shard });
            };
            let expected = track.position;
            let arrival = track.arrive(self.cluster, part, self.limit(at));
            arrivals.extend(arrival.map_err(|broken| match broken {
                Broken::Gap(found) => ChainError::Gap { epoch, slot, shard, expected, found },
                Broken::Frames(flaw) => ChainError::Frames { epoch, slot, shard, flaw },
                Broken::Missed => ChainError::BaseMissed { epoch, shard },
            })?);
        }
        Ok(arrivals)
    }

    /// Asks what must be asked about the slot; hands it out when all is known.
    fn compare(&mut self, effects: &mut Vec<Effect>) -> bool {
        for arrival in self.arrivals.iter_mut().flatten() {
            if let Some(lsn) = arrival.question() {
                effects.push(Effect::Find { shard: arrival.shard(), lsn });
            }
        }
        let known = |arrivals: &mut Vec<Arrival>| arrivals.iter().all(Arrival::is_known);
        let Some(arrivals) = self.arrivals.take_if(known) else { return false };
        let mut given = Vec::new();
        for arrival in arrivals {
            let shard = arrival.shard();
            let Step { cut, frames } = self.tracks[usize::from(shard.value())].settle(arrival);
            effects.extend(cut.map(|to| Effect::Cut { shard, to }));
            if let Some(frames) = frames {
                given.push(shard);
                effects.push(Effect::Frames { shard, frames });
            }
        }
        if !given.is_empty() {
            self.untaken.push(given);
        }
        self.fetches.pop();
        true
    }

    /// The chain ends here: what the own log has above was never in the bucket.
    fn end(&mut self, effects: &mut Vec<Effect>) -> bool {
        self.stage = Stage::Draining;
        for track in &mut self.tracks {
            let shard = track.shard;
            effects.extend(track.close().map(|to| Effect::Cut { shard, to }));
        }
        true
    }

    fn complete(&mut self, now: Micros, completion: Completion) {
        let Completion { token, outcome } = completion;
        let Some(fence) = self.fence.as_mut().filter(|fence| fence.awaits(token)) else {
            return self.fetches.complete(now, token, outcome, &self.settings);
        };
        let body = match fence.complete(now, outcome, &self.settings) {
            News::Nothing => return,
            News::Made => fence.body().clone(),
            // A late round, or another's fence.
            News::Other(body) => body,
        };
        self.fence = None;
        self.fetches.set_seen(body);
    }

    fn send_what_is_due(&mut self, now: Micros, effects: &mut Vec<Effect>) {
        if self.stage != Stage::Reading {
            return;
        }
        let Self { tokens, settings, fetches, fence, .. } = self;
        let mut token = || {
            *tokens += 1;
            *tokens
        };
        if let Some(fence) = fence.as_mut().filter(|fence| fence.due().is_some_and(|at| at <= now))
        {
            let number = token();
            let request = fence.request(number, settings, Request::control);
            effects.push(Effect::Bucket(number, request));
        }
        let send = |number, request| effects.push(Effect::Bucket(number, request));
        fetches.start(now, settings, token, send);
    }
}

/// Links in ascending order, none of which begins before the one before it did.
fn check(links: &[Link], shards: usize) -> Result<(), ChainError> {
    if links.is_empty() {
        return Err(ChainError::Chain("is empty"));
    }
    if links.iter().any(|link| link.base.len() != shards) {
        return Err(ChainError::Chain("is of another number of shards"));
    }
    for pair in links.windows(2) {
        let mut bases = pair[0].base.iter().zip(&pair[1].base);
        if pair[0].epoch >= pair[1].epoch || !bases.all(|(one, next)| one.lsn <= next.lsn) {
            return Err(ChainError::Chain("is not in ascending order"));
        }
    }
    Ok(())
}
