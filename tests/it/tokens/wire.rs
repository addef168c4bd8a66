//! The same tokens over the binary protocol, by the command line and the Rust client.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use celeriant_client::{Client, Credentials, Error, Event, Options, Watched};

use super::*;
use crate::support::program::Called;

fn url_of(node: &Node) -> String {
    format!("celeriant://{}", node.address())
}

fn with(url: &str, shown: &str, arguments: &[&str]) -> Called {
    call(&[&["--url", url, "--timeout", "2s", "--api-key", shown], arguments].concat(), "")
}

/// What an answer over HTTP says, as it is said elsewhere.
#[track_caller]
fn said(answer: &Answer, status: u16) -> Value {
    let mut problem = answer.problem(status);
    let fields = problem.as_object_mut().expect("an object");
    fields.retain(|name, _| name != "title" && name != "status");
    problem
}

#[test]
fn a_token_opens_the_same_over_the_binary_protocol_and_is_refused_with_the_same_words() {
    let (_dir, node, http, made) = node_with_key(&["acme:list:all"]);
    let (key, url) = (text(&made, "key"), url_of(&node));
    let owner = Holder::new(&http, &key);
    for place in ["acme/list/food", "acme/list/secret"] {
        owner.append(place).expect(201);
    }
    let asked = json!({"selectors": ["acme/list/food"], "rights": ["read", "append", "watch"],
        "client_id": CLIENT});
    let token = text(&mint(&http, &key, &asked).expect(201), "token");
    let event = ["append", "acme/list/food", "--type", "T", "--data", "1"];
    let under = |client| [&event[..], &["--client-id", client, "--sequence", "1"]].concat();
    assert_eq!(with(&url, &token, &under(CLIENT)).line()["writes"][0]["first_version"], 2);
    assert_eq!(with(&url, &token, &["read", "acme/list/food"]).lines().len(), 2);
    let watch = ["watch", "acme/list/food", "--from", "start", "--until", "now"];
    assert_eq!(with(&url, &token, &watch).lines().len(), 2);

    let browser = Holder::new(&http, &token);
    let of = |id: &str, what: &str| format!("/v1/aggregates/acme/list/{id}/{what}");
    let refused: [(Answer, &[&str]); 8] = [
        (browser.append("acme/list/food"), &event),
        (browser.get(&of("secret", "events")), &["read", "acme/list/secret"]),
        (browser.get("/v1/orgs"), &["ls"]),
        (browser.get("/v1/orgs/acme/types"), &["ls", "acme"]),
        (browser.get("/v1/orgs/acme/types/list/aggregates"), &["ls", "acme/list"]),
        (browser.get("/v1/feed?selector=acme/list"), &["watch", "acme/list", "--until", "now"]),
        (browser.ask("DELETE", "/v1/aggregates/acme/list/food"), &["delete", "acme/list/food"]),
        (browser.get("/v1/keys"), &["key", "list"]),
    ];
    for (by_http, arguments) in &refused {
        assert_eq!(with(&url, &token, arguments).error(1), said(by_http, 403), "{arguments:?}");
    }
    let denied = with(&url, &token, &under(OTHER)).error(1);
    assert_eq!(
        (&denied["code"], &denied["resource"]),
        (&json!(1005), &json!(format!("client {OTHER}")))
    );
    // Not good at all.
    let forged = token[..token.len() - 1].to_owned() + if token.ends_with('0') { "1" } else { "0" };
    let unknown = token.replacen("celeriant_token_", "celeriant_token_0", 1);
    for shown in [forged, unknown, format!("{token}.")] {
        let by_http = said(&Holder::new(&http, &shown).get(&of("food", "head")), 401);
        let refused = with(&url, &shown, &["head", "acme/list/food"]).error(1);
        assert_eq!(refused, by_http);
    }
    // Its key is revoked.
    call(&["--url", &url, "key", "revoke", &text(&made, "id")], "").line();
    let refused = with(&url, &token, &["head", "acme/list/food"]).error(1);
    assert_eq!(refused, said(&browser.get(&of("food", "head")), 401));
    let mint = ["token", "mint", "--selector", "acme", "--right", "read"];
    assert_eq!(with(&url, &token, &mint).error(2)["error"], "Usage", "a token makes none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_token_ends_for_a_client_that_is_connected_and_for_its_watch() {
    let (_dir, node, http, made) = node_with_key(&["acme:*:all"]);
    let key = text(&made, "key");
    Holder::new(&http, &key).append("acme/list/food").expect(201);
    let asked = json!({"selectors": ["acme"], "rights": ["read", "watch"], "seconds": 2});
    let token = text(&mint(&http, &key, &asked).expect(201), "token");
    let begin = Instant::now();
    let options = Options { api_key: token.parse().ok(), ..Options::default() };
    let client = Client::connect_with(&url_of(&node), options).await.expect("it is good");
    let place = "acme/list/food".parse().expect("a key");
    assert_eq!(client.head(&place).await.expect("it is good").version.value(), 1);
    // It waits for news for a minute, but for the end of its rights.
    let acme = "acme".parse().expect("a selector");
    let mut feed = client.watch(acme).checkpoints(Duration::from_secs(60)).stream();
    let over = loop {
        match feed.next().await.expect("it goes on") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(over, Error::Unauthenticated { .. }), "{over}");
    assert!(begin.elapsed() < Duration::from_secs(30), "as soon as it is over");
    let over = client.head(&place).await.expect_err("over, for all that it asks");
    assert!(
        matches!(&over, Error::Unauthenticated { reason } if reason.contains("is over")),
        "{over}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_that_asks_for_its_tokens_and_its_watch_go_on_when_they_end() {
    let (_dir, node, http, made) = node_with_key(&["acme:*:all"]);
    let key = text(&made, "key");
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    let credentials = Credentials::new(move || {
        asked.fetch_add(1, Ordering::Relaxed);
        let rights = ["read", "append", "watch"];
        let wanted = json!({"selectors": ["acme"], "rights": rights, "seconds": 1});
        std::future::ready(text(&mint(&http, &key, &wanted).expect(201), "token").parse())
    });
    let options = Options { credentials: Some(credentials), ..Options::default() };
    let client = Client::connect_with(&url_of(&node), options).await.expect("it is good");
    let place = "acme/list/food".parse().expect("a key");
    let mut feed = client.watch("acme".parse().expect("a selector")).stream();
    let mut told = 0;
    while count.load(Ordering::Relaxed) < 4 {
        let event = Event::json("T", &1).expect("json");
        let receipt = client.append(&place, [event]).await.expect("whatever ends");
        while told < receipt.writes[0].last_version.value() {
            let news = feed.next().await.expect("it goes on").expect("whatever ends");
            let Watched::Batch { batch, .. } = news else { continue };
            for event in batch.events {
                told += 1;
                assert_eq!(event.version.value(), told, "each once, in order");
            }
        }
    }
}

#[test]
fn over_tls_a_token_is_in_a_flag_or_a_file_and_takes_away_what_a_certificate_allows() {
    let site = Site::new();
    site.cert("certs", &["client", "ops", "--grant", "*:*:all"]);
    let node = Node::run(site.command(&["--tls-client-auth", "optional"]));
    let (ops, url) = (site.url(&node, "certs", Some("ops")), site.url(&node, "certs", None));
    let create = ["key", "create", "backend", "--grant", "acme:*:read"];
    let key = text(&call(&[&["--url", &ops], &create[..]].concat(), "").line(), "key");
    let minted = ["--api-key", &key, "token", "mint", "--selector", "acme/a", "--right", "read"];
    let token = text(&call(&minted, "").line(), "token");
    for url in [&url, &ops] {
        assert_eq!(with(url, &token, &["ls", "acme/a"]).code, 0);
        assert_eq!(with(url, &token, &["ls", "acme/b"]).error(1)["error"], "PermissionDenied");
    }
    std::fs::write(site.path("token"), format!("{token}\n")).expect("written");
    let by_file = format!("{url}&api_key={}", site.text("token"));
    assert_eq!(call(&["--url", &by_file, "ls", "acme/a"], "").code, 0);
    assert_eq!(call(&["--url", &by_file, "ls", "acme/b"], "").error(1)["action"], "read");
}
