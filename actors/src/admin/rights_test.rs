//! Every order against every operation: one that is new must be thought of here before this
//! compiles.

use std::collections::BTreeSet;

use celeriant_net::Rights;
use celeriant_net::tls::Operation;
use celeriant_schema::Request;

use super::*;

/// What an order is called here, and what it takes; `None`: nothing but being known.
fn row(order: &Order) -> (&'static str, Option<Operation>) {
    match order {
        Order::Status => ("status", None),
        Order::Audit(AuditOrder::Frames { .. }) => ("frames", None),
        Order::Audit(AuditOrder::Event { .. }) => ("event", Some(Operation::Read)),
        Order::Schema(SchemaOrder::Register { .. }) => ("register", Some(Operation::Schema)),
        Order::Schema(SchemaOrder::Policy { .. }) => ("policy", Some(Operation::Schema)),
        Order::Schema(SchemaOrder::List { .. }) => ("schemas", Some(Operation::Read)),
        Order::Schema(SchemaOrder::Show { .. }) => ("show", Some(Operation::Read)),
        Order::Key(KeyOrder::Create { .. }) => ("create key", Some(Operation::Admin)),
        Order::Key(KeyOrder::List) => ("keys", Some(Operation::Admin)),
        Order::Key(KeyOrder::Revoke { .. }) => ("revoke key", Some(Operation::Admin)),
        Order::For { .. } => ("for", Some(Operation::Admin)),
        Order::Compact => ("compact", Some(Operation::Admin)),
        Order::Record => ("record", Some(Operation::Admin)),
        Order::HandOver => ("hand over", Some(Operation::Admin)),
        Order::Replace { .. } => ("replace", Some(Operation::Admin)),
        Order::Recover { .. } => ("recover", Some(Operation::Admin)),
    }
}

/// How many there are.
const ROWS: usize = 16;

/// One of each.
fn orders() -> Vec<Order> {
    let texts = [
        r#"{"order":"status"}"#,
        r#"{"order":"audit","do":"frames","shard":0,"after":0}"#,
        r#"{"order":"audit","do":"event","key":"acme/account/a","version":1,"stamp":1}"#,
        r#"{"order":"schema","do":"register","schema":"acme/account/T@1.0","format":"json",
            "text":""}"#,
        r#"{"order":"schema","do":"policy","org":"acme","closed":true,"allow_encrypted":false}"#,
        r#"{"order":"schema","do":"list","org":"acme"}"#,
        r#"{"order":"schema","do":"show","schema":"acme/account/T@1.0"}"#,
        r#"{"order":"key","do":"create","name":"app","grants":["*:*:all"]}"#,
        r#"{"order":"key","do":"list"}"#,
        r#"{"order":"key","do":"revoke","id":"0000000000000001"}"#,
        r#"{"order":"for","by":"key 1","what":{"order":"status"}}"#,
        r#"{"order":"compact"}"#,
        r#"{"order":"record"}"#,
        r#"{"order":"hand-over"}"#,
        r#"{"order":"replace","lost":"a","member":{"store":"b","node_id":"c","clients":"d",
            "replication":"e","features":[1,1]}}"#,
        r#"{"order":"recover","above":1}"#,
    ];
    texts.iter().map(|text| serde_json::from_str(text).expect(text)).collect()
}

#[test]
fn an_order_takes_its_operation_and_no_other_opens_it() {
    let orders = orders();
    let names: BTreeSet<&str> = orders.iter().map(|order| row(order).0).collect();
    assert_eq!((names.len(), orders.len()), (ROWS, ROWS), "one of each");
    for granted in Operation::ALL {
        let grant = format!("*:*:{}", granted.name()).parse().expect("a grant");
        let rights = Rights::anonymous(vec![grant]);
        for order in &orders {
            let (name, needed) = row(order);
            let request = Request::Admin(serde_json::to_string(order).expect("plain").into());
            let allowed = needed.is_none_or(|needed| needed == granted);
            assert_eq!(rights.check(&request).is_ok(), allowed, "{name} by {}", granted.name());
        }
    }
}

#[test]
fn what_changes_something_is_noted_and_what_looks_is_not() {
    let looks: Vec<&str> =
        orders().iter().filter(|order| order.only_looks()).map(|order| row(order).0).collect();
    let expected =
        ["status", "frames", "event", "schemas", "show", "keys", "for", "compact", "record"];
    assert_eq!(looks, expected);
}
