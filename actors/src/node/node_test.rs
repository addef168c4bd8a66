//! A whole node on real files: writes in one shard and over several, listing, restart.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::Path;

use celeriant_net::{Door, Incoming, ReplyReceiver, ReplySender, Service};
use celeriant_schema::{
    AggregateKey, ClientId, Guard, HeadQuery, ListQuery, Member, Receipt, Refusal, Request,
    Response, ShardId, Version, Write,
};

use crate::launch::Launch;
use crate::node::Node;
use crate::shard::core::rig::events;

const SHARDS: u16 = 4;

struct Client {
    replies: ReplySender,
    inbox: ReplyReceiver,
}

impl Client {
    fn new() -> Self {
        let (replies, inbox) = ReplySender::channel();
        Self { replies, inbox }
    }

    async fn ask(&mut self, node: &Node, request: Request) -> Response {
        let incoming = Incoming { id: 1, deadline: None, bytes: 100, request, by: None };
        node.router(0).submit(vec![incoming], &self.replies);
        let mut replies = self.inbox.recv().await.expect("the node answers");
        assert_eq!(replies.len(), 1);
        replies.remove(0).response
    }
}

async fn start(data: &Path) -> Node {
    let launch = Launch {
        data_dir: data.to_path_buf(),
        node_id: "test".into(),
        shards: NonZeroU16::new(SHARDS),
        threads: 2,
        memory_bytes: 64 << 20,
        compaction_bytes: 1 << 20,
        quotas: Default::default(),
        allow_buffered: true,
        pair: None,
    };
    launch.start().await.expect("starts")
}

fn write(keys: &[&AggregateKey], guard: Guard) -> Request {
    let member = |key: &&AggregateKey| Member {
        key: (*key).clone(),
        guard,
        sequence: None,
        events: events(1, "payload"),
        retention: None,
    };
    let members = keys.iter().map(member).collect();
    Request::Write(Write { client_id: ClientId::NONE, members })
}

fn receipt(response: Response) -> Receipt {
    match response {
        Response::Receipt(receipt) => receipt,
        other => panic!("a receipt, not {other:?}"),
    }
}

/// A key that lives in `shard`.
fn key_in(shard: u16) -> AggregateKey {
    let key = |id: u32| AggregateKey::new("acme", "account", &id.to_string()).expect("valid");
    let here = |key: &AggregateKey| key.shard(SHARDS) == ShardId::new(shard);
    (0..).map(key).find(here).expect("every shard has keys")
}

#[test]
fn a_node_keeps_what_it_acknowledged_over_a_restart() {
    let data = tempfile::tempdir().expect("tempdir");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("runtime").block_on(async {
        let keys: Vec<AggregateKey> = (0..SHARDS).map(key_in).collect();
        let all: Vec<&AggregateKey> = keys.iter().collect();
        let node = start(data.path()).await;
        let mut client = Client::new();
        let one = receipt(client.ask(&node, write(&all[..1], Guard::NoStream)).await);
        assert_eq!(one.writes[0].first_version.value(), 1);
        let over_all = receipt(client.ask(&node, write(&all, Guard::Any)).await);
        let versions: Vec<u64> = over_all.writes.iter().map(|w| w.last_version.value()).collect();
        assert_eq!(versions, [2, 1, 1, 1]);
        let refused = client.ask(&node, write(&all, Guard::Exact(Version::new(1)))).await;
        let Response::Refused(Refusal::Conflict { conflicts, .. }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(conflicts.len(), 1, "only the first is beyond version 1");
        node.stop().await;

        let node = start(data.path()).await;
        for (key, receipt) in keys.iter().zip(&over_all.writes) {
            let query = HeadQuery { key: key.clone(), client: None, min_stamp: None, any: false };
            let Response::Head(head) = client.ask(&node, Request::Head(query)).await else {
                panic!("{key} is there")
            };
            assert_eq!((head.version, head.hash), (receipt.last_version, receipt.hash));
        }
        let query = ListQuery {
            org: Some("acme".into()),
            kind: Some("account".into()),
            prefix: String::new(),
            after: None,
            limit: 10,
        };
        let Response::List(list) = client.ask(&node, Request::List(query)).await else {
            panic!("a list")
        };
        let mut ids: Vec<&str> = keys.iter().map(AggregateKey::id).collect();
        ids.sort_unstable();
        assert_eq!(list.names, ids, "of all shards, in order");
        node.stop().await;
    });
}

#[test]
fn a_port_that_another_node_listens_on_is_refused() {
    let (first, second) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("runtime").block_on(async {
        let mut one = start(first.path()).await;
        let mut two = start(second.path()).await;
        let addr: SocketAddr =
            one.listen(([127, 0, 0, 1], 0).into(), Door::default()).await.expect("a free port");
        assert!(
            two.listen(addr, Door::default()).await.is_err(),
            "SO_REUSEPORT would let both have it"
        );
        one.stop().await;
        two.stop().await;
    });
}
