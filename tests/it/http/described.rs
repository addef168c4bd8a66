//! openapi.json against the running node: every operation is in it and answers as it says.

use serde_json::{Value, json};

use super::node;
use crate::support::Http;
use crate::support::http::Answer;

/// A request of each operation that does something, and one that does not.
fn samples(http: &Http, operation: &str) -> Vec<Answer> {
    let events = "/v1/aggregates/acme/account/alice/events";
    let append = json!({"events": [{"type": "T", "data": {"a": 1}, "meta": {"user": "u"}}]});
    let write = json!({"writes": [{"key": "acme/account/bob", "events": append["events"]}]});
    let get = |path: &str| http.get(path);
    match operation {
        "Append" => vec![
            http.post(events, &[], &append),
            http.post(events, &[("if-none-match", "*")], &append),
            http.post(events, &[("celeriant-sequence", "1")], &append),
            http.request("POST", events, &[], b"{}"),
        ],
        "DeleteAggregate" | "TrimAggregate" => samples_of_retention(http, operation, &append),
        "Write" => vec![
            http.post("/v1/write", &[], &write),
            http.post("/v1/write", &[], &json!({"writes": []})),
        ],
        "Sync" => {
            let client = "00000000-0000-0000-0000-000000000001";
            let mut member = write["writes"][0].clone();
            member["sequence"] = json!(1);
            let later =
                json!({"key": "a/b/c", "sequence": 1, "expect": 7, "events": member["events"]});
            let body = json!({"client_id": client, "writes": [member, later, later]});
            vec![http.post("/v1/sync", &[], &body), http.post("/v1/sync", &[], &write)]
        }
        "ReadEvents" => vec![
            get(events),
            get(&format!("{events}?raw=1&limit=1")),
            http.request("GET", events, &[("accept", "application/x-ndjson")], b""),
            http.request("GET", events, &[("if-none-match", "\"1\"")], b""),
            get("/v1/aggregates/acme/account/nobody/events"),
            get(&format!("{events}?form=1")),
        ],
        "ReadHead" => {
            let head = "/v1/aggregates/acme/account/alice/head";
            let client = "?client_id=00000000-0000-0000-0000-000000000001";
            vec![get(head), get(&format!("{head}{client}")), get("/v1/aggregates/a/b/c/head")]
        }
        "ListOrgs" => vec![get("/v1/orgs"), get("/v1/orgs?limit=x")],
        "ListTypes" => vec![get("/v1/orgs/acme/types"), get("/v1/orgs/:/types")],
        "ListAggregates" => vec![get("/v1/orgs/acme/types/account/aggregates?limit=1")],
        "Watch" => vec![http.open("/v1/watch?selector=acme", &[]).head, get("/v1/watch")],
        "ReadFeed" => vec![get("/v1/feed?selector=acme"), get("/v1/feed")],
        "AuditHead" => vec![get("/v1/audit/head"), get("/v1/audit/head?x=1")],
        "AuditProof" => vec![
            get("/v1/audit/proof/acme/account/alice/1"),
            get("/v1/audit/proof/acme/account/alice/x"),
            get("/v1/audit/proof/acme/account/alice/1?frames=0"),
            get("/v1/audit/proof/acme/account/nobody/1"),
        ],
        "CreateKey" | "ListKeys" | "RevokeKey" | "MakeToken" => samples_of_keys(http, operation),
        "Cluster" => vec![get("/v1/cluster"), get("/v1/cluster?x=1")],
        "Live" => vec![get("/health/live")],
        "Ready" => vec![get("/health/ready"), get("/health/ready?any=2")],
        "Metrics" => vec![get("/metrics")],
        "Inspect" => vec![get("/")],
        "InspectorScript" => vec![get("/inspector.js")],
        "InspectorStyle" => vec![get("/inspector.css")],
        "Describe" => vec![get("/openapi.json")],
        other => samples_of_schemas(http, other),
    }
}

/// The same for keys and tokens.
fn samples_of_keys(http: &Http, operation: &str) -> Vec<Answer> {
    let key = json!({"name": "k", "grants": ["acme:*:read"]});
    let token = json!({"selectors": ["acme/a/b"], "rights": ["read"]});
    match operation {
        "CreateKey" => {
            vec![http.post("/v1/keys", &[], &key), http.post("/v1/keys", &[], &json!({}))]
        }
        "ListKeys" => vec![http.get("/v1/keys"), http.get("/v1/keys?all=1")],
        "RevokeKey" => ["0123456789abcdef", "x"]
            .map(|id| http.request("DELETE", &format!("/v1/keys/{id}"), &[], b""))
            .into(),
        _ => {
            let made = http.post("/v1/keys", &[], &key).json();
            let header = format!("Bearer {}", made["key"].as_str().expect("a key"));
            let shown = [("authorization", header.as_str())];
            vec![
                http.post("/v1/tokens", &shown, &token),
                http.post("/v1/tokens", &[], &token),
                http.post("/v1/tokens", &shown, &json!({})),
            ]
        }
    }
}

