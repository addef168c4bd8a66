//! Avro: `apache-avro` parses the schema; checking walks the payload's bytes beside it.
//!
//! The walk builds no value: it allocates nothing, so no length that a payload claims can cost
//! memory, and it ends after as many steps as there are bytes, plus a bound for values that take
//! none. (The library's own reader takes a payload that ends early for `null` or `""`, and recurses
//! as deep as a payload likes.)

mod compare;
#[cfg(test)]
#[path = "avro/avro_test.rs"]
mod tests;

use std::collections::BTreeMap;

use apache_avro::Schema as Parsed;
use apache_avro::schema::{InnerDecimalSchema, NamespaceRef, UuidSchema};

pub(super) use compare::compare;

use super::cursor::Cursor;
use super::order::bottom_up;
use super::{DEPTH_MAX, SchemaInvalid, Violation, invalid};

/// Most nodes of a schema.
const NODES_MAX: usize = 20_000;
/// Values that take no bytes (nulls, empty records), in one payload, besides one for every byte.
const EMPTY_VALUES_MAX: usize = 1 << 20;

/// A parsed schema as a graph: named types are there once, whoever refers to them.
#[derive(Debug)]
pub(super) struct Schema {
    nodes: Vec<Node>,
    root: usize,
}

#[derive(Debug)]
struct Node {
    kind: Kind,
    /// `decimal(9,2)`, `date`, …: what the bytes mean, if it is not just the kind.
    logical: Option<String>,
    /// Full name of a record, enum or fixed, and others that it is read under.
    names: Vec<String>,
}

#[derive(Debug)]
enum Kind {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Enum { symbols: Vec<String>, has_default: bool },
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Vec<Field>),
}

#[derive(Debug)]
struct Field {
    name: String,
    aliases: Vec<String>,
    has_default: bool,
    node: usize,
}

impl Schema {
    pub(super) fn compile(text: &str) -> Result<Self, SchemaInvalid> {
        // The library recurses as deep as the text, and into what a default needs.
        let json: serde_json::Value =
            serde_json::from_str(text).map_err(|error| invalid(format!("is not JSON: {error}")))?;
        if depth(&json) > DEPTH_MAX {
            return Err(invalid(format!("is nested deeper than {DEPTH_MAX}")));
        }
        let parsed = Parsed::parse(&json).map_err(|error| invalid(error.to_string()))?;
        let mut graph = Graph { nodes: Vec::new(), named: BTreeMap::new() };
        let root = graph.add(&parsed, None)?;
        graph.check_recursion()?;
        Ok(Self { nodes: graph.nodes, root })
    }

    pub(super) fn check(&self, payload: &[u8]) -> Result<(), Violation> {
        let empty_left = EMPTY_VALUES_MAX + payload.len();
        let mut walk = Walk { schema: self, bytes: Cursor { rest: payload }, empty_left };
        walk.value(self.root, 0)?;
        match walk.bytes.rest.len() {
            0 => Ok(()),
            more => Err(Violation::new(format!("is followed by {more} more byte(s)"))),
        }
    }
}

struct Graph {
    nodes: Vec<Node>,
    named: BTreeMap<String, usize>,
}

impl Graph {
    fn add(&mut self, parsed: &Parsed, space: NamespaceRef<'_>) -> Result<usize, SchemaInvalid> {
        if let Parsed::Ref { name } = parsed {
            let name = name.fullname(space);
            let known = self.named.get(&name).copied();
            return known.ok_or_else(|| invalid(format!("refers to {name}, which is not there")));
        }
        let number = self.nodes.len();
        if number == NODES_MAX {
            return Err(invalid(format!("has more than {NODES_MAX} parts")));
        }
        self.nodes.push(Node { kind: Kind::Null, logical: None, names: Vec::new() });
        let (names, inside) = names(parsed, space);
        if let Some(name) = names.first()
            && self.named.insert(name.clone(), number).is_some()
        {
            return Err(invalid(format!("defines {name} twice")));
        }
        let kind = self.kind(parsed, inside.as_deref().or(space))?;
        self.nodes[number] = Node { kind, logical: logical(parsed), names };
        Ok(number)
    }

