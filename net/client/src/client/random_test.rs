//! Leadership moves at random, nodes die, hang and lie; what was answered is what is there.

use std::time::Duration;

use celeriant_schema::{Receipt, Sequence, Stamp};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::fake::{Fake, Random, Reach, Role};
use crate::{AggregateKey, Batch, Client, ClientId, Error, Event, Options};

const SEEDS: u64 = 60;
const WRITERS: u64 = 4;
const ROUNDS: u64 = 25;

fn key(id: u64) -> AggregateKey {
    AggregateKey::new("acme", "account", &id.to_string()).expect("valid")
}

fn event(number: u64) -> Event {
    Event::bytes("Numbered", number.to_le_bytes().to_vec()).expect("bytes")
}

/// A write that was answered with a receipt.
struct Landed {
    key: AggregateKey,
    client: ClientId,
    sequence: Option<Sequence>,
    number: u64,
    receipt: Receipt,
}

/// What one writer can say in the end.
#[derive(Default)]
struct Account {
    landed: Vec<Landed>,
    /// Numbers of events that may be there.
    unknown: Vec<u64>,
}

fn millis(random: &mut Random, limit: u64) -> Duration {
    Duration::from_millis(random.below(limit))
}

/// One thing after the other goes wrong; in between, all is well for a while.
async fn trouble(nodes: [Fake; 2], mut random: Random) {
    let mut leader = 0;
    loop {
        sleep(millis(&mut random, 1500)).await;
        let (old, new) = (&nodes[leader], &nodes[1 - leader]);
        let kind = random.below(10);
        match kind {
            // In good order.
            0 | 1 => old.follows(new),
            2 => old.stop(),
            3 => old.hang(true),
            4 => old.break_off(Reach::Vanished),
            5 => old.role(Role::Follows(Some(String::from("nobody.example:1")))),
            6 => old.role(Role::Nobody),
            // The follower is away, and comes back.
            7 => new.break_off(Reach::Vanished),
            // Only connections break.
            _ => {
                old.break_off(Reach::Accepts);
                new.break_off(Reach::Accepts);
            }
        }
        if (2..=6).contains(&kind) {
            // The other one takes its time, and does not always know of whom to speak.
            match random.below(3) {
                0 => new.role(Role::Nobody),
                1 => new.role(Role::Follows(None)),
                _ => {}
            }
        }
        if kind <= 6 {
            sleep(millis(&mut random, if kind < 2 { 30 } else { 3000 })).await;
            // Whatever becomes of the old one, it leads no more.
            old.follows(new);
            new.role(Role::Leads);
            leader = 1 - leader;
        }
        sleep(millis(&mut random, 1500)).await;
        for node in [old, new] {
            node.hang(false);
            if matches!(kind, 2 | 4 | 7) {
                node.restart();
            }
        }
    }
}

/// What has been written reaches the followers a little later.
async fn replication(nodes: [Fake; 2], mut random: Random) {
    loop {
        let stamp = nodes[0].with_store(|store| store.stamp());
        sleep(millis(&mut random, 60)).await;
        for node in &nodes {
            let mut script = node.lock();
            script.has = script.has.max(Some(stamp));
        }
    }
}

/// Writes with sequences, to an aggregate of its own and to one for all; every one must land.
async fn sequenced(client: Client, me: u64, mut random: Random) -> Account {
    let id = ClientId::new(u128::from(me) + 1);
    let mut account = Account::default();
    let mut next = [Sequence::new(1); 2];
    // The newest state of the shared aggregate that was seen.
    let mut seen = (Stamp::ZERO, 0);
    for round in 0..ROUNDS {
        let at = random.below(2);
        let key = key(if at == 0 { me } else { 100 });
        let number = me * 1000 + round;
        let sequence = next[at as usize];
        next[at as usize] = sequence.next();
        let write = client.append(&key, [event(number)]).client(id).sequence(sequence);
        let receipt = write.timeout(Duration::from_secs(120)).await.expect("lands in the end");
        read_back(&client, &key, number, &receipt, random.below(2) == 0).await;

        let any = random.below(2) == 0;
        let mut head = client.head(&key).client(id).timeout(Duration::from_secs(120));
        if any {
            head = head.any().min_stamp(receipt.stamp.max(seen.0));
        }
        let head = head.await.expect("readable");
        assert!(head.last_sequence >= Some(sequence), "its own write");
        assert!(head.read_stamp >= receipt.stamp);
        if at == 1 {
            assert!(head.version.value() >= seen.1, "{} after {}", head.version, seen.1);
            seen = (seen.0.max(head.read_stamp), head.version.value());
        }
        account.landed.push(Landed { key, client: id, sequence: Some(sequence), number, receipt });
        sleep(millis(&mut random, 200)).await;
    }
    account
}

/// What was just written is read, at the leader or anywhere.
async fn read_back(client: &Client, key: &AggregateKey, number: u64, receipt: &Receipt, any: bool) {
    let landed = &receipt.writes[0];
    let mut read = client.read(key).from(landed.first_version).to(landed.last_version);
    if any {
        read = read.any().min_stamp(receipt.stamp);
    }
    let batches = read.timeout(Duration::from_secs(120)).collect().await.expect("readable");
    assert_eq!(batches.len(), 1);
    assert_eq!(number_of(&batches[0].events[0].payload), number);
}

