//! Holding a store against what it was: audit heads, and proofs that an event is in its log.
//!
//! ```text
//! audit_head()  ─► keep it somewhere else ─► audit_check(&head) later: it still begins like that
//! audit_prove() ─► InclusionProof ─► InclusionProof::check(&head): offline, without the store
//! ```
//! Heads are made here, of the hashes of all frames: 100 bytes each over the wire, so a head takes
//! time with the length of the logs. The store is believed in nothing that is checked.

pub use celeriant_schema::audit::head::{AuditHead, ShardHead, WalkError};
pub use celeriant_schema::audit::inclusion::{Included, InclusionError, InclusionProof};

use celeriant_schema::audit::head::{FramesPage, Walk};
use celeriant_schema::audit::inclusion::{Evidence, Seek, Sought};
use celeriant_schema::{AggregateKey, Version};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::resend::Resend;
use crate::{Client, Error};

/// Why an audit did not come to its end, or what it found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] Error),
    /// It answered what makes no sense.
    #[error("the store's answer cannot be read: {0}")]
    Answer(String),
    /// Its frames make no head: the log is shorter than it was, or not in order.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// The store is not the one that the head is of.
    #[error("the store is cluster {found}, the head is of {expected}")]
    Foreign {
        /// The head's.
        expected: String,
        /// The store's.
        found: String,
    },
    /// History is not what it was.
    #[error(
        "shard {} is not what it was: its first {} frames have hash {}, and had {}",
        .expected.shard, .expected.frames, .found.hash, .expected.hash
    )]
    Changed {
        /// As it was.
        expected: ShardHead,
        /// As it is.
        found: ShardHead,
    },
    /// The event came after the head was made.
    #[error("{key} version {version} came after the head was made")]
    Later {
        /// Which aggregate.
        key: AggregateKey,
        /// Which event.
        version: Version,
    },
    /// The store has no such event to show.
    #[error("{key} has no version {version} to read")]
    Absent {
        /// Which aggregate.
        key: AggregateKey,
        /// Which event.
        version: Version,
    },
    /// The store's own proof does not hold.
    #[error(transparent)]
    Inclusion(#[from] InclusionError),
}

impl Client {
    /// The head of everything that is committed now, made of all frames of all shards. Any node may
    /// answer: an event whose receipt has just come may be missing from a follower's.
    ///
    /// # Errors
    /// `AuditError::Store`; `Answer` and `Walk` from a store that makes no sense.
    pub async fn audit_head(&self) -> Result<AuditHead, AuditError> {
        let first = self.frames_page(0, 0).await?;
        let (cluster, count) = (first.cluster, first.shards);
        let mut shards = Vec::new();
        for shard in 0..count {
            shards.push(self.audit_walk(Walk::new(shard, None), &cluster).await?.head());
        }
        Ok(AuditHead { cluster, shards })
    }

    /// Holds the store against a head from before: every shard still begins with the very frames
    /// that it had.
    ///
    /// # Errors
    /// `AuditError::Changed` or `Walk` name the first shard that does not.
    pub async fn audit_check(&self, head: &AuditHead) -> Result<(), AuditError> {
        for expected in &head.shards {
            let walk = Walk::new(expected.shard, Some(expected.frames));
            let found = self.audit_walk(walk, &head.cluster).await?.head();
            if found != *expected {
                return Err(AuditError::Changed { expected: *expected, found });
            }
        }
        Ok(())
    }

    /// Proves that an event is in the log that `head` stands for. The proof has been checked when
    /// it is returned, and can be checked by anybody who has the head.
    ///
    /// # Errors
    /// `AuditError::Later`: make a new head. `Absent`: the event, or the one before it, cannot be
    /// read. `Inclusion`: what the store says does not prove it.
    pub async fn audit_prove(
        &self,
        key: &AggregateKey,
        version: impl Into<Version>,
        head: &AuditHead,
    ) -> Result<InclusionProof, AuditError> {
        let version = version.into();
        let absent = || AuditError::Absent { key: key.clone(), version };
        let sought = self.sought(key, version).await?.ok_or_else(absent)?;
        let order = json!({
            "order": "audit", "do": "event", "key": key.as_str(),
            "version": version.value(), "stamp": sought.stamp.value(),
        });
        let evidence: Evidence = self.audit_ask(&order).await?;
        let later = || AuditError::Later { key: key.clone(), version };
        let shard = evidence.frame.shard;
        let shard = head.shards.iter().find(|of| of.shard == shard).ok_or_else(later)?;
        let walk = Walk::new(shard.shard, Some(shard.frames)).proving(evidence.lsn());
        let walk = self.audit_walk(walk, &head.cluster).await?;
        let path = walk.proof().ok_or_else(later)?;
        let proof = InclusionProof::new(key, version, sought, evidence, &path);
        proof.check(head)?;
        Ok(proof)
    }

    async fn sought(&self, key: &AggregateKey, version: Version) -> Result<Option<Sought>, Error> {
        let mut seek = Seek::new(key, version);
        let mut read = self.read(key).from(seek.from()).to(version);
        loop {
            let page = read.clone().ask().await?;
            if let Some(sought) = seek.take(&page.batches) {
                return Ok(Some(sought));
            }
            match page.next {
                Some(next) => read.query.from = next,
                None => return Ok(None),
            }
        }
    }

    async fn audit_walk(&self, mut walk: Walk, cluster: &str) -> Result<Walk, AuditError> {
        while let Some(after) = walk.after() {
            let page = self.frames_page(walk.head().shard, after).await?;
            if page.cluster != cluster {
                let (expected, found) = (cluster.to_owned(), page.cluster);
                return Err(AuditError::Foreign { expected, found });
            }
            if !walk.take(&page.frames)? {
                break;
            }
        }
        Ok(walk)
    }

    async fn frames_page(&self, shard: u16, after: u64) -> Result<FramesPage, AuditError> {
        let order = json!({"order": "audit", "do": "frames", "shard": shard, "after": after});
        self.audit_ask(&order).await
    }

    async fn audit_ask<T: DeserializeOwned>(
        &self,
        order: &serde_json::Value,
    ) -> Result<T, AuditError> {
        let report = self.order(order.to_string(), Resend::Read).await?;
        serde_json::from_slice(&report).map_err(|error| AuditError::Answer(error.to_string()))
    }
}
