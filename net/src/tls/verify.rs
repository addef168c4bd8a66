//! Checks a peer's certificate: CA, times, and the name that it carries.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use celeriant_schema::{ClusterId, StoreId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
};
use webpki::{CertRevocationList, EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::{Material, Name, Untrusted, revoked};

/// Whom a session may be with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// Which cluster.
    pub(crate) cluster: ClusterId,
    /// Anyone but this one.
    pub(crate) own: StoreId,
}

/// What came of checking a certificate, for the session that it was checked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict(Arc<Mutex<Option<Result<Name, Untrusted>>>>);

impl Verdict {
    /// `None`: the peer has not come that far.
    pub(crate) fn taken(&self) -> Option<Result<Name, Untrusted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Checks the certificate of one session's peer, whichever side that is.
#[derive(Debug)]
pub(crate) struct Verifier {
    anchors: Vec<TrustAnchor<'static>>,
    revoked: Vec<CertRevocationList<'static>>,
    provider: Arc<CryptoProvider>,
    expected: Expected,
    verdict: Verdict,
}

impl Verifier {
    pub(crate) fn new(
        material: &Material,
        provider: Arc<CryptoProvider>,
        expected: Expected,
        verdict: Verdict,
    ) -> Result<Self, super::Error> {
        let anchors = material.authorities.iter().map(|certificate| {
            anchor_from_trusted_cert(certificate)
                .map(|anchor| anchor.to_owned())
                .map_err(|error| super::Error::Refused(format!("CA certificate: {error}")))
        });
        let anchors = anchors.collect::<Result<_, _>>()?;
        let revoked = revoked::parsed(&material.revoked)?;
        Ok(Self { anchors, revoked, provider, expected, verdict })
    }

    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        let result = self.judge(certificate, between, now, usage);
        let failed = result.as_ref().err().map(alert_of);
        *self.verdict.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        failed.map_or(Ok(()), |error| Err(Error::InvalidCertificate(error)))
    }

    fn judge(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<Name, Untrusted> {
        let parsed = EndEntityCert::try_from(certificate).map_err(untrusted)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let lists: Vec<&CertRevocationList<'_>> = self.revoked.iter().collect();
        let revoked = revoked::options(&lists);
        parsed
            .verify_for_usage(algorithms, &self.anchors, between, now, usage, revoked, None)
            .map_err(untrusted)?;
        let named = names_of(certificate).collect::<Vec<_>>();
        let ours = named.iter().find(|name| name.cluster == self.expected.cluster);
        match (ours, named.first()) {
            (Some(name), _) if name.store == self.expected.own => Err(Untrusted::Own),
            (Some(name), _) => Ok(*name),
            (None, Some(other)) => Err(Untrusted::Cluster(other.cluster)),
            (None, None) => Err(Untrusted::Unnamed),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }
}

impl Material {
    /// What a peer that trusts the same CA says of this node's own certificate at `now`.
    ///
    /// # Errors
    /// Why it would not be trusted.
    pub fn judge(&self, now: SystemTime) -> Result<Name, Untrusted> {
        self.judge_with(&self.own_verifier()?, now)
    }

    /// What a peer judges by, made once for however many times.
    fn own_verifier(&self) -> Result<Verifier, Untrusted> {
        let cluster = self.name().ok_or(Untrusted::Unnamed)?.cluster;
        let expected = Expected { cluster, own: StoreId::new(0) };
        let unusable = |error: super::Error| Untrusted::Unusable(error.to_string());
        Verifier::new(self, super::provider(), expected, Verdict::default()).map_err(unusable)
    }

    fn judge_with(&self, verifier: &Verifier, now: SystemTime) -> Result<Name, Untrusted> {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (own, between) = self.key.cert.split_first().ok_or(Untrusted::Unnamed)?;
        verifier.judge(own, between, UnixTime::since_unix_epoch(since), KeyUsage::client_auth())
    }
}

/// Longest that is looked ahead for the end of a certificate's time.
const AHEAD_MAX: Duration = Duration::from_secs(30 * 366 * 86_400);
/// How exactly it is found.
const EXACT: Duration = Duration::from_secs(60);

impl Material {
    /// How long, from `now` on, this node's own certificate is good, to the minute; none when it is
    /// over. At most some thirty years. Found by asking for ever nearer times: what counts is what
    /// a peer would say.
    pub fn good_for(&self, now: SystemTime) -> Duration {
        let verifier = self.own_verifier().ok();
        let is_over = |ahead| {
            let judged = verifier.as_ref().map(|verifier| self.judge_with(verifier, now + ahead));
            matches!(judged, Some(Err(Untrusted::Expired)))
        };
        let (mut good, mut over) = (Duration::ZERO, AHEAD_MAX);
        if is_over(good) {
            return good;
        }
        while over - good > EXACT {
            let middle = good + (over - good) / 2;
            if is_over(middle) { over = middle } else { good = middle }
        }
        good
    }
}

/// Names of stores that a certificate carries.
pub(crate) fn names_of(certificate: &CertificateDer<'_>) -> std::vec::IntoIter<Name> {
    let parsed = EndEntityCert::try_from(certificate);
    let names = parsed.map(|parsed| {
        parsed.valid_uri_names().filter_map(|uri| uri.parse().ok()).collect::<Vec<Name>>()
    });
    names.unwrap_or_default().into_iter()
}

fn untrusted(error: webpki::Error) -> Untrusted {
    match error {
        // A CA that calls itself as ours does is found out by its signature.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            Untrusted::Authority
        }
        webpki::Error::CertExpired { .. } => Untrusted::Expired,
        webpki::Error::CertNotValidYet { .. } => Untrusted::NotYetValid,
        webpki::Error::CertRevoked => Untrusted::Revoked,
        other => Untrusted::Unusable(other.to_string()),
    }
}

/// What the peer is told: the alert that comes closest.
fn alert_of(reason: &Untrusted) -> CertificateError {
    match reason {
        Untrusted::Authority => CertificateError::UnknownIssuer,
        Untrusted::Expired => CertificateError::Expired,
        Untrusted::Revoked => CertificateError::Revoked,
        Untrusted::NotYetValid => CertificateError::NotValidYet,
        Untrusted::Unusable(_) => CertificateError::BadEncoding,
        _ => CertificateError::ApplicationVerificationFailure,
    }
}

fn no_tls12() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, now, KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
