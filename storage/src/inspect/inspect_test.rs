//! The offline walk over real files, healthy and damaged.

use std::collections::BTreeMap;

use super::*;
use crate::Settings;
use crate::error::Damage;
use crate::testing::{Dice, Fate, Rig, Snapshot, small_settings};

fn on_disk(files: &BTreeMap<String, Vec<u8>>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let shard = dir.path().join("shard-0003");
    fs::create_dir(&shard).expect("a folder");
    for (name, content) in files {
        fs::write(shard.join(name), content).expect("a file");
    }
    dir
}

fn walk(files: &BTreeMap<String, Vec<u8>>) -> (Folder, Vec<Item>) {
    let dir = on_disk(files);
    let found = folders(dir.path()).expect("readable");
    assert_eq!(found.len(), 1);
    let folder = Folder::open(&found[0]).expect("readable");
    let items = folder.walk().collect::<io::Result<_>>().expect("readable");
    (folder, items)
}

fn busy() -> Snapshot {
    let mut rig = Rig::new(Settings { segment_bytes_first: 32 << 10, ..small_settings() });
    let mut dice = Dice::new(9);
    while rig.directory.run_count() < 2 {
        (0..50).for_each(|_| rig.step(&mut dice));
        while rig.resolve(0, true) {}
        rig.settle();
    }
    rig.snapshot()
}

fn frames(items: &[Item]) -> Vec<&Frame> {
    let frames = items.iter().filter_map(|item| match item {
        Item::Frame(frame) => Some(frame),
        _ => None,
    });
    frames.collect()
}

fn damages(items: &[Item]) -> Vec<&Damage> {
    let damages = items.iter().filter_map(|item| match item {
        Item::Damage(damage) => Some(damage),
        _ => None,
    });
    damages.collect()
}

#[test]
fn a_healthy_folder_shows_every_record_once() {
    let snapshot = busy();
    let (folder, items) = walk(&snapshot.files);
    assert!(damages(&items).is_empty());
    let frames = frames(&items);
    let records = frames.iter().flat_map(|frame| &frame.records);
    let lsns: Vec<u64> = records.map(|record| record.lsn.value()).collect();
    let expected: Vec<u64> = (1..=lsns.len() as u64).collect();
    assert_eq!(lsns, expected);
    let tip = snapshot.open().expect("intact").recovered_tip;
    assert_eq!(lsns.last(), Some(&tip.value()));
    let ends = items.iter().filter(|item| matches!(item, Item::End { .. })).count();
    assert_eq!(ends, folder.segments.len());
    let manifest = folder.manifest.expect("there").expect("intact");
    let named: Vec<u32> = manifest.runs.iter().map(|(number, _)| *number).collect();
    assert!(named.len() >= 2);
    let mut seen = RunRows::default();
    for file in folder.runs.iter().filter(|file| named.contains(&file.number)) {
        let rows = file.rows.as_ref().expect("intact");
        seen.heads += rows.heads;
        seen.batches += rows.batches;
        seen.outcomes += rows.outcomes;
    }
    assert!(seen.heads > 0 && seen.batches >= seen.heads && seen.outcomes > 0, "{seen:?}");
    assert!(folder.watermark.iter().all(Result::is_ok) && folder.watermark.len() == 2);
    assert!(folder.strangers.is_empty());
}

#[test]
fn damage_is_named_and_what_follows_is_still_shown() {
    let snapshot = busy();
    let (_, healthy) = walk(&snapshot.files);
    let places: Vec<(u32, u64)> =
        frames(&healthy).iter().map(|frame| (frame.segment, frame.offset)).collect();
    for (segment, offset) in places.iter().take(places.len() - 1) {
        for behind in [20, 300] {
            let mut files = snapshot.files.clone();
            let name = crate::segment::segment_name(*segment);
            files.get_mut(&name).expect("there")[*offset as usize + behind] ^= 4;
            let (_, items) = walk(&files);
            let damages = damages(&items);
            assert_eq!(damages.len(), 1, "{damages:?}");
            assert_eq!((damages[0].segment, damages[0].offset), (*segment, *offset));
            assert_eq!(frames(&items).len(), places.len() - 1);
        }
    }
}

#[test]
fn an_unfinished_tail_is_shown_as_such() {
    let mut rig = Rig::new(Settings { segment_bytes_first: 256 << 10, ..small_settings() });
    rig.settle();
    for number in 0..3 {
        assert!(rig.append(&[number], &[200], false));
        rig.pump();
    }
    let mut at = 0;
    let keep_the_last = |_: &crate::disk::Op| {
        at += 1;
        if at == 3 { Fate::Keep } else { Fate::Drop }
    };
    let files = rig.disk.crash(keep_the_last, &mut Dice::new(1));
    let (_, items) = walk(&files);
    assert!(damages(&items).is_empty());
    let unfinished = items.iter().find_map(|item| match item {
        Item::Unfinished { segment, offset, bytes } => Some((*segment, *offset, *bytes)),
        _ => None,
    });
    assert_eq!(unfinished, Some((1, 8192, 8192)));
}

#[test]
fn strange_and_broken_files_do_not_stop_a_walk() {
    let mut files = busy().files;
    files.insert("notes.txt".into(), b"hello".to_vec());
    files.insert("00000099.seg".into(), b"short".to_vec());
    files.insert("00000098.run".into(), Vec::new());
    files.get_mut("manifest").expect("there")[9] ^= 1;
    files.get_mut("watermark").expect("there")[3] ^= 1;
    let (folder, items) = walk(&files);
    assert_eq!(folder.strangers, ["notes.txt"]);
    assert!(folder.segments.last().expect("there").header.is_err());
    assert!(folder.runs.last().expect("there").rows.is_err());
    assert!(folder.manifest.expect("there").is_err());
    assert!(folder.watermark.iter().any(Result::is_err));
    assert!(!frames(&items).is_empty());
}

#[test]
fn a_packed_segment_shows_the_same_records() {
    let mut rig = busy().open().expect("a clean stop");
    rig.settle();
    let (_, before) = walk(&rig.snapshot().files);
    for at in 0..u64::from(rig.log.sealed_upto()) {
        rig.compact(at);
        rig.settle();
    }
    let mut snapshot = rig.snapshot();
    let (folder, after) = walk(&snapshot.files);
    assert!(folder.segments[0].file_bytes < folder.segments[0].bytes);
    assert!(damages(&after).is_empty() && folder.strangers.is_empty());
    let hashes = |items: &[Item]| frames(items).iter().map(|f| f.header.hash).collect::<Vec<_>>();
    assert_eq!(hashes(&before), hashes(&after));

    let name = folder.segments[0].name();
    snapshot.files.get_mut(&name).expect("there")[9] ^= 1;
    let (_, damaged) = walk(&snapshot.files);
    assert_eq!(damages(&damaged)[0].file, name);
    assert!(!frames(&damaged).is_empty(), "it goes on behind the damage");
}
