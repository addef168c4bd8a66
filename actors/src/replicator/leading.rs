//! The leader's side: what the shards seal goes to the follower and into the bucket log, and what
//! is needed of both comes back as what each shard may commit (R1).
//!
//! ```text
//!   Placing ── Lead ──▶ Activating ── every shard leads ──▶ Led
//!   sends, uploads;     Survey … Lead; then Held            Held; further epochs: Renew
//!   nothing is Held
//! ```
//! A leadership is one log: a further epoch of it keeps what was held, and asks the follower for
//! its promise anew.

use std::collections::BTreeMap;

use celeriant_schema::peer::{Durable, FramePlace, Message, Position, Tip};
use celeriant_schema::{Epoch, Lsn, ShardId, StoreId};

use super::activation::{Activation, Orders};
use super::bucket::LogOrder;
use super::core::{Effect, Identity, Rule, Settings};
use super::orders::{Order, Report};
use super::rounds::Rounds;
use super::stream::{READ_BYTES, Stream};
use super::watch::{Look, Watch};
use crate::bucket_log::gc::Facts;
use crate::clock::Micros;
use crate::election::register::Link;
use crate::election::vocabulary::{Event as Fact, Place};

/// An epoch, and the bucket log that it writes.
#[derive(Clone, Debug)]
pub(super) struct Term {
    pub(super) epoch: Epoch,
    /// Version of the register.
    pub(super) ver: u64,
    pub(super) link: Option<Link>,
}

#[derive(Debug)]
pub(super) struct Leading {
    term: Term,
    rule: Rule,
    stage: Stage,
    streams: BTreeMap<ShardId, Stream>,
    /// What the term's bucket log holds; nothing where there is none.
    bucket: BTreeMap<ShardId, Position>,
    /// What shards were told last.
    told: BTreeMap<ShardId, Lsn>,
    /// Whose disk the streams speak of: of this session, or of the last one.
    holder: Option<StoreId>,
    is_up: bool,
    /// The promise of this epoch was asked for in this session, and given.
    asked: bool,
    promised: bool,
    /// Reads under way, and whose they are.
    reads: Vec<(ShardId, Lsn, Reader)>,
    /// Which stream reads next, so that none waits for ever.
    turn: usize,
    watch: Watch,
    /// Ends of what was sealed when the term began.
    begins: BTreeMap<ShardId, Lsn>,
    /// The rounds of earlier epochs are not needed any more, and it was told.
    is_cleaned: bool,
}

#[derive(Debug)]
enum Stage {
    /// Places that were told.
    Placing(Vec<Place>),
    Activating(Activation),
    Led,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reader {
    Follower,
    Bucket,
}

impl Leading {
    /// Ends of all shards' logs, durable.
    pub(super) fn new(
        term: Term,
        tips: Vec<Tip>,
        peer: Option<StoreId>,
        effects: &mut Vec<Effect>,
    ) -> Self {
        let begins = tips.iter().map(|tip| (tip.shard, tip.durable.lsn)).collect();
        let stream = |tip: Tip| (tip.shard, Stream::new(tip.shard, term.epoch, tip.durable));
        let mut leading = Self {
            streams: tips.into_iter().map(stream).collect(),
            term,
            rule: Rule::default(),
            stage: Stage::Placing(Vec::new()),
            bucket: BTreeMap::new(),
            told: BTreeMap::new(),
            holder: None,
            is_up: false,
            asked: false,
            promised: false,
            reads: Vec::new(),
            turn: 0,
            watch: Watch::default(),
            begins,
            is_cleaned: false,
        };
        leading.upload(effects);
        if let Some(store) = peer {
            leading.up(store, effects);
        }
        leading
    }

    // ---- sessions and epochs -----------------------------------------------------------------

    /// A session. What another store held says nothing about this one.
    pub(super) fn up(&mut self, store: StoreId, effects: &mut Vec<Effect>) {
        if self.holder != Some(store) {
            self.holder = Some(store);
            self.streams.values_mut().for_each(Stream::forget);
            self.tell_all_held(effects);
        }
        self.is_up = true;
        self.ask(effects);
    }

