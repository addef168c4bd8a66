//! What is sent again, what is not, and what the caller is told.

use std::time::Duration;

use celeriant_schema::{AlreadyApplied, Credential, Refusal, Request, Version};

use crate::fake::{Fake, Fault};
use crate::resend::Resend;
use crate::{AggregateKey, Client, Error, Event, Expect, Options, Retry, Write};

fn key(id: &str) -> AggregateKey {
    AggregateKey::new("acme", "account", id).expect("valid")
}

fn event() -> Event {
    Event::json("Deposited", &serde_json::json!({ "amount": 10 })).expect("json")
}

fn impatient() -> Options {
    Options { timeout: Duration::from_millis(300), ..Options::default() }
}

fn overloaded() -> Refusal {
    Refusal::Overloaded { what: "test".into(), retry_after_ms: 1 }
}

fn sequenced(client: &Client) -> Write {
    client.append(&key("a"), [event()]).client(7u128).sequence(1)
}

/// Returns when the client has seen that the node is gone.
async fn notices(client: &Client) {
    let patience = Duration::from_millis(50);
    while client.call(&Request::Ping, Resend::Unsequenced, patience).await.is_ok() {}
}

#[tokio::test(start_paused = true)]
async fn a_write_with_sequences_is_sent_again_identically_until_it_is_known() {
    let faults = [
        Fault::DropBefore,
        Fault::DropAfter,
        Fault::Refuse(overloaded()),
        Fault::Refuse(Refusal::UnknownOutcome),
        Fault::DropAfter,
        Fault::Refuse(Refusal::NoLeader),
    ];
    let fake = Fake::start();
    fake.faults(faults);
    let client = fake.client().await;
    let receipt = sequenced(&client).expect(Expect::NoStream).await.expect("lands");
    assert!(receipt.already_applied, "it had landed with the second attempt");
    assert_eq!(receipt.writes[0].last_version, Version::new(1));
    let script = fake.lock();
    assert_eq!(script.writes.len(), 7);
    assert!(script.writes.windows(2).all(|two| two[0] == two[1]));
    drop(script);
    assert_eq!(fake.with_store(|store| store.version(&key("a"))), Version::new(1));
}

