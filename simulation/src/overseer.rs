//! Sees everything that a pair does at the moment when it does it, and checks what can be checked
//! then: durable writes, promises, what the nodes say to each other, every change of the bucket,
//! every answer.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use celeriant_actors::bucket_log::slot::PREFIX;
use celeriant_actors::election::register::{CONFIG_KEY, Config, Phase, Process, Seal, Set};
use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::peer::Message;
use celeriant_schema::{
    AggregateKey, BootId, ClusterId, Epoch, Hash, Refusal, Request, Response, StoreId, Version,
};
use celeriant_storage::Identity;

use crate::bucket::Change;
use crate::disk::Files;
use crate::fault::Reached;
use crate::history::History;
use crate::invariants::i01_one_leader::Register;
use crate::invariants::i02_log_matching::Logs;
use crate::invariants::i03_promises::Promises;
use crate::invariants::i04_two_places::{Entry, Places};
use crate::invariants::i07_exposed_is_final::Exposed;
use crate::invariants::i08_one_entry_per_position::Acknowledged;
use crate::invariants::i10_guards_and_atomicity::Legs;
use crate::invariants::i12_no_cut::Held;
use crate::invariants::i15_slots::Slots;
use crate::invariants::{
    Violations, i05_leader_has_all, i07_exposed_is_final, i12_no_cut, i18_twice,
    i19_short_logs_never_claim, i22_caps,
};
use crate::ledger::{Place, receipt_of};
use crate::originals::Originals;
use crate::timeline::{Micros, Timeline};
use crate::walk::Walked;
use crate::wire::Eyes;

/// The invariants of a pair that are checked while a run goes on. Cheap to clone: all clones are
/// one.
#[derive(Clone)]
pub struct Overseer {
    state: Arc<Mutex<State>>,
    cluster: ClusterId,
    frame_bytes_max: usize,
    timeline: Timeline,
    violations: Violations,
    reached: Reached,
}

#[derive(Default)]
struct State {
    logs: Logs,
    legs: Legs,
    disks: [Held; 2],
    promises: [Promises; 2],
    register: Register,
    slots: Slots,
    exposed: Exposed,
    acknowledged: Acknowledged,
    /// Entries of which a place was lost.
    lost: BTreeSet<(AggregateKey, Version, Hash)>,
    /// A node that has lost them under its own name, until it has them again.
    behind: Option<usize>,
    receipts: Receipts,
    originals: Originals,
}

/// When new writes were acknowledged.
#[derive(Clone, Copy, Debug, Default)]
struct Receipts {
    newest: Option<Micros>,
    /// Since when pauses are measured, and the longest so far.
    since: Micros,
    longest_pause: Micros,
}

impl Receipts {
    fn note(&mut self, now: Micros) {
        let since = self.newest.unwrap_or_default().max(self.since);
        self.longest_pause = self.longest_pause.max(now.saturating_sub(since));
        self.newest = Some(now);
    }
}

impl Overseer {
    /// Of the pair with that cluster's id; no frame may have more than `frame_bytes_max`.
    pub fn new(
        cluster: ClusterId,
        frame_bytes_max: usize,
        timeline: &Timeline,
        violations: &Violations,
        reached: &Reached,
    ) -> Self {
        let (timeline, violations, reached) =
            (timeline.clone(), violations.clone(), reached.clone());
        Self { state: Arc::default(), cluster, frame_bytes_max, timeline, violations, reached }
    }

    /// Every frame as it was written.
    pub fn originals(&self) -> Originals {
        self.lock().originals.clone()
    }

    /// A process begins.
    pub fn begins(&self, node: usize, store: StoreId, boot: BootId) {
        self.lock().promises[node].begins(Process { store, boot });
    }

    /// Epochs have become durable.
    pub fn promised(&self, node: usize, promised: Epoch, _: Epoch) {
        self.lock().promises[node].promised(promised, &self.violations);
    }

    /// A process says something to its peer.
    pub fn said(&self, node: usize, message: &Message) {
        let State { promises, register, .. } = &mut *self.lock();
        promises[node].said(message, register, &self.violations);
        self.reached.note(format!("said {}", name_of(message)));
    }

    /// A process says something that no peer understands.
    pub fn stammered(&self, node: usize, error: &str) {
        self.violations.add("protocol", format_args!("node {node}: {error}"));
    }

    /// A write has become durable.
    pub fn durable(
        &self,
        node: usize,
        identity: &Identity,
        (name, offset, bytes): (&str, u64, &[u8]),
    ) {
        if !name.ends_with(".seg") || offset < SECTOR_BYTES as u64 {
            return;
        }
        let frames = Walked::parse_all(name, offset, bytes, identity);
        let state = &mut *self.lock();
        let State { logs, legs, disks, acknowledged, exposed, originals, .. } = state;
        for frame in &frames {
            legs.note(identity.shard, frame);
            i22_caps::check_frame(frame, self.frame_bytes_max, &self.violations);
            logs.note(identity.shard, frame, &self.violations);
        }
        let gone = disks[node].written(identity.shard, (name, offset, bytes.len()), &frames);
        frames.into_iter().for_each(|frame| originals.note(identity.shard, frame));
        self.reached.add("events cut from a disk", gone.len() as u64);
        i12_no_cut::check_gone(node, &gone, acknowledged, exposed, &self.violations);
        if state.behind == Some(node) && state.has_again(node) {
            self.reached.note("restored store has everything again");
            state.behind = None;
            state.lost.clear();
        }
    }

