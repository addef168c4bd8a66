//! Each invariant that is checked on images fails when it is broken.

use std::collections::BTreeSet;

use celeriant_actors::election::register::{Active, Config, Link, Member, Phase, Process, Set};
use celeriant_schema::peer::{Features, Position};
use celeriant_schema::{
    BootId, ClusterId, Epoch, Hash, Lsn, Receipt, Refusal, Request, Response, Stamp, StoreId,
    Version,
};

use super::i02_log_matching::Logs;
use super::i04_two_places::Places;
use super::i06_acknowledged_is_durable::Durable;
use super::i07_exposed_is_final::Exposed;
use super::i08_one_entry_per_position::Acknowledged;
use super::i12_no_cut::Held;
use super::i15_slots::Slots;
use super::{
    Violations, i05_leader_has_all, i11_linearizable, i12_no_cut, i14_register_trusted,
    i17_recovery_is_idempotent as i17, i19_short_logs_never_claim, i21_feature_levels, i22_caps,
};
use crate::crash::{finished, identity, settings};
use crate::disk::Files;
use crate::originals::Originals;
use crate::reopen::reopen;
use crate::walk::{Walked, segments, walk, walk_all};

fn image() -> Files {
    finished(40)
}

fn held() -> Held {
    Held::of([(identity(), &image())].into_iter(), &Originals::default())
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

fn check_tail(files: &Files, violations: &Violations) {
    let segments: Vec<_> = segments(files).collect();
    let frames = walk_all(&segments, &identity());
    i17::check_tail((&segments, &frames), &identity(), violations);
}

#[test]
fn what_a_recovery_leaves_behind_the_end_of_the_log_is_seen() {
    let violations = Violations::default();
    let mut files = reopen(&image(), identity(), &settings()).expect("opens").0;
    check_tail(&files, &violations);
    assert_eq!(violations.list(), []);
    let last = walk(&files, &identity()).pop().expect("it has frames");
    let behind = last.offset + last.header.frame_bytes() as u64 + 4_096;
    assert!(files.overwrite(&last.name, behind, &[1]));
    check_tail(&files, &violations);
    assert_eq!(rules(&violations), ["I17"]);
}

const ONE: StoreId = StoreId::new(1);
const OTHER: StoreId = StoreId::new(2);

/// The first of two stores leads with the bucket.
fn config() -> Config {
    let member = |store| Member {
        store,
        node: "a".into(),
        clients: String::new(),
        replication: String::new(),
        features: Features { min: 1, max: 2 },
    };
    let leader = Process { store: ONE, boot: BootId::new(1) };
    let base = vec![Position { lsn: Lsn::new(4), hash: Hash([4; 32]) }];
    let chain = vec![Link { epoch: Epoch::new(3), base }];
    let active = Active { epoch: Epoch::new(3), leader, set: Set::Bucket(ONE), chain };
    Config {
        cluster: ClusterId::new(1),
        shards: 1,
        ver: 5,
        epoch: Epoch::new(3),
        phase: Phase::Active,
        leader,
        active,
        lease: None,
        members: vec![member(ONE), member(OTHER)],
        feature_level: 2,
        nonce: 0,
    }
}

#[test]
fn a_leader_without_an_acknowledged_entry_is_seen() {
    let frames = frames();
    let (key, version, hash) = frames[0].events().next().expect("it has events");
    let (held, slots, lost) = (Held::default(), Slots::default(), BTreeSet::new());
    let places = Places { disks: [(ONE, &held), (OTHER, &held)], slots: &slots, lost: &lost };
    let violations = Violations::default();
    i05_leader_has_all::check(&places, [(key, version, hash)].into_iter(), &config(), &violations);
    assert_eq!(rules(&violations), ["I5"]);
}

#[test]
fn a_conflict_with_what_is_not_in_two_places_is_seen() {
    let frames = frames();
    let (key, version, _) = frames[0].events().next().expect("it has events");
    let (held, slots, lost) = (held(), Slots::default(), BTreeSet::new());
    let (none, violations) = (Held::default(), Violations::default());
    let places = Places { disks: [(ONE, &held), (OTHER, &held)], slots: &slots, lost: &lost };
    places.check_conflict((key, version), &config(), &violations);
    let places = Places { disks: [(ONE, &held), (OTHER, &none)], ..places };
    places.check_conflict((key, Version::NONE), &config(), &violations);
    assert!(violations.none());
    places.check_conflict((key, version), &config(), &violations);
    assert_eq!(rules(&violations), ["R3"]);
}

#[test]
fn a_take_over_from_the_bucket_without_a_fence_is_seen() {
    let violations = Violations::default();
    let of_pair = Active { set: Set::pair(ONE, OTHER), ..config().active };
    Slots::default().check_fenced(&Config { active: of_pair, ..config() }, &violations);
    assert!(violations.none());
    Slots::default().check_fenced(&config(), &violations);
    assert_eq!(rules(&violations), ["I15"]);
}

#[test]
fn a_read_that_misses_what_was_known_is_seen() {
    let violations = Violations::default();
    let key = frames()[0].events().next().expect("it has events").0.clone();
    let response = Response::Refused(Refusal::NotFound { key });
    i11_linearizable::check(1, &Request::Ping, &response, |_| Version::NONE, &violations);
    assert!(violations.none());
    i11_linearizable::check(1, &Request::Ping, &response, |_| Version::new(1), &violations);
    assert_eq!(rules(&violations), ["I11"]);
}

#[test]
fn a_change_of_an_old_or_missing_register_is_seen() {
    let violations = Violations::default();
    let older = Config { ver: 4, ..config() };
    i14_register_trusted::check(Some(&config()), &config(), &violations);
    assert!(violations.none());
    i14_register_trusted::check(Some(&older), &config(), &violations);
    i14_register_trusted::check(None, &config(), &violations);
    assert_eq!(rules(&violations), ["I14", "I14"]);
}

#[test]
fn a_claim_without_the_base_of_the_chain_is_seen() {
    let violations = Violations::default();
    let claim = Config { phase: Phase::Claimed, ..config() };
    i19_short_logs_never_claim::check((OTHER, &Held::default()), &claim, &violations);
    assert_eq!(rules(&violations), ["I19"]);
}

#[test]
fn a_level_that_is_lowered_or_that_a_member_does_not_speak_is_seen() {
    let violations = Violations::default();
    i21_feature_levels::check(&config(), &violations);
    i21_feature_levels::check_order(&config(), &config(), &violations);
    assert!(violations.none());
    let (lower, higher) =
        (Config { feature_level: 1, ..config() }, Config { feature_level: 3, ..config() });
    i21_feature_levels::check_order(&config(), &lower, &violations);
    i21_feature_levels::check(&higher, &violations);
    assert_eq!(rules(&violations), ["I21", "I21", "I21"]);
}
