//! The production bucket: aws-sdk-s3, on threads of its own.
//!
//! ```text
//!   S3Bucket ── start ──> lane "control": thread, runtime, HTTP client ──┐
//!        │                lane "data":    thread, runtime, HTTP client ──┤
//!        └── poll_complete <────────── finished, wakes who polled ───────┘
//! ```
//! Signing, hashing and encrypting megabytes happens on the data lane's thread, so neither a core
//! nor the register ever waits for it. Each operation is exactly one HTTP request: the SDK's
//! retries are off, because a put that is sent twice may be refused by its own first copy.
//!
//! Deliberately absent: retries, caches, knowledge of what the objects mean. `answer` says what an
//! HTTP answer means for an operation.

mod answer;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Region, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls;
use bytes::{Bytes, BytesMut};
use tokio::sync::{OnceCell, mpsc};
use tokio::task::JoinSet;

use crate::bucket::{
    BODY_BYTES_MAX, Bucket, BucketError, Cause, Completion, Done, ETag, Effect, InFlight,
    LIST_KEYS_MAX, Lane, Location, Op, Outcome, Request, Token,
};

/// Whose requests they are.
#[derive(Clone, Default)]
pub enum Credentials {
    /// The usual AWS chain: environment, profile, web identity, container, instance.
    #[default]
    Chain,
    /// A fixed pair, for the embedded bucket and tests.
    Static {
        /// Public half.
        access_key: String,
        /// Secret half.
        secret_key: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chain => "Chain",
            Self::Static { .. } => "Static",
        })
    }
}

/// How to reach a bucket.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bucket and prefix.
    pub location: Location,
    /// Of a store that isn't AWS, such as `http://127.0.0.1:9000`. Paths then name the bucket.
    pub endpoint: Option<String>,
    /// Overrides what the chain says.
    pub region: Option<String>,
    /// Whose requests they are.
    pub credentials: Credentials,
    /// A connection that isn't there after this time won't come.
    pub connect_timeout: Duration,
    /// Operations in flight, per lane.
    pub in_flight_max: usize,
}

impl Settings {
    /// Defaults for `location`.
    pub fn new(location: Location) -> Self {
        Self {
            location,
            endpoint: None,
            region: None,
            credentials: Credentials::default(),
            connect_timeout: Duration::from_secs(1),
            // Four slots under way and four reads of a take-over.
            in_flight_max: 8,
        }
    }
}

/// A bucket behind an S3 endpoint.
pub struct S3Bucket {
    lanes: [LaneThread; 2],
    finished: Arc<Finished>,
    in_flight: InFlight,
}

/// Region for stores that have none, when nobody names one.
const REGION_ANY: &str = "us-east-1";

impl S3Bucket {
    /// Starts the lanes. Talks to nobody: wrong settings show in the first operation.
    ///
    /// # Errors
    /// The system gives no thread or runtime.
    pub fn open(settings: Settings) -> io::Result<Self> {
        let finished = Arc::new(Finished::default());
        let in_flight = InFlight::new(settings.in_flight_max);
        let settings = Arc::new(settings);
        let open = |lane| LaneThread::start(lane, settings.clone(), finished.clone());
        Ok(Self { lanes: [open(Lane::Control)?, open(Lane::Data)?], finished, in_flight })
    }
}

