//! What a client may be answered.

use bytes::Bytes;

use crate::feed::FeedPage;
use crate::hash::Hash;
use crate::ids::{ClientId, Sequence, Stamp, Version, WriteId};
use crate::key::AggregateKey;
use crate::refusal::Refusal;

/// What a write did to one aggregate that it appended to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AggregateReceipt {
    /// Which aggregate.
    pub key: AggregateKey,
    /// Version of the first event appended.
    pub first_version: Version,
    /// Version of the last event appended.
    pub last_version: Version,
    /// Chain hash after the batch.
    pub hash: Hash,
}

/// Proof that a write is committed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Receipt {
    /// Largest stamp of the write's events.
    pub stamp: Stamp,
    /// The write had landed before; this is its original receipt.
    pub already_applied: bool,
    /// The members that appended events, in the order of the request. Members that only guarded are
    /// not among them.
    pub writes: Vec<AggregateReceipt>,
}

/// What a page's batch says once for all of its events.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BatchHeader {
    /// Version of the batch's first event (also when a filter left it out).
    pub first_version: Version,
    /// Version of the batch's last event.
    pub last_version: Version,
    /// Who wrote it; `ClientId::NONE` if nobody said.
    pub client_id: ClientId,
    /// Its sequence, if the writer used them.
    pub sequence: Option<Sequence>,
    /// Server clock at acceptance, µs since 1970.
    pub server_time: i64,
    /// Stamp of the batch's first event; event i has `stamp + i`.
    pub stamp: Stamp,
    /// The write it was part of.
    pub write_id: WriteId,
}

/// One event of a page.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReadEvent {
    /// Its version.
    pub version: Version,
    /// The aggregate's chain hash after it.
    pub hash: Hash,
    /// Its canonical bytes: decode with [`crate::event::Event::decode`].
    pub body: Bytes,
}

/// A batch, or the part of it that a query asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReadBatch {
    /// Shared by its events.
    pub header: BatchHeader,
    /// In version order (ascending, also when reading backwards).
    pub events: Vec<ReadEvent>,
}

/// One page of a read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Page {
    /// The aggregate's committed version when the page was made.
    pub version: Version,
    /// Everything committed up to here is in the answer.
    pub stamp: Stamp,
    /// In reading order.
    pub batches: Vec<ReadBatch>,
    /// Where to go on: the next `from` (forwards) or `to` (backwards). `None`: the read is
    /// complete.
    pub next: Option<Version>,
}

/// State of an aggregate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HeadInfo {
    /// Newest committed version; 0 = never existed.
    pub version: Version,
    /// Chain hash at that version.
    pub hash: Hash,
    /// Server time of the first event, µs since 1970; 0 if it never existed.
    pub created: i64,
    /// Server time of the newest event, µs since 1970.
    pub updated: i64,
    /// Stamp of the newest event.
    pub stamp: Stamp,
    /// Deleted and not recreated.
    pub deleted: bool,
    /// Lowest version that can be read.
    pub first_available: Version,
    /// Last sequence of the client the query named.
    pub last_sequence: Option<Sequence>,
    /// Everything committed up to here is in the answer.
    pub read_stamp: Stamp,
}

/// One page of names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ListPage {
    /// Sorted.
    pub names: Vec<String>,
    /// Whether there are more: go on after the last name.
    pub more: bool,
}

/// One answer. Exactly one per request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Response {
    /// The write is committed.
    Receipt(Receipt),
    /// A page of events.
    Page(Page),
    /// An aggregate's state.
    Head(HeadInfo),
    /// Names.
    List(ListPage),
    /// A page of a feed.
    Feed(FeedPage),
    /// Alive.
    Pong,
    /// What an operator's order came to, as JSON.
    Admin(Bytes),
    /// It was not done; says why and what helps.
    Refused(Refusal),
}
