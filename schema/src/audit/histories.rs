//! Checking the events of many aggregates in the order of a feed, as an export keeps them.
//!
//! ```text
//! 1  2  3  notice(deleted at 3, hash of 3)  4  5      the hash of 3 leads on to 4
//! 1  .  .  4  5  notice(trimmed below 4)              4 is taken for granted, 5 is computed
//! ```
//! A feed leaves out what was deleted or trimmed by the time it is read, and tells of it later, in
//! its place: until then a gap is open, and one that is still open at the end is a mismatch. Of an
//! aggregate 100 bytes are kept, whatever its key and however long its history.

use std::collections::BTreeMap;

use super::{Chain, ChainError};
use crate::event::EventBody;
use crate::feed::{FeedBatch, FeedPage, Notice, Selector};
use crate::hash::{Hash, chain_start};
use crate::ids::{Stamp, Version};
use crate::key::AggregateKey;
use crate::response::{BatchHeader, ReadEvent};

/// All aggregates of a feed that is read from its beginning.
#[derive(Clone, Debug)]
pub struct Histories {
    selector: Selector,
    /// By the hash of the key: keys of any length take the same.
    chains: BTreeMap<Hash, Followed>,
    open: BTreeMap<Hash, Open>,
    last: Stamp,
    upto: Stamp,
    events: u64,
    granted: u64,
    notices: u64,
}

#[derive(Clone, Copy, Debug)]
struct Followed {
    chain: Chain,
    /// First event of those that lead up to `chain` without one missing.
    since: Version,
}

/// Events that did not come, and should have been told to be gone.
#[derive(Clone, Debug)]
struct Open {
    key: AggregateKey,
    /// The first and the last of them.
    missing: (Version, Version),
    /// Of what came instead.
    stamp: Stamp,
}

/// What was checked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Checked {
    /// Aggregates.
    pub aggregates: u64,
    /// Events whose hash was computed.
    pub events: u64,
    /// Events whose hash was taken for granted, because the one before them is gone; it is covered
    /// by that of the event behind.
    pub granted: u64,
    /// Deletions and trims.
    pub notices: u64,
    /// Everything up to here was there.
    pub upto: Stamp,
}

/// What does not match.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HistoryError {
    /// An event is not the one that was hashed.
    #[error("{key}: {error}")]
    Chain {
        /// Whose.
        key: AggregateKey,
        /// What does not hold.
        error: ChainError,
    },
    /// A deletion or trim does not fit to the events before it.
    #[error(
        "{key}: a notice at stamp {stamp} says version {version} with hash {stated}, but the \
         events before it end at version {at}, or with another hash"
    )]
    Notice {
        /// Whose.
        key: AggregateKey,
        /// Of the notice.
        stamp: Stamp,
        /// What it says.
        version: Version,
        /// What it says.
        stated: Hash,
        /// What the events say.
        at: Version,
    },
    /// Events are missing that nothing says to be gone.
    #[error("{key}: versions {first} to {last} are missing before stamp {stamp}")]
    Missing {
        /// Whose.
        key: AggregateKey,
        /// The first that is missing.
        first: Version,
        /// The last that is missing.
        last: Version,
        /// Of what came instead.
        stamp: Stamp,
    },
    /// Something is not in the order of stamps, or beyond what its page is said to reach.
    #[error("stamp {stamp} is out of order: it comes behind {after}, in a page up to {upto}")]
    Order {
        /// What came.
        stamp: Stamp,
        /// What came before.
        after: Stamp,
        /// Where the page ends.
        upto: Stamp,
    },
    /// An aggregate that the selector does not cover.
    #[error("{key} is not among what was selected")]
    NotSelected {
        /// Which.
        key: AggregateKey,
    },
}

impl Histories {
    /// Of everything that `selector` covers.
    pub fn new(selector: Selector) -> Self {
        let (chains, open, last, upto) = Default::default();
        Self { selector, chains, open, last, upto, events: 0, granted: 0, notices: 0 }
    }

    /// Checks the next page.
    ///
    /// # Errors
    /// The first thing that does not match.
    pub fn take(&mut self, page: &FeedPage) -> Result<(), HistoryError> {
        let order = |stamp, after| Err(HistoryError::Order { stamp, after, upto: page.upto });
        if page.upto < self.upto {
            return order(page.upto, self.upto);
        }
        for batch in &page.batches {
            let stamp = batch.batch.header.stamp;
            if stamp <= self.last || stamp > page.upto {
                return order(stamp, self.last);
            }
            self.last = stamp;
            self.batch(batch)?;
        }
        self.upto = page.upto;
        Ok(())
    }

