//! Makes things go wrong with a pair, and right again.

use std::sync::Arc;

use bytes::Bytes;
use celeriant_actors::election::register::{CONFIG_KEY, Config, Seal};
use celeriant_actors::election::vocabulary::Command;
use celeriant_schema::StoreId;

use super::World;
use super::disks::Snapshot;
use super::site::{Stage, end_of};
use crate::bucket::{Ailment as BucketAilment, Outage};
use crate::client::{Client, PURGER};
use crate::disk::{Ailment, Latency};
use crate::fault::{FOLLOWER, Fault, Kind, LEADER};
use crate::link::Trouble;
use crate::power_cut::{Crash, How};
use crate::rng::Rng;
use crate::timeline::Micros;
use crate::world::spawn;

/// Something to be put right at a time.
#[derive(Clone, Debug)]
pub(super) enum Heal {
    /// A node's disks have space again.
    Space(usize),
    /// A node's disks are as quick as ever.
    Speed(usize),
    /// A node's clock runs at the world's rate.
    Clock(usize),
    /// A node's process goes on.
    Resume(usize),
    /// A node's process dies of what it was sent.
    Kill(usize),
    /// Clients reach a node again.
    Reach(usize),
    /// The bucket is well.
    Bucket,
    /// The register is what it was.
    Register(Bytes),
    /// An operator puts the new store in the place of the lost one.
    Replace { node: usize, lost: StoreId },
    /// A node has empty disks instead of a copy of its peer's.
    Uncopy { node: usize, lost: StoreId },
    /// A node has its directory as it was.
    Restore { node: usize, snapshot: Box<Snapshot> },
    /// A node gets another disk instead of a damaged one.
    Scrap(usize),
}

impl World {
    pub(super) async fn inject(&mut self, fault: &Fault) {
        let now = self.timeline.now();
        let words = [6, fault.kind as u64, now, u64::from(fault.node)];
        self.trace.note(&words, format_args!("{now} fault {fault:?}"));
        self.faults_injected += 1;
        if self.overseer.is_behind() {
            // Its leader is all that stands between it and what it has forgotten.
            return self.reached.note("fault spared a restored store");
        }
        let node = match fault.node {
            LEADER => self.leader().unwrap_or(0),
            FOLLOWER => 1 - self.leader().unwrap_or(0),
            node => usize::from(node) % self.sites.len(),
        };
        let reached = match fault.kind {
            Kind::Crash => self.power_cut(node, How::Any),
            Kind::CrashDropAll => self.power_cut(node, How::Drop),
            Kind::CrashKeepAll => self.power_cut(node, How::Keep),
            Kind::CrashTearAll => self.power_cut(node, How::Tear),
            Kind::CrashDropOne => self.power_cut(node, How::DropOne),
            Kind::CrashTearOne => self.power_cut(node, How::TearOne),
            Kind::CrashBoth => self.power_cut(0, How::Any) && self.power_cut(1, How::Any),
            Kind::CrashAtOperation => {
                let power = &self.sites[node].machine.power;
                power.trip_at(power.operations() + fault.amount);
                true
            }
            Kind::CrashWhileStarting | Kind::CrashThrice => self.restart_storm(node, fault),
            Kind::StayDown => {
                self.down(node, &mut Crash::any(), now + fault.lasts);
                true
            }
            Kind::Kill => {
                let mut crash = Crash::of(How::Keep);
                crash.pause_max = 2_000;
                self.crash(node, &mut crash);
                true
            }
            Kind::OutOfMemory => {
                let bursts = self.burst(fault.amount);
                self.heal_at(now + 1_000, Heal::Kill(node));
                bursts
            }
            Kind::CleanStop => {
                let is_up = self.sites[node].is_up();
                self.sites[node].stop();
                is_up
            }
            Kind::Pause => self.pause(node, fault),
            Kind::HandOver => self.order_hand_over(),
            Kind::Compact => self.order_compaction(node, fault),
            Kind::Wipe => self.wipe(node, fault),
            Kind::Clone => self.clone_leader(node, fault),
            Kind::Restore => self.take_snapshot(node, fault),
            Kind::LoseWrite | Kind::MisdirectWrite => self.spoil_write(node, fault),
            Kind::FailPromise => {
                self.sites[node].safe.fail_next(true);
                true
            }
            kind if Kind::LINK.contains(&kind) => self.trouble_link(node, fault),
            kind if Kind::BUCKET.contains(&kind) => self.trouble_bucket(node, fault),
            kind if Kind::DISK.contains(&kind) => self.ail(node, fault),
            _ => self.trouble_clients_or_clock(node, fault),
        };
        if reached {
            self.reached.note(format!("fault {:?}", fault.kind));
        }
    }

