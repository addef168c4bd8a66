//! Blocking file operations of one directory, shared by every disk on real files.
//!
//! ```text
//!   Create, Put:  .name.new  →  written, synced  →  renamed to name  →  directory synced
//! ```
//! So a name stands for a whole file or for none, whenever the power fails. Names that begin with a
//! dot are ours alone: never listed, removed when the directory is opened. A file of `Make` has its
//! name at once, and is whole only once it was synced: whoever makes it knows which are.
//!
//! Deliberately absent: retries. A failed sync may have dropped the very pages it reported, and the
//! next one would succeed without them; the first failure of a file is final.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use crate::buffer::{AlignedBuffer, BLOCK_BYTES};
use crate::disk::{Completion, Done, FileId, Token};

/// Zeroing writes this much at once: large enough for the device's full rate, small enough that a
/// commit waits behind one of them only.
const ZERO_CHUNK_BYTES: usize = 1 << 20;
/// File with which [`Folder::probe_direct`] tries the file system out.
const PROBE_NAME: &str = ".probe";

/// One directory.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    handle: File,
    direct: bool,
}

/// One open file. Kept alive by every operation on it.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) file: File,
    pub(crate) name: String,
    /// Size in bytes, with what is being appended.
    len: AtomicU64,
    /// A write or sync failed: what the file holds is unknown, and it takes no more writes.
    failed: AtomicBool,
    /// The kernel reports a failed sync once. Whoever syncs holds this, so that a second sync of
    /// the same file cannot succeed before the first has marked the file as failed.
    sync: Mutex<()>,
}

impl Folder {
    /// Opens an existing directory and removes what an interrupted `Create` or `Put` left in it.
    pub(crate) fn open(path: &Path, direct: bool) -> io::Result<Self> {
        let handle = File::open(path)?;
        if !handle.metadata()?.is_dir() {
            return Err(ErrorKind::NotADirectory.into());
        }
        let folder = Self { path: path.to_path_buf(), handle, direct };
        folder.remove_leftovers()?;
        Ok(folder)
    }

