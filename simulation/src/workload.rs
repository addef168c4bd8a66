//! What clients do, as numbers; and the requests that come of it.

use bytes::Bytes;
use celeriant_actors::admin::Order;
use celeriant_actors::schemas::order::SchemaOrder;
use celeriant_schema::system::mark_of;
use celeriant_schema::{
    AggregateKey, ClientId, ContentType, EncodedEvents, Event, FeedQuery, Guard, HeadQuery,
    ListQuery, Member, ReadQuery, Request, Retention, SchemaVersion, Selector, Sequence, ShardId,
    Stamp, Version, Write,
};
use serde::{Deserialize, Serialize};

use crate::ledger::{OperationId, tag};
use crate::mark;
use crate::rng::Rng;
use crate::timeline::Micros;

/// What clients do.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// How many clients.
    pub clients: usize,
    /// Mean pause between a client's operations, in µs.
    pub think_us: Micros,
    /// How long a client waits for an answer before it sends again, in ms.
    pub timeout_ms: u64,
    /// Aggregates that all clients share; fewer means more conflicts.
    pub aggregates: u64,
    /// Clients of a thousand that share their client id with another.
    pub siblings_per_mille: u64,
    /// Writes of a thousand that carry sequences.
    pub sequenced_per_mille: u64,
    /// Requests of a thousand that carry a deadline.
    pub deadline_per_mille: u64,
    /// Writes of a thousand that carry large payloads.
    pub large_per_mille: u64,
    /// Clients that only follow feeds.
    #[serde(default)]
    pub watchers: usize,
    /// Clients that only register schemas, of events that others write meanwhile.
    #[serde(default)]
    pub registrars: usize,
    /// How often each action is chosen.
    pub weights: Weights,
}

/// Orgs of clients' aggregates.
const ORGS: u64 = 2;
/// How long pages of feeds wait.
const FEED_WAITS_MS: [u32; 3] = [0, 300, 3_000];

/// How often each action is chosen, against the others.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// Append to one aggregate, guard by chance.
    pub append: u64,
    /// Write to several aggregates, on any shards, guards by chance, some of them only guards.
    pub write: u64,
    /// Send an old operation again.
    pub resend: u64,
    /// Use a sequence that is not the next one.
    pub wrong_sequence: u64,
    /// Send the same request twice at once.
    pub duplicate: u64,
    /// Read an aggregate, page by page.
    pub read: u64,
    /// Read a head.
    pub head: u64,
    /// List names, page by page.
    pub list: u64,
    /// Ping.
    pub ping: u64,
    /// Delete or trim an aggregate. If that is ever done, writes to several aggregates do it, too,
    /// now and then.
    #[serde(default)]
    pub take_away: u64,
}

impl Workload {
    /// One by chance.
    pub fn of(rng: &mut Rng) -> Self {
        let mut weight = |to: u64| if rng.chance(850) { rng.between(1, to) } else { 0 };
        let weights = Weights {
            append: weight(10) + 1,
            write: weight(8),
            resend: weight(2),
            wrong_sequence: weight(2),
            duplicate: weight(3),
            read: weight(5),
            head: weight(3),
            list: weight(2),
            ping: weight(1),
            take_away: 0,
        };
        Self {
            clients: rng.between(2, 8) as usize,
            think_us: *rng.pick(&[25_000, 80_000, 200_000]),
            timeout_ms: *rng.pick(&[100, 400, 1_500]),
            aggregates: *rng.pick(&[2, 6, 20, 60]),
            siblings_per_mille: *rng.pick(&[0, 300, 900]),
            sequenced_per_mille: *rng.pick(&[300, 700, 1000]),
            deadline_per_mille: *rng.pick(&[0, 100, 300]),
            large_per_mille: *rng.pick(&[0, 20, 100]),
            watchers: 0,
            registrars: 0,
            weights,
        }
    }

    /// How long an answer may take when nothing is wrong, in µs: a page of a feed waits for events.
    pub fn patience(&self) -> Micros {
        let longest = FEED_WAITS_MS.iter().max().copied().unwrap_or_default();
        2_000_000 + if self.watchers > 0 { Micros::from(longest) * 1_000 } else { 0 }
    }

    /// Aggregate number `number`.
    ///
    /// # Panics
    /// Never: the names are legal.
    pub fn key(number: u64) -> AggregateKey {
        let (org, kind) = (number % ORGS, number / ORGS % 2);
        match AggregateKey::new(&format!("org{org}"), &format!("kind{kind}"), &format!("a{number}"))
        {
            Ok(key) => key,
            Err(error) => panic!("aggregate {number}: {error}"),
        }
    }

