//! Feeds: the events of many aggregates in the order of their stamps (semantics.md §6).
//!
//! A feed is asked for behind the stamp at which the last page ended: a stamp is the whole cursor,
//! and it is good on every node. A page that would be empty may wait for something to be there, and
//! others may follow it without being asked for: few enough that whoever asked can hold them
//! ([`Following`]). So a reader that is slow costs the server nothing, and one that is gone leaves
//! nothing behind.

use std::fmt::{self, Write};
use std::str::FromStr;

use bytes::Bytes;

use crate::codec::DecodeError;
use crate::event::{EventHead, check_event_type};
use crate::hash::Hash;
use crate::ids::Stamp;
use crate::key::{AggregateKey, KeyError, NamePart, check_name};
use crate::limits::{
    FEED_ANSWER_BYTES, FEED_MORE_MAX, FEED_SELECTORS_MAX, FEED_WAIT_MS_MAX, FILTER_TYPES_MAX,
};
use crate::request::Retention;
use crate::response::ReadBatch;

/// Which aggregates a feed is about. Written `org/type/id`, `org/type`, `org` or `*`; several with
/// line breaks between.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Selector {
    /// Everything but the store's own org.
    #[default]
    All,
    /// One org.
    Org(String),
    /// One type of aggregates of an org.
    Type {
        /// The org.
        org: String,
        /// The type.
        kind: String,
    },
    /// One aggregate.
    Aggregate(AggregateKey),
    /// What any of these covers, as one feed: two to [`FEED_SELECTORS_MAX`] of the others.
    Several(Vec<Selector>),
}

/// Between the parts of [`Selector::Several`] as text: no name has it.
const BETWEEN: char = '\n';

impl Selector {
    /// All of `org`. Names are checked when it is used.
    pub fn org(org: impl Into<String>) -> Self {
        Self::Org(org.into())
    }

    /// All of `kind` in `org`. Names are checked when it is used.
    pub fn of_type(org: impl Into<String>, kind: impl Into<String>) -> Self {
        Self::Type { org: org.into(), kind: kind.into() }
    }

    /// Checks the names.
    ///
    /// # Errors
    /// Which one is none.
    pub fn check(&self) -> Result<(), KeyError> {
        match self {
            Self::All | Self::Aggregate(_) => Ok(()),
            Self::Org(org) => check(NamePart::Org, org),
            Self::Type { org, kind } => {
                check(NamePart::Org, org).and_then(|()| check(NamePart::Type, kind))
            }
            Self::Several(parts) => {
                let is_nested = parts.iter().any(|part| matches!(part, Self::Several(_)));
                if is_nested || !(2..=FEED_SELECTORS_MAX).contains(&parts.len()) {
                    return Err(KeyError::Selectors);
                }
                parts.iter().try_for_each(Self::check)
            }
        }
    }

    /// The org of a plain selector; `None`: it is of all, or not plain.
    pub fn of_org(&self) -> Option<&str> {
        match self {
            Self::All | Self::Several(_) => None,
            Self::Org(org) | Self::Type { org, .. } => Some(org),
            Self::Aggregate(key) => Some(key.org()),
        }
    }

    /// The plain selectors that it is made of.
    pub fn parts(&self) -> &[Self] {
        match self {
            Self::Several(parts) => parts,
            plain => std::slice::from_ref(plain),
        }
    }

    /// Whether events of `key` belong to it.
    pub fn matches(&self, key: &AggregateKey) -> bool {
        self.matches_bytes(key.as_bytes())
    }

    /// The same, of a key as bytes.
    pub fn matches_bytes(&self, key: &[u8]) -> bool {
        match self {
            Self::All => !key.starts_with(b"$"),
            Self::Org(org) => behind(key, org).is_some(),
            Self::Type { org, kind } => {
                behind(key, org).is_some_and(|rest| behind(rest, kind).is_some())
            }
            Self::Aggregate(wanted) => key == wanted.as_bytes(),
            Self::Several(parts) => parts.iter().any(|part| part.matches_bytes(key)),
        }
    }
}

