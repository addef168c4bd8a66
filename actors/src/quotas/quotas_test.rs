//! Quotas as text, and what is left of them.

use celeriant_schema::{
    BatchHeader, BootId, ClientId, Epoch, FeedBatch, FeedPage, FeedQuery, Guard, Hash, HeadQuery,
    ListPage, ListQuery, Member, Page, ReadEvent, ReadQuery, Stamp, Version, WriteId,
};

use super::*;
use crate::shard::core::rig::events;

fn write(orgs: &[&str]) -> Request {
    let member = |org: &&str| Member {
        key: format!("{org}/account/a").parse().expect("a key"),
        guard: Guard::Any,
        sequence: None,
        events: events(1, "payload"),
        retention: None,
    };
    let members = orgs.iter().map(member).collect();
    Request::Write(Write { client_id: ClientId::NONE, members })
}

fn bytes(write: &Request) -> u64 {
    let Request::Write(write) = write else { unreachable!("it is one") };
    write.members[0].events.as_bytes().len() as u64
}

fn meter(text: &str) -> Arc<Meter> {
    Arc::new(Meter::new(text.parse().expect("quotas")))
}

/// How long until `request` is let in; 0: it was.
fn wait(meter: &Arc<Meter>, now: Micros, request: &Request) -> u32 {
    match meter.admit(|| now, request) {
        Ok(_) => 0,
        Err(Refusal::Overloaded { retry_after_ms, what }) => {
            assert!(what.starts_with("quota of "), "{what}");
            retry_after_ms
        }
        Err(refusal) => panic!("{refusal}"),
    }
}

const SECOND: Micros = 1_000_000;

#[test]
fn an_org_has_what_a_second_brings_and_others_are_not_concerned() {
    let meter = meter("acme:writes=2 *:writes=1");
    let takes = |now, orgs: &[&str]| wait(&meter, now, &write(orgs));
    assert_eq!([takes(0, &["acme"]), takes(0, &["acme"])], [0, 0]);
    let early = takes(0, &["acme"]);
    assert!((1..=2).contains(&early), "an empty bucket is open again at once: {early}");
    assert_eq!([takes(0, &["rival"]), takes(0, &["third"])], [0, 0], "each its own");
    assert_eq!(meter.refused(), 1);
    assert_eq!([takes(SECOND, &["acme"]), takes(SECOND, &["acme"])], [0, 0]);
    assert!(takes(SECOND, &["acme"]) > 0, "no more than a second's worth is saved");
    // All or none: the free one is not charged.
    assert!(takes(SECOND, &["acme", "fresh"]) > 0);
    assert_eq!(takes(SECOND, &["fresh"]), 0);
}

#[test]
fn a_write_that_is_larger_than_a_second_s_worth_is_paid_for_afterwards() {
    let write = write(&["acme"]);
    let bytes = bytes(&write);
    let meter = meter("acme:bytes=1");
    assert_eq!(wait(&meter, 0, &write), 0);
    let left = u64::from(wait(&meter, SECOND, &write));
    assert!(((bytes - 3) * 1_000..bytes * 1_000).contains(&left), "{left} ms for {bytes} bytes");
    assert_eq!(wait(&meter, bytes * SECOND, &write), 0);
    // A clock never goes back, and would do no harm.
    assert!(wait(&meter, 0, &write) > 0);
}

#[test]
fn without_quotas_and_for_the_store_itself_there_is_no_limit() {
    for (text, org) in
        [("", "acme"), ("rival:writes=1,reads=1", "acme"), ("*:writes=1,reads=1", "$system")]
    {
        let meter = meter(text);
        for request in [write(&[org]), read(org)] {
            assert!((0..100).all(|_| wait(&meter, 0, &request) == 0), "{text}");
        }
    }
}

#[test]
fn what_is_no_quota_is_refused() {
    let both: Quotas = "acme:writes=100,bytes=1MiB".parse().expect("quotas");
    let writers = Quota { writes: Some(100), bytes: Some(1 << 20), ..Quota::default() };
    assert_eq!(both.0["acme"], writers);
    let seats: Quotas = "*:connections=7,watchers=2".parse().expect("quotas");
    let both = Quota { connections: Some(7), watchers: Some(2), ..Quota::default() };
    assert_eq!(seats.0[ANY], both);
    let asked = |text: &str, request: &Request| {
        let mut asked = false;
        let now = || {
            asked = true;
            0
        };
        meter(text).admit(now, request).expect("it is the first");
        asked
    };
    for (text, rows) in [
        ("*:connections=7,watchers=2", [false, false]),
        ("*:writes=1", [true, false]),
        ("*:read_bytes=1", [false, true]),
    ] {
        assert_eq!([write(&["acme"]), read("acme")].map(|it| asked(text, &it)), rows, "{text}");
    }
    let readers: Quotas = "acme:reads=5,read_bytes=1KiB".parse().expect("quotas");
    assert_eq!(readers.0["acme"].readers(), [Some(5), Some(1 << 10)]);
    for bad in [
        "acme",
        "acme:writes",
        "acme:heads=1",
        "acme:writes=0",
        "acme:read_bytes=x",
        "a/b:writes=1",
    ] {
        assert_eq!(bad.parse::<Quotas>(), Err(QuotasError(bad.to_owned())));
    }
    assert!("acme:writes=1 acme:writes=2".parse::<Quotas>().is_err(), "twice");
    assert!("acme:bytes=99999GiB".parse::<Quotas>().is_err(), "too much");
}

