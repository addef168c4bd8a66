//! A key ring in one file, for one machine: a line for every key there ever was.
//!
//! ```text
//! celeriant-keys 1
//! <key id> <subject, hexadecimal> <secret, hexadecimal>
//! <key id> - shredded
//! ```
//! The last line of a subject is its current key. Every change writes a new file beside the old
//! one and renames it, under a lock that all processes share, after which the old bytes are
//! overwritten. Whether that reaches the medium is up to the file system and the device: a ring
//! belongs on an encrypted disk, and its backups must be forgotten, too, when a subject is.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use celeriant_schema::encryption::DataKey;
use zeroize::Zeroizing;

use super::{Answer, Found, KeyError, KeyRing, NamedKey, random};

const FIRST_LINE: &str = "celeriant-keys 1";
const SHREDDED: &str = "shredded";
/// Largest ring, in bytes: some hundred thousand keys.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Keys in a file that only its owner may read. Small and local, so it is read and written where
/// it is asked, without handing it to another thread.
pub struct FileKeyRing {
    path: PathBuf,
    ring: Mutex<Ring>,
}

/// What the file said when it was last read.
#[derive(Default)]
struct Ring {
    /// By key id, in the order of their lines.
    keys: BTreeMap<String, (usize, Entry)>,
    /// Id of every subject's newest key.
    current: BTreeMap<String, String>,
    seen: Option<Seen>,
}

enum Entry {
    Key { subject: String, key: DataKey },
    Shredded,
}

/// Tells one state of the file from the next: every change makes a new one.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Seen {
    modified: Option<SystemTime>,
    bytes: u64,
    file: u64,
}

impl FileKeyRing {
    /// Opens the ring in this file; there need not be one yet.
    ///
    /// # Errors
    /// When the file cannot be read, or is no ring.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, KeyError> {
        let ring = Self { path: path.into(), ring: Mutex::default() };
        drop(ring.read()?);
        Ok(ring)
    }

    /// Gives the subject a new current key; returns its id. What was encrypted before stays
    /// readable.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn rotate(&self, subject: &str) -> Result<String, KeyError> {
        self.change(|ring| ring.add(subject))
    }

    /// Destroys all keys of a subject: everything that was encrypted for it can never be read
    /// again. Returns how many keys that were. Other processes notice at their next use of the
    /// ring. On return the new file is durable.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn shred(&self, subject: &str) -> Result<usize, KeyError> {
        self.change(|ring| Ok(ring.shred(subject)))
    }

    /// The state of the file, read anew if it has changed.
    fn read(&self) -> Result<MutexGuard<'_, Ring>, KeyError> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if self.seen()? != ring.seen {
            // Nobody overwrites the file meanwhile. Where a lock cannot even be made, nobody can.
            let lock = private(&self.beside("lock")).ok();
            if let Some(lock) = &lock {
                lock.lock_shared().map_err(|error| self.failed("cannot be locked", &error))?;
            }
            self.refresh(&mut ring)?;
        }
        Ok(ring)
    }

    /// Reads the file if it has changed. Whoever calls this holds the lock.
    fn refresh(&self, ring: &mut Ring) -> Result<(), KeyError> {
        match self.seen()? {
            seen if seen == ring.seen => {}
            None => *ring = Ring::default(),
            Some(_) => *ring = self.load()?,
        }
        Ok(())
    }

    fn seen(&self) -> Result<Option<Seen>, KeyError> {
        match fs::metadata(&self.path) {
            Ok(metadata) => Ok(Some(seen(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("cannot be looked at", &error)),
        }
    }

    fn load(&self) -> Result<Ring, KeyError> {
        let failed = |error| self.failed("cannot be read", &error);
        let file = File::open(&self.path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        // Of its final size from the start: growing would leave copies behind.
        let size = metadata.len().min(FILE_BYTES_MAX) as usize + 1;
        let mut text = Zeroizing::new(String::with_capacity(size));
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
        let mut ring = Ring::parse(&text).map_err(|line| KeyError {
            reason: format!("{}: line {line} is not a key", self.name()),
        })?;
        ring.seen = Some(seen(&metadata));
        Ok(ring)
    }

    /// Changes the ring as the file has it now, and the file with it.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Ring) -> Result<T, KeyError>,
    ) -> Result<T, KeyError> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let lock =
            private(&self.beside("lock")).map_err(|e| self.failed("cannot be locked", &e))?;
        lock.lock().map_err(|error| self.failed("cannot be locked", &error))?;
        self.refresh(&mut ring)?;
        let result = change(&mut ring);
        // Whatever becomes of the file, what is in memory is read from it next time.
        ring.seen = None;
        let result = result?;
        self.save(&ring).map_err(|error| self.failed("cannot be written", &error))?;
        *ring = self.load()?;
        Ok(result)
    }

    fn save(&self, ring: &Ring) -> io::Result<()> {
        let new = self.beside("new");
        let mut file = private(&new)?;
        file.set_len(0)?;
        file.write_all(ring.to_text().as_bytes())?;
        file.sync_all()?;
        let old = OpenOptions::new().write(true).open(&self.path).ok();
        fs::rename(&new, &self.path)?;
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        match old {
            Some(old) => overwrite(old),
            None => Ok(()),
        }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".");
        name.push(suffix);
        name.into()
    }

    fn name(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    fn failed(&self, what: &str, error: &io::Error) -> KeyError {
        KeyError { reason: format!("{} {what}: {error}", self.name()) }
    }
}

