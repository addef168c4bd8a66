//! What a JSON Schema may contain, and what checking a payload against it can cost at most.
//!
//! Every subschema is a node. Some of its keywords apply others to the *same* value (`allOf`,
//! `$ref`, …), some to its *children*: to all of them (`items`), or each to its own (`properties`).
//! So the number of evaluations along one path from a payload's root down to a leaf, with `d`
//! levels to go, is at most
//!
//! ```text
//! W(node, d) = own + Σ W(same, d) + Σ W(every child's, d−1) + max W(one child's, d−1)
//! ```
//!
//! and a payload of n values and depth d costs at most n × W(root, d). Recursion that doubles at
//! every level makes W explode, which is what it is for: such a schema is fine with a shallow
//! payload, and a deep one is refused before it is checked. The same formula with `max` bounds the
//! stack.
//!
//! Deliberately absent: references to anything but a place in the same text (`#/…`). Anchors, ids
//! and dynamic references would make a reference mean something else depending on who asks.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::super::order::bottom_up;
use super::super::{DEPTH_MAX, SchemaInvalid, invalid, pointer};

/// Most subschemas of a schema.
const NODES_MAX: usize = 4096;
/// Most regular expressions of a schema.
const PATTERNS_MAX: usize = 100;
/// Most subschemas after every reference has been replaced by its target, as the library does.
const INLINED_MAX: u64 = 20_000;
/// Deepest evaluation: subschemas that are open at the same time.
const STACK_MAX: u64 = 512;
/// A byte of a string costs as much as this part of an evaluation, for every expression.
const PATTERN_COST: u64 = 2;

const DRAFTS: [&str; 5] = [
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-04/schema",
];

/// Keywords that would let a reference leave the text or depend on the way to it.
const REFUSED: [&str; 7] = [
    "$anchor",
    "$dynamicAnchor",
    "$dynamicRef",
    "$recursiveAnchor",
    "$recursiveRef",
    "$vocabulary",
    "id",
];

/// How a keyword's subschemas are applied.
#[derive(Clone, Copy)]
enum Applies {
    /// To the same value.
    Same,
    /// To every child.
    Every,
    /// Each to a child of its own.
    One,
    /// Not at all, unless something refers to it.
    Never,
}

/// Keywords that hold subschemas, directly, in a list or in a map.
const APPLICATORS: [(&str, Applies); 24] = [
    ("allOf", Applies::Same),
    ("anyOf", Applies::Same),
    ("oneOf", Applies::Same),
    ("not", Applies::Same),
    ("if", Applies::Same),
    ("then", Applies::Same),
    ("else", Applies::Same),
    ("dependentSchemas", Applies::Same),
    ("dependencies", Applies::Same),
    ("items", Applies::Every),
    ("additionalItems", Applies::Every),
    ("contains", Applies::Every),
    ("unevaluatedItems", Applies::Every),
    ("additionalProperties", Applies::Every),
    ("patternProperties", Applies::Every),
    ("propertyNames", Applies::Every),
    ("unevaluatedProperties", Applies::Every),
    ("properties", Applies::One),
    ("prefixItems", Applies::One),
    ("$defs", Applies::Never),
    ("definitions", Applies::Never),
    ("contentSchema", Applies::Never),
    ("extends", Applies::Never),
    ("disallow", Applies::Never),
];

/// Upper bounds of what checking costs.
#[derive(Clone, Debug)]
pub(super) struct Work {
    /// Evaluations along one path, by the payload's depth.
    by_depth: Vec<u64>,
    patterns: u64,
}

impl Work {
    /// Looks at a whole schema.
    pub(super) fn of(root: &Value) -> Result<Self, SchemaInvalid> {
        let mut graph = Graph::default();
        let root = graph.visit(root, root, String::new(), 0)?;
        let order = graph.order()?;
        if graph.inlined(root) > INLINED_MAX {
            return Err(invalid("refers to its parts too often"));
        }
        let by_depth = graph.weigh(&order, root, Measure::Evaluations);
        if graph.weigh(&order, root, Measure::Stack)[DEPTH_MAX] > STACK_MAX {
            return Err(invalid("is nested too deeply, following its references"));
        }
        Ok(Self { by_depth, patterns: graph.patterns as u64 })
    }

