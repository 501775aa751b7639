//! A CA with the certificates that it signed, and engines and clients that use them.

use crate::support::Engine;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tempfile::TempDir;

/// A CA and the certificates that it signed, as files in its own directory.
pub(crate) struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// The validity of a certificate.
#[derive(Clone, Copy)]
pub(crate) enum Valid {
    Now,
    InThePast,
    /// For this long from now on.
    For(Duration),
}

impl Authority {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "a test's authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Self {
            directory,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Signs a certificate and writes it with its key: `NAME.pem`, `NAME.key`.
    pub(crate) fn sign(
        &self,
        name: &str,
        subject: &[(DnType, &str)],
        hosts: &[&str],
        valid: Valid,
    ) {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        match valid {
            Valid::Now => {}
            Valid::InThePast => {
                params.not_before = date_time_ymd(2001, 1, 1);
                params.not_after = date_time_ymd(2001, 1, 2);
            }
            Valid::For(time) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                params.not_after = date_time_ymd(1970, 1, 1) + now.unwrap() + time;
            }
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        // The key first: an engine that reads between the writes finds a mismatched pair, and keeps the previous one.
        replace(&self.path(&format!("{name}.key")), &key.serialize_pem());
        replace(&self.path(&format!("{name}.pem")), &certificate.pem());
    }

    /// The certificate of an engine on this machine.
    pub(crate) fn sign_server(&self, name: &str, valid: Valid) {
        let subject = [(DnType::CommonName, name)];
        self.sign(name, &subject, &["127.0.0.1", "localhost"], valid);
    }

    /// The flags of an engine that serves with a certificate of this CA.
    pub(crate) fn server_flags(&self, name: &str) -> Vec<String> {
        vec![
            "--tls-cert".to_owned(),
            self.text(&format!("{name}.pem")),
            "--tls-key".to_owned(),
            self.text(&format!("{name}.key")),
        ]
    }
}

/// Replaces a file atomically, as tools that renew certificates do.
pub(crate) fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

pub(crate) fn begin(flags: &[String], more: &[&str]) -> Engine {
    let flags: Vec<&str> = flags
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect();
    Engine::begin(&flags)
}

pub(crate) fn ureq_with(ca: &str) -> ureq::Agent {
    let pem = fs::read(ca).unwrap();
    let roots = [ureq::tls::Certificate::from_pem(&pem).unwrap()];
    let tls = ureq::tls::TlsConfig::builder()
        .root_certs(ureq::tls::RootCerts::new_with_certs(&roots))
        .build();
    let config = ureq::Agent::config_builder().proxy(None).tls_config(tls);
    config.build().into()
}
