//! What a connection is made of: bytes both ways, from wherever they come.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::Tls;

/// Bytes to and from a node.
pub trait Pipe: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Pipe for T {}

/// A connection being made.
pub(crate) type Dialing<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Pipe>>> + Send + 'a>>;

/// Reaches addresses.
pub(crate) trait Dial: fmt::Debug + Send + Sync {
    /// Reaches `host:port`. May take for ever: the caller has a deadline.
    fn dial<'a>(&'a self, address: &'a str) -> Dialing<'a>;

    /// Nobody on the way to `host:port` sees what is sent.
    fn is_private(&self, address: &str) -> bool;
}

/// Over TCP, with TLS or in the clear.
#[derive(Debug)]
pub(crate) struct Tcp {
    pub(crate) tls: Option<Tls>,
}

impl Dial for Tcp {
    fn dial<'a>(&'a self, address: &'a str) -> Dialing<'a> {
        Box::pin(dial(address, self.tls.as_ref()))
    }

    fn is_private(&self, address: &str) -> bool {
        self.tls.is_some() || is_this_machine(address)
    }
}

/// Whether `host:port` cannot be another machine.
fn is_this_machine(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A bare connection to the node at `host:port`, for tools that speak its protocol themselves. A
/// program that only uses a store needs no more than a [`Client`](crate::Client).
///
/// # Errors
/// When it cannot be reached, or there is no TLS session with it.
pub async fn dial(address: &str, tls: Option<&Tls>) -> io::Result<Box<dyn Pipe>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    match tls {
        None => Ok(Box::new(stream)),
        Some(tls) => Ok(Box::new(tls.connect(address, stream).await?)),
    }
}
