//! Browser tokens, and API keys over HTTP, against real nodes.

mod wire;

use serde_json::{Value, json};

use crate::support::http::{Answer, curl_with};
use crate::support::site::{Site, trail_of};
use crate::support::{Http, Node, Pair, call, wait};

const CLIENT: &str = "0192a5c6-7d1e-4e0f-9a53-2f2b6c1d8e01";
const OTHER: &str = "0192a5c6-7d1e-4e0f-9a53-2f2b6c1d8e02";

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().expect(name).to_owned()
}

/// A node in the clear, its gateway, and what is told of a key with these grants.
fn node_with_key(grants: &[&str]) -> (tempfile::TempDir, Node, Http, Value) {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::dev(&dir.path().join("data"), &["--shards", "2"]);
    let http = node.http();
    let made = http.post("/v1/keys", &[], &json!({"name": "backend", "grants": grants}));
    (dir, node, http, made.expect(201))
}

/// Asks for a token of `key`.
fn mint(http: &Http, key: &str, asked: &Value) -> Answer {
    http.post("/v1/tokens", &[("authorization", &format!("Bearer {key}"))], asked)
}

/// One who shows a token, or a key.
struct Holder<'a> {
    http: &'a Http,
    header: String,
}

impl<'a> Holder<'a> {
    fn new(http: &'a Http, token: &str) -> Self {
        Self { http, header: format!("Bearer {token}") }
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path)
    }

    fn ask(&self, method: &str, path: &str) -> Answer {
        self.http.request(method, path, &[("authorization", &self.header)], b"")
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.http.post(path, &[("authorization", &self.header)], body)
    }

    fn append(&self, place: &str) -> Answer {
        let body = json!({"events": [{"type": "T", "data": 1}]});
        self.post(&format!("/v1/aggregates/{place}/events"), &body)
    }
}

#[test]
fn a_token_opens_one_aggregate_and_nothing_beside_it_whatever_the_way() {
    let (_dir, _node, http, made) = node_with_key(&["acme:list:all"]);
    let key = text(&made, "key");
    let owner = Holder::new(&http, &key);
    for place in ["acme/list/food", "acme/list/secret"] {
        owner.append(place).expect(201);
    }
    let asked = json!({"selectors": ["acme/list/food"], "rights": ["read", "append", "watch"]});
    let minted = mint(&http, &key, &asked);
    assert_eq!(minted.header("cache-control"), Some("no-store"));
    let token = text(&minted.expect(201), "token");
    let browser = Holder::new(&http, &token);
    browser.append("acme/list/food").expect(201);
    let of = |id: &str, what: &str| format!("/v1/aggregates/acme/list/{id}/{what}");
    assert_eq!(browser.get(&of("food", "events")).expect(200)["version"], 2);
    assert_eq!(browser.get(&of("food", "head")).expect(200)["version"], 2);
    let page = browser.get("/v1/feed?selector=acme/list/food").expect(200);
    assert_eq!(page["events"].as_array().map(Vec::len), Some(2));

    let event = json!([{"type": "T", "data": 1}]);
    let both = json!({"writes": [
        {"key": "acme/list/food", "sequence": 1, "events": event},
        {"key": "acme/list/secret", "sequence": 1, "events": event}], "client_id": OTHER});
    let denied = [
        browser.append("acme/list/secret"),
        browser.post("/v1/write", &both),
        browser.get(&of("secret", "events")),
        browser.get(&of("secret", "head")),
        browser.get("/v1/orgs"),
        browser.get("/v1/orgs/acme/types"),
        browser.get("/v1/orgs/acme/types/list/aggregates"),
        browser.get("/v1/feed?selector=acme/list"),
        browser.get("/v1/watch?selector=acme/list/secret"),
        browser.get("/v1/schemas/acme"),
        browser.get("/v1/cluster"),
        browser.get("/v1/audit/head"),
        browser.get("/v1/audit/proof/acme/list/food/1"),
        browser.get("/v1/keys"),
        browser.post("/v1/keys", &json!({"name": "x", "grants": ["*:*:all"]})),
        browser.ask("DELETE", "/v1/aggregates/acme/list/food"),
        browser.ask("DELETE", &format!("/v1/keys/{}", text(&made, "id"))),
    ];
    for (at, answer) in denied.iter().enumerate() {
        assert_eq!(answer.problem(403)["error"], "PermissionDenied", "{at}");
    }
    assert_eq!(mint(&http, &token, &asked).problem(401)["error"], "Unauthenticated");
    // What a device may not write it keeps, and what it may is written.
    let synced = browser.post("/v1/sync", &both).expect(200);
    let results = synced["results"].as_array().expect("results");
    assert_eq!(
        (&results[0]["status"], &results[1]["status"]),
        (&json!("accepted"), &json!("retry"))
    );
    assert_eq!(owner.get(&of("secret", "head")).expect(200)["version"], 1, "nothing got there");
}

