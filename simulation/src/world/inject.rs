//! Makes things go wrong, and right again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use celeriant_storage::manifest::MANIFEST_NAME;
use celeriant_storage::segment::FIRST_FRAME_OFFSET;
use celeriant_storage::watermark::WATERMARK_NAME;

use super::{World, spawn};
use crate::client::{Client, PURGER};
use crate::damage::{Scar, Witness, known, spoil};
use crate::disk::{Ailment, Ailments, Latency};
use crate::fault::{Fault, Kind};
use crate::operator::{Holds, Operator};
use crate::power_cut::{Crash, How};
use crate::rng::Rng;
use crate::timeline::Micros;

/// How long an operator waits for the end of his order, in µs.
const ORDER_MAX: Micros = 40_000_000;
/// What is damaged together with a bit of it, in bytes.
const PAGE_BYTES: usize = 4096;
/// When a place in a segment that is being packed is looked at again, in µs.
const PACKING: Micros = 1_000_000;

/// Something to be put right at a time.
#[derive(Clone, Debug)]
pub(super) enum Heal {
    /// A shard's disk has space again.
    Space(usize),
    /// A shard's disk is as quick as ever.
    Speed(usize),
    /// The node's clock runs at the world's rate.
    Clock,
    /// What was damaged is put right, unless it has been written since.
    Scar { shard: usize, scar: Scar },
}

impl World {
    pub(super) async fn inject(&mut self, fault: &Fault) {
        let now = self.timeline.now();
        self.trace.note(&[6, fault.kind as u64, now], format_args!("{now} fault {fault:?}"));
        self.faults_injected += 1;
        let reached = match fault.kind {
            Kind::Crash => self.power_cut(How::Any).await,
            Kind::CrashDropAll => self.power_cut(How::Drop).await,
            Kind::CrashKeepAll => self.power_cut(How::Keep).await,
            Kind::CrashTearAll => self.power_cut(How::Tear).await,
            Kind::CrashDropOne => self.power_cut(How::DropOne).await,
            Kind::CrashTearOne => self.power_cut(How::TearOne).await,
            Kind::CrashAtOperation => {
                let power = &self.machine.power;
                power.trip_at(power.operations() + fault.amount);
                true
            }
            Kind::CrashWhileStarting => self.crash_while_starting(fault.amount, 1).await,
            Kind::CrashThrice => self.crash_while_starting(fault.amount, 3).await,
            Kind::CleanStop => {
                self.restart_cleanly().await;
                true
            }
            Kind::Kill => self.kill().await,
            Kind::CutAll => {
                self.wire.cut_all();
                true
            }
            Kind::CutOne => self.wire.cut_one(fault.amount),
            Kind::SlowAnswers => {
                self.wire.weather(|w| w.slow_answers = (fault.amount, now + fault.lasts));
                true
            }
            Kind::SlowRequests => {
                self.wire.weather(|w| w.slow_requests = (fault.amount, now + fault.lasts));
                true
            }
            Kind::Burst => self.burst(fault.amount),
            Kind::Purge => self.purge(fault.amount),
            Kind::OutOfMemory => {
                let bursts = self.burst(fault.amount);
                self.timeline.sleep(1_000).await;
                self.kill().await;
                bursts
            }
            Kind::ClockAhead => self.jump(fault.amount as i64),
            Kind::ClockBack => self.jump(-(fault.amount as i64)),
            Kind::ClockFast => self.pace(1000 + fault.amount, fault),
            Kind::ClockSlow => self.pace(1000 - fault.amount.min(1000), fault),
            Kind::ClockFrozen => self.pace(0, fault),
            Kind::RotFrame
            | Kind::RotRun
            | Kind::RotManifest
            | Kind::RotWatermark
            | Kind::RotPacked
            | Kind::RotSegmentHeader => self.rot(fault),
            Kind::Compact => self.order_compaction(),
            Kind::LoseWrite | Kind::MisdirectWrite => self.spoil_write(fault),
            Kind::LoseRun => self.lose_file(fault, ".run").await,
            Kind::LoseManifest => self.lose_file(fault, MANIFEST_NAME).await,
            _ => self.ail(fault),
        };
        if reached {
            self.reached.note(format!("fault {:?}", fault.kind));
        }
    }

    async fn power_cut(&mut self, how: How) -> bool {
        self.crash(&mut Crash::of(how)).await;
        true
    }

    async fn crash_while_starting(&mut self, operation: u64, times: u64) -> bool {
        self.down(&mut Crash::any());
        for time in 0..times {
            let pause = self.rng.between(100, 20_000);
            self.timeline.sleep(pause).await;
            if self.try_start(operation + time).await {
                return true;
            }
        }
        self.start_node().await;
        true
    }

