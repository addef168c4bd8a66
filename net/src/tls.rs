//! Certificates: who may talk to whom, loaded from files and exchangeable while running.
//!
//! ```text
//! Files ──load──▶ Material ──▶ Credentials (swappable) ──▶ one rustls configuration per session
//! Authority       makes the CA and certificates for nodes: `celeriant cert`, `demo`, tests
//! verify          the other node: the cluster's CA, the times, and the name that its certificate
//!                 carries, celeriant://<cluster>/<store>
//! clients         sessions with clients: certificates required, optional or none
//! grant           what a client's certificate says that it may do
//! revoked         what the CA has taken back: of clients and of nodes
//! ```
//! A cluster has a CA of its own; whatever it signed and that names the cluster is of the cluster.
//! A name is a URI in the certificate, because hosts and addresses change and stores don't. Every
//! session is checked anew: no resumption, no early data; so a certificate that is exchanged counts
//! from the next session on. TLS 1.3 only, with the one crypto provider of the workspace, always
//! named, never the process' default.
//!
//! Deliberately absent: public CAs, host names as proof of a node to another, fetching revocation
//! lists (they are files, like the rest), enforcement of grants.

mod authority;
mod clients;
mod files;
mod grant;
mod revoked;
mod verify;

#[cfg(test)]
mod clients_test;
#[cfg(test)]
mod tls_test;

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use celeriant_schema::{ClusterId, StoreId};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

pub use authority::{Authority, Issued, Serial, Subject, Validity};
pub use clients::{Acceptor, ClientAuth, ClientAuthError};
pub use files::Files;
pub(crate) use grant::client_of_uri;
pub use grant::{Grant, GrantError, Operation, client_uri};
pub(crate) use verify::{Expected, Verdict, Verifier};

use files::Watched;

/// Why certificates cannot be used. The message says which file and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} holds no {what} in PEM form: {reason}")]
    Content {
        /// Which file, or which argument.
        path: String,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key are not of each other.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Making(String),
    /// The TLS library refuses what it was given.
    #[error("TLS: {0}")]
    Refused(String),
}

/// What makes a certificate of a peer worthless here.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Untrusted {
    /// Not signed by the cluster's CA.
    #[error("its certificate is not of this cluster's CA")]
    Authority,
    /// Its time is over.
    #[error("its certificate has expired")]
    Expired,
    /// The CA has taken it back.
    #[error("its certificate has been revoked")]
    Revoked,
    /// Its time has not come; or a clock is wrong.
    #[error("its certificate is not valid yet")]
    NotYetValid,
    /// It names no store of a Celeriant cluster.
    #[error("its certificate carries no name of the form celeriant://<cluster>/<store>")]
    Unnamed,
    /// It names another cluster.
    #[error("its certificate is of cluster {0}")]
    Cluster(ClusterId),
    /// It names this very store: a copied data directory, or a node that talks to itself.
    #[error("its certificate names this node's own store")]
    Own,
    /// Something else is wrong with it.
    #[error("its certificate cannot be used: {0}")]
    Unusable(String),
}

/// What a certificate proves: membership in a cluster, as one store.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Which data directory.
    pub store: StoreId,
}

const SCHEME: &str = "celeriant://";

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.cluster, self.store)
    }
}

/// The text is not `celeriant://<cluster>/<store>`, both as UUIDs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("must have the form celeriant://<cluster>/<store>, both as UUIDs")]
pub struct NameError;

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (cluster, store) =
            text.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/')).ok_or(NameError)?;
        let cluster = cluster.parse().map_err(|_| NameError)?;
        Ok(Self { cluster, store: store.parse().map_err(|_| NameError)? })
    }
}

/// Certificates and key, checked as far as one can without a peer.
pub struct Material {
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) revoked: Vec<CertificateRevocationListDer<'static>>,
}

