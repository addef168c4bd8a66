//! What travels between client and server, in bytes.
//!
//! ```text
//! client ── Hello ──▶ server
//!        ◀─ Welcome ─
//!        ── requests, each with an id ──▶
//!        ◀─ one answer per id, in any order ──
//!
//! frame: | len u32 | kind u8 | flags u8 | reserved u16 | id u64 | body |
//!                  └──────────────────── len bytes ───────────────────┘
//! ```
//!
//! Little-endian; the tables are in `docs/wire.md`. Limits are checked before anything is
//! allocated, and decoding shares memory with the frame: a request costs one allocation for its
//! members. A frame whose body makes no sense is answered with a refusal for its id, and the
//! connection lives; a broken frame ends it. Deliberately absent: sockets, buffers' growth, JSON.

mod feed;
mod refusal;
mod request;
mod response;

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader};
use crate::credential::{Credential, CredentialError};
use crate::event::slice_of;
use crate::ids::ClusterId;
use crate::key::AggregateKey;
use crate::limits::TOKEN_BYTES_MAX;
use crate::refusal::Refusal;
use crate::request::Request;
use crate::response::Response;

pub use feed::{decode_feed_page, encode_feed_page};
pub use request::encode_request;
pub use response::{decode_outbound, encode_refused, encode_response};

/// Oldest protocol version that this code speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// Newest protocol version that this code speaks.
pub const PROTOCOL_MAX: u16 = 1;
/// Size of the length before every frame, in bytes.
pub const FRAME_LENGTH_BYTES: usize = 4;
/// Size of a frame's header behind the length, in bytes.
pub const FRAME_HEADER_BYTES: usize = 12;
/// First bytes of a hello's body: tells a client of this protocol from anything else.
pub const MAGIC: [u8; 8] = *b"CELERNT\n";
/// Longest name by which a client introduces itself, in bytes.
pub const CLIENT_NAME_BYTES_MAX: usize = 128;
/// Longest text in a refusal, in bytes; longer ones are cut.
pub const TEXT_BYTES_MAX: usize = 1024;

/// First byte of a frame: what its body is.
mod kind {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const GOODBYE: u8 = 0x02;
    pub(super) const PING: u8 = 0x03;
    pub(super) const WRITE: u8 = 0x10;
    pub(super) const READ: u8 = 0x11;
    pub(super) const HEAD: u8 = 0x12;
    pub(super) const LIST: u8 = 0x13;
    pub(super) const ADMIN: u8 = 0x14;
    pub(super) const FEED: u8 = 0x15;
    pub(super) const WELCOME: u8 = 0x81;
    pub(super) const PONG: u8 = 0x83;
    pub(super) const RECEIPT: u8 = 0x90;
    pub(super) const PAGE: u8 = 0x91;
    pub(super) const HEAD_INFO: u8 = 0x92;
    pub(super) const NAMES: u8 = 0x93;
    pub(super) const ADMIN_REPORT: u8 = 0x94;
    pub(super) const FEED_PAGE: u8 = 0x95;
    pub(super) const REFUSED: u8 = 0xff;
}

/// How a client introduces itself: the first frame of a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hello {
    /// Oldest protocol version that the client speaks.
    pub min_protocol: u16,
    /// Newest protocol version that the client speaks.
    pub max_protocol: u16,
    /// Program and version, for the server's log; at most [`CLIENT_NAME_BYTES_MAX`] bytes.
    pub client_name: String,
    /// Whose rights the client claims: those of an API key besides those of its certificate, or of
    /// a token of one, and then no others.
    pub api_key: Option<Credential>,
}

/// How a server answers a hello.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Welcome {
    /// The version that is spoken from here on.
    pub protocol: u16,
    /// Which cluster this is.
    pub cluster_id: ClusterId,
    /// Which node this is, as people call it.
    pub node_id: String,
    /// Shards of the cluster.
    pub shards: u16,
    /// Largest request frame, in bytes, its length field not counted.
    pub request_bytes_max: u32,
    /// Requests that may be unanswered at a time.
    pub requests_max: u32,
}

/// What a client may send.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Inbound {
    /// The first frame.
    Hello(Hello),
    /// To be answered.
    Request {
        /// Chosen by the client, not 0.
        id: u64,
        /// How long the client waits, in ms; 0 = for ever.
        deadline_ms: u32,
        /// What is asked.
        request: Request,
    },
    /// Is the connection alive? Answered by the connection itself with a pong without id.
    Ping,
    /// Nothing more will come; answers are still taken.
    Goodbye,
}

