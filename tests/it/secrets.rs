//! A canary: secrets that are used in every way, right and wrong, and then looked for wherever a
//! program could have told them.

use std::fs::{self, File};

use celeriant_client::{Client, Options};

use crate::support::http::curl_with;
use crate::support::site::{Site, trail_of};
use crate::support::{Node, call};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_secret_is_told_in_logs_errors_metrics_or_debug_output() {
    let site = Site::new();
    site.cert("certs", &["client", "ops", "--grant", "*:*:all"]);
    let log = File::create(site.path("log")).expect("a file");
    let mut command = site.command(&["--tls-client-auth", "optional", "--log", "trace"]);
    command.stderr(log);
    let node = Node::run(command);
    let (ops, url) = (site.url(&node, "certs", Some("ops")), site.url(&node, "certs", None));
    let made = call(&["--url", &ops, "key", "create", "app", "--grant", "acme:*:all"], "").line();
    let key = made["key"].as_str().expect("told once").to_owned();
    let secret = key.rsplit('_').next().expect("a secret").to_owned();
    // Wrong, and half of it: what is refused is what gets repeated.
    let wrong = key.replace(&made["id"].as_str().expect("an id")[..8], "00000000");
    let half = &key[..key.len() - 8];
    let mut told = String::new();
    for key in [&key, &wrong, half] {
        let called = call(&["--url", &url, "--timeout", "2s", "--api-key", key, "ls", "acme"], "");
        told += &(called.stdout + &called.stderr);
        let http = node.http.as_deref().expect("it serves HTTP");
        for header in [format!("Bearer {key}"), key.to_owned(), format!("Basic {key}")] {
            let header = format!("authorization: {header}");
            let url = format!("{http}/v1/orgs/acme/types");
            told += &curl_with(&site.files("app"), &url, &["-H", &header]).to_string();
        }
        let options = Options { api_key: key.parse().ok(), ..Options::default() };
        told += &format!("{options:?}");
        if let Ok(client) = Client::connect_with(&url, options).await {
            told += &format!("{client:?} {:?}", client.list_types("acme").collect().await);
        }
    }
    let signature = shown_tokens(&site, &node, &key, &mut told);
    for order in [["key", "list"], ["cluster", "status"]] {
        told += &call(&[&["--url", &ops], &order[..]].concat(), "").stdout;
    }
    for place in ["$system/keys/keys", &trail_of(&ops)] {
        told += &call(&["--url", &ops, "read", place], "").stdout;
    }
    assert!(told.contains("OrderGiven") && told.contains("KeyCreated"), "{told}");
    assert_eq!(node.terminate(), Some(0));
    let log = fs::read_to_string(site.path("log")).expect("a log");
    assert!(log.contains("no such API key"), "it logs what it refuses: {log}");
    // A part of it would be too much, too.
    for (part, text) in [("the log", &log), ("an answer", &told)] {
        for secret in [&secret, &signature] {
            let found = text.lines().find(|line| line.contains(&secret[..16]));
            assert_eq!(found, None, "{part} tells a secret");
        }
    }
    let private = fs::read_to_string(site.path("certs/n.key")).expect("a key");
    let line = private.lines().nth(1).expect("PEM");
    assert!(!log.contains(line) && !told.contains(line), "a private key");
}

/// Shows a token of `key`, right and wrong, in every way. Returns its signature: the rest may be
/// known.
fn shown_tokens(site: &Site, node: &Node, key: &str, told: &mut String) -> String {
    let mint = ["--api-key", key, "token", "mint", "--selector", "acme/a", "--right", "read,watch"];
    let made = call(&mint, "").line();
    let token = made["token"].as_str().expect("a token");
    let http = node.http.as_deref().expect("it serves HTTP");
    let wrong = token.replace("celeriant_token_", "celeriant_token_0");
    let more = format!("{token}0");
    // Of one that is good, what is asked besides is wrong: so that something is said.
    for token in [token, &wrong, &more, &token[1..]] {
        let header = format!("authorization: Bearer {token}");
        let addresses = ["v1/orgs/acme/types/a/aggregates", "v1/orgs/acme/types"];
        for address in addresses {
            let url = format!("{http}/{address}");
            *told += &curl_with(&site.files("app"), &url, &["-H", &header]).to_string();
        }
        for rest in ["selector=acme/b", "selector=acme/a&form=1", "selector=acme/a&from=x"] {
            let url = format!("{http}/v1/watch?{rest}&token={token}");
            *told += &curl_with(&site.files("app"), &url, &[]).to_string();
        }
        let url = format!("{http}/v1/feed?selector=acme/a&token={token}");
        *told += &curl_with(&site.files("app"), &url, &[]).to_string();
        *told += &format!("{:?}", token.parse::<celeriant_net::Token>());
        let url = site.url(node, "certs", None);
        for place in ["acme/a", "acme/b"] {
            let ls = ["--url", &url, "--timeout", "2s", "--api-key", token, "ls", place];
            let called = call(&ls, "");
            *told += &(called.stdout + &called.stderr);
        }
        let options = Options { api_key: token.parse().ok(), ..Options::default() };
        *told += &format!("{options:?}");
    }
    token.rsplit('.').next().expect("a signature").to_owned()
}