    fn kind(&mut self, parsed: &Parsed, space: NamespaceRef<'_>) -> Result<Kind, SchemaInvalid> {
        Ok(match parsed {
            Parsed::Array(array) => Kind::Array(self.add(&array.items, space)?),
            Parsed::Map(map) => Kind::Map(self.add(&map.types, space)?),
            Parsed::Union(union) => {
                let branches = union.variants().iter().map(|branch| self.add(branch, space));
                Kind::Union(branches.collect::<Result<_, _>>()?)
            }
            Parsed::Record(record) => {
                let fields = record.fields.iter().map(|field| {
                    Ok(Field {
                        name: field.name.clone(),
                        aliases: field.aliases.clone(),
                        has_default: field.default.is_some(),
                        node: self.add(&field.schema, space)?,
                    })
                });
                Kind::Record(fields.collect::<Result<_, SchemaInvalid>>()?)
            }
            Parsed::Enum(of) => {
                Kind::Enum { symbols: of.symbols.clone(), has_default: of.default.is_some() }
            }
            plain => plain_kind(plain),
        })
    }

    /// A record that always holds another of its kind has no finite value, and checking one would
    /// not end.
    fn check_recursion(&self) -> Result<(), SchemaInvalid> {
        let always = |number: usize, nth: usize| match &self.nodes[number].kind {
            Kind::Record(fields) => fields.get(nth).map(|field| field.node),
            _ => None,
        };
        bottom_up(self.nodes.len(), always).map(drop).map_err(|number| {
            let name = self.nodes[number].names.first();
            let name = name.map_or("a record", String::as_str);
            invalid(format!("{name} always holds another one of itself"))
        })
    }
}

/// Full name and aliases of a named type, and the namespace for what is in it.
fn names(parsed: &Parsed, space: NamespaceRef<'_>) -> (Vec<String>, Option<String>) {
    let (name, aliases) = match parsed {
        Parsed::Record(record) => (&record.name, &record.aliases),
        Parsed::Enum(of) => (&of.name, &of.aliases),
        Parsed::Fixed(fixed) | Parsed::Duration(fixed) => (&fixed.name, &fixed.aliases),
        Parsed::Decimal(decimal) => match &decimal.inner {
            InnerDecimalSchema::Fixed(fixed) => (&fixed.name, &fixed.aliases),
            InnerDecimalSchema::Bytes => return (Vec::new(), None),
        },
        Parsed::Uuid(UuidSchema::Fixed(fixed)) => (&fixed.name, &fixed.aliases),
        _ => return (Vec::new(), None),
    };
    let full = name.fully_qualified_name(space);
    let inside = full.namespace().map(str::to_owned);
    let aliases = aliases.iter().flatten().map(|alias| alias.fullname(inside.as_deref()));
    (std::iter::once(name.fullname(space)).chain(aliases).collect(), inside)
}

fn plain_kind(parsed: &Parsed) -> Kind {
    match parsed {
        Parsed::Boolean => Kind::Boolean,
        Parsed::Int | Parsed::Date | Parsed::TimeMillis => Kind::Int,
        Parsed::Long
        | Parsed::TimeMicros
        | Parsed::TimestampMillis
        | Parsed::TimestampMicros
        | Parsed::TimestampNanos
        | Parsed::LocalTimestampMillis
        | Parsed::LocalTimestampMicros
        | Parsed::LocalTimestampNanos => Kind::Long,
        Parsed::Float => Kind::Float,
        Parsed::Double => Kind::Double,
        Parsed::Bytes | Parsed::BigDecimal | Parsed::Uuid(UuidSchema::Bytes) => Kind::Bytes,
        Parsed::String | Parsed::Uuid(UuidSchema::String) => Kind::String,
        Parsed::Fixed(fixed) | Parsed::Duration(fixed) | Parsed::Uuid(UuidSchema::Fixed(fixed)) => {
            Kind::Fixed(fixed.size)
        }
        Parsed::Decimal(decimal) => match &decimal.inner {
            InnerDecimalSchema::Bytes => Kind::Bytes,
            InnerDecimalSchema::Fixed(fixed) => Kind::Fixed(fixed.size),
        },
        _ => Kind::Null,
    }
}