    /// For a payload of this many values, this deep and large.
    pub(super) fn evaluations(&self, values: u64, depth: usize, bytes: usize) -> u64 {
        let path = self.by_depth[depth.min(DEPTH_MAX)];
        let patterns = self.patterns.min(path);
        let characters = (bytes as u64).saturating_mul(patterns).saturating_mul(PATTERN_COST);
        values.saturating_mul(path).saturating_add(characters)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Measure {
    Evaluations,
    Stack,
}

#[derive(Default)]
struct Node {
    /// Place, for messages.
    path: String,
    own: u64,
    same: Vec<usize>,
    every: Vec<usize>,
    one: Vec<usize>,
}

#[derive(Default)]
struct Graph {
    nodes: Vec<Node>,
    /// By the address of the subschema in the parsed text, which does not move meanwhile.
    by_place: BTreeMap<usize, usize>,
    patterns: usize,
}

impl Graph {
    /// Adds a subschema and everything in it and behind its references; returns its number.
    fn visit(
        &mut self,
        root: &Value,
        schema: &Value,
        path: String,
        depth: usize,
    ) -> Result<usize, SchemaInvalid> {
        let place = std::ptr::from_ref(schema) as usize;
        if let Some(known) = self.by_place.get(&place) {
            return Ok(*known);
        }
        if depth > DEPTH_MAX * 2 {
            return Err(invalid(format!("{path}: is nested too deeply")));
        }
        let number = self.nodes.len();
        if number == NODES_MAX {
            return Err(invalid(format!("has more than {NODES_MAX} subschemas")));
        }
        self.by_place.insert(place, number);
        self.nodes.push(Node { path: path.clone(), own: 1, ..Node::default() });
        if let Value::Object(members) = schema {
            self.visit_members(root, members, number, &path, depth)?;
        }
        Ok(number)
    }

    fn visit_members(
        &mut self,
        root: &Value,
        members: &Map<String, Value>,
        number: usize,
        path: &str,
        depth: usize,
    ) -> Result<(), SchemaInvalid> {
        check_keywords(members, path)?;
        self.nodes[number].own += own_work(members);
        self.patterns += usize::from(members.contains_key("pattern"));
        let patterns = members.get("patternProperties").and_then(Value::as_object);
        self.patterns += patterns.map_or(0, Map::len);
        if self.patterns > PATTERNS_MAX {
            return Err(invalid(format!("has more than {PATTERNS_MAX} regular expressions")));
        }
        if let Some(Value::String(reference)) = members.get("$ref") {
            let target = resolve(root, reference)
                .ok_or_else(|| invalid(format!("{path}/$ref: leads nowhere in this text")))?;
            let target = self.visit(root, target, reference[1..].to_owned(), depth + 1)?;
            self.nodes[number].same.push(target);
        }
        // What was evaluated is found out by evaluating once more.
        let twice = members.keys().any(|keyword| keyword.starts_with("unevaluated"));
        for (keyword, applies) in APPLICATORS {
            let Some(value) = members.get(keyword) else { continue };
            let listed = keyword == "items" && value.is_array();
            for (segment, schema) in subschemas(keyword, value) {
                let path = format!("{path}/{keyword}{segment}");
                let child = self.visit(root, schema, path, depth + 1)?;
                let node = &mut self.nodes[number];
                match applies {
                    Applies::Same => node.same.push(child),
                    Applies::Every if !listed => node.every.push(child),
                    Applies::Every | Applies::One => node.one.push(child),
                    Applies::Never => {}
                }
            }
        }
        if twice {
            self.nodes[number].same.extend_from_within(..);
        }
        Ok(())
    }

    /// Every node after those that it applies to the same value. There is none if one of them
    /// comes back to itself: that would never end.
    fn order(&self) -> Result<Vec<usize>, SchemaInvalid> {
        let same = |number: usize, nth: usize| self.nodes[number].same.get(nth).copied();
        bottom_up(self.nodes.len(), same).map_err(|number| {
            let path = &self.nodes[number].path;
            invalid(format!("{path}: refers to itself without an end"))
        })
    }

    /// The root's weight, by depth.
    fn weigh(&self, order: &[usize], root: usize, measure: Measure) -> Vec<u64> {
        let sum = |weights: &[u64], of: &[usize]| {
            of.iter().fold(0_u64, |total, node| total.saturating_add(weights[*node]))
        };
        let max = |weights: &[u64], of: &[usize]| of.iter().map(|node| weights[*node]).max();
        let mut above = vec![0; self.nodes.len()];
        let mut by_depth = Vec::with_capacity(DEPTH_MAX + 1);
        for _ in 0..=DEPTH_MAX {
            let mut weights = vec![0; self.nodes.len()];
            for number in order {
                let node = &self.nodes[*number];
                let one = max(&above, &node.one).unwrap_or_default();
                weights[*number] = match measure {
                    Measure::Evaluations => node
                        .own
                        .saturating_add(sum(&weights, &node.same))
                        .saturating_add(sum(&above, &node.every))
                        .saturating_add(one),
                    Measure::Stack => {
                        let same = max(&weights, &node.same).unwrap_or_default();
                        1 + same.max(max(&above, &node.every).unwrap_or_default()).max(one)
                    }
                };
            }
            by_depth.push(weights[root]);
            above = weights;
        }
        by_depth
    }

    /// Nodes of the schema when every reference stands for a copy of its target, recursion cut.
    fn inlined(&self, root: usize) -> u64 {
        let mut counts = vec![None; self.nodes.len()];
        let mut seen = vec![false; self.nodes.len()];
        let mut stack = vec![root];
        while let Some(&number) = stack.last() {
            let node = &self.nodes[number];
            let children = || node.same.iter().chain(&node.every).chain(&node.one);
            seen[number] = true;
            if let Some(child) = children().find(|child| !seen[**child]) {
                stack.push(*child);
                continue;
            }
            let below = children().map(|child| counts[*child].unwrap_or(1_u64));
            counts[number] = Some(below.fold(1, u64::saturating_add));
            stack.pop();
        }
        counts[root].unwrap_or(u64::MAX)
    }
}

/// The place that a reference of the form `#/…` names.
pub(super) fn resolve<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    root.pointer(reference.strip_prefix('#')?)
}

fn check_keywords(members: &Map<String, Value>, path: &str) -> Result<(), SchemaInvalid> {
    for keyword in REFUSED {
        if members.get(keyword).is_some_and(|value| value.is_string() || value.is_boolean()) {
            return Err(invalid(format!("{path}/{keyword}: is not supported; use $ref \"#/…\"")));
        }
    }
    if !path.is_empty() && members.contains_key("$id") {
        return Err(invalid(format!("{path}/$id: only the whole schema may have one")));
    }
    if let Some(reference) = members.get("$ref") {
        let inside = |text: &str| (text == "#" || text.starts_with("#/")) && !text.contains('%');
        if !reference.as_str().is_some_and(inside) {
            let reason = "only references inside the text (\"#/…\") are followed";
            return Err(invalid(format!("{path}/$ref: {reason}")));
        }
    }
    if let Some(draft) = members.get("$schema") {
        let known = draft.as_str().is_some_and(|uri| DRAFTS.contains(&uri.trim_end_matches('#')));
        if !known {
            return Err(invalid(format!("{path}/$schema: is none of the drafts 4 to 2020-12")));
        }
    }
    Ok(())
}

/// Comparisons that a subschema's own keywords make for one value.
fn own_work(members: &Map<String, Value>) -> u64 {
    let constants = ["enum", "const"].iter().filter_map(|keyword| members.get(*keyword));
    let names = ["required", "dependentRequired"].iter().filter_map(|k| members.get(*k));
    constants.chain(names).map(count).sum()
}

fn count(value: &Value) -> u64 {
    match value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<u64>(),
        Value::Object(members) => 1 + members.values().map(count).sum::<u64>(),
        _ => 1,
    }
}

