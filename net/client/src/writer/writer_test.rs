//! Exactly once, whatever happens to connections, and whoever writes in between.

use std::time::Duration;

use celeriant_schema::{
    ClientId, EncodedEvents, Guard, Member, Receipt, Refusal, Sequence, Version, Write,
};
use serde::{Deserialize, Serialize};

use crate::fake::{Fake, Fault, Random};
use crate::{
    Aggregate, AggregateKey, Client, Error, Event, ExecuteError, Options, Outcome, Writer,
};

#[derive(Debug, Deserialize, Serialize)]
enum Moved {
    Deposited { amount: u64 },
    Withdrawn { amount: u64 },
}

#[derive(Debug, Default)]
struct Account {
    balance: u64,
    events: u64,
}

impl Aggregate for Account {
    type Event = Moved;

    fn apply(&mut self, event: Moved) {
        self.events += 1;
        match event {
            Moved::Deposited { amount } => self.balance += amount,
            Moved::Withdrawn { amount } => self.balance -= amount,
        }
    }
}

#[derive(Debug, PartialEq)]
struct TooPoor {
    balance: u64,
}

impl Account {
    fn deposit(&self, amount: u64) -> Vec<Moved> {
        vec![Moved::Deposited { amount }]
    }

    fn withdraw(&self, amount: u64) -> Result<Vec<Moved>, TooPoor> {
        if amount > self.balance {
            return Err(TooPoor { balance: self.balance });
        }
        Ok(vec![Moved::Withdrawn { amount }])
    }
}

fn transfer(from: &Account, amount: u64) -> Result<[Vec<Moved>; 2], TooPoor> {
    Ok([from.withdraw(amount)?, vec![Moved::Deposited { amount }]])
}

fn key(id: &str) -> AggregateKey {
    AggregateKey::new("acme", "account", id).expect("valid")
}

fn last(receipt: &Receipt) -> u64 {
    receipt.writes[0].last_version.value()
}

async fn deposit(writer: &Writer, id: &str, amount: u64) -> Outcome {
    let key = key(id);
    writer.execute(&key, |account: &Account| account.deposit(amount)).await.expect("lands")
}

