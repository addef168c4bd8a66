//! A pair attacked where it stands: its wires, its disks, its power, its data. What clients were
//! promised is on both nodes afterwards.
//!
//! ```text
//! each node in a network namespace (wires that are cut), on a file system of its own (power that
//! is cut, a device that fails, space that runs out); clients and bucket outside
//! ```
//! By default one of each sort. `CELERIANT_ATTACKS="kill-leader=200 cut-link=50 …"` says which and
//! how often (`tests/attack` does), in turn; a table of what writers felt comes at the end, and
//! each round goes to the file that `CELERIANT_ATTACKS_OUT` names, as a line of JSON.
//!
//! Needs root, `ip`, `nft`, `mkfs.ext4`, loop devices and Python for an ioctl; without them it is
//! skipped, loudly.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::bucket::moto;
use crate::pair::Fault;
use crate::support::disk::Disk;
use crate::support::net::{Net, Wire};
use crate::support::world::Felt;
use crate::support::{Pair, Place, World, call, skipped, wait};

const SHARDS: u16 = 3;
/// A wire stays cut this long at least: longer than any patience of a node.
const CUT: Duration = Duration::from_secs(4);
/// What a full disk has left: less than what is written to it then.
const LEFT_BYTES: u64 = 32 << 20;

/// What happens in a round.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Attack {
    /// What needs no root, too.
    Process(Fault),
    /// The wire between the nodes, both ways.
    CutLink,
    /// The follower hears nothing from the leader,
    CutFromLeader,
    /// or the leader nothing from the follower.
    CutFromFollower,
    /// The leader is alone with its clients.
    IsolateLeader,
    /// The leader is alone.
    LoseLeader,
    /// The leader does not reach the bucket,
    CutLeaderFromBucket,
    /// or the follower does not.
    CutFollowerFromBucket,
    /// The leader's machine loses power: what was not durable is gone.
    PowerCut,
    /// Both lose power at once.
    PowerCutBoth,
    /// The leader's device fails: it stops by itself.
    DeviceFails,
    /// The leader has no space left: writes stop until there is some.
    DiskFull,
    /// The follower loses its data directory and is replaced.
    Wipe,
}

const ATTACKS: [Attack; 19] = [
    Attack::Process(Fault::KillLeader),
    Attack::CutLink,
    Attack::Process(Fault::KillFollower),
    Attack::CutFromLeader,
    Attack::PowerCut,
    Attack::CutFromFollower,
    Attack::Process(Fault::HandOver),
    Attack::IsolateLeader,
    Attack::DeviceFails,
    Attack::LoseLeader,
    Attack::Process(Fault::FreezeLeader),
    Attack::CutLeaderFromBucket,
    Attack::PowerCutBoth,
    Attack::CutFollowerFromBucket,
    Attack::Wipe,
    Attack::Process(Fault::OneReturns),
    Attack::Process(Fault::BucketAway),
    Attack::Process(Fault::KillBoth),
    Attack::DiskFull,
];

/// Where the pair stands.
struct Ground {
    net: Net,
    disks: [Disk; 2],
    dir: Option<tempfile::TempDir>,
}

#[test]
fn every_receipt_survives_cut_wires_lost_power_and_failing_disks() {
    let (mut ground, pair) = match Ground::new() {
        Ok(ground) => ground,
        Err(why) => return skipped(&format!("no attack on networks, disks and power: {why}")),
    };
    ground.net.set_bucket(pair.bucket_port());
    let mut world = World::start(pair);
    let mut felt: BTreeMap<String, Vec<Felt>> = BTreeMap::new();
    for attack in plan() {
        let name = attack.name();
        let one = world.round(&name, |world, leader| attack.befall(world, &ground, leader));
        println!("{name}: {one:.1?}");
        note(&name, &one);
        felt.entry(name).or_default().push(one);
    }
    world.prove();
    table(&felt);
}

