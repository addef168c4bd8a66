//! What a client may ask.

use std::fmt;

use bytes::Bytes;

use crate::codec::DecodeError;
use crate::event::{EncodedEvents, check_event_type};
use crate::feed::FeedQuery;
use crate::ids::{ClientId, Sequence, Stamp, Version};
use crate::key::{AggregateKey, NamePart, check_name};
use crate::limits::{
    ADMIN_BYTES_MAX, FILTER_TYPES_MAX, NAME_BYTES_MAX, NUMBER_MAX, REQUEST_BYTES_MAX,
    WRITE_EVENTS_MAX, WRITE_MEMBERS_MAX,
};
use crate::refusal::Refusal;

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

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("anything"),
            Self::NoStream => f.write_str("no events"),
            Self::Exists => f.write_str("events"),
            Self::Exact(version) => write!(f, "version {version}"),
        }
    }
}

impl Guard {
    /// As it is stored and sent: a number, and a version that only `Exact` has.
    pub(crate) const fn to_numbers(self) -> (u8, u64) {
        match self {
            Self::Any => (0, 0),
            Self::NoStream => (1, 0),
            Self::Exists => (2, 0),
            Self::Exact(version) => (3, version.value()),
        }
    }

    /// `None`: no guard is stored or sent like this.
    pub(crate) const fn from_numbers(number: u8, version: u64) -> Option<Self> {
        match (number, version) {
            (0, 0) => Some(Self::Any),
            (1, 0) => Some(Self::NoStream),
            (2, 0) => Some(Self::Exists),
            (3, version) if version < NUMBER_MAX => Some(Self::Exact(Version::new(version))),
            _ => None,
        }
    }
}

/// What a member takes away instead of appending (semantics.md §9). It moves no version.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Retention {
    /// The aggregate reads as deleted from now on; its events never show again.
    Delete {
        /// A later write may append to it again; its versions go on.
        recreate: bool,
        /// What is remembered of its writers' sequences goes, too: they start at 1 again. Only
        /// that of this write stays, so that its retry is recognised.
        forget_sequences: bool,
    },
    /// Events below this version are gone for readers; beyond the end: all that there are.
    Trim {
        /// Lowest version that stays.
        keep_from: Version,
    },
}

impl Retention {
    /// Bytes that it takes, wherever it is stored or sent.
    pub(crate) const BYTES: usize = 16;

    /// Lowest version that is left to read of an aggregate whose next version is `next`.
    pub fn first_available(self, next: Version) -> Version {
        match self {
            Self::Delete { .. } => next,
            Self::Trim { keep_from } => keep_from.min(next),
        }
    }

    /// As it is stored and sent: kind, flags, six zeroes, version.
    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let (kind, flags, version) = match self {
            Self::Delete { recreate, forget_sequences } => {
                (1, u8::from(!recreate) | u8::from(forget_sequences) << 1, 0)
            }
            Self::Trim { keep_from } => (2, 0, keep_from.value()),
        };
        let mut bytes = [0; Self::BYTES];
        (bytes[0], bytes[1]) = (kind, flags);
        bytes[8..].copy_from_slice(&version.to_le_bytes());
        bytes
    }

    /// `None`: none is stored or sent like this.
    pub(crate) fn from_bytes(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let [kind, flags, 0, 0, 0, 0, 0, 0, version @ ..] = bytes else { return None };
        match (kind, flags, u64::from_le_bytes(version)) {
            (1, 0..=3, 0) => {
                Some(Self::Delete { recreate: flags & 1 == 0, forget_sequences: flags & 2 != 0 })
            }
            (2, 0, version @ 1..NUMBER_MAX) => {
                Some(Self::Trim { keep_from: Version::new(version) })
            }
            _ => None,
        }
    }
}

/// One aggregate's part in a write: a guard, and the events to append or what to take away
/// (neither: the guard alone).
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
    /// What to take away; then there are no events.
    pub retention: Option<Retention>,
}

