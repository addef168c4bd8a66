//! What a shard remembers of one client's writes to one aggregate (semantics.md §3).

use celeriant_schema::limits::SEQUENCES_REMEMBERED;
use celeriant_schema::{Hash, Sequence, Stamp, Version};

/// A write that landed, as far as one aggregate is concerned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Remembered {
    /// The writer's number for it.
    pub sequence: Sequence,
    /// Version of its first event.
    pub first_version: Version,
    /// Version of its last event.
    pub last_version: Version,
    /// Chain hash after it.
    pub hash: Hash,
    /// Largest stamp of the write in this shard.
    pub stamp: Stamp,
    /// Hash of the whole write: tells a retry from another use of the same number.
    pub write_hash: Hash,
}

/// The newest sequences of one client in one aggregate, at most 16, oldest first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClientSequences {
    recent: Vec<Remembered>,
}

impl ClientSequences {
    /// What is remembered of the highest; `None` if nothing is.
    pub fn newest(&self) -> Option<&Remembered> {
        self.recent.last()
    }

    /// The lowest that is remembered with its receipt; 0 if none.
    pub fn oldest(&self) -> Sequence {
        self.recent.first().map_or(Sequence::new(0), |oldest| oldest.sequence)
    }

    /// What is remembered of `sequence`.
    pub fn find(&self, sequence: Sequence) -> Option<&Remembered> {
        let at = self.recent.binary_search_by_key(&sequence, |it| it.sequence).ok()?;
        self.recent.get(at)
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Remembered> {
        self.recent.iter()
    }

    /// Whether older rows can add nothing: it is full, or begins with the first sequence.
    pub(crate) fn is_complete(&self) -> bool {
        self.recent.len() == SEQUENCES_REMEMBERED || self.oldest() == Sequence::new(1)
    }

    /// Forgets writes up to `stamp`.
    pub(crate) fn forget(&mut self, stamp: Stamp) {
        self.recent.retain(|it| it.stamp > stamp);
    }

    /// Nothing is remembered.
    pub(crate) fn is_empty(&self) -> bool {
        self.recent.is_empty()
    }

    /// Memory that it uses, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.recent.capacity() * size_of::<Remembered>()
    }

    /// Adds what was remembered before, as far as there is room. What these do not go on from was
    /// forgotten, and they began anew.
    pub(crate) fn prepend(&mut self, older: &[Remembered]) {
        let began_anew = |first: &Remembered| {
            older.last().is_some_and(|before| before.sequence >= first.sequence)
        };
        if self.recent.first().is_some_and(began_anew) {
            return;
        }
        let room = SEQUENCES_REMEMBERED - self.recent.len();
        let kept = &older[older.len().saturating_sub(room)..];
        self.recent.splice(0..0, kept.iter().copied());
    }

    pub(crate) fn remember(&mut self, remembered: Remembered) {
        if self.recent.len() == SEQUENCES_REMEMBERED {
            self.recent.remove(0);
        }
        if self.recent.is_empty() {
            self.recent.reserve_exact(1);
        }
        self.recent.push(remembered);
    }
}
