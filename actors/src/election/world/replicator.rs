//! What shards and replicator do in the random world: recover, append, upload, acknowledge.

use celeriant_schema::{Epoch, Lsn, StoreId};

use super::node::{Later, common, position};
use super::{Entry, MS, Packet, What, World};
use crate::election::register::{Config, Link, Set};
use crate::election::vocabulary::*;

/// Longest log of a run: what is beyond is not written.
const ENTRIES_MAX: usize = 200;

impl World {
    pub(super) fn begin_own(&mut self, at: usize, epoch: Epoch) {
        let shell = self.nodes[at].shell();
        shell.own = Some((epoch, epoch, false));
        (shell.peer_holds, shell.link) = (None, None);
    }

    /// Seal and recover, as the model does it.
    pub(super) fn recover(&mut self, at: usize, epoch: Epoch, chain: &[Link]) {
        if self.nodes[at].shell().own.is_none_or(|(own, ..)| own != epoch) {
            return;
        }
        let Some(last) = chain.last() else {
            let commit = self.nodes[at].shell().commit;
            let base = vec![position(&self.nodes[at].disk.log, commit)];
            return self.tell(at, Event::Recovered { epoch, base });
        };
        if self.now < self.bucket.down_until || !self.nodes[at].reaches_bucket {
            let process = self.nodes[at].process();
            let again = Later::Recover(epoch, chain.to_vec());
            return self.after(100 * MS, 300 * MS, What::Own(at, process, again));
        }
        self.bucket.wal(last.epoch.value()).fenced = true;
        let base = chain[0].base[0];
        let lsn = base.lsn.value() as usize;
        let mut log = self.nodes[at].disk.log.clone();
        self.check(position(&log, lsn) == base, || "I19: without the base".into());
        log.truncate(lsn);
        for link in chain {
            let begins = link.base[0].lsn.value() as usize;
            self.check(begins <= log.len(), || "I15: a hole in the chain".into());
            log.truncate(begins);
            log.extend(self.bucket.wal(link.epoch.value()).slots.iter().copied());
        }
        let (kept, exposed) = (common(&log, &self.nodes[at].disk.log), self.nodes[at].disk.exposed);
        self.check(kept >= exposed, || format!("I12: {at} cuts to {kept}, showed {exposed}"));
        let base = vec![position(&log, log.len())];
        self.nodes[at].disk.log = log;
        self.tell(at, Event::Recovered { epoch, base });
    }

    pub(super) fn lead(&mut self, at: usize, config: &Config) {
        let process = self.nodes[at].process();
        self.note_leader(config.epoch, process);
        let shell = self.nodes[at].shell.as_mut().expect("alive");
        let (mut since, mut goes_on) = (config.epoch, false);
        match shell.own {
            Some((_, first, true)) => (since, goes_on) = (first, true),
            Some((own, ..)) if own == config.epoch => {}
            _ => shell.peer_holds = None,
        }
        shell.own = Some((config.epoch, since, true));
        let link = config.active.chain.last().cloned();
        if link != shell.link {
            shell.bucket_holds = link.as_ref().map_or(0, |l| l.base[0].lsn.value() as usize);
            shell.link = link;
        }
        if goes_on {
            return;
        }
        // R11: all of the log is committed. I5: it has everything, unless the process stood still
        // and is deposed before it begins; then nobody acknowledges to it any more.
        let log = self.nodes[at].disk.log.clone();
        let rules = self.bucket.config().is_some_and(|now| now.active.epoch == config.epoch);
        let whole = log.starts_with(&self.acked);
        self.check(whole || !rules, || format!("I5: {at} leads {} without an entry", config.epoch));
        for (lsn, entry) in log.iter().enumerate() {
            self.acknowledge(at, lsn, *entry);
        }
        self.nodes[at].shell().commit = log.len();
        self.nodes[at].disk.exposed = log.len();
    }

    /// What replicator and shards do now and then.
    pub(super) fn step(&mut self, at: usize) {
        if self.now < self.nodes[at].paused_until || self.nodes[at].shell.is_none() {
            return;
        }
        self.replace_lost_member(at);
        let Some((epoch, _, leads)) = self.nodes[at].shell().own else { return };
        let write = leads && self.nodes[at].shell().quiesced.is_none();
        if write && self.nodes[at].disk.log.len() < ENTRIES_MAX && self.chance(40) {
            self.serial += 1;
            let entry = epoch.value() << 32 | self.serial;
            self.nodes[at].disk.log.push(entry);
        }
        // Not before the log is recovered: what is sent is what the follower's log becomes.
        if leads || self.nodes[at].shell().link.is_some() {
            let (log, commit) = (self.nodes[at].disk.log.clone(), self.nodes[at].shell().commit);
            self.send(at, Packet::Append { epoch, log, commit });
        }
        self.upload(at);
        self.acknowledge_all(at);
        self.report(at);
    }

    fn upload(&mut self, at: usize) {
        let reaches = self.now >= self.bucket.down_until && self.nodes[at].reaches_bucket;
        let Some(shell) = self.nodes[at].shell.as_mut().filter(|_| reaches) else { return };
        let (Some(link), Some((own, _, leads))) = (shell.link.clone(), shell.own) else { return };
        let base = link.base[0].lsn.value() as usize;
        let wal = self.bucket.wal(link.epoch.value());
        if wal.fenced {
            let why = "fenced".into();
            let failed = if leads {
                Event::Fenced { epoch: own }
            } else {
                Event::PlaceFailed { epoch: own, why }
            };
            return self.tell(at, failed);
        }
        wal.slots = self.nodes[at].disk.log[base..].to_vec();
        self.nodes[at].shell().bucket_holds = self.nodes[at].disk.log.len();
    }