/// Writes without sequences: some end in doubt, and are not tried again.
async fn unsequenced(client: Client, me: u64, mut random: Random) -> Account {
    let mut account = Account::default();
    for round in 0..ROUNDS {
        let number = me * 1000 + round;
        let patience = Duration::from_millis(200 + random.below(8000));
        let write = client.append(&key(100), [event(number)]).timeout(patience);
        match write.await {
            Ok(receipt) => account.landed.push(Landed {
                key: key(100),
                client: ClientId::NONE,
                sequence: None,
                number,
                receipt,
            }),
            Err(Error::Conflict { .. }) => panic!("it had no guard"),
            Err(error) if error.is_definite() => {}
            Err(_) => account.unknown.push(number),
        }
        sleep(millis(&mut random, 300)).await;
    }
    account
}

fn number_of(payload: &[u8]) -> u64 {
    u64::from_le_bytes(payload.try_into().expect("eight bytes"))
}

/// What is in the store: key, client, sequence, number, version.
fn stored(fake: &Fake) -> Vec<(AggregateKey, ClientId, Option<Sequence>, u64, u64)> {
    let keys: Vec<u64> = (0..WRITERS).chain([100]).collect();
    fake.with_store(|store| {
        let mut all = Vec::new();
        for key in keys.into_iter().map(key) {
            for batch in store.batches(&key).iter().cloned() {
                let batch = Batch::from_read(batch).expect("ours");
                let number = number_of(&batch.events[0].payload);
                let version = batch.last_version.value();
                all.push((key.clone(), batch.client_id, batch.sequence, number, version));
            }
        }
        all
    })
}

/// One life of a pair of nodes. Returns the deadlines of everything that was asked of each.
async fn run(seed: u64) -> [Vec<u32>; 2] {
    let nodes = Fake::pair();
    let [a, b] = &nodes;
    for (node, salt) in [(a, 1), (b, 2)] {
        node.lock().has = Some(Stamp::ZERO);
        node.lock().chance = Some(Random::new(seed * 10 + salt));
    }
    let urls = [
        format!("celeriant://{},{}", a.address, b.address),
        format!("celeriant://{},{}", b.address, a.address),
        a.url(),
    ];
    let mut clients = Vec::new();
    for url in &urls {
        let options = Options { connections: 1 + seed as usize % 2, ..Options::default() };
        clients.push(a.net.connect_seeded(seed, url, options).await.expect("both are up"));
    }
    let mut background = JoinSet::new();
    background.spawn(trouble(nodes.clone(), Random::new(seed * 10 + 3)));
    background.spawn(replication(nodes.clone(), Random::new(seed * 10 + 4)));

    let begin = Instant::now();
    let mut writers = JoinSet::new();
    for me in 0..WRITERS {
        let client = clients[me as usize % clients.len()].clone();
        writers.spawn(sequenced(client, me, Random::new(seed * 100 + me)));
    }
    for me in WRITERS..WRITERS + 2 {
        let client = clients[me as usize % clients.len()].clone();
        writers.spawn(unsequenced(client, me, Random::new(seed * 100 + me)));
    }
    let mut accounts = Vec::new();
    while let Some(account) = writers.join_next().await {
        accounts.push(account.unwrap_or_else(|error| panic!("seed {seed}: {error}")));
    }
    let took = begin.elapsed();
    drop(background);
    check(seed, &stored(a), &accounts);
    let asked = [a, b].map(|fake| fake.lock().deadlines.clone());
    let (count, bound) = (asked.concat().len(), 1000 + 60 * took.as_secs() as usize);
    assert!(count < bound, "seed {seed}: {count} requests in {took:?}");
    asked
}

fn check(
    seed: u64,
    stored: &[(AggregateKey, ClientId, Option<Sequence>, u64, u64)],
    accounts: &[Account],
) {
    let mut known = Vec::new();
    for landed in accounts.iter().flat_map(|account| &account.landed) {
        let here: Vec<_> = stored.iter().filter(|there| there.3 == landed.number).collect();
        let receipt = &landed.receipt.writes[0];
        assert_eq!(here.len(), 1, "seed {seed}: event {} is there once", landed.number);
        let version = receipt.last_version.value();
        let expected = (landed.key.clone(), landed.client, landed.sequence, landed.number, version);
        assert_eq!(*here[0], expected, "seed {seed}");
        assert_eq!(receipt.key, landed.key);
        known.push(landed.number);
    }
    for number in accounts.iter().flat_map(|account| &account.unknown) {
        let here = stored.iter().filter(|there| there.3 == *number).count();
        assert!(here <= 1, "seed {seed}: event {number} is there {here} times");
        known.push(*number);
    }
    for there in stored {
        assert!(known.contains(&there.3), "seed {seed}: {there:?} was said not to be there");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_leads_what_was_answered_is_what_is_there() {
    for seed in 0..SEEDS {
        run(seed).await;
    }
}

#[test]
fn a_seed_decides_everything() {
    let trace = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build().expect("a runtime");
        runtime.block_on(run(SEEDS))
    };
    assert_eq!(trace(), trace());
}