/// The subschemas in a keyword's value, each with its place below the keyword.
fn subschemas<'a>(keyword: &str, value: &'a Value) -> Vec<(String, &'a Value)> {
    let is_map = matches!(
        keyword,
        "properties"
            | "patternProperties"
            | "dependentSchemas"
            | "dependencies"
            | "$defs"
            | "definitions"
    );
    match value {
        Value::Array(items) => {
            items.iter().enumerate().map(|(at, item)| (pointer(&[&at]), item)).collect()
        }
        Value::Object(members) if is_map => {
            members.iter().map(|(name, schema)| (pointer(&[name]), schema)).collect()
        }
        schema => vec![(String::new(), schema)],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cost(schema: &Value, depth: usize) -> u64 {
        Work::of(schema).expect("valid").evaluations(1, depth, 0)
    }

    #[test]
    fn a_schema_costs_what_is_evaluated_along_one_path() {
        assert_eq!(cost(&json!(true), 5), 1);
        let wide = json!({"properties": {"a": {}, "b": {}, "c": {}}});
        assert_eq!(cost(&wide, 0), 1);
        assert_eq!(cost(&wide, 1), 2, "a child has one name");
        let alternatives = json!({"items": {"anyOf": [{}, {}, {}]}});
        assert_eq!(cost(&alternatives, 1), 1 + 4);
        assert_eq!(cost(&json!({"enum": ["a", "b"]}), 0), 1 + 3);
    }

    #[test]
    fn recursion_costs_little_unless_it_doubles() {
        let list = json!({"properties": {"next": {"$ref": "#"}, "other": {"$ref": "#"}}});
        assert_eq!(cost(&list, 64), 1 + 64 * 2);
        let doubling = json!({"anyOf": [
            {"properties": {"a": {"$ref": "#"}}},
            {"properties": {"a": {"$ref": "#"}}}
        ]});
        assert!(cost(&doubling, 4) < 200);
        assert!(cost(&doubling, 64) > 1 << 60);
    }

    #[test]
    fn a_schema_that_would_never_end_is_refused() {
        for endless in [
            json!({"$ref": "#"}),
            json!({"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"not": {"$ref": "#"}}}}),
        ] {
            let error = Work::of(&endless).expect_err("endless");
            assert!(error.reason.contains("without an end"), "{error}");
        }
    }
}