/// What of a key is behind a name and its slash, if it begins with them.
fn behind<'a>(key: &'a [u8], name: &str) -> Option<&'a [u8]> {
    key.strip_prefix(name.as_bytes())?.strip_prefix(b"/")
}

fn check(part: NamePart, name: &str) -> Result<(), KeyError> {
    let label = if part == NamePart::Org { "org" } else { "type" };
    check_name(part, name.as_bytes()).map_err(|reason| KeyError::Name { part: label, reason })
}

impl FromStr for Selector {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.contains(BETWEEN) {
            let parts: Result<_, _> =
                text.split(BETWEEN).take(FEED_SELECTORS_MAX + 1).map(str::parse).collect();
            let several = Self::Several(parts?);
            return several.check().map(|()| several);
        }
        let selector = match (text, text.split_once('/')) {
            ("*", _) => Self::All,
            (org, None) => Self::org(org),
            (_, Some((org, kind))) if !kind.contains('/') => Self::of_type(org, kind),
            (key, _) => Self::Aggregate(key.parse()?),
        };
        selector.check().map(|()| selector)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Org(org) => f.write_str(org),
            Self::Type { org, kind } => write!(f, "{org}/{kind}"),
            Self::Aggregate(key) => f.write_str(key.as_str()),
            Self::Several(parts) => parts.iter().enumerate().try_for_each(|(at, part)| {
                if at > 0 {
                    f.write_char(BETWEEN)?;
                }
                write!(f, "{part}")
            }),
        }
    }
}

/// One page of a feed. Any node answers, with what is committed as far as it knows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FeedQuery {
    /// Whose events.
    pub selector: Selector,
    /// Only these event types; empty = all.
    pub types: Vec<Bytes>,
    /// Only events with a greater stamp. `None`: only what comes from now on; the answer is empty
    /// and says where that begins.
    pub after: Option<Stamp>,
    /// How long the answer may wait for something to be in it, in ms; 0 = not at all. At most
    /// [`FEED_WAIT_MS_MAX`].
    pub wait_ms: u32,
    /// Events come without their payloads: for whoever only looks at types, keys and metadata, or
    /// fetches what is of interest. Hashes are those of the whole events.
    pub headers_only: bool,
    /// Pages that may follow the first, each behind the one before and as if it had been asked
    /// for; at most [`FEED_MORE_MAX`]. [`Following`] says which is the last.
    pub more: u16,
}

/// The pages of one answer, as both sides count them.
///
/// The last is the one that makes up the number, or is empty, or makes the frames of the answer
/// large ([`FEED_ANSWER_BYTES`]). A refusal in a page's place ends it, too.
#[derive(Clone, Copy, Debug)]
pub struct Following {
    more: u16,
    bytes: usize,
}

impl Following {
    /// Before the first page.
    pub fn new(query: &FeedQuery) -> Self {
        Self { more: query.more, bytes: 0 }
    }

    /// Takes a page whose frame has so many bytes; whether another one follows.
    pub fn goes_on(&mut self, page: &FeedPage, frame_bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(frame_bytes);
        let is_last = self.more == 0 || page.batches.is_empty() || self.bytes >= FEED_ANSWER_BYTES;
        self.more = self.more.saturating_sub(1);
        !is_last
    }
}

impl FeedQuery {
    /// Checks what can be checked without any state.
    ///
    /// # Errors
    /// Which field is wrong.
    pub fn check(&self) -> Result<(), DecodeError> {
        self.selector.check().map_err(DecodeError::Key)?;
        if self.types.len() > FILTER_TYPES_MAX {
            return Err(DecodeError::Limit { what: "types", limit: FILTER_TYPES_MAX as u64 });
        }
        self.types.iter().try_for_each(|name: &Bytes| check_event_type(name))?;
        if self.wait_ms > FEED_WAIT_MS_MAX {
            return Err(DecodeError::Limit { what: "wait_ms", limit: FEED_WAIT_MS_MAX.into() });
        }
        if self.more > FEED_MORE_MAX {
            return Err(DecodeError::Limit { what: "more", limit: FEED_MORE_MAX.into() });
        }
        Ok(())
    }
}

