//! Whether a JSON Schema may follow another as its next minor version: by comparing the texts.
//!
//! Two promises (semantics.md §8). What the old schema accepted, the new one accepts. And what
//! readers could rely on, they still can: which members are there, their types, and the values that
//! are enumerated; not how long or large something is. Members that a reader does not know it has
//! to skip, so new optional members are fine.
//!
//! Deciding this for all schemas is hard. Here a small part of the language is compared keyword by
//! keyword; everything else must stay as it is, or is *undecided*, which an operator may force.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::Schema;
use super::work::resolve;
use crate::payload::compatibility::Compatibility;
use crate::payload::pointer;

/// Pairs of subschemas that are compared at most; more is undecided.
const PAIRS_MAX: usize = 10_000;

/// Keywords that say nothing about what is accepted.
const ANNOTATIONS: [&str; 16] = [
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "format",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
];

/// Keywords that mean something also when they are not there, so they are compared first.
const COMPARED_FIRST: [&str; 3] = ["$ref", "additionalProperties", "type"];

/// Bounds: the keyword, and whether a larger number accepts more.
const BOUNDS: [(&str, bool); 10] = [
    ("maximum", true),
    ("exclusiveMaximum", true),
    ("maxLength", true),
    ("maxItems", true),
    ("maxProperties", true),
    ("minimum", false),
    ("exclusiveMinimum", false),
    ("minLength", false),
    ("minItems", false),
    ("minProperties", false),
];

/// Compares `new` with the version before it.
pub(in crate::payload) fn compare(old: &Schema, new: &Schema) -> Compatibility {
    let mut comparison = Comparison {
        old_root: &old.root,
        new_root: &new.root,
        seen: BTreeSet::new(),
        found: Compatibility::default(),
    };
    if old.root.get("$schema") != new.root.get("$schema") {
        comparison.found.undecided_at("", "changes the draft it is written in");
    }
    comparison.schemas(&old.root, &new.root, "");
    comparison.found
}

type Members = Map<String, Value>;

struct Comparison<'a> {
    old_root: &'a Value,
    new_root: &'a Value,
    /// Pairs that are compared already, by address: recursion ends here.
    seen: BTreeSet<(usize, usize)>,
    found: Compatibility,
}

impl<'a> Comparison<'a> {
    fn schemas(&mut self, old: &'a Value, new: &'a Value, path: &str) {
        let pair = (std::ptr::from_ref(old) as usize, std::ptr::from_ref(new) as usize);
        if !self.seen.insert(pair) {
            return;
        }
        if self.seen.len() > PAIRS_MAX {
            return self.found.undecided_at(path, "there is too much to compare");
        }
        match (old, new) {
            (Value::Bool(false), _) => {}
            (_, Value::Bool(false)) => self.found.violation(path, "now accepts nothing"),
            (Value::Object(old), Value::Object(new)) => self.members(old, new, path),
            (old, new) if accepts_anything(old) && accepts_anything(new) => {}
            (old, _) if accepts_anything(old) => {
                self.found.violation(path, "accepted anything and is now narrower");
            }
            _ => self.found.violation(path, "accepts anything: readers relied on less"),
        }
    }

    fn members(&mut self, old: &'a Members, new: &'a Members, path: &str) {
        let target = |members: &'a Members, root: &'a Value| {
            members.get("$ref").and_then(Value::as_str).and_then(|text| resolve(root, text))
        };
        match (target(old, self.old_root), target(new, self.new_root)) {
            (None, None) => {}
            (Some(old), Some(new)) => self.schemas(old, new, path),
            // What one version has behind a reference, the other may have in its place.
            (Some(Value::Object(target)), None) if is_bare_reference(old) => {
                return self.members(target, new, path);
            }
            (None, Some(Value::Object(target))) if is_bare_reference(new) => {
                return self.members(old, target, path);
            }
            _ => self.found.undecided_at(path, "has a $ref in only one of the versions"),
        }
        self.types(old, new, path);
        self.additional(old, new, path);
        let keywords: BTreeSet<&str> = old.keys().chain(new.keys()).map(String::as_str).collect();
        let apart = |keyword: &&str| !ANNOTATIONS.contains(keyword);
        for keyword in keywords.into_iter().filter(apart) {
            if !COMPARED_FIRST.contains(&keyword) {
                self.keyword(keyword, old, new, path);
            }
        }
    }

