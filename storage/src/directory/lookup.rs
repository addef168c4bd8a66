//! Answers from the memtable, the table being written out, and the runs, newest first.
//!
//! What a run says of an aggregate ends where the next newer one begins, so the newest head tells
//! where the aggregate stands, and the head rows tell which run has the places of a version. A page
//! that is not in memory ends a lookup: it has changed nothing and is asked again.

use bytes::Bytes;
use celeriant_schema::{AggregateKey, ClientId, Stamp, TxnId, Version};

use super::memtable::Memtable;
use super::pages::PageCache;
use super::rows::{
    Chunk, CutRow, HeadRow, Located, Outcome, RowKey, decode_aborted, decode_client, decode_erasure,
};
use super::{
    AbortedLeg, ClientSequences, Directory, Due, Erasure, Fault, Head, Missing, Pins, Remembered,
    Standing,
};
use crate::error::{Damage, Flaw};
use crate::run::{self, PagePlace, Pages, Run};

/// The pages that one lookup can see.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) cache: &'a PageCache,
    pub(super) pins: &'a Pins,
}

impl Pages for View<'_> {
    fn page(&self, place: PagePlace) -> Option<Bytes> {
        self.pins.get(place).or_else(|| self.cache.get(&place))
    }
}

/// One of the places that know something.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    Table(&'a Memtable),
    Run(&'a Run, View<'a>),
}

impl From<run::Fault> for Fault {
    fn from(fault: run::Fault) -> Self {
        match fault {
            run::Fault::Missing(place) => Self::Missing(Missing(place)),
            run::Fault::Damaged(place, flaw) => Self::Damaged(damage(place, flaw)),
        }
    }
}

/// A flaw in a page of a run.
pub(super) fn damage(place: PagePlace, flaw: Flaw) -> Damage {
    let offset = u64::from(place.page) * celeriant_schema::limits::SECTOR_BYTES as u64;
    flaw.at(run::run_name(place.run), 0, offset, celeriant_schema::Lsn::ZERO)
}

impl<'a> Source<'a> {
    fn flawed(&self, flaw: Flaw) -> Fault {
        let run = match self {
            Self::Table(_) => 0,
            Self::Run(run, _) => run.number(),
        };
        Fault::Damaged(damage(PagePlace { run, page: 0, count: 1 }, flaw))
    }

    pub(super) fn head(&self, prefix: &RowKey) -> Result<Option<HeadRow>, Fault> {
        match self {
            Self::Table(table) => Ok(table.entry(prefix).map(|entry| entry.head())),
            Self::Run(run, view) => {
                let Some(value) = run.get(&prefix.head(), view)? else { return Ok(None) };
                HeadRow::decode(&value).map(Some).map_err(|flaw| self.flawed(flaw))
            }
        }
    }

    fn has_cuts(&self) -> bool {
        match self {
            Self::Table(table) => table.has_cuts(),
            Self::Run(run, _) => run.has_cuts(),
        }
    }

    fn cut(&self, prefix: &RowKey) -> Result<Option<CutRow>, Fault> {
        match self {
            Self::Table(table) => Ok(table.entry(prefix).and_then(|entry| entry.cut())),
            Self::Run(run, view) => {
                let Some(value) = run.get(&prefix.cut(), view)? else { return Ok(None) };
                CutRow::decode(&value).map(Some).map_err(|flaw| self.flawed(flaw))
            }
        }
    }

    /// Adds at most `max` of what was erased behind `after`.
    fn erasures(&self, after: Stamp, max: usize, out: &mut Vec<Erasure>) -> Result<(), Fault> {
        let (run, view) = match self {
            Self::Table(table) => {
                out.extend(table.erasures(after).take(max).cloned());
                return Ok(());
            }
            Self::Run(run, view) => (run, view),
        };
        self.rows_behind(run, view, RowKey::erasure, after, max, |row, value| {
            decode_erasure(row, value).map(|erasure| out.push(erasure))
        })
    }

    fn has_aborted(&self) -> bool {
        match self {
            Self::Table(table) => table.has_aborted(),
            Self::Run(run, _) => run.has_aborted(),
        }
    }

