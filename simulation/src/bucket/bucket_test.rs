//! The simulated bucket keeps the contract of the seam, and breaks it only as each fault says.

use std::future::poll_fn;
use std::time::Duration;

use celeriant_schema::BootId;
use celeriant_storage::bucket::probe::{self, Refusal, probe};
use celeriant_storage::bucket::{Conflict, Done, ETag, Effect, Key, Op, Outcome, run};

use super::*;

fn get(key: &str) -> Op {
    Op::Get { key: Key::new(key) }
}

fn create(key: &str, body: &str) -> Op {
    Op::PutIfAbsent { key: Key::new(key), body: body.to_owned().into() }
}

fn replace(key: &str, etag: &ETag, body: &str) -> Op {
    Op::PutIfMatch { key: Key::new(key), etag: etag.clone(), body: body.to_owned().into() }
}

async fn call(bucket: &mut SimBucket, op: Op) -> Outcome {
    run(bucket, Request::control(op, Duration::from_secs(1))).await
}

async fn told(bucket: &mut SimBucket, op: Op) -> Result<Done, (Cause, Effect)> {
    call(bucket, op).await.map_err(|error| (error.cause, error.effect))
}

fn made(body: &str) -> Result<Done, (Cause, Effect)> {
    Ok(Done::Put { etag: etag_of(body.as_bytes()) })
}

/// Runs `body` on virtual time, with a bucket of its own.
fn world<T>(seed: u64, body: impl AsyncFnOnce(&Cloud, &Timeline) -> T) -> (T, u64) {
    let (timeline, trace) = (Timeline::default(), Trace::default());
    let time = Some(timeline.clone());
    let cloud = Cloud::new(Rng::new(seed), time, trace.clone(), Reached::default());
    let result = timeline.runtime().block_on(async {
        tokio::spawn(timeline.clone().drive());
        tokio::task::yield_now().await;
        body(&cloud, &timeline).await
    });
    (result, trace.hash())
}

#[tokio::test]
async fn each_ailment_does_what_it_says_once_and_is_counted() {
    for (ailment, outcome, happens) in [
        (Ailment::Conflict, Ok(Done::Conflict(Conflict::Concurrent)), false),
        (Ailment::RefusedAfterSuccess, Ok(Done::Conflict(Conflict::Precondition)), true),
        (Ailment::Error, Err((Cause::Unavailable, Effect::Unknown)), false),
        (Ailment::ErrorAfterSuccess, Err((Cause::Unavailable, Effect::Unknown)), true),
        (Ailment::LostReply, Err((Cause::Lost, Effect::Unknown)), true),
        (Ailment::LostRequest, Err((Cause::Lost, Effect::Unknown)), false),
        (Ailment::Throttled, Err((Cause::Throttled, Effect::Unknown)), false),
    ] {
        let cloud = Cloud::alone(1);
        let mut bucket = cloud.attach(0);
        cloud.ail(|ailments| ailments.pending.push(ailment));
        assert_eq!(told(&mut bucket, create("a", "1")).await, outcome, "{ailment:?}");
        assert_eq!(cloud.body("a").is_some(), happens, "{ailment:?}");
        assert_eq!(cloud.reached().counts()[ailment.counter()], 1);
        assert_eq!(told(&mut bucket, create("b", "1")).await, made("1"), "it was once");
    }
}

#[test]
fn a_put_that_was_given_up_takes_effect_much_later() {
    world(3, async |cloud, time| {
        let mut bucket = cloud.attach(0);
        cloud.ail(|ailments| ailments.pending.push(Ailment::AppliedLater));
        let outcome = told(&mut bucket, create("slot", "late")).await;
        assert_eq!(outcome, Err((Cause::Deadline, Effect::Unknown)));
        assert_eq!(time.now(), 1_000_000, "a deadline is kept");
        assert_eq!(cloud.body("slot"), None);
        assert_eq!(cloud.under_way().len(), 1);
        time.sleep(60_000_000).await;
        assert_eq!(cloud.body("slot").as_deref(), Some(&b"late"[..]));
        assert_eq!(cloud.reached().counts()["bucket-applied-later"], 1);
        assert!(cloud.under_way().is_empty());
    });
}

#[test]
fn a_late_put_loses_against_a_fence() {
    world(4, async |cloud, time| {
        let (mut old, mut new) = (cloud.attach(0), cloud.attach(1));
        cloud.ail(|ailments| ailments.pending.push(Ailment::AppliedLater));
        let _ = call(&mut old, create("wal/1/0", "data")).await;
        assert_eq!(told(&mut new, create("wal/1/0", "fence")).await, made("fence"));
        time.sleep(60_000_000).await;
        assert_eq!(cloud.body("wal/1/0").as_deref(), Some(&b"fence"[..]));
    });
}

#[test]
fn outages_differ_in_what_is_known_of_them() {
    world(5, async |cloud, time| {
        let mut bucket = cloud.attach(0);
        for (outage, cause, effect, within) in [
            (Outage::Refuses, Cause::Unreachable, Effect::None, 10_000),
            (Outage::Unavailable, Cause::Unavailable, Effect::Unknown, 1_000_000),
            (Outage::Silent, Cause::Deadline, Effect::Unknown, 1_000_000),
        ] {
            cloud.ail(|ailments| ailments.outage = Some(outage));
            let began = time.now();
            assert_eq!(told(&mut bucket, create("a", "1")).await, Err((cause, effect)));
            assert!(time.now() - began <= within, "{outage:?} took {}", time.now() - began);
            assert_eq!(cloud.body("a"), None);
        }
        cloud.ail(Ailments::heal);
        assert_eq!(told(&mut bucket, create("a", "1")).await, made("1"));
    });
}

