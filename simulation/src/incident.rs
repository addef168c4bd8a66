//! Faults that are only interesting together: what leads into a corner of the protocol, and what
//! then happens there. By chance alone such runs of bad luck are rare.

use crate::fault::{FOLLOWER, Fault, Kind, LEADER};
use crate::rng::Rng;
use crate::timeline::Micros;

/// What happens: how long after the one before, in ms at least and at most; what; to whom; for how
/// long, in ms at least and at most.
type Step = ((u64, u64), Kind, u16, (u64, u64));

/// Every incident.
const INCIDENTS: [&[Step]; 13] = [
    // The leader goes on with the bucket, sleeps through its lease, and wakes up deposed.
    &[
        ((0, 0), Kind::LinkPartition, FOLLOWER, (900, 1_500)),
        ((1_000, 2_000), Kind::Pause, LEADER, (3_500, 7_000)),
    ],
    // The same with a bucket that carries its last rounds out late.
    &[
        ((0, 0), Kind::StayDown, FOLLOWER, (900, 1_500)),
        ((900, 1_500), Kind::BucketSlow, LEADER, (3_000, 6_000)),
        ((100, 1_000), Kind::Pause, LEADER, (3_500, 6_000)),
    ],
    // It dies there, with slots under way.
    &[
        ((0, 0), Kind::StayDown, FOLLOWER, (800, 1_500)),
        ((900, 2_500), Kind::BucketAppliedLater, LEADER, (0, 0)),
        ((0, 100), Kind::StayDown, LEADER, (2_000, 9_000)),
    ],
    // A leader that hears nobody, and that clients still reach.
    &[
        ((0, 0), Kind::BucketCutTo, LEADER, (2_000, 6_000)),
        ((0, 100), Kind::LinkPartition, LEADER, (2_000, 6_000)),
    ],
    // The same when its follower is just back.
    &[
        ((0, 0), Kind::LinkReset, LEADER, (0, 0)),
        ((0, 10), Kind::LinkPartition, LEADER, (700, 900)),
        ((1_500, 6_000), Kind::BucketCutFrom, LEADER, (2_000, 6_000)),
        ((0, 50), Kind::LinkPartition, LEADER, (2_000, 6_000)),
    ],
    // Nobody knows whether the pair has ended; a late answer of the follower arrives meanwhile.
    &[
        ((0, 0), Kind::BucketCutFrom, LEADER, (1_500, 5_000)),
        ((0, 50), Kind::LinkPartition, LEADER, (520, 900)),
    ],
    &[
        ((0, 0), Kind::LinkSlow, LEADER, (1_000, 3_000)),
        ((400, 900), Kind::BucketLostReply, LEADER, (0, 0)),
        ((0, 600), Kind::StayDown, LEADER, (1_000, 5_000)),
    ],
    // A hand-over of which the old leader learns late.
    &[
        ((0, 0), Kind::HandOver, LEADER, (0, 0)),
        ((0, 60), Kind::BucketCutFrom, LEADER, (1_500, 4_000)),
        ((0, 60), Kind::LinkPartition, LEADER, (1_500, 4_000)),
    ],
    &[
        ((0, 0), Kind::HandOver, LEADER, (0, 0)),
        ((0, 60), Kind::BucketLostReply, LEADER, (0, 0)),
        ((0, 60), Kind::Kill, LEADER, (0, 0)),
    ],
    // Take-over after take-over.
    &[
        ((0, 0), Kind::StayDown, LEADER, (1_500, 3_000)),
        ((1_500, 2_500), Kind::StayDown, LEADER, (1_500, 3_000)),
        ((1_500, 2_500), Kind::StayDown, LEADER, (1_500, 3_000)),
    ],
    // A process that is back at once, while its peer is away.
    &[
        ((0, 0), Kind::LinkPartition, LEADER, (500, 3_000)),
        ((0, 1_200), Kind::Kill, LEADER, (0, 0)),
    ],
    // A member that has nothing yet, and whose leader is lost for longer than its lease.
    &[
        ((0, 0), Kind::Wipe, FOLLOWER, (700, 1_000)),
        ((0, 10), Kind::LinkPartition, FOLLOWER, (9_000, 12_000)),
        ((2_000, 4_000), Kind::StayDown, LEADER, (4_000, 7_000)),
    ],
    // Clocks as far apart as they may be, and a leader that hears nobody.
    &[
        ((0, 0), Kind::ClockSlow, LEADER, (8_000, 12_000)),
        ((0, 0), Kind::ClockFast, FOLLOWER, (8_000, 12_000)),
        ((2_000, 3_000), Kind::LinkPartition, LEADER, (2_000, 6_000)),
        ((0, 0), Kind::BucketCutTo, LEADER, (2_000, 6_000)),
    ],
];

/// One by chance, from `at` on.
pub fn any(at: Micros, shards: u16, rng: &mut Rng) -> Vec<Fault> {
    let mut at = at;
    let steps = rng.pick(&INCIDENTS);
    let fault = |((least, most), kind, node, lasts): &Step| {
        at += rng.between(least * 1_000, most * 1_000);
        let shard = rng.below(u64::from(shards)) as u16;
        let by_chance = Fault::of_pair(*kind, at, shard, rng);
        let lasts = rng.between(lasts.0 * 1_000, lasts.1 * 1_000);
        let amount = match kind {
            Kind::ClockFast | Kind::ClockSlow => 49,
            _ => by_chance.amount,
        };
        Fault { node: *node, lasts, amount, ..by_chance }
    };
    steps.iter().map(fault).collect()
}
