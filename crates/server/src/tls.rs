//! TLS: reads certificates and keys from PEM files, builds the rustls configuration, and extracts the name in a
//! client's certificate.
//!
//! The only crypto provider is ring, which ureq depends on: two providers in one process panic at run time.

use crate::access::{role::Role, tokens::check_name};
use jiff::Timestamp;
use std::{sync::Arc, time::SystemTime};
use tokio_rustls::rustls::{
    self, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{
        NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
};
use tracing::{info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Prefix of an organizational unit in a client's certificate that names a role.
pub(crate) const ROLE_UNIT: &str = "workspace-engine:";

/// Why certificates or keys cannot be used. No variant contains key material.
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

/// The name in a verified client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateName {
    /// Its common name.
    pub(crate) name: String,
    /// The role in its organizational unit, such as `workspace-engine:viewer`.
    pub(crate) role: Option<Role>,
}

/// A server's TLS configuration.
pub(crate) struct ServerTls {
    pub(crate) config: Arc<ServerConfig>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl ServerTls {
    /// Whether a client certificate would be accepted now.
    pub(crate) fn accepts(&self, certificate: &ClientCertificate) -> bool {
        let Some((end, intermediates)) = certificate.chain.split_first() else {
            return false;
        };
        // Without a client CA no certificate is requested.
        self.clients.offer_client_auth()
            && self
                .clients
                .verify_client_cert(end, intermediates, UnixTime::now())
                .is_ok()
    }
}

/// The certificate that a client presented and the handshake verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    pub(crate) name: CertificateName,
    /// In seconds since the Unix epoch.
    not_after: i64,
    /// The certificate, followed by the intermediate certificates that the client sent.
    chain: Vec<CertificateDer<'static>>,
}

impl ClientCertificate {
    /// `None` where it contains no caller's name.
    pub(crate) fn of_chain(chain: &[CertificateDer<'static>]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
        Some(Self {
            name: name_of(&certificate)?,
            not_after: certificate.validity().not_after.timestamp(),
            chain: chain.to_vec(),
        })
    }

    /// A verified certificate that never expires.
    #[cfg(test)]
    pub(crate) fn for_tests(name: CertificateName) -> Self {
        Self {
            name,
            not_after: i64::MAX,
            chain: Vec::new(),
        }
    }

    pub(crate) fn has_expired(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.is_ok_and(|now| i64::try_from(now.as_secs()).is_ok_and(|now| now > self.not_after))
    }
}

/// Builds a server's TLS configuration from the contents of its certificate, its key, and optionally the CA of
/// client certificates.
///
/// # Errors
/// [`TlsError`] names the file that cannot be used.
pub(crate) fn server_config(contents: &[Vec<u8>]) -> Result<ServerTls, TlsError> {
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
        .with_client_cert_verifier(Arc::clone(&verifier))
        .with_single_cert(chain, key)
        .map_err(TlsError::Unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if client_ca.is_some() {
        // A resumed session would rely on a certificate that may have expired meanwhile.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(ServerTls {
        config: Arc::new(config),
        clients: verifier,
    })
}

/// The certificates of a PEM file; `what` is its name in errors.
///
/// # Errors
/// If it contains none.
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
/// If it contains none.
pub(crate) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    let mut keys = PrivateKeyDer::pem_slice_iter(pem);
    match keys.next() {
        Some(Ok(key)) => Ok(key),
        Some(Err(_)) => Err(TlsError::Pem("key")),
        None => Err(TlsError::NoKey),
    }
}

/// Checks that a key belongs to a certificate.
///
/// # Errors
/// If it does not, or if either cannot be used.
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

/// The CA certificates in a PEM file; `what` is its name in errors.
///
/// # Errors
/// If it contains none, or one that cannot be used.
pub(crate) fn roots(pem: &[u8], what: &'static str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, what)? {
        roots.add(certificate).map_err(TlsError::Authority)?;
    }
    Ok(roots)
}

/// The name in a verified certificate; `None` unless it has exactly one common name that is valid for a caller.
fn name_of(certificate: &X509Certificate<'_>) -> Option<CertificateName> {
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

/// Logs the expiry of a certificate: clients cannot connect to an engine whose certificate has expired.
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
