//! Two nodes: what an application notices when leadership moves, or a node is not what it seems.

use std::time::Duration;

use celeriant_schema::{Refusal, Request, Stamp, Version};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::LEADER_PATIENCE;
use crate::fake::{Fake, Fault, Reach, Role};
use crate::nodes::NODES_MAX;
use crate::{AggregateKey, Client, Error, Event, Options, Write};

fn key(id: &str) -> AggregateKey {
    AggregateKey::new("acme", "account", id).expect("valid")
}

fn event() -> Event {
    Event::json("Deposited", &serde_json::json!({ "amount": 10 })).expect("json")
}

fn sequenced(client: &Client, sequence: u64) -> Write {
    client.append(&key("a"), [event()]).client(7u128).sequence(sequence)
}

fn unsequenced(client: &Client) -> Write {
    client.append(&key("a"), [event()])
}

fn version(fake: &Fake) -> u64 {
    fake.with_store(|store| store.version(&key("a"))).value()
}

async fn both(nodes: &[Fake; 2]) -> Client {
    both_with(nodes, Options::default()).await
}

async fn both_with([a, b]: &[Fake; 2], options: Options) -> Client {
    let url = format!("celeriant://{},{}", a.address, b.address);
    a.net.connect(&url, options).await.expect("one is up")
}

/// Requests that arrived at a node.
fn asked(fake: &Fake) -> usize {
    let script = fake.lock();
    script.writes.len() + script.others.len()
}

#[tokio::test(start_paused = true)]
async fn a_redirect_to_an_address_that_the_url_does_not_name_is_followed_and_remembered() {
    let [a, b] = Fake::pair();
    let client = b.client().await;
    for _ in 0..5 {
        unsequenced(&client).await.expect("lands at the leader");
    }
    assert_eq!((asked(&b), asked(&a)), (1, 5));
    assert_eq!(client.inner.shared.nodes(|nodes| nodes.ids().len()), 2);

    // And back, when it is the other one's turn.
    a.follows(&b);
    b.role(Role::Leads);
    unsequenced(&client).await.expect("lands at the new leader");
    assert_eq!((asked(&b), asked(&a)), (2, 6));
    assert_eq!(a.net.dialled(), [b.address, a.address], "one connection each");
}

