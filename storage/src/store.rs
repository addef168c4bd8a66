//! The data directory of a node: who owns it, what it holds, and whether it may be used at all.
//!
//! ```text
//!   DATA/lock            held exclusively by the process that uses the directory; its pid
//!   DATA/node            superblock (store/superblock.rs), two slots
//!   DATA/shard-0000/ …   one directory per shard: the root of that shard's disk
//! ```
//! Opening is a row of refusals, cheapest first, and nothing is written before those that don't
//! need it: foreign files, in use, a file system that buffers, a newer format, damage, another
//! shard count, a shard that is gone. A directory becomes a store in one step, when `node` gets its
//! name; before that only empty shard directories exist.
//!
//! Everything here blocks: it runs before the node serves, and when an epoch changes.
//!
//! Deliberately absent: randomness (ids are arguments), a repair of what is damaged, a way to take
//! a directory over while its owner lives.

mod file_system;
pub(crate) mod superblock;

#[cfg(test)]
mod store_test;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use celeriant_schema::limits::SHARDS_MAX;
use celeriant_schema::{ClusterId, Epoch, ShardId, StoreId};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::disk::Folder;
use crate::error::Flaw;
pub use file_system::FileSystem;
use superblock::Reading;
pub(crate) use superblock::SLOT_BYTES;
pub use superblock::Superblock;

const LOCK: &str = "lock";
const NODE: &str = "node";
/// What an interrupted formatting may leave besides empty shard directories, and what a freshly
/// made file system has in its root.
const HARMLESS: [&str; 4] = [LOCK, ".node.new", ".probe", "lost+found"];

/// How to open a data directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Makes the directory a store with these if it isn't one yet. Without: such a directory is
    /// refused.
    pub format: Option<Format>,
    /// The shard count that the settings ask for; `None` takes what the store has.
    pub shard_count: Option<u16>,
    /// Use a file system that may lose acknowledged writes in a power cut, with a warning.
    pub allow_buffered: bool,
}

/// What a new store is.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Random.
    pub store: StoreId,
    /// Random, or that of the cluster it joins.
    pub cluster: ClusterId,
    /// Shards of the cluster, at least 1 and at most `limits::SHARDS_MAX`.
    pub shard_count: u16,
}

/// Why a data directory can't be used. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process has it, or this one has it open already.
    #[error(
        "{} is in use by {}: stop that first, or use another directory",
        .path.display(),
        .pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who holds it, if it said so.
        pid: Option<u32>,
    },
    /// Not a store, and not empty either.
    #[error(
        "{} holds files that are not Celeriant's ({}): use an empty directory",
        .path.display(),
        .names.join(", ")
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Some of what is in it.
        names: Vec<String>,
    },
    /// Not a store, and it wasn't asked to become one.
    #[error("{} is not a Celeriant data directory", .path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
    },
    /// Shards without a superblock.
    #[error(
        "{} has shards but its file 'node' is gone: restore it from a copy, don't make a new one",
        .path.display()
    )]
    SuperblockMissing {
        /// The directory.
        path: PathBuf,
    },
    /// Both slots of the superblock are unreadable.
    #[error("{}: both copies of the superblock are damaged: {flaw}", .path.display())]
    SuperblockDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with the first.
        flaw: Flaw,
    },
    /// Written by a later version.
    #[error(
        "{} has format {found}, this build knows format {known}: use the version that wrote it",
        .path.display()
    )]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// What it has.
        found: u16,
        /// What this build knows.
        known: u16,
    },
    /// The shard count of a store never changes.
    #[error(
        "{} has {found} shards, the settings ask for {asked}: leave the setting out or use {found}",
        .path.display()
    )]
    ShardCount {
        /// The directory.
        path: PathBuf,
        /// What it has.
        found: u16,
        /// What was asked for.
        asked: u16,
    },
    /// A shard's directory is gone.
    #[error("{} is missing: a disk that isn't mounted?", .path.display())]
    ShardMissing {
        /// The shard's directory.
        path: PathBuf,
    },
    /// A power cut could take acknowledged writes.
    #[error(
        "{} is on {file_system}, which {why}: what was acknowledged could be lost. \
         Use a local disk, or allow buffered file systems for tries",
        .path.display()
    )]
    BuffersSilently {
        /// The directory.
        path: PathBuf,
        /// Its file system.
        file_system: FileSystem,
        /// The objection.
        why: &'static str,
    },
    /// The system refused something.
    #[error("{doing} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier update failed: what the file holds is unknown.
    #[error("an earlier update of the superblock failed: restart the node")]
    Poisoned,
}

/// A data directory that this process owns until it drops it.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    node: File,
    superblock: Superblock,
    file_system: FileSystem,
    fresh: bool,
    failed: bool,
    /// The lock is held as long as this is open.
    _lock: File,
}

