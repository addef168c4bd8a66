//! TLS 1.3 for clients: what a listener asks of those who connect.
//!
//! ```text
//! Credentials (swappable) ──▶ rustls configuration, made once per exchange ──▶ handshakes
//! ClientAuth                      │
//!                                 └─ a client's certificate must be of the same CA as the node's
//! ```
//! No resumption and no early data, as on the link: what was exchanged counts from the next
//! handshake on, and nothing can be replayed. With a session come the rights of its other end.
//! Deliberately absent: what they mean for a request (`rights`).

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Credentials, Error, Grant, Material, provider};
use crate::rights::Rights;

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ClientAuth {
    /// Nobody is served without one.
    #[default]
    Required,
    /// One that is shown must be good; none need be shown.
    Optional,
    /// None is asked for.
    None,
}

impl ClientAuth {
    /// As it is written in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Optional => "optional",
            Self::None => "none",
        }
    }
}

impl fmt::Display for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text is none of the three words.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("must be required, optional or none")]
pub struct ClientAuthError;

impl FromStr for ClientAuth {
    type Err = ClientAuthError;

    fn from_str(text: &str) -> Result<Self, ClientAuthError> {
        let all = [Self::Required, Self::Optional, Self::None];
        all.into_iter().find(|auth| auth.name() == text).ok_or(ClientAuthError)
    }
}

/// Makes TLS sessions with clients. Cheap to clone: all clones are one.
#[derive(Clone)]
pub struct Acceptor {
    credentials: Credentials,
    auth: ClientAuth,
    /// Of whoever shows nothing.
    anonymous: Rights,
    current: Arc<ArcSwap<Current>>,
}

/// A configuration, and what it was made of.
struct Current {
    material: Arc<Material>,
    config: Arc<ServerConfig>,
}

impl Acceptor {
    /// Follows `credentials`, whenever they are exchanged. `anonymous`: what those may do who show
    /// no certificate.
    ///
    /// # Errors
    /// When the TLS library refuses the certificates.
    pub fn new(
        credentials: Credentials,
        auth: ClientAuth,
        anonymous: Vec<Grant>,
    ) -> Result<Self, Error> {
        let current = Arc::new(ArcSwap::from_pointee(Current::of(credentials.current(), auth)?));
        Ok(Self { credentials, auth, anonymous: Rights::anonymous(anonymous), current })
    }

    /// Whether clients must show a certificate.
    pub fn auth(&self) -> ClientAuth {
        self.auth
    }

    /// Makes a session over `stream`. May take for ever: the caller has a deadline.
    pub(crate) async fn accept<S>(&self, stream: S) -> io::Result<(TlsStream<S>, Rights)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = TlsAcceptor::from(self.config()).accept(stream).await?;
        let rights = match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
            Some(shown) => {
                let cluster = self.credentials.current().name().map(|name| name.cluster);
                Rights::of(shown, cluster)
            }
            None => self.anonymous.clone(),
        };
        Ok((stream, rights))
    }

    /// Of what is in use now. Certificates that cannot be used leave what was used before.
    fn config(&self) -> Arc<ServerConfig> {
        let (current, material) = (self.current.load(), self.credentials.current());
        if Arc::ptr_eq(&current.material, &material) {
            return Arc::clone(&current.config);
        }
        match Current::of(Arc::clone(&material), self.auth) {
            Ok(new) => {
                let config = Arc::clone(&new.config);
                self.current.store(Arc::new(new));
                config
            }
            Err(error) => {
                tracing::error!(%error, "new certificates cannot be used for clients");
                let config = Arc::clone(&current.config);
                // Said once for each exchange.
                let kept = Current { material, config: Arc::clone(&config) };
                self.current.store(Arc::new(kept));
                config
            }
        }
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("auth", &self.auth).finish_non_exhaustive()
    }
}

impl Current {
    fn of(material: Arc<Material>, auth: ClientAuth) -> Result<Self, Error> {
        let refused = |error: rustls::Error| Error::Refused(error.to_string());
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(refused)?;
        let builder = if auth == ClientAuth::None {
            builder.with_no_client_auth()
        } else {
            let roots = Arc::new(material.roots()?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .with_crls(material.revoked.iter().cloned())
                .only_check_end_entity_revocation();
            let verifier = match auth {
                ClientAuth::Optional => verifier.allow_unauthenticated(),
                _ => verifier,
            };
            let verifier = verifier.build().map_err(|error| Error::Refused(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        };
        let key = SingleCertAndKey::from(Arc::clone(&material.key));
        let mut config = builder.with_cert_resolver(Arc::new(key));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { material, config: Arc::new(config) })
    }
}