    fn power_cut(&mut self, node: usize, how: How) -> bool {
        self.crash(node, &mut Crash::of(how));
        true
    }

    /// Power goes, and again with an operation of the recovery.
    fn restart_storm(&mut self, node: usize, fault: &Fault) -> bool {
        self.crash(node, &mut Crash::any());
        self.sites[node].trips = match fault.kind {
            Kind::CrashThrice => vec![fault.amount, fault.amount + 1, fault.amount + 2],
            _ => vec![fault.amount],
        };
        true
    }

    /// The process is not polled for a while.
    fn pause(&mut self, node: usize, fault: &Fault) -> bool {
        let site = &mut self.sites[node];
        if !site.is_up() || site.machine.gate.is_closed() {
            return false;
        }
        site.machine.gate.close();
        site.wire.hold();
        site.machine.clock.stand_still(true);
        self.heal_at(self.timeline.now() + fault.lasts, Heal::Resume(node));
        true
    }

    /// Tells the leader to hand over; what comes of it is its business.
    pub(super) fn order_hand_over(&mut self) -> bool {
        let leader = self.leader().and_then(|leader| self.sites[leader].node());
        let Some(cluster) = leader.and_then(|node| node.cluster().cloned()) else { return false };
        let reached = self.reached.clone();
        spawn(async move {
            let outcome = cluster.command(Command::HandOver).await;
            reached.note(match outcome {
                Ok(()) => "hand-over done".into(),
                Err(refused) => format!("hand-over refused: {refused}"),
            });
        });
        true
    }

    fn trouble_link(&mut self, node: usize, fault: &Fault) -> bool {
        let (lasts, amount) = (fault.lasts, fault.amount);
        self.grounds.network.trouble(match fault.kind {
            Kind::LinkCut => Trouble::Cut { to: end_of(node), lasts },
            Kind::LinkFlap => Trouble::Flap { period: amount, lasts },
            Kind::LinkSlow => Trouble::Slow { extra: amount, lasts },
            Kind::LinkUneven => Trouble::Uneven { lasts },
            Kind::LinkNarrow => Trouble::Narrow { bytes_per_ms: amount.max(1), lasts },
            Kind::LinkReset => Trouble::Reset,
            Kind::LinkDuplicate => Trouble::Duplicate,
            _ => Trouble::Partition { lasts },
        })
    }

    fn trouble_bucket(&mut self, node: usize, fault: &Fault) -> bool {
        let (cloud, node) = (self.grounds.cloud.clone(), node as u16);
        let until = self.timeline.now() + fault.lasts;
        let once = |ailment| cloud.ail(|ailments| ailments.pending.push(ailment));
        match fault.kind {
            Kind::BucketRefuses => cloud.ail(|a| a.outage = Some(Outage::Refuses)),
            Kind::BucketSilent => cloud.ail(|a| a.outage = Some(Outage::Silent)),
            Kind::BucketUnavailable => cloud.ail(|a| a.outage = Some(Outage::Unavailable)),
            Kind::BucketSlow => cloud.ail(|a| a.slowness = fault.amount.max(1)),
            Kind::BucketCutTo => cloud.ail(|a| a.cut_to.extend([node])),
            Kind::BucketCutFrom => cloud.ail(|a| a.cut_from.extend([node])),
            Kind::BucketDenied => cloud.ail(|a| a.denied.extend([node])),
            Kind::BucketFlaky => cloud.ail(|a| {
                a.per_mille =
                    BucketAilment::ALL.into_iter().map(|one| (one, fault.amount)).collect();
            }),
            Kind::BucketConflict => once(BucketAilment::Conflict),
            Kind::BucketRefusedAfterSuccess => once(BucketAilment::RefusedAfterSuccess),
            Kind::BucketError => once(BucketAilment::Error),
            Kind::BucketErrorAfterSuccess => once(BucketAilment::ErrorAfterSuccess),
            Kind::BucketAppliedLater => once(BucketAilment::AppliedLater),
            Kind::BucketLostReply => once(BucketAilment::LostReply),
            Kind::BucketLostRequest => once(BucketAilment::LostRequest),
            Kind::BucketThrottled => once(BucketAilment::Throttled),
            _ => return self.meddle_with_register(fault),
        }
        if fault.lasts > 0 {
            self.heal_at(until, Heal::Bucket);
        }
        true
    }

