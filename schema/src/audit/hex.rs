//! Hashes and bytes as hexadecimal text, in JSON.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hash::Hash;

/// Bytes that are hexadecimal digits in text.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hex(pub Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        from_hex(&text).map(Self).ok_or_else(|| D::Error::custom("must be hexadecimal digits"))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        array_from_hex(&text)
            .map(Self)
            .ok_or_else(|| D::Error::custom("must be 64 hexadecimal digits"))
    }
}

/// Two lower-case digits a byte.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// So many bytes, neither more nor fewer.
pub fn array_from_hex<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    from_hex(text)?.try_into().ok()
}

/// Lower case only, as it is written: of every value there is one text.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let pair = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    rest.is_empty().then(|| pairs.iter().map(pair).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_other_text_does_not_pass() {
        let all: Vec<u8> = (0..=255).collect();
        let text = serde_json::to_string(&Hex(all.clone())).expect("text");
        assert!(text.starts_with("\"000102") && text.ends_with("feff\""), "{text}");
        assert_eq!(serde_json::from_str::<Hex>(&text).expect("hex"), Hex(all));
        for bad in ["\"0\"", "\"0g\"", "\"0A\"", "\"é\"", "7"] {
            assert!(serde_json::from_str::<Hex>(bad).is_err(), "{bad}");
        }
        let hash = Hash([7; 32]);
        let text = serde_json::to_string(&hash).expect("text");
        assert_eq!(text, format!("\"{hash}\""));
        assert_eq!(serde_json::from_str::<Hash>(&text).expect("hash"), hash);
        assert!(serde_json::from_str::<Hash>("\"07\"").is_err());
    }
}
