//! Verifying what a busy shard left: nothing to find in a healthy one, everything in a changed one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use celeriant_schema::audit::mountains::Mountains;

use super::*;
use celeriant_schema::StoreId;

use crate::Settings;
use crate::codec::crc32c;
use crate::frame::FRAME_HEADER_BYTES;
use crate::inspect::{Folder, Item};
use crate::store::{self, Format};
use crate::testing::{Dice, Rig, identity, small_settings};

struct Stored {
    dir: tempfile::TempDir,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Stored {
    fn shard(&self) -> PathBuf {
        self.dir.path().to_path_buf()
    }

    fn verify(&self) -> Report {
        verify(self.dir.path(), &Options::default()).expect("readable")
    }
}

/// One shard that was busy, and stopped cleanly.
fn stored(runs: usize, settings: Settings) -> Stored {
    let mut rig = Rig::new(settings);
    let mut dice = Dice::new(9);
    loop {
        (0..20).for_each(|_| rig.step(&mut dice));
        while rig.resolve(0, true) {}
        rig.settle();
        if rig.directory.run_count() >= runs {
            break;
        }
    }
    rig.note_watermark();
    rig.settle();
    let dir = tempfile::tempdir().expect("a directory");
    let mut files = BTreeMap::new();
    for (name, content) in rig.snapshot().files {
        let path = dir.path().join(name);
        fs::write(&path, &content).expect("a file");
        files.insert(path, content);
    }
    Stored { dir, files }
}

fn small() -> Settings {
    Settings { segment_bytes_first: 32 << 10, ..small_settings() }
}

#[test]
fn a_healthy_store_has_nothing_to_find() {
    let stored = stored(2, small());
    let report = stored.verify();
    assert_eq!(report.findings, []);
    assert!(report.events > report.aggregates && report.rows > 0, "{report:?}");
    let folder = Folder::open(&stored.shard()).expect("readable");
    let mut mountains = Mountains::default();
    for item in folder.walk() {
        if let Item::Frame(frame) = item.expect("readable") {
            mountains.push(frame.header.hash);
        }
    }
    assert_eq!(report.heads[0].head, mountains.head());
    assert_eq!(report.frames, mountains.count());
}

#[test]
fn as_many_aggregates_as_there_may_be_are_followed_with_room_for_two() {
    let stored = stored(2, small());
    let whole = stored.verify();
    let options = Options { aggregates_max: 2, ..Options::default() };
    let passes = verify(&stored.shard(), &options).expect("readable");
    assert_eq!(passes.findings, []);
    assert!(whole.aggregates > 8, "{whole:?}");
    assert_eq!(
        (passes.aggregates, passes.events, passes.frames),
        (whole.aggregates, whole.events, whole.frames)
    );
    assert!(passes.rows >= whole.rows && whole.rows > 0, "{passes:?}");
}

#[test]
fn a_head_is_made_wherever_one_is_wanted() {
    let stored = stored(1, small());
    let heads = [(identity().shard, 2)].into();
    let report = verify(&stored.shard(), &Options { heads, ..Options::default() });
    let report = report.expect("readable");
    assert_eq!(report.heads_wanted.len(), 1);
    assert_eq!(report.heads_wanted[0].head.count, 2);
    assert_ne!(report.heads_wanted[0].head, report.heads[0].head);
}

/// All bytes of headers and small files, of records, rows and zeroes a part, each time another:
/// what they have in common is that a checksum is over all of it. (All that are not among zeroes
/// have been tried; it takes minutes.)
fn places(content: &[u8]) -> Vec<usize> {
    let is_zero = |at: usize| content[at.saturating_sub(8)..content.len().min(at + 8)] == [0; 16];
    let is_there = |at: &usize| match at % 4096 {
        _ if is_zero(*at) => at.is_multiple_of(509),
        0..192 | 4092.. => at % 4096 == at / 4096 || *at < 12 << 10,
        _ => at.is_multiple_of(29),
    };
    (0..content.len()).filter(is_there).collect()
}

#[test]
fn every_changed_byte_anywhere_is_found_and_its_file_and_place_named() {
    let settings =
        Settings { segment_bytes_first: 16 << 10, segment_bytes_max: 32 << 10, ..small_settings() };
    let stored = stored(1, settings);
    assert_eq!(stored.verify().findings, []);
    let mut flipped = 0;
    for (path, content) in &stored.files {
        let file = File::options().write(true).open(path).expect("a file");
        for at in places(content) {
            let changed = content[at] ^ (1 << (at % 8));
            file.write_all_at(&[changed], at as u64).expect("written");
            let report = stored.verify();
            let name = path.file_name().expect("a name").to_string_lossy();
            let first = report.findings.first();
            let first = first.unwrap_or_else(|| panic!("byte {at} of {name} is not found"));
            assert!(
                first.file == name && first.offset <= at as u64,
                "byte {at} of {name}: {first}"
            );
            file.write_all_at(&content[at..=at], at as u64).expect("written");
            flipped += 1;
        }
    }
    assert!(flipped > 1_000, "{flipped}");
    assert_eq!(stored.verify().findings, []);
}

#[test]
fn every_changed_byte_of_the_file_node_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let format = Format { store: StoreId::new(1), cluster: identity().cluster, shard_count: 4 };
    let options =
        store::Options { format: Some(format), allow_buffered: true, ..Default::default() };
    drop(store::DataDir::open(dir.path(), &options).expect("an empty directory"));
    let first = || {
        let report = verify(dir.path(), &Options::default()).expect("readable");
        report.findings.into_iter().next().expect("no shard was ever started")
    };
    assert_eq!((&*first().file, first().offset), ("shard-0000/watermark", 0));
    let node = dir.path().join("node");
    let content = fs::read(&node).expect("a file");
    for at in 0..content.len() {
        let mut changed = content.clone();
        changed[at] ^= 1 << (at % 8);
        fs::write(&node, changed).expect("written");
        assert_eq!((&*first().file, first().offset), ("node", at as u64 / 4096 * 4096), "{at}");
    }
}

