//! Keeps the node running: starts it, notices that it is gone, starts it again.

use std::future::poll_fn;
use std::sync::Arc;

use celeriant_actors::node::{Error, Node};

use super::World;
use crate::invariants::i17_recovery_is_idempotent as i17;
use crate::machine::{note_recovery, way_into};
use crate::power_cut::Crash;
use crate::sabotage::{Sabotage, Saboteur};
use crate::timeline::Micros;

/// Starts that fail in a row before the world gives up on the node.
const STARTS_MAX: u32 = 60;
/// Images of a thousand whose recovery is repeated and cut, to compare: it costs more than all the
/// rest.
const COMPARED_PER_MILLE: u64 = 100;
/// How long a clean stop may take, in µs: a node gives up on a shard that cannot drain after 30 s.
const STOP_MAX: Micros = 40_000_000;

impl World {
    /// Injects the scenario's faults until `until`, keeping the node running.
    pub(super) async fn work(&mut self, until: Micros) {
        for fault in self.scenario.faults.clone() {
            self.supervise(fault.at.min(until)).await;
            if fault.at >= until {
                return;
            }
            self.inject(&fault).await;
        }
        self.supervise(until).await;
    }

    /// Keeps the node running, and repairs what is due, until `until`.
    pub(super) async fn supervise(&mut self, until: Micros) {
        while self.timeline.now() < until {
            let heal = self.heals.keys().next().map_or(Micros::MAX, |(at, _)| *at);
            let power = Arc::clone(&self.machine.power);
            let Some(node) = &mut self.node else { return self.start_node().await };
            tokio::select! {
                biased;
                () = poll_fn(|cx| power.poll_off(cx)) => {
                    self.reached.note("power went at an operation");
                    self.crash(&mut Crash::any()).await;
                }
                error = node.failed() => {
                    self.node_failed(&error);
                    self.crash(&mut Crash::any()).await;
                }
                () = self.timeline.sleep_until(until.min(heal)) => self.heal_due(),
            }
        }
    }

    /// The node stopped by itself: only what is wrong with its disks explains that.
    fn node_failed(&mut self, error: &Error) {
        self.trace.note(&[3], format_args!("{} the node failed: {error}", self.timeline.now()));
        let mut mended = self.mended.iter().map(|shard| format!("shard {shard}"));
        let was_damaged = match error {
            Error::Stopped { actor, .. } => mended.any(|shard| shard == *actor),
            _ => false,
        };
        let explained = self.ailments_explain() || self.scarred() || was_damaged;
        self.violations.check("node", explained, || format!("stopped without a reason: {error}"));
        self.reached.note("node stopped by itself");
    }

    /// The process is gone, with its disks' operations in flight; then it starts again.
    pub(super) async fn crash(&mut self, crash: &mut Crash) {
        self.down(crash);
        let pause = self.rng.between(100, crash.pause_max);
        self.timeline.sleep(pause).await;
        self.start_node().await;
    }

    /// The process is gone.
    pub(super) fn down(&mut self, crash: &mut Crash) {
        self.excuses.outage = true;
        self.reached.note("crash");
        self.wire.unplug();
        self.machine.power.cut();
        if let Some(node) = self.node.take() {
            node.kill();
        }
        let in_flight = self.machine.lose_flights(crash, &mut self.rng);
        self.reached.add("operations in flight at a crash", in_flight as u64);
        let now = self.timeline.now();
        self.trace.note(&[1, in_flight as u64], format_args!("{now} crash, {in_flight} in flight"));
        for shard in 0..self.machine.medias.len() {
            let being_packed = self.machine.medias[shard].image().being_packed();
            self.reached.add("crash while a segment was packed", being_packed as u64);
            self.look_at_remains(shard);
        }
    }

    fn look_at_remains(&mut self, shard: usize) {
        if !self.rng.chance(COMPARED_PER_MILLE) || self.scarred() {
            return;
        }
        let (identity, image) = (self.machine.identity(shard), self.machine.medias[shard].image());
        let log = self.machine.log;
        let compared = i17::check(&image, identity, &log, &mut self.rng, &self.violations);
        self.reached.add("recoveries compared", compared);
    }