#[test]
fn a_pair_with_an_independent_s3_keeps_every_receipt() {
    let Some(moto) = moto::Moto::start_serial() else { return };
    let mut world = World::start(Pair::with_bucket(SHARDS, moto.endpoint(), moto::BUCKET));
    for fault in [Fault::KillLeader, Fault::HandOver, Fault::KillFollower, Fault::OneReturns] {
        let name = format!("{fault:?} with moto");
        let felt = world.round(&name, |world, leader| fault.befall(world, leader));
        println!("{name}: {felt:.1?}");
    }
    world.prove();
}

impl Ground {
    fn new() -> Result<(Self, Pair), String> {
        let net = Net::new()?;
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let disk = |at: usize| Disk::new(dir.path().join(["a", "b"][at]));
        let disks = [disk(0)?, disk(1)?];
        let places = [0, 1].map(|at| Place {
            ip: net.address(at),
            prefix: net.prefix(at),
            data: Some(disks[at].path().join("data")),
        });
        let pair = Pair::at(SHARDS, &net.here(), places);
        Ok((Self { net, disks, dir: Some(dir) }, pair))
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            println!("the nodes' file systems are kept in {}", dir.keep().display());
        }
    }
}

impl Attack {
    fn name(self) -> String {
        let name = match self {
            Self::Process(fault) => format!("{fault:?}"),
            other => format!("{other:?}"),
        };
        let dashed = |(at, c): (usize, char)| match c.is_uppercase() {
            true if at > 0 => format!("-{}", c.to_lowercase()),
            _ => c.to_lowercase().to_string(),
        };
        name.char_indices().map(dashed).collect()
    }

    fn befall(self, world: &mut World, ground: &Ground, leader: usize) {
        let other = 1 - leader;
        let cut = |world: &mut World, wire| cut(world, &ground.net, wire, leader);
        match self {
            Self::Process(fault) => fault.befall(world, leader),
            Self::CutLink => {
                ground.net.cut(Wire::To(leader));
                cut(world, Wire::To(other));
            }
            Self::CutFromLeader => cut(world, Wire::To(other)),
            Self::CutFromFollower => cut(world, Wire::To(leader)),
            Self::IsolateLeader => cut(world, Wire::Around(leader)),
            Self::LoseLeader => cut(world, Wire::All(leader)),
            Self::CutLeaderFromBucket => cut(world, Wire::Bucket(leader)),
            Self::CutFollowerFromBucket => cut(world, Wire::Bucket(other)),
            Self::PowerCut => world.without(leader, |pair| {
                ground.disks[leader].cut_power();
                pair.kill(leader);
                ground.disks[leader].restore();
            }),
            Self::PowerCutBoth => {
                ground.disks.iter().for_each(Disk::cut_power);
                for at in [leader, other] {
                    world.pair.kill(at);
                    ground.disks[at].restore();
                    world.pair.start(at);
                }
            }
            Self::DeviceFails => world.without(leader, |pair| {
                ground.disks[leader].fail();
                assert_ne!(pair.ended(leader), Some(0), "it says that it failed");
                ground.disks[leader].restore();
            }),
            Self::DiskFull => disk_full(world, &ground.disks[leader], leader),
            Self::Wipe => wipe(world, leader),
        }
    }
}

/// Cuts a wire, sees that writes go on, and mends it.
fn cut(world: &mut World, net: &Net, wire: Wire, leader: usize) {
    let began = Instant::now();
    net.cut(wire);
    world.writes_go_on("with a wire cut", leader);
    wait::until("time", || (began.elapsed() > CUT).then_some(()));
    world.writes_go_on("with a wire cut for a while", leader);
    net.heal_all();
}

