//! Access control as the operator configured it.

use super::{
    origin::{HostName, OriginPolicy, OwnHosts, is_loopback_address},
    role::Role,
};
use std::{net::IpAddr, path::PathBuf};

/// Access control as the operator configured it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccessSettings {
    /// The role of a caller without a token or a certificate; `None` where it depends on the address.
    pub(crate) anonymous: Option<Role>,
    pub(crate) tokens: Option<PathBuf>,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) allowed_hosts: Vec<HostName>,
}

/// The files that TLS is served with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) client_ca: Option<PathBuf>,
}

/// The settings are valid each, but cannot be used together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not a loopback address, and no caller would have any right: give --tokens FILE (`workspace-engine token` makes tokens), --tls-client-ca FILE, or --anonymous ROLE for callers without either"
)]
pub(crate) struct NoCallers;

impl AccessSettings {
    /// Checks that some caller can have a right on this address, or that the operator set `--anonymous`.
    ///
    /// # Errors
    /// [`NoCallers`] where no caller can have a right.
    pub(crate) fn check(&self, address: IpAddr) -> Result<(), NoCallers> {
        let client_ca = self.tls.as_ref().and_then(|tls| tls.client_ca.as_ref());
        let has_callers = self.tokens.is_some() || client_ca.is_some() || self.anonymous.is_some();
        if has_callers || is_loopback_address(address) {
            Ok(())
        } else {
            Err(NoCallers)
        }
    }

    /// The role of a caller without a token or a certificate, when listening on `address`.
    pub(crate) fn anonymous_on(&self, address: IpAddr) -> Role {
        self.anonymous.unwrap_or(if is_loopback_address(address) {
            Role::Admin
        } else {
            Role::None
        })
    }

    /// The hosts and origins that requests may name, when listening on `address`.
    pub(crate) fn origins_on(&self, address: IpAddr) -> OriginPolicy {
        let own = if is_loopback_address(address) {
            OwnHosts::Loopback
        } else if self.allowed_hosts.is_empty() && self.anonymous_on(address) == Role::None {
            OwnHosts::All
        } else {
            OwnHosts::Addresses
        };
        OriginPolicy {
            own,
            allowed: self.allowed_hosts.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_callers_only_loopback_is_listened_on() {
        let none = AccessSettings {
            anonymous: None,
            tokens: None,
            tls: None,
            allowed_hosts: Vec::new(),
        };
        let tls = |client_ca: Option<&str>| {
            Some(TlsFiles {
                certificate: "cert.pem".into(),
                key: "key.pem".into(),
                client_ca: client_ca.map(PathBuf::from),
            })
        };
        for (address, settings, expected, role) in [
            ("127.0.0.1", none.clone(), Ok(()), Role::Admin),
            ("127.1.2.3", none.clone(), Ok(()), Role::Admin),
            ("::1", none.clone(), Ok(()), Role::Admin),
            ("::ffff:127.0.0.1", none.clone(), Ok(()), Role::Admin),
            ("0.0.0.0", none.clone(), Err(NoCallers), Role::None),
            ("::", none.clone(), Err(NoCallers), Role::None),
            ("10.0.0.1", none.clone(), Err(NoCallers), Role::None),
            (
                "0.0.0.0",
                AccessSettings {
                    tls: tls(None),
                    ..none.clone()
                },
                Err(NoCallers),
                Role::None,
            ),
            (
                "0.0.0.0",
                AccessSettings {
                    tls: tls(Some("ca.pem")),
                    ..none.clone()
                },
                Ok(()),
                Role::None,
            ),
            (
                "0.0.0.0",
                AccessSettings {
                    tokens: Some("tokens.toml".into()),
                    ..none.clone()
                },
                Ok(()),
                Role::None,
            ),
            (
                "0.0.0.0",
                AccessSettings {
                    anonymous: Some(Role::None),
                    ..none.clone()
                },
                Ok(()),
                Role::None,
            ),
            (
                "127.0.0.1",
                AccessSettings {
                    anonymous: Some(Role::Viewer),
                    ..none.clone()
                },
                Ok(()),
                Role::Viewer,
            ),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(settings.check(address), expected, "{address} {settings:?}");
            assert_eq!(
                settings.anonymous_on(address),
                role,
                "{address} {settings:?}"
            );
        }
    }
}
