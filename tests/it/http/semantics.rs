//! One suite over both ways in: the Rust client and HTTP mean the same.

use celeriant_client::{Client, Error, Event, Expect, Watched};
use celeriant_net::json::{self, EventShape};
use serde_json::{Value, json};

use crate::support::{Http, Node};

/// A way into the store. What it is told and what it tells is JSON as documented; a failure is the
/// error object.
trait Door {
    fn write(&self, write: &Value) -> Result<Value, Value>;
    fn read(&self, key: &str, query: &[(&str, &str)]) -> Result<Vec<Value>, Value>;
    fn head(&self, key: &str, client: Option<&str>) -> Result<Value, Value>;
    fn names(&self, place: &[&str], prefix: &str) -> Result<Vec<String>, Value>;
    /// What happens after a stamp: so many events, and the stamp of the last.
    fn watch(&self, selector: &str, after: u64, count: usize) -> Vec<Value>;
}

struct Binary {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Binary {
    fn to(node: &Node) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let client = runtime.block_on(Client::connect(&node.url)).expect("it serves");
        Self { client, runtime }
    }
}

fn told(error: &Error) -> Value {
    let refusal = error.refusal();
    let (retry, definite) = (error.retry(), error.is_definite());
    json::error(error.name(), refusal.as_ref(), retry, definite, &error.to_string())
}

fn shape(key: &str, batch: &celeriant_client::Batch) -> Vec<Value> {
    let event = |recorded: &celeriant_client::Recorded| {
        let shape = EventShape {
            key,
            version: recorded.version,
            stamp: recorded.stamp,
            hash: recorded.hash,
            client_id: batch.client_id,
            sequence: batch.sequence,
            server_time: batch.server_time,
            event: recorded,
            raw: false,
        };
        serde_json::from_str(&json::event(&shape).expect("JSON")).expect("JSON")
    };
    batch.events.iter().map(event).collect()
}

impl Door for Binary {
    fn write(&self, write: &Value) -> Result<Value, Value> {
        let writing = json::parse_write(&write.to_string().into(), 0).expect("a write");
        let mut request = self.client.write();
        if let Some(client_id) = writing.client_id {
            request = request.client(client_id);
        }
        for part in writing.parts {
            let events = part.events.into_iter().map(Event::from);
            request = match part.retention {
                None => request.append(&part.key, events),
                Some(retention) => request.take_away(&part.key, retention),
            };
            request = request.expect(Expect::from(part.guard));
            if let Some(sequence) = part.sequence {
                request = request.sequence(sequence);
            }
        }
        let sent = self.runtime.block_on(async { request.await });
        sent.map(|receipt| json::receipt(&receipt)).map_err(|error| told(&error))
    }

    fn read(&self, key: &str, query: &[(&str, &str)]) -> Result<Vec<Value>, Value> {
        let mut read = self.client.read(&key.parse().expect("a key"));
        let number = |text: &str| text.parse::<u64>().expect("a number");
        for (name, value) in query {
            read = match *name {
                "from" => read.from(number(value)),
                "to" => read.to(number(value)),
                "limit" => read.limit(number(value)),
                "backwards" => read.backwards(),
                "types" => read.types(value.split(',')),
                other => panic!("{other}"),
            };
        }
        let backwards = query.iter().any(|(name, _)| *name == "backwards");
        let batches = self.runtime.block_on(read.collect()).map_err(|error| told(&error))?;
        let events = |batch| {
            let mut events = shape(key, batch);
            if backwards {
                events.reverse();
            }
            events
        };
        Ok(batches.iter().flat_map(events).collect())
    }

    fn head(&self, key: &str, client: Option<&str>) -> Result<Value, Value> {
        let mut head = self.client.head(&key.parse().expect("a key"));
        let client: Option<celeriant_client::ClientId> =
            client.map(|client| client.parse().expect("a UUID"));
        if let Some(client) = client {
            head = head.client(client);
        }
        let head = self.runtime.block_on(async { head.await });
        head.map(|head| json::head(key, &head, client)).map_err(|error| told(&error))
    }

