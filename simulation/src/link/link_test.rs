//! The simulated link keeps the contract of the seam, and breaks everything else.

use std::collections::BTreeSet;

use celeriant_net::link::{Reason, next_event};
use celeriant_schema::{BootId, StoreId};

use super::*;

const EXPECTED: [&str; 13] = [
    "link up",
    "link reset",
    "link flapped",
    "link half-open",
    "link partitioned",
    "link buffer full",
    "link cut one way",
    "link attempt failed",
    "link message slowed",
    "link Control overtook",
    "link duplicate session",
    "link message held by a cut",
    "link messages lost with their session",
];

fn hello(end: End, boot: u64) -> Hello {
    let store = StoreId::new(end.index() as u128 + 1);
    Hello { store, boot: BootId::new(boot), ..Hello::default() }
}

fn anyone() -> Target {
    Target { store: None, addresses: vec!["peer".into()] }
}

/// A cable that nothing befalls.
fn calm() -> (Timeline, Cable) {
    let timeline = Timeline::default();
    let (trace, reached) = (Trace::default(), Reached::default());
    let cable = Cable::new(Behaviour::default(), Rng::new(1), timeline.clone(), trace, reached);
    (timeline, cable)
}

/// Checks one end's events against what the seam says.
struct Checker {
    link: SimLink,
    session: Option<SessionId>,
    newest: SessionId,
    /// By lane: the last number taken in this session, and which of the peer's sessions it is of.
    taken: [Option<(u64, u64)>; 2],
    sent: [u64; 2],
    received: u64,
}

impl Checker {
    fn new(link: SimLink) -> Self {
        let newest = SessionId::NONE;
        Self { link, session: None, newest, taken: [None; 2], sent: [0; 2], received: 0 }
    }

    /// Messages say which session of their sender they are of, and count from 1 in it.
    fn send(&mut self, lane: Lane, bytes: usize) {
        let Some(session) = self.session else { return };
        let number = self.sent[lane.index()] + 1;
        let mut message = session.value().to_le_bytes().to_vec();
        message.extend_from_slice(&number.to_le_bytes());
        message.resize(16 + bytes, 0);
        if self.link.send(session, lane, message.into()) == Sent::Taken {
            self.sent[lane.index()] = number;
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Up { session, .. } => {
                assert!(session > self.newest && self.session.is_none());
                (self.session, self.newest) = (Some(session), session);
                (self.taken, self.sent) = ([None; 2], [0; 2]);
            }
            Event::Down { session, .. } => {
                assert_eq!(self.session.take(), Some(session));
            }
            Event::Room { session, .. } => assert_eq!(self.session, Some(session)),
            Event::Received { session, lane, message } => {
                assert_eq!(self.session, Some(session), "nothing of an old session");
                let number =
                    |at: usize| message[at..].first_chunk().map(|n| u64::from_le_bytes(*n));
                let (of, number) = (number(0).expect("there"), number(8).expect("there"));
                let before = self.taken[lane.index()].map_or((of, 0), |taken| taken);
                assert_eq!((of, number), (before.0, before.1 + 1), "a prefix, in order");
                self.taken[lane.index()] = Some((of, number));
                self.received += 1;
            }
            Event::Failed { .. } => {}
        }
    }
}

