//! Strategies and fixed samples that the tests of this crate share.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::event::{ContentType, EncodedEvents, Envelope, Event, SchemaVersion};
use crate::feed::{FeedBatch, FeedPage, FeedQuery, Notice, Selector};
use crate::hash::Hash;
use crate::ids::{BootId, ClientId, Epoch, EventId, Sequence, Stamp, Version, WriteId};
use crate::key::AggregateKey;
use crate::limits::{FEED_MORE_MAX, FEED_WAIT_MS_MAX, FILTER_TYPES_MAX, NUMBER_MAX};
use crate::refusal::{AlreadyApplied, Conflict, Refusal};
use crate::request::{Guard, HeadQuery, ListQuery, Member, ReadQuery, Request, Retention, Write};
use crate::response::{
    AggregateReceipt, BatchHeader, HeadInfo, ListPage, Page, ReadBatch, ReadEvent, Receipt,
    Response,
};

pub(crate) fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..20_u64, 0..NUMBER_MAX]
}

pub(crate) fn version() -> impl Strategy<Value = Version> {
    number().prop_map(Version::new)
}

pub(crate) fn stamp() -> impl Strategy<Value = Stamp> {
    number().prop_map(Stamp::new)
}

pub(crate) fn client_id() -> impl Strategy<Value = ClientId> {
    any::<u128>().prop_map(ClientId::new)
}

pub(crate) fn sequence() -> impl Strategy<Value = Sequence> {
    (1..NUMBER_MAX).prop_map(Sequence::new)
}

pub(crate) fn hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash)
}

pub(crate) fn write_id() -> impl Strategy<Value = WriteId> {
    (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(epoch, boot, counter)| WriteId {
        epoch: Epoch::new(epoch),
        boot: BootId::new(boot),
        counter,
    })
}

pub(crate) fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9é-]{1,12}", "[A-Z]{128}"]
}

pub(crate) fn key() -> impl Strategy<Value = AggregateKey> {
    (name(), name(), "[a-z0-9:é-]{1,12}")
        .prop_map(|(org, kind, id)| AggregateKey::new(&org, &kind, &id).expect("valid names"))
}

pub(crate) fn guard() -> impl Strategy<Value = Guard> {
    prop_oneof![
        Just(Guard::Any),
        Just(Guard::NoStream),
        Just(Guard::Exists),
        version().prop_map(Guard::Exact),
    ]
}

fn payload() -> impl Strategy<Value = Bytes> {
    let sizes = prop_oneof![4 => 0..80_usize, 1 => 2040..2060_usize, 1 => Just(5000_usize)];
    (sizes, any::<u8>()).prop_map(|(size, byte)| Bytes::from(vec![byte; size]))
}

fn metadata() -> impl Strategy<Value = Vec<(String, String)>> {
    let entries = proptest::collection::btree_map("[a-z]{1,8}|[k]{64}", "[ -~é\n]{0,20}", 0..4);
    entries.prop_map(|map| map.into_iter().rev().collect())
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let content = prop_oneof![
        Just(ContentType::Bytes),
        Just(ContentType::Json),
        Just(ContentType::Avro),
        Just(ContentType::Protobuf),
    ];
    let envelope =
        ("[a-z]{1,128}", any::<[u8; 24]>()).prop_map(|(key_id, nonce)| Envelope { key_id, nonce });
    let fixed = (any::<u16>(), any::<u16>(), content, any::<i64>());
    let rest = (option::of(any::<u128>()), metadata(), option::of(envelope));
    ("[A-Za-zé.]{1,32}|[T]{64}", fixed, payload(), rest).prop_map(
        |(event_type, (major, minor, content_type, client_time), payload, rest)| Event {
            event_type,
            schema: SchemaVersion { major, minor },
            content_type,
            payload,
            event_id: rest.0.map(EventId::new),
            metadata: rest.1,
            envelope: rest.2,
            client_time,
        },
    )
}

pub(crate) fn events(count: std::ops::Range<usize>) -> impl Strategy<Value = EncodedEvents> {
    vec(event(), count).prop_map(|events| EncodedEvents::encode(&events).expect("valid events"))
}