/// What a server may send.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outbound {
    /// The answer to a hello.
    Welcome(Welcome),
    /// The answer to a request.
    Response {
        /// The request's id.
        id: u64,
        /// The answer.
        response: Response,
    },
    /// The connection is alive.
    Pong,
    /// The connection ends, and why.
    Refused(Refusal),
}

/// Why a frame is not something that a client may send.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// Only this request: refuse it, go on.
    Request {
        /// The request's id.
        id: u64,
        /// What to answer.
        refusal: Refusal,
    },
    /// Nothing on this connection can be trusted any more: refuse with id 0, close.
    Frame(Refusal),
}

/// A frame claims to be longer than what is taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a frame of {bytes} bytes is larger than {bytes_max}")]
pub struct TooLarge {
    /// What it claims.
    pub bytes: u32,
    /// What is taken.
    pub bytes_max: usize,
}

impl From<TooLarge> for Refusal {
    fn from(error: TooLarge) -> Self {
        Self::TooLarge { what: "frame".into(), limit: error.bytes_max as u64 }
    }
}

/// Cuts the next whole frame off `input`, without its length and without copying. `None`: more
/// bytes are needed.
///
/// # Errors
/// When the frame claims more than `bytes_max` bytes; known from its first four bytes.
pub fn split_frame(input: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, TooLarge> {
    let Some(length) = input.first_chunk::<FRAME_LENGTH_BYTES>() else { return Ok(None) };
    let bytes = u32::from_le_bytes(*length);
    if bytes as usize > bytes_max {
        return Err(TooLarge { bytes, bytes_max });
    }
    let end = FRAME_LENGTH_BYTES + bytes as usize;
    if input.len() < end {
        return Ok(None);
    }
    let mut frame = input.split_to(end).freeze();
    Ok(Some(frame.split_off(FRAME_LENGTH_BYTES)))
}

/// Reads what a client sent: a frame as [`split_frame`] gives it.
///
/// # Errors
/// What to answer instead; see [`Malformed`].
pub fn decode_inbound(frame: Bytes) -> Result<Inbound, Malformed> {
    let header = Header::read(&frame).map_err(|error| Malformed::Frame(error.into()))?;
    let mut input = Input::new(&frame, "request");
    match (header.kind, header.id) {
        (kind::HELLO, _) => decode_hello(&mut input).map(Inbound::Hello).map_err(Malformed::Frame),
        (kind::GOODBYE, 0) => Ok(Inbound::Goodbye),
        (kind::PING, 0) => Ok(Inbound::Ping),
        (_, 0) => {
            Err(Malformed::Frame(DecodeError::invalid("id", "must not be 0 for a request").into()))
        }
        (kind, id) => {
            let refused = |refusal| Malformed::Request { id, refusal };
            let deadline_ms = input.u32().map_err(|error| refused(error.into()))?;
            let request = request::decode(kind, &mut input).map_err(refused)?;
            Ok(Inbound::Request { id, deadline_ms, request })
        }
    }
}

/// Appends a hello.
pub fn encode_hello(hello: &Hello, out: &mut BytesMut) {
    put_frame(out, kind::HELLO, 0, |out| {
        out.put_slice(&MAGIC);
        out.put_u16_le(hello.min_protocol);
        out.put_u16_le(hello.max_protocol);
        put_text(out, &hello.client_name, CLIENT_NAME_BYTES_MAX);
        if let Some(shown) = &hello.api_key {
            put_text(out, &shown.reveal(), TOKEN_BYTES_MAX);
        }
    });
}

/// Appends a welcome.
pub fn encode_welcome(welcome: &Welcome, out: &mut BytesMut) {
    put_frame(out, kind::WELCOME, 0, |out| {
        out.put_u16_le(welcome.protocol);
        out.put_u16_le(welcome.shards);
        out.put_u128_le(welcome.cluster_id.value());
        out.put_u32_le(welcome.request_bytes_max);
        out.put_u32_le(welcome.requests_max);
        put_text(out, &welcome.node_id, TEXT_BYTES_MAX);
    });
}

/// Appends "nothing more will come".
pub fn encode_goodbye(out: &mut BytesMut) {
    put_frame(out, kind::GOODBYE, 0, |_| {});
}

/// Appends "is the connection alive?", without an id: the connection itself answers.
pub fn encode_ping(out: &mut BytesMut) {
    put_frame(out, kind::PING, 0, |_| {});
}

/// Appends the answer to a ping without id.
pub fn encode_pong(out: &mut BytesMut) {
    put_frame(out, kind::PONG, 0, |_| {});
}

fn decode_hello(input: &mut Input<'_>) -> Result<Hello, Refusal> {
    if input.array()? != MAGIC {
        return Err(Refusal::invalid("hello", "does not start with this protocol's magic"));
    }
    let (min_protocol, max_protocol) = (input.u16()?, input.u16()?);
    let client_name = input.text("client_name", CLIENT_NAME_BYTES_MAX)?;
    let api_key = match input.left() {
        0 => None,
        _ => credential(&input.text("api_key", u16::MAX.into())?)?,
    };
    // Whatever a later version adds lies behind: it must still be able to say hello.
    Ok(Hello { min_protocol, max_protocol, client_name, api_key })
}

/// Empty: none. Whatever else is not good enough is refused alike.
fn credential(text: &str) -> Result<Option<Credential>, Refusal> {
    let shown = (!text.is_empty()).then(|| text.parse()).transpose();
    shown.map_err(|error: CredentialError| Refusal::Unauthenticated {
        reason: format!("what was shown {error}"),
    })
}

fn decode_welcome(input: &mut Input<'_>) -> Result<Welcome, DecodeError> {
    let (protocol, shards) = (input.u16()?, input.u16()?);
    Ok(Welcome {
        protocol,
        shards,
        cluster_id: ClusterId::new(input.u128()?),
        request_bytes_max: input.u32()?,
        requests_max: input.u32()?,
        node_id: input.text("node_id", TEXT_BYTES_MAX)?,
    })
}

/// What every frame starts with, behind its length.
struct Header {
    kind: u8,
    id: u64,
}

impl Header {
    fn read(frame: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(frame, "frame");
        let kind = reader.u8()?;
        reader.zeroes(3)?;
        Ok(Self { kind, id: reader.u64()? })
    }
}

/// Appends one frame with what `body` writes; returns the frame's bytes behind the length.
fn put_frame(out: &mut BytesMut, kind: u8, id: u64, body: impl FnOnce(&mut BytesMut)) -> usize {
    let start = out.len();
    let mut header = [0; FRAME_LENGTH_BYTES + FRAME_HEADER_BYTES];
    header[FRAME_LENGTH_BYTES] = kind;
    header[8..].copy_from_slice(&id.to_le_bytes());
    out.put_slice(&header);
    body(out);
    let bytes = out.len() - start - FRAME_LENGTH_BYTES;
    out[start..start + FRAME_LENGTH_BYTES].copy_from_slice(&(bytes as u32).to_le_bytes());
    bytes
}

fn put_key(out: &mut BytesMut, key: &AggregateKey) {
    out.put_u16_le(key.as_bytes().len() as u16);
    out.put_slice(key.as_bytes());
}

/// At most `bytes_max` bytes of a text, cut between characters.
fn put_text(out: &mut BytesMut, text: &str, bytes_max: usize) {
    let text = &text[..text.floor_char_boundary(bytes_max)];
    out.put_u16_le(text.len() as u16);
    out.put_slice(text.as_bytes());
}

/// The body of a frame, taken apart from its front; slices share the frame's memory.
struct Input<'a> {
    frame: &'a Bytes,
    reader: Reader<'a>,
}

