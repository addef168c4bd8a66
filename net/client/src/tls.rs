//! TLS 1.3 between this client and the nodes: whom it trusts, and what it shows.
//!
//! A node's certificate must be signed by the authority that is given, which is usually the store's
//! own, and name the host that was connected to. Files are read again for every connection that is
//! made, so certificates that were renewed are used from the next one on.
//!
//! Deliberately absent: authorities of the system, sessions that are resumed, early data (which
//! somebody else could send again).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Error;

/// How a client speaks TLS. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    inner: Arc<Inner>,
}

struct Inner {
    files: Option<Files>,
    config: Mutex<Arc<ClientConfig>>,
}

/// Where certificates are: PEM files.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Files {
    authority: PathBuf,
    identity: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// Trusts nodes whose certificate the authority in the file `authority` has signed, and shows
    /// the certificate of `identity`, a file with a certificate and one with its private key. All
    /// are PEM files.
    ///
    /// # Errors
    /// `Error::Tls` when a file cannot be read, or holds something else.
    pub fn from_files(
        authority: impl Into<PathBuf>,
        identity: Option<(PathBuf, PathBuf)>,
    ) -> Result<Self, Error> {
        let files = Files { authority: authority.into(), identity };
        let config = files.read()?;
        Ok(Self::new(Some(files), config))
    }

    /// The same from memory: an authority, and a certificate with its private key, in PEM form.
    ///
    /// # Errors
    /// `Error::Tls` when they are something else.
    pub fn from_pem(authority: &str, identity: Option<(&str, &str)>) -> Result<Self, Error> {
        let identity = identity.map(|(certificate, key)| (certificate.into(), key.into()));
        Ok(Self::new(None, config(authority.as_bytes(), identity).map_err(wrong)?))
    }

    fn new(files: Option<Files>, config: ClientConfig) -> Self {
        Self { inner: Arc::new(Inner { files, config: Mutex::new(Arc::new(config)) }) }
    }

    /// Makes a session over `stream` with the node at `address`, which is `host:port`.
    pub(crate) async fn connect(
        &self,
        address: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        TlsConnector::from(self.config()).connect(name, stream).await.map_err(explained)
    }

    /// As the files are now. While they are being exchanged, or gone, as they were.
    fn config(&self) -> Arc<ClientConfig> {
        let mut config = self.inner.config.lock().unwrap_or_else(PoisonError::into_inner);
        match self.inner.files.as_ref().map(Files::read) {
            Some(Ok(read)) => *config = Arc::new(read),
            Some(Err(error)) => tracing::warn!(%error, "keeping the certificates read earlier"),
            None => {}
        }
        Arc::clone(&config)
    }
}

/// Keys don't belong into logs.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.inner.files).finish_non_exhaustive()
    }
}

impl Files {
    fn read(&self) -> Result<ClientConfig, Error> {
        let content = |path: &Path| {
            std::fs::read(path).map_err(|error| wrong(format!("{}: {error}", path.display())))
        };
        let authority = content(&self.authority)?;
        let identity = match &self.identity {
            Some((certificate, key)) => Some((content(certificate)?, content(key)?)),
            None => None,
        };
        config(&authority, identity).map_err(|why| {
            let identity = self.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
            let files = [&self.authority].into_iter().chain(identity);
            let files: Vec<String> = files.map(|path| path.display().to_string()).collect();
            wrong(format!("{why} ({})", files.join(", ")))
        })
    }
}

fn wrong(reason: String) -> Error {
    Error::Tls { reason }
}

/// A configuration from PEM text, or what is wrong with it.
fn config(authority: &[u8], identity: Option<(Vec<u8>, Vec<u8>)>) -> Result<ClientConfig, String> {
    let bad = |what: &str, why: &dyn fmt::Display| format!("the {what}: {why}");
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authority).map_err(|why| bad("authority", &why))? {
        roots.add(certificate).map_err(|why| bad("authority", &why))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|why| bad("TLS library", &why))?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(&certificate).map_err(|why| bad("certificate", &why))?;
            let key = PrivateKeyDer::from_pem_slice(&key).map_err(|why| bad("key", &why))?;
            builder.with_client_auth_cert(chain, key).map_err(|why| bad("certificate", &why))?
        }
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if found.is_empty() => Err("there is no certificate in it".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(error.to_string()),
    }
}

/// Says what to do about the likeliest mistakes.
fn explained(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let why = match inner {
        Some(rustls::Error::InvalidMessage(_)) => {
            "the node does not speak TLS (?tls=off connects without)"
        }
        Some(rustls::Error::InvalidCertificate(
            rustls::CertificateError::NotValidForName
            | rustls::CertificateError::NotValidForNameContext { .. },
        )) => "the node's certificate is for other hosts (`celeriant cert node --host` names them)",
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            "the node's certificate is of another authority"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{why}: {error}"))
}

/// What to tell somebody who speaks without TLS to a node that speaks it: it answers with an alert
/// of TLS, whatever version it is.
pub(crate) fn alert(input: &[u8]) -> Option<&'static str> {
    input.starts_with(&[0x15, 0x03]).then_some(
        "the node speaks TLS: name the authority (Options::tls, --ca, or ?ca=FILE in the address)",
    )
}
