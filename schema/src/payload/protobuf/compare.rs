//! Whether a Protobuf message may follow another as its next minor version: by field numbers, types
//! and labels, which are what the bytes depend on.
//!
//! Names of messages and fields may change: no byte depends on them. A field may only come: since
//! unknown fields are refused, payloads that carry one that went would no longer be accepted.

use std::collections::BTreeSet;

use prost_reflect::Cardinality;

use super::{Field, Kind, Schema};
use crate::payload::compatibility::Compatibility;
use crate::payload::pointer;

/// Compares `new` with the version before it.
pub(in crate::payload) fn compare(old: &Schema, new: &Schema) -> Compatibility {
    let mut comparison =
        Comparison { old, new, seen: BTreeSet::new(), found: Compatibility::default() };
    comparison.messages(0, 0, "");
    comparison.found
}

struct Comparison<'a> {
    old: &'a Schema,
    new: &'a Schema,
    /// Pairs of messages that are compared already. As many as fields refer to messages at most,
    /// since a pair is entered by a field of both.
    seen: BTreeSet<(usize, usize)>,
    found: Compatibility,
}

impl Comparison<'_> {
    fn messages(&mut self, old: usize, new: usize, path: &str) {
        if !self.seen.insert((old, new)) {
            return;
        }
        let (old, new) = (&self.old.messages[old], &self.new.messages[new]);
        for (number, field) in &old.fields {
            let place = path.to_owned() + &pointer(&[&field.name]);
            match new.fields.get(number) {
                Some(new) => self.fields(field, new, &place),
                None => {
                    let reason = format!("field {number} was there and no longer is");
                    self.found.violation(&place, reason);
                }
            }
        }
        for (number, field) in new.fields.iter().filter(|(n, _)| !old.fields.contains_key(n)) {
            let place = path.to_owned() + &pointer(&[&field.name]);
            if field.cardinality == Cardinality::Required {
                self.found.violation(&place, format!("field {number} is new and required"));
            }
            let joins = |oneof| old.fields.values().any(|old| old.oneof.as_ref() == Some(oneof));
            if field.oneof.as_ref().is_some_and(joins) {
                let reason = "is new in a oneof whose other choices readers know";
                self.found.violation(&place, reason);
            }
        }
    }

    fn fields(&mut self, old: &Field, new: &Field, place: &str) {
        if old.cardinality != new.cardinality {
            let label = |field: &Field| match field.cardinality {
                Cardinality::Optional => "optional",
                Cardinality::Required => "required",
                Cardinality::Repeated => "repeated",
            };
            let reason = format!("was {} and is now {}", label(old), label(new));
            self.found.violation(place, reason);
        }
        if old.oneof.is_some() != new.oneof.is_some() {
            self.found.violation(place, "moved into a oneof or out of one");
        }
        match (old.kind, new.kind) {
            (Kind::Message(old_message), Kind::Message(new_message)) if old.group == new.group => {
                self.messages(old_message, new_message, place);
            }
            (Kind::Enum(old), Kind::Enum(new)) => self.enums(old, new, place),
            (Kind::Scalar(old), Kind::Scalar(new)) if old == new => {}
            _ => {
                let (was, is) = (self.old.type_of(old), self.new.type_of(new));
                self.found.violation(place, format!("was {was} and is now {is}"));
            }
        }
    }

    fn enums(&mut self, old: usize, new: usize, place: &str) {
        let (old, new) = (&self.old.enums[old], &self.new.enums[new]);
        if old.closed != new.closed {
            let reason = "its values were open to others and no longer are, or the other way";
            self.found.violation(place, reason);
        }
        for (number, name) in old.values.iter().filter(|(n, _)| !new.values.contains_key(n)) {
            let reason = format!("value {name} ({number}) was there and no longer is");
            self.found.violation(place, reason);
        }
        if !old.closed {
            return;
        }
        for (number, name) in new.values.iter().filter(|(n, _)| !old.values.contains_key(n)) {
            let reason = format!("value {name} ({number}) is new, and readers do not know it");
            self.found.violation(place, reason);
        }
    }
}

impl Schema {
    fn type_of(&self, field: &Field) -> String {
        match field.kind {
            Kind::Scalar(scalar) => scalar.name.to_owned(),
            Kind::Enum(number) => format!("enum {}", self.enums[number].name),
            Kind::Message(number) if field.group => format!("group {}", self.messages[number].name),
            Kind::Message(number) => format!("message {}", self.messages[number].name),
        }
    }
}
