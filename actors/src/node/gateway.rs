//! The thread of the HTTP gateway: what it does must not disturb the cores.

// As its parent: threads are started here, named, and joined.
#![allow(clippy::disallowed_methods)]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use celeriant_net::{Door, Elsewhere, Shutdown, http};
use tokio::sync::{mpsc, oneshot};

use super::worker::News;
use super::{Error, Router};

/// A gateway that serves. Dropped, it stops without waiting.
pub(super) struct Gateway {
    shutdown: Shutdown,
    ended: oneshot::Receiver<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Gateway {
    /// Binds and serves, on a thread of its own. Returns the address, too.
    pub(super) async fn start(
        addr: SocketAddr,
        router: Router,
        elsewhere: Option<Arc<dyn Elsewhere>>,
        settings: http::Settings,
        door: Door,
        news: mpsc::UnboundedSender<News>,
    ) -> Result<(Self, SocketAddr), Error> {
        let shutdown = Shutdown::new();
        let stop = shutdown.stop();
        let (bound, listens) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        let work = async move {
            let listener = celeriant_net::bind(addr, false)
                .and_then(|listener| listener.local_addr().map(|address| (listener, address)));
            match listener {
                Ok((listener, address)) => {
                    let _ = bound.send(Ok(address));
                    http::serve(listener, router, elsewhere, settings, door, stop).await;
                }
                Err(error) => drop(bound.send(Err(error))),
            }
        };
        let thread = std::thread::Builder::new()
            .name("celeriant-http".into())
            .spawn(move || {
                let alarm = Alarm { news, armed: true };
                runtime.block_on(work);
                alarm.disarm();
                let _ = end.send(());
            })
            .map_err(Error::Thread)?;
        let listens = listens.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
        let address = listens.map_err(|source| Error::Listen { addr, source })?;
        Ok((Self { shutdown, ended, thread }, address))
    }

    /// Takes no more, answers what was asked, ends.
    pub(super) async fn stop(self) {
        self.shutdown.trigger();
        // A thread that panicked has said so in the news.
        let _ = self.ended.await;
        let _ = self.thread.join();
    }
}

/// A thread that ends without having been told to has panicked: the node must stop.
struct Alarm {
    news: mpsc::UnboundedSender<News>,
    armed: bool,
}

impl Alarm {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if self.armed {
            let (actor, reason) = ("http".into(), "ended unexpectedly".into());
            let _ = self.news.send(News::Failed(Error::Stopped { actor, reason }));
        }
    }
}
