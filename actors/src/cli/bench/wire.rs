//! The bytes of one connection: a buffer in, a buffer out, whole frames.
//!
//! Frames are looked at where they lie: whatever a client spends on copying them, the server, which
//! shares the machine, cannot spend on serving.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use celeriant_client::{Error, Pipe};
use celeriant_schema::limits::{FEED_MORE_MAX, RESPONSE_BYTES_MAX};
use celeriant_schema::wire::{
    Hello, Outbound, PROTOCOL_MAX, PROTOCOL_MIN, Welcome, decode_outbound, encode_hello,
    encode_request,
};
use celeriant_schema::{FeedPage, FeedQuery, Following, Request, Response, Stamp};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::failure::Failure;
use super::Target;

/// Bytes before a frame's body: length, kind, flags, reserved, id.
pub(super) const HEADER_BYTES: usize = 16;
const READ_BYTES: usize = 64 << 10;

/// See the module.
pub(super) struct Wire {
    stream: Box<dyn Pipe>,
    input: Vec<u8>,
    /// The part of `input` that holds bytes not looked at yet.
    unread: Range<usize>,
    /// What is to be sent.
    pub(super) output: Vec<u8>,
    sent: usize,
    /// What was written may still be in the stream.
    flush: bool,
}

impl Wire {
    /// Dials and greets.
    pub(super) async fn connect(target: &Target) -> Result<(Self, Welcome), Failure> {
        let mut wire = Self {
            stream: target.dial().await?,
            input: vec![0; READ_BYTES],
            unread: 0..0,
            output: Vec::new(),
            sent: 0,
            flush: false,
        };
        let welcome = wire.greet().await?;
        Ok((wire, welcome))
    }

    async fn greet(&mut self) -> Result<Welcome, Failure> {
        self.output.extend_from_slice(&hello());
        let frame = self.frame().await?;
        welcome(self.copy(&frame))
    }

    /// The next whole frame without its length, as a part of the buffer.
    pub(super) async fn frame(&mut self) -> Result<Range<usize>, Failure> {
        loop {
            if let Some(frame) = self.next_frame()? {
                return Ok(frame);
            }
            self.exchange().await?;
        }
    }

    /// Bytes of a frame that was found last.
    pub(super) fn bytes(&self, frame: &Range<usize>) -> &[u8] {
        &self.input[frame.clone()]
    }

    /// The same, for whoever keeps them.
    pub(super) fn copy(&self, frame: &Range<usize>) -> Bytes {
        Bytes::copy_from_slice(self.bytes(frame))
    }

    /// Moves bytes out and in, as many as go; waits until some come. May be cancelled at any point.
    pub(super) async fn exchange(&mut self) -> Result<(), Failure> {
        match poll_fn(|cx| self.poll_exchange(cx)).await? {
            0 => Err(protocol("the connection was closed")),
            _ => Ok(()),
        }
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut stream = Pin::new(&mut self.stream);
        while self.sent < self.output.len() {
            match stream.as_mut().poll_write(cx, &self.output[self.sent..])? {
                Poll::Ready(0) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Poll::Ready(bytes) => (self.sent, self.flush) = (self.sent + bytes, true),
                Poll::Pending => break,
            }
        }
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
        }
        if self.flush && stream.poll_flush(cx)?.is_ready() {
            self.flush = false;
        }
        self.poll_read(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.unread.is_empty() {
            self.unread = 0..0;
        }
        if self.input.len() - self.unread.end < READ_BYTES / 2 {
            self.input.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
            if self.input.len() - self.unread.end < READ_BYTES / 2 {
                self.input.resize(self.input.len() * 2, 0);
            }
        }
        let mut room = ReadBuf::new(&mut self.input[self.unread.end..]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
        let bytes = room.filled().len();
        self.unread.end += bytes;
        Poll::Ready(Ok(bytes))
    }

    /// The same, if it has come already.
    pub(super) fn next_frame(&mut self) -> Result<Option<std::ops::Range<usize>>, Failure> {
        let unread = &self.input[self.unread.clone()];
        let Some(length) = unread.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if !(HEADER_BYTES - 4..=RESPONSE_BYTES_MAX + HEADER_BYTES).contains(&length) {
            return Err(protocol("a frame of an impossible length"));
        }
        if unread.len() < 4 + length {
            return Ok(None);
        }
        let frame = self.unread.start + 4..self.unread.start + 4 + length;
        self.unread.start = frame.end;
        Ok(Some(frame))
    }
}

/// A feed, on a connection with nothing else in flight. Pages come without being asked for, as many
/// as may.
pub(super) struct Feed {
    wire: Wire,
    query: FeedQuery,
    /// Of the answer that is coming.
    following: Option<Following>,
}

impl Feed {
    /// Nothing is asked for yet.
    pub(super) fn new(wire: Wire, query: FeedQuery) -> Self {
        Self { wire, query: FeedQuery { more: FEED_MORE_MAX, ..query }, following: None }
    }

    /// The page behind the last one.
    pub(super) async fn page(&mut self) -> Result<FeedPage, Failure> {
        let mut following = match self.following {
            Some(following) => following,
            None => self.ask()?,
        };
        let frame = self.wire.frame().await?;
        let answer = decode_outbound(self.wire.copy(&frame));
        match answer.map_err(|error| protocol(&error.to_string()))? {
            Outbound::Response { response: Response::Feed(page), .. } => {
                self.query.after = Some(page.upto);
                self.following = following.goes_on(&page, frame.len()).then_some(following);
                Ok(page)
            }
            Outbound::Response { response: Response::Refused(refusal), .. } => {
                Err(Error::from(refusal).into())
            }
            _ => Err(protocol("an answer of another kind")),
        }
    }

    fn ask(&mut self) -> Result<Following, Failure> {
        let mut asked = BytesMut::new();
        let request = Request::Feed(self.query.clone());
        encode_request(1, 0, &request, &mut asked).map_err(Error::from)?;
        self.wire.output.extend_from_slice(&asked);
        Ok(Following::new(&self.query))
    }

    /// Goes on behind `after`, between two answers.
    pub(super) fn seek(&mut self, after: Stamp) {
        debug_assert!(self.following.is_none(), "in the middle of an answer");
        self.query.after = Some(after);
    }
}

/// What a client says first.
pub(super) fn hello() -> Bytes {
    let mut hello = BytesMut::new();
    let client_name = "celeriant bench".to_owned();
    let (min_protocol, max_protocol) = (PROTOCOL_MIN, PROTOCOL_MAX);
    let said = Hello { min_protocol, max_protocol, client_name, api_key: None };
    encode_hello(&said, &mut hello);
    hello.freeze()
}

/// What a node answers to it, unless it refuses.
pub(super) fn welcome(frame: Bytes) -> Result<Welcome, Failure> {
    match decode_outbound(frame).map_err(|error| protocol(&error.to_string()))? {
        Outbound::Welcome(welcome) => Ok(welcome),
        Outbound::Refused(refusal) => Err(Error::from(refusal).into()),
        _ => Err(protocol("something else than a welcome")),
    }
}

/// The server says what it must not.
pub(super) fn protocol(reason: &str) -> Failure {
    Error::Protocol { reason: reason.to_owned() }.into()
}
