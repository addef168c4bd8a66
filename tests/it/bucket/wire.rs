//! What the production client makes of everything that can go wrong between it and a bucket.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use celeriant_storage::bucket::embedded::{Fault, Rule};
use celeriant_storage::bucket::s3::{Credentials, S3Bucket, Settings};
use celeriant_storage::bucket::{
    Bucket, Cause, Conflict, Done, Effect, Key, Lane, Op, Outcome, Request, run,
};

use super::contract::{complete, control, found, get, made, put_if_absent, put_if_match};
use super::sites::{ACCESS_KEY, Embedded, SECRET_KEY, Site, client_settings};

fn failed(outcome: Outcome) -> (Cause, Effect) {
    match outcome {
        Err(error) => (error.cause, error.effect),
        Ok(done) => panic!("it succeeded: {done:?}"),
    }
}

#[tokio::test]
async fn each_fault_is_told_as_what_it_is_and_in_doubt_when_it_must_be() {
    let site = Embedded::start();
    let mut bucket = site.open();
    // The fault, what the put is told, and whether it happened.
    let cases = [
        (Fault::Unavailable, Err((Cause::Unavailable, Effect::Unknown)), false),
        (Fault::Error, Err((Cause::Unavailable, Effect::Unknown)), false),
        (Fault::ErrorAfterSuccess, Err((Cause::Unavailable, Effect::Unknown)), true),
        (Fault::LostReply, Err((Cause::Lost, Effect::Unknown)), true),
        (Fault::LostRequest, Err((Cause::Lost, Effect::Unknown)), false),
        (Fault::Conflict, Ok(Done::Conflict(Conflict::Concurrent)), false),
        (Fault::RefusedAfterSuccess, Ok(Done::Conflict(Conflict::Precondition)), true),
    ];
    for (number, (fault, told, happened)) in cases.into_iter().enumerate() {
        let key = format!("fault/{number}");
        site.faults.add(Rule::for_puts(fault, 1));
        let outcome = run(&mut bucket, control(put_if_absent(&key, "x"))).await;
        let outcome = outcome.map_err(|error| (error.cause, error.effect));
        assert_eq!(outcome, told, "{fault:?}");
        assert_eq!(found(&mut bucket, &key).await.is_some(), happened, "{fault:?}");
    }
    assert_eq!(site.faults.reached().len(), 7, "one request each: nothing sends twice");
    assert!(site.faults.reached().values().all(|count| *count == 1));
}

#[tokio::test]
async fn a_request_that_was_given_up_may_still_happen() {
    let site = Embedded::start();
    let mut bucket = site.open();
    let etag = made(&mut bucket, put_if_absent("config", "1")).await;
    site.faults.add(Rule::for_puts(Fault::AppliedLater(Duration::from_millis(30)), 1));
    let outcome = run(&mut bucket, control(put_if_match("config", &etag, "2"))).await;
    assert_eq!(failed(outcome), (Cause::Lost, Effect::Unknown));
    while found(&mut bucket, "config").await.expect("is there").1 != Bytes::from_static(b"2") {}
}

#[tokio::test]
async fn a_deadline_ends_the_wait_and_leaves_the_outcome_unknown() {
    let site = Embedded::start();
    let mut bucket = site.open();
    made(&mut bucket, put_if_absent("warm", "up")).await;
    site.faults.add(Rule::for_all(Fault::Slow(Duration::from_secs(30)), 2));
    let short = Duration::from_millis(50);
    let put = Request::control(put_if_absent("late", "x"), short);
    assert_eq!(failed(run(&mut bucket, put).await), (Cause::Deadline, Effect::Unknown));
    let read = Request::control(get("late"), short);
    assert_eq!(failed(run(&mut bucket, read).await), (Cause::Deadline, Effect::None));
}

#[tokio::test]
async fn data_that_is_stuck_does_not_delay_control() {
    let site = Embedded::start();
    let mut bucket = site.open();
    made(&mut bucket, put_if_absent("config", "1")).await;
    let slots = Rule {
        path_part: "/wal/".to_owned(),
        ..Rule::for_puts(Fault::Slow(Duration::from_millis(700)), 8)
    };
    site.faults.add(slots);
    let body = Bytes::from(vec![7; 4 << 20]);
    for token in 0..8 {
        let op = put_if_absent(&format!("wal/{token}"), body.clone());
        bucket.start(token, Request { op, lane: Lane::Data, deadline: Duration::from_secs(60) });
    }
    bucket.start(100, control(get("config")));
    let first = complete(std::slice::from_mut(&mut bucket), 1).await;
    assert!(first.contains_key(&(0, 100)), "{first:?}");
    let rest = complete(std::slice::from_mut(&mut bucket), 8).await;
    assert!(rest.values().all(|outcome| matches!(outcome, Ok(Done::Put { .. }))), "{rest:?}");
}