    /// Of what.
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// Where an aggregate stands: its version and hash, and the version from which on nothing is
    /// missing before that.
    pub fn standing(&self, key: &AggregateKey) -> Option<(Chain, Version)> {
        let followed = self.chains.get(&chain_start(key))?;
        Some((followed.chain, followed.since))
    }

    /// Whether of everything that did not come it was told that it is gone.
    pub fn is_whole(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether that is still to be told of this aggregate.
    pub fn is_open(&self, key: &AggregateKey) -> bool {
        self.open.contains_key(&chain_start(key))
    }

    /// What was checked, when everything has come.
    ///
    /// # Errors
    /// `HistoryError::Missing`, for the earliest place.
    pub fn finish(self) -> Result<Checked, HistoryError> {
        if let Some(open) = self.open.into_values().min_by_key(|open| open.stamp) {
            let Open { key, missing: (first, last), stamp } = open;
            return Err(HistoryError::Missing { key, first, last, stamp });
        }
        let aggregates = self.chains.len() as u64;
        let Self { events, granted, notices, upto, .. } = self;
        Ok(Checked { aggregates, events, granted, notices, upto })
    }

    fn batch(&mut self, batch: &FeedBatch) -> Result<(), HistoryError> {
        let FeedBatch { key, batch, notice } = batch;
        if !self.selector.matches(key) {
            return Err(HistoryError::NotSelected { key: key.clone() });
        }
        let place = chain_start(key);
        let start = || Followed { chain: Chain::start(key), since: Version::NONE.next() };
        let mut followed = self.chains.get(&place).copied().unwrap_or_else(start);
        if let Some(notice) = notice {
            self.notice(place, key, &batch.header, notice, &mut followed)?;
        }
        for event in &batch.events {
            self.event(place, key, &batch.header, event, &mut followed)?;
        }
        self.chains.insert(place, followed);
        Ok(())
    }

    fn event(
        &mut self,
        place: Hash,
        key: &AggregateKey,
        header: &BatchHeader,
        event: &ReadEvent,
        followed: &mut Followed,
    ) -> Result<(), HistoryError> {
        let failed = |error| HistoryError::Chain { key: key.clone(), error };
        let version = event.version;
        if version <= followed.chain.version().next() {
            followed.chain.check(header, event).map_err(failed)?;
            self.events += 1;
            return Ok(());
        }
        EventBody::new(&event.body).map_err(|_| failed(ChainError::Malformed { version }))?;
        let last = Version::new(version.value() - 1);
        self.miss(place, key, followed.chain.version().next(), last, header.stamp);
        *followed = Followed { chain: Chain::after(version, event.hash), since: version };
        self.granted += 1;
        Ok(())
    }

    fn notice(
        &mut self,
        place: Hash,
        key: &AggregateKey,
        header: &BatchHeader,
        notice: &Notice,
        followed: &mut Followed,
    ) -> Result<(), HistoryError> {
        let (version, stamp, stated) = (header.last_version, header.stamp, notice.hash);
        let (at, found) = (followed.chain.version(), followed.chain.hash());
        if at > version || (at == version && found != stated) {
            let key = key.clone();
            return Err(HistoryError::Notice { key, stamp, version, stated, at });
        }
        if at < version {
            self.miss(place, key, at.next(), version, stamp);
            let (chain, since) = (Chain::after(version, stated), version.next());
            *followed = Followed { chain, since };
        }
        let left = notice.what.first_available(version.next());
        if self.open.get(&place).is_some_and(|open| open.missing.1 < left) {
            self.open.remove(&place);
        }
        self.notices += 1;
        Ok(())
    }

    /// Versions that did not come. What is told to be gone below one is so below all before it.
    fn miss(
        &mut self,
        place: Hash,
        key: &AggregateKey,
        first: Version,
        last: Version,
        stamp: Stamp,
    ) {
        let open = Open { key: key.detached(), missing: (first, last), stamp };
        self.open.entry(place).or_insert(open).missing.1 = last;
    }
}

#[cfg(test)]
#[path = "histories/histories_test.rs"]
mod tests;
