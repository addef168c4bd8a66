//! One shard's folder, verified: its log frame by frame, and what the other files say of it.

use std::io;
use std::path::Path;

use celeriant_schema::audit::mountains::Mountains;
use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::record::Record;
use celeriant_schema::{AggregateKey, Lsn, ShardId, Version};

use super::chains::Chains;
use super::{FINDINGS_MAX, Finding, Options, Report, ShardHead};
use crate::Identity;
use crate::error::Damage;
use crate::inspect::rows::heads;
use crate::inspect::{Folder, Frame, Item, RunFile};
use crate::manifest::{MANIFEST_NAME, Manifest, Position};
use crate::run::{PAGE_BYTES, run_name};
use crate::segment::segment_name;
use crate::watermark::{WATERMARK_NAME, Watermark};

/// Where the watermark's slots start.
const SLOTS: [u64; 2] = [0, SECTOR_BYTES as u64];

/// Whose log it must be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Home {
    pub(super) identity: Identity,
    pub(super) shard_count: u16,
}

/// What a shard's folder comes to.
struct Verifying<'a> {
    /// In front of the names of its files.
    prefix: &'a str,
    shard: Option<ShardId>,
    folder: &'a Folder,
    is_running: bool,
    /// Of a running node: no further than this.
    upto: Option<Lsn>,
    chains: Chains,
    /// Behind damage nothing is known of what comes before an event.
    is_lost: bool,
    /// Frames and record at the place in the log.
    mountains: Mountains,
    lsn: Lsn,
    findings: Vec<Finding>,
    is_first_pass: bool,
    is_checkpoint_met: bool,
}

/// Verifies the folder at `path`, whose files are called `prefix` and their name.
pub(super) fn verify(
    path: &Path,
    prefix: &str,
    home: Option<Home>,
    options: &Options,
    report: &mut Report,
) -> io::Result<()> {
    let mut folder = Folder::open_of(path, home.map(|home| home.identity), !report.is_running)?;
    let newest = marks(&folder).map(|(_, mark)| mark).max_by_key(|mark| mark.turn);
    if let Some(mark) = newest {
        folder.segments.retain(|segment| segment.number <= mark.segments_made);
    }
    let identity = folder.identity;
    let of_shards = home.map(|home| (home.identity.shard, home.shard_count));
    let mut verifying = Verifying {
        prefix,
        shard: identity.map(|identity| identity.shard),
        folder: &folder,
        is_running: report.is_running,
        upto: newest.filter(|_| report.is_running).map(|mark| mark.durable),
        chains: Chains::new(options.aggregates_max, of_shards),
        is_lost: false,
        mountains: Mountains::default(),
        lsn: Lsn::ZERO,
        findings: Vec::new(),
        is_first_pass: true,
        is_checkpoint_met: false,
    };
    verifying.files(newest);
    loop {
        verifying.pass(options, report)?;
        let findings = verifying.findings.len();
        if verifying.is_lost || findings >= FINDINGS_MAX || !verifying.chains.next_pass() {
            break;
        }
        verifying.is_first_pass = false;
    }
    report.findings.append(&mut verifying.findings);
    Ok(())
}

impl<'a> Verifying<'a> {
    fn find(&mut self, file: &str, offset: u64, lsn: Option<Lsn>, what: impl ToString) {
        self.find_event(file, offset, lsn, None, what);
    }

    fn find_event(
        &mut self,
        file: &str,
        offset: u64,
        lsn: Option<Lsn>,
        event: Option<(AggregateKey, Version)>,
        what: impl ToString,
    ) {
        if self.findings.len() < FINDINGS_MAX {
            let (file, what) = (format!("{}{file}", self.prefix), what.to_string());
            let finding = Finding { file, offset, shard: self.shard, lsn, event, what };
            self.findings.push(finding);
        }
    }

    fn find_damage(&mut self, damage: &Damage) {
        let lsn = (damage.lsn > Lsn::ZERO).then_some(damage.lsn);
        self.find(&damage.file, damage.offset, lsn, &damage.what);
    }