impl DataDir {
    /// Takes the directory for this process, formatting it if it is empty and `options` say so.
    ///
    /// # Errors
    /// See [`Error`]. A refused directory is as it was, apart from `lock`.
    pub fn open(path: &Path, options: &Options) -> Result<Self, Error> {
        if options.format.is_some() {
            create_directory(path).map_err(io_error("create", path))?;
        }
        // Before the lock file is made: a foreign directory stays untouched.
        let store = is_store(path)?;
        if !store && options.format.is_none() {
            return Err(Error::NotAStore { path: path.to_path_buf() });
        }
        let lock = lock(path)?;
        let file_system = check_file_system(path, options.allow_buffered)?;
        let fresh = match (is_store(path)?, options.format) {
            (false, Some(format)) => {
                make(path, &format)?;
                true
            }
            _ => false,
        };
        let (superblock, whole) = read(path)?;
        check_shards(path, &superblock, options.shard_count)?;
        let name = path.join(NODE);
        let node = OpenOptions::new().read(true).write(true).open(&name);
        let node = node.map_err(io_error("open", &name))?;
        let path = path.to_path_buf();
        let mut store =
            Self { path, node, superblock, file_system, fresh, failed: false, _lock: lock };
        if !whole {
            tracing::warn!(path = %name.display(), "one copy of the superblock was damaged");
            store.update(superblock)?;
        }
        Ok(store)
    }

    /// What the directory holds.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of one shard: the root of its disk.
    pub fn shard_path(&self, shard: ShardId) -> PathBuf {
        assert!(shard.value() < self.superblock.shard_count, "no shard {shard}");
        self.path.join(shard_name(shard.value()))
    }

    /// What it is on.
    pub fn file_system(&self) -> &FileSystem {
        &self.file_system
    }

    /// It was formatted by this very opening.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Takes an epoch for a node on its own: above everything promised or seen here, and above
    /// `found`, the highest in the logs. Durable on return. What was never one of a pair has still
    /// seen no register afterwards, and can become the first of a pair; what was is kept from it.
    ///
    /// # Errors
    /// `Error::Io`: the promise may or may not be kept; stop the node.
    pub fn take_epoch(&mut self, found: Epoch) -> Result<Epoch, Error> {
        let highest = self.superblock.epoch_seen.max(self.superblock.epoch_promised).max(found);
        let epoch = Epoch::new(highest.value() + 1);
        let is_own = self.superblock.epoch_seen == Epoch::default();
        self.raise_epochs(epoch, if is_own { Epoch::default() } else { epoch })?;
        Ok(epoch)
    }

    /// Notes epochs. Neither is ever lowered. Durable on return; free if nothing changes.
    ///
    /// # Errors
    /// `Error::Io`: what the file holds is unknown. Never retried: stop the node.
    pub fn raise_epochs(&mut self, promised: Epoch, seen: Epoch) -> Result<(), Error> {
        let mut next = self.superblock;
        next.epoch_promised = next.epoch_promised.max(promised);
        next.epoch_seen = next.epoch_seen.max(seen);
        if next == self.superblock { Ok(()) } else { self.update(next) }
    }

    /// Writes both slots, one after the other: see `superblock`.
    fn update(&mut self, mut next: Superblock) -> Result<(), Error> {
        if self.failed {
            return Err(Error::Poisoned);
        }
        next.generation += 1;
        let slot = next.encode();
        for offset in [0, SLOT_BYTES as u64] {
            let written =
                self.node.write_all_at(&slot, offset).and_then(|()| self.node.sync_data());
            written.map_err(|source| {
                self.failed = true;
                io_error("update", &self.path.join(NODE))(source)
            })?;
        }
        self.superblock = next;
        Ok(())
    }
}

impl Superblock {
    /// Reads the superblock of a directory that another process may own: for tools.
    ///
    /// # Errors
    /// As [`DataDir::open`].
    pub fn of(path: &Path) -> Result<Self, Error> {
        if !is_store(path)? {
            return Err(Error::NotAStore { path: path.to_path_buf() });
        }
        read(path).map(|(superblock, _)| superblock)
    }

    /// The file `node` of a data directory, slot by slot: what each says, or what is wrong with it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn slots_of(path: &Path) -> io::Result<[Result<Self, Flaw>; 2]> {
        Ok(superblock::slots(&fs::read(path.join(NODE))?))
    }
}

/// Keeps nodes away from a directory while a tool looks at it.
#[derive(Debug)]
pub struct Watched {
    /// A node has it: what is in it changes meanwhile.
    pub is_running: bool,
    /// Held as long as this is open; `None` without a lock file: no node ever had it.
    _lock: Option<File>,
}

impl Watched {
    /// Looks who has the directory at `path`; if nobody does, no node gets it before this is
    /// dropped. Writes nothing.
    ///
    /// # Errors
    /// When the lock cannot be looked at.
    pub fn open(path: &Path) -> io::Result<Self> {
        let lock = match File::open(path.join(LOCK)) {
            Ok(lock) => lock,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Self { is_running: false, _lock: None });
            }
            Err(error) => return Err(error),
        };
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Self { is_running: false, _lock: Some(lock) }),
            Err(Errno::WOULDBLOCK) => Ok(Self { is_running: true, _lock: None }),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Makes the directory and those above it that are missing, durably.
