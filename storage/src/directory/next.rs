//! Where an aggregate's next batch lies: so that a reader of few aggregates skips the log between.

use celeriant_schema::{AggregateKey, Version};

use super::lookup::Source;
use super::rows::{HeadRow, Located, RowKey};
use super::{BatchLocation, Directory, Fault, Pins};

impl Directory {
    /// First batch of `key` in a frame that starts at `sector` of `segment` or later. `None`: there
    /// is none. What takes away only is no batch here: see [`Self::erasures`].
    ///
    /// Later versions lie further behind, in a run and from run to run: a search by halves.
    ///
    /// # Errors
    /// A page is missing or damaged.
    pub fn next_batch(
        &self,
        key: &AggregateKey,
        (segment, sector): (u32, u32),
        pins: &Pins,
    ) -> Result<Option<BatchLocation>, Fault> {
        let prefix = RowKey::aggregate(key);
        let is_before = |at: &BatchLocation| (at.segment, at.frame_offset) < (segment, sector);
        let mut next = None;
        for source in self.sources(pins) {
            let Some(head) = source.head(&prefix)? else { continue };
            if head.first_version > head.version {
                continue;
            }
            let found = first_from(&source, &prefix, &head, is_before)?;
            let Some((first_version, _, location)) = found else { break };
            next = Some(location);
            if first_version > head.first_version || first_version == Version::new(1) {
                break;
            }
        }
        Ok(next)
    }
}

/// The first batch in `source` that is not before.
fn first_from(
    source: &Source<'_>,
    prefix: &RowKey,
    head: &HeadRow,
    is_before: impl Fn(&BatchLocation) -> bool,
) -> Result<Option<Located>, Fault> {
    let (mut low, mut high) = (head.first_version.value(), head.version.value() + 1);
    let mut found = None;
    while low < high {
        let middle = Version::new(low + (high - low) / 2);
        let chunk = source.chunk(prefix, middle, false)?;
        let Some(batch) = chunk.within(middle, middle).next() else { break };
        let (first, last, location) = &batch;
        match is_before(location) {
            true => low = last.value() + 1,
            false => (high, found) = (first.value(), Some(batch)),
        }
    }
    Ok(found)
}