impl KeyRing for FileKeyRing {
    fn current<'a>(&'a self, subject: &'a str) -> Answer<'a, NamedKey> {
        let answer = || {
            if let Some(known) = self.read()?.newest(subject) {
                return Ok(known);
            }
            self.change(|ring| match ring.newest(subject) {
                Some(known) => Ok(known),
                None => {
                    ring.add(subject)?;
                    let lost = || KeyError { reason: "a key that was made is gone".into() };
                    ring.newest(subject).ok_or_else(lost)
                }
            })
        };
        Box::pin(std::future::ready(answer()))
    }

    fn find<'a>(&'a self, key_id: &'a str) -> Answer<'a, Found> {
        let answer = self.read().map(|ring| match ring.keys.get(key_id) {
            Some((_, Entry::Key { key, .. })) => Found::Key(key.clone()),
            Some((_, Entry::Shredded)) => Found::Shredded,
            None => Found::Unknown,
        });
        Box::pin(std::future::ready(answer))
    }
}

impl fmt::Debug for FileKeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileKeyRing").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Ring {
    fn newest(&self, subject: &str) -> Option<NamedKey> {
        let id = self.current.get(subject)?;
        match self.keys.get(id)? {
            (_, Entry::Key { key, .. }) => Some(NamedKey { id: id.clone(), key: key.clone() }),
            (_, Entry::Shredded) => None,
        }
    }

    fn add(&mut self, subject: &str) -> Result<String, KeyError> {
        let mut secret = Zeroizing::new([0; 32]);
        random(&mut *secret)?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let (subject, key) = (subject.to_owned(), DataKey::new(*secret));
        self.current.insert(subject.clone(), id.clone());
        self.keys.insert(id.clone(), (self.keys.len(), Entry::Key { subject, key }));
        Ok(id)
    }

    fn shred(&mut self, shredded: &str) -> usize {
        self.current.remove(shredded);
        let mut count = 0;
        for (_, entry) in self.keys.values_mut() {
            if matches!(entry, Entry::Key { subject, .. } if subject == shredded) {
                *entry = Entry::Shredded;
                count += 1;
            }
        }
        count
    }

    /// # Errors
    /// The number of the line that is wrong.
    fn parse(text: &str) -> Result<Self, usize> {
        let mut lines = (1..).zip(text.lines());
        if lines.next().is_none_or(|(_, line)| line != FIRST_LINE) {
            return Err(1);
        }
        let mut ring = Self::default();
        for (number, line) in lines {
            let (id, entry) = parse_line(line).ok_or(number)?;
            if let Entry::Key { subject, .. } = &entry {
                ring.current.insert(subject.clone(), id.to_owned());
            }
            let place = ring.keys.len();
            if ring.keys.insert(id.to_owned(), (place, entry)).is_some() {
                return Err(number);
            }
        }
        Ok(ring)
    }

    fn to_text(&self) -> Zeroizing<String> {
        let mut lines: Vec<_> = self.keys.iter().map(|(id, (at, entry))| (at, id, entry)).collect();
        lines.sort_unstable_by_key(|(at, ..)| **at);
        let line_bytes = |(_, id, entry): &(_, &String, &Entry)| match entry {
            Entry::Key { subject, .. } => id.len() + 2 * subject.len() + 67,
            Entry::Shredded => id.len() + SHREDDED.len() + 4,
        };
        let bytes = FIRST_LINE.len() + 1 + lines.iter().map(line_bytes).sum::<usize>();
        let mut text = Zeroizing::new(String::with_capacity(bytes));
        text.push_str(FIRST_LINE);
        text.push('\n');
        for (_, id, entry) in lines {
            text.push_str(id);
            text.push(' ');
            match entry {
                Entry::Key { subject, key } => {
                    push_hex(&mut text, subject.as_bytes());
                    text.push(' ');
                    push_hex(&mut text, key.expose());
                }
                Entry::Shredded => {
                    text.push_str("- ");
                    text.push_str(SHREDDED);
                }
            }
            text.push('\n');
        }
        text
    }
}

