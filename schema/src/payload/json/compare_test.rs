//! JSON Schema as a next minor version: each rule of `docs/schemas.md`, both ways; and a property
//! that compares the rules with what the schemas really accept.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Schema, compare};
use crate::payload::Compatibility;

fn compile(schema: &Value) -> Schema {
    Schema::compile(&schema.to_string()).expect("valid")
}

fn found(old: &Value, new: &Value) -> Compatibility {
    compare(&compile(old), &compile(new))
}

#[track_caller]
fn compatible(old: Value, new: Value) {
    assert_eq!(found(&old, &new), Compatibility::default(), "{old} -> {new}");
}

#[track_caller]
fn violates(old: Value, new: Value, place: &str) {
    let found = found(&old, &new);
    let named = found.violations().iter().any(|text| text.starts_with(&format!("{place}: ")));
    assert!(named, "{old} -> {new}: {found:?}");
}

#[track_caller]
fn undecided(old: Value, new: Value) {
    let found = found(&old, &new);
    assert!(!found.undecided().is_empty(), "{old} -> {new}: {found:?}");
}

#[test]
fn annotations_and_new_optional_members_of_a_closed_object_are_fine() {
    let old = json!({"type": "object", "properties": {"a": {"type": "string"}},
        "required": ["a"], "additionalProperties": false});
    let mut new = old.clone();
    new["description"] = json!("an order");
    new["properties"]["b"] = json!({"type": "integer"});
    compatible(old.clone(), old.clone());
    compatible(old.clone(), new.clone());
    violates(new, old, "/properties/b");
}

#[test]
fn a_new_member_of_an_open_object_takes_away_what_was_accepted() {
    let old = json!({"properties": {"a": {}}});
    let new = json!({"properties": {"a": {}, "b": {"type": "integer"}}});
    violates(old.clone(), new, "/properties/b");
    compatible(old, json!({"properties": {"a": {}, "b": {"title": "anything"}}}));
}

#[test]
fn required_members_stay_required_and_others_optional() {
    let names = |names: &[&str]| json!({"required": names});
    violates(names(&[]), names(&["a"]), "schema");
    violates(names(&["a"]), names(&[]), "schema");
    violates(names(&["a"]), json!({}), "schema");
    compatible(names(&["a", "b"]), names(&["b", "a"]));
}

#[test]
fn types_and_enumerated_values_stay() {
    let kind = |kind: Value| json!({"items": {"type": kind}});
    violates(kind(json!("integer")), kind(json!("number")), "/items");
    violates(kind(json!("number")), kind(json!("integer")), "/items");
    violates(kind(json!("string")), kind(json!(["string", "null"])), "/items");
    compatible(kind(json!("string")), kind(json!(["string"])));
    compatible(kind(json!(["null", "string"])), kind(json!(["string", "null"])));
    violates(json!({}), json!({"type": "string"}), "schema");
    violates(json!({"type": "string"}), json!({}), "schema");
    violates(json!({"enum": [1, 2]}), json!({"enum": [1]}), "/enum");
    violates(json!({"enum": [1]}), json!({"enum": [1, 2]}), "/enum");
    violates(json!({}), json!({"enum": [1]}), "/enum");
    compatible(json!({"enum": [1, 2]}), json!({"enum": [2, 1]}));
}

#[test]
fn bounds_may_only_grow() {
    for (keyword, tight, loose) in [
        ("maximum", 5, 6),
        ("maxLength", 5, 6),
        ("maxItems", 5, 6),
        ("minimum", 6, 5),
        ("minLength", 6, 5),
        ("exclusiveMinimum", 6, 5),
    ] {
        let (tight, loose) = (json!({keyword: tight}), json!({keyword: loose}));
        compatible(tight.clone(), loose.clone());
        compatible(tight.clone(), json!({}));
        violates(loose, tight.clone(), &format!("/{keyword}"));
        violates(json!({}), tight, &format!("/{keyword}"));
    }
    violates(json!({}), json!({"uniqueItems": true}), "/uniqueItems");
    compatible(json!({"uniqueItems": true}), json!({"uniqueItems": false}));
    violates(json!({}), json!({"pattern": "^a"}), "/pattern");
    compatible(json!({"pattern": "^a"}), json!({}));
    undecided(json!({"pattern": "^a"}), json!({"pattern": "^ab?"}));
}

