//! Receipts, events, heads and refusals as JSON, and writes from JSON: the names and shapes that
//! scripts rely on.
//!
//! ```text
//! shapes   from the vocabulary to JSON: what `celeriant … --format json` and HTTP answer
//! write    from JSON to the vocabulary: `celeriant write` and the bodies of HTTP
//! words    guards, content types, beginnings: the same in JSON, query strings and flags
//! base64   payloads that are no JSON
//! ```
//! The command line and the gateway both use this, so that there is one shape of each thing. A
//! payload that is JSON goes through as text: parsing it could round a number or lose an order.
//!
//! Deliberately absent: sockets, HTTP, what only a client can meet.

mod base64;
mod shapes;
mod words;
mod write;

pub use base64::{base64, from_base64};
pub use shapes::{
    EventShape, content_type, error, event, head, notice, payload_text, receipt, refusal, time,
};
pub(crate) use words::parse_number;
pub use words::{Begin, parse_begin, parse_content_type, parse_guard};
pub use write::{Appended, Part, Trimming, Writing, parse_append, parse_trim, parse_write};
