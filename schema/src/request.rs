//! What a client may ask.

use bytes::Bytes;

use crate::event::EncodedEvents;
use crate::ids::{ClientId, Sequence, Stamp, Version};
use crate::key::AggregateKey;

/// What must hold for an aggregate at the moment a write is accepted (semantics.md §2).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Guard {
    /// Nothing.
    #[default]
    Any,
    /// It never existed, or is deleted.
    NoStream,
    /// It has events and is not deleted.
    Exists,
    /// It is at this version. `Exact(0)` is `NoStream` for one that never existed.
    Exact(Version),
}

/// One aggregate's part in a write: a guard, and the events to append (none: the guard alone).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Which aggregate.
    pub key: AggregateKey,
    /// What must hold.
    pub guard: Guard,
    /// For exactly-once: highest used by this client for this aggregate, plus 1.
    pub sequence: Option<Sequence>,
    /// The batch, in canonical bytes.
    pub events: EncodedEvents,
}

/// One atomic write over 1..=1,024 aggregates, each named once, on whatever shards.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Write {
    /// Whose sequences these are; `ClientId::NONE` without sequences.
    pub client_id: ClientId,
    /// In the caller's order; receipts come in the same order.
    pub members: Vec<Member>,
}

/// One page of one aggregate's events. Pages are asked for one by one: the server keeps no cursor.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReadQuery {
    /// Which aggregate.
    pub key: AggregateKey,
    /// Lowest version wanted; 0 and 1 both mean from the first.
    pub from: Version,
    /// Highest version wanted; `None` = up to the newest committed.
    pub to: Option<Version>,
    /// Newest first.
    pub backwards: bool,
    /// Stop after the batch in which this many matching events are reached.
    pub limit: Option<u64>,
    /// Only these event types; empty = all.
    pub types: Vec<Bytes>,
    /// Only this client's events.
    pub client: Option<ClientId>,
    /// Only events with server time >= this, µs since 1970.
    pub since: Option<i64>,
    /// Only events with server time < this, µs since 1970.
    pub until: Option<i64>,
    /// Wait until the node has committed up to this stamp (read-your-writes).
    pub min_stamp: Option<Stamp>,
    /// May be served by a follower (semantics.md §5 `any`).
    pub any: bool,
}

/// State of one aggregate, without its events.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HeadQuery {
    /// Which aggregate.
    pub key: AggregateKey,
    /// Also answer this client's last sequence.
    pub client: Option<ClientId>,
    /// As in [`ReadQuery`].
    pub min_stamp: Option<Stamp>,
    /// As in [`ReadQuery`].
    pub any: bool,
}

/// One page of names, in order: orgs, or an org's types, or a type's aggregate ids.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ListQuery {
    /// `None` lists orgs.
    pub org: Option<String>,
    /// `None` lists the org's types. Needs `org`.
    pub kind: Option<String>,
    /// Only names that start with this.
    pub prefix: String,
    /// Only names after this one.
    pub after: Option<String>,
    /// At most this many names, capped at `LIST_PAGE_MAX`.
    pub limit: u32,
}

/// One request. The connection adds the request id and the deadline.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Request {
    /// Append atomically.
    Write(Write),
    /// One page of events.
    Read(ReadQuery),
    /// State without events.
    Head(HeadQuery),
    /// Names.
    List(ListQuery),
    /// Answered at once: is the connection alive?
    Ping,
}
