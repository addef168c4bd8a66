//! Where a cluster's objects are: `s3://bucket/prefix`.

use std::fmt;
use std::str::FromStr;

/// Longest prefix in bytes: with the longest key it stays far below the 1,024 of S3.
const PREFIX_BYTES_MAX: usize = 256;

/// A bucket and a prefix in it. One cluster per location; nothing else names the peer.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Location {
    bucket: String,
    /// Empty, or ends with `/`.
    prefix: String,
}

/// Why a text is no location.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not a bucket: {why} (expected s3://bucket or s3://bucket/prefix)")]
pub struct LocationError {
    text: String,
    why: &'static str,
}

impl Location {
    /// Name of the bucket.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What every object's full name begins with: empty, or ends with `/`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Full name of an object.
    pub fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let refuse = |why| LocationError { text: text.to_owned(), why };
        let rest = text.strip_prefix("s3://").ok_or_else(|| refuse("no s3:// in front"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let name = bucket.as_bytes();
        if !(3..=63).contains(&name.len()) {
            return Err(refuse("a bucket's name has 3 to 63 characters"));
        }
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(b);
        if !name.iter().all(plain) || !edge(name.first()) || !edge(name.last()) {
            return Err(refuse("a bucket's name has lower-case letters, digits, '-' and '.'"));
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        if prefix.is_empty() {
            return Ok(Self { bucket: bucket.to_owned(), prefix: String::new() });
        }
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.=".contains(&b))
        };
        if prefix.len() > PREFIX_BYTES_MAX || !prefix.split('/').all(plain) {
            return Err(refuse(
                "a prefix has letters, digits, '-', '_', '.', '=' between single '/'",
            ));
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: format!("{prefix}/") })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = self.prefix.strip_suffix('/').map(|prefix| format!("/{prefix}"));
        write!(f, "s3://{}{}", self.bucket, prefix.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_read_as_it_is_written() {
        for (text, bucket, full) in [
            ("s3://my-bucket/prod", "my-bucket", "prod/config"),
            ("s3://my-bucket/a/b=1", "my-bucket", "a/b=1/config"),
            ("s3://my-bucket", "my-bucket", "config"),
        ] {
            let location: Location = text.parse().expect(text);
            assert_eq!((location.bucket(), location.full("config")), (bucket, full.to_owned()));
            assert_eq!(location.to_string(), text);
            assert_eq!(format!("{text}/").parse(), Ok(location), "a slash at the end is the same");
        }
    }

    #[test]
    fn what_is_no_location_is_refused() {
        for text in [
            "",
            "my-bucket",
            "http://my-bucket/x",
            "s3://",
            "s3:///x",
            "s3://ab",
            "s3://Upper",
            "s3://-dash",
            "s3://my_bucket",
            "s3://my-bucket//x",
            "s3://my-bucket/../x",
            "s3://my-bucket/a b",
        ] {
            assert!(text.parse::<Location>().is_err(), "{text:?} was taken");
        }
    }
}