#[test]
fn a_file_that_is_gone_is_missed() {
    let stored = stored(2, small());
    let named = |report: &Report, name: &str| report.findings[0].file == name;
    let mut names = Vec::new();
    for (path, content) in &stored.files {
        fs::remove_file(path).expect("removed");
        let report = stored.verify();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let is_found = name == "manifest" || !report.findings.is_empty();
        assert!(is_found, "{name}");
        if name.ends_with("run") || name == "00000001.seg" {
            assert!(named(&report, &name), "{name}: {:?}", report.findings);
        }
        names.push(name);
        fs::write(path, content).expect("written");
    }
    assert!(names.len() > 4, "{names:?}");
    assert_eq!(stored.verify().findings, []);
}

#[test]
fn a_node_that_runs_is_not_disturbed_and_its_durable_log_is_verified() {
    let stored = stored(1, small());
    let lock = File::create(stored.shard().join("lock")).expect("a file");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    // As if a merge removed it between the listing and the look at it.
    let gone = stored.shard().join(crate::run::run_name(99));
    std::os::unix::fs::symlink("nowhere", &gone).expect("a link");
    let report = stored.verify();
    fs::remove_file(gone).expect("there");
    assert!(report.is_running && report.frames > 0 && report.rows == 0, "{report:?}");
    assert_eq!(report.findings, []);
    drop(lock);
    assert!(!stored.verify().is_running);
}

#[test]
fn a_payload_that_is_changed_with_its_checksums_is_named_by_its_event() {
    let stored = stored(1, small());
    let folder = Folder::open(&stored.shard()).expect("readable");
    let frames = folder.walk().filter_map(|item| match item.expect("readable") {
        Item::Frame(frame) => Some(frame),
        _ => None,
    });
    let mut changed = 0;
    for frame in frames.filter(|frame| frame.header.blob_len > 0).take(3) {
        let path = stored.shard().join(crate::segment::segment_name(frame.segment));
        let content = &stored.files[&path];
        let mut forged = content.clone();
        let bytes = &mut forged[frame.offset as usize..][..frame.header.frame_bytes()];
        bytes[FRAME_HEADER_BYTES + frame.header.meta_len as usize] ^= 1;
        let checksum = crc32c(&bytes[FRAME_HEADER_BYTES..]);
        bytes[152..156].copy_from_slice(&checksum.to_le_bytes());
        let checksum = crc32c(&bytes[..FRAME_HEADER_BYTES - 4]);
        bytes[FRAME_HEADER_BYTES - 4..FRAME_HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        fs::write(&path, &forged).expect("written");
        let report = stored.verify();
        let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
        assert_eq!(finding.offset, frame.offset);
        assert!(finding.event.is_some() && finding.lsn.is_some(), "{finding}");
        fs::write(&path, content).expect("written");
        changed += 1;
    }
    assert_eq!(changed, 3);
}