/// A batch of a feed, or the part of it that was asked for; or the notice that an aggregate was
/// deleted or trimmed, which comes to every reader of the aggregate, whatever types he asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FeedBatch {
    /// Whose events these are.
    pub key: AggregateKey,
    /// The events; of a notice none: its versions say where the aggregate stood.
    pub batch: ReadBatch,
    /// What was taken away: then this is a notice.
    pub notice: Option<Notice>,
}

/// What was taken away, and where the chain was cut: so what is appended behind it still verifies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Notice {
    /// What.
    pub what: Retention,
    /// The aggregate's chain hash at the version where it stood.
    pub hash: Hash,
}

/// One page of a feed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FeedPage {
    /// In the order of their stamps.
    pub batches: Vec<FeedBatch>,
    /// The checkpoint: everything that was asked for and has a stamp up to here is in this page or
    /// before it, for ever. Where to go on.
    pub upto: Stamp,
    /// How far the node could have answered when it made the page: the reader has caught up when
    /// `upto` has got here. The page has nothing of what was deleted or trimmed up to here, however
    /// old the reader's cursor.
    pub head: Stamp,
}

impl FeedPage {
    /// Leaves the payloads out.
    pub fn drop_payloads(&mut self) {
        for event in self.batches.iter_mut().flat_map(|batch| &mut batch.batch.events) {
            // What a node delivers is a valid event.
            if let Ok(head) = EventHead::first(&event.body) {
                event.body = head.without_payload();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BootId, ClientId, Epoch, Version};
    use crate::{BatchHeader, WriteId};

    #[test]
    fn an_answer_ends_with_its_last_page_or_an_empty_one_or_when_it_is_large() {
        let header = BatchHeader {
            first_version: Version::new(1),
            last_version: Version::new(1),
            client_id: ClientId::NONE,
            sequence: None,
            server_time: 0,
            stamp: Stamp::new(1),
            write_id: WriteId { epoch: Epoch::new(1), boot: BootId::new(1), counter: 1 },
        };
        let batch = ReadBatch { header, events: Vec::new() };
        let key = "acme/order/1".parse().expect("valid");
        let full = FeedBatch { key, batch, notice: None };
        let full = FeedPage { batches: vec![full], ..FeedPage::default() };
        let empty = FeedPage::default();
        let following = |more| Following::new(&FeedQuery { more, ..FeedQuery::default() });

        assert!(!following(0).goes_on(&full, 1), "one page, one answer");
        let mut three = following(2);
        assert!(three.goes_on(&full, 1) && three.goes_on(&full, 1) && !three.goes_on(&full, 1));
        assert!(!following(2).goes_on(&empty, 1), "nothing was there in its time");
        let mut large = following(9);
        assert!(large.goes_on(&full, FEED_ANSWER_BYTES - 1) && !large.goes_on(&full, 1));
    }

    #[test]
    fn a_selector_is_a_key_cut_short() {
        for text in ["*", "acme", "acme/order", "acme/order/1:2"] {
            let selector: Selector = text.parse().expect("valid");
            assert_eq!(selector.to_string(), text);
        }
        for bad in ["", "a//", "a/", "/b", "a/b/c/d", "**", "$x", "a/*"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_selector_takes_whole_names_only() {
        let key: AggregateKey = "acme/order/1".parse().expect("valid");
        let takes = |text: &str| text.parse::<Selector>().expect("valid").matches(&key);
        assert!(takes("*") && takes("acme") && takes("acme/order") && takes("acme/order/1"));
        assert!(!takes("acm") && !takes("acme/orde") && !takes("acme/order/11") && !takes("b"));
    }
}
