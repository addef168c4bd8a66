//! One client's connection: one task that turns bytes into requests and answers into bytes.
//!
//! ```text
//!            read once ─▶ split into frames ─▶ decode ─▶ Service::submit (one batch per read)
//! socket  ◀─ write once ◀─ one buffer ◀─ encode ◀─ everything the service released meanwhile
//! ```
//!
//! What protects the node: the first frame must be a hello and come soon; frames have a largest
//! size, checked before memory is taken; a client with too many unanswered requests, or too many
//! bytes of them and of the answers they ask for, is not read from until some are answered; answers
//! are turned into bytes only as fast as the client takes them, and a client that takes none for a
//! while is cut off. A request that makes no sense inside an intact frame is refused by its id; a
//! broken frame ends the connection, after what came before it is answered.
//!
//! Deliberately absent: queues of requests. Backpressure is not reading.

mod feeds;
mod in_flight;
mod socket;

#[cfg(test)]
mod connection_test;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use celeriant_schema::limits::HELLO_BYTES_MAX;
use celeriant_schema::wire::{self, Inbound, Malformed};
use celeriant_schema::{Refusal, Request};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use crate::rights::Rights;
use crate::rooms::Seat;
use crate::service::{IDLE_ANSWERS, Incoming, Reply, ReplyReceiver, ReplySender, Service};
use crate::settings::{Settings, Stop};
use feeds::{Feed, Feeds};
use in_flight::InFlight;

/// Answers are encoded while less than this waits to be written.
const OUTPUT_BYTES_SOFT: usize = 256 << 10;
/// Moves between two looks at the clock and the stop signal.
const MOVES: usize = 16;
/// A refused client's bytes are read and dropped this long, so that it gets to see the refusal.
const LINGER: Duration = Duration::from_secs(1);
/// And this far.
const LINGER_BYTES: usize = 1 << 20;

/// How a connection ended.
#[derive(Debug)]
pub enum Ended {
    /// The client closed it.
    Closed,
    /// This node stops.
    Stopped,
    /// The client broke the protocol; it was told why.
    Refused(Refusal),
    /// The client did not introduce itself in time, or did not take its answers.
    TimedOut,
    /// The socket failed.
    Failed(io::Error),
}

/// Serves one client until either side ends it. The stream may be anything that carries bytes: a
/// TCP socket, TLS over one, a pipe in a test.
pub async fn serve<S, V>(
    stream: S,
    service: V,
    rights: Rights,
    settings: Arc<Settings>,
    mut stop: Stop,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
    V: Service,
{
    let mut connection = Connection::new(stream, service, rights, settings);
    let ended = connection.run(&mut stop).await;
    if matches!(ended, Ended::Refused(_)) {
        linger(&mut connection.stream).await;
    }
    ended
}

/// Tells a client why it is not served, and closes.
pub(crate) async fn refuse<S>(mut stream: S, refusal: &Refusal)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut output = BytesMut::new();
    wire::encode_refused(0, refusal, &mut output);
    // Nobody is left to tell if the client cannot be told.
    if let Ok(Ok(())) = timeout(LINGER, stream.write_all(&output)).await {
        linger(&mut stream).await;
    }
}

/// Closing a socket that has unread bytes makes the system throw away what was just written.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let drop_bytes = async {
        let mut scratch = [0; 4096];
        let mut seen = 0;
        while seen < LINGER_BYTES {
            match stream.read(&mut scratch).await {
                Ok(0) | Err(_) => return,
                Ok(read) => seen += read,
            }
        }
    };
    // Time and bytes are both bounded; which of them ends it does not matter.
    let _ = timeout(LINGER, drop_bytes).await;
}

/// Why the task woke.
enum Wake {
    Moved,
    Blocked,
    EndOfInput,
    Failed(io::Error),
    Stop,
    Timer,
}

enum Phase {
    /// Nothing but a hello is understood.
    Hello,
    /// Requests are taken.
    Open,
    /// Nothing is taken any more; what was submitted is still answered.
    Draining(Ended),
}

