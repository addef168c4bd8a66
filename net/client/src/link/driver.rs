//! The task behind a link: connects, sends what is asked, hands out answers, starts over.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use celeriant_schema::Response;
use celeriant_schema::limits::RESPONSE_BYTES_MAX;
use celeriant_schema::wire::{self, Outbound};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Failure, Message, Route};
use crate::Error;
use crate::backoff::Backoff;

/// Most bytes taken by one read.
const READ_BYTES: usize = 64 << 10;
/// Requests are taken from the queue while less than this waits to be written.
const OUTPUT_BYTES_SOFT: usize = 256 << 10;
/// Messages taken from the queue at a time.
const MESSAGES: usize = 256;
/// A node that owes answers and says nothing for this long is asked for a sign of life.
const QUIET_BUSY: Duration = Duration::from_secs(5);
/// So is one that owes nothing, more rarely.
const QUIET_IDLE: Duration = Duration::from_secs(30);
/// A node that gives no sign of life for this long after it was asked is taken for gone.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests under way when the leader has moved are waited for this long.
const REROUTE_PATIENCE: Duration = Duration::from_secs(2);

/// A connection whose node has said welcome.
pub(super) struct Socket {
    stream: TcpStream,
    input: BytesMut,
    requests_max: usize,
    address: String,
}

/// Tries every address once.
pub(super) async fn connect_first(route: &Route) -> Result<Socket, Error> {
    let mut last = None;
    for address in &route.addresses {
        match connect(route, address).await {
            Ok(socket) => return Ok(socket),
            Err(failure) => last = Some(failure),
        }
    }
    Err(last.map_or_else(|| Error::Url { reason: String::from("no address") }, Error::from))
}

/// Reaches one node and introduces itself.
async fn connect(route: &Route, address: &str) -> Result<Socket, Failure> {
    let failure = |reason: String, refusal| Failure { address: address.into(), reason, refusal };
    let connected = match timeout(route.connect_timeout, handshake(route, address)).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(Unwelcome::Socket(error))) => Err(failure(error.to_string(), None)),
        Ok(Err(Unwelcome::Refused(refusal))) => Err(failure(refusal.to_string(), Some(refusal))),
        Err(_) => Err(failure(String::from("no answer in time"), None)),
    };
    route.known().failure = connected.as_ref().err().cloned();
    connected
}

enum Unwelcome {
    Socket(io::Error),
    Refused(celeriant_schema::Refusal),
}

impl From<io::Error> for Unwelcome {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

async fn handshake(route: &Route, address: &str) -> Result<Socket, Unwelcome> {
    let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut output = BytesMut::new();
    let hello = wire::Hello {
        min_protocol: wire::PROTOCOL_MIN,
        max_protocol: wire::PROTOCOL_MAX,
        client_name: route.name.clone(),
    };
    wire::encode_hello(&hello, &mut output);
    stream.write_all(&output).await?;

    let mut input = BytesMut::new();
    let frame = loop {
        match wire::split_frame(&mut input, RESPONSE_BYTES_MAX) {
            Ok(Some(frame)) => break frame,
            Ok(None) if stream.read_buf(&mut input).await? == 0 => {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            Ok(None) => {}
            Err(_) => return Err(broken("not a Celeriant node").into()),
        }
    };
    match wire::decode_outbound(frame) {
        Ok(Outbound::Welcome(welcome)) => {
            let mut known = route.known();
            if *known.cluster.get_or_insert(welcome.cluster_id) != welcome.cluster_id {
                return Err(broken("this node belongs to another cluster").into());
            }
            known.request_bytes_max = welcome.request_bytes_max as usize;
            let requests_max = (welcome.requests_max as usize).max(1);
            Ok(Socket { stream, input, requests_max, address: address.to_owned() })
        }
        Ok(Outbound::Refused(refusal)) => Err(Unwelcome::Refused(refusal)),
        _ => Err(broken("not a Celeriant node").into()),
    }
}

/// Runs until every handle to the link is gone.
pub(super) async fn run(
    route: Arc<Route>,
    mut queue: mpsc::Receiver<Message>,
    mut socket: Option<Socket>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
    let mut wanted = Wanted::default();
    let mut connection = 0;
    // The first message of a connection that is made because of it.
    let mut waiting = Vec::new();
    loop {
        let Some(ready) = socket.take() else {
            // Nobody asks anything: nothing to connect for.
            if waiting.is_empty() {
                let Some(message) = queue.recv().await else { return };
                waiting.push(message);
            }
            match connect(&route, &wanted.next(&route)).await {
                Ok(connected) => socket = Some(connected),
                Err(failure) => {
                    tracing::debug!(?failure, "cannot connect");
                    if queue.is_closed() {
                        return;
                    }
                    sleep(backoff.wait()).await;
                }
            }
            continue;
        };
        connection += 1;
        let address = ready.address.clone();
        wanted.at(&route, &address);
        let mut session = Session::new(ready, connection, &mut queue, std::mem::take(&mut waiting));
        let end = session.run().await;
        let answered = session.answered;
        drop(session);
        match end {
            End::NoHandles => return,
            End::Reroute(leader) => wanted.leader = leader,
            End::Lost(error) => tracing::debug!(%address, %error, "connection lost"),
        }
        // A node that accepts and drops without ever answering must not be hammered.
        if answered {
            backoff.reset();
        } else {
            sleep(backoff.wait()).await;
        }
    }
}

/// Which address comes next.
#[derive(Default)]
struct Wanted {
    leader: Option<String>,
    place: usize,
}

impl Wanted {
    fn next(&mut self, route: &Route) -> String {
        if let Some(leader) = self.leader.take() {
            return leader;
        }
        let address = &route.addresses[self.place % route.addresses.len()];
        self.place += 1;
        address.clone()
    }

    /// Connected to `address`: after it, the one after it is next.
    fn at(&mut self, route: &Route, address: &str) {
        if let Some(place) = route.addresses.iter().position(|known| known == address) {
            self.place = place + 1;
        }
    }
}

/// How a session ended.
enum End {
    NoHandles,
    Reroute(Option<String>),
    Lost(io::Error),
}

enum Wake {
    Messages(usize),
    Read(usize),
    Wrote,
    Failed(io::Error),
    Timer,
}

/// One connection, from welcome to loss. Dropping it tells everybody who waits that it is lost.
struct Session<'a> {
    stream: TcpStream,
    queue: &'a mut mpsc::Receiver<Message>,
    connection: u64,
    messages: Vec<Message>,
    pending: BTreeMap<u64, oneshot::Sender<(Response, u64)>>,
    requests_max: usize,
    scratch: Box<[u8]>,
    input: BytesMut,
    output: BytesMut,
    /// The node has owed a sign of life since then.
    quiet_since: Instant,
    pinged_at: Option<Instant>,
    /// The node has answered something.
    answered: bool,
    reroute: Option<(Option<String>, Instant)>,
}

impl<'a> Session<'a> {
    fn new(
        socket: Socket,
        connection: u64,
        queue: &'a mut mpsc::Receiver<Message>,
        waiting: Vec<Message>,
    ) -> Self {
        Self {
            stream: socket.stream,
            queue,
            connection,
            messages: waiting,
            pending: BTreeMap::new(),
            requests_max: socket.requests_max,
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            input: socket.input,
            output: BytesMut::new(),
            quiet_since: Instant::now(),
            pinged_at: None,
            answered: false,
            reroute: None,
        }
    }

