//! Tests of what nodes say to each other.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::fuzzing;
use crate::samples::{damage, hex};

fn position() -> impl Strategy<Value = Position> {
    (any::<u64>(), any::<[u8; 32]>())
        .prop_map(|(lsn, hash)| Position { lsn: Lsn::new(lsn), hash: Hash(hash) })
}

/// Shards in ascending order, each with what `of` makes of it.
fn by_shard<T: std::fmt::Debug + Clone>(
    of: fn(ShardId, u64, Position) -> T,
) -> impl Strategy<Value = Vec<T>> {
    (btree_set(any::<u16>(), 0..6), any::<u64>(), position()).prop_map(
        move |(shards, n, position)| {
            shards.into_iter().map(|shard| of(ShardId::new(shard), n, position)).collect()
        },
    )
}

fn tip(shard: ShardId, n: u64, durable: Position) -> Tip {
    Tip { shard, epoch: Epoch::new(n), durable, floor: Lsn::new(n / 2) }
}

fn durable(shard: ShardId, _: u64, position: Position) -> Durable {
    Durable { shard, position }
}

fn committed(shard: ShardId, n: u64, position: Position) -> Committed {
    Committed { shard, commit: position.lsn, closed: Stamp::new(n) }
}

fn frames() -> impl Strategy<Value = Bytes> {
    (1..4_usize, any::<u8>()).prop_map(|(sectors, byte)| vec![byte; sectors * 4096].into())
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![about_terms(), about_logs()]
}

/// About epochs, acknowledgements, leases.
fn about_terms() -> impl Strategy<Value = Message> {
    let n = any::<u64>;
    let epoch = || any::<u64>().prop_map(Epoch::new);
    prop_oneof![
        (epoch(), n()).prop_map(|(epoch, ver)| Message::Promise { epoch, ver }),
        (epoch(), by_shard(tip)).prop_map(|(epoch, tips)| Message::Promised { epoch, tips }),
        (epoch(), n()).prop_map(|(epoch, ver)| Message::Deposed { epoch, ver }),
        (epoch(), vec(any::<u8>(), 0..200), "\\PC{0,20}").prop_map(|(epoch, register, etag)| {
            Message::HandOver { epoch, register: register.into(), etag }
        }),
        (epoch(), by_shard(durable)).prop_map(|(epoch, durable)| Message::Ack { epoch, durable }),
        (n(), epoch(), n(), by_shard(committed)).prop_map(|(number, epoch, ver, shards)| {
            Message::Heartbeat { number, epoch, ver, shards }
        }),
        (n(), epoch(), any::<bool>()).prop_map(|(number, promised, leading)| Message::Alive {
            number,
            promised,
            leading
        }),
        (n(), epoch(), any::<u32>()).prop_map(|(number, epoch, lasts_ms)| Message::LeaseGrant {
            number,
            epoch,
            lasts_ms
        }),
        epoch().prop_map(|epoch| Message::LeaseReturn { epoch }),
    ]
}

