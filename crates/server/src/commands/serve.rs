//! `serve`: an engine with its HTTP server.

use super::CommandError;
use crate::{
    config::{ServeConfig, ServeFlags, misspelt_variables},
    exit::Exit,
    output,
    serve::{Ended, ServeError, serve},
    telemetry,
};
use std::env;

pub(super) fn run(flags: &ServeFlags) -> Result<Exit, CommandError> {
    let resolved = ServeConfig::resolve(flags)?;
    let set: Vec<String> = env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .collect();
    for name in misspelt_variables(set.iter().map(String::as_str), &super::variables()) {
        output::warn(format_args!("unknown variable {name}"));
    }
    telemetry::begin(&resolved.config.log).map_err(ServeError::from)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        settings = resolved.set.join(" "),
        "workspace-engine begins"
    );
    let ended = serve(&resolved.config, |running| {
        // The first line on standard output, for scripts that let the system choose the port.
        let said = output::try_line(format_args!(
            "workspace-engine listens on {}",
            running.url()
        ));
        if let Err(error) = said {
            tracing::warn!(%error, url = running.url(), "nobody reads where it listens");
        }
    })?;
    Ok(match ended {
        Ended::Reported | Ended::Signal => Exit::Done,
        Ended::AtOnce => Exit::Interrupted,
    })
}