    /// Every aggregate that clients can have written; if some of them give orders, the store's own
    /// that those go to, shard by shard.
    pub fn all_keys(&self, shards: u16) -> Vec<AggregateKey> {
        let orgs = if self.registrars > 0 { ORGS } else { 0 };
        let orgs = (0..orgs).flat_map(|org| (0..shards).map(move |shard| (org, shard)));
        let own = orgs.map(|(org, shard)| mark(&format!("org{org}"), shard, shards));
        (0..self.aggregates).map(Self::key).chain(own).collect()
    }

    /// Client id of client `index`: siblings share one.
    pub fn client_id(&self, index: usize, rng: &mut Rng) -> ClientId {
        let shared = rng.chance(self.siblings_per_mille);
        ClientId::new(if shared { 1_000 } else { 1 + index as u128 })
    }

    /// Keys for one write, different ones.
    pub fn keys(&self, count: u64, rng: &mut Rng) -> Vec<AggregateKey> {
        let mut keys = Vec::new();
        for _ in 0..count {
            let key = Self::key(rng.below(self.aggregates));
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    /// Events for member `member` of operation `id`.
    pub fn events(&self, id: OperationId, member: usize, rng: &mut Rng) -> EncodedEvents {
        let count = match rng.below(20) {
            0 => rng.between(4, 30),
            1..=5 => rng.between(2, 3),
            _ => 1,
        };
        let bytes_max = if rng.chance(self.large_per_mille) { 12_000 } else { 60 };
        let events: Vec<Event> = (0..count as usize)
            .map(|index| {
                let event_id = Some(tag(id, member, index));
                let event = match self.registrars > 0 && rng.chance(WITH_SCHEMA_PER_MILLE) {
                    true => event_with_schema(rng),
                    false => {
                        let event_type = format!("T{}", rng.below(3));
                        let len = rng.below(bytes_max / count) as usize;
                        let payload = mark::payload((id, member, index), len);
                        Event::plain(event_type, ContentType::Bytes, payload)
                    }
                };
                Event { event_id, client_time: id as i64, ..event }
            })
            .collect();
        match EncodedEvents::encode(&events) {
            Ok(encoded) => encoded,
            Err(refusal) => panic!("operation {id}: {refusal}"),
        }
    }
}

/// The aggregate that counts in `shard` what was said about an org's schemas.
///
/// # Panics
/// Never: the names are legal.
pub fn mark(org: &str, shard: u16, shards: u16) -> AggregateKey {
    match mark_of(org, ShardId::new(shard), shards) {
        Ok(key) => key,
        Err(error) => panic!("{org}: {error}"),
    }
}

/// The type of events that schemas are registered for.
pub const WITH_SCHEMA: &str = "S";
/// Minor versions of it.
const MINORS: u64 = 4;
/// Events of a thousand that are of that type, if somebody registers schemas.
const WITH_SCHEMA_PER_MILLE: u64 = 300;
/// Every version of it says the same.
const SCHEMA: &str =
    r#"{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}"#;
/// A payload that conforms, and one that does not.
const PAYLOADS: [&[u8]; 2] = [br#"{"n": 7}"#, br#"{"n": "7"}"#];

fn event_with_schema(rng: &mut Rng) -> Event {
    let payload = Bytes::from_static(PAYLOADS[usize::from(rng.chance(200))]);
    // One version that is never registered.
    let schema = SchemaVersion { major: 1, minor: rng.below(MINORS + 1) as u16 };
    Event { schema, ..Event::plain(WITH_SCHEMA, ContentType::Json, payload) }
}

/// Whether such a payload conforms to the schema, if there is one.
pub fn conforms(payload: &[u8]) -> bool {
    payload == PAYLOADS[0]
}

/// An order of a registrar by chance.
///
/// # Panics
/// Never: orders are texts.
pub fn schema_order(rng: &mut Rng) -> Request {
    let org = format!("org{}", rng.below(ORGS));
    let order = match rng.chance(300) {
        true => SchemaOrder::List { org },
        false => SchemaOrder::Register {
            schema: format!("{org}/*/{WITH_SCHEMA}@1.{}", rng.below(MINORS)),
            format: "json".into(),
            message: String::new(),
            text: SCHEMA.into(),
            force: false,
            dry_run: false,
        },
    };
    match serde_json::to_vec(&Order::Schema(order)) {
        Ok(order) => Request::Admin(order.into()),
        Err(error) => panic!("an order: {error}"),
    }
}

/// What to take away from an aggregate at about `version`, by chance.
pub fn retention(key: &AggregateKey, version: Version, rng: &mut Rng) -> Retention {
    if rng.chance(450) {
        let keep_from = Version::new(rng.between(1, version.value() + 2));
        return Retention::Trim { keep_from };
    }
    // Only some ever end for good, so that a run goes on.
    let may_end = key.id().ends_with(['2', '5', '8']);
    Retention::Delete { recreate: !(may_end && rng.chance(150)), forget_sequences: rng.chance(300) }
}

/// A write that takes something away, and nothing else. Operation `id` is known by its client's id:
/// there is no event to say it.
pub fn taking(
    id: OperationId,
    (key, guard): (AggregateKey, Guard),
    retention: Retention,
    is_sequenced: bool,
) -> Request {
    let client_id = ClientId::new(tag(id, 0, 0).value());
    let sequence = is_sequenced.then(|| Sequence::new(1));
    let events = EncodedEvents::default();
    let member = Member { key, guard, sequence, events, retention: Some(retention) };
    Request::Write(Write { client_id, members: vec![member] })
}

/// A guard by chance, most often one that holds if `version` is right.
pub fn guard(version: Version, rng: &mut Rng) -> Guard {
    match rng.below(10) {
        0 | 1 => Guard::Any,
        2 => Guard::Exists,
        3 if version.value() > 0 => Guard::Exact(Version::new(rng.below(version.value()))),
        4 => Guard::NoStream,
        _ if version == Version::NONE => Guard::NoStream,
        _ => Guard::Exact(version),
    }
}

/// A write.
pub fn write(client_id: ClientId, members: Vec<Member>) -> Request {
    let sequenced = members.iter().any(|member: &Member| member.sequence.is_some());
    let client_id = if sequenced { client_id } else { ClientId::NONE };
    Request::Write(Write { client_id, members })
}

/// One member of a write.
pub fn member(
    key: AggregateKey,
    guard: Guard,
    sequence: Option<Sequence>,
    events: EncodedEvents,
) -> Member {
    Member { key, guard, sequence, events, retention: None }
}

/// A read by chance: range, direction, limit, filters, `min_stamp`.
pub fn read(key: AggregateKey, version: Version, newest: Stamp, rng: &mut Rng) -> ReadQuery {
    let some = |per_mille: u64, rng: &mut Rng| rng.chance(per_mille);
    let version = version.value();
    let from = if some(300, rng) { rng.below(version + 2) } else { 0 };
    ReadQuery {
        key,
        from: Version::new(from),
        to: some(200, rng).then(|| Version::new(rng.between(from, version + 3))),
        backwards: some(300, rng),
        limit: some(300, rng).then(|| rng.between(1, 12)),
        types: if some(200, rng) {
            vec![Bytes::from(format!("T{}", rng.below(3)))]
        } else {
            vec![]
        },
        client: some(150, rng).then(|| ClientId::new(u128::from(rng.between(1, 4)))),
        since: some(50, rng).then(|| newest.unix_micros() - rng.below(10_000_000) as i64),
        until: some(50, rng).then(|| newest.unix_micros() - rng.below(10_000_000) as i64),
        min_stamp: some(300, rng).then_some(newest),
        any: some(200, rng),
    }
}

/// A head by chance.
pub fn head(key: AggregateKey, newest: Stamp, rng: &mut Rng) -> HeadQuery {
    HeadQuery {
        key,
        client: rng.chance(600).then(|| ClientId::new(u128::from(rng.between(1, 4)))),
        min_stamp: rng.chance(200).then_some(newest),
        any: rng.chance(100),
    }
}

/// A feed by chance.
pub fn feed(newest: Stamp, rng: &mut Rng) -> FeedQuery {
    let selector = match rng.below(4) {
        0 => Selector::All,
        1 => Selector::org(format!("org{}", rng.below(2))),
        2 => Selector::of_type(format!("org{}", rng.below(2)), format!("kind{}", rng.below(2))),
        _ => Selector::Aggregate(Workload::key(rng.below(3))),
    };
    let types = match rng.chance(300) {
        true => vec![Bytes::from(format!("T{}", rng.below(3)))],
        false => Vec::new(),
    };
    let after = match rng.below(4) {
        0 => None,
        1 => Some(newest),
        2 => Some(Stamp::new(newest.value().saturating_sub(rng.below(20_000_000)))),
        _ => Some(Stamp::ZERO),
    };
    let wait_ms = *rng.pick(&FEED_WAITS_MS);
    FeedQuery { selector, types, after, wait_ms, headers_only: false, more: 0 }
}

/// A listing by chance.
pub fn list(rng: &mut Rng) -> ListQuery {
    let org = rng.chance(700).then(|| format!("org{}", rng.below(3)));
    let kind = org.as_ref().and_then(|_| rng.chance(700).then(|| format!("kind{}", rng.below(2))));
    let prefix = if rng.chance(200) { "a1".into() } else { String::new() };
    ListQuery { org, kind, prefix, after: None, limit: rng.between(1, 12) as u32 }
}