/// About what is in the logs.
fn about_logs() -> impl Strategy<Value = Message> {
    let n = any::<u64>;
    let shard = || any::<u16>().prop_map(ShardId::new);
    let epoch = || any::<u64>().prop_map(Epoch::new);
    let lsn = || any::<u64>().prop_map(Lsn::new);
    let place = (epoch(), position(), position()).prop_map(|(epoch, before, end)| FramePlace {
        epoch,
        before,
        end,
    });
    let why = prop_oneof![Just(NoFrames::NotThere), Just(NoFrames::Damaged), Just(NoFrames::Busy)];
    prop_oneof![
        (n(), shard(), lsn()).prop_map(|(request, shard, lsn)| Message::Locate {
            request,
            shard,
            lsn
        }),
        (n(), shard(), prop::option::of(place))
            .prop_map(|(request, shard, frame)| Message::Located { request, shard, frame }),
        (n(), shard(), epoch(), position()).prop_map(|(request, shard, epoch, to)| Message::Cut {
            request,
            shard,
            epoch,
            to
        }),
        (n(), shard(), n(), position()).prop_map(|(request, shard, n, at)| Message::CutDone {
            request,
            tip: tip(shard, n, at)
        }),
        (shard(), ".{0,40}").prop_map(|(shard, reason)| Message::Quarantined { shard, reason }),
        (n(), shard(), lsn(), lsn(), any::<u32>()).prop_map(
            |(request, shard, after, upto, bytes_max)| Message::Fetch {
                request,
                shard,
                after,
                upto,
                bytes_max
            }
        ),
        (n(), why).prop_map(|(request, why)| Message::NoFrames { request, why }),
        (shard(), epoch(), position(), lsn(), n(), frames()).prop_map(
            |(shard, epoch, before, commit, closed, frames)| Message::Append {
                shard,
                epoch,
                before,
                commit,
                closed: Stamp::new(closed),
                frames
            }
        ),
        (n(), shard(), position(), any::<bool>(), frames()).prop_map(
            |(request, shard, before, last, frames)| Message::Frames {
                request,
                shard,
                before,
                last,
                frames
            }
        ),
    ]
}