    pub(super) fn down(&mut self, in_order: bool, effects: &mut Vec<Effect>) {
        self.streams.values_mut().for_each(Stream::reset);
        (self.is_up, self.asked, self.promised) = (false, false, false);
        // A pair's follower may be back at once, unless it has said goodbye; elsewhere it has to
        // catch up anew before anything waits for it. No proof of anything: the register decides.
        let has_to_catch_up = self.watch.is_caught_up() && self.rule.bucket;
        if in_order || has_to_catch_up {
            self.tell_silent(effects);
        }
        self.watch.restart();
    }

    /// Asks for the promise; whoever gives it says where its logs end.
    fn ask(&mut self, effects: &mut Vec<Effect>) {
        (self.asked, self.promised) = (true, false);
        let Term { epoch, ver, .. } = self.term;
        effects.push(Effect::Send(Message::Promise { epoch, ver }));
    }

    /// The register says that the term is led, or that the leadership goes on in this one.
    pub(super) fn renew(&mut self, term: Term, effects: &mut Vec<Effect>) {
        let further = term.epoch != self.term.epoch;
        let other_log = term.link != self.term.link;
        self.term = term;
        if other_log {
            self.upload(effects);
        }
        if further {
            let epoch = self.term.epoch;
            self.streams.values_mut().for_each(|stream| stream.renew(epoch));
            let end = |(shard, stream): (&ShardId, &Stream)| (*shard, stream.sealed_end().lsn);
            self.begins = self.streams.iter().map(end).collect();
            self.is_cleaned = false;
            self.watch.restart();
            if self.is_up {
                self.ask(effects);
            }
        }
        self.tell_all_held(effects);
    }

    /// Begins the term's bucket log, or ends the last one.
    fn upload(&mut self, effects: &mut Vec<Effect>) {
        self.bucket.clear();
        self.reads.retain(|(.., reader)| *reader == Reader::Follower);
        let Some(link) = self.term.link.clone() else {
            return effects.push(Effect::Log(LogOrder::Stop));
        };
        assert_eq!(link.base.len(), self.streams.len(), "a base for every shard");
        self.bucket = self.streams.keys().copied().zip(link.base.iter().copied()).collect();
        let sealed = self.streams.values().map(Stream::sealed_end).collect();
        effects.push(Effect::Log(LogOrder::Upload { link, sealed }));
    }

    /// The register says that this node leads.
    pub(super) fn activate(&mut self, me: Identity, effects: &mut Vec<Effect>) {
        let epoch = self.term.epoch;
        let goes_on = match &self.stage {
            Stage::Placing(_) => false,
            Stage::Activating(activation) => activation.has_ordered(),
            Stage::Led => true,
        };
        if goes_on {
            let renew = |shard: &ShardId| Effect::Shard(*shard, Order::Renew { epoch });
            return effects.extend(self.streams.keys().map(renew));
        }
        let mut orders = Orders::new();
        self.stage = Stage::Activating(Activation::new(epoch, me.boot, me.shards, &mut orders));
        effects.extend(orders.into_iter().map(|(shard, order)| Effect::Shard(shard, order)));
    }

    fn activation(&mut self, shard: ShardId, report: &Report, effects: &mut Vec<Effect>) {
        let Stage::Activating(activation) = &mut self.stage else { return };
        let (mut orders, had_ordered) = (Orders::new(), activation.has_ordered());
        let result = activation.report(shard, report, &mut orders);
        let begins = activation.has_ordered() && !had_ordered;
        effects.extend(orders.into_iter().map(|(shard, order)| Effect::Shard(shard, order)));
        if begins {
            self.told.clear();
            self.tell_all_held(effects);
        }
        match result {
            None => {}
            Some(Ok(done)) => {
                self.stage = Stage::Led;
                effects.push(Effect::Activated(done));
            }
            Some(Err(contradiction)) => {
                let why = contradiction.to_string();
                effects.push(Effect::Alarm(why.clone()));
                effects.push(Effect::Election(Fact::LogUnhealthy { why }));
            }
        }
    }

    // ---- what each place holds ---------------------------------------------------------------

    /// From here on a shard commits by this rule. What it was told by another counts no more.
    pub(super) fn set_rule(&mut self, rule: Rule, effects: &mut Vec<Effect>) {
        self.rule = rule;
        self.told.clear();
        self.tell_all_held(effects);
    }

    /// What all places of the rule hold.
    fn held(&self, shard: ShardId, stream: &Stream) -> Lsn {
        let follower = self
            .rule
            .follower
            .map(|store| if self.holder == Some(store) { stream.held().lsn } else { Lsn::ZERO });
        let bucket = self
            .rule
            .bucket
            .then(|| self.bucket.get(&shard).map_or(Lsn::ZERO, |position| position.lsn));
        follower.into_iter().chain(bucket).min().unwrap_or(Lsn::ZERO)
    }