fn read(org: &str) -> Request {
    Request::Read(ReadQuery::all(format!("{org}/account/a").parse().expect("a key")))
}

fn feed(selector: &str) -> Request {
    let selector = selector.parse().expect("a selector");
    Request::Feed(FeedQuery { selector, ..FeedQuery::default() })
}

fn list(org: Option<&str>) -> Request {
    let org = org.map(str::to_owned);
    Request::List(ListQuery { org, kind: None, prefix: String::new(), after: None, limit: 1 })
}

#[test]
fn readers_have_what_a_second_brings_of_each_org_that_they_ask_for() {
    let meter = meter("acme:reads=2 rival:reads=1");
    let takes = |now, request: &Request| wait(&meter, now, request);
    let head = HeadQuery {
        key: "acme/account/a".parse().expect("a key"),
        client: None,
        min_stamp: None,
        any: false,
    };
    let of_acme =
        [read("acme"), Request::Head(head), list(Some("acme")), feed("acme/account"), feed("acme")];
    for (second, request) in (0..).zip(&of_acme) {
        let now = second * SECOND;
        assert_eq!([takes(now, request), takes(now, &of_acme[0])], [0, 0], "{request:?}");
        assert!(takes(now, request) > 0, "{request:?}");
        // Several selectors of one org are one read of it.
        assert!(takes(now, &feed("acme/a\nacme/b")) > 0);
    }
    assert_eq!((meter.refused_reads(), meter.refused()), (10, 0));
    // All or none, and nobody's.
    let both = feed("acme/a\nrival/b");
    assert_eq!([takes(9 * SECOND, &both), takes(9 * SECOND, &read("acme"))], [0, 0]);
    assert!(takes(9 * SECOND, &both) > 0);
    for free in [feed("*"), list(None), read("other"), write(&["acme"])] {
        assert!((0..100).all(|_| takes(9 * SECOND, &free) == 0), "{free:?}");
    }
}

/// A batch of one event of so many bytes.
fn batch(bytes: usize) -> ReadBatch {
    let version = Version::NONE.next();
    let header = BatchHeader {
        first_version: version,
        last_version: version,
        client_id: ClientId::NONE,
        sequence: None,
        server_time: 0,
        stamp: Stamp::new(1),
        write_id: WriteId { epoch: Epoch::new(1), boot: BootId::new(1), counter: 1 },
    };
    let event = ReadEvent { version, hash: Hash([0; 32]), body: vec![0; bytes].into() };
    ReadBatch { header, events: vec![event] }
}

fn page(bytes: usize) -> Response {
    let (version, stamp) = (Version::NONE.next(), Stamp::new(1));
    Response::Page(Page { version, stamp, batches: vec![batch(bytes)], next: None })
}

fn feed_page(parts: &[(&str, usize)]) -> Response {
    let batch = |(org, bytes): &(&str, usize)| FeedBatch {
        key: format!("{org}/account/a").parse().expect("a key"),
        batch: batch(*bytes),
        notice: None,
    };
    Response::Feed(FeedPage { batches: parts.iter().map(batch).collect(), ..FeedPage::default() })
}

#[test]
fn what_is_read_is_paid_for_when_it_is_answered() {
    let names = ListPage { names: vec!["n".repeat(3_000); 2], more: false };
    let rows = [
        (read("acme"), page(6_000)),
        (list(Some("acme")), Response::List(names)),
        // Of a feed over several, each pays for its own.
        (feed("acme\nrival"), feed_page(&[("acme", 6_000), ("rival", 500)])),
    ];
    for (request, response) in rows {
        let meter = meter("*:read_bytes=1000");
        let bill = meter.admit(|| 0, &request).expect("it is the first").expect("it is due");
        assert_eq!(wait(&meter, 0, &read("acme")), 0, "nobody knows yet");
        bill.pay(&response);
        let left = wait(&meter, 0, &read("acme"));
        assert!((5_000..5_010).contains(&left), "{left} ms for {request:?}");
        assert_eq!(wait(&meter, 0, &read("rival")), 0);
        assert_eq!(wait(&meter, 6 * SECOND, &read("acme")), 0, "{request:?}");
        assert_eq!(meter.refused_reads(), 1);
    }
    // What costs no bytes is no bill, and what is of all orgs is paid by none.
    let meter = meter("acme:reads=100 rival:read_bytes=1");
    for request in [read("acme"), feed("*"), list(None), write(&["rival"])] {
        assert!(meter.admit(|| 0, &request).expect("let in").is_none(), "{request:?}");
    }
    let bill = meter.admit(|| 0, &feed("acme\nrival")).expect("let in").expect("it is due");
    bill.pay(&Response::Refused(Refusal::NoLeader));
    bill.pay(&feed_page(&[("acme", 6_000)]));
    assert_eq!(wait(&meter, 0, &read("rival")), 0, "not for another's events");
}
