//! The embedded bucket: a real S3 endpoint over HTTP in this process, for the demo and for tests.
//!
//! ```text
//!   socket ─► connection (bounded: head, body, time, number) ─► faults (tests only)
//!      ─► s3s: SigV4, XML ─► protocol: one bucket ─► store: files, atomic and durable
//! ```
//! One thread with its own runtime; file operations on a few more. So the demo and the tests run
//! the production client against something that really decides races and really survives a kill.
//!
//! It is no second place: it stands or falls with the machine that it runs on. Without TLS, with
//! one pair of credentials; meant for loopback, and says so when it listens elsewhere.
//!
//! Deliberately absent: multipart uploads, versions, ranges, several buckets, tidying up.

mod faults;
mod protocol;
mod store;

#[cfg(test)]
mod embedded_test;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

pub use self::faults::{Fault, Faults, Rule};
use self::protocol::Protocol;
use self::store::Store;
use crate::bucket::BODY_BYTES_MAX;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 128;
/// Threads for files.
const BLOCKING_THREADS_MAX: usize = 16;
/// A connection that sends no head for this long is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A request that isn't answered after this time is given up.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Signatures and chunk headers of a streamed body, beside the body itself.
const BODY_OVERHEAD: usize = 1 << 20;
/// Longest XML body of a request; nothing that is implemented has one.
const XML_BYTES_MAX: usize = 64 << 10;

/// What to serve, where, and to whom.
#[derive(Clone)]
pub struct Settings {
    /// Directory of the objects; made when it isn't there.
    pub dir: PathBuf,
    /// Where to listen; port 0 takes any.
    pub listen: SocketAddr,
    /// Name of the one bucket.
    pub bucket: String,
    /// Public half of the credentials.
    pub access_key: String,
    /// Secret half.
    pub secret_key: String,
    /// Largest object in bytes.
    pub body_bytes_max: usize,
}

impl Settings {
    /// `bucket` in `dir` on any port of loopback.
    pub fn new(
        dir: impl Into<PathBuf>,
        bucket: impl Into<String>,
        access_key: impl Into<String>,
        secret_key: impl Into<String>,
    ) -> Self {
        Self {
            dir: dir.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            bucket: bucket.into(),
            access_key: access_key.into(),
            secret_key: secret_key.into(),
            body_bytes_max: BODY_BYTES_MAX,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dir, listen, bucket, .. } = self;
        write!(f, "{bucket} in {} at {listen}", dir.display())
    }
}

/// A bucket that runs until this is dropped.
#[derive(Debug)]
pub struct EmbeddedBucket {
    address: SocketAddr,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedBucket {
    /// Opens the directory, listens and serves on a thread of its own. `faults` is for tests; the
    /// default has none.
    ///
    /// # Errors
    /// The directory is in use or not accessible, or the address is.
    pub fn start(settings: Settings, faults: Faults) -> io::Result<Self> {
        let store = Store::open(&settings.dir, settings.body_bytes_max)?;
        let listener = std::net::TcpListener::bind(settings.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "the embedded bucket has no TLS and listens beyond loopback");
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build()?;
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let (server, later) = Server::new(&settings, store, faults);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("bucket-embedded".to_owned())
            .spawn(move || runtime.block_on(server.serve(listener, later, stopped)))?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For `bucket_endpoint`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for EmbeddedBucket {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic has been printed by its hook; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// Something that a fault carries out on its own time.
type Later = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Closes the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("connection closed on purpose")]
struct Abort;

#[derive(Clone)]
struct Server {
    service: S3Service,
    faults: Faults,
    body_bytes_max: usize,
    later: mpsc::UnboundedSender<Later>,
}

impl Server {
    fn new(
        settings: &Settings,
        store: Store,
        faults: Faults,
    ) -> (Self, mpsc::UnboundedReceiver<Later>) {
        let protocol = Protocol::new(store, settings.bucket.clone(), settings.body_bytes_max);
        let mut config = S3Config::default();
        config.xml_max_body_size = XML_BYTES_MAX;
        config.post_object_max_file_size = 0;
        config.form_max_field_size = 0;
        config.form_max_fields_size = 0;
        config.form_max_parts = 0;
        let mut builder = S3ServiceBuilder::new(protocol);
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        let (access_key, secret_key) = (settings.access_key.as_str(), settings.secret_key.as_str());
        // With an authentication provider s3s refuses whatever isn't signed.
        builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
        let (later, receiver) = mpsc::unbounded_channel();
        let body_bytes_max = settings.body_bytes_max;
        (Self { service: builder.build(), faults, body_bytes_max, later }, receiver)
    }

    async fn serve(
        self,
        listener: TcpListener,
        mut later: mpsc::UnboundedReceiver<Later>,
        mut stopped: oneshot::Receiver<Infallible>,
    ) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                Some(_) = tasks.join_next() => {}
                Some(work) = later.recv() => {
                    tasks.spawn(work);
                }
                accepted = accept(&listener, &connections) => {
                    let Some((stream, permit)) = accepted else { continue };
                    let server = self.clone();
                    tasks.spawn(async move {
                        server.talk(stream).await;
                        drop(permit);
                    });
                }
            }
        }
    }