    /// What can be said of the files without reading the log.
    fn files(&mut self, newest: Option<Watermark>) {
        let slots = &self.folder.watermark;
        if slots.len() < 2 {
            self.find(WATERMARK_NAME, 0, None, "it is missing, or too short");
        }
        for (slot, offset) in slots.iter().zip(SLOTS) {
            match slot {
                Err(flaw) => self.find(WATERMARK_NAME, offset, None, flaw),
                Ok(Some(mark)) if mark.is_cut => {
                    self.find(WATERMARK_NAME, offset, None, "the log is being cut: start the node");
                }
                Ok(_) => {}
            }
        }
        for number in 1..=newest.map_or(0, |mark| mark.segments_made) {
            if !self.folder.segments.iter().any(|segment| segment.number == number) {
                self.find(&segment_name(number), 0, None, "the segment is missing");
            }
        }
        if !self.is_running {
            self.directory();
        }
    }

    /// The manifest, and the files of the runs that it names.
    fn directory(&mut self) {
        let runs = match &self.folder.manifest {
            None => return,
            Some(Ok(manifest)) => &manifest.runs,
            Some(Err(flaw)) => return self.find(MANIFEST_NAME, 0, None, flaw),
        };
        for (number, pages) in runs {
            let run = self.folder.runs.iter().find(|run| run.number == *number);
            match run.map(|run| (run.bytes, &run.rows)) {
                None => self.find(&run_name(*number), 0, None, "the run is missing"),
                Some((_, Err(damage))) => self.find_damage(damage),
                Some((bytes, Ok(_))) if bytes != u64::from(*pages) * PAGE_BYTES as u64 => {
                    self.find(&run_name(*number), 0, None, "it has not the length that it should");
                }
                Some((_, Ok(_))) => {}
            }
        }
    }