    fn names(&self, place: &[&str], prefix: &str) -> Result<Vec<String>, Value> {
        let list = match place {
            [] => self.client.list_orgs(),
            [org] => self.client.list_types(org),
            [org, kind] => self.client.list(org, kind),
            _ => panic!("too deep"),
        };
        let names = self.runtime.block_on(list.prefix(prefix).page_size(2).collect());
        names.map_err(|error| told(&error))
    }

    fn watch(&self, selector: &str, after: u64, count: usize) -> Vec<Value> {
        self.runtime.block_on(async {
            let selector = selector.parse().expect("a selector");
            let mut feed = self.client.watch(selector).after(after).stream();
            let mut events = Vec::new();
            while events.len() < count {
                if let Watched::Batch { key, batch } = feed.next().await.expect("on").expect("well")
                {
                    events.extend(shape(key.as_str(), &batch));
                }
            }
            events
        })
    }
}

impl Door for Http {
    fn write(&self, write: &Value) -> Result<Value, Value> {
        let answer = self.post("/v1/write", &[], write);
        if answer.status == 201 { Ok(answer.json()) } else { Err(answer.problem(answer.status)) }
    }

    fn read(&self, key: &str, query: &[(&str, &str)]) -> Result<Vec<Value>, Value> {
        let query = query.iter().map(|(name, value)| format!("{name}={value}"));
        let query = query.collect::<Vec<_>>().join("&");
        let answer = self.get(&format!("/v1/aggregates/{key}/events?{query}"));
        if answer.status != 200 {
            return Err(answer.problem(answer.status));
        }
        Ok(answer.json()["events"].as_array().expect("a list").clone())
    }

    fn head(&self, key: &str, client: Option<&str>) -> Result<Value, Value> {
        let query = client.map(|client| format!("?client_id={client}")).unwrap_or_default();
        let answer = self.get(&format!("/v1/aggregates/{key}/head{query}"));
        if answer.status == 200 { Ok(answer.json()) } else { Err(answer.problem(answer.status)) }
    }

    fn names(&self, place: &[&str], prefix: &str) -> Result<Vec<String>, Value> {
        let (path, what) = match place {
            [] => ("/v1/orgs".to_owned(), "orgs"),
            [org] => (format!("/v1/orgs/{org}/types"), "types"),
            [org, kind] => (format!("/v1/orgs/{org}/types/{kind}/aggregates"), "aggregates"),
            _ => panic!("too deep"),
        };
        let (mut names, mut after) = (Vec::new(), String::new());
        loop {
            let answer = self.get(&format!("{path}?prefix={prefix}&limit=2{after}"));
            if answer.status != 200 {
                return Err(answer.problem(answer.status));
            }
            let page = answer.json();
            let page_names = page[what].as_array().expect("a list").iter();
            names.extend(page_names.map(|name| name.as_str().expect("text").to_owned()));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(names),
            }
        }
    }

    fn watch(&self, selector: &str, after: u64, count: usize) -> Vec<Value> {
        let mut stream = self.open(&format!("/v1/watch?selector={selector}&from={after}"), &[]);
        let mut events = Vec::new();
        while events.len() < count {
            let (event, id, data) = stream.event().expect("it goes on");
            if event == "append" {
                assert_eq!(id, data["stamp"].to_string());
                events.push(data);
            }
        }
        events
    }
}

/// Runs a case over both, each in an org of its own.
fn both(case: fn(&dyn Door, &str)) {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::dev(&dir.path().join("data"), &["--shards", "3"]);
    case(&Binary::to(&node), "binary");
    case(&node.http(), "http");
}

fn event(kind: &str, data: Value) -> Value {
    json!({"type": kind, "data": data})
}

fn append(key: &str, expect: Value, events: &[Value]) -> Value {
    json!({"writes": [{"key": key, "expect": expect, "events": events}]})
}

