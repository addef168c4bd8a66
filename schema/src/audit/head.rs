//! A store's audit head: for every shard, one hash that stands for its log up to a place; and the
//! walk over frames' hashes that makes it again.
//!
//! ```text
//! server: pages of (last lsn, last stamp, hash) of frames ─► Walk ─► ShardHead     whoever asks
//! ```
//! Whoever wants a head makes it himself, so a server cannot give one that its frames do not have.
//! A page is one bounded read of the server, which keeps nothing between two.

use serde::{Deserialize, Serialize};

use super::mountains::{Head, Mountains, Proof, Prover};
use crate::hash::Hash;

/// What is kept somewhere else, to hold the store against later.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditHead {
    /// The cluster, as a UUID.
    pub cluster: String,
    /// Every shard, by number.
    pub shards: Vec<ShardHead>,
}

/// Where a shard's log stands, and what it is up to there.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardHead {
    /// Which shard.
    pub shard: u16,
    /// Last record of the last frame; 0 without frames.
    pub lsn: u64,
    /// Last stamp of it.
    pub stamp: u64,
    /// How many frames.
    pub frames: u64,
    /// Over their hashes, in order: [`Head::hash`].
    pub hash: Hash,
}

impl ShardHead {
    /// The head of the mountain range that it is.
    pub const fn head(&self) -> Head {
        Head { count: self.frames, hash: self.hash }
    }
}

/// Committed frames of one shard that follow each other, as a server answers
/// `{"order":"audit","do":"frames"}`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct FramesPage {
    /// The cluster, as a UUID.
    pub cluster: String,
    /// Which shard.
    pub shard: u16,
    /// How many shards there are.
    pub shards: u16,
    /// The frames behind the lsn that was asked for; none: that was all.
    pub frames: Vec<FrameLeaf>,
}

/// One frame: its last record, its last stamp, its hash.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct FrameLeaf(pub u64, pub u64, pub Hash);

/// Why no head can be made.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WalkError {
    /// Frames that do not follow what came before.
    #[error("shard {shard}: the frame that ends at lsn {lsn} does not follow lsn {after}")]
    Order {
        /// Which shard.
        shard: u16,
        /// What came.
        lsn: u64,
        /// Behind this.
        after: u64,
    },
    /// The log has fewer frames than were asked for.
    #[error("shard {shard} has {found} frames, where there were {wanted}")]
    Short {
        /// Which shard.
        shard: u16,
        /// How many there are.
        found: u64,
        /// How many there should be.
        wanted: u64,
    },
}

/// Makes a shard's head, and a proof on the way, from its frames in order.
#[derive(Clone, Debug)]
pub struct Walk {
    shard: u16,
    upto: Option<u64>,
    mountains: Mountains,
    /// Last record of the frames so far, and its stamp.
    lsn: u64,
    stamp: u64,
    /// The frame with this record is to be proved.
    wanted: Option<u64>,
    prover: Option<Prover>,
}

impl Walk {
    /// Over all frames of `shard`, or its first `upto`.
    pub fn new(shard: u16, upto: Option<u64>) -> Self {
        let (mountains, wanted, prover) = (Mountains::default(), None, None);
        Self { shard, upto, mountains, lsn: 0, stamp: 0, wanted, prover }
    }

    /// The same, and proves that the frame with the record at `lsn` is among them.
    pub fn proving(self, lsn: u64) -> Self {
        Self { wanted: Some(lsn), ..self }
    }

    /// What to ask for next: frames behind this record. `None`: there are as many as wanted.
    pub fn after(&self) -> Option<u64> {
        (self.upto != Some(self.mountains.count())).then_some(self.lsn)
    }

    /// Takes the frames that follow. `false`: there is nothing more to ask for.
    ///
    /// # Errors
    /// When they are not in order, or are fewer than wanted.
    pub fn take(&mut self, frames: &[FrameLeaf]) -> Result<bool, WalkError> {
        for FrameLeaf(lsn, stamp, hash) in frames {
            if self.after().is_none() {
                break;
            }
            if *lsn <= self.lsn {
                return Err(WalkError::Order { shard: self.shard, lsn: *lsn, after: self.lsn });
            }
            if self.prover.is_none() && self.wanted.is_some_and(|wanted| wanted <= *lsn) {
                self.prover = Some(Prover::for_next(self.mountains.clone()));
            }
            self.mountains.push(*hash);
            if let Some(prover) = &mut self.prover {
                prover.push(*hash);
            }
            (self.lsn, self.stamp) = (*lsn, *stamp);
        }
        match (self.after(), self.upto) {
            (None, _) => Ok(false),
            (Some(_), Some(wanted)) if frames.is_empty() => {
                let found = self.mountains.count();
                Err(WalkError::Short { shard: self.shard, found, wanted })
            }
            (Some(_), _) => Ok(!frames.is_empty()),
        }
    }

    /// The head over the frames so far.
    pub fn head(&self) -> ShardHead {
        let Head { count, hash } = self.mountains.head();
        let Self { shard, lsn, stamp, .. } = *self;
        ShardHead { shard, lsn, stamp, frames: count, hash }
    }

    /// The proof, if the frame came by.
    pub fn proof(self) -> Option<Proof> {
        self.prover.and_then(Prover::finish).map(|(proof, _)| proof)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(count: u64) -> Vec<FrameLeaf> {
        (1..=count).map(|n| FrameLeaf(3 * n, 10 * n, Hash([n as u8; 32]))).collect()
    }

    #[test]
    fn a_walk_in_pages_makes_the_head_and_the_proof_of_one_that_takes_all_at_once() {
        let all = frames(7);
        let mut whole = Walk::new(1, None);
        assert_eq!(whole.take(&all), Ok(true));
        assert_eq!(whole.take(&[]), Ok(false));
        let mut paged = Walk::new(1, Some(7)).proving(8);
        for page in all.chunks(2) {
            assert_eq!(paged.after(), Some(page[0].0 - 3));
            paged.take(page).expect("in order");
        }
        assert_eq!((paged.after(), paged.head()), (None, whole.head()));
        let head = paged.head();
        assert_eq!((head.lsn, head.stamp, head.frames), (21, 70, 7));
        let proof = paged.proof().expect("came by");
        // The record at 8 is in the frame that ends at 9, the third.
        assert!(proof.index() == 2 && proof.proves(all[2].2, &head.head()));
        assert!(!proof.proves(all[3].2, &head.head()));
    }

    #[test]
    fn frames_out_of_order_and_logs_that_are_too_short_make_no_head() {
        let mut walk = Walk::new(0, Some(3));
        assert_eq!(walk.take(&frames(2)), Ok(true));
        let order = WalkError::Order { shard: 0, lsn: 3, after: 6 };
        assert_eq!(walk.clone().take(&frames(1)), Err(order));
        assert_eq!(walk.take(&[]), Err(WalkError::Short { shard: 0, found: 2, wanted: 3 }));
        let mut short = Walk::new(0, Some(1)).proving(4);
        assert_eq!(short.take(&frames(2)), Ok(false));
        assert_eq!(short.head().frames, 1);
        assert!(short.proof().is_none());
    }
}