    fn types(&mut self, old: &Members, new: &Members, path: &str) {
        let (old, new) = (type_names(old), type_names(new));
        if old == new {
            return;
        }
        let list = |names: &Option<BTreeSet<&str>>| match names {
            None => "anything".to_owned(),
            Some(names) => names.iter().copied().collect::<Vec<_>>().join(" or "),
        };
        let change = format!("was {} and is now {}", list(&old), list(&new));
        self.found.violation(path, change);
    }

    /// Members that `properties` does not name.
    fn additional(&mut self, old: &'a Members, new: &'a Members, path: &str) {
        static ANYTHING: Value = Value::Bool(true);
        let rest = |members: &'a Members| members.get("additionalProperties").unwrap_or(&ANYTHING);
        match (rest(old), rest(new)) {
            // Readers skip members that they don't know.
            (Value::Bool(false), _) => {}
            (_, Value::Bool(false)) => {
                self.found.violation(path, "accepted members of any name and no longer does");
            }
            (old, new) => self.schemas(old, new, &(path.to_owned() + "/additionalProperties")),
        }
    }

    fn keyword(&mut self, keyword: &str, old: &'a Members, new: &'a Members, path: &str) {
        let values = (old.get(keyword), new.get(keyword));
        let place = path.to_owned() + &pointer(&[&keyword]);
        if let Some((_, upper)) = BOUNDS.iter().find(|(name, _)| *name == keyword) {
            return self.bound(*upper, values, &place);
        }
        match keyword {
            "properties" => self.properties(old, new, path),
            "required" => self.required(old, new, path),
            "enum" => self.enumerated(values, &place),
            "const" => self.constant(values, &place),
            "items" | "propertyNames" => self.nested(values, &place),
            "prefixItems" | "allOf" => self.each(values, &place),
            "uniqueItems" => self.unique(values, &place),
            "pattern" | "multipleOf" => self.may_only_go(values, &place),
            _ => self.unchanged(values, &place),
        }
    }

