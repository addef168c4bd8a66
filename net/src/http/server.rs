//! Connections: one task each, HTTP/1.1 by hyper, with a time for everything.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use celeriant_schema::Refusal;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::Settings;
use super::call::Seats;
use super::problem::Problem;
use crate::listener::Host;
use crate::rights::Rights;
use crate::settings::Stop;

/// Header lines of one request.
const HEADERS_MAX: usize = 64;
/// For the last words to somebody who is sent away.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves HTTP to whoever a listener let in.
#[derive(Clone)]
pub(super) struct Server {
    router: Router,
    settings: Arc<Settings>,
    stop: Stop,
}

impl Server {
    pub(super) fn new(router: Router, settings: Arc<Settings>, stop: Stop) -> Self {
        Self { router, settings, stop }
    }
}

impl Host for Server {
    async fn serve<S>(self, stream: S, peer: SocketAddr, rights: Rights)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { router, settings, mut stop } = self;
        let router = TowerToHyperService::new(router);
        // Each request carries the rights of its connection, and its seats; the router is
        // everybody's.
        let seats = Seats::default();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(rights.clone());
            request.extensions_mut().insert(seats.clone());
            router.call(request)
        });
        let stream = TokioIo::new(Patient::new(stream, settings.stall_timeout));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(settings.head_timeout)
            .max_buf_size(settings.head_bytes_max)
            .max_headers(HEADERS_MAX)
            .serve_connection(stream, service);
        let mut connection = pin!(connection);
        tokio::select! {
            biased;
            () = stop.wait() => {}
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "HTTP connection failed");
                }
                return;
            }
        }
        connection.as_mut().graceful_shutdown();
        if timeout(settings.drain_timeout, connection).await.is_err() {
            tracing::info!(%peer, "HTTP connection did not come to its end in time");
        }
    }

    async fn send_away(self, mut stream: TcpStream) {
        let what = String::from("connections");
        let problem = Problem::from(Refusal::Overloaded { what, retry_after_ms: 1_000 });
        let (body, status) = (problem.to_json().to_string(), problem.status());
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let told = async {
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await
        };
        // Whoever does not listen is not told.
        let _ = timeout(LAST_WORDS, told).await;
    }
}

/// A stream whose writes fail when its other end takes nothing for too long.
struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Runs while a write waits.
    timer: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl<S> Patient<S> {
    fn new(stream: S, patience: Duration) -> Self {
        let timer = Box::pin(sleep_until(Instant::now()));
        Self { stream, patience, timer, is_waiting: false }
    }

    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        moved: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            self.is_waiting = false;
            return moved;
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.patience);
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, moved)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.judge(cx, moved)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let moved = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(cx, moved)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let moved = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(cx, moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_cut_off_and_one_that_is_slow_is_not() {
        let (mut far, near) = tokio::io::duplex(16);
        let patience = Duration::from_secs(5);
        let mut near = Patient::new(near, patience);
        let reading = async {
            let mut buffer = [0; 8];
            for _ in 0..4 {
                tokio::time::sleep(patience * 4 / 5).await;
                tokio::io::AsyncReadExt::read_exact(&mut far, &mut buffer).await.expect("alive");
            }
        };
        let (written, ()) = tokio::join!(near.write_all(&[0; 48]), reading);
        written.expect("slow is not dead");
        let stuck = near.write_all(&[0; 17]).await.expect_err("nobody reads");
        assert_eq!(stuck.kind(), io::ErrorKind::TimedOut);
    }
}
