//! Clients over TLS: who is let in by a real node, and certificates that are exchanged under it.

use std::fs;
use std::path::Path;

use celeriant_client::Client;

use crate::support::http::curl_with;
use crate::support::program::Called;
use crate::support::site::Site;
use crate::support::{Node, call, wait};

fn ls(url: &str) -> Called {
    call(&["--url", url, "ls", "acme"], "")
}

/// The same for one who is not let in, with little patience.
fn refused(url: &str) -> Called {
    call(&["--url", url, "--timeout", "2s", "ls", "acme"], "")
}

fn append(url: &str, key: &str) -> Called {
    call(&["--url", url, "append", key, "--type", "T", "--data", "1"], "")
}

#[track_caller]
fn unreachable(called: &Called, why: &str) {
    let message = called.error(3)["message"].as_str().expect("text").to_owned();
    assert!(message.contains(why), "{why:?} is not in {message:?}");
}

#[test]
fn a_node_serves_who_shows_a_certificate_of_its_authority_and_nobody_else() {
    let site = Site::new();
    site.cert("others", &["ca"]);
    site.cert("others", &["client", "app"]);
    let node = Node::run(site.command(&[]));
    assert_eq!(ls(&site.url(&node, "certs", Some("app"))).code, 0);
    unreachable(&refused(&site.url(&node, "certs", None)), "CertificateRequired");
    unreachable(&refused(&site.url(&node, "others", Some("app"))), "another authority");
    let clear = format!("celeriant://{}", node.address());
    unreachable(&refused(&clear), "the node speaks TLS");
    let foreign = site.url(&node, "certs", Some("app"));
    let other = |what| site.path("others").join(format!("app.{what}"));
    let flags = |cert: &Path, key: &Path, url: &str| {
        let (ca, cert, key) = (site.text("certs/ca.crt"), cert.display(), key.display());
        let flags = ["--ca", &ca, "--cert", &cert.to_string(), "--key", &key.to_string()];
        call(&[&["--url", url, "--timeout", "2s"], &flags[..], &["ls", "acme"]].concat(), "")
    };
    unreachable(&flags(&other("crt"), &other("key"), &clear), "UnknownCA");
    assert_eq!(flags(&other("crt"), &other("key"), &foreign).code, 0, "the URL comes first");
    let own = |what| site.path("certs").join(format!("app.{what}"));
    assert_eq!(flags(&own("crt"), &own("key"), &format!("{clear}?tls=on")).code, 0);
    assert_eq!(node.terminate(), Some(0));

    let dev = Node::dev(&site.path("dev"), &[]);
    unreachable(&refused(&site.url(&dev, "certs", Some("app"))), "does not speak TLS");

    let lax = Node::run(site.command(&["--tls-client-auth", "none"]));
    assert_eq!(ls(&site.url(&lax, "certs", None)).error(1)["error"], "Unauthenticated");
    drop(lax);
    let flags = ["--tls-client-auth", "optional", "--anonymous", "acme:*:read"];
    let public = Node::run(site.command(&flags));
    let url = site.url(&public, "certs", None);
    assert_eq!(ls(&url).code, 0);
    assert_eq!(append(&url, "acme/account/a").error(1)["error"], "PermissionDenied");
    drop(public);
    let open = Node::run(site.command(&["--insecure-plaintext", "true"]));
    assert_eq!(ls(&format!("celeriant://{}", open.address())).code, 0);
}

