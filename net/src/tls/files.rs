//! Where certificates lie, and whether they were exchanged.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Where the certificates of a node are: PEM files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Files {
    /// Certificates of the cluster's CA; several while it is being replaced.
    pub authority: PathBuf,
    /// The node's own certificate, and what lies between it and the CA.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// What the CA has revoked; `None`: nothing.
    pub revoked: Option<PathBuf>,
}

/// What tells one content of a file from the next: written later, of another size, or put into the
/// place of the other under its name. `None`: there is no such file.
type Mark = Option<(SystemTime, u64)>;

/// Files, and how they were at the last look.
#[derive(Debug)]
pub(super) struct Watched {
    files: Files,
    seen: Mutex<[Mark; 4]>,
}

impl Watched {
    pub(super) fn new(files: Files) -> Self {
        let seen = Mutex::new(marks(&files));
        Self { files, seen }
    }

    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Whether one of them is another than at the last look; this is the next one. Looking comes
    /// before reading, so that what is written in between is found to be new later.
    pub(super) fn is_changed(&self) -> bool {
        let marks = marks(&self.files);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *seen, marks) != marks
    }
}

fn marks(files: &Files) -> [Mark; 4] {
    let revoked = files.revoked.as_ref();
    let all = [Some(&files.authority), Some(&files.certificate), Some(&files.key), revoked];
    all.map(|path| mark(path?))
}

fn mark(path: &Path) -> Mark {
    // Follows links: that is how containers exchange mounted secrets.
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