pub(crate) fn retention() -> impl Strategy<Value = Retention> {
    let delete = (any::<bool>(), any::<bool>())
        .prop_map(|(recreate, forget_sequences)| Retention::Delete { recreate, forget_sequences });
    let trim = version().prop_filter("trims something", |version| *version > Version::NONE);
    prop_oneof![delete, trim.prop_map(|keep_from| Retention::Trim { keep_from })]
}

pub(crate) fn write() -> impl Strategy<Value = Write> {
    let member = (key(), guard(), events(0..4), sequence(), option::of(retention()));
    let keyed = vec(member, 1..20);
    (client_id(), any::<bool>(), keyed, event()).prop_map(|(client, sequenced, members, event)| {
        let client_id = if sequenced { ClientId::new(client.value() | 1) } else { client };
        let mut write = Write { client_id, members: Vec::new() };
        for (key, guard, events, sequence, retention) in members {
            let retention = retention.filter(|_| events.is_empty());
            let changes = !events.is_empty() || retention.is_some();
            let sequence = (sequenced && changes).then_some(sequence);
            if write.members.iter().all(|member| member.key != key) {
                write.members.push(Member { key, guard, sequence, events, retention });
            }
        }
        if !write.members.iter().any(Member::changes) {
            write.members[0].events = EncodedEvents::encode(&[event]).expect("valid event");
            write.members[0].sequence = sequenced.then_some(Sequence::new(1));
        }
        write
    })
}

fn read_query() -> impl Strategy<Value = ReadQuery> {
    let types = vec("[A-Za-z]{1,64}".prop_map(Bytes::from), 0..=FILTER_TYPES_MAX.min(5));
    let range = (version(), option::of(version()), any::<bool>(), option::of(1..u64::MAX));
    let times = (option::of(any::<i64>()), option::of(any::<i64>()));
    let rest = (option::of(client_id()), option::of(stamp()), any::<bool>());
    (key(), range, types, times, rest).prop_map(|(key, range, types, times, rest)| ReadQuery {
        key,
        from: range.0,
        to: range.1,
        backwards: range.2,
        limit: range.3,
        types,
        client: rest.0,
        since: times.0,
        until: times.1,
        min_stamp: rest.1,
        any: rest.2,
    })
}

fn list_query() -> impl Strategy<Value = ListQuery> {
    let names = option::of((name(), option::of(name())));
    (names, "[a-z]{0,5}", option::of(name()), 1..u32::MAX).prop_map(
        |(names, prefix, after, limit)| {
            let (org, kind) = names.map_or((None, None), |(org, kind)| (Some(org), kind));
            ListQuery { org, kind, prefix, after, limit }
        },
    )
}

fn feed_query() -> impl Strategy<Value = FeedQuery> {
    let plain = prop_oneof![
        Just(Selector::All),
        name().prop_map(Selector::Org),
        (name(), name()).prop_map(|(org, kind)| Selector::Type { org, kind }),
        key().prop_map(Selector::Aggregate),
    ];
    let several = vec(plain.clone(), 2..5).prop_map(Selector::Several);
    let selector = prop_oneof![4 => plain, 1 => several];
    let types = vec("[A-Za-z]{1,64}".prop_map(Bytes::from), 0..=FILTER_TYPES_MAX.min(5));
    let after = option::of(stamp());
    (selector, types, after, 0..=FEED_WAIT_MS_MAX, any::<bool>(), 0..=FEED_MORE_MAX).prop_map(
        |(selector, types, after, wait_ms, headers_only, more)| FeedQuery {
            selector,
            types,
            after,
            wait_ms,
            headers_only,
            more,
        },
    )
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let head = (key(), option::of(client_id()), option::of(stamp()), any::<bool>())
        .prop_map(|(key, client, min_stamp, any)| HeadQuery { key, client, min_stamp, any });
    prop_oneof![
        3 => write().prop_map(Request::Write),
        2 => read_query().prop_map(Request::Read),
        1 => head.prop_map(Request::Head),
        1 => list_query().prop_map(Request::List),
        1 => feed_query().prop_map(Request::Feed).boxed(),
        1 => Just(Request::Ping),
        1 => ".{0,40}".prop_map(|text| Request::Admin(text.into())),
    ]
}

