//! Protobuf: protox and prost-reflect compile; checking walks the bytes beside it.
//!
//! The walk builds no message and allocates nothing, so that a payload of packed numbers cannot
//! become ten times its size in memory. Fields that the schema does not know are refused, and so
//! are extensions: a schema describes all that a payload may hold.
//!
//! Deliberately absent: imports, except Google's well-known types (`google/protobuf/*.proto`). A
//! descriptor set brings along everything that it imports.

mod compare;
#[cfg(test)]
#[path = "protobuf/protobuf_test.rs"]
mod tests;

use std::collections::BTreeMap;

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, MessageDescriptor, Syntax,
};
use protox::file::{File, FileResolver, GoogleFileResolver};

pub(super) use compare::compare;

use super::cursor::Cursor;
use super::{DEPTH_MAX, SchemaInvalid, Violation, invalid};

/// Name under which a `.proto` text is compiled.
const FILE: &str = "schema.proto";
/// Most messages and enums that a schema's message reaches.
const TYPES_MAX: usize = 4096;

/// The message that payloads are, and all that it reaches.
#[derive(Debug)]
pub(super) struct Schema {
    /// The first one is the payload's.
    messages: Vec<Message>,
    enums: Vec<Enum>,
}

#[derive(Debug)]
struct Message {
    name: String,
    fields: BTreeMap<u32, Field>,
    required: Vec<u32>,
}

#[derive(Debug)]
struct Field {
    name: String,
    kind: Kind,
    cardinality: Cardinality,
    group: bool,
    /// Name of the oneof that it is part of.
    oneof: Option<String>,
}

#[derive(Debug)]
struct Enum {
    name: String,
    /// Numbers, each with one of its names.
    values: BTreeMap<i32, String>,
    /// Only these numbers are values (proto2).
    closed: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Scalar(Scalar),
    Message(usize),
    Enum(usize),
}

/// A plain type, by what it looks like on the wire and its name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Scalar {
    wire: Wire,
    name: &'static str,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wire {
    Varint = 0,
    Fixed64 = 1,
    Bytes = 2,
    StartGroup = 3,
    EndGroup = 4,
    Fixed32 = 5,
}

impl Schema {
    pub(super) fn compile_text(text: &str, message: &str) -> Result<Self, SchemaInvalid> {
        let mut compiler = protox::Compiler::with_file_resolver(OneFile(text.to_owned()));
        compiler.include_imports(true);
        compiler.open_file(FILE).map_err(|error| invalid(error.to_string()))?;
        Self::of(&compiler.descriptor_pool(), message)
    }

    pub(super) fn compile_set(bytes: &[u8], message: &str) -> Result<Self, SchemaInvalid> {
        let pool = DescriptorPool::decode(bytes).map_err(|error| invalid(error.to_string()))?;
        Self::of(&pool, message)
    }

    fn of(pool: &DescriptorPool, message: &str) -> Result<Self, SchemaInvalid> {
        let root = pool
            .get_message_by_name(message)
            .ok_or_else(|| invalid(format!("has no message {message}")))?;
        Graph::default().build(root)
    }

    pub(super) fn check(&self, payload: &[u8]) -> Result<(), Violation> {
        Walk { schema: self, bytes: Cursor { rest: payload } }.message(0, None, 0)
    }
}

/// The one text there is, and what comes with every compiler.
struct OneFile(String);

impl FileResolver for OneFile {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == FILE {
            File::from_source(name, &self.0)
        } else {
            GoogleFileResolver::new().open_file(name)
        }
    }
}

/// Collects what a message reaches, each type once.
#[derive(Default)]
struct Graph {
    messages: BTreeMap<String, usize>,
    waiting: Vec<MessageDescriptor>,
    enums: BTreeMap<String, usize>,
    found_enums: Vec<Enum>,
}