impl Member {
    /// Whether it changes its aggregate, and does not only guard.
    pub fn changes(&self) -> bool {
        !self.events.is_empty() || self.retention.is_some()
    }
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

impl ReadQuery {
    /// All events of `key`, oldest first, from the leader.
    pub const fn all(key: AggregateKey) -> Self {
        Self {
            key,
            from: Version::NONE,
            to: None,
            backwards: false,
            limit: None,
            types: Vec::new(),
            client: None,
            since: None,
            until: None,
            min_stamp: None,
            any: false,
        }
    }
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
    /// Events of many aggregates.
    Feed(FeedQuery),
    /// Answered at once: is the connection alive?
    Ping,
    /// An operator's order to this node, as JSON: at most [`crate::limits::ADMIN_BYTES_MAX`] bytes.
    Admin(Bytes),
}

/// Bytes of a member before its key, on the wire.
pub(crate) const MEMBER_BYTES: usize = 28;
/// Bytes of a write before its members, on the wire.
const WRITE_BYTES: usize = 22;
/// Bytes of a frame before a request's body.
const HEADER_BYTES: usize = 16;

impl Request {
    /// Checks what can be checked without any state: what a server refuses whatever it holds.
    ///
    /// # Errors
    /// `InvalidArgument` or `TooLarge`.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Write(write) => write.check(),
            Self::Read(query) => query.check(),
            Self::List(query) => query.check(),
            Self::Feed(query) => Ok(query.check()?),
            Self::Admin(order) if order.len() > ADMIN_BYTES_MAX => {
                Err(Refusal::TooLarge { what: "order".into(), limit: ADMIN_BYTES_MAX as u64 })
            }
            Self::Head(_) | Self::Ping | Self::Admin(_) => Ok(()),
        }
    }
}

impl ReadQuery {
    fn check(&self) -> Result<(), Refusal> {
        if self.types.len() > FILTER_TYPES_MAX {
            return Err(DecodeError::Limit { what: "types", limit: FILTER_TYPES_MAX as u64 }.into());
        }
        self.types.iter().try_for_each(|name: &Bytes| check_event_type(name))?;
        if self.limit == Some(0) {
            return Err(DecodeError::invalid("limit", "must be at least 1").into());
        }
        Ok(())
    }
}

impl ListQuery {
    fn check(&self) -> Result<(), Refusal> {
        if self.kind.is_some() && self.org.is_none() {
            return Err(DecodeError::invalid("type", "needs an org").into());
        }
        let parts = [(NamePart::Org, "org", &self.org), (NamePart::Type, "type", &self.kind)];
        for (part, field, name) in parts {
            let Some(name) = name else { continue };
            check_name(part, name.as_bytes()).map_err(|error| Refusal::InvalidArgument {
                field: field.into(),
                reason: error.to_string(),
            })?;
        }
        let after = self.after.as_deref().unwrap_or_default();
        for (what, text) in [("prefix", self.prefix.as_str()), ("after", after)] {
            if text.len() > NAME_BYTES_MAX {
                return Err(DecodeError::Limit { what, limit: NAME_BYTES_MAX as u64 }.into());
            }
        }
        if self.limit == 0 {
            return Err(DecodeError::invalid("limit", "must be at least 1").into());
        }
        Ok(())
    }
}

/// Members up to this many are compared pairwise: cheaper than sorting, and allocates nothing.
const PAIRWISE_MEMBERS_MAX: usize = 16;

impl Write {
    /// What it takes on the wire, in bytes.
    pub fn encoded_len(&self) -> usize {
        let member = |m: &Member| {
            let taken = m.retention.map_or(0, |_| Retention::BYTES);
            MEMBER_BYTES + m.key.as_bytes().len() + m.events.as_bytes().len() + taken
        };
        HEADER_BYTES + WRITE_BYTES + self.members.iter().map(member).sum::<usize>()
    }

