//! Makes certificates: a cluster's own CA, and what it signs for nodes and clients.
//!
//! Keys are ECDSA over P-256: every TLS stack knows them, signing one takes microseconds. A
//! certificate of a node serves both ends, because either node may dial.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use celeriant_schema::audit::hex::to_hex;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use webpki::EndEntityCert;

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

/// What an authority calls a certificate: hex digits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// Of a certificate in PEM form.
    ///
    /// # Errors
    /// When it is none.
    pub fn of(certificate: &str) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Content {
            path: "the certificate".into(),
            what: "certificate",
            reason,
        };
        let der = CertificateDer::from_pem_slice(certificate.as_bytes());
        let der = der.map_err(|error| wrong(error.to_string()))?;
        let parsed = EndEntityCert::try_from(&der).map_err(|error| wrong(error.to_string()))?;
        Ok(Self(parsed.serial().to_vec()))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl FromStr for Serial {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits =
            |at: usize| text.get(at..at + 2).and_then(|it| u8::from_str_radix(it, 16).ok());
        let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(digits).collect();
        let reason = "serial numbers are hex digits".to_owned();
        bytes.filter(|bytes| !bytes.is_empty()).map(Self).ok_or(Error::Making(reason))
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

impl Authority {
    /// Signs a list of all that it has ever revoked, in PEM form. Each is `number`ed higher than
    /// the one before.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn revoke(
        &self,
        serials: &[Serial],
        number: u64,
        validity: Validity,
    ) -> Result<String, Error> {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial.0),
            revocation_time: validity.from.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: validity.from.into(),
            next_update: (validity.from + validity.lasts).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).and_then(|list| list.pem()).map_err(making)
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