fn parse_line(line: &str) -> Option<(&str, Entry)> {
    let mut parts = line.split(' ');
    let (id, subject, secret) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || id.is_empty() {
        return None;
    }
    if (subject, secret) == ("-", SHREDDED) {
        return Some((id, Entry::Shredded));
    }
    let mut bytes = Zeroizing::new([0; 32]);
    if secret.len() != 2 * bytes.len() {
        return None;
    }
    let (subject, secret) = (hex_bytes(subject), hex_bytes(secret));
    for byte in bytes.iter_mut().zip(secret) {
        *byte.0 = byte.1?;
    }
    let subject = String::from_utf8(subject.collect::<Option<_>>()?).ok()?;
    Some((id, Entry::Key { subject, key: DataKey::new(*bytes) }))
}

/// Two digits each; `None` for what is not.
fn hex_bytes(text: &str) -> impl Iterator<Item = Option<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    text.as_bytes().chunks(2).map(move |pair| match pair {
        [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
        _ => None,
    })
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string does not fail.
        let _infallible = write!(text, "{byte:02x}");
    }
}

/// A file that its owner alone may read, made if it is not there.
fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn overwrite(mut old: File) -> io::Result<()> {
    let mut left = old.metadata()?.len();
    let zeroes = [0; 4096];
    while left > 0 {
        let piece = left.min(zeroes.len() as u64);
        old.write_all(&zeroes[..piece as usize])?;
        left -= piece;
    }
    old.sync_all()
}