impl fmt::Debug for S3Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Bucket").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl Bucket for S3Bucket {
    fn start(&mut self, token: Token, request: Request) {
        let lane = request.lane;
        let finished = Ended { token, lane, outcome: Err(unsent(&request.op, Cause::Closed)) };
        if !self.in_flight.enter(lane) {
            let outcome = Err(unsent(&request.op, Cause::Busy));
            return self.finished.refuse(Completion { token, outcome });
        }
        if self.lanes[lane.index()].commands.send((token, request)).is_err() {
            self.finished.push(finished);
        }
    }

    fn poll_complete(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        let mut state = self.finished.lock();
        if let Some(completion) = state.refused.pop_front() {
            return Poll::Ready(completion);
        }
        match state.ended.pop_front() {
            Some(Ended { token, lane, outcome }) => {
                self.in_flight.leave(lane);
                Poll::Ready(Completion { token, outcome })
            }
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

fn unsent(op: &Op, cause: Cause) -> BucketError {
    BucketError::unsent(op, cause)
}

/// What has ended and was not yet polled.
#[derive(Debug, Default)]
struct Finished {
    state: Mutex<FinishedState>,
}

#[derive(Debug, Default)]
struct FinishedState {
    ended: VecDeque<Ended>,
    /// Never counted as in flight.
    refused: VecDeque<Completion>,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Ended {
    token: Token,
    lane: Lane,
    outcome: Outcome,
}

impl Finished {
    fn lock(&self) -> MutexGuard<'_, FinishedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, ended: Ended) {
        let mut state = self.lock();
        state.ended.push_back(ended);
        wake(state);
    }

    fn refuse(&self, completion: Completion) {
        let mut state = self.lock();
        state.refused.push_back(completion);
        wake(state);
    }
}

fn wake(mut state: MutexGuard<'_, FinishedState>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// One lane: a thread with a runtime and a client of its own.
struct LaneThread {
    commands: mpsc::UnboundedSender<(Token, Request)>,
    thread: Option<JoinHandle<()>>,
}

impl LaneThread {
    fn start(lane: Lane, settings: Arc<Settings>, finished: Arc<Finished>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Bounded by the count of what is in flight.
        let (commands, inbox) = mpsc::unbounded_channel();
        let work = async move { Worker { lane, settings, finished }.work(inbox).await };
        let thread = thread::Builder::new()
            .name(format!("bucket-{}", lane.name()))
            .spawn(move || runtime.block_on(work))?;
        Ok(Self { commands, thread: Some(thread) })
    }
}

impl Drop for LaneThread {
    fn drop(&mut self) {
        // Ends the worker's inbox, and with it the thread.
        self.commands = mpsc::unbounded_channel().0;
        if let Some(thread) = self.thread.take() {
            // A panic has been printed by its hook; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

struct Worker {
    lane: Lane,
    settings: Arc<Settings>,
    finished: Arc<Finished>,
}

impl Worker {
    /// Until nobody can send any more; what is in flight then is given up.
    async fn work(self, mut inbox: mpsc::UnboundedReceiver<(Token, Request)>) {
        let client = Arc::new(OnceCell::new());
        let mut running = JoinSet::new();
        // Looks up region and credentials while nobody waits yet.
        let (early, settings) = (client.clone(), self.settings.clone());
        running.spawn(async move {
            early.get_or_init(|| connect(&settings)).await;
        });
        loop {
            tokio::select! {
                biased;
                Some(ended) = running.join_next() => self.note_panic(ended),
                command = inbox.recv() => {
                    let Some((token, request)) = command else { return };
                    let guard = Ending::new(self.finished.clone(), token, &request);
                    let (client, settings) = (client.clone(), self.settings.clone());
                    running.spawn(async move {
                        let outcome = carry_out(&client, &settings, &request).await;
                        guard.end(outcome);
                    });
                }
            }
        }
    }

    fn note_panic(&self, ended: Result<(), tokio::task::JoinError>) {
        if let Err(error) = ended {
            tracing::error!(lane = self.lane.name(), %error, "a bucket operation panicked");
        }
    }
}

/// Sees to it that an operation completes, even when the SDK panics.
struct Ending {
    finished: Arc<Finished>,
    ended: Option<Ended>,
}

impl Ending {
    fn new(finished: Arc<Finished>, token: Token, request: &Request) -> Self {
        let outcome = Err(BucketError::lost(&request.op, Cause::Closed, ""));
        Self { finished, ended: Some(Ended { token, lane: request.lane, outcome }) }
    }

    fn end(mut self, outcome: Outcome) {
        if let Some(ended) = &mut self.ended {
            ended.outcome = outcome;
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(ended) = self.ended.take() {
            self.finished.push(ended);
        }
    }
}

/// A client with connections of its own. No I/O but that of the chain's look-up of a region.
async fn connect(settings: &Settings) -> Client {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
        .build_https();
    let mut loader = aws_config::defaults(aws_config::BehaviorVersion::latest()).http_client(http);
    if let Credentials::Static { access_key, secret_key } = &settings.credentials {
        let (access_key, secret_key) = (access_key.clone(), secret_key.clone());
        loader = loader.credentials_provider(aws_sdk_s3::config::Credentials::new(
            access_key, secret_key, None, None, "settings",
        ));
    }
    if let Some(region) = region(settings) {
        loader = loader.region(Region::new(region));
    }
    let shared = loader.load().await;
    let timeouts = TimeoutConfig::builder().connect_timeout(settings.connect_timeout).build();
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        // The deadline covers it.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        // The signature covers the body; other stores know no trailing checksums.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &settings.endpoint {
        config = config.endpoint_url(endpoint).force_path_style(true);
    }
    Client::from_conf(config.build())
}

fn region(settings: &Settings) -> Option<String> {
    let elsewhere = settings.endpoint.as_ref().map(|_| REGION_ANY.to_owned());
    settings.region.clone().or(elsewhere)
}

async fn carry_out(client: &OnceCell<Client>, settings: &Settings, request: &Request) -> Outcome {
    let op = &request.op;
    let within = async {
        let client = client.get_or_init(|| connect(settings)).await;
        send(client, &settings.location, op).await
    };
    match tokio::time::timeout(request.deadline, within).await {
        Ok(outcome) => outcome,
        Err(_) => Err(BucketError::lost(op, Cause::Deadline, "")),
    }
}

async fn send(client: &Client, location: &Location, op: &Op) -> Outcome {
    let (bucket, full) = (location.bucket(), location.full(op.subject()));
    match op {
        Op::Get { .. } => match client.get_object().bucket(bucket).key(full).send().await {
            Ok(output) => read_body(op, output).await,
            Err(error) => answer::outcome(op, &error),
        },
        Op::PutIfAbsent { body, .. } => {
            let put = client.put_object().bucket(bucket).key(full).if_none_match("*");
            let sent = put.body(checked(op, body)?).send().await;
            sent.map_or_else(|error| answer::outcome(op, &error), |o| made(op, o.e_tag))
        }
        Op::PutIfMatch { body, etag, .. } => {
            let put = client.put_object().bucket(bucket).key(full).if_match(etag.as_str());
            let sent = put.body(checked(op, body)?).send().await;
            sent.map_or_else(|error| answer::outcome(op, &error), |o| made(op, o.e_tag))
        }
        Op::List { after, .. } => {
            let after = after.as_ref().map(|name| location.full(name));
            let list = client.list_objects_v2().bucket(bucket).prefix(full).set_start_after(after);
            match list.max_keys(LIST_KEYS_MAX as i32).send().await {
                Ok(page) => Ok(listed(location, page)),
                Err(error) => answer::outcome(op, &error),
            }
        }
        Op::Delete { .. } => match client.delete_object().bucket(bucket).key(full).send().await {
            Ok(_) => Ok(Done::Deleted),
            Err(error) => answer::outcome(op, &error),
        },
    }
}

fn checked(op: &Op, body: &Bytes) -> Result<ByteStream, BucketError> {
    if body.len() > BODY_BYTES_MAX {
        return Err(unsent(op, Cause::TooLarge));
    }
    Ok(ByteStream::from(body.clone()))
}

fn made(op: &Op, etag: Option<String>) -> Outcome {
    match etag {
        Some(etag) => Ok(Done::Put { etag: ETag::new(etag) }),
        None => Err(BucketError::lost(op, Cause::Garbled, "a put was answered without an ETag")),
    }
}

fn listed(
    location: &Location,
    page: aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output,
) -> Done {
    let more = page.is_truncated.unwrap_or(false);
    let objects = page.contents.unwrap_or_default().into_iter().filter_map(|object| {
        let name = object.key?.strip_prefix(location.prefix())?.to_owned();
        Some((name, u64::try_from(object.size.unwrap_or(0)).unwrap_or(0)))
    });
    Done::Listed { objects: objects.collect(), more }
}

/// Grows with what arrives, not with what the header promises.
async fn read_body(op: &Op, output: GetObjectOutput) -> Outcome {
    let fail = |cause, detail: String| Err(BucketError::new(op, cause, Effect::None, detail));
    let Some(etag) = output.e_tag.map(ETag::new) else {
        return fail(Cause::Garbled, "an object without an ETag".to_owned());
    };
    let promised = output.content_length.and_then(|length| usize::try_from(length).ok());
    if promised.is_some_and(|length| length > BODY_BYTES_MAX) {
        return fail(Cause::TooLarge, format!("{promised:?} bytes"));
    }
    let mut stream = output.body;
    let mut body = BytesMut::new();
    loop {
        match stream.next().await {
            Some(Ok(chunk)) if body.len() + chunk.len() <= BODY_BYTES_MAX => {
                body.extend_from_slice(&chunk);
            }
            Some(Ok(_)) => return fail(Cause::TooLarge, String::new()),
            Some(Err(error)) => return fail(Cause::Lost, error.to_string()),
            None => break,
        }
    }
    if promised.is_some_and(|length| length != body.len()) {
        return fail(Cause::Lost, format!("{} of {promised:?} bytes", body.len()));
    }
    Ok(Done::Found { etag, body: body.freeze() })
}
