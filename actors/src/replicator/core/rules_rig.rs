//! One shard and the core above it, for tests that go event by event.

use celeriant_schema::peer::{Durable, Position};
use celeriant_schema::{BootId, Hash, Lsn, Stamp};

use super::*;
use crate::election::register::{Active, Phase, Process, Set};
use crate::election::vocabulary::AckRule;
use crate::replicator::orders::Frames;

pub(super) const ME: StoreId = StoreId::new(1);
pub(super) const PEER: StoreId = StoreId::new(2);
pub(super) const MS: Micros = 1_000;
pub(super) const SHARD: ShardId = ShardId::new(0);

pub(super) fn epoch(number: u64) -> Epoch {
    Epoch::new(number)
}

pub(super) fn at(lsn: u64) -> Position {
    let hash = if lsn == 0 { Hash::ZERO } else { Hash([lsn as u8; 32]) };
    Position { lsn: Lsn::new(lsn), hash }
}

pub(super) fn tip(lsn: u64) -> Tip {
    Tip { shard: SHARD, epoch: epoch(1), durable: at(lsn), floor: Lsn::ZERO }
}

pub(super) fn frames(before: u64, end: u64) -> Frames {
    Frames { before: at(before), end: at(end), bytes: vec![0; 512].into() }
}

/// One shard, and what the core wants.
pub(super) struct Rig {
    pub(super) core: Core,
    pub(super) now: Micros,
    pub(super) out: Vec<Effect>,
}

impl Rig {
    pub(super) fn new() -> Self {
        let me = Identity { store: ME, boot: BootId::new(7), shards: 1 };
        let core = Core::new(me, Settings::default(), epoch(1));
        Self { core, now: 0, out: Vec::new() }
    }

    /// Leads epoch 2 alone with its log that ends at 5; nobody is there.
    pub(super) fn leading(set: Set) -> Self {
        let mut rig = Self::new();
        rig.command(Command::Promised(epoch(2)));
        rig.report(Report::Promised { epoch: epoch(2), tip: tip(5) });
        rig.lead(2, set);
        rig.activate(2);
        rig.out.clear();
        rig
    }

    pub(super) fn event(&mut self, event: Event) {
        self.core.handle(self.now, event, &mut self.out);
    }

    pub(super) fn command(&mut self, command: Command) {
        self.event(Event::Command(command));
    }

    pub(super) fn report(&mut self, report: Report) {
        self.event(Event::Shard(SHARD, report));
    }

    pub(super) fn message(&mut self, message: Message) {
        self.event(Event::Received(message));
    }

    pub(super) fn flush(&mut self) {
        self.core.flush(self.now, &mut self.out);
        // Else its shell would spin.
        assert!(self.core.next_deadline().is_none_or(|at| at > self.now), "a deadline is seen to");
    }

    pub(super) fn lead(&mut self, number: u64, set: Set) {
        let leader = Process { store: ME, boot: BootId::new(7) };
        let link = Link { epoch: epoch(number), base: vec![at(5); self.core.me.shards.into()] };
        let chain = if matches!(set, Set::Bucket(_)) { vec![link] } else { Vec::new() };
        let config = Config {
            cluster: Default::default(),
            shards: 1,
            ver: number,
            epoch: epoch(number),
            phase: Phase::Active,
            leader,
            active: Active { epoch: epoch(number), leader, set, chain },
            lease: None,
            members: Vec::new(),
            feature_level: 1,
            nonce: 0,
        };
        self.command(Command::Lead(Box::new(config)));
        self.command(Command::AckRule { number, rule: AckRule::Set(set) });
    }

    pub(super) fn activate(&mut self, number: u64) {
        let epoch = epoch(number);
        self.report(Report::Surveyed { epoch, tip: tip(5), pending: Vec::new() });
        self.report(Report::Leading { epoch });
    }

    /// The follower comes, and turns out to hold the log up to 5.
    pub(super) fn meet(&mut self, store: StoreId, number: u64) {
        self.event(Event::Up(store));
        self.reconcile(number);
    }

    pub(super) fn reconcile(&mut self, number: u64) {
        self.message(Message::Promised { epoch: epoch(number), tips: vec![tip(5)] });
        let request = self.order(|order| match order {
            Order::Find { request, .. } => Some(*request),
            _ => None,
        });
        let frame =
            Some(celeriant_schema::peer::FramePlace { epoch: epoch(1), before: at(3), end: at(5) });
        self.report(Report::Found { request: request.expect("compares"), frame });
        let request = self.sent(|message| match message {
            Message::Cut { request, .. } => Some(*request),
            _ => None,
        });
        self.message(Message::CutDone { request: request.expect("cuts"), tip: tip(5) });
        self.flush();
    }

    /// Takes the first effect that fits.
    pub(super) fn take<T>(&mut self, fits: impl Fn(&Effect) -> Option<T>) -> Option<T> {
        let at = self.out.iter().position(|effect| fits(effect).is_some())?;
        fits(&self.out.remove(at))
    }

    pub(super) fn order<T>(&mut self, fits: impl Fn(&Order) -> Option<T>) -> Option<T> {
        self.take(|effect| match effect {
            Effect::Shard(_, order) => fits(order),
            _ => None,
        })
    }

    pub(super) fn sent<T>(&mut self, fits: impl Fn(&Message) -> Option<T>) -> Option<T> {
        self.take(|effect| match effect {
            Effect::Send(message) => fits(message),
            _ => None,
        })
    }

    pub(super) fn fact<T>(&mut self, fits: impl Fn(&Fact) -> Option<T>) -> Option<T> {
        self.take(|effect| match effect {
            Effect::Election(fact) => fits(fact),
            _ => None,
        })
    }

    /// The last word about what other places hold.
    pub(super) fn held(&mut self) -> Option<Lsn> {
        let mut last = None;
        while let Some(held) = self.order(|order| match order {
            Order::Held(lsn) => Some(*lsn),
            _ => None,
        }) {
            last = Some(held);
        }
        last
    }

    /// The election is told something that the follower counts for.
    pub(super) fn counts(&mut self) -> bool {
        let counts = |fact: &Fact| {
            matches!(fact, Fact::FollowerHolds { .. } | Fact::FollowerCaughtUp { .. }).then_some(())
        };
        self.fact(counts).is_some()
    }

    pub(super) fn silent(&mut self) -> bool {
        self.fact(|fact| matches!(fact, Fact::FollowerSilent { .. }).then_some(())).is_some()
    }

    pub(super) fn ack(&mut self, number: u64, lsn: u64) {
        let durable = vec![Durable { shard: SHARD, position: at(lsn) }];
        self.message(Message::Ack { epoch: epoch(number), durable });
    }
}

/// A frame of that epoch behind record 2.
pub(super) fn append(number: u64) -> Message {
    Message::Append {
        shard: SHARD,
        epoch: epoch(number),
        before: at(2),
        commit: Lsn::new(2),
        closed: Stamp::ZERO,
        frames: vec![0; 512].into(),
    }
}

pub(super) fn unhealthy(fact: &Fact) -> Option<String> {
    match fact {
        Fact::LogUnhealthy { why } => Some(why.clone()),
        _ => None,
    }
}