#[test]
fn guards_hold_or_refuse_and_every_failed_one_is_named() {
    both(|door, org| {
        let (alice, bob) = (format!("{org}/account/alice"), format!("{org}/account/bob"));
        let one = [event("Opened", json!({"by": "x"}))];
        let write = |key: &str, expect: Value| door.write(&append(key, expect, &one));
        let exists = write(&alice, json!("exists")).expect_err("nothing there");
        assert_eq!((&exists["error"], &exists["code"]), (&json!("Conflict"), &json!(2003)));
        assert_eq!(exists["conflicts"][0]["actual"], 0);
        let receipt = write(&alice, json!("none")).expect("new");
        assert_eq!(receipt["already_applied"], false);
        assert_eq!(receipt["writes"][0]["last_version"], 1);
        let none = write(&alice, json!("none")).expect_err("there is one");
        let expected =
            json!([{"key": alice, "expected": "none", "actual": 1, "already_applied": null}]);
        assert_eq!(none["conflicts"], expected);
        assert_eq!(none["retry"], "after_reading");
        assert_eq!(none["definite"], true);
        assert_eq!(write(&alice, json!(1)).expect("exact")["writes"][0]["first_version"], 2);
        assert_eq!(
            write(&alice, json!("exists")).expect("it does")["writes"][0]["last_version"],
            3
        );
        write(&alice, json!("any")).expect("always");
        assert_eq!(write(&alice, json!(3)).expect_err("stale")["conflicts"][0]["expected"], 3);
        // A guard alone, beside an event: both are checked, nothing lands.
        let guarded = json!({"writes": [
            {"key": alice, "expect": 1}, {"key": bob, "expect": 7, "events": one}]});
        let both = door.write(&guarded).expect_err("two guards fail");
        assert_eq!(both["conflicts"].as_array().expect("a list").len(), 2);
        assert_eq!(door.head(&bob, None).expect_err("nothing landed")["error"], "NotFound");
    });
}

#[test]
fn a_write_over_many_aggregates_and_shards_is_all_or_nothing() {
    both(|door, org| {
        let keys: Vec<String> = (0..12).map(|n| format!("{org}/account/a{n}")).collect();
        let write = |expect: Value| {
            let members = keys
                .iter()
                .map(|key| json!({"key": key, "expect": expect, "events": [event("T", json!(1))]}));
            json!({"writes": members.collect::<Vec<_>>()})
        };
        let receipt = door.write(&write(json!("none"))).expect("new");
        let written: Vec<&Value> =
            receipt["writes"].as_array().expect("a list").iter().map(|one| &one["key"]).collect();
        assert_eq!(written, keys.iter().collect::<Vec<_>>(), "in the caller's order");
        door.write(&append(&keys[5], json!(1), &[event("T", json!(2))])).expect("one is ahead");
        let error = door.write(&write(json!(1))).expect_err("one is ahead");
        assert_eq!(error["conflicts"].as_array().expect("a list").len(), 1);
        for (at, key) in keys.iter().enumerate() {
            let head = door.head(key, None).expect("there");
            assert_eq!(head["version"], if at == 5 { 2 } else { 1 }, "{key}");
        }
    });
}