pub(crate) fn receipt() -> impl Strategy<Value = Receipt> {
    let write = (key(), version(), version(), hash()).prop_map(|(key, first, last, hash)| {
        AggregateReceipt { key, first_version: first, last_version: last, hash }
    });
    (stamp(), any::<bool>(), vec(write, 0..4))
        .prop_map(|(stamp, already_applied, writes)| Receipt { stamp, already_applied, writes })
}

fn batch() -> impl Strategy<Value = ReadBatch> {
    let header = (
        (version(), version(), client_id(), option::of(sequence())),
        (any::<i64>(), stamp(), write_id()),
    );
    let header = header.prop_map(|(a, b)| BatchHeader {
        first_version: a.0,
        last_version: a.1,
        client_id: a.2,
        sequence: a.3,
        server_time: b.0,
        stamp: b.1,
        write_id: b.2,
    });
    let event = (version(), hash(), event()).prop_map(|(version, hash, event)| {
        let mut body = Vec::new();
        event.encode_into(&mut body).expect("valid event");
        ReadEvent { version, hash, body: body.into() }
    });
    (header, vec(event, 0..4)).prop_map(|(header, events)| ReadBatch { header, events })
}

fn feed_page() -> impl Strategy<Value = FeedPage> {
    let notice = (retention(), hash()).prop_map(|(what, hash)| Notice { what, hash });
    let batch = (key(), batch(), option::of(notice)).prop_map(|(key, batch, notice)| FeedBatch {
        key,
        batch,
        notice,
    });
    (vec(batch, 0..4), stamp(), stamp()).prop_map(|(batches, upto, head)| FeedPage {
        batches,
        upto,
        head,
    })
}

fn page() -> impl Strategy<Value = Page> {
    (version(), stamp(), vec(batch(), 0..4), option::of(version()))
        .prop_map(|(version, stamp, batches, next)| Page { version, stamp, batches, next })
}

fn head_info() -> impl Strategy<Value = HeadInfo> {
    let times = (any::<i64>(), any::<i64>(), stamp(), stamp());
    (version(), hash(), times, any::<bool>(), version(), option::of(sequence())).prop_map(
        |(version, hash, times, deleted, first_available, last_sequence)| HeadInfo {
            version,
            hash,
            created: times.0,
            updated: times.1,
            stamp: times.2,
            deleted,
            first_available,
            last_sequence,
            read_stamp: times.3,
        },
    )
}

pub(crate) fn refusal() -> impl Strategy<Value = Refusal> {
    let text = || "[ -~é]{0,40}";
    let conflict = (key(), guard(), version()).prop_map(|(key, expected, actual)| Conflict {
        key,
        expected,
        actual,
    });
    let already_applied = prop_oneof![
        Just(AlreadyApplied::None),
        Just(AlreadyApplied::Unknown),
        receipt().prop_map(|receipt| AlreadyApplied::Receipt(Box::new(receipt))),
    ];
    let of_state = prop_oneof![
        (vec(conflict, 0..4), already_applied).prop_map(|(conflicts, already_applied)| {
            Refusal::Conflict { conflicts, already_applied }
        }),
        (key(), sequence()).prop_map(|(key, sequence)| Refusal::SequenceReused { key, sequence }),
        (key(), sequence()).prop_map(|(key, sequence)| Refusal::SequenceStale { key, sequence }),
        (key(), sequence()).prop_map(|(key, expected)| Refusal::SequenceGap { key, expected }),
        key().prop_map(|key| Refusal::NotFound { key }),
        key().prop_map(|key| Refusal::Deleted { key }),
        (key(), version())
            .prop_map(|(key, first_available)| Refusal::Trimmed { key, first_available }),
    ];
    let of_node = prop_oneof![
        option::of(text()).prop_map(|leader| Refusal::NotLeader { leader }),
        Just(Refusal::NoLeader),
        (stamp(), stamp()).prop_map(|(wanted, reached)| Refusal::NotYet { wanted, reached }),
        (text(), any::<u32>())
            .prop_map(|(what, retry_after_ms)| Refusal::Overloaded { what, retry_after_ms }),
        any::<bool>().prop_map(|definite| Refusal::DeadlineExceeded { definite }),
        Just(Refusal::UnknownOutcome),
        any::<u64>().prop_map(|id| Refusal::Internal { id }),
    ];
    let of_request = prop_oneof![
        (text(), any::<u64>()).prop_map(|(what, limit)| Refusal::TooLarge { what, limit }),
        (text(), text()).prop_map(|(field, reason)| Refusal::InvalidArgument { field, reason }),
        (any::<u16>(), any::<u16>())
            .prop_map(|(min, max)| Refusal::UnsupportedProtocol { min, max }),
        text().prop_map(|reason| Refusal::Unauthenticated { reason }),
        (text(), text())
            .prop_map(|(action, resource)| Refusal::PermissionDenied { action, resource }),
    ];
    let of_schemas = prop_oneof![
        (key(), any::<u32>(), text(), text()).prop_map(|(key, event, path, reason)| {
            Refusal::SchemaViolation { key, event, path, reason }
        }),
        text().prop_map(|schema| Refusal::SchemaExists { schema }),
        text().prop_map(|schema| Refusal::SchemaUnknown { schema }),
        (text(), text()).prop_map(|(schema, reason)| Refusal::SchemaInvalid { schema, reason }),
        (text(), vec(text(), 0..4))
            .prop_map(|(schema, reasons)| Refusal::SchemaIncompatible { schema, reasons }),
    ];
    // Boxed: together they are larger than a test's stack.
    prop_oneof![of_state.boxed(), of_node.boxed(), of_request.boxed(), of_schemas.boxed()]
}

