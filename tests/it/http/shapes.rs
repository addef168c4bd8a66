//! What only HTTP has: headers, statuses, streams, what the node says of itself.

use celeriant_net::json::from_base64;
use serde_json::{Value, json};

use super::node;
use crate::support::http::curl_with;
use crate::support::{Node, Pair, wait};

const ALICE: &str = "/v1/aggregates/acme/account/alice/events";

fn opened() -> Value {
    json!({"events": [{"type": "Opened", "data": {"owner": "Alice"}}]})
}

#[test]
fn guards_stand_in_headers_or_in_the_body_and_answer_accordingly() {
    let (_dir, _node, http) = node();
    let new = [("if-none-match", "*")];
    let answer = http.post(ALICE, &new, &opened());
    assert_eq!(answer.expect(201)["writes"][0]["key"], "acme/account/alice");
    assert_eq!(answer.header("etag"), Some("\"1\""));
    let failed = http.post(ALICE, &new, &opened()).problem(412);
    assert_eq!((&failed["error"], &failed["title"]), (&json!("Conflict"), &json!("Conflict")));
    assert_eq!(failed["conflicts"][0]["actual"], 1);
    http.post(ALICE, &[("if-match", "\"7\"")], &opened()).problem(412);
    http.post(ALICE, &[("if-match", "\"1\"")], &opened()).expect(201);
    http.post(ALICE, &[("if-match", "*")], &opened()).expect(201);
    let mut body = opened();
    body["expect"] = json!(1);
    assert_eq!(http.post(ALICE, &[], &body).problem(409)["error"], "Conflict");
    body["expect"] = json!(3);
    assert_eq!(http.post(ALICE, &[], &body).expect(201)["writes"][0]["first_version"], 4);
    let both = http.post(ALICE, &[("if-match", "\"4\"")], &body).problem(400);
    assert_eq!(both["field"], "expect");
    for (name, value) in [
        ("if-match", "4"),
        ("if-match", "\"4\", \"5\""),
        ("if-none-match", "\"4\""),
        ("celeriant-sequence", "1"),
        ("celeriant-client-id", "00000000-0000-0000-0000-000000000001"),
        ("idempotency-key", ""),
    ] {
        let problem = http.post(ALICE, &[(name, value)], &opened()).problem(400);
        assert_eq!(problem["error"], "InvalidArgument", "{name}: {value}");
    }
}