    async fn talk(self, stream: TcpStream) {
        let service = service_fn(|request| self.answer_in_time(request));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection to the embedded bucket ended");
        }
    }

    async fn answer_in_time(&self, request: Request<Incoming>) -> Result<Response<Body>, Abort> {
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, self.answer(request));
        answer.await.unwrap_or(Err(Abort))
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Abort> {
        let methods = [Method::GET, Method::PUT, Method::DELETE, Method::HEAD];
        if !methods.contains(request.method()) {
            return Ok(refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"));
        }
        let body_max = self.body_bytes_max.saturating_add(BODY_OVERHEAD);
        let announced = hyper::body::Body::size_hint(request.body()).exact();
        if announced.is_some_and(|length| length > body_max as u64) {
            return Ok(refusal(StatusCode::PAYLOAD_TOO_LARGE, "EntityTooLarge"));
        }
        let fault = self.faults.take(request.method(), request.uri());
        let request = request.map(|body| Limited::new(body, body_max));
        match fault {
            Some(fault) => self.fail(fault, request).await,
            None => self.carry_out(request.map(Body::http_body)).await,
        }
    }

    async fn carry_out(&self, request: Request<Body>) -> Result<Response<Body>, Abort> {
        self.service.call(request).await.map_err(|error| {
            tracing::warn!(?error, "the embedded bucket could not answer");
            Abort
        })
    }

    async fn fail(
        &self,
        fault: Fault,
        request: Request<Limited<Incoming>>,
    ) -> Result<Response<Body>, Abort> {
        match fault {
            Fault::Unavailable => {
                return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"));
            }
            Fault::Conflict => {
                return Ok(refusal(StatusCode::CONFLICT, "ConditionalRequestConflict"));
            }
            Fault::Error => return Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")),
            Fault::LostRequest => return Err(Abort),
            Fault::AppliedLater(after) => return self.postpone(request, after).await,
            Fault::Slow(time) => tokio::time::sleep(time).await,
            Fault::RefusedAfterSuccess | Fault::ErrorAfterSuccess | Fault::LostReply => {}
        }
        let answer = self.carry_out(request.map(Body::http_body)).await?;
        let won = answer.status().is_success();
        match fault {
            Fault::RefusedAfterSuccess if won => {
                Ok(refusal(StatusCode::PRECONDITION_FAILED, "PreconditionFailed"))
            }
            Fault::ErrorAfterSuccess => {
                Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"))
            }
            Fault::LostReply => Err(Abort),
            _ => Ok(answer),
        }
    }

    /// Takes the request in whole, hangs up, and carries it out when its time comes.
    async fn postpone(
        &self,
        request: Request<Limited<Incoming>>,
        after: Duration,
    ) -> Result<Response<Body>, Abort> {
        let (parts, body) = request.into_parts();
        let body: Bytes = body.collect().await.map_err(|_| Abort)?.to_bytes();
        let server = self.clone();
        let work: Later = Box::pin(async move {
            tokio::time::sleep(after).await;
            // Nobody waits for the answer.
            let _ = server.carry_out(Request::from_parts(parts, Body::from(body))).await;
        });
        let _ = self.later.send(work);
        Err(Abort)
    }
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = connections.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // Answers are small, and somebody waits for them.
            let _ = stream.set_nodelay(true);
            Some((stream, permit))
        }
        Err(error) => {
            // Out of descriptors, or the peer is gone already: no reason to spin.
            tracing::warn!(%error, "the embedded bucket could not accept");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

fn refusal(status: StatusCode, code: &str) -> Response<Body> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <Error><Code>{code}</Code><Message>{status}</Message></Error>"
    );
    let mut response = Response::new(Body::from(xml));
    *response.status_mut() = status;
    let xml_type = hyper::header::HeaderValue::from_static("application/xml");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, xml_type);
    response
}
