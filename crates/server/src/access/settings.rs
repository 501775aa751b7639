//! The settings of access control.

use super::{
    origin::{HostName, OriginPolicy, OwnHosts, is_loopback_address},
    role::Role,
};
use crate::values::{Conflict, OrAuto, OrOff, or_off, path};
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use std::{net::IpAddr, path::PathBuf};

/// Access control as the operator configured it.
#[derive(Debug, Clone, Args)]
pub(crate) struct AccessSettings {
    /// TOML file of the callers with their roles, a line each as `workspace-engine token` prints it; reloaded within two
    /// seconds when it changes
    #[arg(long, value_name = "FILE", default_value = "off", value_parser = or_off(path))]
    pub(crate) tokens: OrOff<PathBuf>,
    /// Role of a caller without a token or a client certificate; auto is admin on a loopback address and none elsewhere
    #[arg(long, default_value = "auto", value_parser = anonymous())]
    pub(crate) anonymous: OrAuto<Role>,
    /// Names of the engine that requests may have in Host and Origin besides its addresses and localhost, such as that of
    /// a proxy. Without a port, Host may have any port and Origin that of Host or of its scheme. On a loopback address
    /// all other hosts are refused; elsewhere only if this is set, or if --anonymous gives callers without a token a role
    #[arg(long = "allowed-host", value_name = "HOST,...", default_value = "off", value_parser = hosts)]
    pub(crate) allowed_hosts: Hosts,
    /// PEM file of the server's certificate with its chain: the engine then serves https only; reloaded within two
    /// seconds when it changes
    #[arg(long, value_name = "FILE", default_value = "off", value_parser = or_off(path))]
    pub(crate) tls_cert: OrOff<PathBuf>,
    /// PEM file of the private key of --tls-cert
    #[arg(long, value_name = "FILE", default_value = "off", value_parser = or_off(path))]
    pub(crate) tls_key: OrOff<PathBuf>,
    /// PEM file of the authorities that sign client certificates; the common name is the caller's name, its role is that
    /// of the name in --tokens, or the organizational unit `workspace-engine:ROLE`
    #[arg(long, value_name = "FILE", default_value = "off", value_parser = or_off(path))]
    pub(crate) tls_client_ca: OrOff<PathBuf>,
}

/// Under this name clap takes the list for one value.
type Hosts = Vec<HostName>;

/// The files that TLS is served with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TlsFiles<'a> {
    pub(crate) certificate: &'a PathBuf,
    pub(crate) key: &'a PathBuf,
    pub(crate) client_ca: Option<&'a PathBuf>,
}

fn anonymous() -> impl TypedValueParser<Value = OrAuto<Role>> {
    let names = [Role::None].into_iter().chain(Role::GRANTABLE);
    let names = names.map(Role::as_str).chain(["auto"]);
    PossibleValuesParser::new(names).map(|name| match name.as_str() {
        "none" => Some(Role::None),
        // Of the possible values, only `auto` is not the name of a role.
        name => name.parse().ok(),
    })
}

fn hosts(text: &str) -> Result<Hosts, String> {
    if text == "off" {
        return Ok(Hosts::new());
    }
    let hosts = text.split(',').map(str::trim);
    hosts
        .map(|host| host.parse().map_err(|error| format!("{host:?} is {error}")))
        .collect()
}

impl AccessSettings {
    /// Checks that some caller can have a right on this address, or that the operator set `--anonymous`, and that the
    /// files of TLS are complete.
    pub(crate) fn check(&self, address: IpAddr) -> Result<(), Conflict> {
        let has_callers =
            self.tokens.is_some() || self.tls_client_ca.is_some() || self.anonymous.is_some();
        let conflict = match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => Conflict::new("tls-cert", "needs --tls-key as well"),
            (None, Some(_)) => Conflict::new("tls-key", "needs --tls-cert as well"),
            (None, None) if self.tls_client_ca.is_some() => {
                Conflict::new("tls-client-ca", "needs --tls-cert and --tls-key as well")
            }
            _ if has_callers || is_loopback_address(address) => return Ok(()),
            _ => Conflict::new(
                "listen",
                "this is not a loopback address, and no caller would have any right: give --tokens FILE \
                 (`workspace-engine token` makes tokens), --tls-client-ca FILE, or --anonymous ROLE for callers without \
                 either",
            ),
        };
        Err(conflict)
    }

    /// The files that TLS is served with, if it is.
    pub(crate) fn tls(&self) -> Option<TlsFiles<'_>> {
        Some(TlsFiles {
            certificate: self.tls_cert.as_ref()?,
            key: self.tls_key.as_ref()?,
            client_ca: self.tls_client_ca.as_ref(),
        })
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
            tokens: None,
            anonymous: None,
            allowed_hosts: Vec::new(),
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
        };
        let tls = AccessSettings {
            tls_cert: Some("cert.pem".into()),
            tls_key: Some("key.pem".into()),
            ..none.clone()
        };
        let client_ca = AccessSettings {
            tls_client_ca: Some("ca.pem".into()),
            ..tls.clone()
        };
        let tokens = AccessSettings {
            tokens: Some("tokens.toml".into()),
            ..none.clone()
        };
        let anonymous = |role| AccessSettings {
            anonymous: Some(role),
            ..none.clone()
        };
        for (address, settings, is_accepted, role) in [
            ("127.0.0.1", &none, true, Role::Admin),
            ("127.1.2.3", &none, true, Role::Admin),
            ("::1", &none, true, Role::Admin),
            ("::ffff:127.0.0.1", &none, true, Role::Admin),
            ("0.0.0.0", &none, false, Role::None),
            ("::", &none, false, Role::None),
            ("10.0.0.1", &none, false, Role::None),
            ("0.0.0.0", &tls, false, Role::None),
            ("0.0.0.0", &client_ca, true, Role::None),
            ("0.0.0.0", &tokens, true, Role::None),
            ("0.0.0.0", &anonymous(Role::None), true, Role::None),
            ("127.0.0.1", &anonymous(Role::Viewer), true, Role::Viewer),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(
                settings.check(address).is_ok(),
                is_accepted,
                "{address} {settings:?}"
            );
            assert_eq!(
                settings.anonymous_on(address),
                role,
                "{address} {settings:?}"
            );
        }
    }
}