#[test]
fn what_is_deleted_or_trimmed_answers_as_http_says() {
    let (_dir, _node, http) = node();
    let place = "/v1/aggregates/acme/account/alice";
    let trim =
        |headers: &[(&str, &str)], body: Value| http.post(&format!("{place}/trim"), headers, &body);
    let delete = |query: &str, headers: &[(&str, &str)]| {
        http.request("DELETE", &format!("{place}{query}"), headers, b"")
    };
    for answer in [delete("", &[]), trim(&[], json!({"keep_from": 1}))] {
        assert_eq!(answer.problem(404)["error"], "NotFound");
    }
    for _ in 0..3 {
        http.post(ALICE, &[], &opened()).expect(201);
    }
    let head = format!("{place}/head");
    let cached = |path: &str| http.request("GET", path, &[("if-none-match", "\"3\"")], b"").status;
    assert_eq!([cached(ALICE), cached(&head)], [304, 304]);
    let keep_two = json!({"keep_from": 2});
    let failed = trim(&[("if-match", "\"7\"")], keep_two.clone()).problem(412);
    assert_eq!(
        (&failed["error"], &failed["conflicts"][0]["actual"]),
        (&json!("Conflict"), &json!(3))
    );
    trim(&[], json!({"keep_from": 2, "expect": 7})).problem(409);
    let both = trim(&[("if-match", "\"3\"")], json!({"keep_from": 2, "expect": 3})).problem(400);
    assert_eq!(both["field"], "expect");
    let receipt = trim(&[("if-match", "\"3\"")], keep_two.clone()).expect(200);
    assert_eq!(receipt["writes"][0]["last_version"], 3);
    assert_eq!([cached(ALICE), cached(&head)], [200, 200], "the version stays, the events do not");
    let gone = http.get(&format!("{ALICE}?to=1")).problem(410);
    assert_eq!((&gone["error"], &gone["first_available"]), (&json!("Trimmed"), &json!(2)));

    delete("", &[("if-match", "\"7\"")]).problem(412);
    delete("", &[("if-none-match", "*")]).problem(412);
    // With a name it is done once, also when it says something else meanwhile.
    let named = [("idempotency-key", "goodbye"), ("if-match", "\"3\"")];
    let deleted = delete("", &named).expect(200);
    let again = delete("", &named).expect(200);
    assert_eq!((&again["already_applied"], &again["stamp"]), (&json!(true), &deleted["stamp"]));
    assert_eq!([cached(ALICE), cached(&head)], [410, 200]);
    for answer in [http.get(ALICE), trim(&[], keep_two)] {
        assert_eq!(answer.problem(410)["error"], "Deleted");
    }
    let anew = http.post(ALICE, &[("if-none-match", "*")], &opened()).expect(201);
    assert_eq!(anew["writes"][0]["first_version"], 4);
    delete("?never_recreate=1", &[]).expect(200);
    assert_eq!(http.post(ALICE, &[], &opened()).problem(410)["error"], "Deleted");

    let feed = http.get("/v1/feed?selector=acme").expect(200);
    let told = feed["notices"].as_array().expect("a list").iter();
    let told = told.map(|one| (&one["notice"], &one["recreate"], &one["first_available"]));
    let told: Vec<_> = told.collect();
    let (deleted, none) = (json!("deleted"), Value::Null);
    assert_eq!(
        told,
        [
            (&json!("trimmed"), &none, &json!(2)),
            (&deleted, &json!(true), &none),
            (&deleted, &json!(false), &none),
        ]
    );
    let mut stream = http.open("/v1/watch?selector=acme&from=start", &[]);
    let names: Vec<String> = std::iter::from_fn(|| stream.event())
        .take_while(|(_, _, data)| data["caught_up"] != true)
        .map(|(name, _, _)| name)
        .filter(|name| name != "checkpoint")
        .collect();
    assert_eq!(names, ["trimmed", "deleted", "deleted"], "no event is left");
}