#[test]
fn a_certificate_opens_what_it_grants_whatever_way_its_holder_comes_in() {
    let site = Site::new();
    site.cert("certs", &["client", "blank"]);
    site.cert("certs", &["client", "ops", "--grant", "*:*:all"]);
    let node = Node::run(site.command(&[]));
    let url = |name| site.url(&node, "certs", Some(name));
    assert_eq!(append(&url("app"), "acme/account/a").code, 0);
    let denied = append(&url("app"), "rival/account/a").error(1);
    assert_eq!(denied["error"], "PermissionDenied");
    assert_eq!(
        (&denied["action"], &denied["resource"]),
        (&"append".into(), &"rival/account".into())
    );
    assert_eq!(append(&url("blank"), "acme/account/a").error(1)["error"], "PermissionDenied");
    let watched = call(&["--url", &url("app"), "watch", "acme", "--until", "now"], "");
    assert_eq!(watched.error(1)["action"], "watch");
    let all = call(&["--url", &url("ops"), "watch", "*", "--from", "start", "--until", "now"], "");
    assert_eq!((all.code, all.stdout.lines().count()), (0, 1), "{}", all.stdout);

    // The same over HTTP.
    let http = |name: &str, path: &str| {
        let url = format!("{}{path}", node.http.as_deref().expect("it serves HTTP"));
        curl_with(&site.files(name), &url, &[])
    };
    assert_eq!(http("app", "/v1/orgs/acme/types")["types"], serde_json::json!(["account"]));
    assert_eq!(http("app", "/v1/orgs")["status"], 403);
    assert_eq!(http("app", "/v1/feed?selector=acme")["action"], "watch");
    assert_eq!(http("ops", "/v1/orgs")["orgs"], serde_json::json!(["acme"]));
    assert_eq!(http("blank", "/health/ready")["ready"], true);
}

#[test]
fn a_client_s_certificate_is_made_whole_and_carries_its_grants() {
    let site = Site::new();
    let made = site.cert("certs", &["client", "ops", "--grant", "*:*:all"]);
    assert_eq!((&made["client"], &made["grants"]), (&"ops".into(), &"*:*:all".into()));
    let out = site.text("certs");
    let again = call(&["cert", "client", "ops", "--out", &out], "");
    assert!(again.error(2)["message"].as_str().expect("text").contains("is there already"));
    let wrong = call(&["cert", "client", "x", "--grant", "acme:*:write", "--out", &out], "");
    assert!(wrong.code == 2 && wrong.stderr.contains("none of all"), "{}", wrong.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn certificates_are_exchanged_under_connections_that_go_on() {
    let site = Site::new();
    let node = Node::run(site.command(&[]));
    let url = site.url(&node, "certs", Some("app"));
    let client = Client::connect(&url).await.expect("served");
    // Another authority with certificates of its own for the same node and client. What is there
    // is exchanged file by file, as people do it.
    let cluster = fs::read_to_string(site.path("certs/cluster-id")).expect("there");
    site.cert("new", &["ca", "--cluster", cluster.trim()]);
    site.cert("new", &["client", "app", "--grant", "acme:*:read"]);
    let node_cert = |certs: &str, name: &str| {
        // The node's data directory is in use: its certificate is made for a copy of its name.
        let data = site.path("copy");
        let _ = fs::remove_dir_all(&data);
        fs::create_dir(&data).expect("a directory");
        let data = data.display().to_string();
        site.cert(certs, &["node", name, "--data-dir", &data, "--shards", "1"]);
    };
    node_cert("new", "n");
    for name in ["ca.crt", "n.crt", "n.key"] {
        fs::copy(site.path("new").join(name), site.path("certs").join(name)).expect("copied");
    }
    let new = site.url(&node, "new", Some("app"));
    wait::until("the new authority to count", || (ls(&new).code == 0).then_some(()));
    client.list_types("acme").collect().await.expect("the old connection goes on");

    // Half of a set is no reason to stop: what was good stays, and a whole set is taken on demand.
    fs::write(site.path("certs/n.key"), "half of it").expect("written");
    node.signal("-HUP");
    assert_eq!(ls(&new).code, 0);
    client.list_types("acme").collect().await.expect("the old connection goes on");
    assert_eq!(node.terminate(), Some(0));
}

#[test]
fn a_certificate_that_was_taken_back_opens_nothing_from_the_next_session_on() {
    let site = Site::new();
    for name in ["lost", "stolen"] {
        site.cert("certs", &["client", name, "--grant", "acme:*:read"]);
    }
    site.cert("certs", &["revoke", "stolen"]);
    let node = Node::run(site.command(&["--tls-crl", &site.text("certs/ca.crl")]));
    let url = |name| site.url(&node, "certs", Some(name));
    assert_eq!((ls(&url("app")).code, ls(&url("lost")).code), (0, 0));
    // A machine that is busy may not even say so in time.
    let is_refused = |name| {
        let told = || refused(&url(name)).stderr.contains("Revoked").then_some(());
        wait::until("the list to count", told);
    };
    is_refused("stolen");
    site.cert("certs", &["revoke", "lost"]);
    is_refused("lost");
    is_refused("stolen");
    assert_eq!(ls(&url("app")).code, 0);
}