    /// R1, R2: what the rule's places hold.
    pub(super) fn acknowledge_all(&mut self, at: usize) {
        let store = self.nodes[at].store;
        let Some(shell) = &self.nodes[at].shell else { return };
        if shell.own.is_none_or(|(.., leads)| !leads) {
            return;
        }
        let place = |set: Set| match set {
            Set::Pair(..) => shell
                .peer_holds
                .filter(|(held, _)| set.other(store) == Some(*held))
                .map_or(0, |(_, upto)| upto),
            Set::Bucket(_) => shell.bucket_holds,
        };
        let limit = match shell.rule {
            AckRule::Nobody => 0,
            AckRule::Set(set) => place(set),
            AckRule::Both(one, other) => place(one).min(place(other)),
        };
        let (from, limit) = (shell.commit, limit.min(self.nodes[at].disk.log.len()));
        for lsn in from..limit {
            let entry = self.nodes[at].disk.log[lsn];
            self.acknowledge(at, lsn, entry);
            self.nodes[at].shell().commit = lsn + 1;
        }
        let commit = self.nodes[at].shell().commit;
        let exposed = &mut self.nodes[at].disk.exposed;
        *exposed = commit.max(*exposed);
    }

    /// What the core hears of it.
    fn report(&mut self, at: usize) {
        let len = self.nodes[at].disk.log.len();
        let Some(shell) = &self.nodes[at].shell else { return };
        let Some((epoch, _, leads)) = shell.own else { return };
        let (in_bucket, peer) =
            (shell.link.is_some() && shell.bucket_holds == len, shell.peer_holds);
        let (commit, quiesced) = (shell.commit, shell.quiesced);
        if !leads {
            if in_bucket {
                self.tell(at, Event::Placed { epoch, place: Place::Bucket });
            }
            if let Some((store, _)) = peer.filter(|(_, upto)| *upto == len) {
                self.tell(at, Event::Placed { epoch, place: Place::Peer(store) });
            }
            return;
        }
        let Some((store, upto)) = peer else { return };
        let alone = self.bucket.config().is_some_and(|c| !c.active.chain.is_empty());
        if alone && upto + 5 >= commit {
            self.tell(at, Event::FollowerCaughtUp { store });
        }
        if quiesced.is_some() && upto == len && commit == len {
            let tips = self.nodes[at].tips();
            self.tell(at, Event::TipHeldByPeer { epoch, store, tips });
        }
    }

    /// The operator: a member that nobody is any more is replaced by the store that is there.
    fn replace_lost_member(&mut self, at: usize) {
        let other = &self.nodes[at ^ 1];
        let Some(config) = self.bucket.config() else { return };
        let lost = config
            .members
            .iter()
            .find(|member| member.store != self.nodes[at].store && member.store != other.store);
        let leads = self.nodes[at]
            .shell
            .as_ref()
            .is_some_and(|shell| shell.own.is_some_and(|(.., leads)| leads));
        if let Some(lost) = lost.filter(|_| leads && config.members.len() == 2) {
            let command = Command::Replace { lost: lost.store, member: other.member() };
            if self.chance(10) {
                self.tell(at, Event::Command { id: 1, command });
            }
        }
    }

    pub(super) fn deliver(&mut self, to: usize, packet: Packet) {
        if self.now < self.nodes[to].paused_until {
            return;
        }
        match packet {
            Packet::Election(message) => self.tell(to, Event::Message(message)),
            Packet::Append { epoch, log, commit } => self.take_append(to, epoch, &log, commit),
            Packet::Ack { epoch, upto, store } => self.take_ack(to, epoch, upto, store),
        }
    }

    /// R6, R10: as the model's follower.
    fn take_append(&mut self, at: usize, epoch: Epoch, log: &[Entry], commit: usize) {
        let node = &mut self.nodes[at];
        let Some(shell) = node.shell.as_mut() else { return };
        if node.disk.promised != epoch || shell.own.is_some() {
            return;
        }
        let first = epoch > node.disk.reconciled;
        node.disk.reconciled = epoch;
        let same = common(&node.disk.log, log);
        let keep = if first || log.len() > same { same } else { node.disk.log.len() };
        let exposed = node.disk.exposed;
        node.disk.log.truncate(keep);
        if log.len() > keep {
            node.disk.log.extend_from_slice(&log[keep..]);
        }
        shell.commit = shell.commit.max(commit.min(log.len()));
        node.disk.exposed = node.disk.exposed.max(shell.commit);
        let store = node.store;
        self.check(keep >= exposed, || format!("I12: {at} cuts to {keep}, showed {exposed}"));
        self.send(at, Packet::Ack { epoch, upto: log.len(), store });
    }

    fn take_ack(&mut self, at: usize, epoch: Epoch, upto: usize, store: StoreId) {
        let Some(shell) = &mut self.nodes[at].shell else { return };
        let Some((own, since, _)) = shell.own else { return };
        if !(since..=own).contains(&epoch) {
            return;
        }
        let known = shell.peer_holds.filter(|(held, _)| *held == store).map_or(0, |(_, upto)| upto);
        shell.peer_holds = Some((store, upto.max(known)));
        let upto = vec![Lsn::new(upto.max(known) as u64)];
        self.tell(at, Event::FollowerHolds { store, epoch, upto });
        self.acknowledge_all(at);
    }
}