    /// The process of a node is gone: this is what it leaves.
    pub fn left<'a>(&self, node: usize, images: impl Iterator<Item = (Identity, &'a Files)>) {
        let State { disks, acknowledged, promises, originals, .. } = &mut *self.lock();
        let left = Held::of(images, originals);
        promises[node].ends();
        for (key, version, hash) in acknowledged.entries() {
            let was = disks[node].entries().has(key, version, hash);
            let is = left.entries().has(key, version, hash);
            self.violations.check("I12", is || !was, || {
                format!("node {node} lost {key} version {version} in a crash")
            });
        }
        disks[node] = left;
    }

    /// The disks of a node are empty: what was acknowledged so far is in one place less, until a
    /// copy is made.
    pub fn wiped(&self, node: usize, store: StoreId) {
        let state = &mut *self.lock();
        state.promises[node].begins(Process { store, boot: BootId::default() });
        // Also what it has acknowledged to the leader and no client knows yet.
        let lost = std::mem::take(&mut state.disks[node]);
        let lost = lost.entries().iter().map(|(key, version, hash)| (key.clone(), version, hash));
        state.lost.extend(lost);
    }

    /// The disks of a node are what they were earlier, when it had promised `promised`.
    pub fn restored<'a>(
        &self,
        node: usize,
        promised: Epoch,
        images: impl Iterator<Item = (Identity, &'a Files)>,
    ) {
        let state = &mut *self.lock();
        state.promises[node].goes_back_to(promised);
        let is = Held::of(images, &state.originals);
        let was = std::mem::replace(&mut state.disks[node], is);
        let gone = was.entries().iter().map(|(key, version, hash)| (key.clone(), version, hash));
        let is = state.disks[node].entries();
        state.lost.extend(gone.filter(|(key, version, hash)| !is.has(key, *version, *hash)));
        state.behind = (!state.lost.is_empty()).then_some(node);
    }

    /// Whether no entry is known to be in one place less.
    pub fn is_whole(&self) -> bool {
        self.lock().lost.is_empty()
    }

    /// Whether a store does not have what it has acknowledged.
    pub fn is_behind(&self) -> bool {
        self.lock().behind.is_some()
    }

    /// Something in the bucket has changed.
    pub fn changed(&self, change: &Change<'_>) {
        if change.key == CONFIG_KEY {
            return self.register_changed(change);
        }
        if !change.key.starts_with(PREFIX) {
            return;
        }
        let state = &mut *self.lock();
        let State { slots, logs, register, .. } = &mut *state;
        match change.after {
            Some(body) => {
                let body = (change.key, change.before, &Bytes::copy_from_slice(body));
                slots.written(self.cluster, body, logs, &self.violations);
            }
            None if change.node.is_some() => {
                self.reached.note("round deleted");
                slots.deleted(change.key, register.ruling(), &self.violations);
                let entries = state.acknowledged.entries();
                state.places().check_deleted(entries, change.key, &self.violations);
            }
            None => {}
        }
    }

    fn register_changed(&self, change: &Change<'_>) {
        let seal = Seal::new(None);
        let after = change.after.map(|body| Config::decode(body, &seal));
        let state = &mut *self.lock();
        let (Some(node), Some(after)) = (change.node, after.clone()) else {
            return state.register.meddled_with(after.and_then(Result::ok));
        };
        let before = state.register.ruling().cloned();
        state.register.changed(after, &self.violations);
        let Some(config) = state.register.current() else { return };
        // A claim that arrives late may be one of a disk that is gone since.
        let claimant = (state.store(node), &state.disks[usize::from(node)]);
        if config.phase == Phase::Claimed && config.leader.store == claimant.0 {
            i19_short_logs_never_claim::check(claimant, config, &self.violations);
        }
        self.reached.note(format!("register {:?} {}", config.phase, kind_of(config)));
        let stores = [state.store(0), state.store(1)];
        let rules = config.active.set == Set::pair(stores[0], stores[1]);
        if rules && state.behind.is_none() {
            // The copy is made, or else.
            state.lost.clear();
        }
        let Some(config) = state.register.current() else { return };
        if config.phase == Phase::Active {
            let (places, violations) = (state.places(), &self.violations);
            // Of a change that arrives late the process that it names may be gone, and its disk be
            // another: nobody leads by it.
            if state.promises.iter().any(|node| node.process() == config.active.leader) {
                let entries = state.acknowledged.entries();
                i05_leader_has_all::check(&places, entries, config, violations);
            }
            places.check_activation(state.acknowledged.entries(), config, violations);
            state.slots.check_chain(config, &self.violations);
            if let Some(claim) = before.filter(|before| before.phase == Phase::Claimed) {
                state.slots.check_fenced(&claim, &self.violations);
            }
        }
    }

    /// What the register says, as far as anybody wrote it.
    pub fn register(&self) -> Option<Config> {
        self.lock().register.current().cloned()
    }

    /// How many claims there were.
    pub fn claims(&self) -> u64 {
        self.lock().register.claims()
    }

    /// Clients write from here on.
    pub fn measure_pauses(&self) {
        self.lock().receipts.since = self.timeline.now();
    }

    /// The longest time so far in which no new write was acknowledged.
    pub fn longest_pause(&self) -> Micros {
        let mut receipts = self.lock().receipts;
        receipts.note(self.timeline.now());
        receipts.longest_pause
    }

    /// The end: everything that was seen is there.
    pub fn check_final(&self, history: &History) {
        i07_exposed_is_final::check_final(&self.lock().exposed, history, &self.violations);
    }

    /// The end of a run in which both nodes are well.
    pub fn check_twice(&self, histories: [&History; 2]) {
        let state = self.lock();
        i18_twice::check(histories, [&state.disks[0], &state.disks[1]], &self.violations);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Everything that it had lost.
    fn has_again(&self, node: usize) -> bool {
        let held = self.disks[node].entries();
        self.lost.iter().all(|(key, version, hash)| held.has(key, *version, *hash))
    }

    fn places(&self) -> Places<'_> {
        let disk = |node: usize| (self.store(node as u16), &self.disks[node]);
        Places { disks: [disk(0), disk(1)], slots: &self.slots, lost: &self.lost }
    }

    /// R4: nobody is shown what is not committed.
    fn check_shown(&self, entry: Entry<'_>, violations: &Violations) {
        let Some(config) = self.register.ruling() else { return };
        let places = self.places();
        places.check_shown(entry, config, violations);
        self.legs.check_shown(entry, |entry| places.is_committed(entry, config), violations);
    }

    fn store(&self, node: u16) -> StoreId {
        self.promises[usize::from(node)].process().store
    }
}

