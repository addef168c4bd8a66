//! What a feed of few aggregates leaves out: the log up to their next batch.
//!
//! The log is read in its order, whoever it is for. Where there was nothing for a watch, and what
//! it wants are few aggregates, the directory knows where the next batch of each lies. A feed of
//! many reads on: something for it is near, or finding that out would cost as much as reading.

use celeriant_schema::{AggregateKey, ListPage, Selector};
use celeriant_storage::directory::{Fault, Listing};

use super::core::Core;
use crate::work::FeedAsk;

/// Aggregates that are looked up for a feed.
const FEW: usize = 32;
/// Deletes and trims of others that are passed over.
const NOTICES_MAX: usize = 32;

/// Where the next batch for a feed lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// In the frame that starts there: the segment, and the sector in it.
    At((u32, u32)),
    /// There is none.
    Nothing,
    /// That must be read.
    Unknown,
}

impl<R> Core<R> {
    /// Where in the log, from `end` on, the next batch for an ask lies.
    ///
    /// # Errors
    /// A page of the directory is missing or damaged.
    pub(super) fn next_for(&self, ask: &FeedAsk, end: (u32, u32)) -> Result<Next, Fault> {
        let mut keys = Vec::new();
        if !self.are_few(&ask.selector, &mut keys)? {
            return Ok(Next::Unknown);
        }
        // Deletes and trims are told as well, and the directory knows their stamps only.
        let notices = self.directory.erasures(ask.after, NOTICES_MAX, &self.pins)?;
        let is_for_it = notices.iter().any(|notice| ask.selector.matches(&notice.key));
        if is_for_it || notices.len() == NOTICES_MAX {
            return Ok(Next::Unknown);
        }
        let mut next = Next::Nothing;
        for key in &keys {
            let Some(found) = self.directory.next_batch(key, end, &self.pins)? else { continue };
            let place = (found.segment, found.frame_offset);
            next = match next {
                Next::At(first) => Next::At(first.min(place)),
                _ => Next::At(place),
            };
        }
        Ok(next)
    }

    /// Adds the aggregates of `selector` to `keys`, unless that would be too many.
    fn are_few(&self, selector: &Selector, keys: &mut Vec<AggregateKey>) -> Result<bool, Fault> {
        match selector {
            Selector::All => return Ok(false),
            Selector::Aggregate(key) => keys.push(key.clone()),
            Selector::Type { org, kind } => return self.are_few_of(org, kind, keys),
            Selector::Org(org) => {
                let kinds = self.names(&[org])?;
                for kind in &kinds.names {
                    if kinds.more || !self.are_few_of(org, kind, keys)? {
                        return Ok(false);
                    }
                }
            }
            Selector::Several(parts) => {
                for part in parts.iter() {
                    if !self.are_few(part, keys)? {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(keys.len() <= FEW)
    }

    fn are_few_of(
        &self,
        org: &str,
        kind: &str,
        keys: &mut Vec<AggregateKey>,
    ) -> Result<bool, Fault> {
        let ids = self.names(&[org, kind])?;
        // Names in the directory are those of keys.
        keys.extend(ids.names.iter().filter_map(|id| AggregateKey::new(org, kind, id).ok()));
        Ok(!ids.more && keys.len() <= FEW)
    }

    /// Of what is deleted nothing is told but its notice.
    fn names(&self, parents: &[&str]) -> Result<ListPage, Fault> {
        let mut listing = Listing::default();
        let is_all = self.directory.list(parents, "", None, FEW, &mut listing, &self.pins)?;
        let ListPage { names, more } = listing.page;
        Ok(ListPage { names, more: more || !is_all })
    }
}