impl Material {
    /// Reads the files.
    ///
    /// # Errors
    /// When one is missing, holds something else, or key and certificate are not of each other.
    pub fn load(files: &Files) -> Result<Self, Error> {
        let read = |path: &Path| {
            let of_file = |source| Error::File { path: path.display().to_string(), source };
            std::fs::read(path).map_err(of_file)
        };
        let authority = read(&files.authority)?;
        let (certificate, key) = (read(&files.certificate)?, read(&files.key)?);
        let names = [&files.authority, &files.certificate, &files.key];
        let names = names.map(|path| path.display().to_string());
        let mut material = Self::of_pem(&authority, &certificate, &key, names)?;
        if let Some(path) = &files.revoked {
            material.revoked = revoked::lists(&read(path)?, &path.display().to_string())?;
        }
        Ok(material)
    }

    /// Takes the same from memory: what [`Authority::issue`] made.
    ///
    /// # Errors
    /// As [`Material::load`], but for files that cannot be read.
    pub fn from_pem(authority: &str, certificate: &str, key: &str) -> Result<Self, Error> {
        let names = ["the CA", "the certificate", "the key"].map(String::from);
        Self::of_pem(authority.as_bytes(), certificate.as_bytes(), key.as_bytes(), names)
    }

    fn of_pem(
        authority: &[u8],
        certificate: &[u8],
        key: &[u8],
        [authority_path, certificate_path, key_path]: [String; 3],
    ) -> Result<Self, Error> {
        let authorities = certificates(authority, authority_path)?;
        let chain = certificates(certificate, certificate_path)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| Error::Content {
            path: key_path,
            what: "private key",
            reason: error.to_string(),
        })?;
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Error::KeyMismatch,
            other => Error::Refused(other.to_string()),
        })?;
        Ok(Self { authorities, key: Arc::new(key), revoked: Vec::new() })
    }

    /// Those who may have signed what a client shows.
    fn roots(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in &self.authorities {
            roots
                .add(certificate.clone())
                .map_err(|error| Error::Refused(format!("CA certificate: {error}")))?;
        }
        Ok(roots)
    }

    /// What the node's own certificate says; `None` when it carries no such name, as those of
    /// clients do.
    pub fn name(&self) -> Option<Name> {
        let certificate = self.key.cert.first()?;
        verify::names_of(certificate).next()
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name().map(|name| name.to_string());
        f.debug_struct("Material").field("name", &name).finish_non_exhaustive()
    }
}

/// A node's certificates, exchangeable while it runs. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct Credentials {
    files: Option<Arc<Watched>>,
    current: Arc<ArcSwap<Material>>,
}

impl Credentials {
    /// From files; [`Credentials::reload`] reads them again.
    ///
    /// # Errors
    /// As [`Material::load`].
    pub fn load(files: Files) -> Result<Self, Error> {
        let files = Watched::new(files);
        let material = Material::load(files.files())?;
        Ok(Self { files: Some(Arc::new(files)), ..Self::of(material) })
    }

    /// From memory.
    pub fn of(material: Material) -> Self {
        Self { files: None, current: Arc::new(ArcSwap::from_pointee(material)) }
    }

    /// Reads the files again. Sessions that are up stay; those from here on use what is new.
    ///
    /// # Errors
    /// As [`Material::load`]; then everything stays as it was.
    pub fn reload(&self) -> Result<(), Error> {
        if let Some(files) = &self.files {
            files.is_changed();
            self.replace(Material::load(files.files())?);
        }
        Ok(())
    }

    /// Reads the files again if one of them is another than at the last look; whether it did.
    ///
    /// # Errors
    /// As [`Material::load`], once for each change: files that are exchanged one by one do not fit
    /// together for a moment.
    pub fn reload_if_changed(&self) -> Result<bool, Error> {
        match &self.files {
            Some(files) if files.is_changed() => self.reload().map(|()| true),
            _ => Ok(false),
        }
    }

    /// Exchanges what is in use.
    pub fn replace(&self, material: Material) {
        self.current.store(Arc::new(material));
    }

    /// What is in use now.
    pub fn current(&self) -> Arc<Material> {
        self.current.load_full()
    }
}

/// The one crypto provider.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn certificates(pem: &[u8], path: String) -> Result<Vec<CertificateDer<'static>>, Error> {
    let what = "certificate";
    let content = |path, reason| Error::Content { path, what, reason };
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if found.is_empty() => Err(content(path, "there is none in it".into())),
        Ok(found) => Ok(found),
        Err(error) => Err(content(path, error.to_string())),
    }
}