#[tokio::test]
async fn what_never_left_is_certain_to_have_had_no_effect() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = format!("http://{}", free.local_addr().expect("an address"));
    drop(free);
    let mut bucket = S3Bucket::open(client_settings(nobody)).expect("opens");
    let outcome = run(&mut bucket, control(put_if_absent("config", "x"))).await;
    assert_eq!(failed(outcome), (Cause::Unreachable, Effect::None));
    let unknown_host = "http://no-such-host.invalid:9".to_owned();
    let mut bucket = S3Bucket::open(client_settings(unknown_host)).expect("opens");
    let outcome = run(&mut bucket, control(put_if_absent("config", "x"))).await;
    assert_eq!(failed(outcome), (Cause::Unreachable, Effect::None));
}

#[tokio::test]
async fn wrong_credentials_and_a_wrong_bucket_are_told_apart() {
    let site = Embedded::start();
    let mut settings = client_settings(site.server.endpoint());
    for (access_key, secret_key) in [("access", "wrong"), ("wrong", "secret")] {
        settings.credentials =
            Credentials::Static { access_key: access_key.into(), secret_key: secret_key.into() };
        let mut bucket = S3Bucket::open(settings.clone()).expect("opens");
        let outcome = run(&mut bucket, control(put_if_absent("config", "x"))).await;
        assert_eq!(failed(outcome), (Cause::Denied, Effect::None), "{access_key}");
    }
    let mut settings = client_settings(site.server.endpoint());
    settings.location = "s3://other-bucket".parse().expect("a location");
    let mut bucket = S3Bucket::open(settings).expect("opens");
    for op in [get("config"), put_if_absent("config", "x"), list()] {
        assert_eq!(failed(run(&mut bucket, control(op)).await), (Cause::NoBucket, Effect::None));
    }
}

fn list() -> Op {
    Op::List { prefix: String::new(), after: None }
}

#[tokio::test]
async fn a_bucket_that_goes_away_and_comes_back_is_used_again() {
    let site = Embedded::start();
    let mut bucket = site.open();
    made(&mut bucket, put_if_absent("config", "1")).await;
    site.faults.add(Rule::for_all(Fault::LostRequest, 3));
    for _ in 0..3 {
        let read = run(&mut bucket, control(get("config"))).await;
        assert_eq!(failed(read), (Cause::Lost, Effect::None));
    }
    assert!(found(&mut bucket, "config").await.is_some());
    let deleted = run(&mut bucket, control(Op::Delete { key: Key::new("config") })).await;
    assert_eq!(deleted.ok(), Some(Done::Deleted));
}

/// Tells a child of the test below where to ask.
const ENDPOINT_VARIABLE: &str = "CELERIANT_TEST_BUCKET_ENDPOINT";
const CHILD_TEST: &str = "bucket::wire::a_child_asks_with_what_its_environment_offers";

/// Does nothing unless it is the child of the test below.
#[tokio::test]
async fn a_child_asks_with_what_its_environment_offers() {
    let Ok(endpoint) = std::env::var(ENDPOINT_VARIABLE) else { return };
    let settings = Settings { credentials: Credentials::Chain, ..client_settings(endpoint) };
    let mut bucket = S3Bucket::open(settings).expect("opens");
    println!("it was told {:?}", run(&mut bucket, control(put_if_absent("config", "x"))).await);
}

#[tokio::test]
async fn credentials_come_from_the_environment_and_their_absence_is_no_doubt() {
    let site = Embedded::start();
    let ask = |secret: Option<&str>| {
        let program = std::env::current_exe().expect("this test's program");
        let mut child = Command::new(program);
        child
            .args(["--exact", CHILD_TEST, "--nocapture"])
            .env_clear()
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env(ENDPOINT_VARIABLE, site.server.endpoint());
        if let Some(secret) = secret {
            child.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", secret);
        }
        let output = child.output().expect("it runs");
        String::from_utf8(output.stdout).expect("text")
    };
    let without = ask(None);
    assert!(without.contains("cause: Denied, effect: None"), "{without}");
    let wrong = ask(Some("wrong"));
    assert!(wrong.contains("cause: Denied, effect: None"), "{wrong}");
    let right = ask(Some(SECRET_KEY));
    assert!(right.contains("Ok(Put {"), "{right}");
}