impl Eyes for Overseer {
    fn answer(&self, _: Place, request: &Request, response: &Response) {
        i22_caps::check_answer(response, &self.violations);
        let now = self.timeline.now();
        let state = &mut *self.lock();
        if let Some(receipt) = receipt_of(response) {
            if let Some(config) = state.register.ruling() {
                state.places().check_receipt(receipt, config, &self.violations);
            }
            if !receipt.already_applied {
                state.receipts.note(now);
            }
            state.acknowledged.note(receipt, &self.violations);
            state.exposed.receipt(receipt, &self.violations);
        }
        match (request, response) {
            (Request::Read(query), Response::Page(page)) => {
                let newest = page.batches.iter().flat_map(|batch| batch.events.last());
                if let Some(event) = newest.max_by_key(|event| event.version) {
                    state.check_shown((&query.key, event.version, event.hash), &self.violations);
                }
                state.exposed.page(&query.key, page, &self.violations);
            }
            (_, Response::Refused(Refusal::Conflict { conflicts, .. })) => {
                let Some(config) = state.register.ruling() else { return };
                for conflict in conflicts {
                    let version = (&conflict.key, conflict.actual);
                    state.places().check_conflict(version, config, &self.violations);
                }
            }
            (Request::Head(query), Response::Head(head)) => {
                state.check_shown((&query.key, head.version, head.hash), &self.violations);
                state.exposed.entry(&query.key, head.version, head.hash, &self.violations);
            }
            _ => {}
        }
    }

    fn stray(&self, number: u64) {
        self.violations.add("answers", format_args!("request {number} has a second answer"));
    }
}

fn kind_of(config: &Config) -> &'static str {
    match config.active.set {
        Set::Pair(..) => "pair",
        Set::Bucket(_) => "bucket",
    }
}

/// For counters.
fn name_of(message: &Message) -> &'static str {
    match message {
        Message::Promise { .. } => "promise",
        Message::Promised { .. } => "promised",
        Message::Deposed { .. } => "deposed",
        Message::Append { .. } => "append",
        Message::Ack { .. } => "ack",
        Message::Heartbeat { .. } => "heartbeat",
        Message::Alive { .. } => "alive",
        Message::LeaseGrant { .. } => "lease grant",
        Message::LeaseReturn { .. } => "lease return",
        Message::Locate { .. } => "locate",
        Message::Located { .. } => "located",
        Message::Cut { .. } => "cut",
        Message::CutDone { .. } => "cut done",
        Message::Quarantined { .. } => "quarantined",
        Message::Fetch { .. } => "fetch",
        Message::Frames { .. } => "frames",
        Message::NoFrames { .. } => "no frames",
        Message::HandOver { .. } => "hand-over",
    }
}
