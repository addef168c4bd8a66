//! What must be once nothing is wrong any more: writes resume, clients come to their end,
//! everything is in two places, and both nodes say the same.

use celeriant_schema::{AggregateKey, ReadBatch, ReadQuery, Refusal, Request, Response, Stamp};
use tokio::task::JoinHandle;

use super::World;
use super::site::{Site, Stage};
use crate::client::Client;
use crate::history::{History, Shown};
use crate::invariants::i13_resumes::Calm;
use crate::oracle::{Evidence, check_final};
use crate::rng::Rng;
use crate::timeline::Micros;
use crate::wire::Sending;
use crate::world::{Outcome, spawn};

/// How long clients may take to come to their end once nothing is wrong any more, in µs.
const QUIET_MAX: Micros = 120_000_000;
/// How long a clean stop and the next start may take, in µs.
const RESTART_MAX: Micros = 60_000_000;
/// How often a page is asked for before the reader gives up.
const TRIES: u32 = 100;
/// Client indices of the one that reads everything back, and of the one that probes.
const READER: usize = 9_999;
const PROBER: usize = 9_998;

impl World {
    /// Writes resume, all clients end, the pair is in sync.
    pub(super) async fn come_to_rest(&mut self, clients: Vec<JoinHandle<()>>) {
        let calm = Calm { since: self.timeline.now(), claims: self.overseer.claims() };
        let within = self.shape.resumes_within_ms * 1_000;
        let prober = Client::new(PROBER, self.surroundings(0), Rng::new(self.rng.number()));
        let came_through = self.wait_for(vec![spawn(prober.probe())], within).await;
        let resumed = came_through.then(|| self.timeline.now());
        calm.check_resumed(resumed, within, &self.violations);
        let all = clients.into_iter().chain(std::mem::take(&mut self.bursts)).collect();
        if !self.wait_for(all, QUIET_MAX).await {
            self.violations.add("liveness", "clients do not come to their end");
        }
        let rejoin = self.grounds.election.rejoin.1;
        self.wait_until("the pair is not in sync again", 2 * rejoin + 60_000_000, |world| {
            world.is_in_sync()
        })
        .await;
        calm.check_claims(self.overseer.claims(), &self.violations);
        // Answers that are under way arrive; then nothing may be owed.
        let patience = self.scenario.workload.patience();
        self.supervise(self.timeline.now() + patience).await;
        for site in &self.sites {
            let owed = site.wire.unanswered();
            self.violations.check("answers", owed.is_empty(), || {
                format!("{} requests to node {} are unanswered: {owed:?}", owed.len(), site.index)
            });
        }
    }

    /// Waits until all tasks have ended, while nodes are kept running. Whether they have.
    async fn wait_for(&mut self, tasks: Vec<JoinHandle<()>>, within: Micros) -> bool {
        let deadline = self.timeline.now() + within;
        let mut all = std::pin::pin!(async {
            for task in tasks {
                if task.await.is_err_and(|error| error.is_panic()) {
                    panic!("a client panicked");
                }
            }
        });
        tokio::select! {
            biased;
            () = &mut all => true,
            () = self.supervise(deadline) => false,
        }
    }

    /// Waits until something holds, while nodes are kept running.
    pub(super) async fn wait_until(
        &mut self,
        otherwise: &str,
        within: Micros,
        holds: impl Fn(&Self) -> bool,
    ) {
        let deadline = self.timeline.now() + within;
        while !holds(self) {
            let now = self.timeline.now();
            if now >= deadline {
                let register = self.overseer.register();
                return self.violations.add("liveness", format_args!("{otherwise}: {register:?}"));
            }
            self.supervise(now + 20_000).await;
        }
    }

    /// Reads everything from the leader and from its follower, after a restart of each node and a
    /// hand-over: always the same. Then from the disks.
    pub(super) async fn prove_what_is_there(&mut self) -> History {
        let shown = self.read_both(None).await;
        for node in 0..self.sites.len() {
            self.restart_cleanly(node).await;
            self.read_both(Some(&shown)).await;
        }
        self.hand_over().await;
        self.read_both(Some(&shown)).await;
        for node in 0..self.sites.len() {
            self.stop(node).await;
        }
        let originals = self.overseer.originals();
        let [history, copy] =
            [0, 1].map(|node| self.sites[node].machine.history(&originals, &self.violations));
        self.overseer.check_twice([&history, &copy]);
        history.check_shown(&shown, &self.violations);
        history
    }

    async fn read_both(&mut self, expected: Option<&Shown>) -> Shown {
        let rejoin = self.grounds.election.rejoin.1;
        self.wait_until("no pair to read from", 2 * rejoin + 60_000_000, Self::is_in_sync).await;
        let shown = self.read_back(None).await;
        let follower = 1 - self.leader().unwrap_or(0);
        let copy = self.read_back(Some((follower, self.ledger.newest_stamp()))).await;
        let same = shown == copy;
        self.violations.check("I7", same, || format!("node {follower} shows something else"));
        let kept = expected.is_none_or(|expected| *expected == shown);
        self.violations.check("I7", kept, || "a restart or hand-over changed what is there".into());
        shown
    }

