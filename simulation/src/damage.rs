//! What a device does to a shard's log without a word: bits flip, writes that it reported done are
//! not there, or are where another one was.
//!
//! Only frames are hit of which the log itself knows that they were durable: what is vouched for by
//! nothing that is left cannot be missed by anybody, on a disk that lies.

use std::borrow::Cow;
use std::fmt;

use celeriant_schema::Lsn;
use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_storage::Identity;
use celeriant_storage::watermark::{WATERMARK_NAME, Watermark};

use crate::disk::{Files, Media};
use crate::fault::{Fault, Kind};
use crate::packed;
use crate::walk::{Walked, segments, walk};

/// A place in a file that does not hold what was written there.
#[derive(Clone)]
pub struct Scar {
    /// Which file.
    pub name: String,
    /// Where it begins.
    pub offset: u64,
    /// What was written.
    pub was: Vec<u8>,
    /// What is there instead.
    pub is: Vec<u8>,
}

impl fmt::Debug for Scar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {} at {}", self.is.len(), self.name, self.offset)
    }
}

impl Scar {
    /// What is at `offset` of a file, and in its place `change` of it. `None` where nothing is, or
    /// nothing changes.
    pub fn of(
        files: &Files,
        name: &str,
        (offset, len): (u64, usize),
        change: impl FnOnce(&mut Vec<u8>),
    ) -> Option<Self> {
        let content = files.content(name)?;
        let from = (offset as usize).min(content.len());
        let was = content[from..(from + len).min(content.len())].to_vec();
        let mut is = was.clone();
        change(&mut is);
        is.resize(was.len(), 0);
        let name = name.to_owned();
        (is != was).then_some(Self { name, offset, was, is })
    }

    /// Puts it on the device.
    pub fn inflict(&self, media: &Media) {
        media.overwrite(&self.name, self.offset, &self.is);
    }

    /// Puts right what was not written again since.
    pub fn mend(&self, media: &Media) {
        if let Some((name, content)) = self.right(&media.image()) {
            media.rewrite(&name, content);
        }
    }

    /// Whether the segment that it is in is being packed: what was read of it already gets into
    /// the new file, however right the old one is by now.
    pub fn is_being_packed(&self, files: &Files) -> bool {
        let segment = packed::segment_of(&self.name).map(|(number, _)| number);
        let is_it = |name: &str| packed::segment_of(name).map(|(number, _)| number) == segment;
        segment.is_some() && files.iter().filter(|(name, _)| is_it(name)).count() > 1
    }

    /// The content of a directory as it should be.
    pub fn mended(&self, files: &mut Files) {
        if let Some((name, content)) = self.right(files) {
            files.put(&name, content);
        }
    }

    /// Nothing was written there since.
    pub fn is_in(&self, files: &Files) -> bool {
        let is_there = |(_, content): (String, Cow<'_, [u8]>)| {
            let from = (self.offset as usize).min(content.len());
            content[from..].starts_with(&self.is)
        };
        self.holder(files).is_some_and(is_there)
    }

    /// The file that holds the place, as it should be; `None` where something else was written.
    fn right(&self, files: &Files) -> Option<(String, Vec<u8>)> {
        let (name, content) = self.holder(files).filter(|_| self.is_in(files))?;
        let mut content = content.into_owned();
        let from = self.offset as usize;
        content[from..from + self.was.len()].copy_from_slice(&self.was);
        match name == self.name {
            true => Some((name, content)),
            false => {
                let content = packed::repack(files.content(&name)?, &content);
                Some((name, content))
            }
        }
    }

    /// The file that holds the place, and what it holds: its segment may have been packed since,
    /// with all that is wrong in it.
    fn holder<'f>(&self, files: &'f Files) -> Option<(String, Cow<'f, [u8]>)> {
        if let Some(content) = files.content(&self.name) {
            return Some((self.name.clone(), Cow::Borrowed(content)));
        }
        let (number, _) = packed::segment_of(&self.name).filter(|(_, packed)| *packed == 0)?;
        let segment = segments(files).find(|segment| segment.number == number)?;
        Some((segment.name.to_owned(), segment.content))
    }

    /// Whether both are about some byte.
    pub fn overlaps(&self, other: &Self) -> bool {
        let end = |scar: &Self| scar.offset + scar.is.len() as u64;
        self.name == other.name && self.offset < end(other) && other.offset < end(self)
    }
}

/// By what a frame is known to have been durable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Witness {
    /// A later frame of the same disk, or the watermark.
    Any,
    /// The watermark: a later frame that was made elsewhere says nothing.
    Watermark,
}