    /// The register is deleted, or an older version restored; later the newest one is put back.
    fn meddle_with_register(&mut self, fault: &Fault) -> bool {
        let cloud = &self.grounds.cloud;
        let pending = self.heals.values().any(|heal| matches!(heal, Heal::Register(_)));
        let Some(body) = cloud.body(CONFIG_KEY).filter(|_| !pending) else { return false };
        let changed = match fault.kind {
            Kind::ConfigDeleted => cloud.lose(CONFIG_KEY),
            _ if !self.would_notice(fault.amount as usize) => return false,
            _ => cloud.restore(CONFIG_KEY, fault.amount as usize),
        };
        if changed {
            self.heal_at(self.timeline.now() + fault.lasts, Heal::Register(body));
        }
        changed
    }

    /// Whether both nodes can know that the register before the last `back` ones is an old one: all
    /// that a process knows of those before it is the highest epoch. (An operator who restores one
    /// of the same epoch, or one that a node was not there to see, is on his own.)
    fn would_notice(&self, back: usize) -> bool {
        let older = self.grounds.cloud.image().older(CONFIG_KEY, back).cloned();
        let older = older.and_then(|body| Config::decode(&body, &Seal::new(None)).ok());
        let seen = self.sites.iter().map(|site| site.safe.epochs().1).min();
        older.is_some_and(|older| Some(older.epoch) < seen)
    }

    /// What is wrong with one node's disks.
    fn ail(&mut self, node: usize, fault: &Fault) -> bool {
        let medias = &self.sites[node].machine.medias;
        let media = medias[usize::from(fault.shard) % medias.len()].clone();
        let until = self.timeline.now() + fault.lasts;
        media.ail(|ailments| match fault.kind {
            Kind::FailWrite => ailments.pending.push(Ailment::FailWrite),
            Kind::FailRead => ailments.pending.push(Ailment::FailRead),
            Kind::FailCreate => ailments.pending.push(Ailment::FailCreate),
            Kind::FailPut => ailments.pending.push(Ailment::FailPut),
            Kind::FailRemove => ailments.pending.push(Ailment::FailRemove),
            Kind::DiskFull => ailments.full = true,
            Kind::DiskSlow => ailments.slowness = fault.amount.max(1),
            Kind::DiskStall => ailments.stalled_until = until,
            _ => ailments.latency = Latency { from: 10, to: 20_000, outliers_per_mille: 50 },
        });
        match fault.kind {
            Kind::DiskFull => {
                self.excuses.overload = true;
                self.heal_at(until, Heal::Space(node));
            }
            Kind::DiskSlow | Kind::DiskUneven => self.heal_at(until, Heal::Speed(node)),
            _ => {}
        }
        true
    }

    fn trouble_clients_or_clock(&mut self, node: usize, fault: &Fault) -> bool {
        let until = self.timeline.now() + fault.lasts;
        let (wire, clock) =
            (self.sites[node].wire.clone(), Arc::clone(&self.sites[node].machine.clock));
        match fault.kind {
            Kind::CutAll => wire.cut_all(),
            Kind::CutOne => return wire.cut_one(fault.amount),
            Kind::SlowAnswers => wire.weather(|w| w.slow_answers = (fault.amount, until)),
            Kind::SlowRequests => wire.weather(|w| w.slow_requests = (fault.amount, until)),
            Kind::Isolate => {
                wire.weather(|w| w.unreachable = true);
                wire.cut_all();
                self.heal_at(until, Heal::Reach(node));
            }
            Kind::Burst => return self.burst(fault.amount),
            Kind::Purge => return self.purge(fault.amount),
            Kind::ClockAhead => clock.jump(fault.amount as i64),
            Kind::ClockBack => clock.jump(-(fault.amount as i64)),
            Kind::ClockFast => clock.run_at(1000 + fault.amount),
            Kind::ClockSlow => clock.run_at(1000 - fault.amount.min(1000)),
            Kind::ClockFrozen => {
                clock.run_at(0);
                self.excuses.clock = true;
            }
            _ => return false,
        }
        if matches!(fault.kind, Kind::ClockFast | Kind::ClockSlow | Kind::ClockFrozen) {
            self.heal_at(until, Heal::Clock(node));
        }
        true
    }