#[test]
fn an_event_source_shows_a_token_in_its_address_and_a_key_never() {
    let (_dir, _node, http, made) = node_with_key(&["acme:*:all"]);
    let key = text(&made, "key");
    let asked = json!({"selectors": ["acme/list"], "rights": ["watch"], "seconds": 3600});
    let token = text(&mint(&http, &key, &asked).expect(201), "token");
    Holder::new(&http, &key).append("acme/list/food").expect(201);
    let watch = |selector: &str, token: &str| {
        http.open(&format!("/v1/watch?selector={selector}&from=start&token={token}"), &[])
    };
    let mut stream = watch("acme/list", &token);
    assert_eq!(stream.head.status, 200);
    let (event, _, data) = stream.event().expect("one");
    assert_eq!((event.as_str(), &data["key"]), ("append", &json!("acme/list/food")));
    assert_eq!(watch("acme", &token).head.status, 403, "nothing beyond it");
    for (shown, status) in [(key.as_str(), 401), ("", 401), ("x", 401), (&token[..80], 401)] {
        assert_eq!(watch("acme/list", shown).head.status, status, "{shown}");
    }
    // Elsewhere it is refused by name, even one that would count.
    for path in ["/v1/feed?selector=acme/list", "/v1/cluster?a=1", "/v1/orgs/acme/types?limit=1"] {
        let refused = http.get(&format!("{path}&token={token}"));
        assert_eq!(refused.problem(400)["error"], "InvalidArgument", "{path}");
    }
    let path = format!("/v1/watch?selector=acme/list&token={token}");
    let twice = Holder::new(&http, &token).get(&path);
    assert_eq!(twice.problem(400)["field"], "token");
    // Its key is revoked: the stream that is up ends with a reason.
    let id = text(&made, "id");
    let revoked = http.request("DELETE", &format!("/v1/keys/{id}"), &[], b"").expect(200);
    assert_eq!(revoked, json!({"id": id, "revoked": true}));
    let problem = loop {
        let (event, _, data) = stream.event().expect("a reason");
        if event == "problem" {
            break data;
        }
    };
    assert_eq!(problem["error"], "Unauthenticated");
    assert_eq!(watch("acme/list", &token).head.status, 401);
}

#[test]
fn a_token_may_name_the_client_that_writes_and_a_backend_may_make_one_by_itself() {
    let (_dir, _node, http, made) = node_with_key(&["acme:list:all"]);
    let key = text(&made, "key");
    let by_itself = |more: &[&str]| {
        let mint = ["--api-key", &key, "token", "mint", "--selector", "acme/list/food"];
        call(&[&mint[..], more].concat(), "")
    };
    let made = by_itself(&["--right", "read,append", "--client-id", CLIENT, "--lasts", "90s"]);
    let token = text(&made.line(), "token");
    let under = |client: &str| {
        let headers =
            [("celeriant-client-id", client), ("celeriant-sequence", "1"), ("authorization", "")];
        let header = format!("Bearer {token}");
        let headers = headers.map(|(name, value)| match name {
            "authorization" => (name, header.as_str()),
            _ => (name, value),
        });
        let body = json!({"events": [{"type": "T", "data": 1}]});
        http.post("/v1/aggregates/acme/list/food/events", &headers, &body)
    };
    under(CLIENT).expect(201);
    assert_eq!(under(OTHER).problem(403)["resource"], format!("client {OTHER}"));
    let browser = Holder::new(&http, &token);
    browser.append("acme/list/food").problem(403);
    assert_eq!(browser.get("/v1/aggregates/acme/list/food/head").expect(200)["version"], 1);
    // What its maker says is not what counts.
    let wide = ["token", "mint", "--selector", "*", "--right", "read"];
    let wide = call(&[&["--api-key", &key], &wide[..]].concat(), "").line();
    let wide = Holder::new(&http, &text(&wide, "token"));
    wide.get("/v1/aggregates/acme/list/food/head").expect(200);
    wide.get("/v1/orgs/rival/types").problem(403);
    wide.get("/v1/keys").problem(403);
    for wrong in [["--right", "admin"], ["--lasts", "1441m"]] {
        let more = [&["--right", "read"], &wrong[..]].concat();
        assert_eq!(by_itself(&more).code, 2, "{wrong:?}");
    }
    assert_eq!(call(&["token", "mint", "--selector", "*", "--right", "read"], "").code, 2);
}

