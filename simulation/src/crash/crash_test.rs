//! No crash loses what was reported durable, and no flipped byte is taken for data.

use celeriant_storage::frame;
use celeriant_storage::recovery::Report;

use super::*;
use crate::walk::{Walked, segments};

fn assert_none(violations: &Violations) {
    let list = violations.list();
    assert!(
        list.is_empty(),
        "{}",
        list.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn power_lost_at_any_operation_loses_nothing_that_was_reported_durable() {
    let violations = Violations::default();
    let every = if cfg!(debug_assertions) { 4 } else { 1 };
    let thoroughness = Thoroughness { records: 60, every, recovery_every: 0 };
    let tally = crash_everywhere(thoroughness, &violations);
    assert_none(&violations);
    assert!(tally.operations > 60 && tally.images > 400, "{tally:?}");
    assert!(tally.half_packed > 50 && tally.erased > 500, "{tally:?}");
}

#[test]
fn power_lost_again_at_any_operation_of_the_recovery_leaves_the_same_log() {
    let violations = Violations::default();
    let thoroughness = Thoroughness { records: 40, every: 7, recovery_every: 5 };
    let tally = crash_everywhere(thoroughness, &violations);
    assert_none(&violations);
    assert!(tally.recoveries_cut > 200, "{tally:?}");
}

#[test]
fn a_recovery_that_was_not_interrupted_has_nothing_to_do_the_second_time() {
    let files = finished(60);
    let (files, ..) = reopen(&files, identity(), &settings()).expect("opens");
    let (again, recovered, _) = reopen(&files, identity(), &settings()).expect("opens again");
    let Report { cut_bytes, cut_frames, .. } = recovered.report;
    assert_eq!((cut_bytes, cut_frames), (0, 0));
    assert!(again.same_content(&files) || recovered.report.secured_bytes > 0);
}

/// Flips every `step`-th byte of every file, one at a time.
fn flip_every(step: usize) -> (u64, u64) {
    let files = finished(60);
    assert!(files.list().iter().any(|(name, _)| name.ends_with(".pack")));
    let (files, recovered, expected) = reopen(&files, identity(), &settings()).expect("opens");
    let vouched = recovered.log.durable();
    let frames = walk(&files, &identity());
    let (mut refused, mut harmless) = (0, 0);
    for (name, size) in files.list() {
        for offset in (0..size).step_by(step) {
            let mut damaged = files.clone();
            damaged.flip(&name, offset, (offset % 8) as u8);
            match reopen(&damaged, identity(), &settings()) {
                Err(_) => refused += 1,
                Ok((left, recovered, state)) => {
                    harmless += 1;
                    let what = format!("{name} byte {offset}");
                    assert_eq!(state, expected, "{what}: another log");
                    assert!(recovered.log.durable() >= vouched, "{what}: cut");
                    serve_all(&left, &frames, &what);
                }
            }
        }
    }
    (refused, harmless)
}

/// What a node would read from its disk: intact frames are the ones that were written, others are
/// seen not to be.
fn serve_all(left: &Files, frames: &[Walked], what: &str) {
    assert!(!frames.is_empty());
    let there: BTreeMap<_, _> = segments(left).map(|it| (it.number, it.content)).collect();
    for expected in frames {
        let content = there.get(&expected.segment()).expect("segments stay");
        let from = expected.offset as usize;
        let Some(bytes) = content.get(from..from + expected.header.frame_bytes()) else { continue };
        if let Ok(header) = frame::verify(bytes, &identity()) {
            assert_eq!(header.hash, expected.header.hash, "{what}: other bytes are served");
        }
    }
}

#[test]
fn a_flipped_byte_of_any_file_is_refused_or_changes_nothing() {
    let (refused, harmless) = flip_every(if cfg!(debug_assertions) { 41 } else { 1 });
    assert!(refused > 100 && harmless > 100, "{refused} refused, {harmless} harmless");
}

#[test]
fn a_log_that_reports_too_early_is_found_out() {
    // The harness itself: a process that was told more than is there must be noticed.
    let files = finished(20);
    let hash = Hash([3; 32]);
    let (key, version) = (crate::workload::Workload::key(1), Version::new(1));
    let number = 0;
    let batch = ToldBatch { key, number, first_version: version, last_version: version, hash };
    let told = Told { durable: Lsn::new(3), batches: vec![batch], ..Told::default() };
    let violations = Violations::default();
    check_image(&files, &told, "planted", &violations);
    assert!(!violations.none());
}
