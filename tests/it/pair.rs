//! Two nodes and a bucket as real processes, and everything that may happen to them under load:
//! what clients were promised is on both nodes afterwards.
//!
//! ```text
//! round:  whole pair ─▶ fault ─▶ writes go on ─▶ healed ─▶ whole pair
//! end:    every receipt at its version and hash, read from each node by itself
//! ```
//! `CELERIANT_KILL_ROUNDS=50` for the long run, in an order that is different each time and
//! printed; every kind of round once otherwise.
//!
//! Deliberately absent: power cuts and clocks, which the simulator has.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use celeriant_client::Client;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::support::oracle::{From, Progress, Writer, check, list, newest, promised, read};
use crate::support::{Pair, wait};

const WRITERS: usize = 12;
const SHARDS: u16 = 3;
/// Of a writer between writes: a debug build must also be able to read all of it in the end.
const PAUSE: Duration = Duration::from_millis(15);
/// Receipts that show that writes go on.
const ENOUGH: usize = 3 * WRITERS;
/// How long a leader is stopped: longer than the other waits, up to longer than a bucket's lease.
const STOPPED: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(5)];
/// How long the bucket is away at least: longer than its operations take and are repeated.
const BUCKET_AWAY: Duration = Duration::from_secs(3);

/// What happens in a round.
#[derive(Clone, Copy, Debug)]
enum Fault {
    KillLeader,
    KillFollower,
    /// SIGTERM: it hands over, and comes back.
    HandOver,
    /// The leader stands still, longer than the other waits, and goes on as if nothing had been.
    FreezeLeader,
    KillBoth,
    /// Both are killed, and for a while only one comes back: it serves with the bucket.
    OneReturns,
    BucketAway,
}

const FAULTS: [Fault; 7] = [
    Fault::KillLeader,
    Fault::KillFollower,
    Fault::FreezeLeader,
    Fault::OneReturns,
    Fault::HandOver,
    Fault::BucketAway,
    Fault::KillBoth,
];

struct World {
    pair: Pair,
    runtime: Runtime,
    client: Client,
    progress: Arc<Progress>,
    writers: Vec<JoinHandle<Writer>>,
    rounds: usize,
}

#[test]
fn every_receipt_is_on_both_nodes_whatever_happens_to_them() {
    let rounds = std::env::var("CELERIANT_KILL_ROUNDS");
    let faults = match rounds.ok().and_then(|text| text.parse().ok()) {
        Some(rounds) => shuffled(rounds),
        None => FAULTS.to_vec(),
    };
    let mut world = World::start();
    for fault in &faults {
        let (receipts, began) = (world.progress.receipts(), Instant::now());
        let took = world.round(*fault);
        let pause = world.progress.longest_pause(receipts);
        let more = world.progress.receipts() - receipts;
        let whole = began.elapsed();
        println!(
            "{fault:?}: over after {took:.1?}, longest pause {pause:.1?}; whole after {whole:.1?}; \
             {more} receipts"
        );
    }
    world.prove();
}

impl World {
    fn start() -> Self {
        let mut pair = Pair::new(SHARDS);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        pair.start(0);
        wait::until("the first node to lead", || pair.leader());
        pair.start(1);
        wait::until("a pair", || pair.whole());
        let client = runtime.block_on(Client::connect(&pair.url())).expect("they serve");
        let progress = Arc::new(Progress::default());
        let run = |writer: Writer| {
            let (client, progress) = (client.clone(), Arc::clone(&progress));
            runtime.spawn(async move { writer.ride_out(client, &progress, PAUSE).await })
        };
        let writers = Writer::some(WRITERS).into_iter().map(run).collect();
        Self { pair, runtime, client, progress, writers, rounds: 0 }
    }

    /// Does it, waits until writes go on, and until the pair is whole again. How long writes took
    /// to go on.
    fn round(&mut self, fault: Fault) -> Duration {
        self.rounds += 1;
        let leader = wait::until("a whole pair", || self.pair.whole());
        // In the middle of something.
        self.writes_go_on("before", leader);
        let began = Instant::now();
        let other = 1 - leader;
        match fault {
            Fault::KillLeader => self.without(leader, |pair| pair.kill(leader)),
            Fault::KillFollower => self.without(other, |pair| pair.kill(other)),
            Fault::HandOver => self.without(leader, |pair| {
                assert_eq!(pair.terminate(leader), Some(0), "it ends in good order");
            }),
            Fault::FreezeLeader => self.freeze(leader),
            Fault::KillBoth => {
                self.pair.kill(leader);
                self.pair.kill(other);
                self.pair.start(leader);
                self.pair.start(other);
                self.writes_go_on("with both back", leader);
            }
            Fault::OneReturns => self.one_returns(leader),
            Fault::BucketAway => self.bucket_away(leader),
        }
        let took = began.elapsed();
        let look = || self.pair.whole();
        wait::until(&format!("a whole pair after {fault:?}"), look);
        took
    }

