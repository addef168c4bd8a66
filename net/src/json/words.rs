//! Words that mean the same in JSON, in query strings and in flags.

use celeriant_schema::limits::NUMBER_MAX;
use celeriant_schema::{ContentType, Guard, Refusal, Stamp, Version};

use super::content_type;

/// Where a watch begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Begin {
    /// At what comes next.
    Now,
    /// Behind this stamp.
    After(Stamp),
}

/// A guard as a word or a version.
///
/// # Errors
/// `InvalidArgument`, with the field `expect`.
pub fn parse_guard(text: &str) -> Result<Guard, Refusal> {
    match text {
        "any" => Ok(Guard::Any),
        "none" => Ok(Guard::NoStream),
        "exists" => Ok(Guard::Exists),
        _ => match parse_number(text) {
            Some(version) => Ok(Guard::Exact(Version::new(version))),
            None => Err(Refusal::InvalidArgument {
                field: "expect".into(),
                reason: "must be a version, none, exists or any".into(),
            }),
        },
    }
}

/// A number below 2^53, in digits.
pub(crate) fn parse_number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number < NUMBER_MAX)
}

/// The content type of this name.
pub fn parse_content_type(name: &str) -> Option<ContentType> {
    let all = [ContentType::Bytes, ContentType::Json, ContentType::Avro, ContentType::Protobuf];
    all.into_iter().find(|kind| content_type(*kind) == name)
}

/// `start`, `now`, a stamp, or a time (RFC 3339).
///
/// # Errors
/// What is wrong with it.
pub fn parse_begin(text: &str) -> Result<Begin, String> {
    match text {
        "start" => Ok(Begin::After(Stamp::ZERO)),
        "now" => Ok(Begin::Now),
        stamp if stamp.bytes().all(|byte| byte.is_ascii_digit()) => {
            let stamp = parse_number(stamp).ok_or_else(|| "is too large for a stamp".to_owned())?;
            Ok(Begin::After(Stamp::new(stamp)))
        }
        time => {
            let time: jiff::Timestamp =
                time.parse().map_err(|error| format!("is no stamp, and no time: {error}"))?;
            let first = Stamp::from_unix_micros(time.as_microsecond()).value();
            Ok(Begin::After(Stamp::new(first.saturating_sub(1))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_exact_for_every_reader() {
        assert_eq!(parse_number("9007199254740991"), Some(NUMBER_MAX - 1));
        for bad in ["", "9007199254740992", "+1", "-1", "1.0", "0x1", "99999999999999999999"] {
            assert_eq!(parse_number(bad), None, "{bad}");
            assert!(parse_guard(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_watch_begins_at_a_word_a_stamp_or_a_time() {
        let after = |stamp| Ok(Begin::After(Stamp::new(stamp)));
        assert_eq!(parse_begin("start"), after(0));
        assert_eq!(parse_begin("now"), Ok(Begin::Now));
        assert_eq!(parse_begin("17"), after(17));
        assert_eq!(parse_begin("2025-01-01T00:00:01Z"), after(7_999_999));
        for bad in ["9007199254740992", "99999999999999999999", "-1", "soon", "2025-01-01"] {
            assert!(parse_begin(bad).is_err(), "{bad}");
        }
    }
}