struct Connection<S, V> {
    stream: S,
    service: V,
    rights: Rights,
    settings: Arc<Settings>,
    phase: Phase,
    input: BytesMut,
    output: BytesMut,
    flush: bool,
    sender: ReplySender,
    replies: ReplyReceiver,
    /// Waiting for room in `output`. They still count as in flight.
    answers: VecDeque<Reply>,
    in_flight: InFlight,
    /// What it takes of its orgs' room.
    seats: Vec<Seat>,
    feeds: Feeds,
    /// What happens when this passes depends on the phase.
    timer: Option<Instant>,
}

impl<S, V> Connection<S, V>
where
    S: AsyncRead + AsyncWrite + Unpin,
    V: Service,
{
    fn new(stream: S, service: V, rights: Rights, settings: Arc<Settings>) -> Self {
        let (sender, replies) = ReplySender::channel();
        Self {
            stream,
            service,
            rights,
            phase: Phase::Hello,
            input: BytesMut::new(),
            output: BytesMut::new(),
            flush: false,
            sender,
            replies,
            answers: VecDeque::new(),
            in_flight: InFlight::default(),
            seats: Vec::new(),
            feeds: Feeds::default(),
            timer: Some(Instant::now() + settings.hello_timeout),
            settings,
        }
    }

    async fn run(&mut self, stop: &mut Stop) -> Ended {
        let flag = stop.clone();
        let mut stopping = pin!(stop.wait());
        let mut sleep = pin!(sleep_until(Instant::now()));
        loop {
            let draining = matches!(self.phase, Phase::Draining(_));
            if draining && self.is_drained() {
                return self.finish().await;
            }
            if let Some(at) = self.timer
                && sleep.deadline() != at
            {
                sleep.as_mut().reset(at);
            }
            // Sockets come first because they have something to do nearly always; a client that
            // never pauses must not outrun the clock or the stop signal.
            let wake = if self.timer.is_some_and(|at| at <= Instant::now()) {
                Wake::Timer
            } else if !draining && flag.is_set() {
                Wake::Stop
            } else {
                tokio::select! {
                    biased;
                    wake = poll_fn(|cx| self.poll(cx)) => wake,
                    () = &mut stopping, if !draining => Wake::Stop,
                    () = &mut sleep, if self.timer.is_some() => Wake::Timer,
                }
            };
            if let Some(ended) = self.on_wake(wake) {
                return ended;
            }
        }
    }

    /// Moves what can be moved, until nothing can or it is time to look around.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        let timer = self.timer;
        for _ in 0..MOVES {
            if let Some(wake) = std::task::ready!(self.poll_move(cx)) {
                return Poll::Ready(wake);
            }
            // Frames that had to wait for answers or for room may go on now.
            self.take_frames();
            // Whoever waits beside this waits for the timer as it was.
            if self.timer != timer || matches!(self.phase, Phase::Draining(_)) {
                break;
            }
        }
        Poll::Ready(Wake::Moved)
    }

    /// Answers before writes before reads: what is done leaves before more is begun. `None`: some
    /// progress was made.
    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Option<Wake>> {
        let has_taken = self.replies.poll_take(cx, &mut self.answers).is_ready();
        if has_taken {
            self.encode_answers();
            // What was encoded leaves at once, unless the socket is known to be full.
            if self.output.is_empty() {
                return Poll::Ready(None);
            }
        }
        if !self.output.is_empty() {
            match socket::poll_write(&mut self.stream, cx, &mut self.output) {
                Poll::Ready(Ok(())) => return Poll::Ready(self.on_wrote()),
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Wake::Failed(error))),
                // The clock starts on a client that does not take its answers.
                Poll::Pending if self.timer.is_none() => return Poll::Ready(Some(Wake::Blocked)),
                Poll::Pending => {}
            }
        } else if self.flush {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.flush = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Wake::Failed(error))),
                Poll::Pending => {}
            }
        }
        if self.may_take()
            && let Poll::Ready(read) = socket::poll_read(&mut self.stream, cx, &mut self.input)
        {
            return Poll::Ready(match read {
                Ok(0) => Some(Wake::EndOfInput),
                Ok(_) => None,
                Err(error) => Some(Wake::Failed(error)),
            });
        }
        // Taking answers made room, and only a take that finds none waits for more.
        if has_taken { Poll::Ready(None) } else { Poll::Pending }
    }

    fn on_wrote(&mut self) -> Option<Wake> {
        self.flush = true;
        if matches!(self.phase, Phase::Open) {
            self.timer = None;
        }
        self.encode_answers();
        None
    }

    /// One step. `Some`: it is over, nothing more can be written.
    fn on_wake(&mut self, wake: Wake) -> Option<Ended> {
        match wake {
            Wake::Moved => {}
            Wake::Blocked => self.timer = Some(Instant::now() + self.settings.stall_timeout),
            Wake::EndOfInput => self.drain(Ended::Closed),
            Wake::Failed(error) => return Some(Ended::Failed(error)),
            Wake::Stop => self.drain(Ended::Stopped),
            Wake::Timer => return Some(Ended::TimedOut),
        }
        None
    }

    /// Whether the client may be listened to: it owes and is owed little enough.
    fn may_take(&self) -> bool {
        !matches!(self.phase, Phase::Draining(_))
            && self.in_flight.count() < self.settings.requests_max
            && self.in_flight.bytes() < self.settings.bytes_max
            && self.output.len() < OUTPUT_BYTES_SOFT
    }

    fn take_frames(&mut self) {
        let mut batch = Vec::new();
        while self.may_take() {
            let largest = match self.phase {
                Phase::Hello => HELLO_BYTES_MAX,
                _ => self.settings.request_bytes_max,
            };
            match wire::split_frame(&mut self.input, largest) {
                Ok(None) => break,
                Ok(Some(frame)) => self.take_frame(frame, &mut batch),
                Err(too_large) => self.drain(Ended::Refused(too_large.into())),
            }
        }
        if !batch.is_empty() {
            self.service.submit(batch, &self.sender);
        }
    }

    fn take_frame(&mut self, frame: Bytes, batch: &mut Vec<Incoming>) {
        let bytes = frame.len() as u32 + wire::FRAME_LENGTH_BYTES as u32;
        match (wire::decode_inbound(frame), &self.phase) {
            (Ok(Inbound::Hello(hello)), Phase::Hello) => self.welcome(&hello),
            (Ok(Inbound::Request { id, deadline_ms, mut request }), Phase::Open) => {
                let seats = match self.check(&mut request) {
                    Ok(seats) => seats,
                    Err(refusal) => {
                        return wire::encode_refused(id, &refusal, &mut self.output);
                    }
                };
                let charge = in_flight::charge(&request, bytes as usize);
                let id = self.in_flight.begin(id, charge);
                if let Request::Feed(query) = &request {
                    self.feeds.begin(id, Feed::new(query, deadline_ms, bytes, seats));
                }
                let by = self.rights.orders(&request);
                batch.push(Incoming { id, deadline: deadline(deadline_ms), bytes, request, by });
            }
            (Ok(Inbound::Ping), Phase::Open) => wire::encode_pong(&mut self.output),
            (Ok(Inbound::Goodbye), Phase::Open) => self.drain(Ended::Closed),
            (Err(Malformed::Request { id, refusal }), Phase::Open) => {
                wire::encode_refused(id, &refusal, &mut self.output);
            }
            (Err(Malformed::Frame(refusal)), _) => self.drain(Ended::Refused(refusal)),
            _ => self.drain(Ended::Refused(unexpected_frame())),
        }
    }

    /// Whether `request` may be done now; what room it takes until it is.
    fn check(&self, request: &mut Request) -> Result<Vec<Seat>, Refusal> {
        self.rights.check(request)?;
        self.rights.shorten_wait(request);
        match request {
            Request::Feed(query) if query.wait_ms > 0 => self.rights.sit_to_watch(&query.selector),
            _ => Ok(Vec::new()),
        }
    }

    fn welcome(&mut self, hello: &wire::Hello) {
        let (min, max) = (wire::PROTOCOL_MIN, wire::PROTOCOL_MAX);
        let protocol = hello.max_protocol.min(max);
        if protocol < hello.min_protocol.max(min) {
            return self.drain(Ended::Refused(Refusal::UnsupportedProtocol { min, max }));
        }
        if let Some(shown) = &hello.api_key {
            match self.rights.with(shown) {
                Ok(rights) => self.rights = rights,
                Err(refusal) => return self.drain(Ended::Refused(refusal)),
            }
        }
        if let Err(refusal) = self.rights.sit(&mut self.seats) {
            return self.drain(Ended::Refused(refusal));
        }
        let welcome = wire::Welcome {
            protocol,
            cluster_id: self.settings.cluster_id,
            node_id: self.settings.node_id.clone(),
            shards: self.settings.shards,
            request_bytes_max: self.settings.request_bytes_max as u32,
            requests_max: self.settings.requests_max as u32,
        };
        wire::encode_welcome(&welcome, &mut self.output);
        self.phase = Phase::Open;
        self.timer = None;
    }

    /// Turns answers into bytes as fast as the client takes them, and asks for the pages that
    /// follow.
    fn encode_answers(&mut self) {
        let mut batch = Vec::new();
        while self.output.len() < OUTPUT_BYTES_SOFT {
            let Some(reply) = self.answers.pop_front() else { break };
            let Some(id) = self.in_flight.client_id(reply.id) else {
                tracing::error!(id = reply.id, "answer to a request that is not waiting");
                continue;
            };
            let reply = Reply { response: self.rights.review(reply.response), ..reply };
            let frame = self.output.len() + wire::FRAME_LENGTH_BYTES;
            wire::encode_response(id, &reply.response, &mut self.output);
            let frame_bytes = self.output.len() - frame;
            if let Some(next) = self.next_page(&reply, frame_bytes) {
                batch.push(next);
            } else {
                self.feeds.end(reply.id);
                self.in_flight.finish(reply.id);
            }
        }
        if !batch.is_empty() {
            self.service.submit(batch, &self.sender);
        }
        if self.answers.capacity() > IDLE_ANSWERS
            && self.answers.is_empty()
            && self.in_flight.count() == 0
        {
            // An idle connection holds next to nothing.
            self.answers = VecDeque::new();
        }
    }

    /// What is asked next, if `reply` is a page of a feed that goes on.
    fn next_page(&mut self, reply: &Reply, frame_bytes: usize) -> Option<Incoming> {
        if matches!(self.phase, Phase::Draining(_)) {
            return None;
        }
        let mut next = self.feeds.next(reply, frame_bytes)?;
        self.rights.shorten_wait(&mut next.request);
        Some(next)
    }

    /// Takes nothing more; ends as `ended` once everything submitted is answered.
    fn drain(&mut self, ended: Ended) {
        if matches!(self.phase, Phase::Draining(_)) {
            return;
        }
        self.phase = Phase::Draining(ended);
        self.input = BytesMut::new();
        self.timer = Some(Instant::now() + self.settings.drain_timeout);
    }

    fn is_drained(&self) -> bool {
        self.in_flight.count() == 0 && self.output.is_empty()
    }

    /// The last words, after every answer, and the end of the stream.
    async fn finish(&mut self) -> Ended {
        let phase = std::mem::replace(&mut self.phase, Phase::Draining(Ended::Closed));
        let Phase::Draining(ended) = phase else { return Ended::Closed };
        let last_words = async {
            if let Ended::Refused(refusal) = &ended {
                wire::encode_refused(0, refusal, &mut self.output);
                self.stream.write_all(&self.output).await?;
            }
            self.stream.shutdown().await
        };
        match timeout(LINGER, last_words).await {
            Ok(Ok(())) => ended,
            Ok(Err(error)) => Ended::Failed(error),
            Err(_) => Ended::TimedOut,
        }
    }
}

/// When nobody waits any more; 0 = somebody always will.
fn deadline(ms: u32) -> Option<Instant> {
    (ms > 0).then(|| Instant::now() + Duration::from_millis(ms.into()))
}

fn unexpected_frame() -> Refusal {
    Refusal::InvalidArgument {
        field: String::from("frame"),
        reason: String::from("one hello first, then requests"),
    }
}