#[test]
fn an_object_that_is_closed_later_accepts_less() {
    violates(json!({}), json!({"additionalProperties": false}), "schema");
    compatible(json!({"additionalProperties": false}), json!({}));
}

#[test]
fn references_are_followed_also_into_themselves() {
    let schema = |kind: &str| {
        json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {
            "next": {"$ref": "#/$defs/node"}, "value": {"type": kind}}}}})
    };
    compatible(schema("string"), schema("string"));
    violates(schema("string"), schema("integer"), "/properties/value");
    let inline = json!({"properties": {"a": {"type": "string"}}});
    let apart =
        json!({"properties": {"a": {"$ref": "#/$defs/t"}}, "$defs": {"t": {"type": "string"}}});
    compatible(inline.clone(), apart.clone());
    compatible(apart, inline);
}

#[test]
fn what_cannot_be_compared_is_undecided_unless_it_stays() {
    let any = |kind: &str| json!({"anyOf": [{"type": kind}, {"type": "null"}]});
    compatible(any("string"), any("string"));
    undecided(any("string"), any("integer"));
    let reference =
        |kind: &str| json!({"oneOf": [{"$ref": "#/$defs/t"}], "$defs": {"t": {"type": kind}}});
    compatible(reference("string"), reference("string"));
    undecided(reference("string"), reference("integer"));
    violates(json!({"const": 1}), json!({"const": 2}), "/const");
    undecided(json!({"allOf": [{}]}), json!({"allOf": [{}, {}]}));
    undecided(json!({"mine": 1}), json!({"mine": 2}));
}

fn schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({})),
        Just(json!(true)),
        Just(json!(false)),
        prop_oneof![Just("string"), Just("integer"), Just("number"), Just("null")]
            .prop_map(|kind| json!({"type": kind})),
        (0..3_u8).prop_map(|n| json!({"maximum": n})),
        (0..3_u8).prop_map(|n| json!({"minLength": n})),
        (1..3_u8).prop_map(|n| json!({"enum": (0..n).collect::<Vec<_>>()})),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        let object = (
            proptest::collection::btree_map("[ab]", inner.clone(), 0..3),
            proptest::collection::btree_set("[ab]", 0..2),
            proptest::option::of(inner.clone()),
        );
        prop_oneof![
            object.prop_map(|(properties, required, rest)| {
                let mut schema = json!({"properties": properties, "required": required});
                if let Some(rest) = rest {
                    schema["additionalProperties"] = rest;
                }
                schema
            }),
            inner.clone().prop_map(|items| json!({"items": items})),
            (inner.clone(), inner).prop_map(|(a, b)| json!({"allOf": [a, b]})),
        ]
    })
}

fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        (0..4_u8).prop_map(|n| json!(n)),
        Just(json!(0.5)),
        "[ab]{0,2}".prop_map(|text| json!(text)),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(|items| json!(items)),
            proptest::collection::btree_map("[abc]", inner, 0..3)
                .prop_map(|members| json!(members)),
        ]
    })
}

proptest! {
    /// The rules may refuse too much, but what they let pass accepts all that was accepted.
    #[test]
    fn a_clean_comparison_never_loses_a_document(
        (old, new) in (schema(), schema()),
        documents in proptest::collection::vec(document(), 16),
    ) {
        for (old, new) in [(&old, &new), (&new, &old), (&old, &old)] {
            let (old, new) = (compile(old), compile(new));
            if !compare(&old, &new).is_clean() {
                continue;
            }
            for document in &documents {
                let bytes = document.to_string();
                if old.check(bytes.as_bytes()).is_ok() {
                    prop_assert!(new.check(bytes.as_bytes()).is_ok(), "{document}");
                }
            }
        }
    }
}