/// Both ends send and take for a while, under every trouble; then all is healed.
fn run(seed: u64) -> (u64, Reached) {
    let (timeline, trace, reached) = (Timeline::default(), Trace::default(), Reached::default());
    let mut rng = Rng::new(seed);
    let behaviour = Behaviour { buffers: [4 << 10, 64 << 10], ..Behaviour::default() };
    let cable =
        Cable::new(behaviour, rng.fork("cable"), timeline.clone(), trace.clone(), reached.clone());
    timeline.runtime().block_on(async {
        tokio::spawn(timeline.clone().drive());
        tokio::task::yield_now().await;
        let mut ends = End::BOTH.map(|end| Checker::new(cable.attach(end, hello(end, 1))));
        ends.iter_mut().for_each(|end| end.link.aim(anyone()));
        for step in 0..400 {
            if rng.chance(60) {
                cable.trouble(Trouble::any(&mut rng));
            }
            if rng.chance(10) {
                let end = *rng.pick(&End::BOTH);
                cable.crash(end);
                ends[end.index()] = Checker::new(cable.attach(end, hello(end, 2 + step)));
                ends[end.index()].link.aim(anyone());
            }
            let until = timeline.now() + rng.below(60_000);
            for _ in 0..rng.below(12) {
                let lane = *rng.pick(&Lane::ALL);
                let bytes = if lane == Lane::Bulk { rng.below(40_000) } else { rng.below(100) };
                ends[rng.below(2) as usize].send(lane, bytes as usize);
            }
            take_until(&mut ends, &timeline, until).await;
        }
        cable.heal();
        let quiet = timeline.now() + 30_000_000;
        take_until(&mut ends, &timeline, quiet).await;
        for end in End::BOTH {
            assert!(cable.is_up(end), "seed {seed}: it heals");
            ends[end.index()].send(Lane::Control, 0);
        }
        let before = ends.each_ref().map(|end| end.received);
        take_until(&mut ends, &timeline, quiet + 1_000_000).await;
        assert!(ends.iter().zip(before).all(|(end, before)| end.received > before));
    });
    (trace.hash(), reached)
}

async fn take_until(ends: &mut [Checker; 2], timeline: &Timeline, until: Micros) {
    let [a, b] = ends;
    loop {
        tokio::select! {
            biased;
            event = next_event(&mut a.link) => a.note(event),
            event = next_event(&mut b.link) => b.note(event),
            () = timeline.sleep_until(until) => return,
        }
    }
}

#[test]
fn each_lane_gives_a_prefix_in_order_whatever_happens() {
    let all = Reached::default();
    for seed in 0..60 {
        let (hash, reached) = run(seed);
        all.merge(&reached);
        if seed % 20 == 0 {
            assert_eq!(run(seed).0, hash, "the same seed, the same run");
        }
    }
    let counts = all.counts();
    let missing: BTreeSet<&str> =
        EXPECTED.into_iter().filter(|what| !counts.contains_key(*what)).collect();
    assert!(missing.is_empty(), "never reached: {missing:?} of {counts:?}");
}

#[test]
fn a_new_process_replaces_the_session_of_the_old_one() {
    let (timeline, cable) = calm();
    timeline.runtime().block_on(async {
        tokio::spawn(timeline.clone().drive());
        tokio::task::yield_now().await;
        let mut a = cable.attach(End::A, hello(End::A, 1));
        let mut b = cable.attach(End::B, hello(End::B, 1));
        b.aim(anyone());
        assert!(matches!(next_event(&mut a).await, Event::Up { .. }));
        cable.crash(End::B);
        let mut again = cable.attach(End::B, hello(End::B, 2));
        again.aim(anyone());
        let Event::Down { reason, session } = next_event(&mut a).await else {
            panic!("down first")
        };
        assert_eq!(reason, Reason::Replaced);
        let Event::Up { peer, .. } = next_event(&mut a).await else { panic!("then up") };
        assert_eq!(peer.boot, BootId::new(2));
        assert_eq!(a.send(session, Lane::Control, Bytes::new()), Sent::Gone);
    });
}

#[test]
fn a_store_that_is_not_wanted_is_refused() {
    let (timeline, cable) = calm();
    timeline.runtime().block_on(async {
        tokio::spawn(timeline.clone().drive());
        tokio::task::yield_now().await;
        let mut a = cable.attach(End::A, hello(End::A, 1));
        let _b = cable.attach(End::B, hello(End::B, 1));
        a.aim(Target { store: Some(StoreId::new(9)), ..anyone() });
        let Event::Failed { reason, .. } = next_event(&mut a).await else { panic!("it fails") };
        assert_eq!(reason, Reason::WrongStore(StoreId::new(2)));
    });
}