    /// What is wrong with one disk.
    fn ail(&mut self, fault: &Fault) -> bool {
        let shard = usize::from(fault.shard) % self.machine.medias.len();
        let until = self.timeline.now() + fault.lasts;
        let change = |ailments: &mut Ailments| match fault.kind {
            Kind::FailWrite => ailments.pending.push(Ailment::FailWrite),
            Kind::FailRead => ailments.pending.push(Ailment::FailRead),
            Kind::FailCreate => ailments.pending.push(Ailment::FailCreate),
            Kind::FailPut => ailments.pending.push(Ailment::FailPut),
            Kind::FailRemove => ailments.pending.push(Ailment::FailRemove),
            Kind::DiskFull => ailments.full = true,
            Kind::DiskSlow => ailments.slowness = fault.amount.max(1),
            Kind::DiskStall => ailments.stalled_until = until,
            _ => ailments.latency = Latency { from: 10, to: 20_000, outliers_per_mille: 50 },
        };
        self.machine.medias[shard].ail(change);
        match fault.kind {
            Kind::DiskFull => {
                self.excuses.overload = true;
                self.heal_at(until, Heal::Space(shard));
            }
            Kind::DiskSlow | Kind::DiskUneven => self.heal_at(until, Heal::Speed(shard)),
            _ => {}
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

    fn jump(&mut self, micros: i64) -> bool {
        self.machine.clock.jump(micros);
        true
    }

    fn pace(&mut self, per_mille: u64, fault: &Fault) -> bool {
        self.machine.clock.run_at(per_mille);
        self.heal_at(self.timeline.now() + fault.lasts, Heal::Clock);
        true
    }

    /// Flips a bit of something that is certainly durable and certainly known to be.
    fn rot(&mut self, fault: &Fault) -> bool {
        let shard = usize::from(fault.shard) % self.machine.medias.len();
        let Some((name, offset)) = self.rot_target(shard, fault) else { return false };
        let image = self.machine.medias[shard].image();
        let (page, within) = (offset - offset % PAGE_BYTES as u64, offset as usize % PAGE_BYTES);
        let flip = |bytes: &mut Vec<u8>| {
            if let Some(byte) = bytes.get_mut(within) {
                *byte ^= 1 << (fault.amount % 8);
            }
        };
        let scar = Scar::of(&image, &name, (page, PAGE_BYTES), flip);
        self.inflict(shard, Vec::from_iter(scar), fault.lasts)
    }

    /// A write of the log is not where it was reported to be.
    fn spoil_write(&mut self, fault: &Fault) -> bool {
        let shard = usize::from(fault.shard) % self.machine.medias.len();
        let image = self.machine.medias[shard].image();
        let scars = spoil(&image, &self.machine.identity(shard), Witness::Any, fault);
        self.inflict(shard, scars, fault.lasts)
    }

    /// Whether it came to that: one scar at a place, so that each can be put right.
    fn inflict(&mut self, shard: usize, scars: Vec<Scar>, lasts: Micros) -> bool {
        if scars.is_empty() || scars.iter().any(|scar| self.is_scarred(shard, scar)) {
            return false;
        }
        self.excuses.rot = true;
        self.damaged.store(true, Ordering::Relaxed);
        for (at, scar) in (self.timeline.now() + lasts..).zip(scars) {
            let Scar { name, offset, is, .. } = &scar;
            let text = format_args!("{} bytes damaged in {shard}/{name} at {offset}", is.len());
            self.trace.note(&[7, *offset], text);
            scar.inflict(&self.machine.medias[shard]);
            // A note is never repaired from elsewhere: a start that went by the other one would be
            // deceived.
            let at = if *name == WATERMARK_NAME { Micros::MAX / 2 } else { at };
            self.heal_at(at, Heal::Scar { shard, scar });
        }
        true
    }

    fn rot_target(&mut self, shard: usize, fault: &Fault) -> Option<(String, u64)> {
        let image = self.machine.medias[shard].image();
        let choose = |count: usize| (fault.amount / 8) as usize % count.max(1);
        match fault.kind {
            Kind::RotFrame => {
                let known = known(&image, &self.machine.identity(shard), Witness::Any);
                let frame = known.get(choose(known.len()))?;
                let within = self.rng.below(frame.header.frame_bytes() as u64);
                Some((frame.name.clone(), frame.offset + within))
            }
            Kind::RotWatermark => {
                let size = image.content(WATERMARK_NAME)?.len() as u64;
                Some((WATERMARK_NAME.into(), self.rng.below(size)))
            }
            kind => {
                let ending = match kind {
                    Kind::RotRun => ".run",
                    Kind::RotManifest => MANIFEST_NAME,
                    Kind::RotPacked => ".pack",
                    _ => ".seg",
                };
                // What is being packed counts for nothing yet.
                let counts = |name: &str| image.oldest_of(name) == name;
                let files: Vec<_> =
                    image.iter().filter(|(n, _)| n.ends_with(ending) && counts(n)).collect();
                let (name, content) = files.get(choose(files.len()))?;
                let size = match kind {
                    Kind::RotSegmentHeader => FIRST_FRAME_OFFSET,
                    _ => content.len() as u64,
                };
                Some(((*name).to_owned(), self.rng.below(size)))
            }
        }
    }

    async fn lose_file(&mut self, fault: &Fault, ending: &str) -> bool {
        let shard = usize::from(fault.shard) % self.machine.medias.len();
        self.down(&mut Crash::any());
        let media = &self.machine.medias[shard];
        let image = media.image();
        let files: Vec<&str> =
            image.iter().map(|(name, _)| name).filter(|name| name.ends_with(ending)).collect();
        let lost = files.last().is_some_and(|name| media.lose(name));
        self.start_node().await;
        lost
    }

    fn heal_at(&mut self, at: Micros, heal: Heal) {
        let mut at = (at, self.faults_injected);
        while self.heals.contains_key(&at) {
            at.0 += 1;
        }
        self.heals.insert(at, heal);
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

    /// Forgets damage that has been written over since.
    pub(super) fn forget_overwritten_scars(&mut self) {
        let images: Vec<_> = self.machine.medias.iter().map(|media| media.image()).collect();
        self.heals.retain(|_, heal| match heal {
            Heal::Scar { shard, scar } => {
                let image = &images[*shard];
                scar.is_in(image) || scar.is_being_packed(image)
            }
            _ => true,
        });
    }

    async fn kill(&mut self) -> bool {
        let mut crash = Crash::of(How::Keep);
        crash.pause_max = 2_000;
        self.crash(&mut crash).await;
        true
    }

    fn order_compaction(&mut self) -> bool {
        let order = self.compact(Holds::Acknowledged, self.timeline.now() + ORDER_MAX);
        self.bursts.push(spawn(async move {
            let _ = order.await;
        }));
        true
    }

    /// Orders the node to compact.
    pub(super) fn compact(
        &self,
        holds: Holds,
        until: Micros,
    ) -> impl Future<Output = bool> + Send + use<> {
        let operator = Operator {
            wire: self.wire.clone(),
            ledger: self.ledger.clone(),
            timeline: self.timeline.clone(),
            reached: self.reached.clone(),
            violations: self.violations.clone(),
            originals: self.watcher.originals(),
            disks: self.machine.logs(),
            damaged: Arc::clone(&self.damaged),
        };
        operator.compact(holds, until)
    }

    /// Puts everything right.
    pub(super) fn heal_all(&mut self) {
        self.forget_overwritten_scars();
        for heal in std::mem::take(&mut self.heals).into_values() {
            self.heal(heal);
        }
        self.damaged.store(false, Ordering::Relaxed);
        self.wire.weather(|weather| *weather = Default::default());
        self.machine.clock.run_at(1000);
        let power = &self.machine.power;
        if !power.is_off() {
            power.trip_at(0);
        }
        for media in &self.machine.medias {
            media.ail(|ailments| {
                ailments.pending.clear();
                ailments.full = false;
                ailments.slowness = 1;
                ailments.stalled_until = 0;
                ailments.latency = Latency::default();
            });
        }
    }

    /// Whether something is damaged.
    pub(super) fn scarred(&self) -> bool {
        self.heals.values().any(|heal| matches!(heal, Heal::Scar { .. }))
    }

    /// Whether something there is damaged already.
    fn is_scarred(&self, shard: usize, scar: &Scar) -> bool {
        let is_there = |heal: &Heal| match heal {
            Heal::Scar { shard: other, scar: known } => *other == shard && known.overlaps(scar),
            _ => false,
        };
        self.heals.values().any(is_there)
    }

    /// Puts damage right, as a peer or an operator would when `damaged` is reported. The note is
    /// put back only when it is what was reported: a start that went by the other one would be
    /// deceived.
    pub(super) fn repair_scars(&mut self, damaged: &str) {
        let about_note = damaged == WATERMARK_NAME;
        let is_due = |heal: &Heal| match heal {
            Heal::Scar { scar, .. } => (scar.name == WATERMARK_NAME) == about_note,
            _ => false,
        };
        let due = self.heals.iter().filter(|(_, heal)| is_due(heal));
        let due: Vec<_> = due.map(|(at, _)| *at).collect();
        for heal in due.iter().filter_map(|at| self.heals.remove(at)).collect::<Vec<_>>() {
            self.heal(heal);
        }
    }

    fn heal(&mut self, heal: Heal) {
        let now = self.timeline.now();
        self.trace.note(&[8, now], format_args!("{now} healed {heal:?}"));
        match heal {
            Heal::Space(shard) => self.machine.medias[shard].ail(|a| a.full = false),
            Heal::Speed(shard) => self.machine.medias[shard].ail(|a| {
                a.slowness = 1;
                a.latency = Latency::default();
            }),
            Heal::Clock => self.machine.clock.run_at(1000),
            Heal::Scar { shard, scar } => {
                let media = &self.machine.medias[shard];
                scar.mend(media);
                self.mended.insert(shard);
                if scar.is_being_packed(&media.image()) {
                    self.heal_at(now + PACKING, Heal::Scar { shard, scar });
                }
            }
        }
    }
}
