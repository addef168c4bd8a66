//! Rust enums as events: the variant is the event's type, what it holds is the payload, as JSON.
//!
//! ```text
//! enum AccountEvent {
//!     Opened { owner: String },      type "Opened",    payload {"owner":"alice"}
//!     Withdrawn(Withdrawn),          type "Withdrawn", payload {"amount":10}
//!     Closed,                        type "Closed",    payload null
//! }
//! ```
//!
//! This is serde's default ("externally tagged") form of an enum, with `#[serde(rename)]`,
//! `rename_all`, `default` and so on as usual. A unit variant marked `#[serde(other)]` takes events
//! of types that the enum does not know. Enums marked `tag = …` or `untagged` do not say their
//! variant and are refused.

mod decode;
mod encode;

pub(crate) use decode::from_event;
pub(crate) use encode::to_event;

/// Serde's view of a failure here.
#[derive(Debug)]
pub(crate) struct Reason(String);

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Reason {}

impl serde::ser::Error for Reason {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl serde::de::Error for Reason {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    struct Amount {
        amount: u64,
    }

    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    enum Fact {
        Opened {
            owner: String,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            note: Option<String>,
        },
        Withdrawn(Amount),
        #[serde(rename = "account-moved")]
        Moved(u8, String),
        Closed,
        #[serde(other)]
        Unknown,
    }

    #[test]
    fn every_shape_of_variant_survives_the_round_trip() {
        let facts = [
            (Fact::Opened { owner: "a\"b".into(), note: None }, "Opened", r#"{"owner":"a\"b"}"#),
            (Fact::Withdrawn(Amount { amount: 10 }), "Withdrawn", r#"{"amount":10}"#),
            (Fact::Moved(1, "x".into()), "account-moved", r#"[1,"x"]"#),
            (Fact::Closed, "Closed", "null"),
        ];
        for (fact, name, payload) in facts {
            let (event_type, bytes) = to_event(&fact).expect("an externally tagged enum");
            assert_eq!((event_type, std::str::from_utf8(&bytes)), (name, Ok(payload)));
            assert_eq!(from_event::<Fact>(name, &bytes).expect("known"), fact);
        }
    }

    #[test]
    fn an_unknown_type_goes_to_the_other_variant_whatever_it_holds() {
        let fact: Fact = from_event("NeverHeardOf", br#"{"a":[1]}"#).expect("other");
        assert_eq!(fact, Fact::Unknown);
        assert!(from_event::<Fact>("Withdrawn", b"{}").is_err());
        assert!(from_event::<Fact>("Withdrawn", br#"{"amount":1} x"#).is_err());
    }

    #[test]
    fn a_value_that_does_not_name_its_variant_is_refused() {
        #[derive(Serialize)]
        #[serde(tag = "type")]
        enum Tagged {
            Closed,
        }
        assert!(to_event(&Tagged::Closed).is_err());
        assert!(to_event(&Amount { amount: 1 }).is_err());
        assert!(to_event(&"Closed").is_err());
    }
}
