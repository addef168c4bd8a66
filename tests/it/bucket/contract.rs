//! What every bucket must do. The word of `storage::bucket`, as code.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use celeriant_schema::BootId;
use celeriant_storage::bucket::probe::{self, probe};
use celeriant_storage::bucket::{
    Bucket, Cause, Completion, Conflict, Done, ETag, Effect, Key, Lane, Op, Outcome, Request,
    Token, run,
};

use super::sites::Site;

/// Ample: these machines are shared.
const DEADLINE: Duration = Duration::from_secs(60);

/// How hard to race.
pub(crate) struct Races {
    pub(crate) racers: u64,
    pub(crate) rounds: u64,
}

/// Everything, one after the other, on one bucket; without `races` nothing that takes two.
pub(crate) async fn check<S: Site>(site: &S, races: Option<Races>) {
    let mut bucket = site.open();
    bodies_come_back(&mut bucket).await;
    conditions_hold_or_nothing_changes(&mut bucket).await;
    names_are_listed_in_order(&mut bucket).await;
    each_lane_has_a_bound(&mut bucket).await;
    let mut settings = probe::Settings::default();
    if races.is_none() {
        settings.rounds = 0;
    }
    let report = probe(&mut bucket, BootId::new(7), settings).await;
    assert!(report.refusal().is_none(), "{report}");
    drop(bucket);
    if let Some(races) = races {
        one_racer_wins(site, &races).await;
        no_increment_is_lost(site).await;
    }
}

pub(crate) fn control(op: Op) -> Request {
    Request::control(op, DEADLINE)
}

pub(crate) fn get(key: &str) -> Op {
    Op::Get { key: Key::new(key) }
}

pub(crate) fn put_if_absent(key: &str, body: impl Into<Bytes>) -> Op {
    Op::PutIfAbsent { key: Key::new(key), body: body.into() }
}

pub(crate) fn put_if_match(key: &str, etag: &ETag, body: impl Into<Bytes>) -> Op {
    Op::PutIfMatch { key: Key::new(key), etag: etag.clone(), body: body.into() }
}

pub(crate) async fn made<B: Bucket>(bucket: &mut B, op: Op) -> ETag {
    match run(bucket, control(op)).await {
        Ok(Done::Put { etag }) => etag,
        other => panic!("a put: {other:?}"),
    }
}

pub(crate) async fn found<B: Bucket>(bucket: &mut B, key: &str) -> Option<(ETag, Bytes)> {
    match run(bucket, control(get(key))).await {
        Ok(Done::Found { etag, body }) => Some((etag, body)),
        Ok(Done::Absent) => None,
        other => panic!("a get: {other:?}"),
    }
}

