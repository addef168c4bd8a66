//! Whether a file system keeps what it says it has written.
//!
//! Two tests, both must pass: the kind is not one that is known to lose or to buffer, and an
//! aligned Direct I/O write that is durable on completion works there. Kinds that are unknown but
//! pass the second are taken at their word.

use std::fmt;
use std::io;
use std::path::Path;

use rustix::fs::statfs;

use crate::disk::{Folder, Kind};

/// Kinds that accept durable writes and don't mean it, or whose durability is another machine's
/// affair. The number is `f_type` of statfs(2).
const REFUSED: [(u32, &str, &str); 11] = [
    (0x0102_1994, "tmpfs", "lives in memory"),
    (0x8584_58f6, "ramfs", "lives in memory"),
    (0x9584_58f6, "hugetlbfs", "lives in memory"),
    (0x0000_6969, "nfs", "is on another machine"),
    (0xff53_4d42, "cifs", "is on another machine"),
    (0xfe53_4d42, "smb2", "is on another machine"),
    (0x0000_517b, "smb", "is on another machine"),
    (0x0102_1997, "9p", "is on another machine"),
    (0x6573_5546, "fuse", "may buffer in a process"),
    (0x786f_4256, "vboxsf", "may buffer on its host"),
    (0x5346_544e, "ntfs", "is not journaled by this driver"),
];

/// Known names of the rest, for messages.
const NAMED: [(u32, &str); 6] = [
    (0x0000_ef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0x794c_7630, "overlayfs"),
];

/// What a directory's file system is and can do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileSystem {
    /// Its kind, as `f_type` of statfs(2).
    pub magic: u32,
    /// Direct I/O with durable completion works.
    pub direct: bool,
}

impl FileSystem {
    /// Looks at the file system of an existing directory and tries a durable write in it.
    ///
    /// # Errors
    /// The directory can't be written to.
    pub fn of(path: &Path) -> io::Result<Self> {
        let magic = statfs(path)?.f_type as u32;
        Ok(Self { magic, direct: Folder::probe_direct(path)? })
    }

    /// Why nothing that must last may be kept here; `None` if it may.
    pub fn objection(&self) -> Option<&'static str> {
        let refused = REFUSED.iter().find(|(magic, ..)| *magic == self.magic);
        match refused {
            Some((.., why)) => Some(why),
            None if !self.direct => Some("refuses Direct I/O, so it buffers"),
            None => None,
        }
    }

    /// The disk to prefer here.
    pub fn disk_kind(&self) -> Kind {
        if self.direct { Kind::Uring } else { Kind::Buffered }
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = REFUSED.iter().map(|(magic, name, _)| (magic, name));
        let mut known = NAMED.iter().map(|(magic, name)| (magic, name)).chain(refused);
        match known.find(|(magic, _)| **magic == self.magic) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "file system {:#x}", self.magic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_buffer_are_refused_even_if_they_take_direct_writes() {
        for (magic, name, why) in REFUSED {
            let file_system = FileSystem { magic, direct: true };
            assert_eq!(file_system.objection(), Some(why));
            assert_eq!(file_system.to_string(), name);
        }
    }

    #[test]
    fn other_kinds_are_refused_only_without_direct_writes() {
        for magic in NAMED.map(|(magic, _)| magic).into_iter().chain([0x1234_5678]) {
            assert_eq!(FileSystem { magic, direct: true }.objection(), None);
            assert!(FileSystem { magic, direct: false }.objection().is_some());
        }
        let unknown = FileSystem { magic: 0x1234_5678, direct: true };
        assert_eq!(unknown.to_string(), "file system 0x12345678");
    }

    #[test]
    fn memory_is_recognised() {
        let memory = Path::new("/dev/shm");
        if memory.is_dir()
            && let Ok(dir) = tempfile::tempdir_in(memory)
        {
            let file_system = FileSystem::of(dir.path()).expect("it can be looked at");
            assert_eq!(file_system.objection(), Some("lives in memory"));
            assert_eq!(std::fs::read_dir(dir.path()).expect("the directory").count(), 0);
        }
    }
}
