//! Keeps both nodes running: starts them, notices that one is gone, starts it again.

use celeriant_actors::node::{Error, Node};

use super::World;
use super::site::{Stage, Turn, next_turn};
use crate::machine::{note_recovery, way_into};
use crate::power_cut::Crash;
use crate::timeline::Micros;

/// Starts that fail in a row before the world gives up on a node.
const STARTS_MAX: u32 = 60;

impl World {
    /// Injects the scenario's faults, whose times count from `begun`, until `until`.
    pub(super) async fn work(&mut self, begun: Micros, until: Micros) {
        for fault in self.scenario.faults.clone() {
            self.supervise((begun + fault.at).min(until)).await;
            if begun + fault.at >= until {
                return;
            }
            self.inject(&fault).await;
        }
        self.supervise(until).await;
    }

    /// Keeps the nodes running, and repairs what is due, until `until`.
    pub(super) async fn supervise(&mut self, until: Micros) {
        while self.timeline.now() < until {
            let heal = self.heals.keys().next().map_or(Micros::MAX, |(at, _)| *at);
            let start = self.sites.iter().filter_map(|site| match site.stage {
                Stage::Down { until } => Some(until),
                _ => None,
            });
            let next = until.min(heal).min(start.min().unwrap_or(Micros::MAX));
            tokio::select! {
                biased;
                (node, turn) = next_turn(&mut self.sites) => self.take_turn(node, turn),
                () = self.timeline.sleep_until(next) => {
                    self.heal_due();
                    self.start_due();
                }
            }
        }
    }

    fn start_due(&mut self) {
        let now = self.timeline.now();
        for site in &mut self.sites {
            if matches!(site.stage, Stage::Down { until } if until <= now) {
                let index = site.index;
                self.trace.note(&[2, index as u64], format_args!("{now} node {index} starts"));
                site.begin(&self.grounds);
            }
        }
    }

    fn take_turn(&mut self, node: usize, turn: Turn) {
        match turn {
            Turn::PowerWent => {
                self.reached.note("power went at an operation");
                self.crash(node, &mut Crash::any());
            }
            Turn::Started(started) => match *started {
                Ok(running) => self.up(node, running),
                Err(error) => self.start_failed(node, &error),
            },
            Turn::Failed(error) => {
                self.explain(node, "stopped", &error);
                self.reached.note("node stopped by itself");
                self.crash(node, &mut Crash::any());
            }
            Turn::Stopped => {
                self.reached.note("clean stop");
                let stays = self.sites[node].stays_down;
                let until = if stays { Micros::MAX } else { self.timeline.now() + 1_000 };
                self.down(node, &mut Crash::any(), until);
            }
        }
    }

    fn up(&mut self, node: usize, running: Node) {
        note_recovery(&running, &self.reached);
        let site = &mut self.sites[node];
        if !site.scars.is_empty() {
            self.reached.note("damaged log not read by a start");
        }
        site.starts_failed = 0;
        site.wire.plug(way_into(&running, &self.scenario.shape, &self.violations));
        site.stage = Stage::Up(Box::new(running));
        let now = self.timeline.now();
        self.trace.note(&[4, node as u64], format_args!("{now} node {node} serves"));
    }

    fn start_failed(&mut self, node: usize, error: &Error) {
        self.explain(node, "did not start", error);
        self.reached.note("start failed");
        let site = &mut self.sites[node];
        if site.copied.is_some() {
            self.reached.note("copied directory refused");
        } else if !site.scars.is_empty() {
            self.reached.note("damaged log refused");
        } else {
            site.starts_failed += 1;
        }
        if self.sites[node].starts_failed == STARTS_MAX {
            self.violations.add("liveness", format_args!("node {node} does not start: {error}"));
        }
        self.crash(node, &mut Crash::any());
    }

    /// Only what is wrong with its disks explains that a process ends by itself.
    fn explain(&mut self, node: usize, what: &str, error: &Error) {
        let now = self.timeline.now();
        self.trace.note(&[3, node as u64], format_args!("{now} node {node} {what}: {error}"));
        let site = &mut self.sites[node];
        let (mut reached, mut full) = (site.safe.failures(), false);
        for media in &site.machine.medias {
            media.ail(|ailments| {
                reached += ailments.reached;
                full |= ailments.full;
            });
        }
        let failed = std::mem::replace(&mut site.seen_ailments, reached) < reached;
        let unfit = site.copied.is_some() || !site.scars.is_empty();
        // Logs that disagree about a write are no disk's failure.
        let ailing = (failed || full) && !matches!(error, Error::Contradiction(_));
        self.violations.check("node", ailing || unfit, || {
            format!("node {node} {what} without a reason: {error}")
        });
    }

    /// The process is gone, with its disks' operations in flight; after a while another one starts.
    pub(super) fn crash(&mut self, node: usize, crash: &mut Crash) {
        let until = self.timeline.now() + self.rng.between(100, crash.pause_max);
        self.down(node, crash, until);
    }

    /// The process is gone until then.
    pub(super) fn down(&mut self, node: usize, crash: &mut Crash, until: Micros) {
        self.reached.note("crash");
        let site = &mut self.sites[node];
        site.wire.unplug();
        site.machine.power.cut();
        site.end(until);
        self.grounds.network.crash(node);
        self.grounds.cloud.crash(node as u16);
        let in_flight = site.machine.lose_flights(crash, &mut self.rng);
        self.reached.add("operations in flight at a crash", in_flight as u64);
        let now = self.timeline.now();
        let words = [1, node as u64, in_flight as u64];
        self.trace.note(&words, format_args!("{now} node {node} is gone, {in_flight} in flight"));
        let mut images: Vec<_> = site.machine.medias.iter().map(|media| media.image()).collect();
        let being_packed = images.iter().map(crate::disk::Files::being_packed).sum::<usize>();
        self.reached.add("crash while a segment was packed", being_packed as u64);
        // What a device lost without a word counts as there until the device is given up.
        site.scars.iter().for_each(|(shard, scar)| scar.mended(&mut images[*shard]));
        let identities = (0..images.len()).map(|shard| site.machine.identity(shard));
        if site.copied.is_none() {
            self.overseer.left(node, identities.zip(&images));
        }
    }
}