impl Graph {
    fn build(mut self, root: MessageDescriptor) -> Result<Schema, SchemaInvalid> {
        self.message(root)?;
        let mut messages = Vec::new();
        while let Some(descriptor) = self.waiting.get(messages.len()).cloned() {
            let fields = descriptor
                .fields()
                .map(|field| Ok((field.number(), self.field(&field)?)))
                .collect::<Result<BTreeMap<_, _>, SchemaInvalid>>()?;
            let required = |field: &Field| field.cardinality == Cardinality::Required;
            messages.push(Message {
                name: descriptor.full_name().to_owned(),
                required: fields.iter().filter(|(_, f)| required(f)).map(|(n, _)| *n).collect(),
                fields,
            });
        }
        Ok(Schema { messages, enums: self.found_enums })
    }

    fn message(&mut self, descriptor: MessageDescriptor) -> Result<usize, SchemaInvalid> {
        if let Some(known) = self.messages.get(descriptor.full_name()) {
            return Ok(*known);
        }
        let number = self.waiting.len();
        if number == TYPES_MAX {
            return Err(invalid(format!("reaches more than {TYPES_MAX} messages")));
        }
        self.messages.insert(descriptor.full_name().to_owned(), number);
        self.waiting.push(descriptor);
        Ok(number)
    }

    fn enumeration(&mut self, descriptor: &EnumDescriptor) -> usize {
        if let Some(known) = self.enums.get(descriptor.full_name()) {
            return *known;
        }
        let number = self.found_enums.len();
        self.enums.insert(descriptor.full_name().to_owned(), number);
        self.found_enums.push(Enum {
            name: descriptor.full_name().to_owned(),
            values: descriptor.values().map(|v| (v.number(), v.name().to_owned())).collect(),
            closed: descriptor.parent_file().syntax() == Syntax::Proto2,
        });
        number
    }

    fn field(&mut self, field: &FieldDescriptor) -> Result<Field, SchemaInvalid> {
        use prost_reflect::Kind as Reflected;
        let scalar = |wire, name| Kind::Scalar(Scalar { wire, name });
        let kind = match field.kind() {
            Reflected::Double => scalar(Wire::Fixed64, "double"),
            Reflected::Float => scalar(Wire::Fixed32, "float"),
            Reflected::Int32 => scalar(Wire::Varint, "int32"),
            Reflected::Int64 => scalar(Wire::Varint, "int64"),
            Reflected::Uint32 => scalar(Wire::Varint, "uint32"),
            Reflected::Uint64 => scalar(Wire::Varint, "uint64"),
            Reflected::Sint32 => scalar(Wire::Varint, "sint32"),
            Reflected::Sint64 => scalar(Wire::Varint, "sint64"),
            Reflected::Fixed32 => scalar(Wire::Fixed32, "fixed32"),
            Reflected::Fixed64 => scalar(Wire::Fixed64, "fixed64"),
            Reflected::Sfixed32 => scalar(Wire::Fixed32, "sfixed32"),
            Reflected::Sfixed64 => scalar(Wire::Fixed64, "sfixed64"),
            Reflected::Bool => scalar(Wire::Varint, "bool"),
            Reflected::String => scalar(Wire::Bytes, "string"),
            Reflected::Bytes => scalar(Wire::Bytes, "bytes"),
            Reflected::Message(message) => Kind::Message(self.message(message)?),
            Reflected::Enum(of) => Kind::Enum(self.enumeration(&of)),
        };
        // Every `optional` of proto3 is in a oneof of its own, which nobody wrote.
        let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
        Ok(Field {
            name: field.name().to_owned(),
            kind,
            cardinality: field.cardinality(),
            group: field.is_group(),
            oneof: oneof.map(|oneof| oneof.name().to_owned()),
        })
    }
}

/// Takes a payload apart, beside its schema.
struct Walk<'a> {
    schema: &'a Schema,
    bytes: Cursor<'a>,
}