#[test]
fn a_token_is_made_of_a_key_that_allows_it_and_of_nothing_else() {
    let (_dir, _node, http, made) = node_with_key(&["acme:list:read"]);
    let key = text(&made, "key");
    let asked = json!({"selectors": ["acme/list"], "rights": ["read"]});
    let refused = http.post("/v1/tokens", &[], &asked).problem(401);
    assert!(text(&refused, "message").contains("show one"), "{refused}");
    let told = mint(&http, &key, &asked).expect(201);
    assert_eq!(told["selectors"], asked["selectors"]);
    assert!(told["expires"].is_string(), "{told}");
    let wrong = [
        (json!({"selectors": ["acme/list"], "rights": ["append"]}), 403),
        (json!({"selectors": ["acme"], "rights": ["read"]}), 403),
        (json!({"selectors": ["acme/list"], "rights": ["admin"]}), 400),
        (json!({"selectors": ["acme/list"], "rights": ["schema"]}), 400),
        (json!({"selectors": [], "rights": ["read"]}), 400),
        (json!({"selectors": ["acme/list"], "rights": ["read"], "seconds": 86_401}), 400),
        (json!({"selectors": ["acme/list"], "rights": ["read"], "hours": 1}), 400),
    ];
    for (asked, status) in wrong {
        mint(&http, &key, &asked).problem(status);
    }
}

#[test]
fn keys_are_made_listed_and_revoked_over_http_as_on_the_command_line() {
    let (_dir, node, http, made) = node_with_key(&["acme:*:read"]);
    let (key, id) = (text(&made, "key"), text(&made, "id"));
    let url = format!("celeriant://{}", node.address());
    let listed = http.get("/v1/keys").expect(200);
    let on_the_command_line = call(&["--url", &url, "key", "list"], "").lines();
    assert_eq!(listed["keys"], json!(on_the_command_line));
    assert_eq!(
        (&listed["keys"][0]["id"], &listed["keys"][0]["name"]),
        (&json!(id), &json!("backend"))
    );
    let secret = key.rsplit('_').next().expect("a secret");
    assert!(!listed.to_string().contains(secret));
    let holder = Holder::new(&http, &key);
    holder.get("/v1/orgs/acme/types").expect(200);
    for wrong in [
        json!({"name": "", "grants": ["*:*:all"]}),
        json!({"name": "x", "grants": []}),
        json!({"name": "x", "grants": ["*:*:all"], "id": 1}),
    ] {
        http.post("/v1/keys", &[], &wrong).problem(400);
    }
    http.request("DELETE", "/v1/keys/nonsense", &[], b"").problem(400);
    let bound = json!({"name": "till", "grants": ["acme:*:append"], "client_id": CLIENT,
        "lasts_s": 60});
    let bound = http.post("/v1/keys", &[], &bound).expect(201);
    assert_eq!(bound["client_id"], CLIENT);
    assert!(bound["expires"].is_string());
    for _ in 0..2 {
        let revoked = http.request("DELETE", &format!("/v1/keys/{id}"), &[], b"").expect(200);
        assert_eq!(revoked["revoked"], true, "safe to repeat");
    }
    assert_eq!(holder.get("/v1/orgs/acme/types").problem(401)["error"], "Unauthenticated");
    let trail = call(&["--url", &url, "read", &trail_of(&url)], "").stdout;
    assert!(trail.contains("\"till\"") && !trail.contains(secret), "{trail}");
}

