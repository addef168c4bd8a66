//! Bytes as text (RFC 4648 §4).

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes as base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = (bits >> (18 - 6 * at) & 63) as usize;
            text.push(if at <= chunk.len() { DIGITS[digit] as char } else { '=' });
        }
    }
    text
}

/// The bytes of a base64 text, with or without padding.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let (mut bits, mut held, mut bytes) = (0u32, 0, Vec::with_capacity(text.len() * 3 / 4));
    for c in text.bytes() {
        bits = bits << 6 | digit(c)?;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    // Left-over bits must be what padding leaves: fewer than a digit's, all zero.
    (held < 6 && bits & ((1 << held) - 1) == 0).then_some(bytes)
}

fn digit(c: u8) -> Option<u32> {
    let digit = match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(digit.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard_and_reversible() {
        for (plain, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), text);
            assert_eq!(from_base64(text).expect("valid"), plain.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(from_base64(&base64(&all)), Some(all));
        for bad in ["Z", "Zh", "Z*==", "Zm9vY", "Zm9v\n"] {
            assert_eq!(from_base64(bad), None, "{bad}");
        }
    }
}