impl<'a> Walk<'a> {
    /// All of what is left; of a group, up to the end of group `group`.
    fn message(
        &mut self,
        number: usize,
        group: Option<u32>,
        depth: usize,
    ) -> Result<(), Violation> {
        if depth > DEPTH_MAX {
            return Err(Violation::new(format!("is nested deeper than {DEPTH_MAX}")));
        }
        let message = &self.schema.messages[number];
        // How many of the required fields were there, each counted once.
        let mut seen = vec![false; message.required.len()];
        loop {
            if self.bytes.rest.is_empty() && group.is_none() {
                break;
            }
            let (field_number, wire) = self.tag()?;
            if wire == Wire::EndGroup {
                if group == Some(field_number) {
                    break;
                }
                return Err(Violation::new("ends a group that it is not in"));
            }
            let Some(field) = message.fields.get(&field_number) else {
                let reason = format!("has a field {field_number} that {} has not", message.name);
                return Err(Violation::new(reason));
            };
            self.field(field, field_number, wire, depth).map_err(|e| e.below(&field.name))?;
            if let Ok(at) = message.required.binary_search(&field_number) {
                seen[at] = true;
            }
        }
        match seen.iter().position(|seen| !seen) {
            None => Ok(()),
            Some(at) => {
                let name = &message.fields[&message.required[at]].name;
                Err(Violation::new("is required").below(name))
            }
        }
    }

    fn field(
        &mut self,
        field: &Field,
        number: u32,
        wire: Wire,
        depth: usize,
    ) -> Result<(), Violation> {
        match field.kind {
            Kind::Message(message) if field.group && wire == Wire::StartGroup => {
                self.message(message, Some(number), depth + 1)
            }
            Kind::Message(message) if !field.group && wire == Wire::Bytes => {
                let mut inside = self.inside()?;
                inside.message(message, None, depth + 1)
            }
            kind if wire == kind.wire() => self.value(kind),
            // Repeated numbers may be packed or not, whatever the schema prefers.
            kind if wire == Wire::Bytes
                && kind.wire() != Wire::Bytes
                && field.cardinality == Cardinality::Repeated =>
            {
                let mut inside = self.inside()?;
                while !inside.bytes.rest.is_empty() {
                    inside.value(kind)?;
                }
                Ok(())
            }
            _ => Err(Violation::new("is not encoded as its type is")),
        }
    }

    fn value(&mut self, kind: Kind) -> Result<(), Violation> {
        match kind {
            Kind::Enum(number) => {
                let of = &self.schema.enums[number];
                let value = self.varint()? as i32;
                if of.closed && !of.values.contains_key(&value) {
                    return Err(Violation::new(format!("is no value of {}", of.name)));
                }
                Ok(())
            }
            Kind::Scalar(scalar) => match scalar.wire {
                Wire::Varint => self.varint().map(drop),
                Wire::Fixed32 => self.bytes.take(4).map(drop),
                Wire::Fixed64 => self.bytes.take(8).map(drop),
                _ => {
                    let bytes = self.inside()?.bytes.rest;
                    if scalar.name == "string" && std::str::from_utf8(bytes).is_err() {
                        return Err(Violation::new("is not valid UTF-8"));
                    }
                    Ok(())
                }
            },
            Kind::Message(_) => Err(Violation::new("is not encoded as its type is")),
        }
    }

    fn tag(&mut self) -> Result<(u32, Wire), Violation> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let wire = match tag & 7 {
            0 => Wire::Varint,
            1 => Wire::Fixed64,
            2 => Wire::Bytes,
            3 => Wire::StartGroup,
            4 => Wire::EndGroup,
            5 => Wire::Fixed32,
            _ => return Err(Violation::new("is not Protobuf")),
        };
        number.map(|number| (number, wire)).ok_or_else(|| Violation::new("is not Protobuf"))
    }

    /// A walk over the next bytes, whose length stands before them.
    fn inside(&mut self) -> Result<Self, Violation> {
        let len = usize::try_from(self.varint()?).map_err(|_| Violation::new("ends early"))?;
        Ok(Self { schema: self.schema, bytes: Cursor { rest: self.bytes.take(len)? } })
    }

    fn varint(&mut self) -> Result<u64, Violation> {
        let number = self.bytes.varint()?;
        number.ok_or_else(|| Violation::new("has a number of more than 64 bits"))
    }
}

impl Kind {
    fn wire(self) -> Wire {
        match self {
            Self::Scalar(scalar) => scalar.wire,
            Self::Enum(_) => Wire::Varint,
            Self::Message(_) => Wire::Bytes,
        }
    }
}
