//! A store in memory behind a real socket, that can be told to fail: for tests of the client only.
//!
//! It keeps semantics.md §2 and §3 to the letter, because what is tested is what a client makes of
//! them when connections break before or after a write has landed.

mod store;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use celeriant_schema::wire::{self, Inbound};
use celeriant_schema::{ClusterId, Refusal, Request, Response, Write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::{Client, Options};
pub(crate) use store::Store;

/// What happens to one request instead of the usual.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The usual.
    None,
    /// The connection breaks; the request is not done.
    DropBefore,
    /// The request is done; the connection breaks instead of an answer.
    DropAfter,
    /// Refused, not done.
    Refuse(Refusal),
    /// Done, and refused all the same.
    DoneBut(Refusal),
    /// Done, never answered.
    Silence,
    /// Another writer gets in first with this write.
    Overtake(Box<Write>),
}

/// What the fake has seen and what it is to do.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) store: Store,
    /// For the next requests, in order of arrival.
    pub(crate) faults: VecDeque<Fault>,
    /// Every write that arrived.
    pub(crate) writes: Vec<Write>,
    /// Every other request that arrived.
    pub(crate) others: Vec<Request>,
    pub(crate) hellos: usize,
    pub(crate) cluster: u128,
    pub(crate) deadlines: Vec<u32>,
    /// Decides a fault for a request that the script has none for.
    pub(crate) chance: Option<u64>,
}

/// The running fake.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) script: Arc<Mutex<Script>>,
    task: JoinHandle<()>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("valid"), Arc::default()).await
    }

    async fn start_at(address: SocketAddr, script: Arc<Mutex<Script>>) -> Self {
        // The port of a fake that was just stopped is free as soon as its task is gone.
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        let address = listener.local_addr().expect("bound");
        let task = tokio::spawn(accept(listener, Arc::clone(&script)));
        Self { address, script, task }
    }

    /// Closes everything at once.
    pub(crate) async fn stop(self) -> Stopped {
        self.task.abort();
        let _ = self.task.await;
        Stopped { address: self.address, script: self.script }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("not poisoned")
    }

    pub(crate) fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().faults.extend(faults);
    }

    pub(crate) fn url(&self) -> String {
        format!("celeriant://{}", self.address)
    }

    pub(crate) async fn client(&self) -> Client {
        self.client_with(Options::default()).await
    }

    pub(crate) async fn client_with(&self, options: Options) -> Client {
        Client::connect_with(&self.url(), options).await.expect("listening")
    }
}

/// A fake that is down; what it held survives.
pub(crate) struct Stopped {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl Stopped {
    pub(crate) async fn restart(self) -> Fake {
        Fake::start_at(self.address, self.script).await
    }
}

async fn accept(listener: TcpListener, script: Arc<Mutex<Script>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&script)));
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    loop {
        while let Some(frame) = wire::split_frame(&mut input, 1 << 24).expect("small") {
            let mut script = script.lock().expect("not poisoned");
            match wire::decode_inbound(frame).expect("a client sends only what makes sense") {
                Inbound::Hello(_) => script.welcome(&mut output),
                Inbound::Request { id, deadline_ms, request } => {
                    script.deadlines.push(deadline_ms);
                    match script.answer(request) {
                        Verdict::Answer(response) => {
                            wire::encode_response(id, &response, &mut output);
                        }
                        Verdict::Silence => {}
                        Verdict::Drop => return,
                    }
                }
                Inbound::Ping => wire::encode_pong(&mut output),
                Inbound::Goodbye => return,
            }
        }
        if stream.write_all(&output).await.is_err() {
            return;
        }
        output.clear();
        if stream.read_buf(&mut input).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

enum Verdict {
    Answer(Response),
    Silence,
    Drop,
}

impl Script {
    fn welcome(&mut self, output: &mut BytesMut) {
        self.hellos += 1;
        let welcome = wire::Welcome {
            protocol: 1,
            cluster_id: ClusterId::new(self.cluster),
            node_id: "fake".into(),
            shards: 1,
            request_bytes_max: 1 << 20,
            requests_max: 100,
        };
        wire::encode_welcome(&welcome, output);
    }

    fn answer(&mut self, request: Request) -> Verdict {
        match &request {
            Request::Write(write) => self.writes.push(write.clone()),
            other => self.others.push(other.clone()),
        }
        match self.fault() {
            Fault::None => Verdict::Answer(self.store.handle(request)),
            Fault::DropBefore => Verdict::Drop,
            Fault::DropAfter => {
                self.store.handle(request);
                Verdict::Drop
            }
            Fault::Refuse(refusal) => Verdict::Answer(Response::Refused(refusal)),
            Fault::DoneBut(refusal) => {
                self.store.handle(request);
                Verdict::Answer(Response::Refused(refusal))
            }
            Fault::Silence => {
                self.store.handle(request);
                Verdict::Silence
            }
            Fault::Overtake(write) => {
                self.store.handle(Request::Write(*write));
                Verdict::Answer(self.store.handle(request))
            }
        }
    }

    fn fault(&mut self) -> Fault {
        if let Some(fault) = self.faults.pop_front() {
            return fault;
        }
        let Some(random) = &mut self.chance else { return Fault::None };
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        match *random % 16 {
            0 => Fault::DropBefore,
            1 | 2 => Fault::DropAfter,
            3 => Fault::Refuse(Refusal::Overloaded { what: "test".into(), retry_after_ms: 1 }),
            4 => Fault::DoneBut(Refusal::UnknownOutcome),
            5 => Fault::Refuse(Refusal::UnknownOutcome),
            _ => Fault::None,
        }
    }
}