fn seen(metadata: &fs::Metadata) -> Seen {
    #[cfg(unix)]
    let file = std::os::unix::fs::MetadataExt::ino(metadata);
    #[cfg(not(unix))]
    let file = 0;
    Seen { modified: metadata.modified().ok(), bytes: metadata.len(), file }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path =
                std::env::temp_dir().join(format!("celeriant-keys-{}", uuid::Uuid::new_v4()));
            fs::create_dir(&path).expect("a new folder");
            Self(path)
        }

        fn ring(&self) -> FileKeyRing {
            FileKeyRing::open(self.0.join("ring")).expect("readable")
        }

        fn text(&self) -> String {
            fs::read_to_string(self.0.join("ring")).expect("there")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _best_effort = fs::remove_dir_all(&self.0);
        }
    }

    async fn current(ring: &FileKeyRing, subject: &str) -> (String, [u8; 32]) {
        let named = ring.current(subject).await.expect("a key");
        (named.id, *named.key.expose())
    }

    async fn found(ring: &FileKeyRing, id: &str) -> Option<[u8; 32]> {
        match ring.find(id).await.expect("readable") {
            Found::Key(key) => Some(*key.expose()),
            Found::Shredded => None,
            Found::Unknown => panic!("{id} is not known"),
        }
    }

    #[tokio::test]
    async fn every_subject_has_its_own_key_which_stays() {
        let folder = Folder::new();
        let (ann, ben) =
            (current(&folder.ring(), "ann").await, current(&folder.ring(), "ben").await);
        assert_ne!(ann, ben);
        assert_eq!(current(&folder.ring(), "ann").await, ann);
        assert_eq!(found(&folder.ring(), &ben.0).await, Some(ben.1));
        assert!(matches!(folder.ring().find("other").await, Ok(Found::Unknown)));
        assert!(!ann.0.contains("ann"), "the id names nobody");
    }

    #[tokio::test]
    async fn rotation_gives_a_new_key_and_keeps_the_old_one_readable() {
        let folder = Folder::new();
        let (here, there) = (folder.ring(), folder.ring());
        let before = current(&here, "ann é/\n").await;
        let id = there.rotate("ann é/\n").expect("rotated");
        let after = current(&here, "ann é/\n").await;
        assert_eq!(after.0, id, "other users of the file notice");
        assert_ne!(after.1, before.1);
        assert_eq!(found(&here, &before.0).await, Some(before.1));
    }

    #[tokio::test]
    async fn shredding_leaves_neither_secret_nor_subject_behind() {
        let folder = Folder::new();
        let (here, there) = (folder.ring(), folder.ring());
        let first = current(&here, "ann").await;
        let ben = current(&here, "ben").await;
        here.rotate("ann").expect("rotated");
        let old = File::open(folder.0.join("ring")).expect("the old file");
        let secret = |key: &[u8; 32]| key.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert!(folder.text().contains(&secret(&first.1)));
        assert_eq!(there.shred("ann"), Ok(2));
        assert_eq!(found(&here, &first.0).await, None);
        assert_eq!(found(&here, &ben.0).await, Some(ben.1));
        assert_ne!(current(&here, "ann").await.0, first.0, "what is written later has a new key");
        let text = folder.text();
        assert!(!text.contains(&secret(&first.1)), "{text}");
        let mut bytes = Vec::new();
        (&old).read_to_end(&mut bytes).expect("still open");
        assert!(bytes.iter().all(|byte| *byte == 0), "the old file's bytes are overwritten");
    }

    #[test]
    fn processes_that_use_the_ring_at_once_neither_lose_keys_nor_read_half_a_file() {
        let folder = Folder::new();
        std::thread::scope(|scope| {
            for user in 0..3 {
                let folder = &folder;
                scope.spawn(move || {
                    for round in 0..20 {
                        // A ring of its own each time: nothing is shared but the file.
                        let id = folder.ring().rotate(&format!("{user}-{round}")).expect("added");
                        assert!(folder.ring().read().expect("whole").keys.contains_key(&id));
                        folder.ring().shred(&format!("{user}-{}", round / 2)).expect("shredded");
                    }
                });
            }
        });
        assert_eq!(folder.ring().read().expect("whole").keys.len(), 60);
    }

    #[test]
    fn what_is_no_ring_is_refused_and_not_overwritten() {
        let folder = Folder::new();
        let key = format!("id 61 {}", "00".repeat(32));
        for text in [
            "",
            "something else",
            "celeriant-keys 1\nid",
            "celeriant-keys 1\nid 61 00",
            &format!("celeriant-keys 1\n{key}x"),
            &format!("celeriant-keys 1\n{key} more"),
            &format!("celeriant-keys 1\n{key}\n{key}"),
        ] {
            fs::write(folder.0.join("ring"), text).expect("written");
            let error = FileKeyRing::open(folder.0.join("ring")).expect_err(text);
            assert!(error.reason.contains("is not a key"), "{error}");
            assert!(!error.reason.contains("0000"), "no secret: {error}");
        }
    }

    #[tokio::test]
    async fn the_file_is_for_its_owner_only_and_debug_shows_no_key() {
        let folder = Folder::new();
        let ring = folder.ring();
        let named = ring.current("ann").await.expect("a key");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let metadata = fs::metadata(folder.0.join("ring")).expect("there");
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        }
        let shown = format!("{ring:?} {named:?} {:?}", ring.find(&named.id).await);
        let secret: String = named.key.expose().iter().map(|b| format!("{b:02x}")).collect();
        assert!(!shown.contains(&secret), "{shown}");
        assert!(!shown.contains(&format!("{:?}", named.key.expose())), "{shown}");
    }
}
