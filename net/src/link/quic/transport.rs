//! What quinn and rustls are told, and what their errors mean.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, AsyncUdpSocket, ClientConfig, ConnectionError, Endpoint, EndpointConfig,
    IdleTimeout, MtuDiscoveryConfig, Runtime, ServerConfig, TransportConfig, VarInt,
};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{Error, Reason, Shared};
use crate::tls::{self, Expected, Verdict, Verifier};

/// quinn gives the system ten datagrams at a time, which must stay below 65,507 bytes together.
pub(super) const MTU_MAX: u16 = 6_500;
const _: () = assert!(MTU_MAX as usize * 10 < 65_507);
/// Every network carries that much; more is found by probing.
const MTU_INITIAL: u16 = 1_200;
/// Connections that wait to be accepted.
const INCOMING_MAX: usize = 16;
/// What is asked of the system for a socket's buffers; it may give less. More than is in flight at
/// most, or the receiver's own system drops what it has no time for; not much more, because
/// control stands in the same queue.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Acknowledgements: one for so many packets, or after so long. A sender in a data centre needs no
/// more, and each costs as much as a packet of data.
const ACK_EVERY: u32 = 20;
const ACK_DELAY: Duration = Duration::from_millis(2);

/// Protocol that TLS negotiates.
const ALPN: &[u8] = b"celeriant-peer/1";
/// Name that a dialing side asks for. Names of hosts prove nothing here.
pub(super) const SERVER_NAME: &str = "peer.celeriant.internal";

/// Why this side closes a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Code {
    Closed = 0,
    Replaced = 1,
    Superfluous = 2,
    Dropped = 3,
    WrongStore = 4,
    Contradiction = 5,
    Protocol = 6,
}

impl From<Code> for VarInt {
    fn from(code: Code) -> Self {
        Self::from_u32(code as u32)
    }
}

impl Code {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Closed => "stopped",
            Self::Replaced => "replaced by a newer session",
            Self::Superfluous => "there is a session",
            Self::Dropped => "dropped",
            Self::WrongStore => "another store is expected",
            Self::Contradiction => "hello contradicts certificate",
            Self::Protocol => "protocol broken",
        }
    }
}

pub(super) fn udp_socket(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind(&address.into())?;
    let socket = std::net::UdpSocket::from(socket);
    // Smaller buffers cost throughput, not correctness: take what the system gives.
    let buffers = SockRef::from(&socket);
    let asked = [
        buffers.set_recv_buffer_size(SOCKET_BUFFER_BYTES),
        buffers.set_send_buffer_size(SOCKET_BUFFER_BYTES),
    ];
    for error in asked.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "buffers of the replication socket stay as they are");
    }
    Ok(socket)
}

pub(super) fn endpoint(
    shared: &Shared,
    socket: Arc<dyn AsyncUdpSocket>,
    runtime: Arc<dyn Runtime>,
) -> Result<Endpoint, Error> {
    let server = server_config(shared, Verdict::default())?;
    let address = socket.local_addr();
    let mut config = EndpointConfig::default();
    // What this side takes; unless it says so, the peer never probes beyond an Ethernet's 1,472.
    config
        .max_udp_payload_size(MTU_MAX)
        .map_err(|error| tls::Error::Refused(format!("largest datagram: {error}")))?;
    Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime).map_err(|source| {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        Error::Listen { address: address.unwrap_or(unknown), source }
    })
}

/// For one connection that comes; `verdict` is what will be found out about its certificate.
pub(super) fn server_config(shared: &Shared, verdict: Verdict) -> Result<ServerConfig, tls::Error> {
    let material = shared.credentials.current();
    let provider = tls::provider();
    let verifier = Verifier::new(&material, Arc::clone(&provider), expected(shared), verdict)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(refused)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&material.key))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    let crypto = QuicServerConfig::try_from(config);
    let crypto = crypto.map_err(|error| tls::Error::Refused(error.to_string()))?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(Arc::new(transport_config(shared)));
    server.max_incoming(INCOMING_MAX).migration(false);
    Ok(server)
}

