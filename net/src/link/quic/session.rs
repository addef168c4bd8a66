//! The session: two streams as two lanes, messages cut out of bytes.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use celeriant_schema::StoreId;
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, WriteError};
use tokio::time::Instant;

use super::attempt::Candidate;
use super::choice::Held;
use super::transport::{Code, reason_of};
use super::{Boxed, Path, Settings};
use crate::link::{Event, Lane, Reason, Sent, SessionId};

/// Size of the length before a message.
const LENGTH_BYTES: usize = 4;
/// Messages below this are copied behind their length: one piece is cheaper than two.
const SMALL_BYTES: usize = 1024;
/// What one read takes at most, in bytes.
const READ_BYTES: usize = 256 << 10;
/// Room that a message gets at once; beyond it, room grows with what has come.
const ROOM_BYTES: usize = 256 << 10;
/// Events of one look at the streams.
const EVENTS_MAX: usize = 16;

/// A connection that is the session.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) store: StoreId,
    pub(super) began: Instant,
    held: Held,
    connection: Connection,
    closed: Boxed<ConnectionError>,
    outboxes: [Outbox; 2],
    inboxes: [Inbox; 2],
}

impl Session {
    pub(super) fn new(id: SessionId, candidate: Candidate, settings: &Settings) -> Self {
        let (held, store) = (candidate.held(), candidate.greeting.hello.store);
        let Candidate { connection, mut outboxes, inboxes, .. } = candidate;
        outboxes[Lane::Control.index()].limit = settings.control_buffer;
        outboxes[Lane::Bulk.index()].limit = settings.bulk_buffer;
        let waiting = connection.clone();
        let closed: Boxed<ConnectionError> = Box::pin(async move { waiting.closed().await });
        let began = super::now();
        Self { id, store, began, held, connection, closed, outboxes, inboxes }
    }

    pub(super) fn held(&self) -> Held {
        self.held
    }

    pub(super) fn send(&mut self, lane: Lane, message: Bytes) -> Sent {
        let bytes_max = lane.message_bytes_max();
        assert!(message.len() <= bytes_max, "{} bytes on {lane:?}", message.len());
        self.outboxes[lane.index()].push(message)
    }

    /// Writes, reads, and says why it is over.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        events: &mut VecDeque<Event>,
    ) -> Poll<(Reason, Code)> {
        let session = self.id;
        for lane in Lane::ALL {
            match self.outboxes[lane.index()].poll_write(cx) {
                Ok(()) => {}
                // The connection may live on; the session, which is all of its lanes, does not.
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                    let reason = Reason::Protocol("a lane was ended".into());
                    return Poll::Ready((reason, Code::Protocol));
                }
                Err(_) => return self.poll_closed(cx),
            }
            if self.outboxes[lane.index()].has_room_again() {
                events.push_back(Event::Room { session, lane });
            }
        }
        for lane in Lane::ALL {
            // One of bulk: what comes on control meanwhile must not queue up behind more of it.
            let most = if lane == Lane::Control { EVENTS_MAX } else { events.len() + 1 };
            while events.len() < most {
                match self.inboxes[lane.index()].poll_message(cx, lane.message_bytes_max()) {
                    Poll::Ready(Ok(message)) => {
                        events.push_back(Event::Received { session, lane, message });
                    }
                    Poll::Ready(Err(Broken::Connection)) => return self.poll_closed(cx),
                    Poll::Ready(Err(Broken::Protocol(what))) => {
                        return Poll::Ready((Reason::Protocol(what), Code::Protocol));
                    }
                    Poll::Pending => break,
                }
            }
        }
        self.poll_closed(cx)
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<(Reason, Code)> {
        let error = ready!(self.closed.as_mut().poll(cx));
        Poll::Ready((reason_of(&error), Code::Closed))
    }

    pub(super) fn path(&self) -> Path {
        let path = self.connection.stats().path;
        Path {
            round_trip: path.rtt,
            mtu: path.current_mtu,
            sent_packets: path.sent_packets,
            lost_packets: path.lost_packets,
        }
    }

    /// Puts bytes on a lane that are no message.
    #[cfg(test)]
    pub(super) fn forge(&mut self, lane: Lane, bytes: &'static [u8]) {
        self.outboxes[lane.index()].pieces.push_back(Bytes::from_static(bytes));
        self.outboxes[lane.index()].unsent += bytes.len();
    }

    pub(super) fn close(self, code: Code) {
        self.connection.close(code.into(), code.text().as_bytes());
    }
}

