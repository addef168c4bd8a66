//! Who gets a TLS session with a node, over pipes and through a listener.

#![allow(clippy::disallowed_methods)] // Tests own their tasks and may look at the clock.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use celeriant_schema::wire;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::service::{Incoming, ReplySender, Service};
use crate::settings::{Settings, Shutdown};
use crate::{Door, listener};

fn valid() -> Validity {
    let from = SystemTime::now() - Duration::from_secs(3600);
    Validity { from, lasts: Duration::from_secs(86_400) }
}

fn over() -> Validity {
    Validity { from: SystemTime::now() - Duration::from_secs(9), lasts: Duration::from_secs(1) }
}

/// A CA, and what it signed.
struct World {
    authority: Authority,
}

impl World {
    fn new() -> Self {
        Self { authority: Authority::new("test", valid()).expect("made") }
    }

    fn issue(&self, hosts: &[&str], validity: Validity) -> Issued {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        let subject = Subject { name: "someone".into(), hosts, ..Subject::default() };
        self.authority.issue(&subject, validity).expect("made")
    }

    fn node(&self, host: &str) -> Material {
        let issued = self.issue(&[host], valid());
        let ca = &self.authority.issued().certificate;
        Material::from_pem(ca, &issued.certificate, &issued.key).expect("usable")
    }

    fn acceptor(&self, auth: ClientAuth) -> (Acceptor, Credentials) {
        let credentials = Credentials::of(self.node("localhost"));
        (Acceptor::new(credentials.clone(), auth, Vec::new()).expect("usable"), credentials)
    }

    /// A client that trusts this CA, and shows a certificate of another one, or of the same.
    fn client(&self, shows: Option<&Issued>) -> Client {
        Client { connector: TlsConnector::from(self.config(shows, &TLS13)), host: "localhost" }
    }

    fn config(
        &self,
        shows: Option<&Issued>,
        version: &'static SupportedProtocolVersion,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let ca = self.authority.issued().certificate.as_bytes();
        for certificate in certificates(ca, String::new()).expect("PEM") {
            roots.add(certificate).expect("a CA");
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .expect("known")
            .with_root_certificates(roots);
        let config = match shows {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let chain = certificates(issued.certificate.as_bytes(), String::new());
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain.expect("PEM"), key).expect("of each other")
            }
        };
        Arc::new(config)
    }
}

struct Client {
    connector: TlsConnector,
    host: &'static str,
}

impl Client {
    async fn connect<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(self.host).expect("a name");
        self.connector.connect(name, stream).await
    }

    /// Whether both ends agree that there is a session: with TLS 1.3 a client only hears of a
    /// refusal when it reads.
    async fn is_served(&self, acceptor: &Acceptor) -> bool {
        let (near, far) = duplex(64 << 10);
        let serve = async {
            let mut stream = acceptor.accept(far).await?.0;
            stream.write_all(b"welcome").await?;
            stream.shutdown().await
        };
        let ask = async {
            let mut stream = self.connect(near).await?;
            let mut said = Vec::new();
            stream.read_to_end(&mut said).await.map(|_| said)
        };
        let (served, said) = tokio::join!(serve, ask);
        assert_eq!(served.is_ok(), said.is_ok(), "{served:?} {said:?}");
        said.is_ok_and(|said| said == b"welcome")
    }
}

#[tokio::test]
async fn clients_show_what_is_asked_of_them_or_are_not_served() {
    let (world, foreign) = (World::new(), World::new());
    let good = world.issue(&[], valid());
    let shown = [
        ("nothing", None),
        ("good", Some(good)),
        ("foreign", Some(foreign.issue(&[], valid()))),
        ("expired", Some(world.issue(&[], over()))),
    ];
    for (auth, served) in [
        (ClientAuth::Required, [false, true, false, false]),
        (ClientAuth::Optional, [true, true, false, false]),
        (ClientAuth::None, [true, true, true, true]),
    ] {
        let (acceptor, _) = world.acceptor(auth);
        for ((what, shows), served) in shown.iter().zip(served) {
            let client = world.client(shows.as_ref());
            assert_eq!(client.is_served(&acceptor).await, served, "{auth}: {what}");
        }
    }
}

#[tokio::test]
async fn only_tls_1_3_is_spoken_and_only_for_hosts_that_the_certificate_names() {
    let world = World::new();
    let (acceptor, _) = world.acceptor(ClientAuth::None);
    let old = TlsConnector::from(world.config(None, &TLS12));
    assert!(!Client { connector: old, host: "localhost" }.is_served(&acceptor).await);
    let elsewhere = Client { host: "elsewhere", ..world.client(None) };
    assert!(!elsewhere.is_served(&acceptor).await);
    assert!(!World::new().client(None).is_served(&acceptor).await, "of an authority it trusts not");
}

