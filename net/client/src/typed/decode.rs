//! Puts an enum together again from a variant name and content in JSON.

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, VariantAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::Reason;

/// The variant called `name`, with the content of `json`. An empty payload counts as `null`.
pub(crate) fn from_event<T: DeserializeOwned>(name: &str, json: &[u8]) -> Result<T, Reason> {
    let json = if json.is_empty() { b"null" } else { json };
    T::deserialize(EventDeserializer { name, json })
}

struct EventDeserializer<'de> {
    name: &'de str,
    json: &'de [u8],
}

impl<'de> Deserializer<'de> for EventDeserializer<'de> {
    type Error = Reason;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Reason> {
        visitor.visit_enum(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Reason> {
        visitor.visit_enum(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Reason> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for EventDeserializer<'de> {
    type Error = Reason;
    type Variant = Content<'de>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Content<'de>), Reason> {
        let name: StrDeserializer<'_, Reason> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, Content(self.json)))
    }
}

struct Content<'de>(&'de [u8]);

impl<'de> Content<'de> {
    /// Everything must be used up: trailing bytes mean that this is not the JSON it seems to be.
    fn read<T>(
        self,
        read: impl FnOnce(
            &mut serde_json::Deserializer<serde_json::de::SliceRead<'de>>,
        ) -> serde_json::Result<T>,
    ) -> Result<T, Reason> {
        let mut json = serde_json::Deserializer::from_slice(self.0);
        let value = read(&mut json).map_err(|error| Reason(error.to_string()))?;
        json.end().map_err(|error| Reason(error.to_string()))?;
        Ok(value)
    }
}

impl<'de> VariantAccess<'de> for Content<'de> {
    type Error = Reason;

    /// Whatever the payload holds: a variant without content has no use for it.
    fn unit_variant(self) -> Result<(), Reason> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Reason> {
        self.read(|json| seed.deserialize(json))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Reason> {
        self.read(|json| json.deserialize_seq(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Reason> {
        self.read(|json| json.deserialize_struct("", fields, visitor))
    }
}
