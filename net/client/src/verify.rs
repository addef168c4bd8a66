//! Checking an aggregate's history against its hashes, without trust in whoever delivers it.

use celeriant_schema::audit::{Chain, ChainError};
use celeriant_schema::{AggregateKey, Hash, ReadEvent, Stamp, Version};

use crate::{Client, Error, Read};

/// A check, being put together: end it with [`Verify::check`].
#[derive(Clone, Debug)]
#[must_use = "nothing is checked before check()"]
pub struct Verify {
    read: Read,
    chain: Chain,
    after: Version,
}

/// How far a history was checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verified {
    /// Every event behind this version was checked. 0: there is nothing else. A later one was taken
    /// for granted: that of [`Verify::after`], or, where the aggregate was trimmed, or deleted and
    /// begun anew, the first event that there is, whose hash covers one that nobody has any more.
    pub after: Version,
    /// The last version; the same as `after` if no event was there to check.
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
    ///
    /// ```no_run
    /// # async fn example(client: celeriant_client::Client, key: celeriant_client::AggregateKey)
    /// #     -> Result<(), celeriant_client::VerifyError> {
    /// let verified = client.verify(&key).check().await?;
    /// if verified.after.value() > 0 {
    ///     println!("what is before version {} was trimmed or deleted", verified.after);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn verify(&self, key: &AggregateKey) -> Verify {
        Verify { read: self.read(key), chain: Chain::start(key), after: Version::NONE }
    }
}

impl Verify {
    /// Only what comes after a version whose hash is trusted: from a receipt, for example that of
    /// the deletion after which the aggregate began anew.
    pub fn after(mut self, version: impl Into<Version>, hash: Hash) -> Self {
        let version = version.into();
        self.after = version;
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
    /// `VerifyError::Chain` names the first version that does not match; that of the first event
    /// that is left is only found out by the one behind it.
    pub async fn check(mut self) -> Result<Verified, VerifyError> {
        loop {
            let page = self.read.clone().ask().await?;
            // Another node may answer next, and be behind this one.
            self.read.query.min_stamp = self.read.query.min_stamp.max(Some(page.stamp));
            for batch in &page.batches {
                for event in &batch.events {
                    let query = &self.read.query;
                    // A batch is not split: its first events may be known already, its last not
                    // asked for.
                    if event.version < query.from || query.to.is_some_and(|to| event.version > to) {
                        continue;
                    }
                    if self.is_cut(event).await? {
                        self.after = event.version;
                        self.chain = Chain::after(event.version, event.hash);
                        continue;
                    }
                    let checked = self.chain.check(&batch.header, event);
                    checked.map_err(|error| self.failed(error))?;
                }
            }
            match page.next {
                Some(next) => self.read.query.from = next,
                None => {
                    let (version, hash) = (self.chain.version(), self.chain.hash());
                    return Ok(Verified { after: self.after, version, hash });
                }
            }
        }
    }

    /// Whether this is the first event because those before it were taken away: a node that merely
    /// leaves them out does not say so.
    async fn is_cut(&self, event: &ReadEvent) -> Result<bool, VerifyError> {
        let first = Version::NONE.next();
        if self.chain.version() != Version::NONE || event.version == first {
            return Ok(false);
        }
        let query = &self.read.query;
        let mut head = self.read.client.head(&query.key);
        if query.any {
            head = head.any();
        }
        if let Some(stamp) = query.min_stamp {
            head = head.min_stamp(stamp);
        }
        let expected = head.await?.first_available;
        if expected < event.version {
            return Err(self.failed(ChainError::Gap { expected, found: event.version }));
        }
        Ok(true)
    }

    fn failed(&self, error: ChainError) -> VerifyError {
        VerifyError::Chain { key: self.read.query.key.clone(), error }
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
        let whole = |version, batch| {
            let version = Version::new(version);
            Verified { after: Version::NONE, version, hash: last_hash(&fake, batch) }
        };
        assert_eq!(all, whole(7, 4));
        let part = client.verify(&key()).to(3u64).check().await.expect("honest");
        assert_eq!(part, whole(3, 1));
        // In the middle of a batch, and behind one.
        let two = client.verify(&key()).to(2u64).check().await.expect("honest");
        for from in [two, part] {
            let rest = client.verify(&key()).after(from.version, from.hash).check().await;
            assert_eq!(rest.expect("honest"), Verified { after: from.version, ..all });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_trim_left_is_verified_behind_its_first_event() {
        // At the start of a batch, in the middle of one, and the last event alone.
        for keep_from in [2, 3, 4, 7] {
            let (fake, client) = written().await;
            let all = client.verify(&key()).check().await.expect("honest");
            fake.with_store(|store| store.trim(&key(), Version::new(keep_from)));
            let left = client.verify(&key()).check().await.expect("honest");
            assert_eq!(left, Verified { after: Version::new(keep_from), ..all });
            let any = client.verify(&key()).any().check().await.expect("honest");
            assert_eq!(any, left);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_behind_a_trim_is_found_and_more_missing_than_was_trimmed() {
        let (fake, client) = written().await;
        fake.with_store(|store| {
            store.trim(&key(), Version::new(3));
            // The first one's hash is found out by the event behind it.
            store.batches_mut(&key())[0].events[0].hash = Hash::ZERO;
        });
        let Err(VerifyError::Chain { error, .. }) = client.verify(&key()).check().await else {
            panic!("it is not what was hashed")
        };
        assert!(matches!(error, ChainError::Hash { version, .. } if version == Version::new(4)));

        let (fake, client) = written().await;
        fake.with_store(|store| {
            store.trim(&key(), Version::new(3));
            store.batches_mut(&key()).remove(0);
        });
        let Err(VerifyError::Chain { error, .. }) = client.verify(&key()).check().await else {
            panic!("one is left out")
        };
        let (expected, found) = (Version::new(3), Version::new(4));
        assert_eq!(error, ChainError::Gap { expected, found });
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
