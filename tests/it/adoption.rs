//! A node on its own becomes the first of a pair, with all that it has (replication.md §3).

use celeriant_client::{Batch, Client, ClientId, Event};

use crate::support::{Node, Pair, call, wait};

const AGGREGATES: u64 = 40;
const WRITER: ClientId = ClientId::new(7);

async fn append(client: &Client, at: u64, sequence: u64) -> celeriant_client::Receipt {
    let key = format!("acme/account/{at}").parse().expect("a key");
    let event = Event::json("Added", &(at, sequence)).expect("JSON");
    let write = client.append(&key, [event]).client(WRITER).sequence(sequence);
    write.await.expect("appended")
}

async fn all(client: &Client) -> Vec<Vec<Batch>> {
    let mut all = Vec::new();
    for at in 0..AGGREGATES {
        let key = format!("acme/account/{at}").parse().expect("a key");
        all.push(client.read(&key).any().collect().await.expect("there"));
    }
    all
}

#[test]
fn what_a_single_node_has_is_the_pairs_with_hashes_and_sequences() {
    let mut pair = Pair::new(2);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    pair.start_alone(0);
    let client = runtime.block_on(Client::connect(&pair.url_of(0))).expect("it serves");
    let receipts = runtime.block_on(async {
        let mut receipts = Vec::new();
        for sequence in 1..=5 {
            for at in 0..AGGREGATES {
                receipts.push(append(&client, at, sequence).await);
            }
        }
        receipts
    });
    let before = runtime.block_on(all(&client));
    drop(client);
    pair.kill(0);

    pair.start(0);
    wait::until("the first node to lead", || pair.leader());
    pair.start(1);
    let leader = wait::until("a pair", || pair.whole());
    assert_eq!(leader, 0, "whoever has the data");
    for at in 0..2 {
        let client = runtime.block_on(Client::connect(&pair.url_of(at))).expect("it serves");
        assert_eq!(runtime.block_on(all(&client)), before, "on node {at}");
    }
    let verified = call(&["--url", &pair.url(), "verify", "acme"], "").line();
    assert_eq!((&verified["aggregates"], &verified["events"]), (&40.into(), &200.into()));
    assert_eq!(verified["nodes"].as_array().map(Vec::len), Some(2));
    let none = call(&["--url", &pair.url(), "verify", "acme/account/nobody"], "").error(1);
    assert_eq!(none["error"], "NotFound");
    // The other one has it by itself, and knows what has landed.
    pair.kill(0);
    let client = runtime.block_on(Client::connect(&pair.url())).expect("it takes over");
    runtime.block_on(async {
        let first = &receipts[receipts.len() - AGGREGATES as usize];
        let again = append(&client, 0, 5).await;
        assert!(again.already_applied);
        assert_eq!((again.stamp, &again.writes), (first.stamp, &first.writes));
        assert_eq!(append(&client, 0, 6).await.writes[0].last_version.value(), 6);
    });
}

#[test]
fn a_directory_without_certificates_is_told_how_to_get_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (data, certs, own) = (path("data"), path("certs"), path("own"));
    assert_eq!(Node::dev(dir.path().join("data").as_path(), &[]).terminate(), Some(0));
    call(&["cert", "ca", "--out", &certs], "").line();
    let refused = call(&["cert", "node", "a", "--data-dir", &data, "--out", &certs], "").error(2);
    let message = refused["message"].as_str().expect("text");
    let (_, cluster) = message.rsplit_once("--cluster ").expect("what to do");
    call(&["cert", "ca", "--cluster", cluster, "--out", &own], "").line();
    let made = call(&["cert", "node", "a", "--data-dir", &data, "--out", &own], "").line();
    assert!(made["certificate"].is_string(), "{made}");
}