/// What the store really holds.
async fn account(fake: &Fake, id: &str) -> Account {
    let client = fake.client().await;
    let mut account = Account::default();
    match client.read(&key(id)).collect().await {
        Ok(batches) => {
            for event in batches.iter().flat_map(|batch| &batch.events) {
                account.apply(event.to_typed().expect("ours"));
            }
        }
        Err(Error::NotFound { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    account
}

fn foreign(amount: u64) -> Fault {
    let event = Event::typed(&Moved::Deposited { amount }).expect("typed").into_inner();
    Fault::Overtake(Box::new(Write {
        client_id: ClientId::NONE,
        members: vec![Member {
            key: key("a"),
            guard: Guard::Any,
            sequence: None,
            events: EncodedEvents::encode(&[event]).expect("valid"),
            retention: None,
        }],
    }))
}

#[tokio::test(start_paused = true)]
async fn a_decision_is_appended_with_the_next_sequence_and_remembered() {
    let fake = Fake::start();
    let writer = fake.client().await.writer(7u128);
    for round in 1..=5 {
        let outcome = deposit(&writer, "a", 10).await;
        assert_eq!(outcome.decisions, 1);
        assert_eq!(last(&outcome.receipt.expect("appended")), round);
    }
    let refused = writer.execute(&key("a"), |account: &Account| account.withdraw(51)).await;
    assert!(matches!(refused, Err(ExecuteError::Refused(TooPoor { balance: 50 }))));
    let script = fake.lock();
    let sequences: Vec<_> = script.writes.iter().map(|w| w.members[0].sequence).collect();
    assert_eq!(sequences, (1..=5).map(|n| Some(Sequence::new(n))).collect::<Vec<_>>());
    assert_eq!(script.others.len(), 2, "read once at first, and once before saying no");
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_starts_anew_goes_on_with_the_sequence_it_reads() {
    let fake = Fake::start();
    for round in 1..=5 {
        let writer = fake.client().await.writer(7u128);
        assert_eq!(last(&deposit(&writer, "a", 1).await.receipt.expect("appended")), round);
    }
    assert_eq!(fake.lock().writes[4].members[0].sequence, Some(Sequence::new(5)));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_decided_again_on_the_new_state() {
    let fake = Fake::start();
    let writer = fake.client().await.writer(7u128);
    deposit(&writer, "a", 100).await;
    fake.faults([foreign(5), Fault::None, foreign(7)]);
    let outcome = writer
        .execute(&key("a"), |account: &Account| account.withdraw(account.balance))
        .await
        .expect("lands in the end");
    assert_eq!(outcome.decisions, 3);
    assert_eq!(account(&fake, "a").await.balance, 0);
}

#[tokio::test(start_paused = true)]
async fn a_no_is_never_said_on_old_state() {
    let fake = Fake::start();
    let client = fake.client().await;
    let writer = client.writer(7u128);
    deposit(&writer, "a", 1).await;
    // Somebody else pays in; the writer does not know yet.
    deposit(&client.writer(8u128), "a", 100).await;
    let outcome = writer.execute(&key("a"), |account: &Account| account.withdraw(101)).await;
    assert_eq!(outcome.expect("enough money").decisions, 2);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_not_a_second_event() {
    let fake = Fake::start();
    let writer = fake.client().await.writer(7u128);
    fake.faults([Fault::None, Fault::DropAfter, Fault::DropBefore]);
    let outcome = deposit(&writer, "a", 10).await;
    assert!(outcome.already_applied);
    assert_eq!(outcome.decisions, 1, "sent again, not decided again");
    deposit(&writer, "a", 10).await;
    assert_eq!(account(&fake, "a").await.events, 2);
}

#[tokio::test(start_paused = true)]
async fn replicas_that_decide_the_same_at_the_same_time_are_not_taken_for_each_other() {
    let fake = Fake::start();
    let client = fake.client().await;
    let (one, two) = (client.writer(7u128), client.writer(7u128));
    deposit(&one, "a", 1).await;
    deposit(&two, "a", 1).await;
    // Both are at their own idea of the version now, and both pay in the same amount.
    let mut all = tokio::task::JoinSet::new();
    for round in 0..20 {
        let writer = if round % 2 == 0 { one.clone() } else { two.clone() };
        all.spawn(async move { deposit(&writer, "a", 1).await });
    }
    while let Some(done) = all.join_next().await {
        assert!(!done.expect("no panic").already_applied);
    }
    assert_eq!(account(&fake, "a").await.balance, 22);
}

#[tokio::test(start_paused = true)]
async fn executions_for_one_aggregate_run_one_after_the_other_and_others_beside_them() {
    let fake = Fake::start();
    let writer = fake.client().await.writer(7u128);
    let mut all = tokio::task::JoinSet::new();
    for round in 0..50 {
        let writer = writer.clone();
        let id = if round % 2 == 0 { "a" } else { "b" };
        all.spawn(async move { deposit(&writer, id, 1).await });
    }
    while let Some(done) = all.join_next().await {
        assert_eq!(done.expect("no panic").decisions, 1, "nobody got in between");
    }
    assert_eq!(fake.lock().writes.len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_transfer_is_decided_over_both_accounts_and_lands_whole() {
    let fake = Fake::start();
    let writer = fake.client().await.writer(7u128);
    deposit(&writer, "a", 100).await;
    let (from, to) = (key("a"), key("b"));
    fake.faults([Fault::None, Fault::DropAfter]);
    let outcome = writer
        .execute_many([&from, &to], |[from, _]: [&Account; 2]| transfer(from, 60))
        .await
        .expect("lands");
    assert_eq!(outcome.receipt.expect("appended").writes.len(), 2);
    let again =
        writer.execute_many([&from, &to], |[from, _]: [&Account; 2]| transfer(from, 60)).await;
    assert!(matches!(again, Err(ExecuteError::Refused(TooPoor { balance: 40 }))));
    assert_eq!((account(&fake, "a").await.balance, account(&fake, "b").await.balance), (40, 60));

    let twice = writer.execute_many([&from, &from], |[from, _]: [&Account; 2]| transfer(from, 1));
    assert!(matches!(twice.await, Err(ExecuteError::Store(Error::InvalidArgument { .. }))));
}

#[tokio::test(start_paused = true)]
async fn an_aggregate_that_gets_no_events_is_still_guarded() {
    let fake = Fake::start();
    let writer = fake.client().await.writer(7u128);
    deposit(&writer, "a", 1).await;
    fake.faults([Fault::None, foreign(1)]);
    let outcome = writer
        .execute_many([&key("a"), &key("b")], |[a, _]: [&Account; 2]| {
            [vec![], vec![Moved::Deposited { amount: a.balance }]]
        })
        .await
        .expect("lands");
    assert_eq!(outcome.decisions, 2, "the first decision rested on an old balance");
    assert_eq!(account(&fake, "b").await.balance, 2);
    let guarded = &fake.lock().writes.last().expect("written").members[0].clone();
    assert_eq!((guarded.guard, guarded.sequence), (Guard::Exact(Version::new(2)), None));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_the_store_forgot_is_found_in_the_log() {
    let fake = Fake::start();
    fake.with_store(|store| store.remembered = Some(0));
    let client = fake.client().await;
    let writer = client.writer(7u128);
    fake.faults([Fault::None, Fault::DropAfter]);
    let outcome = deposit(&writer, "a", 10).await;
    assert!(outcome.already_applied);
    assert_eq!(last(&outcome.receipt.expect("found")), 1);
    deposit(&writer, "a", 10).await;
    assert_eq!(account(&fake, "a").await.events, 2);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_said_to_be_unknown_and_the_next_execution_sees_the_truth() {
    let fake = Fake::start();
    let writer = fake.client().await.writer(7u128).with_timeout(Duration::from_millis(200));
    fake.faults([Fault::None, Fault::Silence]);
    let key = key("a");
    let outcome = writer.execute(&key, |account: &Account| account.deposit(10)).await;
    let Err(ExecuteError::Store(error)) = outcome else { panic!("{outcome:?}") };
    assert!(!error.is_definite());
    let seen = writer.execute(&key, |account: &Account| account.withdraw(10)).await;
    assert!(seen.expect("it had landed").receipt.is_some());
}

#[tokio::test(start_paused = true)]
async fn nothing_to_do_is_an_answer_and_writes_nothing() {
    let fake = Fake::start();
    let writer = fake.client().await.writer(7u128);
    let outcome = writer.execute(&key("a"), |_: &Account| Vec::new()).await.expect("fine");
    assert_eq!(outcome.receipt, None);
    assert_eq!(fake.lock().writes.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_executed_once_however_often_and_from_wherever_it_comes() {
    let fake = Fake::start();
    deposit(&fake.client().await.writer(7u128), "a", 100).await;
    let request = uuid::Uuid::from_u128(0x1234);
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let client = fake.client().await;
        all.spawn(async move {
            let once = client.once(request);
            once.execute(&key("a"), |account: &Account| account.withdraw(30)).await
        });
    }
    let mut first = 0;
    while let Some(done) = all.join_next().await {
        let outcome = done.expect("no panic").expect("done, now or before");
        assert_eq!(last(&outcome.receipt.expect("a receipt either way")), 2);
        first += u32::from(!outcome.already_applied);
    }
    assert_eq!(first, 1);
    assert_eq!(account(&fake, "a").await.balance, 70);

    let (from, to) = (key("a"), key("b"));
    for round in 0..3 {
        let once = fake.client().await.once(9u128);
        let outcome = once
            .execute_many([&from, &to], |[from, _]: [&Account; 2]| transfer(from, 70))
            .await
            .expect("enough the first time, done before the other times");
        assert_eq!(outcome.already_applied, round > 0);
        assert_eq!(outcome.receipt.expect("either way").writes.len(), 2);
    }
    assert_eq!(account(&fake, "b").await.balance, 70);
}

/// Money moves between four accounts by writers that share a client id in pairs, over connections
/// that break all the time. What was answered must be what is there.
#[tokio::test(start_paused = true)]
async fn whatever_breaks_what_was_answered_is_what_is_there() {
    for seed in 1..=8_u64 {
        let fake = Fake::start();
        let ids = ["a", "b", "c", "d"];
        for id in ids {
            deposit(&fake.client().await.writer(1u128), id, 1000).await;
        }
        fake.lock().chance = Some(Random::new(seed));
        let mut all = tokio::task::JoinSet::new();
        for worker in 0..6_usize {
            let options = Options { timeout: Duration::from_secs(30), ..Options::default() };
            let client: Client = fake.client_with(options).await;
            let writer = client.writer(100 + (worker as u128) / 2);
            all.spawn(async move {
                let mut moved = Vec::new();
                for round in 0..12 {
                    let (from, to) = ((worker + round) % 4, (worker + 2 * round + 1) % 4);
                    if from == to {
                        continue;
                    }
                    let keys = [&key(ids[from]), &key(ids[to])];
                    writer
                        .execute_many(keys, |[from, _]: [&Account; 2]| transfer(from, 7))
                        .await
                        .expect("lands in the end");
                    moved.push((from, to));
                }
                moved
            });
        }
        let mut expected = [1000_u64; 4];
        let mut events = [1; 4];
        while let Some(done) = all.join_next().await {
            for (from, to) in done.expect("no panic") {
                expected[from] -= 7;
                expected[to] += 7;
                events[from] += 1;
                events[to] += 1;
            }
        }
        fake.lock().chance = None;
        for (at, id) in ids.into_iter().enumerate() {
            let account = account(&fake, id).await;
            assert_eq!(
                (account.balance, account.events),
                (expected[at], events[at]),
                "seed {seed}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_store_cannot_do_is_not_tried_for_ever() {
    let fake = Fake::start();
    let writer = fake.client().await.writer(7u128);
    fake.faults([Fault::None, Fault::Refuse(Refusal::Internal { id: 5 })]);
    let key = key("a");
    let outcome = writer.execute(&key, |account: &Account| account.deposit(1)).await;
    assert!(matches!(outcome, Err(ExecuteError::Store(Error::Internal { id: 5 }))));
}