/// For one connection that is dialed.
pub(super) fn client_config(shared: &Shared, verdict: Verdict) -> Result<ClientConfig, tls::Error> {
    let material = shared.credentials.current();
    let provider = tls::provider();
    let verifier = Verifier::new(&material, Arc::clone(&provider), expected(shared), verdict)?;
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(refused)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&material.key))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    let crypto = QuicClientConfig::try_from(config);
    let crypto = crypto.map_err(|error| tls::Error::Refused(error.to_string()))?;
    let mut client = ClientConfig::new(Arc::new(crypto));
    client.transport_config(Arc::new(transport_config(shared)));
    Ok(client)
}

fn refused(error: rustls::Error) -> tls::Error {
    tls::Error::Refused(error.to_string())
}

fn expected(shared: &Shared) -> Expected {
    Expected { cluster: shared.hello.cluster, own: shared.hello.store }
}

fn transport_config(shared: &Shared) -> TransportConfig {
    let settings = &shared.settings;
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(settings.mtu_max.clamp(MTU_INITIAL, MTU_MAX));
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(ACK_EVERY.into()).max_ack_delay(Some(ACK_DELAY));
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(2_u32.into())
        .max_concurrent_uni_streams(0_u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(settings.window.into())
        // Both lanes may be full at a time, and control must not wait for bulk.
        .receive_window((settings.window + (settings.window >> 2)).into())
        .send_window(u64::from(settings.in_flight))
        // Without it quinn finishes the stream that it has begun, whatever the priorities: control
        // would wait for all the bulk that is queued.
        .send_fairness(true)
        .initial_mtu(MTU_INITIAL)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acks))
        .keep_alive_interval(Some(settings.keep_alive))
        // BBR collapsed on the networks that were tried.
        .congestion_controller_factory(Arc::new(CubicConfig::default()));
    // An idle time that QUIC cannot express means none.
    transport.max_idle_timeout(IdleTimeout::try_from(settings.idle_timeout).ok());
    transport
}

/// Why a connection ended, or never was one.
pub(super) fn reason_of(error: &ConnectionError) -> Reason {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let code = close.error_code;
            let is = |candidate: Code| code == VarInt::from(candidate);
            if is(Code::Closed) || is(Code::Dropped) {
                Reason::Closed
            } else if is(Code::Replaced) || is(Code::Superfluous) {
                Reason::Replaced
            } else {
                let said = String::from_utf8_lossy(&close.reason).chars().take(200).collect();
                Reason::RefusedByPeer(said)
            }
        }
        ConnectionError::ConnectionClosed(close) => match alert_of(u64::from(close.error_code)) {
            Some(alert) => Reason::RefusedByPeer(alert),
            None => Reason::Unreachable(close.to_string()),
        },
        ConnectionError::TimedOut => Reason::TimedOut,
        ConnectionError::Reset => Reason::Reset,
        ConnectionError::LocallyClosed => Reason::Dropped,
        ConnectionError::TransportError(error) => Reason::Protocol(error.to_string()),
        ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => {
            Reason::Unreachable(error.to_string())
        }
    }
}

/// TLS alerts travel as QUIC errors from 0x100 on (RFC 9001 §4.8).
fn alert_of(code: u64) -> Option<String> {
    let alert = code.checked_sub(0x100).filter(|alert| *alert < 0x100)?;
    Some(match alert {
        42 => "it cannot read this node's certificate".into(),
        44 => "this node's certificate was revoked".into(),
        45 => "this node's certificate has expired, or is not valid yet".into(),
        48 => "this node's certificate is not of its cluster's CA".into(),
        49 => "this node's certificate is of another cluster or store".into(),
        116 => "it wants a certificate".into(),
        120 => "it speaks another protocol".into(),
        other => format!("TLS alert {other}"),
    })
}