    /// Adds at most `max` of the legs that were aborted behind `after`.
    fn aborted(&self, after: Stamp, max: usize, out: &mut Vec<AbortedLeg>) -> Result<(), Fault> {
        match self {
            Self::Table(table) => {
                out.extend(table.aborted(after).take(max));
                Ok(())
            }
            Self::Run(run, view) => {
                self.rows_behind(run, view, RowKey::aborted, after, max, |row, value| {
                    decode_aborted(row, value).map(|leg| out.push(leg))
                })
            }
        }
    }

    /// Hands out at most `max` rows of `run` whose keys, of `key`, have a stamp behind `after`.
    fn rows_behind(
        &self,
        run: &Run,
        view: &View<'_>,
        key: fn(Stamp) -> RowKey,
        after: Stamp,
        max: usize,
        mut out: impl FnMut(&[u8], &Bytes) -> Result<(), Flaw>,
    ) -> Result<(), Fault> {
        let mut cursor = run.cursor(&key(Stamp::new(after.value() + 1)));
        let end = key(Stamp::new(u64::MAX));
        for _ in 0..max {
            if !cursor.advance(view)? || *cursor.key() > *end {
                break;
            }
            out(cursor.key(), &cursor.value()).map_err(|flaw| self.flawed(flaw))?;
        }
        Ok(())
    }

    /// Some batches around the one with `version`, which it has: those behind it, or before it.
    pub(super) fn chunk(
        &self,
        prefix: &RowKey,
        version: Version,
        backwards: bool,
    ) -> Result<Chunk, Fault> {
        let lost = || self.flawed(Flaw::Chain("places of an aggregate"));
        let chunk = match self {
            Self::Table(table) => {
                let entry = table.entry(prefix);
                entry.and_then(|entry| entry.chunk(version, backwards)).ok_or_else(lost)?
            }
            Self::Run(run, view) => {
                let wanted = prefix.places(version);
                let (row, value) = run.floor(&wanted, view)?.ok_or_else(lost)?;
                let is_places =
                    row.len() == wanted.len() && row.starts_with(&wanted[..prefix.len() + 1]);
                if !is_places {
                    return Err(lost());
                }
                Chunk::decode(&value).map_err(|flaw| self.flawed(flaw))?
            }
        };
        let has_it = (chunk.first_version()..=chunk.last_version).contains(&version);
        has_it.then_some(chunk).ok_or_else(lost)
    }
}

impl Directory {
    /// Newest first.
    pub(super) fn sources<'a>(&'a self, pins: &'a Pins) -> impl Iterator<Item = Source<'a>> {
        let view = View { cache: &self.pages, pins };
        let frozen = self.frozen.as_ref().map(|frozen| &frozen.table);
        let tables = [Some(&self.memtable), frozen].into_iter().flatten().map(Source::Table);
        tables.chain(self.runs.iter().map(move |run| Source::Run(run, view)))
    }

    /// Committed state of `key`; `None` if it never existed.
    ///
    /// # Errors
    /// A page is missing or damaged.
    pub fn head(&self, key: &AggregateKey, pins: &Pins) -> Result<Option<Head>, Fault> {
        let prefix = RowKey::aggregate(key);
        let cut = self.cut_of(&prefix, pins)?;
        let mut known: Option<HeadRow> = None;
        for source in self.sources(pins) {
            let Some(head) = source.head(&prefix)? else { continue };
            match &mut known {
                None => known = Some(head),
                Some(known) => known.join(&head).map_err(|flaw| source.flawed(flaw))?,
            }
            if let Some(HeadRow { created: Some(_), .. }) = known {
                break;
            }
        }
        Ok(known.map(|head| Head {
            version: head.version,
            hash: head.hash,
            created: head.created.unwrap_or(head.updated),
            updated: head.updated,
            stamp: head.stamp,
            deleted: head.deleted,
            first_available: cut.readable_from(),
        }))
    }

    /// Lowest version of `key` that can be read. Costs nothing where nothing was ever deleted or
    /// trimmed.
    ///
    /// # Errors
    /// A page is missing or damaged.
    pub fn first_available(&self, key: &AggregateKey, pins: &Pins) -> Result<Version, Fault> {
        // A feed asks for each of its batches, and few stores have any.
        if !self.sources(pins).any(|source| source.has_cuts()) {
            return Ok(CutRow::default().readable_from());
        }
        let cut = self.cut_of(&RowKey::aggregate(key), pins)?;
        Ok(cut.readable_from())
    }

