//! Orders of audits: frames' hashes, and the evidence for an event. JSON, like all orders.
//!
//! ```text
//! {"order":"audit","do":"frames","shard":0,"after":120}       hashes of the frames behind an lsn
//! {"order":"audit","do":"event","key":"a/b/c","version":4,"stamp":…}     what is around an event
//! ```
//! A shard answers them, on whatever node, of what is committed: each is one bounded read of its
//! log, and nothing is kept between two. Heads and proofs are made of the answers by whoever asks
//! (`celeriant_schema::audit`), so that no server has to be believed.

use celeriant_schema::{AggregateKey, Refusal, ShardId};
use serde::{Deserialize, Serialize};

use crate::admin::Order;

/// What an audit may ask of a shard.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AuditOrder {
    /// Hashes of committed frames.
    Frames {
        /// Of which shard.
        shard: u16,
        /// Behind this record.
        after: u64,
    },
    /// What is around an event in its frame.
    Event {
        /// `org/type/id`.
        key: String,
        /// Its version.
        version: u64,
        /// Its stamp.
        stamp: u64,
    },
}

impl AuditOrder {
    /// Reads an order; `None`: it is not one of an audit.
    pub(crate) fn of(order: &[u8]) -> Option<Result<Self, Refusal>> {
        #[derive(Deserialize)]
        struct Gist {
            order: String,
        }
        match serde_json::from_slice(order) {
            Ok(Order::Audit(order)) => Some(Ok(order)),
            Ok(_) => None,
            Err(error) => {
                let gist: Gist = serde_json::from_slice(order).ok()?;
                (gist.order == "audit").then(|| Err(Refusal::invalid("order", error)))
            }
        }
    }

    /// The shard that it is for.
    ///
    /// # Errors
    /// `InvalidArgument`: there is none.
    pub(crate) fn shard(&self, shards: u16) -> Result<ShardId, Refusal> {
        match self {
            Self::Frames { shard, .. } if *shard < shards => Ok(ShardId::new(*shard)),
            Self::Frames { .. } => {
                Err(Refusal::invalid("shard", format!("there are {shards} shards")))
            }
            Self::Event { key, .. } => Ok(parse_key(key)?.shard(shards)),
        }
    }
}

pub(crate) fn parse_key(key: &str) -> Result<AggregateKey, Refusal> {
    key.parse().map_err(|error: celeriant_schema::key::KeyError| Refusal::invalid("key", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_of_audits_are_told_from_others_and_go_to_their_shard() {
        let frames = br#"{"order":"audit","do":"frames","shard":2,"after":7}"#;
        let order = AuditOrder::of(frames).expect("of an audit").expect("readable");
        assert_eq!(order, AuditOrder::Frames { shard: 2, after: 7 });
        assert_eq!(order.shard(3), Ok(ShardId::new(2)));
        assert!(order.shard(2).is_err());
        let event = br#"{"order":"audit","do":"event","key":"a/b/c","version":1,"stamp":9}"#;
        let order = AuditOrder::of(event).expect("of an audit").expect("readable");
        assert_eq!(order.shard(5), Ok(parse_key("a/b/c").expect("valid").shard(5)));
        for wrong in [&br#"{"order":"audit"}"#[..], br#"{"order":"audit","do":"x"}"#] {
            assert!(AuditOrder::of(wrong).expect("of an audit").is_err());
        }
        for other in [&br#"{"order":"status"}"#[..], b"{", b"[]"] {
            assert!(AuditOrder::of(other).is_none());
        }
    }
}
