//! What may be deleted, what is, and that it comes to an end.

use bytes::Bytes;
use celeriant_schema::ClusterId;

use super::*;
use crate::bucket_log::rig::{FakeBucket, settings};

fn facts() -> Facts {
    let acknowledged = [Epoch::new(6), Epoch::new(5)];
    Facts { is_pair: true, chain: Vec::new(), acknowledged, both_hold_all: true }
}

fn key(epoch: u64, slot: u64) -> String {
    let name = Name { cluster: ClusterId::new(1), epoch: Epoch::new(epoch), slot };
    name.key().as_str().to_owned()
}

/// Epochs 1 to 6 with four rounds and a fence each, and things that are no slots.
fn bucket(seed: u64, trouble: u32) -> FakeBucket {
    let mut bucket = FakeBucket::new(seed, trouble);
    for epoch in 1..=6 {
        for slot in 0..5 {
            let bytes = if slot == 4 { FENCE_BYTES } else { FENCE_BYTES + 4096 };
            bucket.objects.insert(key(epoch, slot), Bytes::from(vec![0; bytes]));
        }
    }
    for other in ["config", "wal/readme", "wal/1/1", "archive/x"] {
        bucket.objects.insert(other.to_owned(), Bytes::from(vec![0; 9_000]));
    }
    bucket
}

/// Until it is done, or `stop` says so. Returns how many it says it has deleted.
fn run(
    gc: &mut Gc,
    bucket: &mut FakeBucket,
    now: &mut Micros,
    stop: impl Fn(&FakeBucket) -> bool,
) -> Option<u64> {
    let mut last_delete = None;
    let mut effects = Vec::new();
    for _ in 0..10_000 {
        let event = bucket.step().map_or(Event::Tick, |(_, it)| Event::Bucket(it));
        gc.handle(*now, event, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Bucket(token, request) => {
                    if matches!(request.op, Op::Delete { .. }) {
                        let pause = last_delete.map_or(u64::MAX, |last| *now - last);
                        assert!(pause >= settings().interval, "{pause} µs");
                        last_delete = Some(*now);
                    }
                    bucket.start(0, token, request);
                }
                Effect::Done { deleted } => return Some(deleted),
            }
        }
        if stop(bucket) {
            return None;
        }
        *now += 7_000;
    }
    panic!("no end");
}

fn names(bucket: &FakeBucket, epoch: u64) -> Vec<String> {
    let prefix = format!("{PREFIX}{epoch:020}/");
    bucket.objects.keys().filter(|name| name.starts_with(&prefix)).cloned().collect()
}

#[test]
fn rounds_below_what_both_have_acknowledged_go_and_fences_stay() {
    for seed in 0..200 {
        let mut bucket = bucket(seed, if seed % 2 == 0 { 0 } else { 200 });
        let mut gc = Gc::new(facts(), None, settings());
        let deleted = run(&mut gc, &mut bucket, &mut 0, |_| false).expect("done");
        assert_eq!(deleted, 16, "four epochs of four rounds");
        assert_eq!(gc.cursor(), None, "the next walk begins anew");
        assert_eq!(gc.next_deadline(), None);
        for epoch in 1..=4 {
            assert_eq!(names(&bucket, epoch), [key(epoch, 4)]);
        }
        for epoch in 5..=6 {
            assert_eq!(names(&bucket, epoch).len(), 5);
        }
        assert_eq!(bucket.objects.len(), 4 + 10 + 4, "nothing else is touched");
    }
}

#[test]
fn each_condition_is_needed() {
    let epoch = Epoch::new(4);
    assert!(facts().frees(epoch));
    assert!(!facts().frees(Epoch::new(5)), "one node has acknowledged only in it");
    assert!(!Facts { is_pair: false, ..facts() }.frees(epoch));
    assert!(!Facts { both_hold_all: false, ..facts() }.frees(epoch));
    assert!(!Facts { chain: vec![epoch], ..facts() }.frees(epoch));
    let mut bucket = bucket(1, 0);
    let before = bucket.objects.clone();
    let mut gc = Gc::new(Facts { is_pair: false, ..facts() }, None, settings());
    assert_eq!(run(&mut gc, &mut bucket, &mut 0, |_| false), Some(0));
    assert_eq!(bucket.objects, before);
}

#[test]
fn it_stops_when_the_facts_change_and_goes_on_where_it_was() {
    let mut bucket = bucket(1, 0);
    let mut now = 0;
    let mut gc = Gc::new(facts(), None, settings());
    let whole = bucket.objects.len();
    assert_eq!(
        run(&mut gc, &mut bucket, &mut now, |bucket| bucket.objects.len() == whole - 6),
        None
    );
    let mut effects = Vec::new();
    gc.handle(now, Event::Facts(Facts { is_pair: false, ..facts() }), &mut effects);
    assert!(effects.is_empty(), "one deletion is under way, or paused");
    let deleted = run(&mut gc, &mut bucket, &mut now, |_| false).expect("done");
    assert!(deleted <= 7 && bucket.objects.len() >= whole - 7, "{deleted}");
    let cursor = gc.cursor().map(str::to_owned);
    assert!(cursor.is_some());
    let mut gc = Gc::new(facts(), cursor, settings());
    let rest = run(&mut gc, &mut bucket, &mut 0, |_| false).expect("done");
    assert_eq!(deleted + rest, 16);
}

#[test]
fn one_deletion_an_interval() {
    let mut gc = Gc::new(facts(), None, settings());
    let mut effects = Vec::new();
    let mut answer = |gc: &mut Gc, now, outcome: Option<Done>| {
        let token = gc.token;
        let complete = |outcome| {
            Event::Bucket(Completion { token: token.unwrap_or_default(), outcome: Ok(outcome) })
        };
        gc.handle(now, outcome.map_or(Event::Tick, complete), &mut effects);
        effects.drain(..).count()
    };
    assert_eq!(answer(&mut gc, 0, None), 1);
    let objects = (0..2).map(|slot| (key(1, slot), 9_000)).collect();
    assert_eq!(answer(&mut gc, 10, Some(Done::Listed { objects, more: false })), 1);
    assert_eq!(answer(&mut gc, 20, Some(Done::Deleted)), 0);
    assert_eq!(gc.next_deadline(), Some(10 + settings().interval));
    assert_eq!(answer(&mut gc, 10 + settings().interval, None), 1);
}
