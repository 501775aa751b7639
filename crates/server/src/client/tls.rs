//! TLS of the client: which CAs it trusts, its certificate, and the meaning of a failed handshake for the operator.

use super::{ClientError, Endpoint};
use crate::tls;
use std::{fmt::Display, fs, path::Path};
use tokio_rustls::rustls::{self, AlertDescription, CertificateError, pki_types::CertificateDer};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

/// The TLS configuration for an endpoint.
///
/// # Errors
/// [`ClientError::File`] where a file cannot be used.
pub(super) fn config(endpoint: &Endpoint<'_>) -> Result<TlsConfig, ClientError> {
    let mut config = TlsConfig::builder();
    if let Some(path) = endpoint.ca_file {
        let pem = read(path)?;
        // ureq silently drops certificates that it cannot use, so they are checked here.
        tls::roots(&pem, "CA").map_err(|error| unusable(path, &error))?;
        let certificates = tls::certificates(&pem, "CA").map_err(|error| unusable(path, &error))?;
        config = config.root_certs(RootCerts::new_with_certs(&owned(&certificates)));
    }
    if let Some((certificate, key)) = endpoint.identity {
        let chain = tls::certificates(&read(certificate)?, "certificate")
            .map_err(|error| unusable(certificate, &error))?;
        let pem = read(key)?;
        let private = tls::private_key(&pem).map_err(|error| unusable(key, &error))?;
        // ureq panics if the key does not belong to the certificate.
        tls::check_pair(&chain, &private).map_err(|error| unusable(key, &error))?;
        let private = PrivateKey::from_pem(&pem).map_err(|error| unusable(key, &error))?;
        let identity = ClientCert::new_with_certs(&owned(&chain), private);
        config = config.client_cert(Some(identity));
    }
    Ok(config.build())
}

fn read(path: &Path) -> Result<Vec<u8>, ClientError> {
    fs::read(path).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &impl Display) -> ClientError {
    ClientError::File {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

fn owned(certificates: &[CertificateDer<'static>]) -> Vec<Certificate<'static>> {
    certificates
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect()
}

/// What a failed handshake means, and what to do; `None` for other failures.
pub(super) fn reason(error: &ureq::Error) -> Option<String> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library's other errors are not of TLS"
    )]
    let failure = match error {
        ureq::Error::Rustls(failure) => failure,
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref::<rustls::Error>()?,
        _ => return None,
    };
    Some(explain(failure))
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's other errors speak for themselves"
)]
fn explain(failure: &rustls::Error) -> String {
    match failure {
        rustls::Error::InvalidCertificate(error) => match error {
            // A CA of the same name with another key is reported as a bad signature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => "its certificate is not signed by an authority that is trusted here: --ca-file FILE names its authority".to_owned(),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!("its certificate has expired ({error}): the engine needs a new one, which it takes over without a restart")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("its certificate is for another name ({error}): --url must name the engine as its certificate does")
            }
            error => format!("its certificate cannot be trusted: {error}"),
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::DecryptError => format!(
                "it refuses the certificate of this client ({alert:?}): --client-cert FILE must be valid now, and signed by the engine's --tls-client-ca"
            ),
            alert => format!("it ended the handshake: {alert:?}"),
        },
        rustls::Error::InvalidMessage(_) => {
            "it does not speak TLS: is the URL one of http?".to_owned()
        }
        failure => failure.to_string(),
    }
}
