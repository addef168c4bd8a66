//! Objects as files: conditional, atomic, durable.
//!
//! ```text
//!   put:  lock the key → condition → .name.new → synced → renamed → directory synced → unlock
//! ```
//! An object is a file whose name is the escaped key and whose content is the body, nothing else;
//! its ETag is computed from the content. So there is no index to lose and nothing to recover: a
//! file that is there is an object. Keys are locked by stripe, readers share; a reader therefore
//! never sees a body that a power failure could still take away.
//!
//! The first sync that fails ends the store: what the directory holds is unknown from there on.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;

use crate::disk::Folder;

/// Locks; more than operations that a small machine carries out at a time.
const STRIPES: usize = 64;
/// Longest file name that every file system takes, less what `Folder` adds to it.
const NAME_BYTES_MAX: usize = 240;
/// Held for as long as the directory is in use.
const LOCK_NAME: &str = ".lock";

/// Objects in one directory.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    folder: Folder,
    stripes: [RwLock<()>; STRIPES],
    failed: AtomicBool,
    body_bytes_max: usize,
    /// Two stores on one directory would each be atomic, and together not.
    _lock: File,
}

/// When a put may happen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Condition {
    Always,
    /// There is no such object.
    Absent,
    /// There is one.
    Present,
    /// Its version is this one, without quotes.
    Version(String),
}

/// Why something did not happen. Nothing has changed, except after `Io`.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The condition does not hold.
    Precondition,
    /// There is no such object.
    Missing,
    KeyTooLong,
    TooLarge,
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// An object, read.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) etag: String,
    pub(super) body: Bytes,
}

impl Store {
    /// Opens or makes the directory.
    ///
    /// # Errors
    /// It cannot be made, or another process has it.
    pub(super) fn open(path: &Path, body_bytes_max: usize) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let lock = File::create(path.join(LOCK_NAME))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(
                ErrorKind::ResourceBusy,
                format!("another bucket serves {}", path.display()),
            ),
            TryLockError::Error(error) => error,
        })?;
        let folder = Folder::open(path, false)?;
        // The directory itself must be there after a power failure, too.
        if let Some(parent) = path.canonicalize()?.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(Self {
            path: path.to_path_buf(),
            folder,
            stripes: [const { RwLock::new(()) }; STRIPES],
            failed: AtomicBool::new(false),
            body_bytes_max,
            _lock: lock,
        })
    }

    /// Reads an object.
    pub(super) fn get(&self, key: &str) -> Result<Object, Refusal> {
        let name = file_name(key)?;
        let _shared = self.stripe(&name).read().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        self.read(&name)?.ok_or(Refusal::Missing)
    }

    /// Makes or replaces an object; durable on return. Returns its ETag.
    pub(super) fn put(
        &self,
        key: &str,
        body: &[u8],
        condition: &Condition,
    ) -> Result<String, Refusal> {
        let name = file_name(key)?;
        if body.len() > self.body_bytes_max {
            return Err(Refusal::TooLarge);
        }
        let _exclusive = self.stripe(&name).write().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        match condition {
            Condition::Always => {}
            Condition::Absent if self.exists(&name)? => return Err(Refusal::Precondition),
            Condition::Absent => {}
            Condition::Present if !self.exists(&name)? => return Err(Refusal::Missing),
            Condition::Present => {}
            Condition::Version(etag) => match self.read(&name)? {
                None => return Err(Refusal::Missing),
                Some(current) if current.etag != *etag => return Err(Refusal::Precondition),
                Some(_) => {}
            },
        }
        self.folder.put(&name, body).inspect_err(|error| self.fail(error))?;
        Ok(etag_of(body))
    }

    /// Removes an object, if there is one; durable on return.
    pub(super) fn delete(&self, key: &str) -> Result<(), Refusal> {
        let name = file_name(key)?;
        let _exclusive = self.stripe(&name).write().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        match self.folder.remove(&name) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => {
                self.fail(&error);
                Err(error.into())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Up to `max` keys with sizes that begin with `prefix` and come after `after`, sorted, and
    /// whether there are more.
    pub(super) fn list(
        &self,
        prefix: &str,
        after: &str,
        max: usize,
    ) -> Result<(Vec<(String, u64)>, bool), Refusal> {
        self.check()?;
        let mut objects: Vec<(String, u64)> = self
            .folder
            .list()?
            .into_iter()
            .filter_map(|(name, len)| Some((key_of(&name)?, len)))
            .filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after)
            .collect();
        objects.sort_unstable();
        let more = objects.len() > max;
        objects.truncate(max);
        Ok((objects, more))
    }

    fn read(&self, name: &str) -> io::Result<Option<Object>> {
        match fs::read(self.path.join(name)) {
            Ok(body) => Ok(Some(Object { etag: etag_of(&body), body: body.into() })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.path.join(name).try_exists()
    }

    fn stripe(&self, name: &str) -> &RwLock<()> {
        let hash = blake3::hash(name.as_bytes());
        &self.stripes[usize::from(hash.as_bytes()[0]) % STRIPES]
    }

    fn check(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier write failed: what is stored is unknown"));
        }
        Ok(())
    }

    fn fail(&self, error: &io::Error) {
        // Without space nothing was published, and there may be space again.
        if !matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            self.failed.store(true, Ordering::Release);
        }
    }
}

