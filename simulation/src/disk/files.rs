//! Durable content of a directory: names and bytes. Copies share bytes until they change.

use std::collections::BTreeMap;
use std::sync::Arc;

use celeriant_storage::disk::FileId;

use super::Fate;
use crate::packed::segment_of;

/// What a device writes whole or not at all, in bytes.
pub const SECTOR: usize = 512;

/// A directory's files.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Files {
    files: BTreeMap<String, Arc<Vec<u8>>>,
    open: BTreeMap<FileId, String>,
    /// Files that were made or extended and not synced since, with what they surely are.
    unsynced: BTreeMap<String, Option<Arc<Vec<u8>>>>,
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
        self.unsynced.remove(name);
        self.files.insert(name.to_owned(), Arc::new(content));
    }

    /// Makes or empties a file; what it was may come back.
    pub(super) fn make(&mut self, name: &str) {
        let before = self.files.insert(name.to_owned(), Arc::default());
        self.unsynced.entry(name.to_owned()).or_insert(before);
    }

    /// Appends the sectors of `content` that `survives` names; all of them may go again.
    pub(super) fn extend(
        &mut self,
        name: &str,
        offset: u64,
        content: &[u8],
        survives: impl FnMut(usize) -> bool,
    ) {
        let Some(bytes) = self.files.get_mut(name) else { return };
        self.unsynced.entry(name.to_owned()).or_insert_with(|| Some(Arc::clone(bytes)));
        let end = offset as usize + content.len();
        if bytes.len() < end {
            Arc::make_mut(bytes).resize(end, 0);
        }
        self.write(name, offset, content, survives);
    }

    /// What a file is now it surely is.
    pub(super) fn sync(&mut self, name: &str) {
        self.unsynced.remove(name);
    }

    /// Names of the files that may lose something, sorted.
    pub(super) fn unsynced(&self) -> impl Iterator<Item = &str> {
        self.unsynced.keys().map(String::as_str)
    }

    /// Power loss: what was not synced of a file is there, or not, or in part.
    pub(super) fn lose_unsynced(&mut self, name: &str, fate: &Fate) {
        let Some(before) = self.unsynced.remove(name) else { return };
        match fate {
            Fate::Keep => {}
            Fate::Drop => match before {
                Some(before) => drop(self.files.insert(name.to_owned(), before)),
                None => drop(self.files.remove(name)),
            },
            Fate::Tear(mask) => {
                let Some(bytes) = self.files.get_mut(name) else { return };
                let sure = before.unwrap_or_default();
                let bytes = Arc::make_mut(bytes);
                for (index, sector) in bytes.chunks_mut(SECTOR).enumerate() {
                    if mask >> (index % 64) & 1 == 0 {
                        let was = sure.chunks(SECTOR).nth(index).unwrap_or_default();
                        sector.fill(0);
                        sector[..was.len()].copy_from_slice(was);
                    }
                }
                // Half of them are short, too.
                if mask.is_multiple_of(2) {
                    let least = sure.len().min(bytes.len());
                    let more = (mask >> 8) as usize % ((bytes.len() - least) / SECTOR + 1);
                    bytes.truncate(least + more * SECTOR);
                }
            }
        }
    }

    /// Takes a file away.
    pub fn remove(&mut self, name: &str) -> bool {
        self.open.retain(|_, open| open != name);
        self.unsynced.remove(name);
        self.files.remove(name).is_some()
    }

    /// Flips one bit. `false` when there is no such byte.
    pub fn flip(&mut self, name: &str, offset: u64, bit: u8) -> bool {
        let Some(bytes) = self.files.get_mut(name) else { return false };
        let Some(byte) = Arc::make_mut(bytes).get_mut(offset as usize) else { return false };
        *byte ^= 1 << (bit % 8);
        true
    }

    /// Puts `bytes` where others are. `false` where there are not so many.
    pub fn overwrite(&mut self, name: &str, offset: u64, bytes: &[u8]) -> bool {
        let Some(content) = self.files.get_mut(name) else { return false };
        let end = offset as usize + bytes.len();
        let Some(place) = Arc::make_mut(content).get_mut(offset as usize..end) else {
            return false;
        };
        place.copy_from_slice(bytes);
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

    /// Whether `name` holds a segment, and another file the same one, packed later.
    pub fn is_packed_anew(&self, name: &str) -> bool {
        let Some((segment, generation)) = segment_of(name) else { return false };
        let others = self.files.keys().filter_map(|name| segment_of(name));
        let mut later = others.filter(|other| other.0 == segment && other.1 > generation);
        later.next().is_some()
    }

    /// Of the files that hold the same segment as `name`, the one that counts; `name` where that is
    /// none.
    pub fn oldest_of<'f>(&'f self, name: &'f str) -> &'f str {
        let Some((segment, _)) = segment_of(name) else { return name };
        let all = self.files.keys().filter_map(|name| Some((segment_of(name)?, name)));
        let oldest = all.filter(|((number, _), _)| *number == segment).min();
        oldest.map_or(name, |(_, name)| name)
    }

    /// Segments that are there twice: one is being packed.
    pub fn being_packed(&self) -> usize {
        self.files.keys().filter(|name| self.is_packed_anew(name)).count()
    }

    /// Whether names and bytes are the same.
    pub fn same_content(&self, other: &Self) -> bool {
        self.files == other.files
    }
}