/// Writes until the leader's disk takes no more, then gives the space back.
fn disk_full(world: &World, disk: &Disk, leader: usize) {
    disk.fill(LEFT_BYTES);
    let url = world.pair.url_of(leader);
    // One aggregate: what the other shards have ahead need not be filled first.
    let fill = ["bench", "write", "--connections", "1", "--payload", "4000000", "--warmup", "0"];
    let refused = wait::until("the disk to be full", || {
        let called = call(&[&["--url", &url], &fill[..], &["--duration", "1"]].concat(), "");
        (called.code != 0).then_some(called.stderr)
    });
    disk.free();
    assert!(refused.contains("Overloaded"), "{refused}");
}

/// The follower comes back with an empty data directory, and takes the place of what it was.
fn wipe(world: &mut World, leader: usize) {
    let other = 1 - leader;
    let lost = world.pair.status(other).expect("it serves")["store"].clone();
    world.pair.kill(other);
    world.writes_go_on("without the follower", other);
    world.pair.wipe(other);
    world.pair.start(other);
    let lost = lost.as_str().expect("a store");
    let (url, with) = (world.pair.url_of(leader), world.pair.url_of(other));
    wait::until("the replacement", || {
        let called = call(&["--url", &url, "cluster", "replace", lost, "--with", &with], "");
        (called.code == 0).then_some(())
    });
}

/// Before a change lands: one of each sort that `pair.rs` cannot do, because each takes ten
/// seconds. The full disk comes last: what is written to it makes whatever follows long.
const SHORT: &str = "cut-from-leader isolate-leader power-cut device-fails wipe disk-full";

/// What is asked for.
fn plan() -> Vec<Attack> {
    let asked = std::env::var("CELERIANT_ATTACKS").unwrap_or_else(|_| SHORT.to_owned());
    let mut left: Vec<(Attack, usize)> = asked
        .split_whitespace()
        .map(|part| {
            let (name, times) = part.split_once('=').unwrap_or((part, "1"));
            let attack = ATTACKS.into_iter().find(|attack| attack.name() == name);
            (attack.expect(name), times.parse().expect(part))
        })
        .collect();
    let mut plan = Vec::new();
    while left.iter().any(|(_, times)| *times > 0) {
        for (attack, times) in left.iter_mut().filter(|(_, times)| *times > 0) {
            plan.push(*attack);
            *times -= 1;
        }
    }
    plan
}

/// A line for scripts, which is there also if a later round fails.
fn note(name: &str, felt: &Felt) {
    let Ok(path) = std::env::var("CELERIANT_ATTACKS_OUT") else { return };
    let line = serde_json::json!({
        "attack": name,
        "pause_ms": felt.pause.as_millis() as u64,
        "healing_pause_ms": felt.healing.as_millis() as u64,
        "whole_ms": felt.whole.as_millis() as u64,
        "receipts": felt.receipts,
    });
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    writeln!(file.expect("a file"), "{line}").expect("written");
}

/// What writers felt, in ms.
fn table(felt: &BTreeMap<String, Vec<Felt>>) {
    let head = ["pause p50", "p95", "max", "healing p50", "max", "whole p50"];
    println!("{:<26}{:>7}{}", "attack", "rounds", head.map(|h| format!("{h:>13}")).concat());
    for (name, all) in felt {
        let sorted = |of: fn(&Felt) -> Duration| {
            let mut times: Vec<u128> = all.iter().map(|felt| of(felt).as_millis()).collect();
            times.sort_unstable();
            times
        };
        let at = |times: &[u128], part: f64| times[((times.len() - 1) as f64 * part) as usize];
        let (pause, healing) = (sorted(|felt| felt.pause), sorted(|felt| felt.healing));
        let whole = sorted(|felt| felt.whole);
        let cells = [
            at(&pause, 0.5),
            at(&pause, 0.95),
            at(&pause, 1.0),
            at(&healing, 0.5),
            at(&healing, 1.0),
            at(&whole, 0.5),
        ];
        println!("{name:<26}{:>7}{}", all.len(), cells.map(|c| format!("{c:>13}")).concat());
    }
}