impl<'a> std::ops::Deref for Input<'a> {
    type Target = Reader<'a>;

    fn deref(&self) -> &Reader<'a> {
        &self.reader
    }
}

impl std::ops::DerefMut for Input<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.reader
    }
}

impl<'a> Input<'a> {
    /// `what` is named in errors. The header must have been read.
    fn new(frame: &'a Bytes, what: &'static str) -> Self {
        let body = frame.get(FRAME_HEADER_BYTES..).unwrap_or_default();
        Self { frame, reader: Reader::new(body, what) }
    }

    fn bytes(&mut self, count: usize) -> Result<Bytes, DecodeError> {
        let frame = self.frame;
        Ok(slice_of(frame, self.reader.take(count)?))
    }

    /// Everything that is left.
    fn remainder(&mut self) -> Result<Bytes, DecodeError> {
        self.bytes(self.reader.left())
    }

    fn key(&mut self) -> Result<AggregateKey, DecodeError> {
        let count = self.u16()?;
        Ok(AggregateKey::from_bytes(self.bytes(count.into())?)?)
    }

    fn text(&mut self, what: &'static str, bytes_max: usize) -> Result<String, DecodeError> {
        self.reader.text(what, bytes_max).map(str::to_owned)
    }

    /// How many things to make room for: what is claimed, but no more than can be there.
    fn capacity(&self, claimed: usize, bytes_min: usize) -> usize {
        claimed.min(self.left() / bytes_min)
    }
}

#[cfg(test)]
#[path = "wire/wire_test.rs"]
mod tests;