#[test]
fn a_token_opens_either_node_over_a_fail_over_and_ends_with_its_key_on_both() {
    let mut pair = Pair::new(2);
    (0..2).for_each(|at| pair.start(at));
    let leader = wait::until("both to be in sync", || pair.whole());
    let create = ["key", "create", "backend", "--grant", "acme:*:all"];
    let made = call(&[&["--url", &pair.url()], &create[..]].concat(), "").line();
    // Whoever shows the certificate alone may do everything here: what is refused is the token's.
    let certificate = pair.certificate();
    let ask = |pair: &Pair, at: usize, shown: &str, path: &str, body: &Value| {
        let url = format!("{}{path}", pair.node(at).http.as_deref().expect("it serves HTTP"));
        let (header, body) = (format!("authorization: Bearer {shown}"), body.to_string());
        let json = "content-type: application/json";
        curl_with(&certificate, &url, &["-H", json, "-H", &header, "-d", &body])
    };
    let asked = json!({"selectors": ["acme/list/food"], "rights": ["append"]});
    let token = wait::until("the follower to know the key", || {
        let told = ask(&pair, 1 - leader, &text(&made, "key"), "/v1/tokens", &asked);
        told["token"].as_str().map(str::to_owned)
    });
    let append = |pair: &Pair, at: usize, id: &str| {
        let path = format!("/v1/aggregates/acme/list/{id}/events");
        ask(pair, at, &token, &path, &json!({"events": [{"type": "T", "data": 1}]}))
    };
    for at in [0, 1] {
        assert!(append(&pair, at, "food")["stamp"].is_number(), "node {at}");
        assert_eq!(append(&pair, at, "other")["error"], "PermissionDenied", "node {at}");
    }
    // The command line and the client find the one that leads, with the same token.
    let by_wire = |pair: &Pair, id: &str| {
        let event = ["append", &format!("acme/list/{id}"), "--type", "T", "--data", "1"];
        call(&[&["--url", &pair.url(), "--api-key", &token], &event[..]].concat(), "")
    };
    assert_eq!(by_wire(&pair, "food").code, 0);
    pair.kill(leader);
    wait::until("the other to lead", || (pair.leader() == Some(1 - leader)).then_some(()));
    assert!(append(&pair, 1 - leader, "food")["stamp"].is_number());
    assert_eq!(append(&pair, 1 - leader, "other")["error"], "PermissionDenied");
    assert_eq!(by_wire(&pair, "food").code, 0);
    assert_eq!(by_wire(&pair, "other").error(1)["error"], "PermissionDenied");
    pair.start(leader);
    wait::until("both to be in sync again", || pair.whole());
    call(&["--url", &pair.url(), "key", "revoke", &text(&made, "id")], "").line();
    for at in [0, 1] {
        wait::until("the node to know that the key is over", || {
            (append(&pair, at, "food")["error"] == "Unauthenticated").then_some(())
        });
    }
}

#[test]
fn over_tls_a_token_needs_no_certificate_and_says_all_that_its_holder_may_do() {
    let site = Site::new();
    site.cert("certs", &["client", "ops", "--grant", "*:*:all"]);
    let node = Node::run(site.command(&["--tls-client-auth", "optional"]));
    let ops = site.url(&node, "certs", Some("ops"));
    let create = ["key", "create", "backend", "--grant", "acme:*:read"];
    let key = text(&call(&[&["--url", &ops], &create[..]].concat(), "").line(), "key");
    let minted = ["--api-key", &key, "token", "mint", "--selector", "acme/a", "--right", "read"];
    let header = format!("authorization: Bearer {}", text(&call(&minted, "").line(), "token"));
    let list = |client: &str, kind: &str| {
        let http = node.http.as_deref().expect("it serves HTTP");
        let url = format!("{http}/v1/orgs/acme/types/{kind}/aggregates");
        curl_with(&site.files(client), &url, &["-H", &header])
    };
    for client in ["app", "ops"] {
        assert_eq!(list(client, "a")["aggregates"], json!([]));
        assert_eq!(list(client, "b")["error"], "PermissionDenied", "{client} may, the token not");
    }
    // Over HTTP as on the command line, keys are an operator's.
    let http = node.http.as_deref().expect("it serves HTTP");
    let json = "content-type: application/json";
    let ways: [&[&str]; 3] =
        [&[], &["-H", json, "-d", r#"{"name":"more","grants":["*:*:all"]}"#], &["-X", "DELETE"]];
    for (client, denied) in [("app", true), ("ops", false)] {
        let url = format!("{http}/v1/keys");
        for (way, url) in ways.iter().zip([&url, &url, &format!("{url}/{}", "0".repeat(16))]) {
            let told = curl_with(&site.files(client), url, way);
            assert_eq!(told["action"] == "admin", denied, "{client} {way:?} {told}");
        }
    }
}