/// Waits for `count` completions of several handles; by handle and token.
pub(crate) async fn complete<B: Bucket>(
    buckets: &mut [B],
    count: usize,
) -> BTreeMap<(usize, Token), Outcome> {
    let mut completions = BTreeMap::new();
    while completions.len() < count {
        let (at, Completion { token, outcome }) = poll_fn(|cx| {
            let polled = buckets.iter_mut().enumerate().find_map(|(at, bucket)| {
                match bucket.poll_complete(cx) {
                    Poll::Ready(completion) => Some((at, completion)),
                    Poll::Pending => None,
                }
            });
            polled.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        let again = completions.insert((at, token), outcome);
        assert!(again.is_none(), "token {token} of {at} completed twice");
    }
    completions
}

async fn bodies_come_back<B: Bucket>(bucket: &mut B) {
    assert_eq!(found(bucket, "body/none").await, None);
    let large: Vec<u8> =
        (0..5_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (key, body) in [
        ("body/empty", Bytes::new()),
        ("body/short", Bytes::from_static(b"\0\xff\r\n<xml>")),
        ("body/4-MiB.and_more", large.into()),
    ] {
        let etag = made(bucket, put_if_absent(key, body.clone())).await;
        assert_eq!(found(bucket, key).await, Some((etag, body)), "{key}");
        assert_eq!(
            run(bucket, control(Op::Delete { key: Key::new(key) })).await.ok(),
            Some(Done::Deleted)
        );
        assert_eq!(found(bucket, key).await, None, "{key}");
    }
    let again = run(bucket, control(Op::Delete { key: Key::new("body/none") })).await;
    assert_eq!(again.ok(), Some(Done::Deleted), "deleting nothing is no error");
}

async fn conditions_hold_or_nothing_changes<B: Bucket>(bucket: &mut B) {
    let conflict = |conflict| Some(Done::Conflict(conflict));
    let first = made(bucket, put_if_absent("config", "1")).await;
    let second = run(bucket, control(put_if_absent("config", "2"))).await;
    assert_eq!(second.ok(), conflict(Conflict::Precondition));
    let etag = made(bucket, put_if_match("config", &first, "3")).await;
    assert_ne!(etag, first);
    let stale = run(bucket, control(put_if_match("config", &first, "4"))).await;
    assert_eq!(stale.ok(), conflict(Conflict::Precondition));
    assert_eq!(found(bucket, "config").await, Some((etag.clone(), Bytes::from_static(b"3"))));
    let missing = run(bucket, control(put_if_match("config2", &etag, "5"))).await;
    assert_eq!(missing.ok(), conflict(Conflict::Missing));
    assert_eq!(found(bucket, "config2").await, None);
}

async fn names_are_listed_in_order<B: Bucket>(bucket: &mut B) {
    for name in ["list/b", "list/a", "list/c/d", "lisu"] {
        made(bucket, put_if_absent(name, name)).await;
    }
    let mut names = async |prefix: &str, after: Option<&str>| {
        let op = Op::List { prefix: prefix.into(), after: after.map(str::to_owned) };
        match run(bucket, control(op)).await {
            Ok(Done::Listed { objects, more: false }) => objects,
            other => panic!("a list: {other:?}"),
        }
    };
    let all = [("list/a".to_owned(), 6), ("list/b".to_owned(), 6), ("list/c/d".to_owned(), 8)];
    assert_eq!(names("list/", None).await, all);
    assert_eq!(names("list/", Some("list/a")).await, all[1..]);
    assert_eq!(names("nothing", None).await, []);
}

async fn each_lane_has_a_bound<B: Bucket>(bucket: &mut B) {
    for token in 0..9 {
        bucket.start(token, Request::data(get("config"), DEADLINE));
    }
    bucket.start(9, control(get("config")));
    let outcomes = complete(std::slice::from_mut(bucket), 10).await;
    for ((_, token), outcome) in outcomes {
        match outcome {
            Ok(Done::Found { .. }) if token != 8 => {}
            Err(error) if token == 8 => {
                assert_eq!((error.cause, error.effect), (Cause::Busy, Effect::None));
            }
            other => panic!("{token}: {other:?}"),
        }
    }
}

async fn one_racer_wins<S: Site>(site: &S, races: &Races) {
    let per_handle = 8;
    let mut buckets: Vec<S::Bucket> =
        (0..races.racers.div_ceil(per_handle)).map(|_| site.open()).collect();
    let lanes = [Lane::Control, Lane::Data];
    for round in 0..races.rounds {
        let key = format!("race/{round}");
        let body = |at: usize, token: Token| format!("{round} {at} {token}");
        for racer in 0..races.racers {
            let (at, token) = ((racer / per_handle) as usize, racer % per_handle);
            let (lane, op) = (lanes[(round % 2) as usize], put_if_absent(&key, body(at, token)));
            buckets[at].start(token, Request { op, lane, deadline: DEADLINE });
        }
        let outcomes = complete(&mut buckets, races.racers as usize).await;
        let mut winners = Vec::new();
        for ((at, token), outcome) in outcomes {
            match outcome {
                Ok(Done::Put { .. }) => winners.push(body(at, token)),
                Ok(Done::Conflict(Conflict::Precondition | Conflict::Concurrent)) => {}
                other => panic!("round {round}: {other:?}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        let there = found(&mut buckets[0], &key).await.map(|(_, body)| body);
        assert_eq!(there, Some(winners.remove(0).into()), "round {round}");
    }
}

/// Several processes count together, each by compare and swap: every success is one more.
async fn no_increment_is_lost<S: Site>(site: &S) {
    const PROCESSES: usize = 4;
    const GOAL: u64 = 60;
    let mut buckets: Vec<S::Bucket> = (0..PROCESSES).map(|_| site.open()).collect();
    made(&mut buckets[0], put_if_absent("counter", "0")).await;
    let (mut won, mut lost) = (0, 0);
    while won < GOAL {
        let mut read = Vec::new();
        for bucket in &mut buckets {
            let (etag, body) = found(bucket, "counter").await.expect("the counter");
            read.push((etag, body));
        }
        for (at, (etag, body)) in read.iter().enumerate() {
            let count: u64 = std::str::from_utf8(body)
                .expect("text")
                .split(' ')
                .next()
                .expect("a count")
                .parse()
                .expect("a number");
            let next = format!("{} by {at}", count + 1);
            buckets[at].start(0, control(put_if_match("counter", etag, next)));
        }
        for (_, outcome) in complete(&mut buckets, PROCESSES).await {
            match outcome {
                Ok(Done::Put { .. }) => won += 1,
                Ok(Done::Conflict(_)) => lost += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    let (_, body) = found(&mut buckets[0], "counter").await.expect("the counter");
    assert!(body.starts_with(format!("{won} by ").as_bytes()), "{won} won, {body:?}");
    assert_eq!(lost, won * (PROCESSES as u64 - 1), "one wins each time");
}
