//! Each invariant that is checked on images fails when it is broken.

use celeriant_schema::{Hash, Lsn, Receipt, Stamp, Version};

use super::i02_log_matching::Logs;
use super::i06_acknowledged_is_durable::Durable;
use super::i07_exposed_is_final::Exposed;
use super::i08_one_entry_per_position::Acknowledged;
use super::{Violations, i12_no_cut, i17_recovery_is_idempotent as i17, i22_caps};
use crate::crash::{finished, identity, settings};
use crate::disk::Files;
use crate::reopen::reopen;
use crate::walk::{Walked, walk};

fn image() -> Files {
    finished(40).0
}

fn frames() -> Vec<Walked> {
    let frames = walk(&image(), &identity());
    assert!(frames.len() > 5);
    frames
}

fn rules(violations: &Violations) -> Vec<&'static str> {
    violations.list().iter().map(|violation| violation.rule).collect()
}

#[test]
fn a_log_as_it_was_written_breaks_nothing() {
    let violations = Violations::default();
    let mut logs = Logs::default();
    for frame in &frames() {
        logs.in_log(identity().shard, frame, &violations);
        i22_caps::check_frame(frame, settings().frame_bytes_max(), &violations);
    }
    assert_eq!(violations.list(), []);
}

#[test]
fn another_record_at_the_same_lsn_and_epoch_is_seen() {
    let violations = Violations::default();
    let mut logs = Logs::default();
    let mut frame = frames().remove(0);
    logs.note(identity().shard, &frame, &violations);
    frame.records[0].2 = Hash([1; 32]);
    logs.note(identity().shard, &frame, &violations);
    assert_eq!(rules(&violations), ["I2"]);
}

#[test]
fn a_log_with_a_frame_left_out_is_seen() {
    let violations = Violations::default();
    let mut logs = Logs::default();
    let mut frames = frames();
    frames.remove(2);
    frames.iter().for_each(|frame| logs.in_log(identity().shard, frame, &violations));
    assert_eq!(rules(&violations), ["I2"]);
}

#[test]
fn an_acknowledged_event_that_recovery_lost_is_seen() {
    let frames = frames();
    let mut left = Durable::default();
    frames.iter().skip(1).for_each(|frame| left.note(frame));
    let (key, version, hash) =
        frames[0].events().next().map(|(k, v, h)| (k.clone(), v, h)).expect("it has events");
    let write = celeriant_schema::AggregateReceipt {
        key,
        first_version: version,
        last_version: version,
        hash,
    };
    let receipt = Receipt { stamp: Stamp::new(1), already_applied: false, writes: vec![write] };
    let (mut acknowledged, violations) = (Acknowledged::default(), Violations::default());
    acknowledged.note(&receipt, &violations);
    i12_no_cut::check(&left, &acknowledged, &Exposed::default(), &violations);
    left.check(&receipt, &violations);
    assert_eq!(rules(&violations), ["I12", "I6"]);
}

#[test]
fn a_recovery_that_comes_to_another_log_is_seen() {
    let violations = Violations::default();
    let (files, _, mut state) = reopen(&image(), identity(), &settings()).expect("opens");
    i17::expect(&files, identity(), &settings(), &state, "again", &violations);
    assert!(violations.none());
    state.next_lsn = Lsn::new(1);
    i17::expect(&files, identity(), &settings(), &state, "again", &violations);
    assert_eq!(rules(&violations), ["I17"]);
}

#[test]
fn what_is_above_its_cap_is_seen() {
    let violations = Violations::default();
    i22_caps::check_frame(&frames()[0], 1_000, &violations);
    i22_caps::check_in_flight(0, 9, 8, &violations);
    assert_eq!(rules(&violations), ["I22", "I22"]);
}

#[test]
fn an_event_that_changes_after_it_was_seen_is_seen() {
    let violations = Violations::default();
    let (key, ..) = frames()[0].events().next().map(|(k, v, h)| (k.clone(), v, h)).expect("events");
    let mut exposed = Exposed::default();
    exposed.entry(&key, Version::new(1), Hash([1; 32]), &violations);
    exposed.entry(&key, Version::new(1), Hash([2; 32]), &violations);
    assert_eq!(rules(&violations), ["I7"]);
}
