//! API keys against real nodes: made, shown, bound to a client id, ended.

use serde_json::{Value, json};

use crate::support::http::curl_with;
use crate::support::program::Called;
use crate::support::site::{Site, trail_of};
use crate::support::{Node, Pair, call, wait};

const CLIENT: &str = "0192a5c6-7d1e-4e0f-9a53-2f2b6c1d8e01";
const OTHER: &str = "0192a5c6-7d1e-4e0f-9a53-2f2b6c1d8e02";

/// What is answered to an operator.
fn order(url: &str, arguments: &[&str]) -> Called {
    call(&[&["--url", url, "key"], arguments].concat(), "")
}

fn with_key(url: &str, key: &str, arguments: &[&str]) -> Called {
    call(&[&["--url", url, "--api-key", key], arguments].concat(), "")
}

fn append(url: &str, key: &str, more: &[&str]) -> Called {
    let event = ["append", "acme/account/a", "--type", "T", "--data", "1"];
    with_key(url, key, &[&event[..], more].concat())
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().expect(name)
}

#[test]
fn a_key_opens_what_it_says_until_it_is_revoked_and_over_a_restart() {
    let site = Site::new();
    site.cert("certs", &["client", "ops", "--grant", "*:*:all"]);
    let flags = ["--tls-client-auth", "optional"];
    let node = Node::run(site.command(&flags));
    let (ops, url) = (site.url(&node, "certs", Some("ops")), site.url(&node, "certs", None));
    let made = order(&ops, &["create", "billing", "--grant", "acme:account:read,append"]).line();
    let (key, id) = (text(&made, "key").to_owned(), text(&made, "id").to_owned());
    assert!(key.starts_with(&format!("celeriant_key_{id}_")), "{made}");
    assert_eq!(append(&url, &key, &[]).code, 0);
    let denied = with_key(&url, &key, &["ls", "rival"]).error(1);
    assert_eq!((&denied["error"], &denied["action"]), (&json!("PermissionDenied"), &json!("read")));
    let denied = order(&site.url(&node, "certs", Some("app")), &["list"]).error(1);
    assert_eq!(denied["action"], "admin");
    // In a file, by the URL; and never in what is listed.
    std::fs::write(site.path("key"), format!("{key}\n")).expect("written");
    let by_file = format!("{url}&api_key={}", site.text("key"));
    assert_eq!(call(&["--url", &by_file, "read", "acme/account/a"], "").lines().len(), 1);
    let listed = order(&ops, &["list"]);
    let secret = key.rsplit('_').next().expect("a secret");
    assert!(!listed.stdout.contains(secret), "{}", listed.stdout);
    assert_eq!(
        (listed.line()["name"].clone(), listed.line()["expires"].clone()),
        (json!("billing"), json!(null))
    );
    let forged = key.replace(secret, &"0".repeat(64));
    let refused = append(&url, &forged, &["--timeout", "2s"]);
    assert!(refused.code != 0 && refused.stderr.contains("no such API key"), "{}", refused.stderr);
    let written = call(&["--url", &ops, "read", "$system/keys/keys"], "");
    assert!(written.code == 0 && !written.stdout.contains(secret), "{}", written.stderr);

    assert_eq!(node.terminate(), Some(0));
    let node = Node::run(site.command(&flags));
    let (ops, url) = (site.url(&node, "certs", Some("ops")), site.url(&node, "certs", None));
    assert_eq!(append(&url, &key, &[]).code, 0, "over a restart");
    let by_http = |key: &str| {
        let header = format!("authorization: Bearer {key}");
        let url = format!("{}/v1/orgs/rival/types", node.http.as_deref().expect("it serves HTTP"));
        curl_with(&site.files("app"), &url, &["-H", &header])
    };
    let reads = order(&ops, &["create", "reader", "--grant", "rival:*:read", "--days", "1"]).line();
    let reader = text(&reads, "key");
    assert!(reads["expires"].is_string());
    assert_eq!(by_http(reader)["types"], json!([]), "beside the certificate's");
    assert_eq!(by_http(&forged)["error"], "Unauthenticated");
    assert_eq!(by_http("nonsense")["error"], "Unauthenticated");
    assert_eq!(order(&ops, &["revoke", &id]).line()["revoked"], true);
    let refused = append(&url, &key, &["--timeout", "2s"]);
    assert!(refused.code != 0 && refused.stderr.contains("or no more"), "{}", refused.stderr);
    assert_eq!(order(&ops, &["list"]).line()["name"], "reader");
    assert_eq!(order(&ops, &["revoke", &id]).line()["revoked"], true, "safe to repeat");
}

