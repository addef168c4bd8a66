//! What a client shows to say whose rights it claims: an API key, or a token of one.
//!
//! It is the same text in a hello, in the header `authorization`, in a variable and in a file.
//! Deliberately absent: what a token says, and whether either is good (`net`).

use std::fmt;
use std::str::FromStr;

use crate::api_key::ApiKey;
use crate::limits::TOKEN_BYTES_MAX;

/// What every token begins with.
pub const TOKEN_PREFIX: &str = "celeriant_token_";

/// One of the two: only whoever uses it should have it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Credential {
    /// A key: what it allows, besides what a certificate does.
    Key(ApiKey),
    /// A token: what it says and its key allows, and nothing else.
    Token(TokenText),
}

/// What may be a token, from afar.
#[derive(Clone, Eq, PartialEq)]
pub struct TokenText(String);

/// The text is neither. It is not repeated: it may be most of a secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "is neither an API key (celeriant_key_<16 hex digits>_<64 hex digits>) nor a token of one \
     ({TOKEN_PREFIX}…)"
)]
pub struct CredentialError;

impl Credential {
    /// All of it as text: for its holder, and for nobody's log.
    pub fn reveal(&self) -> String {
        match self {
            Self::Key(key) => key.reveal(),
            Self::Token(token) => token.reveal().to_owned(),
        }
    }
}

impl TokenText {
    /// All of it: for its holder, and for nobody's log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<ApiKey> for Credential {
    fn from(key: ApiKey) -> Self {
        Self::Key(key)
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TOKEN_PREFIX}…")
    }
}

impl FromStr for TokenText {
    type Err = CredentialError;

    fn from_str(text: &str) -> Result<Self, CredentialError> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
        let is_one = text.len() <= TOKEN_BYTES_MAX
            && text.strip_prefix(TOKEN_PREFIX).is_some_and(|rest| rest.bytes().all(plain));
        is_one.then(|| Self(text.to_owned())).ok_or(CredentialError)
    }
}

impl FromStr for Credential {
    type Err = CredentialError;

    fn from_str(text: &str) -> Result<Self, CredentialError> {
        match text.starts_with(TOKEN_PREFIX) {
            true => text.parse().map(Self::Token),
            false => text.parse().map(Self::Key).map_err(|_| CredentialError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_key::{ApiKeyId, SECRET_BYTES};

    #[test]
    fn a_key_and_a_token_are_told_apart_and_other_text_is_neither() {
        let key = ApiKey::new(ApiKeyId::new(7), [0x5a; SECRET_BYTES]);
        assert_eq!(key.reveal().parse(), Ok(Credential::from(key.clone())));
        let longest = format!("{TOKEN_PREFIX}{}", "x".repeat(TOKEN_BYTES_MAX - TOKEN_PREFIX.len()));
        for token in ["celeriant_token_0.a-b_c.5a5a5a", &longest] {
            let read: Credential = token.parse().expect("a token, from afar");
            assert_eq!(read.reveal(), token);
            assert!(matches!(&read, Credential::Token(text) if text.reveal() == token));
            let told = format!("{read:?}");
            assert!(!told.contains("5a5a") && !told.contains("xx"), "{told}");
        }
        let half = &key.reveal()[1..];
        for bad in ["", half, " celeriant_token_0", "celeriant_token_ü", &format!("{longest}x")] {
            assert_eq!(bad.parse::<Credential>(), Err(CredentialError), "{bad}");
        }
        assert!(!format!("{:?} {CredentialError}", Credential::from(key)).contains("5a5a"));
    }
}
