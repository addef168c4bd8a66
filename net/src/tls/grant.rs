//! What a client's certificate says that it may do.
//!
//! A grant is written as `ORG:TYPE:OPERATIONS` on the command line (`acme:account:read,append`,
//! `*:*:all`), and as a URI in a certificate:
//! `celeriant://<cluster>/grant/<org>/<type>/<operations>`.
//! Beside grants may stand whose client id it is: `celeriant://<cluster>/client/<uuid>`.
//! Deliberately absent: which request needs what (`rights`).

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::str::FromStr;

use celeriant_schema::key::{NamePart, check_name};
use celeriant_schema::{ClientId, ClusterId};
use percent_encoding::percent_decode_str;

use super::SCHEME;

/// Kinds of things that a client does.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Operation {
    /// Read aggregates.
    Read,
    /// Append events.
    Append,
    /// Follow feeds.
    Watch,
    /// Delete and trim.
    Retain,
    /// Register schemas.
    Schema,
    /// Give the orders of an operator.
    Admin,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Append, Self::Watch, Self::Retain, Self::Schema, Self::Admin];

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Append => "append",
            Self::Watch => "watch",
            Self::Retain => "retain",
            Self::Schema => "schema",
            Self::Admin => "admin",
        }
    }
}

/// Operations on the aggregates of one type of one org; `*` stands for any.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    org: String,
    aggregate_type: String,
    operations: BTreeSet<Operation>,
}

/// The text is no grant.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?}: a grant is ORG:TYPE:OPERATIONS, like acme:account:read,append or *:*:all; {1}")]
pub struct GrantError(String, String);

/// Stands for any org or type, and for all operations.
const ANY: &str = "*";
const ALL: &str = "all";

impl FromStr for Grant {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        let wrong = |why: String| GrantError(text.to_owned(), why);
        let parts: Vec<&str> = text.split(':').collect();
        let [org, aggregate_type, operations] = parts[..] else {
            return Err(wrong(format!("this has {} part(s)", parts.len())));
        };
        for (part, name) in [(NamePart::Org, org), (NamePart::Type, aggregate_type)] {
            if name != ANY {
                check_name(part, name.as_bytes()).map_err(|why| wrong(format!("{name} {why}")))?;
            }
        }
        let operations = match operations {
            ALL => Operation::ALL.into(),
            list => list.split(',').map(operation).collect::<Result<_, _>>().map_err(wrong)?,
        };
        Ok(Self { org: org.to_owned(), aggregate_type: aggregate_type.to_owned(), operations })
    }
}

fn operation(name: &str) -> Result<Operation, String> {
    let found = Operation::ALL.into_iter().find(|operation| operation.name() == name);
    found.ok_or_else(|| format!("{name:?} is none of {ALL}, {}", names(Operation::ALL)))
}

fn names(operations: impl IntoIterator<Item = Operation>) -> String {
    let names: Vec<&str> = operations.into_iter().map(Operation::name).collect();
    names.join(",")
}

impl Grant {
    /// As it stands in a certificate of `cluster`.
    pub fn uri(&self, cluster: ClusterId) -> String {
        let (org, aggregate_type) = (escaped(&self.org), escaped(&self.aggregate_type));
        format!("{SCHEME}{cluster}/grant/{org}/{aggregate_type}/{}", self.operations())
    }

    /// The grant that a URI of a certificate says, and for which cluster; `None`: it says something
    /// else.
    pub fn from_uri(uri: &str) -> Option<(ClusterId, Self)> {
        let (cluster, rest) = uri.strip_prefix(SCHEME)?.split_once("/grant/")?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [org, aggregate_type, operations] = parts[..] else { return None };
        let plain = |name: &str| {
            let name = percent_decode_str(name).decode_utf8().ok()?.into_owned();
            // A name with a colon is none: it cannot move the borders between the parts.
            (!name.contains(':')).then_some(name)
        };
        let text = format!("{}:{}:{operations}", plain(org)?, plain(aggregate_type)?);
        Some((cluster.parse().ok()?, text.parse().ok()?))
    }

    /// Of whose aggregates; `*`: of all.
    pub(crate) fn org(&self) -> &str {
        &self.org
    }

    /// Whether it allows `operation` on all of `aggregate_type` of `org`; `*` asks for all of them.
    pub fn covers(&self, operation: Operation, org: &str, aggregate_type: &str) -> bool {
        let within = |granted: &str, asked: &str| granted == ANY || granted == asked;
        self.operations.contains(&operation)
            && within(&self.org, org)
            && within(&self.aggregate_type, aggregate_type)
    }

    fn operations(&self) -> String {
        match self.operations.len() == Operation::ALL.len() {
            true => ALL.to_owned(),
            false => names(self.operations.iter().copied()),
        }
    }
}

/// A client id as it stands in a certificate of `cluster`: its holder writes under this one only.
pub fn client_uri(cluster: ClusterId, client: ClientId) -> String {
    format!("{SCHEME}{cluster}/client/{client}")
}

/// The client id that a URI of a certificate says, and for which cluster.
pub(crate) fn client_of_uri(uri: &str) -> Option<(ClusterId, ClientId)> {
    let (cluster, client) = uri.strip_prefix(SCHEME)?.split_once("/client/")?;
    Some((cluster.parse().ok()?, client.parse().ok()?))
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.org, self.aggregate_type, self.operations())
    }
}

/// Certificates hold ASCII only, names may be anything: `%` and two digits stand for the rest.
fn escaped(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'.' | b'~' | b'*' => {
                escaped.push(char::from(byte));
            }
            // Writing to a string cannot fail.
            _ => drop(write!(escaped, "%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_read_as_it_is_written_and_put_into_a_uri() {
        for text in ["acme:account:read,append", "*:*:all", "größe:a b:watch"] {
            let grant: Grant = text.parse().expect("a grant");
            assert_eq!(grant.to_string(), text);
        }
        let uri = |text: &str| text.parse::<Grant>().expect("a grant").uri(ClusterId::new(1));
        let cluster = "celeriant://00000000-0000-0000-0000-000000000001";
        assert_eq!(uri("acme:*:append,read"), format!("{cluster}/grant/acme/*/read,append"));
        for text in ["acme:account:read,append", "*:*:all", "größe:a b:watch", "a b:c%:retain"] {
            let cluster = ClusterId::new(7);
            let grant: Grant = text.parse().expect("a grant");
            assert_eq!(Grant::from_uri(&grant.uri(cluster)), Some((cluster, grant)));
        }
        for other in [
            "celeriant://00000000-0000-0000-0000-000000000001/grant/acme/read",
            "celeriant://00000000-0000-0000-0000-000000000001/grant/a%3A*/b/read",
            "celeriant://00000000-0000-0000-0000-000000000001/grant/a/b/write",
            "celeriant://x/grant/a/b/read",
            "https://example.com/grant/a/b/read",
        ] {
            assert_eq!(Grant::from_uri(other), None, "{other}");
        }
        let all = "a b:c%:schema,retain,admin,watch,read,append";
        assert_eq!(uri(all), format!("{cluster}/grant/a%20b/c%25/all"));
    }

    #[test]
    fn what_is_no_grant_is_refused_with_a_reason() {
        for (text, why) in [
            ("acme", "1 part"),
            ("acme:account", "2 part"),
            ("acme:account:write", "\"write\" is none of all, read"),
            ("acme:account:", "none of"),
            (":account:read", "is empty"),
            ("a/b:account:read", "not allowed"),
            ("$other:*:all", "may not start"),
        ] {
            let said = text.parse::<Grant>().expect_err(text).to_string();
            assert!(said.contains(why), "{said}");
        }
    }
}
