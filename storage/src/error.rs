//! What can go wrong with durable bytes.
//!
//! All of these stop the node. A full disk while a segment is made ahead is not an error: it is a
//! state of the log ([`crate::log::Log::full`]).

use celeriant_schema::Lsn;

use crate::disk::DiskError;

/// Why the log cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device failed. After a failed write the content of the range is unknown: never retry,
    /// stop the node and recover.
    #[error("disk failed: {0}")]
    Io(#[from] DiskError),
    /// Bytes that were durable are not what was written. Never cut, never served.
    #[error("{0}")]
    Damage(#[from] Damage),
    /// Written by a version of the format that this build does not know.
    #[error("{file} has format {found}; this build reads format {known}")]
    Format {
        /// Which file.
        file: String,
        /// What it says.
        found: u16,
        /// What this build knows.
        known: u16,
    },
    /// An earlier error ended this log.
    #[error("the log has failed earlier; recover it by a restart")]
    Poisoned,
    /// A log cannot end where it should.
    #[error("the log cannot be cut behind lsn {lsn}: {why}")]
    Uncut {
        /// Where it should.
        lsn: Lsn,
        /// What speaks against it.
        why: Uncut,
    },
    /// The settings cannot work.
    #[error("log settings: {0}")]
    Settings(&'static str),
}

/// Why a log is not cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Uncut {
    /// Records behind that place are committed (I12).
    #[error("everything up to lsn {0} is committed")]
    Committed(Lsn),
    /// No frame of this log ends there with that hash.
    #[error("no such position in this log")]
    NotThere,
}

/// A place where durable bytes are not what was written.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("damage in {file} at byte {offset} (lsn {lsn}): {what}")]
pub struct Damage {
    /// Which file.
    pub file: String,
    /// Segment number; 0 when the file is not a segment or index.
    pub segment: u32,
    /// Byte offset in the file.
    pub offset: u64,
    /// First record that is affected; 0 when none is known.
    pub lsn: Lsn,
    /// What is wrong.
    pub what: Flaw,
}

/// What is wrong with some bytes.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// Nothing where something was durable.
    #[error("missing, although it was durable")]
    Missing,
    /// Not the magic number that belongs here.
    #[error("not a {0}")]
    Magic(&'static str),
    /// The header's checksum does not match.
    #[error("the header does not match its checksum")]
    HeaderChecksum,
    /// The content's checksum does not match.
    #[error("the content does not match its checksum")]
    BodyChecksum,
    /// The hash does not match.
    #[error("the hash does not match the content")]
    Hash,
    /// Valid, but of another cluster, shard or segment.
    #[error("belongs to another {0}")]
    Foreign(&'static str),
    /// Valid, but does not continue what is before it.
    #[error("does not continue what is before it: {0}")]
    Chain(&'static str),
    /// Lengths that contradict each other.
    #[error("lengths contradict each other")]
    Lengths,
    /// Intact by its checksums, but cannot be decoded.
    #[error("cannot be decoded: {0}")]
    Decode(String),
    /// Not fully written, although a later frame or the watermark says that it was durable.
    #[error("incomplete, although {0} says that it was durable")]
    Durable(&'static str),
}

impl Flaw {
    /// The same flaw with its place.
    pub fn at(self, file: impl Into<String>, segment: u32, offset: u64, lsn: Lsn) -> Damage {
        Damage { file: file.into(), segment, offset, lsn, what: self }
    }
}