    /// Whether this file system takes an aligned Direct I/O write that is durable on completion.
    pub(crate) fn probe_direct(path: &Path) -> io::Result<bool> {
        let name = path.join(PROBE_NAME);
        let tried = try_direct(&name);
        let removed = fs::remove_file(&name);
        match tried {
            Ok(()) => removed.map(|()| true),
            Err(error) if is_unsupported(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if let Ok(name) = entry.file_name().into_string()
                && metadata.is_file()
                && !name.starts_with('.')
            {
                files.push((name, metadata.len()));
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    pub(crate) fn open_file(&self, name: &str) -> io::Result<OpenFile> {
        let file = self.options().open(self.place(name))?;
        let len = file.metadata()?.len();
        Ok(OpenFile::new(file, name, len))
    }

    /// As `Op::Create`. `stop` ends it early, leaving nothing.
    pub(crate) fn create(
        &self,
        name: &str,
        len: u64,
        written: u64,
        head: &[u8],
        stop: &AtomicBool,
    ) -> io::Result<OpenFile> {
        let aside = self.aside(name);
        let file = self.options().create(true).truncate(true).open(&aside)?;
        let filled = allocate(&file, len)
            .and_then(|is_whole| fill(&file, if is_whole { written } else { len }, head, stop))
            .and_then(|()| file.sync_all())
            .and_then(|()| self.publish(&aside, name));
        match filled {
            Ok(()) => Ok(OpenFile::new(file, name, len)),
            Err(error) => {
                // Space is what is short most often: give it back. The error is what matters.
                let _ = fs::remove_file(&aside);
                Err(error)
            }
        }
    }

    /// As `Op::Make`.
    pub(crate) fn make(&self, name: &str) -> io::Result<OpenFile> {
        let file = self.options().create(true).truncate(true).open(self.place(name))?;
        Ok(OpenFile::new(file, name, 0))
    }

    /// As `Op::Sync`.
    pub(crate) fn sync(&self, file: &OpenFile) -> io::Result<()> {
        file.sync_all()?;
        self.handle.sync_all().inspect_err(|_| file.fail())
    }

    /// As `Op::Put`.
    pub(crate) fn put(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let aside = self.aside(name);
        let written = File::create(&aside)
            .and_then(|file| {
                file.write_all_at(content, 0)?;
                file.sync_all()
            })
            .and_then(|()| self.publish(&aside, name));
        if written.is_err() {
            let _ = fs::remove_file(&aside);
        }
        written
    }

    /// As `Op::Remove`.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.place(name))?;
        self.handle.sync_all()
    }

    fn publish(&self, aside: &Path, name: &str) -> io::Result<()> {
        fs::rename(aside, self.place(name))?;
        self.handle.sync_all()
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if self.direct {
            options.custom_flags(OFlags::DIRECT.bits() as i32);
        }
        options
    }

    fn place(&self, name: &str) -> PathBuf {
        assert_plain(name);
        self.path.join(name)
    }

    fn aside(&self, name: &str) -> PathBuf {
        assert_plain(name);
        self.path.join(format!(".{name}.new"))
    }

    fn remove_leftovers(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name == PROBE_NAME || name.starts_with('.') && name.ends_with(".new") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl OpenFile {
    fn new(file: File, name: &str, len: u64) -> Self {
        Self {
            file,
            name: name.to_owned(),
            len: AtomicU64::new(len),
            failed: AtomicBool::new(false),
            sync: Mutex::new(()),
        }
    }

    /// Size in bytes, with what is being appended.
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// How many of `len` bytes at `offset` the file has.
    pub(crate) fn readable(&self, offset: u64, len: u32) -> usize {
        assert!(
            offset.is_multiple_of(BLOCK_BYTES as u64) && (len as usize).is_multiple_of(BLOCK_BYTES),
            "unaligned read of {len} bytes at {offset} of {}",
            self.name
        );
        self.len().saturating_sub(offset).min(u64::from(len)) as usize
    }

    /// A write must be whole blocks inside the file: anything else is our own mistake.
    pub(crate) fn assert_writable(&self, offset: u64, buffer: &AlignedBuffer) {
        self.assert_aligned(offset, buffer);
        assert!(
            offset.checked_add(buffer.len() as u64).is_some_and(|end| end <= self.len()),
            "write of {} bytes at {offset} leaves {} of {} bytes",
            buffer.len(),
            self.name,
            self.len()
        );
    }

    /// Counts what will be appended. It must be whole blocks at the file's end.
    pub(crate) fn lengthen(&self, offset: u64, buffer: &AlignedBuffer) {
        self.assert_aligned(offset, buffer);
        let len = self.len.fetch_add(buffer.len() as u64, Ordering::AcqRel);
        assert_eq!(offset, len, "{} has {len} bytes: no place to extend it", self.name);
    }

    fn assert_aligned(&self, offset: u64, buffer: &AlignedBuffer) {
        assert!(
            offset.is_multiple_of(BLOCK_BYTES as u64)
                && buffer.is_block_multiple()
                && !buffer.is_empty(),
            "unaligned write of {} bytes at {offset} of {}",
            buffer.len(),
            self.name
        );
    }

    /// Refuses when an earlier write of this file failed.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier write of this file failed"));
        }
        Ok(())
    }

    /// From now on [`OpenFile::check`] refuses.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Writes and syncs, blocking.
    pub(crate) fn write(&self, offset: u64, content: &[u8]) -> io::Result<()> {
        self.check()?;
        let written = self.file.write_all_at(content, offset).and_then(|()| {
            let _exclusive = self.sync.lock().unwrap_or_else(PoisonError::into_inner);
            self.check()?;
            self.file.sync_data().inspect_err(|_| self.fail())
        });
        written.inspect_err(|_| self.fail())
    }

    /// Writes without a sync, blocking.
    pub(crate) fn extend(&self, offset: u64, content: &[u8]) -> io::Result<()> {
        self.check()?;
        self.file.write_all_at(content, offset).inspect_err(|_| self.fail())
    }

    /// Syncs content and size, blocking.
    fn sync_all(&self) -> io::Result<()> {
        let _exclusive = self.sync.lock().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        self.file.sync_all().inspect_err(|_| self.fail())
    }

    /// Reads up to the end of the file, blocking.
    pub(crate) fn read(&self, offset: u64, len: u32) -> io::Result<AlignedBuffer> {
        let wanted = self.readable(offset, len);
        let mut buffer = AlignedBuffer::zeroed(wanted.next_multiple_of(BLOCK_BYTES));
        let mut done = 0;
        while done < wanted {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.truncate(wanted);
        Ok(buffer)
    }
}

/// The files a disk has open.
#[derive(Debug, Default)]
pub(crate) struct FileTable {
    open: BTreeMap<FileId, Arc<OpenFile>>,
    opened: u32,
}

/// What a blocking operation achieved, before open files have their handle.
#[derive(Debug)]
pub(crate) enum Achieved {
    Opened(OpenFile),
    Removed(String),
    Done(Done),
}

impl FileTable {
    pub(crate) fn file(&self, id: FileId) -> &Arc<OpenFile> {
        let Some(file) = self.open.get(&id) else { panic!("{id:?} is not open") };
        file
    }

    pub(crate) fn close(&mut self, id: FileId) {
        let closed = self.open.remove(&id);
        assert!(closed.is_some(), "{id:?} is not open");
    }

    /// Turns what a helper thread hands over into a completion.
    pub(crate) fn settle(
        &mut self,
        token: Token,
        outcome: Result<Achieved, crate::disk::DiskError>,
    ) -> Completion {
        let outcome = outcome.map(|achieved| match achieved {
            Achieved::Opened(file) => self.insert(file),
            Achieved::Removed(name) => {
                self.open.retain(|_, file| file.name != name);
                Done::Ok
            }
            Achieved::Done(done) => done,
        });
        Completion { token, outcome }
    }

    fn insert(&mut self, file: OpenFile) -> Done {
        let id = FileId(self.opened);
        self.opened += 1;
        let len = file.len();
        self.open.insert(id, Arc::new(file));
        Done::Opened { file: id, len }
    }
}

/// Reserves the space, so that a full device shows before anything is written and the file is laid
/// out in one piece. `false`: this file system cannot; zeroing allocates too.
fn allocate(file: &File, len: u64) -> io::Result<bool> {
    match fallocate(file, FallocateFlags::empty(), 0, len) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Writes the first `len` bytes of the file: `head`, then zeroes.
fn fill(file: &File, len: u64, head: &[u8], stop: &AtomicBool) -> io::Result<()> {
    assert!(
        len > 0 && len.is_multiple_of(BLOCK_BYTES as u64) && head.len() as u64 <= len,
        "a file of {len} bytes with a head of {}",
        head.len()
    );
    let mut head = AlignedBuffer::copy_of(head);
    head.pad_to_block();
    file.write_all_at(&head, 0)?;
    let zeroes = AlignedBuffer::zeroed(ZERO_CHUNK_BYTES);
    let mut offset = head.len() as u64;
    while offset < len {
        if stop.load(Ordering::Relaxed) {
            return Err(ErrorKind::Interrupted.into());
        }
        let count = (len - offset).min(ZERO_CHUNK_BYTES as u64);
        file.write_all_at(&zeroes[..count as usize], offset)?;
        offset += count;
    }
    Ok(())
}

fn try_direct(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .open(path)?;
    let block = AlignedBuffer::zeroed(BLOCK_BYTES);
    let count = pwritev2(&file, &[IoSlice::new(&block)], 0, ReadWriteFlags::DSYNC)?;
    if count == BLOCK_BYTES { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
}

fn is_unsupported(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS))
}

fn assert_plain(name: &str) {
    assert!(
        !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']),
        "{name:?} is not a plain file name"
    );
}