    fn bound(&mut self, upper: bool, values: (Option<&'a Value>, Option<&'a Value>), place: &str) {
        let narrower = match values {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(old), Some(new)) => match (old.as_f64(), new.as_f64()) {
                (Some(a), Some(b)) if a != b => (b < a) == upper,
                // Equal, or too large to tell, or, in draft 4, flags.
                _ => return self.unchanged((Some(old), Some(new)), place),
            },
        };
        if narrower {
            self.found.violation(place, "is narrower than it was");
        }
    }

    fn properties(&mut self, old: &'a Members, new: &'a Members, path: &str) {
        let named = |members: &'a Members| -> BTreeMap<&'a String, &'a Value> {
            let named = members.get("properties").and_then(Value::as_object);
            named.into_iter().flatten().collect()
        };
        let (old_named, mut new_named) = (named(old), named(new));
        for (name, schema) in old_named {
            let place = format!("{path}/properties{}", pointer(&[name]));
            match new_named.remove(name) {
                Some(new) => self.schemas(schema, new, &place),
                None => self.found.violation(&place, "was there and no longer is"),
            }
        }
        let patterns = old.contains_key("patternProperties");
        let rest = old.get("additionalProperties");
        for (name, schema) in new_named {
            let place = format!("{path}/properties{}", pointer(&[name]));
            match rest {
                Some(Value::Bool(false)) if !patterns => {}
                _ if accepts_anything(schema) => {}
                _ if patterns => {
                    self.found.undecided_at(&place, "is new, and a pattern may have matched it");
                }
                Some(Value::Object(_)) => {
                    self.found.undecided_at(&place, "is new, and was an additional property");
                }
                _ => self.found.violation(
                    &place,
                    "is new, but the version before accepted anything under that name \
                     (\"additionalProperties\": false would have kept it free)",
                ),
            }
        }
    }

    fn required(&mut self, old: &Members, new: &Members, path: &str) {
        let names = |members: &'_ Members| -> BTreeSet<String> {
            let list = members.get("required").and_then(Value::as_array);
            list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let (old, new) = (names(old), names(new));
        for name in new.difference(&old) {
            self.found.violation(path, format!("{name:?} is required and was not"));
        }
        for name in old.difference(&new) {
            let reason = format!("{name:?} is no longer required, and readers relied on it");
            self.found.violation(path, reason);
        }
    }

    fn enumerated(&mut self, values: (Option<&Value>, Option<&Value>), place: &str) {
        let (Some(Value::Array(old)), Some(Value::Array(new))) = values else {
            return match values {
                (None, _) => self.found.violation(place, "accepted other values, too"),
                _ => self.found.violation(place, "readers relied on these values only"),
            };
        };
        let short = |value: &Value| value.to_string().chars().take(64).collect::<String>();
        for value in old.iter().filter(|value| !new.contains(value)) {
            self.found.violation(place, format!("no longer accepts {}", short(value)));
        }
        for value in new.iter().filter(|value| !old.contains(value)) {
            let reason = format!("{} is new, and readers do not know it", short(value));
            self.found.violation(place, reason);
        }
    }

    fn constant(&mut self, values: (Option<&Value>, Option<&Value>), place: &str) {
        if values.0 != values.1 {
            self.found.violation(place, "is not the value that it was");
        }
    }

    fn nested(&mut self, values: (Option<&'a Value>, Option<&'a Value>), place: &str) {
        static ANYTHING: Value = Value::Bool(true);
        match values {
            // In older drafts a list, and then what it means depends on the keywords beside it.
            (Some(Value::Array(_)), _) | (_, Some(Value::Array(_))) => {
                self.unchanged(values, place);
            }
            (old, new) => {
                self.schemas(old.unwrap_or(&ANYTHING), new.unwrap_or(&ANYTHING), place);
            }
        }
    }

    /// Lists in which every subschema must hold: compared one by one.
    fn each(&mut self, values: (Option<&'a Value>, Option<&'a Value>), place: &str) {
        match values {
            (Some(Value::Array(old)), Some(Value::Array(new))) if old.len() == new.len() => {
                for (at, (old, new)) in old.iter().zip(new).enumerate() {
                    self.schemas(old, new, &format!("{place}/{at}"));
                }
            }
            _ => self.found.undecided_at(place, "has another number of subschemas"),
        }
    }

    fn unique(&mut self, values: (Option<&Value>, Option<&Value>), place: &str) {
        let on = |value: Option<&Value>| value.and_then(Value::as_bool).unwrap_or(false);
        if on(values.1) && !on(values.0) {
            self.found.violation(place, "is narrower than it was");
        }
    }

    /// A restriction that may be lifted; whether a changed one is narrower cannot be told.
    fn may_only_go(&mut self, values: (Option<&Value>, Option<&Value>), place: &str) {
        match values {
            (None, Some(_)) => self.found.violation(place, "is narrower than it was"),
            (Some(old), Some(new)) if old != new => {
                self.found.undecided_at(place, "changed; whether it accepts less is not decided");
            }
            _ => {}
        }
    }

    fn unchanged(&mut self, values: (Option<&'a Value>, Option<&'a Value>), place: &str) {
        let same = values.0 == values.1
            && values.0.is_none_or(|value| self.is_same_behind(value, &mut BTreeSet::new()));
        if !same {
            self.found.undecided_at(place, "changed; whether it accepts less is not decided");
        }
    }

    /// Whether the references in `value` lead to the same texts in both versions.
    fn is_same_behind(&self, value: &'a Value, seen: &mut BTreeSet<&'a str>) -> bool {
        match value {
            Value::Array(items) => items.iter().all(|item| self.is_same_behind(item, seen)),
            Value::Object(members) => members.iter().all(|(keyword, value)| match value {
                Value::String(text) if keyword == "$ref" => {
                    let old = resolve(self.old_root, text);
                    !seen.insert(text)
                        || old == resolve(self.new_root, text)
                            && old.is_none_or(|target| self.is_same_behind(target, seen))
                }
                value => self.is_same_behind(value, seen),
            }),
            _ => true,
        }
    }
}

/// The types that a subschema lets pass; `None`: all of them. `integer` is a name of its own:
/// a reader that takes integers does not take every number.
fn type_names(members: &Members) -> Option<BTreeSet<&str>> {
    match members.get("type")? {
        Value::String(name) => Some(BTreeSet::from([name.as_str()])),
        Value::Array(names) => Some(names.iter().filter_map(Value::as_str).collect()),
        _ => None,
    }
}

/// A reference, and nothing beside it that restricts anything.
fn is_bare_reference(members: &Members) -> bool {
    let harmless = |keyword: &String| keyword == "$ref" || is_annotation(keyword);
    members.contains_key("$ref") && members.keys().all(harmless)
}

fn accepts_anything(schema: &Value) -> bool {
    match schema {
        Value::Bool(anything) => *anything,
        Value::Object(members) => members.keys().all(|keyword| is_annotation(keyword)),
        _ => false,
    }
}

fn is_annotation(keyword: &str) -> bool {
    ANNOTATIONS.contains(&keyword)
}
