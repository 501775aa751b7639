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
use workspace_engine_core::WorkspaceType;

pub(super) fn run(flags: &ServeFlags, workspace_type: WorkspaceType) -> Result<Exit, CommandError> {
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
    let ended = serve(&resolved.config, workspace_type, |running| {
        // The first line on standard output, for scripts that let the system choose the port.
        let printed = output::try_line(format_args!(
            "workspace-engine listens on {}",
            running.url()
        ));
        if let Err(error) = printed {
            tracing::warn!(%error, url = running.url(), "the line with the address cannot be written to standard output");
        }
    })?;
    Ok(match ended {
        Ended::Reported | Ended::Signal => Exit::Done,
        Ended::AtOnce => Exit::Interrupted,
    })
}
