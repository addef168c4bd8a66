//! Durable content of a directory: names and bytes. Copies share bytes until they change.

use std::collections::BTreeMap;
use std::sync::Arc;

use celeriant_storage::disk::FileId;

/// What a device writes whole or not at all, in bytes.
pub const SECTOR: usize = 512;

/// A directory's files.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Files {
    files: BTreeMap<String, Arc<Vec<u8>>>,
    open: BTreeMap<FileId, String>,
    next: u32,
}

impl Files {
    /// Names and sizes, sorted by name.
    pub fn list(&self) -> Vec<(String, u64)> {
        self.files.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect()
    }

    /// A file's content.
    pub fn content(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(|bytes| bytes.as_slice())
    }

    /// Names with content, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// Replaces or makes a file.
    pub fn put(&mut self, name: &str, content: Vec<u8>) {
        self.files.insert(name.to_owned(), Arc::new(content));
    }

    /// Takes a file away.
    pub fn remove(&mut self, name: &str) -> bool {
        self.open.retain(|_, open| open != name);
        self.files.remove(name).is_some()
    }

    /// Flips one bit. `false` when there is no such byte.
    pub fn flip(&mut self, name: &str, offset: u64, bit: u8) -> bool {
        let Some(bytes) = self.files.get_mut(name) else { return false };
        let Some(byte) = Arc::make_mut(bytes).get_mut(offset as usize) else { return false };
        *byte ^= 1 << (bit % 8);
        true
    }

    /// Writes the sectors of `content` that `survives` names.
    pub(super) fn write(
        &mut self,
        name: &str,
        offset: u64,
        content: &[u8],
        mut survives: impl FnMut(usize) -> bool,
    ) {
        let Some(bytes) = self.files.get_mut(name) else { return };
        let bytes = Arc::make_mut(bytes);
        let mut at = offset as usize;
        for (index, sector) in content.chunks(SECTOR).enumerate() {
            if survives(index) && at + sector.len() <= bytes.len() {
                bytes[at..at + sector.len()].copy_from_slice(sector);
            }
            at += sector.len();
        }
    }

    pub(super) fn open(&mut self, name: &str) -> Option<(FileId, u64)> {
        let len = self.files.get(name)?.len() as u64;
        let file = FileId(self.next);
        self.next += 1;
        self.open.insert(file, name.to_owned());
        Some((file, len))
    }

    /// The name behind a handle.
    ///
    /// # Panics
    /// When the file isn't open: its user's mistake.
    pub(super) fn name_of(&self, file: FileId) -> &str {
        match self.open.get(&file) {
            Some(name) => name,
            None => panic!("{file:?} is not open"),
        }
    }

    pub(super) fn close(&mut self, file: FileId) {
        self.open.remove(&file);
    }

    pub(super) fn close_all(&mut self) {
        self.open.clear();
    }

    /// Whether names and bytes are the same.
    pub fn same_content(&self, other: &Self) -> bool {
        self.files == other.files
    }
}