#[test]
fn what_is_deleted_or_trimmed_is_gone_and_versions_go_on() {
    both(|door, org| {
        let key = format!("{org}/account/dora");
        let take = |what: Value| {
            let mut member = json!({"key": key, "expect": "exists"});
            member.as_object_mut().expect("it is").extend(what.as_object().expect("it is").clone());
            door.write(&json!({"writes": [member]}))
        };
        assert_eq!(take(json!({"delete": {}})).expect_err("nothing there")["error"], "Conflict");
        let events = [1, 2, 3].map(|n| event("T", json!(n)));
        door.write(&append(&key, json!("none"), &events)).expect("new");
        take(json!({"trim": {"keep_from": 3}})).expect("trimmed");
        let left = door.read(&key, &[]).expect("some");
        assert_eq!((left.len(), &left[0]["version"]), (1, &json!(3)));
        let trimmed = door.read(&key, &[("from", "2")]).expect_err("gone");
        assert_eq!(trimmed["first_available"], 3);
        let receipt = take(json!({"delete": {}})).expect("deleted");
        assert_eq!(receipt["writes"][0]["last_version"], 3);
        assert_eq!(door.read(&key, &[]).expect_err("gone")["error"], "Deleted");
        let head = door.head(&key, None).expect("it is known");
        assert_eq!((&head["deleted"], &head["version"]), (&json!(true), &json!(3)));
        assert_eq!(take(json!({"delete": {}})).expect_err("no more")["error"], "Conflict");
        door.write(&append(&key, json!("none"), &events[..1])).expect("anew");
        assert_eq!(door.read(&key, &[]).expect("one")[0]["version"], 4);
        let told = door.watch(&key, 0, 1);
        assert_eq!(told[0]["version"], 4, "what was deleted does not show again");
        take(json!({"delete": {"recreate": false, "forget_sequences": true}})).expect("for ever");
        let refused = door.write(&append(&key, json!("any"), &events[..1])).expect_err("for ever");
        assert_eq!((&refused["error"], &refused["retry"]), (&json!("Deleted"), &json!("never")));
    });
}

#[test]
fn a_sequence_lands_once_and_says_what_is_wrong_with_another() {
    both(|door, org| {
        let key = format!("{org}/account/carol");
        let client = "00000000-0000-0000-0000-000000000007";
        let write = |sequence: u64, expect: Value, data: u64| {
            door.write(&json!({"client_id": client, "writes": [{"key": key, "expect": expect,
                "sequence": sequence, "events": [event("T", json!(data))]}]}))
        };
        let first = write(1, json!("none"), 1).expect("new");
        // The same again, with a guard that fails by now: it has landed, and this is its receipt.
        let again = write(1, json!("none"), 1).expect("it has landed");
        assert_eq!(again["already_applied"], true);
        assert_eq!((&again["writes"], &again["stamp"]), (&first["writes"], &first["stamp"]));
        assert_eq!(write(1, json!("any"), 2).expect_err("another")["error"], "SequenceReused");
        let gap = write(3, json!("any"), 3).expect_err("a gap");
        assert_eq!((&gap["error"], &gap["expected"]), (&json!("SequenceGap"), &json!(2)));
        for sequence in 2..=18 {
            write(sequence, json!(sequence - 1), sequence).expect("next");
        }
        assert_eq!(write(1, json!("any"), 1).expect_err("long ago")["error"], "SequenceStale");
        let head = door.head(&key, Some(client)).expect("there");
        assert_eq!((&head["version"], &head["last_sequence"]), (&json!(18), &json!(18)));
        let events = door.read(&key, &[("to", "1")]).expect("there");
        assert_eq!((&events[0]["client_id"], &events[0]["sequence"]), (&json!(client), &json!(1)));
    });
}

#[test]
fn reads_are_bounded_turned_and_filtered() {
    both(|door, org| {
        let key = format!("{org}/account/dave");
        for (kind, data) in [("A", 1), ("B", 2), ("A", 3), ("B", 4), ("A", 5)] {
            door.write(&append(&key, json!("any"), &[event(kind, json!(data))])).expect("written");
        }
        let versions = |query: &[(&str, &str)]| -> Vec<u64> {
            let events = door.read(&key, query).expect("there");
            events.iter().map(|event| event["version"].as_u64().expect("a number")).collect()
        };
        assert_eq!(versions(&[]), [1, 2, 3, 4, 5]);
        assert_eq!(versions(&[("from", "2"), ("to", "4")]), [2, 3, 4]);
        assert_eq!(versions(&[("backwards", "1"), ("limit", "2")]), [5, 4]);
        assert_eq!(versions(&[("types", "A")]), [1, 3, 5]);
        assert_eq!(versions(&[("types", "A,B"), ("limit", "3")]), [1, 2, 3]);
        assert_eq!(versions(&[("types", "C")]), [0u64; 0]);
        let nobody = format!("{org}/account/nobody");
        let missing = door.read(&nobody, &[]).expect_err("nobody there");
        assert_eq!((&missing["error"], &missing["key"]), (&json!("NotFound"), &json!(nobody)));
        let event = &door.read(&key, &[("limit", "1")]).expect("there")[0];
        for (field, value) in [
            ("key", json!(key)),
            ("type", json!("A")),
            ("schema", json!("1.0")),
            ("content_type", json!("json")),
            ("data", json!(1)),
            ("client_id", Value::Null),
            ("meta", json!({})),
        ] {
            assert_eq!(event[field], value, "{field}");
        }
        assert_eq!(event["hash"].as_str().expect("text").len(), 64);
    });
}

