//! Checking what was read against its hashes: one aggregate's chain, and inclusion in a log.
//!
//! ```text
//! chain      every event's hash covers the one before: Chain follows them while they are read
//! histories  the chains of many aggregates, in the order of a feed
//! mountains  a log's frame hashes as a Merkle mountain range: a head of 32 bytes stands for all of
//!            them, and about log2(n) hashes prove that one of them is among them
//! head       such a head of every shard, and the walk that makes it
//! inclusion  from an event's bytes up to such a head
//! ```
//! Pure functions of values, without trust in whoever delivered them: clients and `verify` use the
//! same.

pub mod head;
pub mod hex;
pub mod histories;
pub mod inclusion;
pub mod mountains;

use crate::event::EventBody;
use crate::hash::{EventContext, Hash, chain_start, event_hash};
use crate::ids::Version;
use crate::key::AggregateKey;
use crate::response::{BatchHeader, ReadEvent};

/// An aggregate's chain, followed from its start or from a hash that is trusted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Chain {
    version: Version,
    hash: Hash,
}

/// Where a chain does not hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ChainError {
    /// An event is left out, or comes twice: filters hide events, so read without any.
    #[error("expected version {expected}, got {found}")]
    Gap {
        /// The next version.
        expected: Version,
        /// What came.
        found: Version,
    },
    /// The bytes are no event, or the numbers around them are impossible.
    #[error("version {version} is not an event")]
    Malformed {
        /// Which.
        version: Version,
    },
    /// The event, or what is said about it, is not what was hashed.
    #[error("version {version} has hash {found}, but is said to have {stated}")]
    Hash {
        /// Which.
        version: Version,
        /// What it hashes to.
        found: Hash,
        /// What was delivered with it.
        stated: Hash,
    },
}

impl Chain {
    /// Of an aggregate that has no events yet.
    pub fn start(key: &AggregateKey) -> Self {
        Self { version: Version::NONE, hash: chain_start(key) }
    }

    /// Goes on after a version whose hash is trusted: from a receipt, or after a trim.
    pub const fn after(version: Version, hash: Hash) -> Self {
        Self { version, hash }
    }

    /// Newest version that was checked.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The chain's hash there.
    pub const fn hash(&self) -> Hash {
        self.hash
    }

    /// Checks the next event. On error the chain stays where it was.
    ///
    /// # Errors
    /// What does not match.
    pub fn check(&mut self, batch: &BatchHeader, event: &ReadEvent) -> Result<(), ChainError> {
        let (expected, version) = (self.version.next(), event.version);
        if version != expected {
            return Err(ChainError::Gap { expected, found: version });
        }
        let malformed = ChainError::Malformed { version };
        let ahead = version.value().checked_sub(batch.first_version.value()).ok_or(malformed)?;
        let stamp = batch.stamp.value().checked_add(ahead).ok_or(malformed)?;
        let body = EventBody::new(&event.body).map_err(|_| malformed)?;
        let context = EventContext {
            prev: self.hash,
            version,
            stamp: stamp.into(),
            server_time: batch.server_time,
            client_id: batch.client_id,
            sequence: batch.sequence,
        };
        let found = event_hash(&context, body.head(), body.payload());
        if found != event.hash {
            return Err(ChainError::Hash { version, found, stated: event.hash });
        }
        *self = Self { version, hash: found };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ids::{ClientId, Sequence, Stamp};
    use crate::samples::{full_event, plain_event, sample_key};

    /// Three events in two batches, as a server that is honest delivers them.
    fn read() -> Vec<(BatchHeader, ReadEvent)> {
        let mut chain = chain_start(&sample_key());
        let mut read = Vec::new();
        let events = [full_event(), plain_event("Paid", b"42"), plain_event("Sent", b"")];
        for (version, event) in (1..).zip(events) {
            let (first, sequence) = if version < 3 { (1, 1) } else { (3, 2) };
            let header = BatchHeader {
                first_version: Version::new(first),
                last_version: Version::new(if version < 3 { 2 } else { 3 }),
                client_id: ClientId::new(9),
                sequence: Some(Sequence::new(sequence)),
                server_time: 1_000 + first as i64,
                stamp: Stamp::new(100 * first),
                write_id: crate::ids::WriteId::default(),
            };
            let mut body = Vec::new();
            event.encode_into(&mut body).expect("valid");
            let whole = EventBody::new(&body).expect("valid");
            let context = EventContext {
                prev: chain,
                version: Version::new(version),
                stamp: Stamp::new(100 * first + version - first),
                server_time: header.server_time,
                client_id: header.client_id,
                sequence: header.sequence,
            };
            chain = event_hash(&context, whole.head(), whole.payload());
            let (version, hash) = (context.version, chain);
            read.push((header, ReadEvent { version, hash, body: Bytes::from(body) }));
        }
        read
    }

    fn check(read: &[(BatchHeader, ReadEvent)]) -> Result<Chain, ChainError> {
        let mut chain = Chain::start(&sample_key());
        read.iter().try_for_each(|(batch, event)| chain.check(batch, event))?;
        Ok(chain)
    }

    #[test]
    fn an_honest_read_verifies_up_to_its_head() {
        let read = read();
        let chain = check(&read).expect("honest");
        assert_eq!((chain.version(), chain.hash()), (Version::new(3), read[2].1.hash));
        let mut resumed = Chain::after(Version::new(2), read[1].1.hash);
        assert_eq!(resumed.check(&read[2].0, &read[2].1), Ok(()));
        assert_eq!(resumed, chain);
    }

    #[test]
    fn every_changed_byte_and_number_is_named_by_its_version() {
        let honest = read();
        let named = |changed: &[(BatchHeader, ReadEvent)], version: u64| match check(changed) {
            Err(
                ChainError::Hash { version: named, .. } | ChainError::Malformed { version: named },
            ) => {
                assert_eq!(named, Version::new(version));
            }
            other => panic!("{other:?}"),
        };
        for at in 0..honest.len() {
            for byte in 0..honest[at].1.body.len() {
                let mut changed = honest.clone();
                let mut body = changed[at].1.body.to_vec();
                body[byte] ^= 0x10;
                changed[at].1.body = body.into();
                named(&changed, at as u64 + 1);
            }
        }
        let changes: [fn(&mut BatchHeader); 4] = [
            |batch| batch.client_id = ClientId::new(8),
            |batch| batch.sequence = None,
            |batch| batch.server_time += 1,
            |batch| batch.stamp = Stamp::new(batch.stamp.value() + 1),
        ];
        for change in changes {
            let mut changed = honest.clone();
            change(&mut changed[2].0);
            named(&changed, 3);
        }
    }

    #[test]
    fn events_cannot_be_left_out_repeated_swapped_or_moved_to_another_aggregate() {
        let honest = read();
        let pick = |order: &[usize]| order.iter().map(|at| honest[*at].clone()).collect::<Vec<_>>();
        for order in [&[1][..], &[0, 2], &[0, 0], &[1, 0]] {
            assert!(matches!(check(&pick(order)), Err(ChainError::Gap { .. })), "{order:?}");
        }
        let other = "acme/order/1".parse().expect("valid");
        let moved = Chain::start(&other).check(&honest[0].0, &honest[0].1);
        assert!(matches!(moved, Err(ChainError::Hash { .. })));
    }
}