    /// Tells a shard, if it is another place than it was told last. A shard that doesn't lead yet
    /// is told when it does.
    fn tell_held(&mut self, shard: ShardId, effects: &mut Vec<Effect>) {
        let leads = match &self.stage {
            Stage::Placing(_) => false,
            Stage::Activating(activation) => activation.has_ordered(),
            Stage::Led => true,
        };
        let Some(stream) = self.streams.get(&shard).filter(|_| leads) else { return };
        let held = self.held(shard, stream);
        if self.told.insert(shard, held) != Some(held) {
            effects.push(Effect::Shard(shard, Order::Held(held)));
        }
    }

    fn tell_all_held(&mut self, effects: &mut Vec<Effect>) {
        let shards: Vec<_> = self.streams.keys().copied().collect();
        shards.into_iter().for_each(|shard| self.tell_held(shard, effects));
    }

    /// The bucket log holds more.
    pub(super) fn in_bucket(
        &mut self,
        shard: ShardId,
        position: Position,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(known) = self.bucket.get_mut(&shard) {
            assert!(position.lsn >= known.lsn, "shard {shard}: {known:?}, then {position:?}");
            *known = position;
            self.tell_held(shard, effects);
        }
    }

    /// Somebody takes over.
    pub(super) fn fenced(&mut self, effects: &mut Vec<Effect>) {
        let epoch = self.term.epoch;
        effects.push(Effect::Election(match self.stage {
            Stage::Placing(_) => Fact::PlaceFailed { epoch, why: "its log is fenced".into() },
            _ => Fact::Fenced { epoch },
        }));
    }

    fn is_in_bucket(&self) -> bool {
        let mut streams = self.streams.iter();
        self.term.link.is_some()
            && streams.all(|(shard, stream)| self.bucket.get(shard) == Some(&stream.sealed_end()))
    }

    fn is_at_follower(&self) -> bool {
        self.is_up && self.streams.values().all(Stream::is_complete)
    }

    /// Says each place once that has the whole log.
    fn see_placed(&mut self, effects: &mut Vec<Effect>) {
        let Stage::Placing(_) = &self.stage else { return };
        let peer = self.holder.filter(|_| self.is_at_follower()).map(Place::Peer);
        let bucket = self.is_in_bucket().then_some(Place::Bucket);
        let Stage::Placing(told) = &mut self.stage else { return };
        for place in peer.into_iter().chain(bucket) {
            if !told.contains(&place) {
                told.push(place);
                let epoch = self.term.epoch;
                effects.push(Effect::Election(Fact::Placed { epoch, place }));
            }
        }
    }

    /// A leader that is quiet, and whose follower holds exactly that.
    pub(super) fn see_quiesced(&self, rounds: &mut Rounds, effects: &mut Vec<Effect>) {
        let Some(store) = self.holder else { return };
        let is_held = |tip: &Tip| {
            self.streams
                .get(&tip.shard)
                .is_some_and(|stream| stream.is_complete() && stream.held() == tip.durable)
        };
        if let Some((epoch, tips)) = rounds.take_quiet(is_held) {
            effects.push(Effect::Election(Fact::TipHeldByPeer { epoch, store, tips }));
        }
    }

    // ---- what arrives ------------------------------------------------------------------------

