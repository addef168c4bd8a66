//! Schemas over HTTP: the orders of `celeriant schema`, with the statuses of HTTP.

use celeriant_client::schemas::{Format, Outcome, Policy};
use celeriant_client::{Client, Error, Event};
use serde_json::{Value, json};

use super::node;
use crate::support::Http;
use crate::support::http::Answer;

const PLACED: &str = "/v1/schemas/shop/order/Placed";

fn put(http: &Http, path: &str, body: &Value) -> Answer {
    let kind = [("content-type", "application/json")];
    http.request("PUT", path, &kind, body.to_string().as_bytes())
}

fn schema(required: &[&str]) -> Value {
    let properties = json!({"item": {"type": "string"}, "count": {"type": "integer"}});
    let text = json!({"type": "object", "required": required, "properties": properties});
    json!({"format": "json", "text": text.to_string()})
}

fn place(http: &Http, event: &str, data: &Value) -> Answer {
    let body = json!({"events": [{"type": event, "data": data}]});
    http.post("/v1/aggregates/shop/order/1/events", &[], &body)
}

#[test]
fn schemas_are_registered_shown_and_kept_to() {
    let (_dir, _node, http) = node();
    let (first, path) = (schema(&["item"]), format!("{PLACED}/1.0"));
    let tried = put(&http, &format!("{path}?dry_run=1"), &first);
    assert_eq!(tried.expect(200)["outcome"], "acceptable");
    assert_eq!(http.get(&path).problem(404)["error"], "SchemaUnknown");
    assert_eq!(put(&http, &path, &first).expect(201)["outcome"], "registered");
    assert_eq!(put(&http, &path, &first).expect(200)["outcome"], "known");
    assert_eq!(put(&http, &path, &schema(&[])).problem(409)["error"], "SchemaExists");
    let narrower = put(&http, &format!("{PLACED}/1.1"), &schema(&["item", "count"]));
    let narrower = narrower.problem(409);
    assert_eq!(narrower["error"], "SchemaIncompatible");
    assert!(narrower["reasons"][0].as_str().is_some_and(|why| why.contains("count")), "{narrower}");
    let broken = json!({"format": "json", "text": "{"});
    assert_eq!(
        put(&http, &format!("{PLACED}/2.0"), &broken).problem(422)["error"],
        "SchemaInvalid"
    );

    let shown = http.get(&path).expect(200);
    assert_eq!((&shown["text"], &shown["format"]), (&first["text"], &json!("json")));
    let all = http.get("/v1/schemas/shop").expect(200);
    assert_eq!(all["schemas"].as_array().map(Vec::len), Some(1));

    let violation = place(&http, "Placed", &json!({"item": 7})).problem(422);
    assert_eq!((&violation["path"], &violation["event"]), (&json!("/item"), &json!(0)));
    place(&http, "Placed", &json!({"item": "tea"})).expect(201);
}

#[test]
fn a_closed_type_takes_only_what_has_a_schema() {
    let (_dir, _node, http) = node();
    place(&http, "Anything", &json!(1)).expect(201);
    let closed = put(&http, "/v1/policies/shop/order", &json!({"closed": true}));
    assert_eq!(closed.expect(200)["type"], "order");
    assert_eq!(place(&http, "Anything", &json!(1)).problem(422)["error"], "SchemaViolation");
    let other = json!({"events": [{"type": "Anything", "data": 1}]});
    http.post("/v1/aggregates/shop/basket/1/events", &[], &other).expect(201);
    put(&http, "/v1/policies/shop", &json!({"closed": true})).expect(200);
    http.post("/v1/aggregates/shop/basket/1/events", &[], &other).problem(422);
    put(&http, "/v1/policies/shop/order", &json!({"closed": false})).expect(200);
    place(&http, "Anything", &json!(1)).expect(201);
    assert_eq!(put(&http, "/v1/policies/shop", &json!({})).problem(400)["field"], "body");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_client_says_the_same_with_types() {
    let (_dir, node, _) = node();
    let client = Client::connect(&node.url).await.expect("it serves");
    let name = "shop/order/Placed@1.0";
    let text = schema(&["item"])["text"].as_str().expect("text").to_owned();
    let registration = || client.schema(name, Format::JsonSchema, text.clone());
    assert_eq!(registration().check().await.expect("good"), Outcome::Acceptable);
    let unknown = client.show_schema(name).await;
    assert!(
        matches!(&unknown, Err(Error::SchemaUnknown { schema }) if schema == name),
        "{unknown:?}"
    );
    assert_eq!(registration().register().await.expect("good"), Outcome::Registered);
    assert_eq!(registration().register().await.expect("good"), Outcome::Known);
    assert_eq!(client.show_schema(name).await.expect("there").text, Some(text));
    let narrower = schema(&["item", "count"])["text"].as_str().expect("text").to_owned();
    let refused =
        client.schema("shop/order/Placed@1.1", Format::JsonSchema, narrower).register().await;
    assert!(matches!(refused, Err(Error::SchemaIncompatible { .. })), "{refused:?}");

    let policy = Policy { kind: Some("order".into()), closed: true, allow_encrypted: false };
    client.set_schema_policy("shop", &policy).await.expect("set");
    let all = client.list_schemas("shop").await.expect("listed");
    assert_eq!((all.schemas.len(), &all.policies[..]), (1, &[policy][..]));
    let key = "shop/order/1".parse().expect("a key");
    let other = Event::json("Other", &1).expect("JSON");
    let refused = client.append(&key, [other]).await;
    assert!(matches!(refused, Err(Error::SchemaViolation { .. })), "{refused:?}");
}