#[test]
fn a_request_with_a_name_or_a_number_lands_once() {
    let (_dir, _node, http) = node();
    let named = [("idempotency-key", "order 4821"), ("if-none-match", "*")];
    let first = http.post(ALICE, &named, &opened()).expect(201);
    let again = http.post(ALICE, &named, &opened()).expect(201);
    assert_eq!(
        (&first["already_applied"], &again["already_applied"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(first["writes"], again["writes"]);
    let other = json!({"events": [{"type": "Opened", "data": 2}]});
    let name = [("idempotency-key", "order 4821")];
    assert_eq!(http.post(ALICE, &name, &other).problem(409)["error"], "SequenceReused");

    let client = "11111111-2222-3333-4444-555555555555";
    let numbered = |sequence| [("celeriant-client-id", client), ("celeriant-sequence", sequence)];
    http.post(ALICE, &numbered("1"), &opened()).expect(201);
    assert_eq!(http.post(ALICE, &numbered("1"), &opened()).expect(201)["already_applied"], true);
    assert_eq!(http.post(ALICE, &numbered("3"), &opened()).problem(409)["expected"], 2);

    let write = json!({"writes": [
        {"key": "acme/account/bob", "expect": "none", "events": [{"type": "T", "data": 1}]},
        {"key": "acme/account/carol", "expect": "none", "events": [{"type": "T", "data": 1}]}]});
    let name = [("idempotency-key", "a transfer")];
    let first = http.post("/v1/write", &name, &write).expect(201);
    let again = http.post("/v1/write", &name, &write).expect(201);
    assert_eq!((&again["already_applied"], &again["writes"]), (&json!(true), &first["writes"]));
    let mut sequenced = write.clone();
    sequenced["client_id"] = json!(client);
    http.post("/v1/write", &name, &sequenced).problem(400);
}

#[test]
fn what_a_caller_has_is_not_sent_again_and_payloads_can_be_had_as_they_are() {
    let (_dir, _node, http) = node();
    // More digits than a float has, and blanks.
    let text = "{\"events\": [{\"type\": \"T\", \"data\": {\"n\":  12345678901234567890123}}]}";
    let json = [("content-type", "application/json")];
    assert_eq!(http.request("POST", ALICE, &json, text.as_bytes()).status, 201);
    let page = http.get(ALICE);
    let body = String::from_utf8(page.body.clone()).expect("UTF-8");
    assert!(body.contains(r#""data":{"n":12345678901234567890123}"#), "{body}");
    assert_eq!(page.header("etag"), Some("\"1\""));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let raw = http.get(&format!("{ALICE}?raw=1")).expect(200);
    let payload = from_base64(raw["events"][0]["data_base64"].as_str().expect("text"));
    assert_eq!(payload.expect("base64"), b"{\"n\":  12345678901234567890123}");
    for path in [ALICE, "/v1/aggregates/acme/account/alice/head"] {
        let same = http.request("GET", path, &[("if-none-match", "\"1\"")], b"");
        assert_eq!((same.status, same.body.len()), (304, 0), "{path}");
        for known in ["*", "W/\"1\"", "\"0\", \"1\""] {
            assert_eq!(http.request("GET", path, &[("if-none-match", known)], b"").status, 304);
        }
        assert_eq!(http.request("GET", path, &[("if-none-match", "\"0\"")], b"").status, 200);
    }
    // Names are decoded, whatever they are made of.
    let odd = "/v1/aggregates/acme/account/a%20%C3%BC%3A%25/events";
    http.post(odd, &[], &opened()).expect(201);
    assert_eq!(http.get(odd).expect(200)["key"], "acme/account/a ü:%");
}

#[test]
fn pages_go_on_where_they_end_and_a_stream_has_everything() {
    let (_dir, _node, http) = node();
    let data = "x".repeat(1000);
    for batch in 0..20 {
        let event = |n: u32| json!({"type": "T", "data": {"n": batch * 50 + n, "pad": data}});
        let events: Vec<Value> = (1..=50).map(event).collect();
        http.post(ALICE, &[], &json!({"events": events})).expect(201);
    }
    let versions = |page: &Value| -> Vec<u64> {
        let events = page["events"].as_array().expect("a list").iter();
        events.map(|event| event["version"].as_u64().expect("a number")).collect()
    };
    for (backwards, turn) in [("", "from"), ("&backwards=1", "to")] {
        let (mut all, mut at, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = http.get(&format!("{ALICE}?limit=100{backwards}{at}")).expect(200);
            assert_eq!(page["version"], 1000);
            all.extend(versions(&page));
            pages += 1;
            let Some(next) = page["next"].as_u64() else { break };
            at = format!("&{turn}={next}");
        }
        let mut wanted: Vec<u64> = (1..=1000).collect();
        if !backwards.is_empty() {
            wanted.reverse();
        }
        assert_eq!((all, pages), (wanted, 10), "{turn}");
    }
    let lines = |query: &str| -> Vec<u64> {
        let accept = [("accept", "application/x-ndjson")];
        let answer = http.request("GET", &format!("{ALICE}?{query}"), &accept, b"");
        assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
        assert!(answer.is_whole);
        let text = String::from_utf8(answer.body).expect("UTF-8");
        let version = |line| -> u64 {
            let event: Value = serde_json::from_str(line).expect("JSON");
            event["version"].as_u64().expect("a number")
        };
        text.lines().map(version).collect()
    };
    assert_eq!(lines(""), (1..=1000).collect::<Vec<_>>());
    assert_eq!(lines("backwards=1&to=900"), (1..=900).rev().collect::<Vec<_>>());
    assert_eq!(lines("from=11&limit=60"), (11..=100).collect::<Vec<_>>(), "whole batches");
}

#[test]
fn a_watch_goes_on_where_the_browser_was_and_ends_with_the_node() {
    let (_dir, node, http) = node();
    for _ in 0..3 {
        http.post(ALICE, &[], &opened()).expect(201);
    }
    let path = "/v1/watch?selector=acme/account";
    let mut stream = http.open(&format!("{path}&from=start"), &[]);
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream"));
    let mut ids = Vec::new();
    loop {
        let (event, id, data) = stream.event().expect("it goes on");
        if event == "checkpoint" && data["caught_up"] == true {
            assert_eq!(data["checkpoint"].to_string(), id);
            break;
        }
        if event == "append" {
            ids.push(id);
        }
    }
    assert_eq!(ids.len(), 3);
    // What was known is said in a header, which counts more than the address.
    let mut resumed = http.open(&format!("{path}&from=start"), &[("last-event-id", &ids[1])]);
    let (event, id, _) = resumed.event().expect("it goes on");
    assert_eq!((event.as_str(), &id), ("append", &ids[2]));
    // Live, from now on, one type only.
    let mut live = http.open(&format!("{path}&types=Closed"), &[]);
    let (event, _, data) = live.event().expect("it goes on");
    assert_eq!((event.as_str(), &data["caught_up"]), ("checkpoint", &json!(true)));
    http.post(ALICE, &[], &opened()).expect(201);
    http.post(ALICE, &[], &json!({"events": [{"type": "Closed", "data": 1}]})).expect(201);
    let appended = std::iter::from_fn(|| live.event()).find(|(event, _, _)| event == "append");
    assert_eq!(appended.expect("it is told").2["version"], 5);

    let feed = http.get("/v1/feed?selector=acme&limit=2").expect(200);
    assert_eq!(feed["events"].as_array().expect("a list").len(), 2);
    assert_eq!(
        (&feed["caught_up"], feed["checkpoint"].to_string()),
        (&json!(false), ids[1].clone())
    );
    let rest = http.get(&format!("/v1/feed?selector=acme&after={}", ids[1])).expect(200);
    assert_eq!(rest["events"].as_array().expect("a list").len(), 3);
    assert_eq!(rest["caught_up"], true);
    for bad in ["/v1/watch", "/v1/watch?selector=a//", "/v1/watch?selector=*&from=soon"] {
        http.get(bad).problem(400);
    }
    assert_eq!(node.terminate(), Some(0));
    while stream.line().is_some() {}
    assert!(stream.head.is_whole, "it ends in good order");
}

#[test]
fn a_node_says_how_it_is_and_what_is_not_there() {
    let (_dir, _node, http) = node();
    assert_eq!(http.get("/health/live").expect(200)["live"], true);
    let ready = http.get("/health/ready").expect(200);
    assert_eq!((&ready["ready"], &ready["role"]), (&json!(true), &json!("alone")));
    assert_eq!(http.get("/v1/cluster").expect(200)["shards"].as_array().expect("two").len(), 2);
    let page = http.get("/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").expect("one");
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert_eq!(http.get("/v2/orgs").problem(404)["field"], "path");
    assert_eq!(http.request("DELETE", "/v1/orgs", &[], b"").problem(405)["field"], "method");
    let other = http.request("DELETE", "/v1/orgs", &[], b"");
    assert_eq!(other.header("allow"), Some("GET,HEAD"));
    let problem = http.get("/v1/orgs?prefx=a").problem(400);
    assert_eq!(problem["field"], "prefx");
    assert!(problem["message"].as_str().expect("text").contains("prefix, after, limit"));
    assert_eq!(http.get("/v1/orgs?limit=0").problem(400)["field"], "limit");
    assert_eq!(http.get("/v1/aggregates/a/b/c/events").problem(404)["key"], "a/b/c");
    assert_eq!(http.get("/v1/aggregates/a/b/c/head").problem(404)["error"], "NotFound");
}

#[test]
fn pages_of_other_origins_are_let_in_by_name_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let flags =
        ["--listen", "127.0.0.1:0", "--allow-buffered", "--http-cors", "https://app.example"];
    let node = Node::start(&[&["server"], &flags[..]].concat(), &data);
    let http = node.http();
    let origin = |origin| http.request("GET", "/v1/orgs", &[("origin", origin)], b"");
    let ours = origin("https://app.example");
    assert_eq!(ours.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(origin("https://evil.example").header("access-control-allow-origin"), None);
    let asks = [("origin", "https://app.example"), ("access-control-request-method", "POST")];
    let preflight = http.request("OPTIONS", ALICE, &asks, b"");
    assert_eq!(preflight.status, 204);
    let headers = preflight.header("access-control-allow-headers").expect("some");
    assert!(headers.contains("idempotency-key"), "{headers}");
    // A page whose own name leads here now.
    let rebound = b"GET /v1/orgs HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    assert_eq!(http.send(rebound).problem(421)["field"], "host");
    // What a page may send without asking is never taken.
    let plain = [("content-type", "text/plain"), ("origin", "https://evil.example")];
    let body = opened().to_string();
    assert_eq!(http.request("POST", ALICE, &plain, body.as_bytes()).problem(415)["status"], 415);
    assert_eq!(node.terminate(), Some(0));
}

#[test]
fn a_follower_passes_on_what_only_the_leader_answers() {
    let mut pair = Pair::new(2);
    pair.start(0);
    pair.start(1);
    let leader = wait::until("both nodes", || pair.whole());
    let body = opened().to_string();
    let post = ["-H", "content-type: application/json", "-d", body.as_str()];
    let receipt = curl(&pair, leader, ALICE, &post);
    assert_eq!(receipt["writes"][0]["last_version"], 1);
    let passed_on = wait::until("the follower to know who leads", || {
        let answer = curl(&pair, 1 - leader, ALICE, &post);
        (answer["error"] != "NoLeader").then_some(answer)
    });
    assert_eq!(passed_on["writes"][0]["last_version"], 2);
    let guarded = [&post[..], &["-H", "if-match: \"1\""]].concat();
    let conflict = curl(&pair, 1 - leader, ALICE, &guarded);
    assert_eq!((&conflict["status"], &conflict["error"]), (&json!(412), &json!("Conflict")));
    assert_eq!(curl(&pair, 1 - leader, ALICE, &[])["events"][1]["stamp"], passed_on["stamp"]);
    assert_eq!(curl(&pair, 1 - leader, "/v1/orgs", &[])["orgs"], json!(["acme"]));
    let any = format!("{ALICE}?any=1&min_stamp={}", receipt["stamp"]);
    assert_eq!(curl(&pair, 1 - leader, &any, &[])["events"][0]["type"], "Opened");
    // A follower's feed may be a moment behind.
    wait::until("the follower's feed", || {
        let feed = curl(&pair, 1 - leader, "/v1/feed?selector=acme", &[]);
        (feed["events"][0]["version"] == 1).then_some(())
    });
    assert_eq!(curl(&pair, leader, "/health/ready", &[])["ready"], true);
    assert_eq!(curl(&pair, 1 - leader, "/health/ready", &[])["ready"], false);
    assert_eq!(curl(&pair, 1 - leader, "/health/ready?any=1", &[])["ready"], true);

    // Whoever asked the follower goes on asking it when it is none any more, and when it is again.
    for version in [3, 4] {
        let away = pair.leader().expect("a leader");
        pair.kill(away);
        let receipt = wait::until("the other one to lead", || {
            let answer = curl(&pair, 1 - away, ALICE, &post);
            answer.get("stamp").is_some().then_some(answer)
        });
        assert_eq!(receipt["writes"][0]["last_version"], version, "refused until then");
        pair.start(away);
        wait::until("both nodes", || pair.whole());
    }
}

/// What a node of a pair answers to a client with the pair's certificate.
fn curl(pair: &Pair, at: usize, path: &str, more: &[&str]) -> Value {
    let url = format!("{}{path}", pair.node(at).http.as_deref().expect("it serves HTTP"));
    curl_with(&pair.certificate(), &url, more)
}
