//! `token`: what a backend gives to a browser in place of its API key.

use celeriant_client::{ClientId, Selector, Url};
use celeriant_net::json::time;
use celeriant_net::token::{NewToken, Scope, Token};
use celeriant_schema::Credential;
use celeriant_schema::event::unix_micros;
use clap::Subcommand;
use serde_json::json;

use super::args::{Global, Span};
use super::failure::Failure;
use super::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum TokenAction {
    /// Make a token of --api-key and print it. No node is asked: what the key does not allow when
    /// the token is used, the token does not allow either
    Mint {
        /// What it is about: org/type/id, org/type, org, or *
        #[arg(long, required = true, value_name = "SELECTOR")]
        selector: Vec<Selector>,
        /// What it allows, with commas between: read, append, watch
        #[arg(long, required = true, value_name = "RIGHTS", value_delimiter = ',')]
        right: Vec<String>,
        /// Its holder writes under this client id, always
        #[arg(long, value_name = "UUID")]
        client_id: Option<ClientId>,
        /// How long it counts, like 90s or 15m: 15 minutes if nothing is said, a day at most
        #[arg(long, value_name = "DURATION")]
        lasts: Option<Span>,
    },
}

pub(super) fn run(action: TokenAction, global: &Global, output: &Output) -> Result<(), Failure> {
    let TokenAction::Mint { selector, right, client_id, lasts } = action;
    let shown = match global.url.parse::<Url>()?.api_key()? {
        Some(shown) => Some(shown),
        None => global.credential()?,
    };
    let Some(Credential::Key(key)) = shown else {
        return Err(Failure::usage(
            "a token is made of an API key, and of nothing else: --api-key",
        ));
    };
    let new = NewToken {
        selectors: selector.iter().map(ToString::to_string).collect(),
        rights: right,
        client_id: client_id.map(|client| client.to_string()),
        seconds: lasts.map(|lasts| lasts.0.as_secs()),
    };
    let scope = Scope::new(&new, unix_micros());
    let token = scope.and_then(|scope| Token::new(&key, scope));
    let token = token.map_err(|refusal| Failure::usage(refusal.to_string()))?;
    match output.is_json() {
        true => output.json(&json!({
            "token": token.reveal(), "expires": time(token.scope().expires_at()),
        })),
        false => output.line(&token.reveal()),
    }
}
