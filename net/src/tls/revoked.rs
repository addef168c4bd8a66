//! Revocation lists: read from PEM, and as the check of a certificate wants them.
//!
//! Where there is a list, a certificate whose authority has none in it is refused: a file that was
//! exchanged for the wrong one lets nobody in. A list that is older than it says still counts.

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use webpki::{
    CertRevocationList, OwnedCertRevocationList, RevocationCheckDepth, RevocationOptions,
    RevocationOptionsBuilder,
};

use super::Error;

/// All lists in a file.
pub(super) fn lists(
    pem: &[u8],
    path: &str,
) -> Result<Vec<CertificateRevocationListDer<'static>>, Error> {
    let content =
        |reason: String| Error::Content { path: path.to_owned(), what: "revocation list", reason };
    let lists = CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let lists = lists.map_err(|error| content(error.to_string()))?;
    if lists.is_empty() {
        return Err(content("there is none in it".to_owned()));
    }
    parsed(&lists).map_err(|error| content(error.to_string()))?;
    Ok(lists)
}

/// The same, understood.
pub(super) fn parsed(
    lists: &[CertificateRevocationListDer<'static>],
) -> Result<Vec<CertRevocationList<'static>>, Error> {
    let parse = |list: &CertificateRevocationListDer<'_>| {
        OwnedCertRevocationList::from_der(list)
            .map(CertRevocationList::from)
            .map_err(|error| Error::Refused(format!("revocation list: {error}")))
    };
    lists.iter().map(parse).collect()
}

/// How `lists` are asked; `None`: there are none.
pub(super) fn options<'a>(
    lists: &'a [&'a CertRevocationList<'a>],
) -> Option<RevocationOptions<'a>> {
    let builder = RevocationOptionsBuilder::new(lists).ok()?;
    Some(builder.with_depth(RevocationCheckDepth::EndEntity).build())
}
