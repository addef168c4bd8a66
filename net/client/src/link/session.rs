//! One connection, from welcome to loss: sends what is asked, hands out answers, notices silence.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use celeriant_schema::limits::RESPONSE_BYTES_MAX;
use celeriant_schema::wire::{self, Outbound};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::driver::Socket;
use super::{Call, Owed, Pipe, Shared};
use crate::nodes::NodeId;

/// Most bytes taken by one read.
const READ_BYTES: usize = 64 << 10;
/// Requests are taken from the queue while less than this waits to be written.
const OUTPUT_BYTES_SOFT: usize = 256 << 10;
/// Calls taken from the queue at a time.
const CALLS: usize = 256;
/// A node that owes nothing and says nothing for this long is asked for a sign of life.
const QUIET_IDLE: Duration = Duration::from_secs(30);

/// How a session ended.
pub(super) enum End {
    NoHandles,
    Lost(io::Error),
}

enum Wake {
    Calls(usize),
    Read(usize),
    Wrote,
    Failed(io::Error),
    Timer,
}

/// One connection. Dropping it tells everybody who waits that it is lost.
pub(super) struct Session<'a> {
    stream: Box<dyn Pipe>,
    queue: &'a mut mpsc::Receiver<Call>,
    shared: &'a Shared,
    node: NodeId,
    calls: Vec<Call>,
    pending: BTreeMap<u64, Owed>,
    pending_max: usize,
    scratch: Box<[u8]>,
    input: BytesMut,
    output: BytesMut,
    /// What was written may still be in the stream: TLS keeps what the socket does not take.
    flush: bool,
    /// The other side took no more bytes when it was last offered some.
    full: bool,
    /// The node has owed a sign of life since then.
    quiet_since: Instant,
    pinged_at: Option<Instant>,
    /// The node has answered something.
    answered: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        socket: Socket,
        shared: &'a Shared,
        node: NodeId,
        queue: &'a mut mpsc::Receiver<Call>,
    ) -> Self {
        Self {
            stream: socket.stream,
            queue,
            shared,
            node,
            calls: Vec::new(),
            pending: BTreeMap::new(),
            // A node that is owed as many answers as it allows would not read a ping.
            pending_max: socket.requests_max.saturating_sub(1).max(1),
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            input: socket.input,
            output: BytesMut::new(),
            flush: false,
            full: false,
            quiet_since: Instant::now(),
            pinged_at: None,
            answered: false,
        }
    }

    /// Serves `first` and what comes after it, until the connection ends.
    pub(super) async fn run(&mut self, first: Call) -> End {
        self.calls.push(first);
        self.take_calls();
        let mut timer = pin!(sleep_until(self.wake_at()));
        loop {
            let at = self.wake_at();
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            let wake = tokio::select! {
                biased;
                wake = poll_fn(|cx| self.poll(cx)) => wake,
                () = &mut timer => Wake::Timer,
            };
            let outcome = match wake {
                Wake::Calls(0) => return End::NoHandles,
                Wake::Calls(_) => {
                    self.take_calls();
                    Ok(())
                }
                Wake::Read(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Wake::Read(read) => self.take_bytes(read),
                Wake::Wrote => {
                    self.on_wrote();
                    Ok(())
                }
                Wake::Failed(error) => Err(error),
                Wake::Timer => self.on_quiet(),
            };
            if let Err(error) = outcome {
                return End::Lost(error);
            }
        }
    }

    /// Answers first; then everything that waits goes into one write.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        let mut buffer = ReadBuf::new(&mut self.scratch);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => return Poll::Ready(Wake::Read(buffer.filled().len())),
            Poll::Ready(Err(error)) => return Poll::Ready(Wake::Failed(error)),
            Poll::Pending => {}
        }
        let room = self.room();
        if room > 0
            && let Poll::Ready(count) = self.queue.poll_recv_many(cx, &mut self.calls, room)
        {
            return Poll::Ready(Wake::Calls(count));
        }
        if !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Wake::Failed(io::ErrorKind::WriteZero.into()));
                }
                Poll::Ready(Ok(written)) => {
                    self.output.advance(written);
                    self.flush = true;
                    return Poll::Ready(Wake::Wrote);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Wake::Failed(error)),
                Poll::Pending => self.full = true,
            }
        } else if self.flush {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.flush = false;
                    self.on_wrote();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Wake::Failed(error)),
                Poll::Pending => self.full = true,
            }
        }
        Poll::Pending
    }

    /// How many more calls may be taken now.
    fn room(&self) -> usize {
        match self.output.len() < OUTPUT_BYTES_SOFT {
            true => self.pending_max.saturating_sub(self.pending.len()).min(CALLS),
            false => 0,
        }
    }

    fn take_calls(&mut self) {
        if self.pending.is_empty() {
            self.quiet_since = Instant::now();
        }
        for call in std::mem::take(&mut self.calls) {
            // A caller that is gone, or out of time, must not be sent for.
            if call.owed.is_dropped() || !call.stage.send() {
                continue;
            }
            self.output.extend_from_slice(&call.frame);
            self.pending.insert(call.id, call.owed);
        }
    }

    /// What makes room in a full socket is the other side: a long request on a slow line is no
    /// silence.
    fn on_wrote(&mut self) {
        if std::mem::take(&mut self.full) {
            self.quiet_since = Instant::now();
        }
    }

    fn take_bytes(&mut self, read: usize) -> io::Result<()> {
        (self.quiet_since, self.pinged_at) = (Instant::now(), None);
        let bytes = &self.scratch[..read];
        if self.input.is_empty() {
            // Exactly what came: events that are kept for long keep no large buffer alive.
            self.input = BytesMut::from(bytes);
        } else {
            self.input.extend_from_slice(bytes);
        }
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        loop {
            match wire::split_frame(&mut self.input, RESPONSE_BYTES_MAX) {
                Ok(None) => return Ok(()),
                Ok(Some(frame)) => self.take_frame(frame).map_err(invalid)?,
                Err(error) => return Err(invalid(error.to_string())),
            }
        }
    }

    fn take_frame(&mut self, frame: Bytes) -> Result<(), String> {
        let bytes = frame.len();
        match wire::decode_outbound(frame) {
            Ok(Outbound::Refused(refusal)) => Err(format!("the node ends it: {refusal}")),
            Ok(Outbound::Pong) => Ok(()),
            Ok(Outbound::Response { id, response }) => {
                if !std::mem::replace(&mut self.answered, true) {
                    self.shared.up(self.node);
                }
                if let Entry::Occupied(mut owed) = self.pending.entry(id)
                    && !owed.get_mut().take(response, bytes)
                {
                    owed.remove();
                }
                Ok(())
            }
            Ok(Outbound::Welcome(_)) => Err(String::from("a second welcome")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Half of the patience until a ping, half for its answer. A node that answers is never pinged.
    fn wake_at(&self) -> Instant {
        let patience = self.shared.silence_timeout / 2;
        match self.pinged_at {
            Some(pinged) => pinged.max(self.quiet_since) + patience,
            None if self.pending.is_empty() => self.quiet_since + QUIET_IDLE,
            None => self.quiet_since + patience,
        }
    }

    fn on_quiet(&mut self) -> io::Result<()> {
        if self.pinged_at.is_some() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no sign of life"));
        }
        self.pinged_at = Some(Instant::now());
        wire::encode_ping(&mut self.output);
        Ok(())
    }
}