#[tokio::test(start_paused = true)]
async fn without_a_hint_the_next_address_is_tried() {
    for role in [Role::Follows(None), Role::Nobody] {
        let nodes = Fake::pair();
        let client = both(&nodes).await;
        let [a, b] = &nodes;
        a.role(role);
        b.role(Role::Leads);
        unsequenced(&client).await.expect("lands at the leader");
        assert_eq!((asked(a), asked(b)), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_is_left_for_the_other_node() {
    for reach in [Reach::Refuses, Reach::Vanished] {
        let nodes = Fake::pair();
        let client = both(&nodes).await;
        let [a, b] = &nodes;
        unsequenced(&client).await.expect("lands");
        a.break_off(reach);
        tokio::task::yield_now().await;
        // The other one notices later than the client, and says so at first.
        let later = tokio::spawn(sequenced(&client, 1).send());
        let begin = Instant::now();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        b.role(Role::Leads);
        later.await.expect("no panic").expect("lands at the new leader");
        assert!(begin.elapsed() < Duration::from_secs(5), "{reach:?}: {:?}", begin.elapsed());
        assert_eq!(version(b), 2);
        let begin = Instant::now();
        unsequenced(&client).await.expect("lands");
        assert_eq!(begin.elapsed(), Duration::ZERO, "the dead one is not asked any more");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_connects_past_a_node_that_accepts_and_never_answers() {
    let nodes = Fake::pair();
    let [a, b] = &nodes;
    b.role(Role::Leads);
    a.hang(true);
    let begin = Instant::now();
    let client = both(&nodes).await;
    assert_eq!(begin.elapsed(), Options::default().connect_timeout);
    let begin = Instant::now();
    unsequenced(&client).await.expect("lands at the leader");
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_goes_silent_is_left_in_bounded_time() {
    let nodes = Fake::pair();
    let client = both(&nodes).await;
    let [a, b] = &nodes;
    unsequenced(&client).await.expect("lands");
    a.hang(true);
    b.role(Role::Leads);
    let begin = Instant::now();
    let lost = tokio::spawn(unsequenced(&client).send());
    sequenced(&client, 1).await.expect("lands at the other node");
    assert_eq!(begin.elapsed(), Options::default().silence_timeout);
    let lost = lost.await.expect("no panic");
    assert!(matches!(lost, Err(Error::UnknownOutcome)), "{lost:?}");
    assert_eq!(version(b), 2);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_went_silent_is_not_dialled_because_another_still_names_it() {
    let nodes = Fake::pair();
    let client = both(&nodes).await;
    let [a, b] = &nodes;
    unsequenced(&client).await.expect("lands");
    a.hang(true);
    let silence = Options::default().silence_timeout;
    let (begin, write) = (Instant::now(), tokio::spawn(sequenced(&client, 1).send()));
    tokio::time::sleep(silence + Duration::from_millis(100)).await;
    b.role(Role::Leads);
    write.await.expect("no panic").expect("lands at the other node");
    let took = begin.elapsed();
    assert!(took < silence + Duration::from_millis(500), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_lives_and_gets_nothing_done_is_left_for_the_other() {
    let nodes = Fake::pair();
    let client = both(&nodes).await;
    let [a, b] = &nodes;
    unsequenced(&client).await.expect("lands");
    a.faults((0..100).map(|_| Fault::Silence));
    b.role(Role::Leads);
    let begin = Instant::now();
    let lost = tokio::spawn(unsequenced(&client).send());
    sequenced(&client, 1).await.expect("lands at the other node");
    assert!(begin.elapsed() < LEADER_PATIENCE + Duration::from_secs(1), "{:?}", begin.elapsed());
    sequenced(&client, 2).await.expect("lands there at once");
    assert!(begin.elapsed() < LEADER_PATIENCE + Duration::from_secs(1));
    let lost = lost.await.expect("no panic");
    assert!(matches!(lost, Err(Error::Timeout { definite: false })), "{lost:?}");

    // Whoever knows only that one gains nothing by asking again.
    let alone = Fake::start();
    let client = alone.client().await;
    alone.faults([Fault::AnswerLate(Duration::from_secs(9))]);
    sequenced(&client, 1).await.expect("lands, late");
    assert_eq!(alone.lock().writes.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_only_briefly_still_gets_to_the_other_node() {
    let nodes = Fake::pair();
    let options = Options { timeout: Duration::from_millis(600), ..Options::default() };
    let client = both_with(&nodes, options).await;
    let [a, b] = &nodes;
    a.hang(true);
    b.role(Role::Leads);
    sequenced(&client, 1).await.expect("lands at the other node");
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_waited_for_and_a_busy_connection_is_not_pinged() {
    let fake = Fake::start();
    let client = fake.client().await;
    fake.faults((0..100).map(|_| Fault::AnswerLate(Duration::from_millis(500))));
    let mut busy = JoinSet::new();
    for start in 0..3 {
        let client = client.clone();
        busy.spawn(async move {
            tokio::time::sleep(Duration::from_millis(100 * start)).await;
            for _ in 0..33 {
                unsequenced(&client).await.expect("lands");
            }
        });
    }
    while let Some(done) = busy.join_next().await {
        done.expect("no panic");
    }
    assert_eq!(fake.lock().pings, 0, "answers are signs of life enough");

    fake.lock().faults.clear();
    fake.faults([Fault::AnswerLate(Duration::from_secs(9))]);
    unsequenced(&client).await.expect("lands, late");
    assert!((6..13).contains(&fake.lock().pings), "{}", fake.lock().pings);
    assert_eq!(version(&fake), 100);
    assert_eq!(fake.lock().hellos, 1);
}

#[tokio::test(start_paused = true)]
async fn a_large_request_over_a_slow_line_is_no_silence() {
    let fake = Fake::start();
    let options = Options { timeout: Duration::from_secs(60), ..Options::default() };
    let client = fake.client_with(options).await;
    fake.lock().slow = Some(Duration::from_millis(500));
    let large = Event::bytes("Large", vec![0; 1 << 19]).expect("bytes");
    let begin = Instant::now();
    client.append(&key("a"), [large]).await.expect("lands");
    assert!(begin.elapsed() > 2 * Options::default().silence_timeout);
    assert_eq!(fake.lock().hellos, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_is_never_owed_so_many_answers_that_it_would_not_read_a_ping() {
    let fake = Fake::start();
    let client = fake.client().await;
    fake.faults((0..200).map(|_| Fault::Silence));
    let mut writes = JoinSet::new();
    for _ in 0..200 {
        writes.spawn(unsequenced(&client).timeout(Duration::from_secs(1)).send());
    }
    while writes.join_next().await.is_some() {}
    assert_eq!(fake.lock().writes.len(), 99, "it said that it takes 100");
}

#[tokio::test(start_paused = true)]
async fn a_write_with_a_sequence_in_the_middle_of_a_fail_over_lands_once() {
    for before in [Fault::DropAfter, Fault::DropBefore, Fault::DoneBut(Refusal::UnknownOutcome)] {
        let nodes = Fake::pair();
        let client = both(&nodes).await;
        let [a, b] = &nodes;
        let first = sequenced(&client, 1).expect(0).await.expect("lands");
        a.faults([before.clone()]);
        let write = tokio::spawn(sequenced(&client, 2).expect(1).send());
        while asked(a) < 2 {
            tokio::task::yield_now().await;
        }
        a.follows(b);
        b.role(Role::Leads);
        let receipt = write.await.expect("no panic").expect("lands");
        assert_eq!(receipt.already_applied, !matches!(before, Fault::DropBefore));
        assert_eq!(receipt.writes[0].last_version, Version::new(2));
        assert!(receipt.stamp > first.stamp);
        assert_eq!(version(b), 2);
        let again = sequenced(&client, 2).expect(1).await.expect("had landed");
        assert_eq!((again.stamp, again.writes), (receipt.stamp, receipt.writes));
    }
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_in_good_order_is_not_noticed() {
    let nodes = Fake::pair();
    let client = both(&nodes).await;
    for round in 0..10_usize {
        let (old, new) = (&nodes[round % 2], &nodes[(round + 1) % 2]);
        old.faults((0..20).map(|_| Fault::AnswerLate(Duration::from_millis(300))));
        let mut writes = JoinSet::new();
        let before = asked(old);
        (0..20).for_each(|_| drop(writes.spawn(unsequenced(&client).send())));
        while asked(old) < before + 20 {
            tokio::task::yield_now().await;
        }
        // It finishes what it has; what comes now is told where to go, before that one leads.
        old.follows(new);
        (0..20).for_each(|_| drop(writes.spawn(unsequenced(&client).send())));
        tokio::time::sleep(Duration::from_millis(20)).await;
        new.role(Role::Leads);
        while let Some(done) = writes.join_next().await {
            done.expect("no panic").expect("nothing went wrong");
        }
    }
    assert_eq!(version(&nodes[0]), 400);
    assert_eq!(nodes[0].net.dialled().len(), 2, "no connection was lost for it");
}

#[tokio::test(start_paused = true)]
async fn nodes_that_point_at_each_other_are_not_asked_without_end() {
    let nodes = Fake::pair();
    let client = both(&nodes).await;
    let [a, b] = &nodes;
    a.follows(b);
    b.follows(a);
    let error = unsequenced(&client).await.expect_err("nobody leads");
    assert!(matches!(error, Error::NotLeader { leader: Some(_) }), "{error:?}");
    assert!(error.is_definite());
    let count = asked(a) + asked(b);
    assert!((20..200).contains(&count), "{count} attempts in ten seconds");

    // A thousand who wait together ask in a few waves together.
    let mut writes = JoinSet::new();
    (0..1000).for_each(|_| drop(writes.spawn(unsequenced(&client).send())));
    tokio::time::sleep(Duration::from_secs(2)).await;
    b.role(Role::Leads);
    let led = Instant::now();
    while let Some(done) = writes.join_next().await {
        done.expect("no panic").expect("lands in the end");
    }
    assert!(led.elapsed() < Duration::from_secs(1), "{:?}", led.elapsed());
    assert!(asked(a) + asked(b) < 50 * 1000, "{} attempts", asked(a) + asked(b));
}

#[tokio::test(start_paused = true)]
async fn wrong_redirects_lead_to_the_leader_in_the_end() {
    let nowhere = String::from("nobody.example:1");
    let nonsense = String::from("not an address");
    for hint in [nowhere, nonsense, String::from("node-a:7440")] {
        let nodes = Fake::pair();
        let [a, b] = &nodes;
        let client = both(&nodes).await;
        a.role(Role::Follows(Some(hint)));
        b.role(Role::Leads);
        unsequenced(&client).await.expect("lands at the leader");
    }
    // To another store, under the same name or not.
    let nodes = Fake::pair();
    let [a, b] = &nodes;
    b.lock().cluster = 99;
    let client = both(&nodes).await;
    a.follows(b);
    b.role(Role::Leads);
    let error = unsequenced(&client).await.expect_err("the stranger is not written to");
    assert!(error.is_definite(), "{error:?}");
    assert_eq!(asked(b), 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_merely_answers_is_not_taken_for_the_leader() {
    let nodes = Fake::pair();
    let client = both(&nodes).await;
    let [a, b] = &nodes;
    a.stop();
    tokio::task::yield_now().await;
    client.ping().await.expect("the other one is alive");
    a.restart();
    tokio::time::sleep(Duration::from_secs(1)).await;
    unsequenced(&client).await.expect("lands");
    assert_eq!((asked(a), asked(b)), (1, 0));

    a.stop();
    b.faults([Fault::Refuse(Refusal::Overloaded { what: "test".into(), retry_after_ms: 50 })]);
    tokio::task::yield_now().await;
    let write = tokio::spawn(unsequenced(&client).send());
    while asked(b) < 1 {
        tokio::task::yield_now().await;
    }
    a.restart();
    write.await.expect("no panic").expect("lands");
    assert_eq!((asked(a), asked(b)), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_made_up_leader_every_time_costs_bounded_memory() {
    let fake = Fake::start();
    let client = fake.client().await;
    for made_up in 0..3 * NODES_MAX {
        let leader = Some(format!("x{made_up}"));
        fake.faults([Fault::Refuse(Refusal::NotLeader { leader })]);
        unsequenced(&client).await.expect("lands");
    }
    assert!(fake.net.dialled().len() > 3 * NODES_MAX);
    assert!(client.inner.links.lock().expect("not poisoned").len() <= NODES_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_is_used_at_once_however_often_it_went() {
    let fake = Fake::start();
    let client = fake.client().await;
    for _ in 0..20 {
        fake.stop();
        tokio::task::yield_now().await;
        fake.restart();
        let begin = Instant::now();
        sequenced(&client, 1).await.expect("lands, or had");
        assert!(begin.elapsed() < Duration::from_millis(50), "{:?}", begin.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn thousands_that_wait_for_a_vanished_node_leave_it_together() {
    let nodes = Fake::pair();
    let client = both(&nodes).await;
    let [a, b] = &nodes;
    a.break_off(Reach::Vanished);
    tokio::task::yield_now().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    b.role(Role::Leads);
    let begin = Instant::now();
    let mut writes = JoinSet::new();
    (0..4000).for_each(|_| drop(writes.spawn(unsequenced(&client).send())));
    while let Some(done) = writes.join_next().await {
        done.expect("no panic").expect("lands");
    }
    let patience = Options::default().connect_timeout;
    assert!(begin.elapsed() < patience + Duration::from_millis(100), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_time_is_up_before_the_node_says_welcome_is_never_sent() {
    let fake = Fake::start();
    let client = fake.client().await;
    fake.hang(true);
    fake.break_off(Reach::Accepts);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let error = unsequenced(&client).timeout(Duration::from_millis(100)).await;
    assert!(error.expect_err("no time").is_definite());
    fake.hang(false);
    client.ping().await.expect("there");
    assert_eq!(asked(&fake), 0);
}

#[tokio::test(start_paused = true)]
async fn when_nobody_is_there_a_write_waits_until_its_timeout_and_is_not_sent() {
    let nodes = Fake::pair();
    let client = both(&nodes).await;
    let [a, b] = &nodes;
    a.stop();
    b.break_off(Reach::Vanished);
    tokio::task::yield_now().await;
    let begin = Instant::now();
    let error = unsequenced(&client).await.expect_err("nobody there");
    assert!(matches!(error, Error::Connect { .. }) && error.is_definite(), "{error:?}");
    let waited = begin.elapsed();
    assert!(waited > Duration::from_secs(7) && waited <= Duration::from_secs(10), "{waited:?}");
    assert!(a.net.dialled().len() < 50, "{} attempts", a.net.dialled().len());
    b.restart();
    b.role(Role::Leads);
    unsequenced(&client).await.expect("lands");
    assert_eq!(version(b), 1);
}

#[tokio::test(start_paused = true)]
async fn reads_that_any_node_may_answer_go_to_the_follower() {
    let nodes = Fake::pair();
    let client = both(&nodes).await;
    let [a, b] = &nodes;
    let receipt = unsequenced(&client).await.expect("lands");
    for _ in 0..5 {
        client.read(&key("a")).any().collect().await.expect("readable");
        client.head(&key("a")).any().await.expect("readable");
    }
    assert_eq!((asked(a), asked(b)), (1, 10));
    // It is behind, and catches up while it is asked.
    b.lock().has = Some(Stamp::ZERO);
    let gone = client.read(&key("a")).any().collect().await;
    assert!(matches!(gone, Err(Error::NotFound { .. })), "behind, and may be: {gone:?}");
    let head = tokio::spawn({
        let head = client.head(&key("a")).any().min_stamp(receipt.stamp);
        async move { head.await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    b.lock().has = Some(receipt.stamp);
    let head = head.await.expect("no panic").expect("its own write");
    assert_eq!(head.version, Version::new(1));
    assert_eq!(asked(a), 1, "the leader had nothing to do with it");
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_stays_behind_or_silent_is_left_for_the_leader() {
    for silent in [false, true] {
        let nodes = Fake::pair();
        let client = both(&nodes).await;
        let [a, b] = &nodes;
        client.ping().await.expect("there");
        let receipt = unsequenced(&client).await.expect("lands");
        b.lock().has = Some(Stamp::ZERO);
        b.hang(silent);
        let begin = Instant::now();
        for _ in 0..10 {
            let read = client.read(&key("a")).any().min_stamp(receipt.stamp);
            assert_eq!(read.collect().await.expect("at the leader").len(), 1);
        }
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(3), "silent: {silent}: {took:?}");
        assert_eq!(asked(a), 11);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stamp_that_nobody_reaches_is_waited_for_until_the_timeout() {
    let nodes = Fake::pair();
    let client = both(&nodes).await;
    unsequenced(&client).await.expect("lands");
    for any in [true, false] {
        let begin = Instant::now();
        let head = client.head(&key("a")).min_stamp(1_000_000).timeout(Duration::from_secs(4));
        let error = if any { head.any().await } else { head.await }.expect_err("far away");
        let told = matches!(error, Error::NotYet { .. } | Error::Timeout { definite: true });
        assert!(told, "{error:?}");
        assert!(begin.elapsed() >= Duration::from_secs(3), "{:?}", begin.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn one_read_from_any_node_never_goes_back() {
    let nodes = Fake::pair();
    let client = both(&nodes).await;
    let [a, b] = &nodes;
    for _ in 0..8 {
        unsequenced(&client).await.expect("lands");
    }
    // The first page comes from the leader, because the follower is away; the others could come
    // from the follower, which has less.
    b.break_off(Reach::Refuses);
    b.lock().has = Some(Stamp::new(3));
    let mut batches = client.read(&key("a")).any().stream();
    batches.next().await.expect("more").expect("readable");
    b.restart();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut count = 1;
    while let Some(batch) = batches.next().await {
        batch.expect("readable");
        count += 1;
    }
    assert_eq!((count, batches.version()), (8, Version::new(8)));
    assert!(asked(b) > 0 && asked(a) > 8);
    let stamps = b.lock().others.iter().all(|other| match other {
        Request::Read(query) => query.min_stamp == Some(Stamp::new(8)),
        _ => false,
    });
    assert!(stamps, "the follower was asked for what had been seen");
}

#[test]
fn a_client_whose_runtime_is_gone_says_so() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().expect("a runtime")
    };
    let fake = Fake::start();
    let client = runtime().block_on(fake.client());
    let error = runtime().block_on(unsequenced(&client).send()).expect_err("nothing drives it");
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert!(error.to_string().contains("runtime"), "{error}");
}