    pub(super) fn receive(
        &mut self,
        message: Message,
        requests: &mut u64,
        effects: &mut Vec<Effect>,
    ) {
        self.watch.heard();
        match message {
            Message::Promised { epoch, tips } => {
                if epoch == self.term.epoch {
                    self.promised = true;
                    self.watch.answered();
                    self.compare(&tips, requests, effects);
                }
                effects.push(Effect::Election(Fact::Message(Message::Promised { epoch, tips })));
            }
            Message::Ack { epoch, durable } if epoch == self.term.epoch => {
                self.watch.answered();
                self.acknowledged(&durable, effects);
            }
            Message::Located { request, shard, frame } => {
                self.watch.answered();
                if let Some(stream) = self.streams.get_mut(&shard) {
                    stream.located(request, frame, effects);
                }
            }
            Message::CutDone { request, tip } => {
                self.watch.answered();
                if let Some(stream) = self.streams.get_mut(&tip.shard) {
                    let lost = stream.cut_done(request, &tip);
                    self.watch.holds_more();
                    self.tell_held(tip.shard, effects);
                    if let Some(lost) = lost {
                        self.tell_lost(&tip, lost, effects);
                    }
                }
            }
            Message::Append { epoch, .. } | Message::Cut { epoch, .. }
                if epoch < self.term.epoch =>
            {
                let Term { epoch, ver, .. } = self.term;
                effects.push(Effect::Send(Message::Deposed { epoch, ver }));
            }
            // Of another term of this session; a promise settles who leads.
            Message::Append { .. } | Message::Cut { .. } | Message::Ack { .. } => {}
            Message::Quarantined { shard, reason } => {
                effects.push(Effect::Alarm(format!("the follower's shard {shard}: {reason}")));
                self.tell_silent(effects);
            }
            message => effects.push(Effect::Election(Fact::Message(message))),
        }
    }

    fn compare(&mut self, tips: &[Tip], requests: &mut u64, effects: &mut Vec<Effect>) {
        for tip in tips {
            let Some(stream) = self.streams.get_mut(&tip.shard) else { continue };
            *requests += 1;
            if let Some(lost) = stream.compare(tip, *requests, effects) {
                self.tell_held(tip.shard, effects);
                self.tell_lost(tip, lost, effects);
            }
        }
    }

    /// Until it holds everything again it is no place, and must not claim as if it were: nothing is
    /// told of what it holds meanwhile ([`Stream::is_short`]).
    fn tell_lost(&self, tip: &Tip, lost: Position, effects: &mut Vec<Effect>) {
        effects.push(Effect::Alarm(format!(
            "the follower's shard {}: it has lost what it had acknowledged, {} to {}",
            tip.shard, tip.durable.lsn, lost.lsn
        )));
        self.tell_silent(effects);
    }

    fn tell_silent(&self, effects: &mut Vec<Effect>) {
        let silent = |store| Effect::Election(Fact::FollowerSilent { store });
        effects.extend(self.holder.map(silent));
    }

    fn acknowledged(&mut self, durable: &[Durable], effects: &mut Vec<Effect>) {
        for Durable { shard, position } in durable {
            let Some(stream) = self.streams.get_mut(shard) else { continue };
            if stream.acknowledged(*position) {
                self.watch.holds_more();
                self.tell_held(*shard, effects);
            }
        }
    }

    pub(super) fn report(
        &mut self,
        shard: ShardId,
        report: Report,
        window_bytes: usize,
        effects: &mut Vec<Effect>,
    ) {
        let has_room = self.in_flight_bytes() < window_bytes;
        let uploads = self.term.link.is_some();
        let Some(stream) = self.streams.get_mut(&shard) else { return };
        match report {
            Report::Sealed(frames) => {
                if uploads {
                    effects.push(Effect::Log(LogOrder::Sealed(shard, frames.clone())));
                }
                stream.sealed(frames, has_room, effects);
            }
            Report::Committed { commit, closed } => stream.committed(commit, closed),
            Report::Read(frames) => {
                let of = |read: &(ShardId, Lsn, _)| (read.0, read.1) == (shard, frames.before.lsn);
                let Some(at) = self.reads.iter().position(of) else { return };
                match self.reads.remove(at).2 {
                    Reader::Follower => stream.read(frames, effects),
                    Reader::Bucket => effects.push(Effect::Log(LogOrder::Read(shard, frames))),
                }
            }
            Report::Surveyed { .. } | Report::Traced { .. } | Report::Leading { .. } => {
                self.activation(shard, &report, effects);
            }
            // Of a role that it had before.
            _ => {}
        }
    }

    pub(super) fn found(
        &mut self,
        shard: ShardId,
        request: u64,
        frame: Option<FramePlace>,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(stream) = self.streams.get_mut(&shard) {
            stream.found(request, frame, effects);
        }
    }

    /// The bucket log is behind what is sealed.
    pub(super) fn read_for_log(
        &mut self,
        shard: ShardId,
        after: Lsn,
        bytes_max: u32,
        effects: &mut Vec<Effect>,
    ) {
        if self.term.link.is_some() {
            self.reads.push((shard, after, Reader::Bucket));
            effects.push(Effect::Shard(shard, Order::Read { after, bytes_max }));
        }
    }

    // ---- what leaves -------------------------------------------------------------------------