    /// A hand-over by command; refused while a follower that was away is being taken back.
    async fn hand_over(&mut self) {
        let deadline = self.timeline.now() + 2 * self.grounds.election.rejoin.1 + RESTART_MAX;
        let before = self.leader();
        while self.leader() == before || !self.is_in_sync() {
            if self.timeline.now() >= deadline {
                return self.violations.add("hand-over", "refused again and again");
            }
            self.order_hand_over();
            self.supervise(self.timeline.now() + 500_000).await;
        }
    }

    /// Stops a node in good order.
    async fn stop(&mut self, node: usize) {
        self.sites[node].stays_down = true;
        self.sites[node].stop();
        self.wait_until("a clean stop does not end", RESTART_MAX, |world| {
            !matches!(world.sites[node].stage, Stage::Stopping(_))
        })
        .await;
    }

    async fn restart_cleanly(&mut self, node: usize) {
        self.stop(node).await;
        self.sites[node].stays_down = false;
        if let Stage::Down { until } = &mut self.sites[node].stage {
            *until = self.timeline.now();
        }
        self.wait_until("a node does not start again", RESTART_MAX, |world| {
            world.sites[node].is_up()
        })
        .await;
    }

    /// Who leads, as the register says.
    pub(super) fn leader(&self) -> Option<usize> {
        let store = self.overseer.register()?.leader.store;
        self.sites.iter().position(|site: &Site| site.safe.store() == store)
    }

    /// Every aggregate that clients can have written, with all that it shows: as the leader says,
    /// or as that node says when it has everything up to that stamp.
    async fn read_back(&mut self, of: Option<(usize, Stamp)>) -> Shown {
        let mut shown = Shown::default();
        for key in self.scenario.workload.all_keys(self.scenario.shape.shards) {
            let batches = self.read_whole(&key, of).await;
            if !batches.is_empty() {
                shown.insert(key, batches);
            }
        }
        shown
    }

    async fn read_whole(
        &mut self,
        key: &AggregateKey,
        of: Option<(usize, Stamp)>,
    ) -> Vec<ReadBatch> {
        let mut query = ReadQuery::all(key.clone());
        (query.any, query.min_stamp) = (of.is_some(), of.map(|(_, stamp)| stamp));
        let mut batches = Vec::new();
        let mut tries = 0;
        loop {
            let request = Request::Read(query.clone());
            let id = self.ledger.open(|_| request);
            let node = of.map(|(node, _)| node).or_else(|| self.leader()).unwrap_or(0);
            let wire = self.sites[node].wire.clone();
            let sent = spawn(async move { wire.send(READER, id, 5_000_000, None).await });
            let patience = self.timeline.now() + 10_000_000;
            let answer = tokio::select! {
                biased;
                answer = sent => answer.ok(),
                () = self.supervise(patience) => None,
            };
            match answer {
                Some(Sending::Answered(Response::Page(page))) => {
                    batches.extend(page.batches);
                    match page.next {
                        Some(next) => query.from = next,
                        None => return batches,
                    }
                }
                Some(Sending::Answered(Response::Refused(
                    Refusal::NotFound { .. } | Refusal::Deleted { .. },
                ))) => return batches,
                other => {
                    tries += 1;
                    self.supervise(self.timeline.now() + 100_000).await;
                    if tries > TRIES {
                        self.violations.add(
                            "liveness",
                            format_args!("{key} cannot be read at node {node}: {other:?}"),
                        );
                        return batches;
                    }
                }
            }
        }
    }

    pub(super) fn judge(self, history: History) -> Outcome {
        self.overseer.check_final(&history);
        let events = history.events();
        let shards = self.scenario.shape.shards;
        let evidence = Evidence::new(&self.ledger, history, self.excuses, shards).of_pair();
        check_final(&evidence, &self.violations);
        for site in &self.sites {
            for media in &site.machine.medias {
                media.ail(|ailments| {
                    self.reached.add("disk refused for lack of space", ailments.refused);
                    self.reached.add("disk failed", ailments.reached);
                });
                self.reached.add("packed segments", media.packed());
            }
        }
        let operations = self.sites.iter().map(|site| site.machine.power.operations()).sum();
        Outcome {
            violations: self.violations.list(),
            trace_hash: self.trace.hash(),
            trace_entries: self.trace.entries(),
            simulated: self.timeline.now(),
            operations: self.ledger.counts(),
            faults: self.faults_injected,
            events,
            disk_operations: operations,
            reached: self.reached,
        }
    }
}
