//! The directory as of the last checkpoint, or the decision to make it anew.
//!
//! Nothing here is believed by halves: the manifest, every run's footer and top, the frame before
//! the checkpoint and the frames of its open legs must all be what they should. If one is not, the
//! log is read from its start; what is really lost shows there. Leaves and nodes are checked when
//! they are read.

use celeriant_schema::Lsn;
use celeriant_schema::limits::SECTOR_BYTES;

use super::files::{self, Inventory};
use super::replay::Replay;
use super::{Recovery, drive};
use crate::directory::Directory;
use crate::disk::Disk;
use crate::error::{Error, Flaw};
use crate::frame::FrameHeader;
use crate::log::{Active, Placed};
use crate::manifest::{Checkpoint, MANIFEST_NAME, Manifest, OpenLeg, Position};
use crate::packed::packed_name;
use crate::run::{Footer, PAGE_BYTES, Run, run_name};
use crate::scan::Chain;
use crate::segment::segment_name;
use crate::watermark::{WATERMARK_NAME, Watermark};

/// While the directory cannot be written out for want of space, it may grow to so many times its
/// budget: what was accepted before the crash fits into less.
const OVERDRAFT: usize = 4;

impl<D: Disk> Recovery<'_, D> {
    /// Opens every segment, and takes the directory from the manifest if that can be believed.
    pub(super) async fn restore(&mut self, inventory: &Inventory) -> Result<(), Error> {
        self.open_segments(inventory).await?;
        let mut live = Vec::new();
        let manifest = self.read_manifest(inventory).await?;
        let is_restored = match &manifest {
            Some(manifest) => match self.take_over(manifest).await? {
                Ok(()) => true,
                Err((file, flaw)) => {
                    tracing::warn!(%file, %flaw, "the directory is made anew from the log");
                    false
                }
            },
            None => false,
        };
        if let (true, Some(manifest)) = (is_restored, &manifest) {
            live.extend(manifest.runs.iter().map(|(number, _)| *number));
            self.report.runs_opened = live.len() as u32;
        } else {
            self.begin_anew(inventory, manifest.as_ref()).await?;
        }
        for number in inventory.runs.keys().filter(|number| !live.contains(number)) {
            let name = run_name(*number);
            files::remove(self.disk, name.clone()).await?;
            self.report.removed.push(name);
        }
        Ok(())
    }

    /// Opens every segment. Of several generations the oldest counts: a newer one may not be
    /// durable, and what it lacks is erased again.
    async fn open_segments(&mut self, inventory: &Inventory) -> Result<(), Error> {
        let made = self.marks.newest.segments_made;
        if let Some(((number, _), _)) = inventory.packs.last_key_value()
            && *number > made
        {
            return Err(Flaw::Durable("a packed one")
                .at(WATERMARK_NAME, *number, 0, Lsn::ZERO)
                .into());
        }
        for number in 1..=made {
            let mut generations = inventory.generations(number);
            let Some(oldest) = generations.next() else {
                return Err(Flaw::Missing.at(segment_name(number), number, 0, Lsn::ZERO).into());
            };
            let source = files::open_segment(self.disk, &self.identity, number, oldest).await?;
            self.sources.insert(number, source);
            for generation in generations {
                let name = packed_name(number, generation);
                files::remove(self.disk, name.clone()).await?;
                self.report.removed.push(name);
            }
        }
        Ok(())
    }

    /// `None` if there is none that is intact.
    async fn read_manifest(&mut self, inventory: &Inventory) -> Result<Option<Manifest>, Error> {
        if !inventory.has_manifest {
            return Ok(None);
        }
        let content = files::read_whole(self.disk, MANIFEST_NAME).await?;
        match Manifest::decode(&content, &self.identity) {
            Ok(manifest) => {
                self.claim = manifest.checkpoint.position;
                Ok(Some(manifest))
            }
            Err(Flaw::Foreign(whose)) => {
                Err(Flaw::Foreign(whose).at(MANIFEST_NAME, 0, 0, Lsn::ZERO).into())
            }
            Err(flaw) => {
                tracing::warn!(%flaw, "the manifest is damaged; the directory is made anew");
                Ok(None)
            }
        }
    }

    /// Goes on from the manifest's checkpoint, unless something speaks against it.
    async fn take_over(
        &mut self,
        manifest: &Manifest,
    ) -> Result<Result<(), (String, Flaw)>, Error> {
        if !manifest.knows_aborted {
            return Ok(Err((MANIFEST_NAME.into(), Flaw::Magic("manifest with aborted legs"))));
        }
        let Checkpoint { position, legs } = &manifest.checkpoint;
        if let Err(flaw) = self.check_position(position).await? {
            return Ok(Err((MANIFEST_NAME.into(), flaw)));
        }
        let mut runs = Vec::with_capacity(manifest.runs.len());
        for (number, pages) in &manifest.runs {
            match self.open_run(*number, *pages).await? {
                Ok(run) => runs.push(run),
                Err(flaw) => return Ok(Err((run_name(*number), flaw))),
            }
        }
        let checkpoint = manifest.checkpoint.clone();
        let (identity, next_run) = (self.identity, manifest.next_run);
        let directory = Directory::open(identity, &self.settings, next_run, checkpoint, runs)
            .with_erased(manifest.erased);
        let mut replay = Replay::new(directory);
        for leg in legs {
            if let Err(flaw) = self.reopen(leg, &mut replay).await? {
                return Ok(Err((MANIFEST_NAME.into(), flaw)));
            }
        }
        self.replay = replay;
        self.chain = Chain::from(self.identity, position);
        self.position = *position;
        self.committed = *position;
        if let Some(segment) = self.segment(position.segment) {
            self.current = Some(Active { segment, next_offset: position.offset });
            self.tail.stopped_at(segment, position.offset, true);
        }
        Ok(Ok(()))
    }

    /// The frame before the checkpoint must be the one that the manifest means.
    async fn check_position(&mut self, at: &Position) -> Result<Result<(), Flaw>, Error> {
        if *at == Position::default() {
            // Only erasures have been noted yet: the log says the rest, from its start.
            return Ok(Ok(()));
        }
        let noted = &self.marks.newest;
        if noted.durable == at.lsn && noted.hash != at.hash {
            return Ok(Err(Flaw::Hash));
        }
        let start = at.offset.checked_sub(at.frame_bytes.into());
        let segment = self.segment(at.segment).filter(|it| at.offset <= it.bytes);
        let (Some(segment), Some(start)) = (segment, start) else {
            return Ok(Err(Flaw::Lengths));
        };
        if !start.is_multiple_of(SECTOR_BYTES as u64) {
            return Ok(Err(Flaw::Lengths));
        }
        let source = self.source(segment).clone();
        let page = files::fetch(self.disk, &source, at.segment, start, SECTOR_BYTES).await?;
        Ok(FrameHeader::decode(&page).and_then(|header| {
            header.check_identity(&self.identity)?;
            let found = Position::behind(&header, at.segment, start);
            (found == *at).then_some(()).ok_or(Flaw::Chain("the frame before the checkpoint"))
        }))
    }

    async fn open_run(&mut self, number: u32, pages: u32) -> Result<Result<Run, Flaw>, Error> {
        let (file, len) = match files::open(self.disk, &run_name(number)).await {
            Ok(opened) => opened,
            Err(error) if error.is_not_found() => return Ok(Err(Flaw::Missing)),
            Err(error) => return Err(error.into()),
        };
        let bytes = u64::from(pages) * PAGE_BYTES as u64;
        let Some(footer_at) = bytes.checked_sub(PAGE_BYTES as u64).filter(|_| len == bytes) else {
            return Ok(Err(Flaw::Lengths));
        };
        let page = files::read(self.disk, file, footer_at, PAGE_BYTES).await?;
        let footer = match Footer::decode(&page, &self.identity, number, len) {
            Ok(footer) => footer,
            Err(flaw) => return Ok(Err(flaw)),
        };
        let mut top = bytes::Bytes::new();
        if footer.top_bytes() > 0 {
            let len = footer.top_bytes() as usize;
            top = files::read(self.disk, file, footer.top_offset(), len).await?;
        }
        Ok(match Run::open(&self.identity, footer, file, top) {
            Ok(run) => Ok(run),
            Err(crate::run::Fault::Damaged(_, flaw)) => Err(flaw),
            Err(crate::run::Fault::Missing(_)) => Err(Flaw::Missing),
        })
    }

    /// Reads a leg that was open at the checkpoint.
    async fn reopen(
        &mut self,
        leg: &OpenLeg,
        replay: &mut Replay,
    ) -> Result<Result<(), Flaw>, Error> {
        let offset = u64::from(leg.frame_offset) * SECTOR_BYTES as u64;
        let len = leg.frame_bytes as usize;
        let within = |bytes: u64| offset + len as u64 <= bytes && len.is_multiple_of(SECTOR_BYTES);
        let segment = self.segment(leg.segment).filter(|segment| within(segment.bytes));
        let Some(segment) = segment else { return Ok(Err(Flaw::Lengths)) };
        let source = self.source(segment).clone();
        let frame = files::fetch(self.disk, &source, leg.segment, offset, len).await?;
        let mut read = || {
            let header = FrameHeader::decode(&frame)?;
            header.check_identity(&self.identity)?;
            if header.frame_bytes() != frame.len() || header.hash != leg.hash {
                return Err(Flaw::Hash);
            }
            let records = self.chain.records(&header, &frame);
            let records = records.map_err(|_| Flaw::BodyChecksum)?;
            let place = Placed::of(&header, leg.segment, offset);
            replay.reopen(leg, header.first_lsn, place, records)
        };
        Ok(read())
    }

    /// There is no directory to go on from: the log says everything. What the manifest claimed to
    /// be committed is noted elsewhere before it goes.
    async fn begin_anew(
        &mut self,
        inventory: &Inventory,
        manifest: Option<&Manifest>,
    ) -> Result<(), Error> {
        // A first run alone may have been unfinished when there was no manifest yet.
        self.report.rebuilt =
            inventory.has_manifest || inventory.runs.keys().any(|number| *number > 1);
        let noted = self.marks.newest;
        if self.claim.lsn > noted.committed {
            let (at, known) = ((self.claim.lsn, self.claim.hash), (noted.durable, noted.hash));
            let (durable, hash) = if at.0 > known.0 { at } else { known };
            let note = Watermark { durable, hash, committed: at.0, ..noted };
            self.marks.note(self.disk, &self.identity, note).await?;
        }
        if inventory.has_manifest {
            files::remove(self.disk, MANIFEST_NAME.into()).await?;
            self.report.removed.push(MANIFEST_NAME.into());
        }
        let newest = inventory.runs.last_key_value().map_or(0, |(number, _)| *number);
        let next_run = manifest.map_or(1, |manifest| manifest.next_run).max(newest + 1);
        let (identity, start) = (self.identity, Checkpoint::default());
        let directory = Directory::open(identity, &self.settings, next_run, start, Vec::new());
        self.replay = Replay::new(directory);
        Ok(())
    }

    /// Writes the directory out when it has grown to its limit.
    pub(super) async fn relieve(&mut self) -> Result<(), Error> {
        let directory = &self.replay.directory;
        if let Some(error) = directory.overdrawn(OVERDRAFT) {
            return Err(error.into());
        }
        if !directory.must_freeze(self.committed.lsn, self.replayed_bytes) {
            return Ok(());
        }
        // The manifest will say that everything up to here is durable.
        self.secure().await?;
        let Replay { directory, legs, outcomes, .. } = &mut self.replay;
        legs.settle(self.committed.lsn);
        let open = legs.open_at(self.committed.lsn);
        directory.freeze(self.committed, self.replayed_bytes, open);
        outcomes.clear();
        let mut ops = Vec::new();
        directory.advance(&mut ops);
        drive(self.disk, directory, &mut ops).await?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "restore_test.rs"]
mod tests;
