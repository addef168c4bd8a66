//! Checking an aggregate's history against its hashes, without trust in whoever delivers it.

use celeriant_schema::audit::{Chain, ChainError};
use celeriant_schema::{AggregateKey, Hash, Stamp, Version};

use crate::{Client, Error, Read};

/// A check, being put together: end it with [`Verify::check`].
#[derive(Clone, Debug)]
#[must_use = "nothing is checked before check()"]
pub struct Verify {
    read: Read,
    chain: Chain,
}

/// How far a history was checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verified {
    /// The last version.
    pub version: Version,
    /// Its hash, which stands for everything up to it: that of a receipt for the same version is
    /// the same, or one of the two histories is another.
    pub hash: Hash,
}

/// Why a history was not checked to its end.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] Error),
    /// An event is not the one that was hashed, or is left out.
    #[error("{key}: {error}")]
    Chain {
        /// Whose history.
        key: AggregateKey,
        /// Where it does not hold.
        error: ChainError,
    },
}

impl Client {
    /// Reads all of an aggregate's events, and computes their hashes anew.
    pub fn verify(&self, key: &AggregateKey) -> Verify {
        Verify { read: self.read(key), chain: Chain::start(key) }
    }
}

impl Verify {
    /// Only what comes after a version whose hash is trusted, from a receipt for example.
    pub fn after(mut self, version: impl Into<Version>, hash: Hash) -> Self {
        let version = version.into();
        self.read = self.read.from(version.next());
        self.chain = Chain::after(version, hash);
        self
    }

    /// No further than this version.
    pub fn to(mut self, version: impl Into<Version>) -> Self {
        self.read = self.read.to(version);
        self
    }

    /// As [`Read::any`].
    pub fn any(mut self) -> Self {
        self.read = self.read.any();
        self
    }

    /// As [`Read::min_stamp`].
    pub fn min_stamp(mut self, stamp: impl Into<Stamp>) -> Self {
        self.read = self.read.min_stamp(stamp);
        self
    }

    /// Reads and computes, page after page.
    ///
    /// # Errors
    /// `VerifyError::Chain` names the first version that does not match.
    pub async fn check(mut self) -> Result<Verified, VerifyError> {
        loop {
            let page = self.read.clone().ask().await?;
            let query = &mut self.read.query;
            for batch in &page.batches {
                // A batch is not split: its first events may be known already, its last not asked
                // for.
                let wanted = batch.events.iter().filter(|event| {
                    event.version >= query.from && query.to.is_none_or(|to| event.version <= to)
                });
                for event in wanted {
                    let checked = self.chain.check(&batch.header, event);
                    checked
                        .map_err(|error| VerifyError::Chain { key: query.key.clone(), error })?;
                }
            }
            // Another node may answer next, and be behind this one.
            query.min_stamp = query.min_stamp.max(Some(page.stamp));
            match page.next {
                Some(next) => query.from = next,
                None => {
                    let (version, hash) = (self.chain.version(), self.chain.hash());
                    return Ok(Verified { version, hash });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use celeriant_schema::ReadBatch;

    use super::*;
    use crate::Event;
    use crate::fake::Fake;

    fn key() -> AggregateKey {
        "acme/account/a".parse().expect("valid")
    }

    /// Seven events in five batches, which are three pages.
    async fn written() -> (Fake, Client) {
        let fake = Fake::start();
        let client = fake.client().await;
        for events in [1, 2, 1, 2, 1] {
            let event = |n| Event::json("T", &n).expect("JSON");
            client.append(&key(), (0..events).map(event)).await.expect("appended");
        }
        (fake, client)
    }

    fn last_hash(fake: &Fake, batch: usize) -> Hash {
        let event = |batch: &ReadBatch| batch.events.last().expect("one").hash;
        fake.with_store(|store| event(&store.batches(&key())[batch]))
    }

    #[tokio::test(start_paused = true)]
    async fn an_honest_history_is_verified_to_its_head_in_parts_too() {
        let (fake, client) = written().await;
        let all = client.verify(&key()).check().await.expect("honest");
        assert_eq!(all, Verified { version: Version::new(7), hash: last_hash(&fake, 4) });
        let part = client.verify(&key()).to(3u64).check().await.expect("honest");
        assert_eq!(part, Verified { version: Version::new(3), hash: last_hash(&fake, 1) });
        // In the middle of a batch, and behind one.
        let two = client.verify(&key()).to(2u64).check().await.expect("honest");
        for from in [two, part] {
            let rest = client.verify(&key()).after(from.version, from.hash).check().await;
            assert_eq!(rest.expect("honest"), all);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_history_that_was_changed_is_named_with_its_first_version() {
        for batch in 0..5 {
            let changes: [fn(&mut Vec<ReadBatch>, usize); 3] = [
                |all, at| all[at].header.server_time += 1,
                |all, at| all[at].events[0].hash = Hash::ZERO,
                |all, at| drop(all.remove(at)),
            ];
            for (number, change) in changes.iter().enumerate() {
                let (fake, client) = written().await;
                fake.with_store(|store| change(store.batches_mut(&key()), batch));
                let checked = client.verify(&key()).check().await;
                // Nothing behind a last one that is left out tells: that is what receipts are for.
                if (number, batch) == (2, 4) {
                    assert_eq!(checked.expect("shorter").version, Version::new(6));
                    continue;
                }
                let Err(VerifyError::Chain { error, .. }) = checked else { panic!("{checked:?}") };
                let first = Version::new([1, 2, 4, 5, 7][batch]);
                match error {
                    ChainError::Hash { version, .. } => assert_eq!(version, first),
                    ChainError::Gap { expected, .. } => assert_eq!(expected, first),
                    ChainError::Malformed { .. } => panic!("{error}"),
                }
            }
        }
    }
}