    /// Checks what can be checked without any state (semantics.md §1 to §3): members, each once, at
    /// least one that changes something; sequences on all that do or on none, and then a client id;
    /// a size that fits into a frame of the log. Events are valid by their type.
    ///
    /// # Errors
    /// `InvalidArgument` or `TooLarge`, naming the member by its index.
    pub fn check(&self) -> Result<(), Refusal> {
        let limit = |what, limit: usize| DecodeError::Limit { what, limit: limit as u64 };
        if self.members.is_empty() {
            return Err(DecodeError::invalid("members", "must not be empty").into());
        }
        if self.members.len() > WRITE_MEMBERS_MAX {
            return Err(limit("members", WRITE_MEMBERS_MAX).into());
        }
        let events: usize = self.members.iter().map(|member| member.events.len()).sum();
        if !self.members.iter().any(Member::changes) {
            let reason = "must append at least one event, delete or trim";
            return Err(DecodeError::invalid("members", reason).into());
        }
        self.check_retention()?;
        if events > WRITE_EVENTS_MAX {
            return Err(limit("events", WRITE_EVENTS_MAX).into());
        }
        self.check_sequences()?;
        if let Some(index) = self.members.iter().position(|member| member.key.is_system()) {
            let field = format!("members[{index}].key");
            let reason = "the org $system belongs to the store itself".into();
            return Err(Refusal::InvalidArgument { field, reason });
        }
        let beyond = |m: &Member| matches!(m.guard, Guard::Exact(v) if v.value() >= NUMBER_MAX);
        if let Some(index) = self.members.iter().position(beyond) {
            let field = format!("members[{index}].guard");
            return Err(Refusal::InvalidArgument { field, reason: "must be below 2^53".into() });
        }
        if self.has_a_key_twice() {
            return Err(DecodeError::invalid("members", "name an aggregate twice").into());
        }
        if self.encoded_len() > REQUEST_BYTES_MAX {
            return Err(limit("request", REQUEST_BYTES_MAX).into());
        }
        Ok(())
    }

    fn check_retention(&self) -> Result<(), Refusal> {
        for (index, Member { retention, events, .. }) in self.members.iter().enumerate() {
            let (part, reason) = match retention {
                Some(_) if !events.is_empty() => ("events", "must be none where events go"),
                Some(Retention::Trim { keep_from }) if keep_from.value() >= NUMBER_MAX => {
                    ("keep_from", "must be below 2^53")
                }
                Some(Retention::Trim { keep_from: Version::NONE }) => ("keep_from", "starts at 1"),
                _ => continue,
            };
            let field = format!("members[{index}].{part}");
            return Err(Refusal::InvalidArgument { field, reason: reason.into() });
        }
        Ok(())
    }

    fn check_sequences(&self) -> Result<(), Refusal> {
        let first = self.members.iter().find(|member| member.changes());
        let sequenced = first.is_some_and(|member| member.sequence.is_some());
        for (index, member) in self.members.iter().enumerate() {
            let reason = match member.sequence.map(Sequence::value) {
                Some(_) if !member.changes() => "is not for members that only guard",
                Some(_) if !sequenced => "must be on all members that change something or on none",
                Some(0) => "starts at 1",
                Some(NUMBER_MAX..) => "must be below 2^53",
                None if sequenced && member.changes() => {
                    "must be on all members that change something or on none"
                }
                _ => continue,
            };
            let field = format!("members[{index}].sequence");
            return Err(Refusal::InvalidArgument { field, reason: reason.into() });
        }
        if sequenced && self.client_id == ClientId::NONE {
            return Err(DecodeError::invalid("client_id", "is needed for sequences").into());
        }
        Ok(())
    }

    fn has_a_key_twice(&self) -> bool {
        let members = &self.members;
        if members.len() <= PAIRWISE_MEMBERS_MAX {
            let earlier = |at: usize| members[..at].iter().any(|m| m.key == members[at].key);
            return (1..members.len()).any(earlier);
        }
        let mut keys: Vec<&[u8]> = members.iter().map(|member| member.key.as_bytes()).collect();
        keys.sort_unstable();
        keys.windows(2).any(|pair| pair[0] == pair[1])
    }
}