    /// Starts the node, again and again if it must be.
    pub(super) async fn start_node(&mut self) {
        for _ in 0..STARTS_MAX {
            self.heal_due();
            if self.try_start(0).await {
                return;
            }
            let pause = self.rng.between(1_000, 200_000);
            self.timeline.sleep(pause).await;
        }
        self.violations.add("liveness", format_args!("{STARTS_MAX} starts in a row failed"));
        self.heal_all();
        self.timeline.sleep(1_000).await;
    }

    /// Starts the node once; power goes with the start's operation `trip_after`, if that is not 0.
    pub(super) async fn try_start(&mut self, trip_after: u64) -> bool {
        let power = Arc::clone(&self.machine.power);
        power.restore();
        self.mended.clear();
        if trip_after > 0 {
            power.trip_at(power.operations() + trip_after);
        }
        let now = self.timeline.now();
        self.trace.note(&[2], format_args!("{now} the node starts"));
        let started = tokio::select! {
            biased;
            () = poll_fn(|cx| power.poll_off(cx)) => None,
            started = self.machine.start() => Some(started),
        };
        match started {
            Some(Ok(node)) => {
                self.up(node);
                true
            }
            Some(Err(error)) => {
                self.start_failed(&error);
                self.down(&mut Crash::any());
                false
            }
            None => {
                self.reached.note("power went during a start");
                self.down(&mut Crash::any());
                false
            }
        }
    }

    fn up(&mut self, node: Node) {
        self.forget_overwritten_scars();
        note_recovery(&node, &self.reached);
        let images: Vec<_> = self.machine.medias.iter().map(|media| media.image()).collect();
        let identities = (0..images.len()).map(|shard| self.machine.identity(shard));
        self.watcher.recovered(identities.zip(&images), !self.scarred());
        let submit = way_into(&node, &self.scenario.shape, &self.violations);
        let submit = match self.scenario.sabotage {
            None | Some(Sabotage::LyingDisks) => submit,
            Some(kind) => Saboteur::before(kind, submit),
        };
        self.wire.plug(submit);
        self.node = Some(node);
        let now = self.timeline.now();
        self.trace.note(&[4], format_args!("{now} the node serves"));
    }

    fn start_failed(&mut self, error: &Error) {
        self.trace.note(&[5], format_args!("{} no start: {error}", self.timeline.now()));
        let explained = self.ailments_explain() || self.scarred() || self.any_full();
        self.violations.check("start", explained, || format!("failed without a reason: {error}"));
        self.reached.note("start failed");
        let Error::Storage { source: celeriant_storage::Error::Damage(damage), .. } = error else {
            return;
        };
        if self.scarred() {
            self.reached.note("damage seen by a start");
            self.repair_scars(&damage.file);
        }
    }

    /// Stops the node in good order and starts it again.
    pub(super) async fn restart_cleanly(&mut self) {
        self.excuses.outage = true;
        let Some(node) = self.node.take() else { return self.start_node().await };
        let power = Arc::clone(&self.machine.power);
        let deadline = self.timeline.now() + STOP_MAX;
        let mut stop = std::pin::pin!(node.stop());
        let clean = loop {
            let heal = self.heals.keys().next().map_or(Micros::MAX, |(at, _)| *at);
            tokio::select! {
                biased;
                () = poll_fn(|cx| power.poll_off(cx)) => break false,
                () = &mut stop => break true,
                () = self.timeline.sleep_until(deadline.min(heal)) => self.heal_due(),
            }
            if self.timeline.now() >= deadline {
                self.violations.add("liveness", "a clean stop does not end");
                break false;
            }
        };
        if clean {
            self.reached.note("clean stop");
        }
        self.down(&mut Crash::any());
        self.start_node().await;
    }

    /// Whether a disk failed since this was last asked.
    fn ailments_explain(&mut self) -> bool {
        let mut reached = 0;
        for media in &self.machine.medias {
            media.ail(|ailments| reached += ailments.reached);
        }
        std::mem::replace(&mut self.seen_ailments, reached) < reached
    }

    fn any_full(&self) -> bool {
        let mut full = false;
        for media in &self.machine.medias {
            media.ail(|ailments| full |= ailments.full);
        }
        full
    }
}