proptest! {
    #[test]
    fn a_message_survives_the_link(message in message()) {
        let bytes = message.encode().expect("valid");
        let limit = if message.is_bulk() { BULK_BYTES_MAX } else { CONTROL_BYTES_MAX };
        prop_assert!(bytes.len() <= limit);
        prop_assert_eq!(Message::decode(&bytes), Ok(message));
    }

    #[test]
    fn arbitrary_bytes_are_a_message_or_refused(data in vec(any::<u8>(), 0..200), kind: u8) {
        fuzzing::peer(&data);
        let mut message = vec![kind, 0, 0, 0];
        message.extend_from_slice(&data);
        fuzzing::peer(&message);
    }

    #[test]
    fn damaged_messages_are_read_or_refused(
        message in message(),
        damages in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut damaged = message.encode().expect("valid").to_vec();
        for (at, byte) in damages {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        fuzzing::peer(&damaged);
    }
}

fn sample_hello() -> Hello {
    Hello {
        cluster: ClusterId::new(1),
        store: StoreId::new(2),
        boot: BootId::new(3),
        format: 4,
        shards: 8,
        features: Features { min: 1, max: 2 },
        address: "db-a.internal:7441".into(),
    }
}

fn sample_position(n: u64) -> Position {
    Position { lsn: Lsn::new(n), hash: Hash([n as u8; 32]) }
}

/// One of each kind.
fn samples() -> Vec<Message> {
    let (shard, epoch, request) = (ShardId::new(3), Epoch::new(7), 9);
    let (before, to) = (sample_position(0x11), sample_position(0x12));
    let tips = vec![tip(ShardId::new(0), 4, before), tip(shard, 6, to)];
    let frame = Some(FramePlace { epoch, before, end: to });
    let (frames, commit) = (Bytes::from(vec![0xf0; 4096]), Lsn::new(0x10));
    let closed = Stamp::new(0x99);
    vec![
        Message::Promise { epoch, ver: 5 },
        Message::Promised { epoch, tips: tips.clone() },
        Message::Deposed { epoch, ver: 5 },
        Message::HandOver { epoch, register: Bytes::from_static(b"{}"), etag: "e".into() },
        Message::Ack { epoch, durable: vec![Durable { shard, position: to }] },
        Message::Heartbeat {
            number: 2,
            epoch,
            ver: 5,
            shards: vec![Committed { shard, commit, closed }],
        },
        Message::Alive { number: 2, promised: epoch, leading: true },
        Message::LeaseGrant { number: 2, epoch, lasts_ms: 1000 },
        Message::LeaseReturn { epoch },
        Message::Locate { request, shard, lsn: commit },
        Message::Located { request, shard, frame },
        Message::Located { request, shard, frame: None },
        Message::Cut { request, shard, epoch, to },
        Message::CutDone { request, tip: tips[1] },
        Message::Quarantined { shard, reason: "why".into() },
        Message::Fetch { request, shard, after: commit, upto: to.lsn, bytes_max: 65536 },
        Message::NoFrames { request, why: NoFrames::Damaged },
        Message::Append { shard, epoch, before, commit, closed, frames: frames.clone() },
        Message::Frames { request, shard, before, last: true, frames },
    ]
}

#[test]
fn bytes_never_change() {
    let mut hello = BytesMut::new();
    sample_hello().encode(&mut hello).expect("valid");
    let mut all = vec![hex(&hello)];
    for message in samples() {
        let bytes = message.encode().expect("valid");
        let hash = crate::Hash::from(blake3::hash(&bytes)).to_string();
        // A message with frames by its head and its hash.
        let shown = if message.is_bulk() { &bytes[..bytes.len() - 4096] } else { &bytes[..] };
        all.push(if message.is_bulk() { format!("{} {hash}", hex(shown)) } else { hex(shown) });
    }
    let golden: Vec<&str> = include_str!("golden.txt").lines().collect();
    assert_eq!(all, golden, "\n{}\n", all.join("\n"));
}

#[test]
fn every_truncation_and_every_flipped_byte_is_read_or_refused() {
    for message in samples() {
        let bytes = message.encode().expect("valid");
        let head = bytes.len() - if message.is_bulk() { 4096 } else { 0 };
        damage(&bytes[..head], fuzzing::peer);
    }
    let mut hello = BytesMut::new();
    sample_hello().encode(&mut hello).expect("valid");
    damage(&hello, fuzzing::peer);
}

#[test]
fn a_hello_survives_and_a_later_one_may_say_more() {
    let mut bytes = BytesMut::new();
    sample_hello().encode(&mut bytes).expect("valid");
    assert_eq!(Hello::decode(&bytes), Ok(sample_hello()));
    bytes.extend_from_slice(b"news");
    assert_eq!(Hello::decode(&bytes), Ok(sample_hello()));
}

#[test]
fn a_hello_of_another_protocol_or_with_nonsense_is_refused() {
    let mut bytes = BytesMut::new();
    sample_hello().encode(&mut bytes).expect("valid");
    bytes[8] = 2;
    assert!(Hello::decode(&bytes).is_err());
    let long = Hello { address: "x".repeat(257), ..sample_hello() };
    assert!(long.encode(&mut BytesMut::new()).is_err());
    let none = Hello { features: Features { min: 2, max: 1 }, ..sample_hello() };
    assert!(none.encode(&mut BytesMut::new()).is_err());
}

#[test]
fn lists_out_of_order_and_partial_sectors_are_refused() {
    let twice = vec![Durable::default(), Durable::default()];
    assert!(Message::Ack { epoch: Epoch::new(1), durable: twice }.encode().is_err());
    for bytes in [0, 100, 4097, FRAMES_BYTES_MAX + 4096] {
        let message = Message::Frames {
            request: 1,
            shard: ShardId::new(0),
            before: Position::default(),
            last: true,
            frames: vec![0; bytes].into(),
        };
        assert!(message.encode().is_err(), "{bytes}");
    }
}

#[test]
fn frames_are_not_copied_when_they_arrive() {
    let append = samples().into_iter().find(Message::is_bulk).expect("one");
    let bytes = append.encode().expect("valid");
    let Ok(Message::Append { frames, .. }) = Message::decode(&bytes) else { panic!("an append") };
    assert_eq!(frames.as_ptr(), bytes[bytes.len() - 4096..].as_ptr());
}

#[test]
fn a_tip_of_every_shard_fits_into_a_control_message() {
    let tips = (0..SHARDS_MAX).map(|shard| tip(ShardId::new(shard), 1, Position::default()));
    let message = Message::Promised { epoch: Epoch::new(1), tips: tips.collect() };
    let bytes = message.encode().expect("valid");
    assert!(bytes.len() <= CONTROL_BYTES_MAX);
    assert_eq!(Message::decode(&bytes), Ok(message));
}