fn logical(parsed: &Parsed) -> Option<String> {
    let name = match parsed {
        Parsed::Decimal(decimal) => {
            return Some(format!("decimal({},{})", decimal.precision, decimal.scale));
        }
        Parsed::BigDecimal => "big-decimal",
        Parsed::Uuid(_) => "uuid",
        Parsed::Date => "date",
        Parsed::TimeMillis => "time-millis",
        Parsed::TimeMicros => "time-micros",
        Parsed::TimestampMillis => "timestamp-millis",
        Parsed::TimestampMicros => "timestamp-micros",
        Parsed::TimestampNanos => "timestamp-nanos",
        Parsed::LocalTimestampMillis => "local-timestamp-millis",
        Parsed::LocalTimestampMicros => "local-timestamp-micros",
        Parsed::LocalTimestampNanos => "local-timestamp-nanos",
        Parsed::Duration(_) => "duration",
        _ => return None,
    };
    Some(name.to_owned())
}

fn depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Takes a payload apart, beside its schema.
struct Walk<'a> {
    schema: &'a Schema,
    bytes: Cursor<'a>,
    empty_left: usize,
}

impl Walk<'_> {
    fn value(&mut self, number: usize, depth: usize) -> Result<(), Violation> {
        if depth > DEPTH_MAX {
            return Err(Violation::new(format!("is nested deeper than {DEPTH_MAX}")));
        }
        let schema = self.schema;
        match &schema.nodes[number].kind {
            Kind::Null => self.count_empty(),
            Kind::Boolean => match self.bytes.take(1)? {
                [0 | 1] => Ok(()),
                _ => Err(Violation::new("is neither true nor false")),
            },
            Kind::Int => match i32::try_from(self.long()?) {
                Ok(_) => Ok(()),
                Err(_) => Err(Violation::new("does not fit an int")),
            },
            Kind::Long => self.long().map(drop),
            Kind::Float => self.bytes.take(4).map(drop),
            Kind::Double => self.bytes.take(8).map(drop),
            Kind::Bytes => self.counted().map(drop),
            Kind::String => self.text(),
            Kind::Fixed(0) => self.count_empty(),
            Kind::Fixed(size) => self.bytes.take(*size).map(drop),
            Kind::Enum { symbols, .. } => self.index(symbols.len(), "symbol").map(drop),
            Kind::Array(items) => self
                .blocks(|walk, at| walk.value(*items, depth + 1).map_err(|error| error.below(&at))),
            Kind::Map(values) => self.blocks(|walk, at| {
                walk.text().map_err(|error| error.below(&at))?;
                walk.value(*values, depth + 1).map_err(|error| error.below(&at))
            }),
            Kind::Union(branches) => {
                let branch = self.index(branches.len(), "branch")?;
                self.value(branches[branch], depth + 1)
            }
            Kind::Record(fields) if fields.is_empty() => self.count_empty(),
            Kind::Record(fields) => fields.iter().try_for_each(|field| {
                self.value(field.node, depth + 1).map_err(|error| error.below(&field.name))
            }),
        }
    }

    fn blocks(
        &mut self,
        mut item: impl FnMut(&mut Self, u64) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let mut at = 0;
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            // A negative count says that the block's size follows, for readers that skip it.
            let size = if count < 0 { Some(self.long()?) } else { None };
            let before = self.bytes.rest.len();
            for _ in 0..count.unsigned_abs() {
                item(self, at)?;
                at += 1;
            }
            let taken = before - self.bytes.rest.len();
            if size.is_some_and(|size| usize::try_from(size) != Ok(taken)) {
                return Err(Violation::new("has a block whose size is not what it says"));
            }
        }
    }

    fn text(&mut self) -> Result<(), Violation> {
        match std::str::from_utf8(self.counted()?) {
            Ok(_) => Ok(()),
            Err(_) => Err(Violation::new("is not valid UTF-8")),
        }
    }

    fn counted(&mut self) -> Result<&[u8], Violation> {
        match usize::try_from(self.long()?) {
            Ok(len) => self.bytes.take(len),
            Err(_) => Err(Violation::new("has a negative length")),
        }
    }

    fn index(&mut self, count: usize, what: &str) -> Result<usize, Violation> {
        let index = self.long()?;
        let index = usize::try_from(index).ok().filter(|index| *index < count);
        index.ok_or_else(|| Violation::new(format!("names a {what} that the schema has not")))
    }

    fn long(&mut self) -> Result<i64, Violation> {
        let number = self.bytes.varint()?;
        let value =
            number.ok_or_else(|| Violation::new("has a number that does not fit a long"))?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn count_empty(&mut self) -> Result<(), Violation> {
        match self.empty_left.checked_sub(1) {
            Some(left) => self.empty_left = left,
            None => return Err(Violation::new("has too many values that take no bytes")),
        }
        Ok(())
    }
}