    /// What was deleted and trimmed behind `after`, in the order of stamps, at most `max` of it.
    ///
    /// # Errors
    /// A page is missing or damaged.
    pub fn erasures(&self, after: Stamp, max: usize, pins: &Pins) -> Result<Vec<Erasure>, Fault> {
        let mut found = Vec::new();
        for source in self.sources(pins).filter(Source::has_cuts) {
            source.erasures(after, max, &mut found)?;
        }
        found.sort_unstable_by_key(|erasure| erasure.stamp);
        found.dedup_by_key(|erasure| erasure.stamp);
        found.truncate(max);
        Ok(found)
    }

    /// What is to leave the disk since `after`, in the order of stamps, at most `max` of it.
    ///
    /// # Errors
    /// A page is missing or damaged.
    pub fn due(&self, after: Stamp, max: usize, pins: &Pins) -> Result<Vec<Due>, Fault> {
        let mut legs = Vec::new();
        for source in self.sources(pins).filter(Source::has_aborted) {
            source.aborted(after, max, &mut legs)?;
        }
        let erasures = self.erasures(after, max, pins)?;
        let mut found: Vec<Due> = erasures.into_iter().map(Due::Erasure).collect();
        found.extend(legs.into_iter().map(Due::Leg));
        found.sort_unstable_by_key(Due::stamp);
        found.dedup_by_key(|due| due.stamp());
        found.truncate(max);
        Ok(found)
    }

    /// Where an aggregate was cut, all sources together.
    fn cut_of(&self, prefix: &RowKey, pins: &Pins) -> Result<CutRow, Fault> {
        let mut joined = CutRow::default();
        for source in self.sources(pins).filter(Source::has_cuts) {
            if let Some(cut) = source.cut(prefix)? {
                joined.join(cut);
            }
        }
        Ok(joined)
    }

    /// Where `key` stands: less than [`Self::head`] says, from the newest row alone.
    ///
    /// # Errors
    /// A page is missing or damaged.
    pub fn standing(&self, key: &AggregateKey, pins: &Pins) -> Result<Option<Standing>, Fault> {
        let prefix = RowKey::aggregate(key);
        for source in self.sources(pins) {
            if let Some(head) = source.head(&prefix)? {
                let HeadRow { version, hash, deleted, is_final, .. } = head;
                return Ok(Some(Standing { version, hash, deleted, is_final }));
            }
        }
        Ok(None)
    }

    /// The write with the highest sequence of `client` in `key`: the newest of what
    /// [`Self::sequences`] says, for less.
    ///
    /// # Errors
    /// A page is missing or damaged.
    pub fn last_sequence(
        &self,
        key: &AggregateKey,
        client: ClientId,
        pins: &Pins,
    ) -> Result<Option<Remembered>, Fault> {
        let prefix = RowKey::aggregate(key);
        let row = prefix.client(client);
        let forgotten = self.cut_of(&prefix, pins)?.forgotten;
        let kept = |newest: Option<&Remembered>| newest.copied().filter(|it| it.stamp > forgotten);
        for source in self.sources(pins) {
            match source {
                Source::Table(table) => {
                    let Some(entry) = table.entry(&prefix) else { continue };
                    if let Some(sequences) = entry.client(client) {
                        return Ok(kept(sequences.newest()));
                    }
                    if entry.head().first_version == Version::new(1) {
                        break;
                    }
                }
                Source::Run(run, view) => {
                    let Some(value) = run.get(&row, &view)? else { continue };
                    let known = decode_client(&value).map_err(|flaw| source.flawed(flaw))?;
                    return Ok(kept(known.last()));
                }
            }
        }
        Ok(None)
    }