pub(crate) fn response() -> impl Strategy<Value = Response> {
    let list = (vec(name(), 0..5), any::<bool>())
        .prop_map(|(names, more)| Response::List(ListPage { names, more }));
    prop_oneof![
        receipt().prop_map(Response::Receipt),
        page().prop_map(Response::Page).boxed(),
        head_info().prop_map(Response::Head),
        list,
        feed_page().prop_map(Response::Feed).boxed(),
        Just(Response::Pong),
        ".{0,40}".prop_map(|text| Response::Admin(text.into())),
        refusal().prop_map(Response::Refused),
    ]
}

/// Calls `check` with every truncation of `valid` and with every byte changed in a few ways.
pub(crate) fn damage(valid: &[u8], mut check: impl FnMut(&[u8])) {
    for end in 0..valid.len() {
        check(&valid[..end]);
    }
    let mut damaged = BytesMut::from(valid);
    for at in 0..valid.len() {
        for flip in [0x01, 0x04, 0x80, 0xff] {
            damaged[at] ^= flip;
            check(&damaged);
            damaged[at] ^= flip;
        }
    }
}

pub(crate) fn plain_event(event_type: &str, payload: &[u8]) -> Event {
    Event {
        event_type: event_type.into(),
        schema: SchemaVersion { major: 1, minor: 2 },
        content_type: ContentType::Json,
        payload: Bytes::copy_from_slice(payload),
        event_id: None,
        metadata: Vec::new(),
        envelope: None,
        client_time: 1_800_000_000_000_000,
    }
}

/// An event with everything in it.
pub(crate) fn full_event() -> Event {
    Event {
        event_id: Some(EventId::new(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10)),
        metadata: vec![("user".into(), "ann".into()), ("cause".into(), String::new())],
        envelope: Some(Envelope { key_id: "k1".into(), nonce: [0x5a; 24] }),
        ..plain_event("Placed", b"{}")
    }
}

pub(crate) fn sample_key() -> AggregateKey {
    "acme/order/4821".parse().expect("valid")
}

/// Two members with events and sequences, one guard.
pub(crate) fn sample_write() -> Write {
    let member = |key: &str, guard, sequence, events: &[Event]| Member {
        key: key.parse().expect("valid"),
        guard,
        sequence: Option::map(sequence, Sequence::new),
        events: EncodedEvents::encode(events).expect("valid"),
        retention: None,
    };
    let two = [full_event(), plain_event("Paid", b"42")];
    let members = vec![
        member("acme/order/4821", Guard::Exact(Version::new(7)), Some(3), &two),
        member("acme/limit/1", Guard::Exists, None, &[]),
        member("acme/user/ann", Guard::NoStream, Some(1), &[plain_event("Seen", b"")]),
    ];
    Write { client_id: ClientId::new(0xc11e), members }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