    /// What the election says to the peer, as it is sent: a heartbeat says what is committed, and
    /// one promise a session and epoch is enough. `None` = it has been asked already.
    pub(super) fn completed(&mut self, message: Message) -> Option<Message> {
        match message {
            Message::Promise { epoch, .. } if epoch == self.term.epoch => {
                let again = std::mem::replace(&mut self.asked, true);
                (!again).then_some(message)
            }
            Message::Heartbeat { number, epoch, ver, .. } if epoch == self.term.epoch => {
                let shards = self.streams.values_mut().filter_map(Stream::take_news).collect();
                Some(Message::Heartbeat { number, epoch, ver, shards })
            }
            message => Some(message),
        }
    }

    /// Ends of what is sealed.
    pub(super) fn tips(&self) -> Vec<Tip> {
        self.streams.values().map(|stream| stream.tip(self.term.epoch)).collect()
    }

    pub(super) fn in_flight_bytes(&self) -> usize {
        self.streams.values().map(Stream::in_flight_bytes).sum()
    }

    pub(super) fn flush(&mut self, now: Micros, settings: &Settings, effects: &mut Vec<Effect>) {
        if self.is_up {
            self.catch_up(settings.window_bytes, effects);
        }
        self.see_placed(effects);
        self.clean_up(effects);
        if let Some(store) = self.holder.filter(|_| self.is_up) {
            let waits = self.streams.values().any(Stream::waits);
            let look = Look {
                store,
                epoch: self.term.epoch,
                owes: waits || self.asked && !self.promised,
                has_caught_up: self.streams.values().all(Stream::has_caught_up),
                is_short: self.streams.values().any(Stream::is_short),
                is_urgent: self.rule.bucket || self.rule.follower.is_none(),
            };
            let streams = &self.streams;
            let upto = || streams.values().map(|stream| stream.held().lsn).collect();
            self.watch.look(now, look, upto, settings, effects);
            self.time_follower(now, store, settings, effects);
        }
    }

    /// R14: once a term, when both disks are known to hold all that earlier epochs' logs can.
    fn clean_up(&mut self, effects: &mut Vec<Effect>) {
        let is_pair = self.term.link.is_none() && !self.rule.bucket;
        if self.is_cleaned || !is_pair || !matches!(self.stage, Stage::Led) {
            return;
        }
        let mut both = self.streams.iter().zip(self.begins.values());
        let both_hold_all = both.all(|((_, stream), begin)| stream.is_twice_upto(*begin));
        if both_hold_all && self.is_up && self.holder == self.rule.follower {
            self.is_cleaned = true;
            let acknowledged = [self.term.epoch; 2];
            let facts = Facts { is_pair, chain: Vec::new(), acknowledged, both_hold_all };
            effects.push(Effect::Log(LogOrder::CleanUp(facts)));
        }
    }

    /// Only where acknowledgements wait for nothing else.
    fn time_follower(
        &mut self,
        now: Micros,
        store: StoreId,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) {
        if self.rule.bucket || self.rule.follower.is_none() {
            return;
        }
        let streams = &self.streams;
        let held = |shard| streams.get(&shard).map_or(Lsn::ZERO, |stream| stream.held().lsn);
        let sent = || streams.iter().find_map(|(shard, stream)| Some((*shard, stream.sent()?)));
        if let Some(fastest) = self.watch.time(now, held, sent, settings) {
            effects.push(Effect::Election(Fact::FollowerPace { store, fastest }));
        }
    }

    pub(super) fn next_deadline(&self, settings: &Settings) -> Option<Micros> {
        if self.is_up { self.watch.next_deadline(settings) } else { None }
    }

    /// Lets those that are behind read, in turn, while the window has room.
    fn catch_up(&mut self, window_bytes: usize, effects: &mut Vec<Effect>) {
        let count = self.streams.len().max(1);
        for step in 0..count {
            if self.in_flight_bytes() >= window_bytes {
                return;
            }
            let at = (self.turn + step) % count;
            let Some((shard, stream)) = self.streams.iter_mut().nth(at) else { return };
            if let Some(after) = stream.catch_up() {
                self.reads.push((*shard, after, Reader::Follower));
                let order = Order::Read { after, bytes_max: READ_BYTES };
                effects.push(Effect::Shard(*shard, order));
            }
        }
        self.turn = (self.turn + 1) % count;
    }
}