    async fn run(&mut self) -> End {
        let mut timer = pin!(sleep_until(self.wake_at()));
        self.take_messages();
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
                Wake::Messages(0) => return End::NoHandles,
                Wake::Messages(_) => {
                    self.take_messages();
                    Ok(())
                }
                Wake::Read(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Wake::Read(read) => self.take_bytes(read),
                Wake::Wrote => Ok(()),
                Wake::Failed(error) => Err(error),
                Wake::Timer => self.on_quiet(),
            };
            if let Err(error) = outcome {
                return End::Lost(error);
            }
            if let Some((leader, until)) = &self.reroute
                && (self.pending.is_empty() || *until <= Instant::now())
            {
                return End::Reroute(leader.clone());
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
        if self.may_send()
            && let Poll::Ready(count) = self.queue.poll_recv_many(cx, &mut self.messages, MESSAGES)
        {
            return Poll::Ready(Wake::Messages(count));
        }
        if !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Wake::Failed(io::ErrorKind::WriteZero.into()));
                }
                Poll::Ready(Ok(written)) => {
                    self.output.advance(written);
                    return Poll::Ready(Wake::Wrote);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Wake::Failed(error)),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    fn may_send(&self) -> bool {
        self.reroute.is_none()
            && self.output.len() < OUTPUT_BYTES_SOFT
            && self.pending.len() < self.requests_max
    }

    fn take_messages(&mut self) {
        if self.pending.is_empty() {
            self.quiet_since = Instant::now();
        }
        for message in std::mem::take(&mut self.messages) {
            match message {
                Message::Call(call) => {
                    // A caller that is gone, or out of time, must not be sent for.
                    if call.answer.is_closed() || !call.stage.send() {
                        continue;
                    }
                    self.output.extend_from_slice(&call.frame);
                    self.pending.insert(call.id, call.answer);
                }
                Message::Reroute { leader, from } if from == self.connection => {
                    self.reroute = Some((leader, Instant::now() + REROUTE_PATIENCE));
                }
                Message::Reroute { .. } => {}
            }
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
        match wire::decode_outbound(frame) {
            Ok(Outbound::Refused(refusal)) => Err(format!("the node ends it: {refusal}")),
            Ok(Outbound::Pong) => Ok(()),
            Ok(Outbound::Response { id, response }) => {
                self.answered = true;
                if let Some(answer) = self.pending.remove(&id) {
                    // A caller that is gone has no use for it.
                    let _ = answer.send((response, self.connection));
                }
                Ok(())
            }
            Ok(Outbound::Welcome(_)) => Err(String::from("a second welcome")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn wake_at(&self) -> Instant {
        let quiet = if self.pending.is_empty() { QUIET_IDLE } else { QUIET_BUSY };
        let at = match self.pinged_at {
            Some(pinged) => pinged + PING_TIMEOUT,
            None => self.quiet_since + quiet,
        };
        self.reroute.as_ref().map_or(at, |(_, until)| at.min(*until))
    }

    fn on_quiet(&mut self) -> io::Result<()> {
        if self.reroute.as_ref().is_some_and(|(_, until)| *until <= Instant::now()) {
            return Ok(());
        }
        if self.pinged_at.is_some() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.pinged_at = Some(Instant::now());
        wire::encode_ping(&mut self.output);
        Ok(())
    }
}