/// ETag of a body, without quotes. The suffix is that of a multipart upload: no client takes it for
/// an MD5 sum.
fn etag_of(body: &[u8]) -> String {
    format!("{}-1", &blake3::hash(body).to_hex()[..32])
}

/// The file of a key: letters, digits, `-`, `_` and inner dots as they are, all else escaped.
fn file_name(key: &str) -> Result<String, Refusal> {
    let mut name = String::with_capacity(key.len() + 8);
    for (at, byte) in key.bytes().enumerate() {
        match byte {
            b'.' if at > 0 => name.push('.'),
            b'-' | b'_' => name.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => name.push(char::from(byte)),
            byte => name.push_str(&format!("%{byte:02X}")),
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(Refusal::KeyTooLong);
        }
    }
    // A request without a key is one about the bucket; it does not come here.
    if name.is_empty() { Err(Refusal::Missing) } else { Ok(name) }
}

/// The key of a file; `None` when no key has this file.
fn key_of(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::thread;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("objects"), 1000).expect("opens");
        (dir, store)
    }

    #[test]
    fn keys_and_files_are_one_to_one() {
        for key in ["config", "wal/00/1", "a.b", ".hidden", "../../etc/passwd", "ä ö", "%2F", "a\0"]
        {
            let name = file_name(key).expect("a name");
            assert!(!name.contains('/') && !name.starts_with('.'), "{key:?} became {name:?}");
            assert_eq!(key_of(&name).as_deref(), Some(key));
        }
        assert!(matches!(file_name(&"x".repeat(241)), Err(Refusal::KeyTooLong)));
        assert!(matches!(file_name(&"/".repeat(90)), Err(Refusal::KeyTooLong)));
    }

    #[test]
    fn conditions_hold_or_nothing_changes() {
        let (_dir, store) = store();
        let first = store.put("k", b"1", &Condition::Absent).expect("made");
        assert!(matches!(store.put("k", b"2", &Condition::Absent), Err(Refusal::Precondition)));
        let second = store.put("k", b"2", &Condition::Version(first.clone())).expect("replaced");
        let stale = store.put("k", b"3", &Condition::Version(first));
        assert!(matches!(stale, Err(Refusal::Precondition)));
        let object = store.get("k").expect("is there");
        assert_eq!((object.etag, &object.body[..]), (second, &b"2"[..]));
        for condition in [Condition::Present, Condition::Version("x".into())] {
            assert!(matches!(store.put("other", b"", &condition), Err(Refusal::Missing)));
        }
        store.delete("k").expect("deleted");
        store.delete("k").expect("deleting twice is no error");
        assert!(matches!(store.get("k"), Err(Refusal::Missing)));
        assert!(matches!(store.put("k", &[0; 1001], &Condition::Always), Err(Refusal::TooLarge)));
    }

    #[test]
    fn one_of_many_threads_makes_an_object() {
        let (_dir, store) = store();
        for round in 0..20 {
            let winners = AtomicU32::new(0);
            thread::scope(|scope| {
                for racer in 0..8_u8 {
                    let (store, winners) = (&store, &winners);
                    scope.spawn(move || {
                        let key = format!("race/{round}");
                        if store.put(&key, &[racer], &Condition::Absent).is_ok() {
                            winners.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            assert_eq!(winners.into_inner(), 1);
        }
    }

    #[test]
    fn a_directory_has_one_store_and_outlives_it() {
        let (dir, store) = store();
        let path = dir.path().join("objects");
        store.put("a/b", b"x", &Condition::Absent).expect("made");
        let busy = Store::open(&path, 1000).expect_err("it is in use");
        assert_eq!(busy.kind(), ErrorKind::ResourceBusy);
        drop(store);
        fs::write(path.join(".a%2Fc.new"), b"half").expect("a left-over");
        let store = Store::open(&path, 1000).expect("opens again");
        assert_eq!(&store.get("a/b").expect("is there").body[..], b"x");
        let (objects, more) = store.list("a/", "", 10).expect("a list");
        assert_eq!((objects, more), (vec![("a/b".to_owned(), 1)], false));
    }
}
