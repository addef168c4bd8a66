//! `POST /v1/sync` on a real node: a device that comes back with what it wrote.

use serde_json::{Value, json};

use super::node;
use crate::support::Http;

const DEVICE: &str = "11111111-2222-3333-4444-555555555555";
const LIST: &str = "home/list/groceries";

fn add(key: &str, sequence: u64, item: &str) -> Value {
    let events = json!([{"type": "Added", "data": {"item": item}}]);
    json!({"key": key, "sequence": sequence, "events": events})
}

fn guarded(mut write: Value, expect: Value) -> Value {
    write["expect"] = expect;
    write
}

/// What became of each write: pairs of number and status; and all of it.
fn sync(http: &Http, writes: &[Value]) -> (Vec<(u64, String)>, Vec<Value>) {
    let body = json!({"client_id": DEVICE, "writes": writes});
    let results = http.post("/v1/sync", &[], &body).expect(200)["results"].clone();
    let results = results.as_array().expect("results").clone();
    let status = |result: &Value| {
        let status = result["status"].as_str().expect("a status").to_owned();
        (result["sequence"].as_u64().expect("a sequence"), status)
    };
    (results.iter().map(status).collect(), results)
}

fn items(http: &Http, key: &str) -> Vec<Value> {
    let page = http.get(&format!("/v1/aggregates/{key}/events")).expect(200);
    let events = page["events"].as_array().expect("events").clone();
    events.into_iter().map(|event| event["data"]["item"].clone()).collect()
}

fn statuses(all: &[(u64, &str)]) -> Vec<(u64, String)> {
    all.iter().map(|(sequence, status)| (*sequence, (*status).to_owned())).collect()
}

#[test]
fn what_a_device_wrote_is_applied_in_order_and_once_however_often_it_says_so() {
    let (_dir, _node, http) = node();
    let other = "home/list/tools";
    let writes =
        [add(LIST, 1, "milk"), add(other, 1, "saw"), add(LIST, 2, "eggs"), add(LIST, 3, "tea")];
    let (told, first) = sync(&http, &writes);
    let all = |status| statuses(&[(1, status), (1, status), (2, status), (3, status)]);
    assert_eq!(told, all("accepted"));
    assert_eq!(first[2]["receipt"]["writes"][0]["first_version"], 2);
    let (told, again) = sync(&http, &writes);
    assert_eq!(told, all("already_applied"));
    for (first, again) in first.iter().zip(&again) {
        assert_eq!(first["receipt"]["writes"], again["receipt"]["writes"], "the original receipt");
    }
    assert_eq!(
        (items(&http, LIST), items(&http, other)),
        ([json!("milk"), json!("eggs"), json!("tea")].to_vec(), vec![json!("saw")])
    );
}

#[test]
fn a_conflict_brings_what_was_missed_and_holds_up_its_aggregate_only() {
    let (_dir, _node, http) = node();
    sync(&http, &[add(LIST, 1, "milk")]);
    let elsewhere = json!({"events": [{"type": "Added", "data": {"item": "bread"}}]});
    http.post(&format!("/v1/aggregates/{LIST}/events"), &[], &elsewhere).expect(201);

    let mine = [
        guarded(add(LIST, 2, "eggs"), json!(1)),
        add(LIST, 3, "tea"),
        guarded(add("home/list/new", 1, "saw"), json!("none")),
    ];
    let (told, results) = sync(&http, &mine);
    assert_eq!(told, statuses(&[(2, "conflict"), (3, "held"), (1, "accepted")]));
    let missed = results[0]["missed"].as_array().expect("events");
    assert_eq!((missed.len(), &missed[0]["data"]["item"]), (1, &json!("bread")));
    assert_eq!(
        (&results[0]["more"], &results[0]["problem"]["status"]),
        (&json!(false), &json!(409))
    );
    assert_eq!(results[0]["problem"]["conflicts"][0]["actual"], 2);

    // Decided again, under the same sequence: what was refused has used none.
    let mine = [guarded(add(LIST, 2, "eggs"), json!(2)), add(LIST, 3, "tea")];
    assert_eq!(sync(&http, &mine).0, statuses(&[(2, "accepted"), (3, "accepted")]));
    // And once more, although the guard fails now: it has landed.
    assert_eq!(sync(&http, &mine).0, statuses(&[(2, "already_applied"), (3, "already_applied")]));
    assert_eq!(items(&http, LIST).len(), 4);
}

#[test]
fn what_is_missed_is_bounded() {
    let (_dir, _node, http) = node();
    for _ in 0..3 {
        let events: Vec<Value> =
            (0..50).map(|n| json!({"type": "Added", "data": {"item": n}})).collect();
        let body = json!({"events": events});
        http.post(&format!("/v1/aggregates/{LIST}/events"), &[], &body).expect(201);
    }
    let (told, results) = sync(&http, &[guarded(add(LIST, 1, "mine"), json!("none"))]);
    assert_eq!(told, statuses(&[(1, "conflict")]));
    assert_eq!(results[0]["missed"].as_array().map(Vec::len), Some(100));
    assert_eq!(results[0]["more"], true);
}

#[test]
fn what_never_can_be_applied_says_why_and_the_rest_goes_on() {
    let (dir, node, http) = node();
    let file = dir.path().join("schema.json");
    let schema = json!({"type": "object", "properties": {"item": {"type": "string"}}});
    std::fs::write(&file, schema.to_string()).expect("written");
    let file = file.to_str().expect("UTF-8");
    let register = ["schema", "register", "home/list", "--type", "Added@1.0", "--kind"];
    node.call(&[&register[..], &["json-schema", "--file", file]].concat()).line();

    let mut wrong = add(LIST, 2, "");
    wrong["events"][0]["data"]["item"] = json!(7);
    let writes = [add(LIST, 1, "milk"), wrong, add(LIST, 3, "tea"), add("home/list/b", 1, "saw")];
    let (told, results) = sync(&http, &writes);
    let expected = [(1, "accepted"), (2, "invalid"), (3, "held"), (1, "accepted")];
    assert_eq!(told, statuses(&expected));
    let problem = &results[1]["problem"];
    assert_eq!((&problem["error"], &problem["path"]), (&json!("SchemaViolation"), &json!("/item")));

    // A number left out, one that is taken by something else.
    let (told, results) = sync(&http, &[add(LIST, 7, "far"), add("home/list/b", 1, "other")]);
    assert_eq!(told, statuses(&[(7, "invalid"), (1, "invalid")]));
    assert_eq!(results[0]["problem"]["expected"], 2);
    assert_eq!(results[1]["problem"]["error"], "SequenceReused");
    assert_eq!(items(&http, LIST), [json!("milk")]);
}

#[test]
fn a_request_that_makes_no_sense_applies_nothing() {
    let (_dir, _node, http) = node();
    let good = add(LIST, 1, "milk");
    let mut without_sequence = good.clone();
    without_sequence.as_object_mut().expect("an object").remove("sequence");
    let mut without_events = good.clone();
    without_events["events"] = json!([]);
    for (body, field) in [
        (json!({"writes": [good]}), "client_id"),
        (json!({"client_id": DEVICE, "writes": [good, without_sequence]}), "writes[1].sequence"),
        (json!({"client_id": DEVICE, "writes": [good, without_events]}), "writes[1].events"),
        (json!({"client_id": "me", "writes": [good]}), "client_id"),
    ] {
        assert_eq!(http.post("/v1/sync", &[], &body).problem(400)["field"], field);
    }
    assert_eq!(http.get("/v1/orgs").expect(200)["orgs"], json!([]));
}