#[test]
fn names_are_listed_in_order_page_by_page() {
    both(|door, org| {
        for key in ["b/x", "a/2", "a/1", "a/3", "a/10", "c/x"] {
            let key = format!("{org}/{key}");
            door.write(&append(&key, json!("none"), &[event("T", json!(1))])).expect("new");
        }
        assert_eq!(door.names(&[], org).expect("there"), [org]);
        assert_eq!(door.names(&[org], "").expect("there"), ["a", "b", "c"]);
        assert_eq!(door.names(&[org, "a"], "").expect("there"), ["1", "10", "2", "3"]);
        assert_eq!(door.names(&[org, "a"], "1").expect("there"), ["1", "10"]);
        assert_eq!(door.names(&["nobody"], "").expect("nothing"), [""; 0]);
        assert_eq!(door.names(&["a:b"], "").expect_err("no name")["error"], "InvalidArgument");
    });
}

#[test]
fn a_watch_tells_everything_once_in_order_and_goes_on_behind_any_stamp() {
    both(|door, org| {
        let keys: Vec<String> = (0..6).map(|n| format!("{org}/order/{n}")).collect();
        for key in &keys {
            let events = [event("Placed", json!(1)), event("Paid", json!(2))];
            door.write(&append(key, json!("none"), &events)).expect("new");
        }
        let all = door.watch(org, 0, 12);
        let stamps: Vec<u64> =
            all.iter().map(|event| event["stamp"].as_u64().expect("a number")).collect();
        assert!(stamps.is_sorted_by(|a, b| a < b), "{stamps:?}");
        for key in &keys {
            let events = all.iter().filter(|event| event["key"] == key.as_str());
            let versions: Vec<&Value> = events.map(|event| &event["version"]).collect();
            assert_eq!(versions, [1, 2]);
        }
        // Also from the middle of a batch.
        for at in [0, 4, 5, 10] {
            assert_eq!(door.watch(org, stamps[at], 11 - at), all[at + 1..], "behind {at}");
        }
        let one = door.watch(&keys[3], 0, 2);
        assert_eq!(one, door.read(&keys[3], &[]).expect("there"));
    });
}

#[test]
fn what_makes_no_sense_is_refused_by_its_place() {
    both(|door, org| {
        let key = format!("{org}/account/erin");
        let nothing = door.write(&json!({"writes": [{"key": key}]})).expect_err("no events");
        assert_eq!(nothing["error"], "InvalidArgument");
        let one = [event("T", json!(1))];
        let twice = json!({"writes": [{"key": key, "events": one}, {"key": key, "events": one}]});
        assert_eq!(door.write(&twice).expect_err("twice")["field"], "members");
        let own = json!({"writes": [{"key": "$system/schemas/x", "events": one}]});
        assert_eq!(door.write(&own).expect_err("not ours")["field"], "members[0].key");
        let long = event(&"x".repeat(65), json!(1));
        let long = door.write(&append(&key, json!("any"), &[long])).expect_err("too long");
        assert!(long["error"] == "TooLarge" || long["error"] == "InvalidArgument", "{long}");
        assert_eq!(door.head(&key, None).expect_err("nothing landed")["error"], "NotFound");
    });
}
