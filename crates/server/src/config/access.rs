//! The access control settings.

use super::{
    keys::{AUTO, OFF},
    layers::{InvalidSetting, Layers},
};
use crate::access::{AccessSettings, HostName, Role, TlsFiles};
use std::net::IpAddr;

/// The access settings for a listen address.
pub(super) fn from_layers(
    layers: &Layers,
    address: IpAddr,
) -> Result<AccessSettings, InvalidSetting> {
    let role = |role: Role| (role.as_str(), Some(role));
    let settings = AccessSettings {
        anonymous: layers.choice(
            "anonymous",
            &[
                role(Role::None),
                role(Role::Viewer),
                role(Role::Reader),
                role(Role::Producer),
                role(Role::Operator),
                role(Role::Admin),
                (AUTO, None),
            ],
        )?,
        tokens: layers.path_unless_off("tokens"),
        tls: tls(layers)?,
        allowed_hosts: allowed_hosts(layers)?,
    };
    settings
        .check(address)
        .map_err(|error| layers.invalid("listen", format_args!("{error}")))?;
    Ok(settings)
}

fn tls(layers: &Layers) -> Result<Option<TlsFiles>, InvalidSetting> {
    let path = |name| layers.path_unless_off(name);
    let client_ca = path("tls-client-ca");
    match (path("tls-cert"), path("tls-key")) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles {
            certificate,
            key,
            client_ca,
        })),
        (Some(_), None) => Err(layers.invalid("tls-cert", format_args!("needs --tls-key as well"))),
        (None, Some(_)) => Err(layers.invalid("tls-key", format_args!("needs --tls-cert as well"))),
        (None, None) if client_ca.is_some() => Err(layers.invalid(
            "tls-client-ca",
            format_args!("needs --tls-cert and --tls-key as well"),
        )),
        (None, None) => Ok(None),
    }
}

fn allowed_hosts(layers: &Layers) -> Result<Vec<HostName>, InvalidSetting> {
    let name = "allowed-host";
    let text = layers.text(name).trim();
    if text == OFF {
        return Ok(Vec::new());
    }
    text.split(',')
        .map(|host| {
            let host = host.trim();
            host.parse()
                .map_err(|error| layers.invalid(name, format_args!("{host:?} is {error}")))
        })
        .collect()
}
