//! Planted bugs of a pair: a promise of the protocol, broken on purpose, to show that it is missed.
//!
//! Each is planted between a node and one of its seams, so that the node behaves to all others as
//! one with that bug would. Of a run without one nothing of this file takes part.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::{Context, Poll};

use bytes::Bytes;
use celeriant_net::link::{self, Lane, Link, Sent, SessionId, Target};
use celeriant_schema::peer::{Durable, Message, Position};
use celeriant_schema::{ShardId, Stamp};
use celeriant_storage::bucket::{self, Bucket, Conflict, Done, ETag, Op};
use celeriant_storage::frame::FrameHeader;
use serde::{Deserialize, Serialize};

/// What is deliberately broken.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Betrayal {
    /// Disks report writes as durable that are not yet.
    LyingDisks,
    /// A follower acknowledges what it has received.
    AcksAhead,
    /// A leader takes for held what it has sent.
    AcksAssumed,
    /// Promises are not written down.
    PromisesForgotten,
    /// Whoever finds another's slot, or a fence, goes on as if it had won.
    FencesIgnored,
    /// A slot counts when it was sent.
    SlotsAssumed,
    /// The bucket ignores conditions.
    ConditionsIgnored,
    /// A leader tells its follower that everything is committed.
    CommitsAhead,
    /// A leader tells its follower that no earlier stamp will come.
    StampsAhead,
    /// A leader believes in grants for ever.
    LeasesThatNeverEnd,
    /// A wiped store says that it is the one that was lost.
    WipedStoreKeepsItsName,
}

impl Betrayal {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::LyingDisks,
        Self::AcksAhead,
        Self::AcksAssumed,
        Self::PromisesForgotten,
        Self::FencesIgnored,
        Self::SlotsAssumed,
        Self::ConditionsIgnored,
        Self::CommitsAhead,
        Self::StampsAhead,
        Self::LeasesThatNeverEnd,
        Self::WipedStoreKeepsItsName,
    ];
}

/// A seam that may break a promise.
pub struct Betrayed<T> {
    inner: T,
    kind: Option<Betrayal>,
    /// What was received last, by shard.
    received: BTreeMap<ShardId, Position>,
    /// Answers that nobody gave.
    forged: VecDeque<link::Event>,
    /// Slots under way.
    slots: BTreeSet<bucket::Token>,
}

impl<T> Betrayed<T> {
    /// `inner`, broken.
    pub fn new(inner: T, kind: Option<Betrayal>) -> Self {
        let (received, forged, slots) = (BTreeMap::new(), VecDeque::new(), BTreeSet::new());
        Self { inner, kind, received, forged, slots }
    }

    /// What is said instead of `message`.
    fn twisted(&mut self, session: SessionId, message: Message) -> Message {
        match (self.kind, message) {
            (Some(Betrayal::AcksAhead), Message::Ack { epoch, mut durable }) => {
                for held in &mut durable {
                    let received = self.received.get(&held.shard).copied();
                    held.position = received.unwrap_or(held.position).max(held.position);
                }
                Message::Ack { epoch, durable }
            }
            (
                Some(Betrayal::AcksAssumed),
                Message::Append { shard, epoch, before, commit, closed, frames },
            ) => {
                if let Some(position) = end_of(&frames) {
                    let durable = vec![Durable { shard, position }];
                    let forged = Message::Ack { epoch, durable }.encode();
                    self.forged.extend(forged.ok().map(|message| link::Event::Received {
                        session,
                        lane: Lane::Control,
                        message,
                    }));
                }
                Message::Append { shard, epoch, before, commit, closed, frames }
            }
            (
                Some(Betrayal::CommitsAhead),
                Message::Append { shard, epoch, before, closed, frames, commit },
            ) => {
                let commit = end_of(&frames).map_or(commit, |end| end.lsn);
                Message::Append { shard, epoch, before, commit, closed, frames }
            }
            (
                Some(Betrayal::StampsAhead),
                Message::Heartbeat { number, epoch, ver, mut shards },
            ) => {
                for committed in &mut shards {
                    committed.closed = Stamp::new(committed.closed.value() + 8_000_000);
                }
                Message::Heartbeat { number, epoch, ver, shards }
            }
            (_, message) => message,
        }
    }

    fn overhear(&mut self, event: &mut link::Event) {
        let link::Event::Received { message, .. } = event else { return };
        match (self.kind, Message::decode(message)) {
            (Some(Betrayal::AcksAhead), Ok(Message::Append { shard, frames, .. })) => {
                self.received.extend(end_of(&frames).map(|end| (shard, end)));
            }
            (
                Some(Betrayal::LeasesThatNeverEnd),
                Ok(Message::LeaseGrant { number, epoch, lasts_ms }),
            ) => {
                let lasts_ms = lasts_ms * 100;
                let longer = Message::LeaseGrant { number, epoch, lasts_ms };
                *message = longer.encode().unwrap_or_default();
            }
            _ => {}
        }
    }
}

impl<L: Link> Link for Betrayed<L> {
    fn aim(&mut self, target: Target) {
        self.inner.aim(target);
    }

    fn send(&mut self, session: SessionId, lane: Lane, message: Bytes) -> Sent {
        let twisted = match (self.kind, Message::decode(&message)) {
            (Some(_), Ok(said)) => self.twisted(session, said).encode().ok(),
            _ => None,
        };
        self.inner.send(session, lane, twisted.unwrap_or(message))
    }

    fn drop_session(&mut self, session: SessionId) {
        self.inner.drop_session(session);
    }

    fn close(&mut self) {
        self.inner.close();
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<link::Event> {
        if let Some(event) = self.forged.pop_front() {
            return Poll::Ready(event);
        }
        self.inner.poll_event(cx).map(|mut event| {
            self.overhear(&mut event);
            event
        })
    }
}

impl<B: Bucket> Bucket for Betrayed<B> {
    fn start(&mut self, token: bucket::Token, request: bucket::Request) {
        if matches!(&request.op, Op::PutIfAbsent { key, .. } if key.as_str().starts_with("wal/")) {
            self.slots.insert(token);
        }
        self.inner.start(token, request);
    }

    fn poll_complete(&mut self, cx: &mut Context<'_>) -> Poll<bucket::Completion> {
        self.inner.poll_complete(cx).map(|mut completion| {
            let of_slot = self.slots.remove(&completion.token);
            let won = || Ok(Done::Put { etag: ETag::new("\"planted\"") });
            match (self.kind, &completion.outcome) {
                (Some(Betrayal::FencesIgnored), Ok(Done::Conflict(Conflict::Precondition)))
                | (Some(Betrayal::SlotsAssumed), Err(_))
                    if of_slot =>
                {
                    completion.outcome = won();
                }
                _ => {}
            }
            completion
        })
    }
}

/// Where frames end.
fn end_of(frames: &Bytes) -> Option<Position> {
    let (mut at, mut end) = (0, None);
    while let Some(rest) = frames.get(at..).filter(|rest| !rest.is_empty()) {
        let header = FrameHeader::decode(rest).ok()?;
        end = Some(Position { lsn: header.last_lsn(), hash: header.hash });
        at += header.frame_bytes();
    }
    end
}