fn create_directory(path: &Path) -> io::Result<()> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing = path.ancestors().take_while(is_missing).count();
    fs::create_dir_all(path)?;
    for parent in path.canonicalize()?.ancestors().skip(1).take(missing) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Name of a shard's directory.
pub(crate) fn shard_name(shard: u16) -> String {
    format!("shard-{shard:04}")
}

/// Whether the directory has been formatted. Refuses one that holds anything else.
fn is_store(path: &Path) -> Result<bool, Error> {
    const NAMES_MAX: usize = 3;
    let reading = io_error("list", path);
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(reading(error)),
    };
    let mut names = Vec::new();
    let mut shards = false;
    for entry in entries {
        let entry = entry.map_err(&reading)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == NODE {
            return Ok(true);
        }
        if is_shard(&entry.path(), &name) {
            let mut content = fs::read_dir(entry.path()).map_err(&reading)?;
            shards |= content.next().is_some();
        } else if !HARMLESS.contains(&name.as_str()) {
            names.push(name);
        }
    }
    if shards {
        return Err(Error::SuperblockMissing { path: path.to_path_buf() });
    }
    if names.is_empty() {
        return Ok(false);
    }
    names.sort_unstable();
    names.truncate(NAMES_MAX);
    Err(Error::Foreign { path: path.to_path_buf(), names })
}

fn is_shard(path: &Path, name: &str) -> bool {
    let number = name.strip_prefix("shard-").and_then(|number| number.parse().ok());
    number.is_some_and(|number| shard_name(number) == name) && path.is_dir()
}

/// Takes the directory's lock for as long as the file is open; the system frees it when the process
/// dies.
fn lock(path: &Path) -> Result<File, Error> {
    let name = path.join(LOCK);
    let failed = io_error("lock", &name);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&name);
    let file = file.map_err(&failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let holder = fs::read_to_string(&name).unwrap_or_default();
            let pid = holder.trim().parse().ok();
            return Err(Error::InUse { path: path.to_path_buf(), pid });
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0).and_then(|()| file.write_all_at(pid.as_bytes(), 0)).map_err(failed)?;
    Ok(file)
}

fn check_file_system(path: &Path, allow_buffered: bool) -> Result<FileSystem, Error> {
    let file_system = FileSystem::of(path).map_err(io_error("try a write in", path))?;
    match file_system.objection() {
        None => {}
        Some(why) if allow_buffered => tracing::warn!(
            path = %path.display(),
            "NOT DURABLE: {file_system} {why}; a power cut can lose what was acknowledged"
        ),
        Some(why) => {
            let path = path.to_path_buf();
            return Err(Error::BuffersSilently { path, file_system, why });
        }
    }
    Ok(file_system)
}

/// Makes the store: shards first, then the superblock under its name, which is what counts.
fn make(path: &Path, format: &Format) -> Result<(), Error> {
    let shards = format.shard_count;
    assert!(shards > 0 && shards <= SHARDS_MAX, "a store of {shards} shards");
    for shard in 0..shards {
        let name = path.join(shard_name(shard));
        match fs::create_dir(&name) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(io_error("create", &name)(error));
            }
            _ => {}
        }
    }
    let superblock = Superblock {
        store: format.store,
        cluster: format.cluster,
        shard_count: shards,
        generation: 1,
        epoch_promised: Epoch::new(0),
        epoch_seen: Epoch::new(0),
    };
    let slot = superblock.encode();
    let folder = Folder::open(path, false).map_err(io_error("open", path))?;
    folder.put(NODE, &[&slot[..], &slot[..]].concat()).map_err(io_error("format", path))
}

/// The superblock, and whether both of its copies are good.
fn read(path: &Path) -> Result<(Superblock, bool), Error> {
    let name = path.join(NODE);
    let content = fs::read(&name).map_err(io_error("read", &name))?;
    match superblock::read(&content) {
        Reading::Valid { superblock, whole } => Ok((superblock, whole)),
        Reading::Newer(found) => {
            Err(Error::NewerFormat { path: path.to_path_buf(), found, known: crate::FORMAT })
        }
        Reading::Damaged(flaw) => Err(Error::SuperblockDamaged { path: name, flaw }),
    }
}

fn check_shards(path: &Path, superblock: &Superblock, asked: Option<u16>) -> Result<(), Error> {
    let found = superblock.shard_count;
    if let Some(asked) = asked
        && asked != found
    {
        return Err(Error::ShardCount { path: path.to_path_buf(), found, asked });
    }
    for shard in 0..found {
        let path = path.join(shard_name(shard));
        if !path.is_dir() {
            return Err(Error::ShardMissing { path });
        }
    }
    Ok(())
}

fn io_error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { doing, path: path.clone(), source }
}
