//! What only the client's side has, as JSON: its errors, and events as it read them. The shapes are
//! those of `celeriant_net::json`.

use celeriant_client::{Batch, Error, Recorded};
use celeriant_net::json::{self, EventShape};
use serde_json::Value;

/// One event that was read, as one line of JSON without a line break at its end.
pub(super) fn event(
    key: &str,
    batch: &Batch,
    recorded: &Recorded,
) -> Result<String, serde_json::Error> {
    json::event(&EventShape {
        key,
        version: recorded.version,
        stamp: recorded.stamp,
        hash: recorded.hash,
        client_id: batch.client_id,
        sequence: batch.sequence,
        server_time: batch.server_time,
        event: recorded,
        raw: false,
    })
}

/// An error of the client, with the fields of what the store refused.
pub(super) fn error(error: &Error) -> Value {
    let refusal = error.refusal();
    let (retry, definite) = (error.retry(), error.is_definite());
    json::error(error.name(), refusal.as_ref(), retry, definite, &error.to_string())
}