/// The frames of a shard's log that were certainly durable, and are known to have been; none of a
/// packed segment.
pub fn known(files: &Files, identity: &Identity, witness: Witness) -> Vec<Walked> {
    let mut frames = walk(files, identity);
    let vouched = frames.iter().map(|frame| frame.header.durable_upto).max();
    let noted = noted(files, identity);
    let upto = match witness {
        Witness::Any => noted.max(vouched.unwrap_or_default()),
        Witness::Watermark => noted,
    };
    let count = frames.iter().take_while(|frame| frame.header.last_lsn() <= upto).count();
    frames.truncate(count);
    frames.retain(Walked::is_plain);
    frames
}

/// What the newest note says.
fn noted(files: &Files, identity: &Identity) -> Lsn {
    let pages = files.content(WATERMARK_NAME).unwrap_or_default();
    let slots = (0..).zip(pages.chunks(SECTOR_BYTES));
    let notes = slots.filter_map(|(slot, page)| Watermark::decode(page, slot, identity).ok()?);
    notes.max_by_key(|note| note.turn).map_or(Lsn::ZERO, |note| note.durable)
}

/// A write of a log is not where it was reported to be, as `fault` has it.
pub fn spoil(files: &Files, identity: &Identity, witness: Witness, fault: &Fault) -> Vec<Scar> {
    let known = known(files, identity, witness);
    match fault.kind {
        Kind::LoseWrite => lost_write(files, &known, fault.amount),
        _ => misdirected_write(files, &known, fault.amount),
    }
}

/// A write that was reported done was not: what was there before is there still.
fn lost_write(files: &Files, known: &[Walked], choice: u64) -> Vec<Scar> {
    let Some(frame) = chosen(known, choice) else { return Vec::new() };
    Vec::from_iter(Scar::of(files, &frame.name, place(frame), |bytes| bytes.fill(0)))
}

/// A write went to where another one was.
fn misdirected_write(files: &Files, known: &[Walked], choice: u64) -> Vec<Scar> {
    let Some(frame) = chosen(known, choice) else { return Vec::new() };
    let len = frame.header.frame_bytes();
    let fits = |other: &&Walked| {
        other.header.hash != frame.header.hash && other.header.frame_bytes() >= len
    };
    let others: Vec<_> = known.iter().filter(fits).collect();
    let Some(other) = others.get(choice as usize % others.len().max(1)) else { return Vec::new() };
    let Some(missing) = Scar::of(files, &frame.name, place(frame), |bytes| bytes.fill(0)) else {
        return Vec::new();
    };
    let astray = Scar::of(files, &other.name, (other.offset, len), |bytes| {
        bytes.copy_from_slice(&missing.was);
    });
    std::iter::once(missing).chain(astray).collect()
}

/// One of the newest half: what is old no start reads.
fn chosen(known: &[Walked], choice: u64) -> Option<&Walked> {
    let newest = known.len().div_ceil(2);
    known.iter().rev().nth(choice as usize % newest.max(1))
}

fn place(frame: &Walked) -> (u64, usize) {
    (frame.offset, frame.header.frame_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scar_is_mended_unless_something_was_written_there_since() {
        let mut files = Files::default();
        files.put("a", (0..200).collect());
        let scar = Scar::of(&files, "a", (10, 5), |bytes| bytes.fill(0)).expect("there");
        assert_eq!(scar.was, [10, 11, 12, 13, 14]);
        let media = Media::alone(1, files.clone());
        scar.inflict(&media);
        assert_eq!(media.image().content("a").expect("there")[9..16], [9, 0, 0, 0, 0, 0, 15]);
        let mut mended = media.image();
        scar.mended(&mut mended);
        assert!(mended.same_content(&files));
        media.overwrite("a", 12, &[7]);
        scar.mend(&media);
        assert_eq!(media.image().content("a").expect("there")[9..16], [9, 0, 0, 7, 0, 0, 15]);
    }

    #[test]
    fn scars_end_with_their_file() {
        let mut files = Files::default();
        files.put("a", vec![1; 20]);
        let scar = Scar::of(&files, "a", (15, 10), |bytes| bytes.fill(0)).expect("there");
        assert_eq!(scar.was.len(), 5);
        assert!(Scar::of(&files, "a", (20, 5), |bytes| bytes.fill(0)).is_none());
        assert!(Scar::of(&files, "b", (0, 5), |bytes| bytes.fill(0)).is_none());
        let other = Scar::of(&files, "a", (19, 1), |bytes| bytes.fill(0)).expect("there");
        assert!(scar.overlaps(&other) && other.overlaps(&scar));
    }
}
