//! Takes an enum apart: variant name here, content into JSON there.

use serde::ser::{
    Impossible, Serialize, SerializeStructVariant, SerializeTupleVariant, Serializer,
};

use super::Reason;

/// Name of the variant, and its content as JSON.
pub(crate) fn to_event<T: Serialize + ?Sized>(
    value: &T,
) -> Result<(&'static str, Vec<u8>), Reason> {
    value.serialize(VariantSerializer)
}

type Encoded = (&'static str, Vec<u8>);

struct VariantSerializer;

fn not_a_variant<T>() -> Result<T, Reason> {
    Err(Reason(String::from(
        "events must be variants of an enum in serde's default form (not tagged or untagged)",
    )))
}

fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Reason> {
    serde_json::to_vec(value).map_err(|error| Reason(error.to_string()))
}

macro_rules! refuse {
    ($($method:ident($($kind:ty)?)),* $(,)?) => {
        $(fn $method(self $(, _: $kind)?) -> Result<Encoded, Reason> { not_a_variant() })*
    };
}

impl Serializer for VariantSerializer {
    type Ok = Encoded;
    type Error = Reason;
    type SerializeSeq = Impossible<Encoded, Reason>;
    type SerializeTuple = Impossible<Encoded, Reason>;
    type SerializeTupleStruct = Impossible<Encoded, Reason>;
    type SerializeTupleVariant = TupleContent;
    type SerializeMap = Impossible<Encoded, Reason>;
    type SerializeStruct = Impossible<Encoded, Reason>;
    type SerializeStructVariant = StructContent;

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Encoded, Reason> {
        Ok((variant, b"null".to_vec()))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Encoded, Reason> {
        Ok((variant, to_json(value)?))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<TupleContent, Reason> {
        Ok(TupleContent(Content::new(variant, b'[')))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<StructContent, Reason> {
        Ok(StructContent(Content::new(variant, b'{')))
    }

    /// A wrapper around an enum is as good as the enum.
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Encoded, Reason> {
        value.serialize(self)
    }

    refuse! {
        serialize_bool(bool), serialize_i8(i8), serialize_i16(i16), serialize_i32(i32),
        serialize_i64(i64), serialize_u8(u8), serialize_u16(u16), serialize_u32(u32),
        serialize_u64(u64), serialize_f32(f32), serialize_f64(f64), serialize_char(char),
        serialize_str(&str), serialize_bytes(&[u8]), serialize_none(), serialize_unit(),
        serialize_unit_struct(&'static str),
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<Encoded, Reason> {
        not_a_variant()
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Reason> {
        not_a_variant()
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Reason> {
        not_a_variant()
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, Reason> {
        not_a_variant()
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Reason> {
        not_a_variant()
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Reason> {
        not_a_variant()
    }
}

/// A variant's fields, as far as they have come.
struct Content {
    variant: &'static str,
    json: Vec<u8>,
}

impl Content {
    fn new(variant: &'static str, open: u8) -> Self {
        Self { variant, json: vec![open] }
    }

    fn push<T: Serialize + ?Sized>(&mut self, key: Option<&str>, value: &T) -> Result<(), Reason> {
        if self.json.len() > 1 {
            self.json.push(b',');
        }
        if let Some(key) = key {
            self.json.extend(to_json(key)?);
            self.json.push(b':');
        }
        serde_json::to_writer(&mut self.json, value).map_err(|error| Reason(error.to_string()))
    }

    fn end(mut self, close: u8) -> Encoded {
        self.json.push(close);
        (self.variant, self.json)
    }
}

struct TupleContent(Content);

impl SerializeTupleVariant for TupleContent {
    type Ok = Encoded;
    type Error = Reason;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Reason> {
        self.0.push(None, value)
    }

    fn end(self) -> Result<Encoded, Reason> {
        Ok(self.0.end(b']'))
    }
}

struct StructContent(Content);

impl SerializeStructVariant for StructContent {
    type Ok = Encoded;
    type Error = Reason;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Reason> {
        self.0.push(Some(key), value)
    }

    fn end(self) -> Result<Encoded, Reason> {
        Ok(self.0.end(b'}'))
    }
}
