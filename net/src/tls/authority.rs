//! Makes certificates: a cluster's own CA, and what it signs for nodes and clients.
//!
//! Keys are ECDSA over P-256: every TLS stack knows them, signing one takes microseconds. A
//! certificate of a node serves both ends, because either node may dial.

use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

use super::{Error, Name};

/// From when and for how long a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// From; take an hour off for clocks that are behind.
    pub from: SystemTime,
    /// For so long.
    pub lasts: Duration,
}

/// Whom a certificate is for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Subject {
    /// What people call it: the common name.
    pub name: String,
    /// The store, for a node.
    pub node: Option<Name>,
    /// Host names and addresses by which clients reach it.
    pub hosts: Vec<String>,
    /// More names, as URIs: a client's rights.
    pub uris: Vec<String>,
}

/// A certificate and its key, both in PEM form.
#[derive(Clone, Eq, PartialEq)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key: readable by its owner only.
    pub key: String,
}

/// Keys don't belong into logs.
impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A CA with its key: signs.
pub struct Authority {
    issued: Issued,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new CA called `name`.
    ///
    /// # Errors
    /// When there is no randomness for a key, or the name cannot be written in a certificate.
    pub fn new(name: &str, validity: Validity) -> Result<Self, Error> {
        let key = new_key()?;
        let mut params = params(name, validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(making)?.pem();
        let issued = Issued { certificate, key: key.serialize_pem() };
        Ok(Self { issued, issuer: Issuer::new(params, key) })
    }

    /// A CA that was made earlier, from its certificate and its key in PEM form.
    ///
    /// # Errors
    /// When they are not that.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, Error> {
        let content = |path: &str, what, error: rcgen::Error| Error::Content {
            path: path.into(),
            what,
            reason: error.to_string(),
        };
        let pair = KeyPair::from_pem(key).map_err(|error| content("the CA's key", "key", error))?;
        let issuer = Issuer::from_ca_cert_pem(certificate, pair)
            .map_err(|error| content("the CA", "certificate", error))?;
        let issued = Issued { certificate: certificate.into(), key: key.into() };
        Ok(Self { issued, issuer })
    }

    /// Its own certificate and key: `ca.crt` and `ca.key`.
    pub fn issued(&self) -> &Issued {
        &self.issued
    }

    /// Makes a key and signs a certificate for it.
    ///
    /// # Errors
    /// When a name cannot be written in a certificate, or there is no randomness for a key.
    pub fn issue(&self, subject: &Subject, validity: Validity) -> Result<Issued, Error> {
        let key = new_key()?;
        let mut params = params(&subject.name, validity);
        let hosts = CertificateParams::new(subject.hosts.clone()).map_err(making)?;
        params.subject_alt_names = hosts.subject_alt_names;
        let node = subject.node.map(|name| name.to_string());
        for uri in node.iter().chain(&subject.uris) {
            let uri = Ia5String::try_from(uri.as_str()).map_err(making)?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if subject.node.is_some() || !subject.hosts.is_empty() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(making)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("issued", &self.issued).finish_non_exhaustive()
    }
}

fn new_key() -> Result<KeyPair, Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(making)
}

fn params(name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = validity.from.into();
    params.not_after = (validity.from + validity.lasts).into();
    params
}

fn making(error: rcgen::Error) -> Error {
    Error::Making(error.to_string())
}
