//! Certificates and keys: read from PEM files, made into what rustls needs, and the name in a client's certificate.
//!
//! The only crypto provider is ring, which ureq brings along: two in one process panic at run time.

use crate::access::{Role, check_name};
use jiff::Timestamp;
use std::sync::Arc;
use tokio_rustls::rustls::{
    self, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use tracing::{info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What the organizational unit in a client's certificate begins with where it names a role.
pub(crate) const ROLE_UNIT: &str = "workspace-engine:";

/// Why certificates or keys cannot be used. No variant holds what a file of keys contains.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("the {0} file is not PEM")]
    Pem(&'static str),
    #[error("the {0} file holds no certificate")]
    NoCertificate(&'static str),
    #[error("the key file holds no private key")]
    NoKey,
    #[error("the key is not that of the certificate")]
    KeyOfAnother,
    #[error("the certificate or its key cannot be used: {0}")]
    Unusable(rustls::Error),
    #[error("a certificate of the CA file cannot be used: {0}")]
    Authority(rustls::Error),
    #[error("the certificates of the client CA cannot be used: {0}")]
    Verifier(#[from] VerifierBuilderError),
}

/// The name that a client's certificate proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateName {
    /// Its common name.
    pub(crate) name: String,
    /// The role that its organizational unit names, such as in `workspace-engine:viewer`.
    pub(crate) role: Option<Role>,
}

/// What a server serves TLS with, from the contents of its certificate, its key, and the CA of its clients where
/// they may show certificates.
///
/// # Errors
/// [`TlsError`] says which file cannot be used.
pub(crate) fn server_config(contents: &[Vec<u8>]) -> Result<Arc<ServerConfig>, TlsError> {
    let (certificate, key, client_ca) = match contents {
        [certificate, key] => (certificate, key, None),
        [certificate, key, client_ca, ..] => (certificate, key, Some(client_ca)),
        [] | [_] => return Err(TlsError::NoKey),
    };
    let chain = certificates(certificate, "certificate")?;
    log_validity(&chain);
    let key = private_key(key)?;
    check_pair(&chain, &key)?;
    let provider = Arc::new(ring::default_provider());
    let verifier = match client_ca {
        None => WebPkiClientVerifier::no_client_auth(),
        // A client without a certificate may have a token, or be a probe.
        Some(authorities) => {
            let roots = Arc::new(roots(authorities, "client CA")?);
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .allow_unauthenticated()
                .build()?
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(TlsError::Unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if client_ca.is_some() {
        // A resumed session would be one of a certificate that may have expired meanwhile.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

/// The certificates of a PEM file; `what` is its name in errors.
///
/// # Errors
/// Where it holds none.
pub(crate) fn certificates(
    pem: &[u8],
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|_| TlsError::Pem(what))?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate(what));
    }
    Ok(found)
}

/// The first private key of a PEM file.
///
/// # Errors
/// Where it holds none.
pub(crate) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    let mut keys = PrivateKeyDer::pem_slice_iter(pem);
    match keys.next() {
        Some(Ok(key)) => Ok(key),
        Some(Err(_)) => Err(TlsError::Pem("key")),
        None => Err(TlsError::NoKey),
    }
}

/// Checks that a key is that of a certificate.
///
/// # Errors
/// Where it is not, or where either cannot be used.
pub(crate) fn check_pair(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<(), TlsError> {
    let provider: CryptoProvider = ring::default_provider();
    match CertifiedKey::from_der(chain.to_vec(), key.clone_key(), &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::KeyOfAnother),
        Err(error) => Err(TlsError::Unusable(error)),
    }
}

/// The authorities of a PEM file; `what` is its name in errors.
///
/// # Errors
/// Where it holds none, or one that cannot be used.
pub(crate) fn roots(pem: &[u8], what: &'static str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, what)? {
        roots.add(certificate).map_err(TlsError::Authority)?;
    }
    Ok(roots)
}

/// The name in a certificate that was verified; none where it has no common name that is one of a caller, or several.
pub(crate) fn name_of(certificate: &CertificateDer<'_>) -> Option<CertificateName> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let mut names = subject.iter_common_name();
    let (name, None) = (names.next()?, names.next()) else {
        return None;
    };
    let role = subject
        .iter_organizational_unit()
        .find_map(|unit| unit.as_str().ok()?.strip_prefix(ROLE_UNIT)?.parse().ok());
    Some(CertificateName {
        name: check_name(name.as_str().ok()?).ok()?.to_owned(),
        role,
    })
}

/// Logs until when a certificate is valid: an engine whose own has expired is reached by no client.
fn log_validity(chain: &[CertificateDer<'static>]) {
    let parsed = chain
        .first()
        .and_then(|certificate| X509Certificate::from_der(certificate).ok());
    let Some((_, certificate)) = parsed else {
        return;
    };
    let validity = certificate.validity();
    let until = Timestamp::from_second(validity.not_after.timestamp()).unwrap_or(Timestamp::MAX);
    let subject = certificate.subject();
    if validity.is_valid() {
        info!(%subject, %until, "TLS certificate");
    } else {
        warn!(%subject, %until, "the TLS certificate is not valid now: clients will refuse it");
    }
}