/// The same for what takes away, each of an aggregate of its own.
fn samples_of_retention(http: &Http, operation: &str, append: &Value) -> Vec<Answer> {
    let place = format!("/v1/aggregates/acme/account/{operation}");
    let delete = |query: &str, headers: &[(&str, &str)]| {
        http.request("DELETE", &format!("{place}{query}"), headers, b"")
    };
    let trim =
        |headers: &[(&str, &str)], body: Value| http.post(&format!("{place}/trim"), headers, &body);
    let take = |headers: &[(&str, &str)]| match operation {
        "DeleteAggregate" => delete("", headers),
        _ => trim(headers, json!({"keep_from": 2})),
    };
    let missing = take(&[]);
    http.post(&format!("{place}/events"), &[], append).expect(201);
    let mut answers = vec![missing, take(&[("if-match", "\"7\"")]), take(&[("if-match", "\"1\"")])];
    match operation {
        "DeleteAggregate" => answers.extend([
            delete("?never_recreate=yes", &[]),
            delete("?never_recreate=1&forget_sequences=1", &[]),
        ]),
        _ => {
            answers.push(trim(&[], json!({"keep_from": 1, "expect": "none"})));
            answers.push(trim(&[], json!({})));
            delete("", &[]).expect(200);
            answers.push(take(&[]));
        }
    }
    answers
}

/// The same for what concerns schemas.
fn samples_of_schemas(http: &Http, operation: &str) -> Vec<Answer> {
    let put = |path: &str, body: &str| {
        http.request("PUT", path, &[("content-type", "application/json")], body.as_bytes())
    };
    match operation {
        "RegisterSchema" => {
            let schema = json!({"format": "json", "text": "{\"type\": \"object\"}"}).to_string();
            let path = "/v1/schemas/acme/account/Described/1.0";
            let bad = r#"{"format": "json", "text": "{"}"#;
            vec![put(path, &schema), put(path, &schema), put(path, bad)]
        }
        "ShowSchema" => vec![
            http.get("/v1/schemas/acme/account/Described/1.0"),
            http.get("/v1/schemas/acme/account/Described/2.0"),
        ],
        "ListSchemas" => vec![http.get("/v1/schemas/acme"), http.get("/v1/schemas/:")],
        "SetPolicy" | "SetTypePolicy" => {
            let of_type = if operation == "SetPolicy" { "" } else { "/account" };
            let path = format!("/v1/policies/acme{of_type}");
            vec![put(&path, r#"{"closed": false}"#), put(&path, "{}")]
        }
        other => panic!("no sample of {other}: add one"),
    }
}

#[test]
fn every_operation_is_described_and_answers_as_it_says() {
    let (_dir, _node, http) = node();
    let document = http.get("/openapi.json").expect(200);
    assert_eq!(document["openapi"], "3.1.0");
    let mut operations = Vec::new();
    // Writes first: the others need something to be there.
    for verb in ["post", "put", "delete", "get"] {
        let paths = document["paths"].as_object().expect("paths");
        for (path, verbs) in paths {
            let Some(described) = verbs.get(verb) else { continue };
            let operation = described["operationId"].as_str().expect("a name");
            for answer in samples(&http, operation) {
                check(&document, described, &answer, &format!("{verb} {path}"));
            }
            operations.push(operation.to_owned());
        }
    }
    assert_eq!(operations.len(), 31, "{operations:?}");
}

fn check(document: &Value, described: &Value, answer: &Answer, what: &str) {
    let status = answer.status.to_string();
    let responses = described["responses"].as_object().expect("responses");
    let response = responses.get(&status).unwrap_or_else(|| panic!("{what}: {answer:?}"));
    let Some(kind) = answer.header("content-type") else {
        assert!(response.get("content").is_none() && answer.body.is_empty(), "{what}: {status}");
        return;
    };
    let schema = &response["content"][kind]["schema"];
    assert!(schema.is_object(), "{what}: {status} is not described as {kind}");
    let whole = json!({"$ref": schema["$ref"], "components": document["components"]});
    let validator = jsonschema::validator_for(&whole).expect("a schema");
    let values: Vec<Value> = match kind {
        "text/event-stream" => Vec::new(),
        kind if kind.starts_with("text/") => {
            vec![String::from_utf8_lossy(&answer.body).into_owned().into()]
        }
        "application/x-ndjson" => {
            let lines = std::str::from_utf8(&answer.body).expect("UTF-8").lines();
            lines.map(|line| serde_json::from_str(line).expect("JSON")).collect()
        }
        _ => vec![answer.json()],
    };
    for value in values {
        if let Err(error) = validator.validate(&value) {
            panic!("{what}: {status}: {error}: {value}");
        }
    }
}