    fn manifest(&self) -> Option<&'a Manifest> {
        let manifest = self.folder.manifest.as_ref()?.as_ref().ok()?;
        (!self.is_running).then_some(manifest)
    }

    /// Reads the whole log once.
    fn pass(&mut self, options: &Options, report: &mut Report) -> io::Result<()> {
        (self.mountains, self.lsn) = Default::default();
        self.is_checkpoint_met = false;
        let wanted = self.shard.and_then(|shard| options.heads.get(&shard).copied());
        for item in self.folder.walk() {
            match item? {
                Item::Frame(frame)
                    if self.upto.is_some_and(|upto| frame.header.last_lsn() > upto) =>
                {
                    break;
                }
                Item::Frame(frame) => {
                    self.frame(&frame, report)?;
                    if self.is_first_pass && wanted == Some(self.mountains.count()) {
                        report.heads_wanted.extend(self.head());
                    }
                }
                _ if self.upto.is_some_and(|upto| self.lsn >= upto) => break,
                Item::Segment(segment) => {
                    if let (Err(flaw), true) = (&segment.header, self.is_first_pass) {
                        self.find(&segment.name(), 0, None, flaw);
                    }
                }
                Item::Damage(damage) => {
                    self.is_lost = true;
                    self.find_damage(&damage);
                }
                Item::Unfinished { segment, offset, .. } if self.is_first_pass => {
                    let what = "bytes behind the log's end: of writes that a crash cut short \
                                (start the node, and stop it), or changed";
                    self.find(&self.file_of(segment), offset, Some(self.lsn.next()), what);
                }
                Item::Unfinished { .. } | Item::End { .. } => {}
            }
        }
        self.end(report);
        Ok(())
    }

    /// Name of the file that segment `number` is in.
    fn file_of(&self, number: u32) -> String {
        let segments = &self.folder.segments;
        let at = segments.binary_search_by_key(&number, |segment| segment.number);
        at.map_or_else(|_| segment_name(number), |at| segments[at].name())
    }

    fn head(&self) -> Option<ShardHead> {
        Some(ShardHead { shard: self.shard?, head: self.mountains.head() })
    }

    fn frame(&mut self, frame: &Frame, report: &mut Report) -> io::Result<()> {
        let header = &frame.header;
        self.mountains.push(header.hash);
        self.lsn = header.last_lsn();
        if self.is_first_pass {
            report.frames += 1;
            report.records += u64::from(header.count);
            self.hold_against_marks(frame);
        }
        if self.is_lost {
            return Ok(());
        }
        let file = self.file_of(frame.segment);
        for placed in &frame.records {
            if let Record::Resolve(resolve) = &placed.record
                && !self.chains.has_leg(resolve)
            {
                let what = "the decision of a leg that is not there";
                self.find(&file, frame.offset, Some(placed.lsn), what);
            }
            for it in self.chains.record(placed.lsn, &placed.record, &frame.blobs) {
                let event = Some((it.key, it.version));
                self.find_event(&file, frame.offset, Some(placed.lsn), event, it.what);
            }
        }
        let position = self.manifest().map(|manifest| manifest.checkpoint.position);
        match position {
            Some(position) if position.lsn == self.lsn => self.checkpoint(frame, &position, report),
            _ => Ok(()),
        }
    }

    /// A frame ends where the watermark says that one does: with that hash.
    fn hold_against_marks(&mut self, frame: &Frame) {
        for (offset, mark) in marks(self.folder) {
            let is_within = (frame.header.first_lsn..=self.lsn).contains(&mark.durable);
            if is_within && (mark.durable != self.lsn || mark.hash != frame.header.hash) {
                let what = "it names another frame than the log has there";
                self.find(WATERMARK_NAME, offset, Some(mark.durable), what);
            }
        }
    }

    /// The directory says of every aggregate what the log says here.
    fn checkpoint(
        &mut self,
        frame: &Frame,
        position: &Position,
        report: &mut Report,
    ) -> io::Result<()> {
        self.is_checkpoint_met = true;
        if *position != Position::behind(&frame.header, frame.segment, frame.offset) {
            let what = "its checkpoint is not the place in the log that it says";
            self.find(MANIFEST_NAME, 0, Some(self.lsn), what);
            return Ok(());
        }
        let Some(manifest) = self.manifest() else { return Ok(()) };
        let find = |number| self.folder.runs.iter().find(|run: &&RunFile| run.number == number);
        let runs: Vec<&RunFile> = manifest.runs.iter().filter_map(|(run, _)| find(*run)).collect();
        let newest = manifest.runs.first().map_or(0, |(number, _)| *number);
        if runs.iter().any(|run| run.rows.is_err()) || runs.len() != manifest.runs.len() {
            return Ok(());
        }
        let applied = manifest.checkpoint.legs.iter().filter(|leg| leg.is_applied);
        let shown = self.chains.shown(applied.map(|leg| leg.lsn));
        let (mut rows, mut differ) = (0, Vec::new());
        let read = heads(
            &runs,
            &self.folder.identity.unwrap_or_default(),
            |key, version, hash| match self.chains.tip(&key, &shown) {
                None => {}
                Some(tip) if (tip.version, tip.hash) == (version, hash) => rows += 1,
                Some(_) if differ.len() < FINDINGS_MAX => differ.push((key, version)),
                Some(_) => {}
            },
        )?;
        let missing = (self.chains.count_with(&shown) as u64).saturating_sub(rows);
        report.rows += rows;
        if let Err(damage) = read {
            self.find_damage(&damage);
        } else if missing > 0 && differ.is_empty() {
            let what = format!("{missing} aggregate(s) that the log has are in no run");
            self.find(MANIFEST_NAME, 0, None, what);
        }
        for event in differ {
            let what = "the directory's version and hash of the aggregate are not the log's";
            self.find_event(&run_name(newest), 0, None, Some(event), what);
        }
        Ok(())
    }

    /// The log has been read.
    fn end(&mut self, report: &mut Report) {
        report.aggregates += self.chains.aggregates() as u64;
        report.events += self.chains.events();
        if !self.is_first_pass {
            return;
        }
        report.heads.extend(self.head());
        for (offset, mark) in marks(self.folder) {
            if mark.durable > self.lsn {
                let what = format!("it says that the log was durable beyond lsn {}", self.lsn);
                self.find(WATERMARK_NAME, offset, Some(mark.durable), what);
            }
        }
        let position = self.manifest().map(|manifest| manifest.checkpoint.position);
        if !self.is_checkpoint_met
            && !self.is_lost
            && let Some(position) = position.filter(|position| position.lsn > Lsn::ZERO)
        {
            let what = "no frame of the log ends at its checkpoint";
            self.find(MANIFEST_NAME, 0, Some(position.lsn), what);
        }
    }
}

/// Intact notes with their offsets in the watermark's file.
fn marks(folder: &Folder) -> impl Iterator<Item = (u64, Watermark)> {
    let slots = folder.watermark.iter().zip(SLOTS);
    slots.filter_map(|(slot, offset)| Some((offset, (*slot.as_ref().ok()?)?)))
}
