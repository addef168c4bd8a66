//! Two nodes and a bucket as real processes, and everything that may happen to them under load:
//! what clients were promised is on both nodes afterwards.
//!
//! ```text
//! round:  whole pair ─▶ fault ─▶ writes go on ─▶ healed ─▶ whole pair
//! end:    every receipt at its version and hash, read from each node by itself
//! ```
//! `CELERIANT_KILL_ROUNDS=50` for the long run, in an order that is different each time and
//! printed; every kind of round once otherwise.
//!
//! Deliberately absent: networks, disks and power, which `attack.rs` has; clocks, which the
//! simulator has.

use std::time::{Duration, Instant};

use crate::support::{Pair, World, wait};

const SHARDS: u16 = 3;
/// How long a leader is stopped: longer than the other waits, up to longer than a bucket's lease.
const STOPPED: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(5)];
/// How long the bucket is away at least: longer than its operations take and are repeated.
const BUCKET_AWAY: Duration = Duration::from_secs(3);

/// What happens in a round.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Fault {
    KillLeader,
    KillFollower,
    /// SIGTERM: it hands over, and comes back.
    HandOver,
    /// The leader stands still, longer than the other waits, and goes on as if nothing had been.
    FreezeLeader,
    KillBoth,
    /// Both are killed, and for a while only one comes back: it serves with the bucket.
    OneReturns,
    BucketAway,
}

const FAULTS: [Fault; 7] = [
    Fault::KillLeader,
    Fault::KillFollower,
    Fault::FreezeLeader,
    Fault::OneReturns,
    Fault::HandOver,
    Fault::BucketAway,
    Fault::KillBoth,
];

#[test]
fn every_receipt_is_on_both_nodes_whatever_happens_to_them() {
    let rounds = std::env::var("CELERIANT_KILL_ROUNDS");
    let faults = match rounds.ok().and_then(|text| text.parse().ok()) {
        Some(rounds) => shuffled(rounds),
        None => FAULTS.to_vec(),
    };
    let mut world = World::start(Pair::new(SHARDS));
    for fault in &faults {
        let name = format!("{fault:?}");
        let felt = world.round(&name, |world, leader| fault.befall(world, leader));
        println!("{name}: {felt:.1?}");
    }
    world.prove();
}

impl Fault {
    /// Lets it happen to a whole pair, and ends it.
    pub(crate) fn befall(self, world: &mut World, leader: usize) {
        let other = 1 - leader;
        match self {
            Self::KillLeader => world.without(leader, |pair| pair.kill(leader)),
            Self::KillFollower => world.without(other, |pair| pair.kill(other)),
            Self::HandOver => world.without(leader, |pair| {
                assert_eq!(pair.terminate(leader), Some(0), "it ends in good order");
            }),
            Self::FreezeLeader => freeze(world, leader),
            Self::KillBoth => {
                world.pair.kill(leader);
                world.pair.kill(other);
                world.pair.start(leader);
                world.pair.start(other);
            }
            Self::OneReturns => one_returns(world, leader),
            Self::BucketAway => bucket_away(world, leader),
        }
    }
}

fn freeze(world: &mut World, leader: usize) {
    let (began, long) = (Instant::now(), STOPPED[world.rounds % STOPPED.len()]);
    world.pair.node(leader).signal("-STOP");
    world.writes_go_on("while the leader stands still", leader);
    wait::until("time", || (began.elapsed() > long).then_some(()));
    // What the other one says of itself: the old leader has still to hear of it.
    let role = world.pair.status(1 - leader).expect("it serves")["role"].clone();
    world.pair.node(leader).signal("-CONT");
    assert_eq!(role, "leader", "{}", world.pair.describe());
}

fn one_returns(world: &mut World, leader: usize) {
    world.pair.kill(leader);
    world.pair.kill(1 - leader);
    // Now the one that led, now the other.
    let returns = if world.rounds.is_multiple_of(2) { leader } else { 1 - leader };
    world.pair.start(returns);
    world.writes_go_on("with one of them and the bucket", returns);
    let status = world.pair.status(returns).expect("it serves");
    assert_eq!((&status["role"], &status["in_sync"][1]), (&"leader".into(), &"bucket".into()));
    world.pair.start(1 - returns);
}

fn bucket_away(world: &mut World, leader: usize) {
    let began = Instant::now();
    world.pair.stop_bucket();
    world.writes_go_on("without a bucket", leader);
    wait::until("time", || (began.elapsed() > BUCKET_AWAY).then_some(()));
    world.writes_go_on("without a bucket for a while", leader);
    assert_eq!(world.pair.whole(), Some(leader), "{}", world.pair.describe());
    world.pair.start_bucket();
}

/// So many rounds of any kind, differently each time.
fn shuffled(rounds: usize) -> Vec<Fault> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut seed = now.expect("after 1970").as_nanos() as u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        FAULTS[(seed >> 33) as usize % FAULTS.len()]
    };
    (0..rounds).map(|_| next()).collect()
}
