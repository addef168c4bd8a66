//! Quotas of orgs on real nodes, over HTTP and the binary protocol: seats for connections and
//! watchers, turns for readers.

use celeriant_client::{Client, Options};
use serde_json::{Value, json};

use crate::support::site::Site;
use crate::support::{Http, Node, call, wait};

/// A node in the clear with these quotas.
fn node(quotas: &str) -> (tempfile::TempDir, Node, Http) {
    let dir = tempfile::tempdir().expect("a directory");
    let server = ["server", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--quotas", quotas];
    let node = Node::start(&server, &dir.path().join("data"));
    let http = node.http();
    (dir, node, http)
}

/// A gauge of the node.
fn gauge(http: &Http, name: &str) -> u64 {
    let metrics = String::from_utf8(http.get("/metrics").body).expect("text");
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)).expect(name);
    line.trim().parse().expect("a number")
}

fn overloaded(problem: &Value, what: &str) {
    assert_eq!(problem["error"], "Overloaded", "{problem}");
    let message = problem["message"].as_str().expect("a message");
    assert!(message.contains(what), "{message}");
}

#[test]
fn an_org_has_so_many_watchers_and_another_its_own() {
    let (_dir, _node, http) = node("acme:watchers=1");
    let watch = |selector: &str| http.open(&format!("/v1/watch?selector={selector}"), &[]);
    let first = watch("acme/a");
    assert_eq!(first.head.status, 200);
    // One that is not refused does not end.
    assert_eq!(watch("acme/b").head.status, 503);
    let refused = http.get("/v1/watch?selector=acme/b");
    overloaded(&refused.problem(503), "quota of acme: watchers");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let _others = ["rival", "rival", "*"].map(|selector| {
        let other = watch(selector);
        assert_eq!(other.head.status, 200, "{selector}");
        other
    });
    // A page of what is there watches nothing.
    http.get("/v1/feed?selector=acme").expect(200);
    assert_eq!(gauge(&http, "celeriant_over_quota_watchers "), 2);
    drop(first);
    wait::until("the seat to be free", || (watch("acme/b").head.status == 200).then_some(()));
}

#[test]
fn an_org_has_so_many_connections_whoever_shows_its_tokens() {
    let (_dir, _node, http) = node("acme:connections=1");
    let key = json!({"name": "backend", "grants": ["acme:*:all", "rival:*:all"]});
    let key = http.post("/v1/keys", &[], &key).expect(201);
    let bearer = |shown: &Value| format!("Bearer {}", shown.as_str().expect("one"));
    let token = |org: &str| {
        let asked = json!({"selectors": [org], "rights": ["read", "watch"]});
        let key = bearer(&key["key"]);
        let made = http.post("/v1/tokens", &[("authorization", &key)], &asked);
        bearer(&made.expect(201)["token"])
    };
    let (acme, rival) = (token("acme"), token("rival"));
    let stream = http.open("/v1/watch?selector=acme", &[("authorization", &acme)]);
    assert_eq!(stream.head.status, 200);
    let list = |token: &str, org: &str| {
        let headers = [("authorization", token)];
        http.request("GET", &format!("/v1/orgs/{org}/types"), &headers, b"")
    };
    overloaded(&list(&acme, "acme").problem(503), "quota of acme: connections");
    list(&rival, "rival").expect(200);
    for path in ["/health/live", "/openapi.json", "/v1/orgs/acme/types"] {
        http.get(path).expect(200);
    }
    let live = http.request("GET", "/health/live", &[("authorization", &acme)], b"");
    live.expect(200);
    assert_eq!(gauge(&http, "celeriant_over_quota_connections "), 1);
    drop(stream);
    wait::until("the seat to be free", || (list(&acme, "acme").status == 200).then_some(()));
}

#[test]
fn what_is_read_of_an_org_is_paid_for_before_more_of_it_is() {
    let (_dir, node, http) = node("acme:read_bytes=1KiB rival:reads=1");
    let path = |org: &str| format!("/v1/aggregates/{org}/list/food/events");
    let event = json!({"events": [{"type": "T", "data": "x".repeat(20 << 10)}]});
    for org in ["acme", "rival", "free"] {
        http.post(&path(org), &[], &event).expect(201);
    }
    http.get(&path("acme")).expect(200);
    let refused = http.get(&path("acme"));
    overloaded(&refused.problem(503), "quota of acme: reads");
    let seconds: u64 =
        refused.header("retry-after").expect("it says when").parse().expect("seconds");
    assert!((10..=20).contains(&seconds), "about 19 of what it took: {seconds}");
    let url = format!("celeriant://{}", node.address());
    let shown = call(&["--url", &url, "--timeout", "1s", "head", "acme/list/food"], "").error(1);
    overloaded(&shown, "quota of acme: reads");
    for _ in 0..10 {
        http.get(&path("free")).expect(200);
        http.post(&path("acme"), &[], &event).expect(201);
        http.get("/v1/orgs").expect(200);
    }
    // One a second, however fast they come.
    wait::until("one too many", || (http.get(&path("rival")).status == 503).then_some(()));
    wait::until("its turn", || (http.get(&path("rival")).status == 200).then_some(()));
    assert!(gauge(&http, "celeriant_over_quota_reads ") >= 3);
    assert_eq!(gauge(&http, "celeriant_over_quota_writes "), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_certificate_s_connections_are_of_its_org_and_an_operator_s_of_none() {
    let site = Site::new();
    site.cert("certs", &["client", "ops", "--grant", "*:*:all"]);
    let node = Node::run(site.command(&["--quotas", "acme:connections=2"]));
    let connect = async |name: &str| {
        let options = Options { timeout: std::time::Duration::from_secs(2), ..Options::default() };
        let client = Client::connect_with(&site.url(&node, "certs", Some(name)), options).await;
        let client = client.map_err(|error| error.to_string())?;
        let types = client.list_types("acme").collect().await;
        types.map(|_| client).map_err(|error| error.to_string())
    };
    let first = connect("app").await.expect("a seat");
    let _second = connect("app").await.expect("a seat");
    let refused = connect("app").await.expect_err("full");
    assert!(refused.contains("quota of acme"), "{refused}");
    let _operator = connect("ops").await.expect("no seat is needed");
    drop(first);
    // Each attempt goes on for two seconds.
    for attempt in 0.. {
        match connect("app").await {
            Ok(_) => break,
            Err(error) => assert!(attempt < 10, "{error}"),
        }
    }
}