#[test]
fn who_ordered_what_is_noted_for_operators_and_without_secrets() {
    let site = Site::new();
    site.cert("certs", &["client", "ops", "--grant", "*:*:all"]);
    let node = Node::run(site.command(&[]));
    let ops = site.url(&node, "certs", Some("ops"));
    let made = order(&ops, &["create", "billing", "--grant", "acme:account:read"]).line();
    let secret = text(&made, "key").rsplit('_').next().expect("a secret");
    assert_eq!(order(&ops, &["list"]).lines().len(), 1);
    order(&ops, &["revoke", text(&made, "id")]).line();
    let refused = order(&ops, &["create", "", "--grant", "acme:*:read"]).error(2);
    assert_eq!(refused["field"], "name");
    let month = trail_of(&ops);
    let trail = call(&["--url", &ops, "read", &month], "");
    assert!(!trail.stdout.contains(secret), "{}", trail.stdout);
    let trail = trail.lines();
    assert_eq!(trail.len(), 6, "two of each order that changes something");
    let (given, done) = (&trail[0]["data"], &trail[1]["data"]);
    assert_eq!(
        (&given["by"], &given["order"]["name"]),
        (&json!("certificate ops"), &json!("billing"))
    );
    assert_eq!((&done["of"], &done["outcome"]), (&json!(1), &json!("done")));
    let last = text(&trail[5]["data"], "outcome");
    assert!(last.starts_with("InvalidArgument: name"), "{last}");
    let app = site.url(&node, "certs", Some("app"));
    assert_eq!(call(&["--url", &app, "read", &month], "").error(1)["action"], "admin");
}

#[test]
fn nobody_writes_under_a_client_id_that_a_key_has() {
    let site = Site::new();
    site.cert("certs", &["client", "ops", "--grant", "*:*:all"]);
    let node = Node::run(site.command(&["--tls-client-auth", "optional"]));
    let (ops, url) = (site.url(&node, "certs", Some("ops")), site.url(&node, "certs", None));
    let make = |name: &str, more: &[&str]| {
        let create = ["create", name, "--grant", "acme:*:append"];
        text(&order(&ops, &[&create[..], more].concat()).line(), "key").to_owned()
    };
    let (bound, free) = (make("till", &["--client-id", CLIENT]), make("any", &[]));
    let under = |key: &str, client, sequence| {
        append(&url, key, &["--client-id", client, "--sequence", sequence])
    };
    assert_eq!(under(&bound, CLIENT, "1").code, 0);
    assert_eq!(under(&free, OTHER, "1").code, 0);
    for (key, client) in [(&free, CLIENT), (&bound, OTHER)] {
        let denied = under(key, client, "2").error(1);
        assert_eq!(denied["resource"], format!("client {client}"), "{denied}");
    }
    // All grants are not enough, and a certificate can be bound, too.
    let by = |name: &str, client: &str, sequence: &str| {
        let url = site.url(&node, "certs", Some(name));
        let event = ["append", "acme/account/a", "--type", "T", "--data", "1"];
        let id = ["--client-id", client, "--sequence", sequence];
        call(&[&["--url", &url], &event[..], &id[..]].concat(), "")
    };
    assert_eq!(by("ops", CLIENT, "2").error(1)["error"], "PermissionDenied");
    site.cert("certs", &["client", "till", "--grant", "acme:*:append", "--client-id", CLIENT]);
    assert_eq!(by("till", CLIENT, "2").code, 0);
    assert_eq!(by("till", OTHER, "2").error(1)["error"], "PermissionDenied");
}

#[test]
fn both_nodes_of_a_pair_know_a_key_and_the_follower_s_gateway_asks_for_it() {
    let mut pair = Pair::new(2);
    (0..2).for_each(|at| pair.start(at));
    let leader = wait::until("both to be in sync", || pair.whole());
    let create = ["create", "app", "--grant", "acme:*:append,read"];
    let made = order(&pair.url(), &create).line();
    let header = format!("authorization: Bearer {}", text(&made, "key"));
    let policy = |body: &str| {
        let at = pair.node(1 - leader).http.clone().expect("it serves HTTP");
        let json = "content-type: application/json";
        let url = format!("{at}/v1/policies/acme");
        curl_with(&pair.certificate(), &url, &["-X", "PUT", "-H", json, "-d", body])
    };
    assert_eq!(policy(r#"{"closed":false}"#)["closed"], false);
    let month = trail_of(&pair.url());
    let trail = call(&["--url", &pair.url(), "read", &month], "").lines();
    let by = trail.iter().map(|event| text(&event["data"], "by")).collect::<Vec<_>>();
    let names = ["a", "b"];
    let through = format!("certificate client, through node {}", names[1 - leader]);
    assert_eq!(by, ["certificate client", "certificate client", &through, &through]);
    // At the follower, whose gateway asks the leader with a certificate that opens everything: what
    // counts is who asks the gateway. The client's own certificate opens everything here, too, so
    // that the key shows by what becomes of it.
    let at = pair.node(1 - leader).http.clone().expect("it serves HTTP");
    let events = format!("{at}/v1/aggregates/acme/account/a/events");
    let certificate = pair.certificate();
    let write = || {
        let body = r#"{"events":[{"type":"T","data":1}]}"#;
        let json = "content-type: application/json";
        curl_with(&certificate, &events, &["-H", json, "-H", &header, "-d", body])
    };
    let receipt = wait::until("the follower to know the key", || {
        Some(write()).filter(|answer| answer["error"] != "Unauthenticated")
    });
    assert_eq!(receipt["writes"][0]["first_version"], 1, "{receipt}");
    order(&pair.url(), &["revoke", text(&made, "id")]).line();
    wait::until("the follower to know that it is over", || {
        (write()["error"] == "Unauthenticated").then_some(())
    });
    // The new leader knows what the old one was told.
    pair.kill(leader);
    wait::until("the other to lead", || (pair.leader() == Some(1 - leader)).then_some(()));
    assert_eq!(write()["error"], "Unauthenticated");
    assert!(order(&pair.url(), &["list"]).lines().is_empty());
}