#[tokio::test]
async fn certificates_are_exchanged_under_sessions_that_go_on() {
    let (old, new) = (World::new(), World::new());
    let (acceptor, credentials) = old.acceptor(ClientAuth::Required);
    let shows = old.issue(&[], valid());
    let (near, far) = duplex(64 << 10);
    let client = old.client(Some(&shows));
    let (near, far) = tokio::join!(client.connect(near), acceptor.accept(far));
    let (mut near, (mut far, _)) = (near.expect("a session"), far.expect("a session"));

    credentials.replace(new.node("localhost"));
    let shows_new = new.issue(&[], valid());
    assert!(new.client(Some(&shows_new)).is_served(&acceptor).await, "the new authority counts");
    assert!(!new.client(Some(&shows)).is_served(&acceptor).await, "the old one no longer does");

    far.write_all(b"still there").await.expect("up");
    far.flush().await.expect("up");
    let mut said = [0; 11];
    near.read_exact(&mut said).await.expect("up");
    assert_eq!(&said, b"still there");
}

/// Answers nothing: no request is made.
#[derive(Clone)]
struct Silent;

impl Service for Silent {
    fn submit(&self, _: Vec<Incoming>, _: &ReplySender) {}
}

fn listen(acceptor: Acceptor, settings: Settings) -> (SocketAddr, Door, Shutdown) {
    let listener = listener::bind(([127, 0, 0, 1], 0).into(), false).expect("loopback");
    let address = listener.local_addr().expect("bound");
    let (door, shutdown) = (Door::with_tls(acceptor), Shutdown::new());
    let serving =
        listener::serve(listener, Silent, Arc::new(settings), door.clone(), shutdown.stop());
    tokio::spawn(serving);
    (address, door, shutdown)
}

/// Says hello over TLS; whether the node says welcome.
async fn is_welcome(client: &Client, address: SocketAddr) -> bool {
    let greet = async {
        let mut stream = client.connect(TcpStream::connect(address).await?).await?;
        let mut bytes = BytesMut::new();
        let hello = wire::Hello {
            min_protocol: 1,
            max_protocol: 1,
            client_name: "test".into(),
            api_key: None,
        };
        wire::encode_hello(&hello, &mut bytes);
        stream.write_all(&bytes).await?;
        bytes.clear();
        loop {
            if let Ok(Some(frame)) = wire::split_frame(&mut bytes, 1 << 20) {
                return io::Result::Ok(wire::decode_outbound(frame).is_ok());
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    greet.await.unwrap_or(false)
}

/// Reads until the node closes; whether that was all.
async fn is_closed(mut stream: TcpStream) -> bool {
    !matches!(stream.read(&mut [0; 64]).await, Ok(1..))
}

#[tokio::test]
async fn silent_clients_are_pushed_out_by_others_and_do_not_keep_anybody_out() {
    let world = World::new();
    let (acceptor, _) = world.acceptor(ClientAuth::None);
    let hour = Duration::from_secs(3600);
    let settings = Settings { handshakes_max: 3, handshake_timeout: hour, ..Settings::default() };
    let (address, door, _shutdown) = listen(acceptor, settings);
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.expect("listening"));
    }
    let client = world.client(None);
    for _ in 0..10 {
        assert!(is_welcome(&client, address).await, "with silent ones before it");
    }
    for stream in silent.drain(..18) {
        assert!(is_closed(stream).await, "the oldest were pushed out");
    }
    while door.open() > 3 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_given_up() {
    let world = World::new();
    let (acceptor, _) = world.acceptor(ClientAuth::Required);
    let handshake_timeout = Duration::from_millis(20);
    let settings = Settings { handshake_timeout, ..Settings::default() };
    let (address, door, _shutdown) = listen(acceptor, settings);
    let mut slow = TcpStream::connect(address).await.expect("listening");
    slow.write_all(&[22, 3, 1, 2, 0]).await.expect("the beginning of a client hello");
    assert!(is_closed(slow).await);
    while door.open() > 0 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn files_that_were_exchanged_are_read_again_and_bad_ones_are_said_once() {
    let world = World::new();
    let folder = tempfile::tempdir().expect("a directory");
    let path = |name: &str| folder.path().join(name);
    let files = Files {
        authority: path("ca.crt"),
        certificate: path("n.crt"),
        key: path("n.key"),
        revoked: None,
    };
    let put = |issued: &Issued| {
        std::fs::write(&files.certificate, &issued.certificate).expect("written");
        std::fs::write(&files.key, &issued.key).expect("written");
    };
    std::fs::write(&files.authority, &world.authority.issued().certificate).expect("written");
    put(&world.issue(&["a"], valid()));
    let credentials = Credentials::load(files.clone()).expect("good");
    let before = credentials.current();
    assert_eq!(credentials.reload_if_changed().ok(), Some(false));
    // Another size, so that a coarse clock cannot hide it.
    std::fs::write(&files.key, "being writ").expect("written");
    assert!(credentials.reload_if_changed().is_err());
    assert_eq!(credentials.reload_if_changed().ok(), Some(false), "said once");
    assert!(Arc::ptr_eq(&before, &credentials.current()), "what was good stays in use");
    put(&world.issue(&["another.host.name"], valid()));
    assert_eq!(credentials.reload_if_changed().ok(), Some(true));
    assert!(!Arc::ptr_eq(&before, &credentials.current()));
}