    /// A node is away until writes go on without it.
    fn without(&mut self, away: usize, take: impl FnOnce(&mut Pair)) {
        take(&mut self.pair);
        self.writes_go_on("without one", away);
        self.pair.start(away);
    }

    fn freeze(&mut self, leader: usize) {
        let (began, long) = (Instant::now(), STOPPED[self.rounds % STOPPED.len()]);
        self.pair.node(leader).signal("-STOP");
        self.writes_go_on("while the leader stands still", leader);
        wait::until("time", || (began.elapsed() > long).then_some(()));
        // What the other one says of itself: the old leader has still to hear of it.
        let role = self.pair.status(1 - leader).expect("it serves")["role"].clone();
        self.pair.node(leader).signal("-CONT");
        assert_eq!(role, "leader", "{}", self.pair.describe());
    }

    fn one_returns(&mut self, leader: usize) {
        self.pair.kill(leader);
        self.pair.kill(1 - leader);
        // Now the one that led, now the other.
        let returns = if self.rounds.is_multiple_of(2) { leader } else { 1 - leader };
        self.pair.start(returns);
        self.writes_go_on("with one of them and the bucket", returns);
        let status = self.pair.status(returns).expect("it serves");
        assert_eq!((&status["role"], &status["in_sync"][1]), (&"leader".into(), &"bucket".into()));
        self.pair.start(1 - returns);
    }

    fn bucket_away(&mut self, leader: usize) {
        let began = Instant::now();
        self.pair.stop_bucket();
        self.writes_go_on("without a bucket", leader);
        wait::until("time", || (began.elapsed() > BUCKET_AWAY).then_some(()));
        self.writes_go_on("without a bucket for a while", leader);
        assert_eq!(self.pair.whole(), Some(leader), "{}", self.pair.describe());
        self.pair.start_bucket();
    }

    /// Waits for new receipts, which were not on their way already.
    fn writes_go_on(&self, when: &str, node: usize) {
        let before = self.progress.receipts();
        let name = ["a", "b"][node];
        let enough = || {
            let dead = self.writers.iter().any(JoinHandle::is_finished);
            assert!(!dead, "a writer gave up");
            (self.progress.receipts() >= before + ENOUGH).then_some(())
        };
        wait::until(&format!("writes {when} ({name})"), enough);
    }

    /// Ends the load and compares what was promised with what each node has.
    fn prove(mut self) {
        self.progress.stop.store(true, Ordering::Relaxed);
        let running = std::mem::take(&mut self.writers);
        let writers: Vec<Writer> =
            running.into_iter().map(|w| self.runtime.block_on(w).expect("a writer")).collect();
        let (rounds, promised) = (self.rounds, promised(&writers));
        println!("{rounds} rounds, {promised} writes promised, errors: {:?}", {
            self.progress.errors()
        });
        assert!(promised > rounds * ENOUGH, "hardly any load: {promised} writes");
        let leader = wait::until("a whole pair", || self.pair.whole());
        let keys = self.runtime.block_on(list(&self.client));
        for at in [leader, 1 - leader] {
            // A client that knows one node reads from that one, if any may answer.
            let client = self.runtime.block_on(Client::connect(&self.pair.url_of(at)));
            let from = From::Node(newest(&writers));
            let found = self.runtime.block_on(read(&client.expect("it serves"), &keys, from));
            check(&writers, &found);
        }
        for at in 0..2 {
            assert_eq!(self.pair.terminate(at), Some(0), "it ends in good order");
        }
    }
}

/// So many rounds of any kind, differently each time.
fn shuffled(rounds: usize) -> Vec<Fault> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut seed = now.expect("after 1970").as_nanos() as u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        FAULTS[(seed >> 33) as usize % FAULTS.len()]
    };
    (0..rounds).map(|_| next()).collect()
}