#[test]
fn each_node_is_cut_off_each_way_by_itself() {
    world(6, async |cloud, _| {
        let (mut here, mut there) = (cloud.attach(0), cloud.attach(1));
        let lost = Err((Cause::Deadline, Effect::Unknown));
        cloud.ail(|ailments| {
            ailments.cut_to.insert(0);
            ailments.cut_from.insert(1);
        });
        assert_eq!(told(&mut here, create("here", "1")).await, lost);
        assert_eq!(told(&mut there, create("there", "1")).await, lost);
        assert_eq!((cloud.body("here").is_some(), cloud.body("there").is_some()), (false, true));
        cloud.ail(|ailments| {
            ailments.heal();
            ailments.denied.insert(1);
        });
        let denied = Err((Cause::Denied, Effect::None));
        assert_eq!(told(&mut there, get("here")).await, denied);
        assert_eq!(told(&mut here, get("here")).await, Ok(Done::Absent));
        let counts = cloud.reached().counts();
        for name in ["bucket-cut-to", "bucket-cut-from", "bucket-denied", "bucket-deadline"] {
            assert!(counts.contains_key(name), "{name} is not in {counts:?}");
        }
    });
}

#[tokio::test]
async fn operators_and_backups_change_objects_behind_everybodys_back() {
    let cloud = Cloud::alone(1);
    let mut bucket = cloud.attach(0);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    cloud.observe(Arc::new(move |change| {
        let after = change.after.map(<[u8]>::to_vec);
        log.lock().expect("lock").push((change.node, after));
    }));
    assert_eq!(told(&mut bucket, create("config", "1")).await, made("1"));
    assert_eq!(told(&mut bucket, replace("config", &etag_of(b"1"), "2")).await, made("2"));
    assert!(cloud.restore("config", 1) && !cloud.restore("config", 9));
    let found = Done::Found { etag: etag_of(b"1"), body: "1".into() };
    assert_eq!(told(&mut bucket, get("config")).await, Ok(found));
    assert!(cloud.lose("config") && !cloud.lose("config"));
    assert_eq!(told(&mut bucket, get("config")).await, Ok(Done::Absent));
    let one = |byte: &str| Some(byte.as_bytes().to_vec());
    let expected = [(Some(0), one("1")), (Some(0), one("2")), (None, one("1")), (None, None)];
    assert_eq!(*seen.lock().expect("lock"), expected);
}

#[tokio::test]
async fn a_handle_of_a_process_that_crashed_is_dead_and_its_requests_may_live() {
    let mut outlived = 0;
    for seed in 0..20 {
        let cloud = Cloud::alone(seed);
        let mut old = cloud.attach(0);
        old.start(1, Request::data(create("slot", "x"), Duration::from_secs(1)));
        cloud.crash(0);
        let mut new = cloud.attach(0);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(old.poll_complete(&mut cx).is_pending());
        while !cloud.under_way().is_empty() {
            call(&mut new, get("other")).await.expect("is answered");
        }
        outlived += u32::from(cloud.body("slot").is_some());
    }
    assert!((1..20).contains(&outlived), "{outlived} of 20 arrived");
}

#[tokio::test]
async fn a_bucket_that_ignores_conditions_is_refused_by_the_probe() {
    let cloud = Cloud::alone(1);
    cloud.ail(|ailments| ailments.heedless = true);
    let report = probe(&mut cloud.attach(0), BootId::new(1), probe::Settings::default()).await;
    assert!(matches!(report.refusal(), Some(Refusal::Lies { .. })), "{report}");
}

/// Two nodes race for slots and count in the register, with every ailment about.
async fn race(cloud: &Cloud) -> (u32, u64) {
    let mut buckets = [cloud.attach(0), cloud.attach(1)];
    let mut won = 0;
    for slot in 0..100 {
        for (node, bucket) in buckets.iter_mut().enumerate() {
            let op = create(&format!("wal/1/{slot}"), &format!("{node}"));
            bucket.start(slot, Request::data(op, Duration::from_millis(100)));
        }
        for bucket in &mut buckets {
            let outcome = poll_fn(|cx| bucket.poll_complete(cx)).await.outcome;
            won += u32::from(matches!(outcome, Ok(Done::Put { .. })));
        }
    }
    let kinds = cloud.reached().counts().len() as u64;
    (won, kinds)
}

#[test]
fn the_same_seed_gives_the_same_trace_under_every_ailment() {
    let run = |seed| {
        world(seed, async |cloud, _| {
            cloud.ail(|ailments| {
                ailments.per_mille = Ailment::ALL.iter().map(|ailment| (*ailment, 30)).collect();
            });
            race(cloud).await
        })
    };
    let ((won, kinds), hash) = run(7);
    assert!((1..=100).contains(&won), "{won} of 100 slots were won, at most once each");
    assert!(kinds >= 8, "{kinds} kinds of faults");
    assert_eq!(run(7), ((won, kinds), hash));
    assert_ne!(run(8).1, hash);
}
