//! A pair under load, with an oracle: something is done to it, writes go on, it heals; at the end
//! everything that was promised is on each node by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use celeriant_client::Client;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::oracle::{From, Progress, Writer, check, list, newest, promised, read};
use super::{Pair, wait};

const WRITERS: usize = 12;
/// Of a writer between writes: a debug build must also be able to read all of it in the end.
const PAUSE: Duration = Duration::from_millis(15);
/// Receipts that show that writes go on.
const ENOUGH: usize = 3 * WRITERS;

/// Two nodes, and writers that ride out whatever happens to them.
pub(crate) struct World {
    pub(crate) pair: Pair,
    /// Rounds so far.
    pub(crate) rounds: usize,
    runtime: Runtime,
    client: Client,
    progress: Arc<Progress>,
    writers: Vec<JoinHandle<Writer>>,
}

/// What a round did to writers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Felt {
    /// The longest time without a receipt, until then.
    pub(crate) pause: Duration,
    /// The longest time without a receipt from then on, until the pair was whole.
    pub(crate) healing: Duration,
    /// Until the pair was whole.
    pub(crate) whole: Duration,
    /// Receipts meanwhile.
    pub(crate) receipts: usize,
}

impl World {
    /// Starts both nodes and the writers.
    pub(crate) fn start(mut pair: Pair) -> Self {
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

    /// Does `what` to a whole pair with a leader, which is given, and waits until writes go on and
    /// the pair is whole again.
    pub(crate) fn round(&mut self, what: &str, act: impl FnOnce(&mut Self, usize)) -> Felt {
        self.rounds += 1;
        let leader = wait::until("a whole pair", || self.pair.whole());
        // In the middle of something.
        self.writes_go_on("before", leader);
        let (before, began) = (self.progress.receipts(), Instant::now());
        act(self, leader);
        self.writes_go_on("afterwards", leader);
        let after = self.progress.receipts();
        let pause = self.progress.longest_pause(before);
        wait::until(&format!("a whole pair after {what}"), || self.pair.whole());
        Felt {
            pause,
            healing: self.progress.longest_pause(after),
            whole: began.elapsed(),
            receipts: self.progress.receipts() - before,
        }
    }

    /// A node is away until writes go on without it.
    pub(crate) fn without(&mut self, away: usize, take: impl FnOnce(&mut Pair)) {
        take(&mut self.pair);
        self.writes_go_on("without one", away);
        self.pair.start(away);
    }

    /// Waits for new receipts, which were not on their way already.
    pub(crate) fn writes_go_on(&self, when: &str, node: usize) {
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
    pub(crate) fn prove(mut self) {
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