    /// What is remembered of `client` in `key`; `None` if it never used a sequence there.
    ///
    /// # Errors
    /// A page is missing or damaged.
    pub fn sequences(
        &self,
        key: &AggregateKey,
        client: ClientId,
        pins: &Pins,
    ) -> Result<Option<ClientSequences>, Fault> {
        let prefix = RowKey::aggregate(key);
        let row = prefix.client(client);
        let forgotten = self.cut_of(&prefix, pins)?.forgotten;
        let mut joined = ClientSequences::default();
        for source in self.sources(pins) {
            match source {
                Source::Table(table) => {
                    let Some(entry) = table.entry(&prefix) else { continue };
                    if let Some(sequences) = entry.client(client) {
                        let recent: Vec<_> = sequences.iter().copied().collect();
                        joined.prepend(&recent);
                    }
                    if entry.head().first_version == Version::new(1) {
                        break;
                    }
                }
                Source::Run(run, view) => {
                    let Some(value) = run.get(&row, &view)? else { continue };
                    let older = decode_client(&value).map_err(|flaw| source.flawed(flaw))?;
                    joined.prepend(&older);
                }
            }
            if joined.is_complete() {
                break;
            }
        }
        joined.forget(forgotten);
        Ok((!joined.is_empty()).then_some(joined))
    }

    /// Batches that hold versions `from..=to`, in reading order, at most `batches_max`. It may be
    /// fewer, but not none when there are some.
    ///
    /// # Errors
    /// A page is missing or damaged.
    pub fn locate(
        &self,
        key: &AggregateKey,
        from: Version,
        to: Version,
        backwards: bool,
        batches_max: usize,
        pins: &Pins,
    ) -> Result<Vec<Located>, Fault> {
        let prefix = RowKey::aggregate(key);
        let from = from.max(Version::new(1));
        let mut found = Vec::new();
        let walked = if backwards {
            self.walk_back(&prefix, from, to, batches_max, pins, &mut found)
        } else {
            self.walk(&prefix, from, to, batches_max, pins, &mut found)
        };
        match walked {
            Err(fault) if found.is_empty() => Err(fault),
            // What was found before the fault is a page of its own.
            _ => Ok(found),
        }
    }

    fn walk(
        &self,
        prefix: &RowKey,
        from: Version,
        to: Version,
        batches_max: usize,
        pins: &Pins,
        found: &mut Vec<Located>,
    ) -> Result<(), Fault> {
        let mut newer = Vec::new();
        for source in self.sources(pins) {
            let Some(head) = source.head(prefix)? else { continue };
            newer.push((source, head.version));
            if head.first_version <= from {
                break;
            }
        }
        let mut next = from;
        while let Some((source, version)) = newer.pop() {
            while next <= to.min(version) && found.len() < batches_max {
                let chunk = source.chunk(prefix, next, false)?;
                let room = batches_max - found.len();
                found.extend(chunk.within(next, to).take(room));
                next = chunk.last_version.next();
            }
        }
        Ok(())
    }

    fn walk_back(
        &self,
        prefix: &RowKey,
        from: Version,
        to: Version,
        batches_max: usize,
        pins: &Pins,
        found: &mut Vec<Located>,
    ) -> Result<(), Fault> {
        let mut next = to;
        for source in self.sources(pins) {
            let Some(head) = source.head(prefix)? else { continue };
            next = next.min(head.version);
            while next >= from.max(head.first_version) && found.len() < batches_max {
                let chunk = source.chunk(prefix, next, true)?;
                let room = batches_max - found.len();
                found.extend(chunk.within(from, next).rev().take(room));
                next = Version::new(chunk.first_version().value().saturating_sub(1));
            }
            if next < from || found.len() >= batches_max {
                break;
            }
        }
        Ok(())
    }

    /// What became of a leg that was decided.
    pub fn outcome(&self, txn: TxnId, pins: &Pins) -> Result<Option<bool>, Fault> {
        let row = RowKey::outcome(txn);
        for source in self.sources(pins) {
            let outcome = match source {
                Source::Table(table) => table.outcome(txn),
                Source::Run(run, view) => match run.get(&row, &view)? {
                    Some(value) => {
                        Some(Outcome::decode(&value).map_err(|flaw| source.flawed(flaw))?)
                    }
                    None => None,
                },
            };
            if let Some(outcome) = outcome {
                return Ok(Some(outcome.commit));
            }
        }
        Ok(None)
    }
}