    fn burst(&mut self, count: u64) -> bool {
        self.excuses.overload |= self.scenario.shape.admission_bytes < 4 << 20;
        for index in 0..self.scenario.workload.clients {
            let rng = Rng::new(self.rng.number());
            let client = Client::new(2_000 + index, self.surroundings(0), rng);
            self.bursts.push(spawn(client.burst(count)));
        }
        true
    }

    fn purge(&mut self, count: u64) -> bool {
        self.excuses.overload |= self.scenario.shape.admission_bytes < 4 << 20;
        let rng = Rng::new(self.rng.number());
        let client = Client::new(PURGER, self.surroundings(0), rng);
        self.bursts.push(spawn(client.purge(count)));
        true
    }

    pub(super) fn heal_at(&mut self, at: Micros, heal: Heal) {
        self.heals.insert((at, self.faults_injected), heal);
    }

    /// Puts right what is due.
    pub(super) fn heal_due(&mut self) {
        let now = self.timeline.now();
        while let Some(entry) = self.heals.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let heal = entry.remove();
            self.heal(heal);
        }
    }

    /// Puts everything right.
    pub(super) fn heal_all(&mut self) {
        // A snapshot is not what anybody needs now.
        self.heals.retain(|_, heal| !matches!(heal, Heal::Restore { .. }));
        for heal in std::mem::take(&mut self.heals).into_values() {
            self.heal(heal);
        }
        self.grounds.network.heal();
        self.grounds.cloud.ail(|ailments| ailments.heal());
        let now = self.timeline.now();
        for site in &mut self.sites {
            site.wire.weather(|weather| *weather = Default::default());
            site.machine.clock.run_at(1000);
            site.safe.fail_next(false);
            site.trips.clear();
            if !site.machine.power.is_off() {
                site.machine.power.trip_at(0);
            }
            for media in &site.machine.medias {
                media.ail(|ailments| {
                    ailments.pending.clear();
                    ailments.full = false;
                    ailments.slowness = 1;
                    ailments.stalled_until = 0;
                    ailments.latency = Latency::default();
                });
            }
            if let Stage::Down { until } = &mut site.stage
                && site.scars.is_empty()
            {
                *until = now.min(*until);
            }
        }
    }

    fn heal(&mut self, heal: Heal) {
        let now = self.timeline.now();
        self.trace.note(&[8, now], format_args!("{now} healed {heal:?}"));
        match heal {
            Heal::Space(node) => self.each_disk(node, |ailments| ailments.full = false),
            Heal::Speed(node) => self.each_disk(node, |ailments| {
                ailments.slowness = 1;
                ailments.latency = Latency::default();
            }),
            Heal::Clock(node) => self.sites[node].machine.clock.run_at(1000),
            Heal::Resume(node) => {
                let site = &self.sites[node];
                site.machine.clock.stand_still(false);
                site.machine.gate.open();
                site.wire.release();
            }
            Heal::Kill(node) => {
                let mut crash = Crash::of(How::Keep);
                crash.pause_max = 2_000;
                self.crash(node, &mut crash);
            }
            Heal::Reach(node) => self.sites[node].wire.weather(|w| w.unreachable = false),
            Heal::Bucket => self.grounds.cloud.ail(|ailments| ailments.heal()),
            Heal::Register(body) => self.grounds.cloud.put_back(CONFIG_KEY, body),
            Heal::Replace { node, lost } => self.order_replacement(node, lost),
            Heal::Uncopy { node, lost } => self.uncopy(node, lost),
            Heal::Restore { node, snapshot } => self.restore(node, *snapshot),
            Heal::Scrap(node) => self.scrap(node),
        }
    }

    fn each_disk(&self, node: usize, change: impl Fn(&mut crate::disk::Ailments)) {
        self.sites[node].machine.medias.iter().for_each(|media| media.ail(&change));
    }
}