#[tokio::test(start_paused = true)]
async fn a_write_without_sequences_is_never_sent_twice_once_it_may_have_arrived() {
    for fault in [Fault::DropBefore, Fault::DropAfter, Fault::DoneBut(Refusal::UnknownOutcome)] {
        for expect in [Expect::Any, Expect::NoStream, Expect::Exact(Version::NONE)] {
            let fake = Fake::start();
            fake.faults([fault.clone()]);
            let client = fake.client().await;
            let error = client.append(&key("a"), [event()]).expect(expect).await.expect_err("lost");
            assert!(matches!(error, Error::UnknownOutcome), "{error:?} after {fault:?}");
            assert!(!error.is_definite());
            assert_eq!(error.retry(), Retry::AfterReading);
            assert_eq!(fake.lock().writes.len(), 1);
            client.ping().await.expect("the client lives on");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_without_sequences_is_sent_again_when_nothing_was_done() {
    let fake = Fake::start();
    fake.faults([Fault::Refuse(overloaded()), Fault::Refuse(Refusal::NoLeader)]);
    let client = fake.client().await;
    let receipt = client.append(&key("a"), [event()]).await.expect("lands");
    assert!(!receipt.already_applied);
    assert_eq!(fake.lock().writes.len(), 3);
    assert_eq!(fake.with_store(|store| store.version(&key("a"))), Version::new(1));
}

#[tokio::test(start_paused = true)]
async fn sequences_of_one_member_only_are_refused_before_anything_is_sent() {
    let fake = Fake::start();
    let client = fake.client().await;
    let write = client.write().append(&key("a"), [event()]).sequence(1);
    let write = write.append(&key("b"), [event()]).client(7u128);
    let error = write.await.expect_err("half a promise");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
    assert_eq!(fake.lock().writes.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_guard_without_events_needs_no_sequence() {
    let fake = Fake::start();
    fake.faults([Fault::DropAfter]);
    let client = fake.client().await;
    let receipt = sequenced(&client).guard(&key("limit")).expect(0).await.expect("lands");
    assert!(receipt.already_applied);
    assert_eq!(fake.lock().writes.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_retry_with_a_stale_guard_is_a_success_when_the_write_had_landed() {
    let fake = Fake::start();
    fake.faults([Fault::DropAfter]);
    let client = fake.client().await;
    let receipt = sequenced(&client).expect(0).await.expect("had landed");
    assert!(receipt.already_applied);
    assert_eq!(receipt.writes[0].first_version, Version::new(1));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_names_what_failed_and_is_definite() {
    let fake = Fake::start();
    let client = fake.client().await;
    client.append(&key("a"), [event(), event()]).await.expect("lands");
    let write = client.write().append(&key("a"), [event()]).expect(1);
    let error = write.append(&key("b"), [event()]).expect(Expect::Exists).await.expect_err("stale");
    assert!(error.is_definite() && error.is_conflict());
    assert_eq!((error.name(), error.code()), ("Conflict", Some(2003)));
    assert_eq!(error.retry(), Retry::AfterReading);
    let Error::Conflict { conflicts, already_applied } = error else { panic!("{error:?}") };
    assert_eq!(already_applied, AlreadyApplied::None);
    assert_eq!(conflicts[0].actual, Version::new(2));
    assert_eq!(conflicts[1].key, key("b"));
    assert_eq!(fake.lock().writes.len(), 2, "a conflict is not sent again");
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_stays_unknown_until_the_timeout_is_reported_as_unknown() {
    let fake = Fake::start();
    let client = fake.client_with(impatient()).await;
    fake.faults([Fault::Silence]);
    let error = sequenced(&client).await.expect_err("no answer");
    assert!(matches!(error, Error::Timeout { definite: false }), "{error:?}");
    assert!(!error.is_definite());

    // Also when the last thing heard was a definite refusal: an earlier attempt may have landed.
    fake.faults([Fault::DropAfter]);
    fake.faults((0..1000).map(|_| Fault::Refuse(overloaded())));
    let error = sequenced(&client).await.expect_err("overloaded for ever");
    assert!(matches!(error, Error::Timeout { definite: false }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_lasts_until_the_timeout_is_reported_as_itself() {
    let fake = Fake::start();
    let client = fake.client_with(impatient()).await;
    fake.faults((0..1000).map(|_| Fault::Refuse(overloaded())));
    let error = sequenced(&client).await.expect_err("overloaded for ever");
    assert!(matches!(error, Error::Overloaded { .. }), "{error:?}");
    assert!(error.is_definite());
}

#[tokio::test(start_paused = true)]
async fn requests_ride_out_a_restart_of_the_node() {
    let fake = Fake::start();
    let client = fake.client().await;
    client.append(&key("a"), [event()]).await.expect("lands");
    fake.stop();
    let write = tokio::spawn(sequenced(&client).send());
    let read = tokio::spawn(client.read(&key("a")).collect());
    fake.restart();
    write.await.expect("no panic").expect("lands after the restart");
    read.await.expect("no panic").expect("read after the restart");
    assert!(fake.lock().hellos >= 2);
}

#[tokio::test(start_paused = true)]
async fn a_write_without_sequences_waits_for_a_node_that_is_down_because_it_was_not_sent() {
    let fake = Fake::start();
    let client = fake.client().await;
    fake.stop();
    // The client notices by itself; until then a write could be lost with the old connection.
    notices(&client).await;
    let write = tokio::spawn(client.append(&key("a"), [event()]).send());
    fake.restart();
    write.await.expect("no panic").expect("lands after the restart");
    assert_eq!(fake.with_store(|store| store.version(&key("a"))), Version::new(1));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stays_away_is_named() {
    let fake = Fake::start();
    let client = fake.client_with(impatient()).await;
    let address = fake.address.clone();
    fake.stop();
    notices(&client).await;
    let error = client.append(&key("a"), [event()]).await.expect_err("nobody there");
    assert!(matches!(&error, Error::Connect { address: tried, .. } if *tried == address));
    assert!(error.is_definite());
    let again = fake.net.connect(&fake.url(), Options::default()).await;
    assert!(matches!(again, Err(Error::Connect { .. })), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_abandoned_while_it_waits_is_never_sent() {
    let fake = Fake::start();
    let client = fake.client().await;
    fake.stop();
    notices(&client).await;
    let abandoned = sequenced(&client).timeout(Duration::from_millis(20)).await;
    assert!(matches!(abandoned, Err(Error::Connect { .. })), "{abandoned:?}");
    fake.restart();
    client.ping().await.expect("back again");
    assert_eq!(fake.lock().writes.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn another_cluster_under_the_same_address_is_not_written_to() {
    let fake = Fake::start();
    let client = fake.client_with(impatient()).await;
    fake.stop();
    notices(&client).await;
    fake.restart();
    fake.lock().cluster = 99;
    let error = sequenced(&client).await.expect_err("a stranger");
    assert!(error.to_string().contains("another cluster"), "{error}");
    assert_eq!(fake.lock().writes.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn reads_are_always_sent_again_and_come_page_by_page() {
    let fake = Fake::start();
    let client = fake.client().await;
    for _ in 0..7 {
        client.append(&key("a"), [event(), event()]).await.expect("lands");
    }
    fake.faults([Fault::None, Fault::DropBefore, Fault::DropAfter]);
    fake.faults([Fault::Refuse(Refusal::UnknownOutcome), Fault::Refuse(overloaded())]);
    let batches = client.read(&key("a")).from(2).collect().await.expect("readable");
    let versions: Vec<u64> =
        batches.iter().flat_map(|b| &b.events).map(|e| e.version.value()).collect();
    assert_eq!(versions, (1..=14).collect::<Vec<u64>>(), "whole batches, in order");
    let stamps: Vec<u64> =
        batches.iter().flat_map(|b| &b.events).map(|e| e.stamp.value()).collect();
    assert_eq!(stamps, versions);
    assert_eq!(batches[0].events[0].event_type, "Deposited");

    let back = client.read(&key("a")).backwards().limit(5).collect().await.expect("readable");
    let firsts: Vec<u64> = back.iter().map(|batch| batch.first_version.value()).collect();
    assert_eq!(firsts, [13, 11, 9, 7], "two a page; the page in which the limit is reached");
}

#[tokio::test(start_paused = true)]
async fn no_page_is_asked_for_before_somebody_begins_to_take_the_one_before() {
    let fake = Fake::start();
    let client = fake.client().await;
    for _ in 0..10 {
        client.append(&key("a"), [event()]).await.expect("lands");
    }
    let asked = || fake.lock().others.iter().filter(|r| matches!(r, Request::Read(_))).count();
    let mut stream = client.read(&key("a")).stream();
    assert_eq!(asked(), 0);
    for (taken, pages) in [(1, 2), (2, 2), (3, 3), (4, 3), (5, 4)] {
        stream.next().await.expect("more").expect("readable");
        while asked() < pages {
            tokio::task::yield_now().await;
        }
        assert_eq!(asked(), pages, "after {taken} batches");
    }
    assert_eq!(stream.version(), Version::new(10));
}

#[tokio::test(start_paused = true)]
async fn names_come_page_by_page() {
    let fake = Fake::start();
    let client = fake.client().await;
    for id in 0..8 {
        client.append(&key(&id.to_string()), [event()]).await.expect("lands");
    }
    fake.faults([Fault::DropBefore]);
    let names = client.list("acme", "account").collect().await.expect("listable");
    assert_eq!(names, ["0", "1", "2", "3", "4", "5", "6", "7"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_no_node_would_take_is_refused_here() {
    let fake = Fake::start();
    let client = fake.client().await;
    let large = Event::bytes("Large", vec![0; 2 << 20]).expect("bytes");
    let error = client.append(&key("a"), [large]).await.expect_err("too large");
    assert!(matches!(error, Error::TooLarge { limit: 1_048_576, .. }), "{error:?}");
    let unnamed = client.append(&key("a"), [event()]).sequence(1).await;
    assert!(matches!(unnamed, Err(Error::InvalidArgument { .. })));
    assert_eq!(fake.lock().writes.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_requests_share_one_connection() {
    let fake = Fake::start();
    let client = fake.client().await;
    let mut writes = tokio::task::JoinSet::new();
    for id in 0..1000 {
        let client = client.clone();
        writes.spawn(async move { client.append(&key(&id.to_string()), [event()]).await });
    }
    while let Some(done) = writes.join_next().await {
        done.expect("no panic").expect("lands");
    }
    assert_eq!(fake.lock().hellos, 1);
    assert!(fake.lock().deadlines.iter().all(|ms| (1..=10_000).contains(ms)));
}

#[tokio::test]
async fn a_real_socket_does_as_well_as_one_in_memory() {
    let fake = Fake::start();
    let options = Options { connections: 3, ..Options::default() };
    let client = Client::connect_with(&fake.listen().await, options).await.expect("listening");
    for id in 0..20 {
        client.append(&key(&id.to_string()), [event()]).await.expect("lands");
    }
    fake.faults([Fault::DropAfter]);
    assert!(sequenced(&client).await.expect("lands").already_applied);
    assert_eq!(fake.lock().hellos, 4);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_comes_late_ends_no_connection_that_is_newer() {
    let fake = Fake::start();
    let credentials = "celeriant_token_0".parse::<Credential>().expect("one, from afar").into();
    let options = Options { credentials: Some(credentials), ..Options::default() };
    let client = fake.client_with(options).await;
    let node = client.inner.shared.nodes(|nodes| nodes.ids())[0];
    let used = client.inner.links(node).expect("it is known");
    for _ in 0..3 {
        client.inner.renew(node, &used);
        client.ping().await.expect("over a newer one");
        assert_eq!(fake.lock().hellos, 2);
    }
}

#[test]
fn a_client_can_be_shared_between_threads() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn sent<T: Send>(_: T) {}
    shared::<Client>();
    shared::<crate::Writer>();
    let _ = |client: Client| sent(client.append(&key("a"), [event()]).send());
}