/// A lane's messages on their way out.
pub(super) struct Outbox {
    stream: SendStream,
    pieces: VecDeque<Bytes>,
    unsent: usize,
    limit: usize,
    refused: bool,
}

impl Outbox {
    pub(super) fn new(stream: SendStream) -> Self {
        Self { stream, pieces: VecDeque::new(), unsent: 0, limit: usize::MAX, refused: false }
    }

    pub(super) fn push(&mut self, message: Bytes) -> Sent {
        if self.unsent >= self.limit {
            self.refused = true;
            return Sent::Full;
        }
        self.unsent += LENGTH_BYTES + message.len();
        let small = message.len() < SMALL_BYTES;
        let mut head =
            BytesMut::with_capacity(LENGTH_BYTES + if small { message.len() } else { 0 });
        head.put_u32_le(message.len() as u32);
        if small {
            head.put_slice(&message);
        }
        self.pieces.push_back(head.freeze());
        if !small {
            self.pieces.push_back(message);
        }
        Sent::Taken
    }

    /// True once after a refusal, when half of the buffer is free.
    fn has_room_again(&mut self) -> bool {
        let room = self.refused && self.unsent <= self.limit / 2;
        self.refused &= !room;
        room
    }

    /// Writes what can be written now. An error means that the connection is over.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), WriteError> {
        while !self.pieces.is_empty() {
            let pieces = self.pieces.make_contiguous();
            let written = match pin!(self.stream.write_chunks(pieces)).poll(cx) {
                Poll::Ready(written) => written?,
                Poll::Pending => return Ok(()),
            };
            self.unsent -= written.bytes;
            self.pieces.drain(..written.chunks);
        }
        Ok(())
    }

    /// Waits until everything is written: for handshakes, which are short.
    pub(super) async fn flush(&mut self) -> Result<(), WriteError> {
        std::future::poll_fn(|cx| match self.poll_write(cx) {
            Ok(()) if self.pieces.is_empty() => Poll::Ready(Ok(())),
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        })
        .await
    }
}

/// Why nothing more can be read.
#[derive(Debug)]
pub(super) enum Broken {
    /// The connection's own error says why.
    Connection,
    /// What comes makes no sense.
    Protocol(String),
}

/// A lane's bytes on their way in.
pub(super) struct Inbox {
    stream: RecvStream,
    bytes: BytesMut,
}

impl Inbox {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self { stream, bytes: BytesMut::new() }
    }

    /// The next whole message.
    pub(super) fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        bytes_max: usize,
    ) -> Poll<Result<Bytes, Broken>> {
        loop {
            match self.split(bytes_max) {
                Ok(Some(message)) => return Poll::Ready(Ok(message)),
                Ok(None) => {}
                Err(broken) => return Poll::Ready(Err(broken)),
            }
            let read = pin!(self.stream.read_chunk(READ_BYTES, true));
            match ready!(read.poll(cx)) {
                Ok(Some(chunk)) => self.bytes.extend_from_slice(&chunk.bytes),
                Ok(None) | Err(ReadError::Reset(_)) => {
                    return Poll::Ready(Err(Broken::Protocol("a lane was ended".into())));
                }
                Err(_) => return Poll::Ready(Err(Broken::Connection)),
            }
        }
    }

    pub(super) async fn message(&mut self, bytes_max: usize) -> Result<Bytes, Broken> {
        std::future::poll_fn(|cx| self.poll_message(cx, bytes_max)).await
    }

    fn split(&mut self, bytes_max: usize) -> Result<Option<Bytes>, Broken> {
        let Some(length) = self.bytes.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > bytes_max {
            let what = format!("a message of {length} bytes where {bytes_max} are allowed");
            return Err(Broken::Protocol(what));
        }
        let missing = (LENGTH_BYTES + length).saturating_sub(self.bytes.len());
        if missing > 0 {
            self.bytes.reserve(missing.min(ROOM_BYTES));
            return Ok(None);
        }
        self.bytes.advance(LENGTH_BYTES);
        Ok(Some(self.bytes.split_to(length).freeze()))
    }
}
