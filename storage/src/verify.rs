//! Everything that a data directory says, computed anew: checksums, hashes, chains, and whether its
//! parts agree with each other.
//!
//! ```text
//! node       both slots intact and equal
//! watermark  both slots intact; the log ends nowhere before them, and has their frames
//! segments   every frame: checksums, hash over its records' hashes, the hash of the one before
//!            every event: its hash over its content and the one before of its aggregate
//!            behind the last frame: zeroes
//! manifest   intact; its checkpoint is a frame of the log
//! runs       every page; every aggregate's version and hash are those that the log has there
//! ```
//! What it finds is named with its place; the first is where to look. Memory is bounded by
//! [`Options::aggregates_max`] and one frame, whatever the store has: with more aggregates the log
//! is read several times.
//!
//! Deliberately absent: repair; what only another copy can tell, that the log was longer once or
//! was made anew as a whole ([`Options::heads`] is against that); rows of the directory other than
//! heads, which only checksums vouch for; files that no start would read (runs that the manifest
//! does not name, segments that were not completely made, what is not Celeriant's).

mod chains;
mod shard;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use celeriant_schema::audit::mountains::Head;
use celeriant_schema::{AggregateKey, ClusterId, Lsn, ShardId, Version};

use crate::Identity;
use crate::inspect::folders;
use crate::store::{SLOT_BYTES, Superblock, Watched, shard_name};

/// Findings of one shard that are kept: behind damage, more of it says little.
pub const FINDINGS_MAX: usize = 64;

/// How to verify.
#[derive(Clone, Debug)]
pub struct Options {
    /// Aggregates that are followed in one pass over a log. Each takes about 100 bytes.
    pub aggregates_max: usize,
    /// By shard: after how many frames a head is wanted, to be held against one from before.
    pub heads: BTreeMap<ShardId, u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { aggregates_max: 1 << 20, heads: BTreeMap::new() }
    }
}

/// Something that is not as it was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// In which file, from the data directory on.
    pub file: String,
    /// Where in it, in bytes; of a frame, where it starts.
    pub offset: u64,
    /// Of which shard; `None`: it concerns them all.
    pub shard: Option<ShardId>,
    /// The record, if there is one to name.
    pub lsn: Option<Lsn>,
    /// The event, if there is one to name.
    pub event: Option<(AggregateKey, Version)>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.file, self.offset)?;
        if let Some(lsn) = self.lsn {
            write!(f, ", lsn {lsn}")?;
        }
        if let Some((key, version)) = &self.event {
            write!(f, ", {key} version {version}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// The hash of everything in a shard's log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ShardHead {
    /// Which shard.
    pub shard: ShardId,
    /// Over the hashes of all frames.
    pub head: Head,
}

/// What was verified.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// A node has the directory: only what its watermarks vouched for at the start was looked at,
    /// and no directory rows.
    pub is_running: bool,
    /// Whose data it is, as the file `node` says.
    pub cluster: Option<ClusterId>,
    /// Frames of all shards.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Aggregates with events that count.
    pub aggregates: u64,
    /// Their events.
    pub events: u64,
    /// Rows of heads in directories that were held against the log and agree; twice, where an
    /// aggregate had to wait for another pass.
    pub rows: u64,
    /// Where each shard's log ends.
    pub heads: Vec<ShardHead>,
    /// Those that [`Options::heads`] asks for, as far as the logs reach.
    pub heads_wanted: Vec<ShardHead>,
    /// What does not match, by shard, in the order in which a log is read; of each shard at most
    /// [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
}

/// Verifies the data directory `dir`, or the one shard whose directory that is. Writes nothing, and
/// keeps nodes from starting on it meanwhile; one that runs already is not disturbed.
///
/// # Errors
/// When something cannot be read; [`io::ErrorKind::NotFound`] also if there are no shards.
pub fn verify(dir: &Path, options: &Options) -> io::Result<Report> {
    let watched = Watched::open(dir)?;
    let mut report = Report { is_running: watched.is_running, ..Report::default() };
    let paths = folders(dir)?;
    if paths.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no shards in there"));
    }
    if paths[..] == [dir.to_path_buf()] {
        shard::verify(dir, "", None, options, &mut report)?;
        return Ok(report);
    }
    let node = superblock(dir, &mut report)?;
    let shard_count = node.map_or(paths.len() as u16, |node| node.shard_count);
    for shard in (0..shard_count).map(ShardId::new) {
        let name = format!("{}/", shard_name(shard.value()));
        let path = dir.join(&name);
        if !path.is_dir() {
            let what = "the directory of a shard is missing".into();
            let (lsn, event) = (None, None);
            let finding = Finding { file: name, offset: 0, shard: Some(shard), lsn, event, what };
            report.findings.push(finding);
            continue;
        }
        let home = node.map(|node| shard::Home {
            identity: Identity { cluster: node.cluster, shard },
            shard_count,
        });
        shard::verify(&path, &name, home, options, &mut report)?;
    }
    Ok(report)
}

/// Both slots of the file `node`; the newer one, if any is intact.
fn superblock(dir: &Path, report: &mut Report) -> io::Result<Option<Superblock>> {
    let finding = |offset, what: String| Finding {
        file: "node".into(),
        offset,
        shard: None,
        lsn: None,
        event: None,
        what,
    };
    let slots = match Superblock::slots_of(dir) {
        Ok(slots) => slots,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            report.findings.push(finding(0, "the file is missing".into()));
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let slot_bytes = SLOT_BYTES as u64;
    for (slot, offset) in slots.iter().zip([0, slot_bytes]) {
        if let Err(flaw) = slot {
            report.findings.push(finding(offset, flaw.to_string()));
        }
    }
    if let [Ok(first), Ok(second)] = &slots
        && first != second
        && !report.is_running
    {
        report.findings.push(finding(slot_bytes, "the two slots differ".into()));
    }
    let newest = slots.into_iter().flatten().max_by_key(|slot| slot.generation);
    report.cluster = newest.map(|node| node.cluster);
    Ok(newest)
}

#[cfg(test)]
#[path = "verify/verify_test.rs"]
mod tests;
