//! Whether an Avro schema may follow another as its next minor version: Avro's own rules for
//! reading with another schema than the one that wrote, in both directions.
//!
//! A reader of the new version reads what the old one wrote (what was accepted stays acceptable),
//! and a reader of the old version reads what the new one writes (what was readable stays
//! readable).

use std::collections::BTreeSet;

use super::{Field, Kind, Node, Schema};
use crate::payload::compatibility::Compatibility;
use crate::payload::pointer;

/// Pairs of types that are compared at most; more is undecided.
const PAIRS_MAX: usize = 20_000;

/// Compares `new` with the version before it.
pub(in crate::payload) fn compare(old: &Schema, new: &Schema) -> Compatibility {
    let mut found = Compatibility::default();
    for (writer, reader, direction) in [
        (old, new, "cannot be read with this version when the one before wrote it"),
        (new, old, "cannot be read with the version before when this one wrote it"),
    ] {
        let mut resolution = Resolution { writer, reader, pairs_left: PAIRS_MAX };
        let mut problems = Problems::default();
        resolution.resolve(writer.root, reader.root, "", &mut problems);
        for (path, reason) in problems.list {
            found.violation(&path, format!("{direction}: {reason}"));
        }
        if resolution.pairs_left == 0 {
            found.undecided_at("", "is too large to be compared");
        }
    }
    found
}

#[derive(Default)]
struct Problems {
    list: Vec<(String, String)>,
    /// Pairs that are resolved, or about to be: recursion ends here.
    seen: BTreeSet<(usize, usize)>,
}

impl Problems {
    fn add(&mut self, path: &str, reason: impl Into<String>) {
        self.list.push((path.to_owned(), reason.into()));
    }
}

struct Resolution<'a> {
    writer: &'a Schema,
    reader: &'a Schema,
    pairs_left: usize,
}

impl<'a> Resolution<'a> {
    /// Finds everything in the way of reading `written` as `read`.
    fn resolve(&mut self, written: usize, read: usize, path: &str, problems: &mut Problems) {
        if !problems.seen.insert((written, read)) || self.pairs_left == 0 {
            return;
        }
        self.pairs_left -= 1;
        let (writer, reader) = (self.writer, self.reader);
        let (from, to) = (&writer.nodes[written], &reader.nodes[read]);
        match (&from.kind, &to.kind) {
            (Kind::Union(branches), _) => {
                for branch in branches {
                    self.resolve(*branch, read, path, problems);
                }
            }
            (_, Kind::Union(branches)) => {
                if !branches.iter().any(|branch| self.resolves(written, *branch, problems)) {
                    let reason = format!("no branch takes {}", describe(from));
                    problems.add(path, reason);
                }
            }
            _ if from.logical != to.logical => problems.add(path, differ(from, to)),
            (Kind::Array(from), Kind::Array(to)) => {
                self.resolve(*from, *to, &format!("{path}/items"), problems);
            }
            (Kind::Map(from), Kind::Map(to)) => {
                self.resolve(*from, *to, &format!("{path}/values"), problems);
            }
            (Kind::Record(from_fields), Kind::Record(to_fields)) if is_named_alike(from, to) => {
                self.records(from_fields, to_fields, path, problems);
            }
            (Kind::Enum { symbols, .. }, Kind::Enum { symbols: known, has_default })
                if is_named_alike(from, to) =>
            {
                let unknown = symbols.iter().filter(|symbol| !known.contains(symbol));
                for symbol in unknown.take(if *has_default { 0 } else { usize::MAX }) {
                    problems.add(path, format!("symbol {symbol} is not known, nor is a default"));
                }
            }
            (Kind::Fixed(from_size), Kind::Fixed(to_size))
                if is_named_alike(from, to) && from_size == to_size => {}
            (from_kind, to_kind) if promotes(from_kind, to_kind) => {}
            _ => problems.add(path, differ(from, to)),
        }
    }

    /// A trial that leaves no traces: what it took for granted may turn out otherwise.
    fn resolves(&mut self, written: usize, read: usize, problems: &Problems) -> bool {
        let mut trial = Problems { list: Vec::new(), seen: problems.seen.clone() };
        self.resolve(written, read, "", &mut trial);
        trial.list.is_empty()
    }

    fn records(&mut self, from: &[Field], to: &[Field], path: &str, problems: &mut Problems) {
        for field in to {
            let place = path.to_owned() + &pointer(&[&field.name]);
            let names = || std::iter::once(&field.name).chain(&field.aliases);
            let written = names().find_map(|name| from.iter().find(|field| field.name == *name));
            match written {
                Some(written) => self.resolve(written.node, field.node, &place, problems),
                None if field.has_default => {}
                None => problems.add(&place, "it is not there, and has no default"),
            }
        }
    }
}

/// Named types are read by their name without the namespace, or by an alias.
fn is_named_alike(from: &Node, to: &Node) -> bool {
    let short = |name: &'_ String| name.rsplit('.').next().unwrap_or_default().to_owned();
    let Some(written) = from.names.first() else { return to.names.is_empty() };
    to.names.first().is_some_and(|name| short(name) == short(written))
        || to.names.iter().skip(1).any(|alias| alias == written)
}

/// What a plain type may be read as.
fn promotes(from: &Kind, to: &Kind) -> bool {
    matches!(
        (from, to),
        (Kind::Null, Kind::Null)
            | (Kind::Boolean, Kind::Boolean)
            | (Kind::Int, Kind::Int | Kind::Long | Kind::Float | Kind::Double)
            | (Kind::Long, Kind::Long | Kind::Float | Kind::Double)
            | (Kind::Float, Kind::Float | Kind::Double)
            | (Kind::Double, Kind::Double)
            | (Kind::String | Kind::Bytes, Kind::String | Kind::Bytes)
    )
}

fn differ(from: &Node, to: &Node) -> String {
    format!("{} is not {}", describe(from), describe(to))
}

fn describe(node: &Node) -> String {
    let kind = match &node.kind {
        Kind::Null => "null",
        Kind::Boolean => "boolean",
        Kind::Int => "int",
        Kind::Long => "long",
        Kind::Float => "float",
        Kind::Double => "double",
        Kind::Bytes => "bytes",
        Kind::String => "string",
        Kind::Fixed(size) => return format!("fixed({size}) {}", node.names.join(" or ")),
        Kind::Enum { .. } => return format!("enum {}", node.names.join(" or ")),
        Kind::Array(_) => "array",
        Kind::Map(_) => "map",
        Kind::Union(_) => "union",
        Kind::Record(_) => return format!("record {}", node.names.join(" or ")),
    };
    match &node.logical {
        Some(logical) => format!("{kind} ({logical})"),
        None => kind.to_owned(),
    }
}
