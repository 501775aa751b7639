//! `serve`: an engine with its HTTP server.

use super::CommandError;
use crate::{
    config::{ServeConfig, ServeFlags},
    exit::Exit,
    output,
    serve::serve,
};

pub(super) fn run(flags: &ServeFlags) -> Result<Exit, CommandError> {
    let resolved = ServeConfig::resolve(flags)?;
    for name in &resolved.suspicious {
        output::warn(format_args!("unknown variable {name}"));
    }
    serve(&resolved.config, |running| {
        // The first line on standard output, for scripts that let the system choose the port.
        output::line(format_args!(
            "workspace-engine listens on {}",
            running.url()
        ));
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            settings = resolved.set.join(" "),
            "workspace-engine begins"
        );
    })?;
    Ok(Exit::Done)
}
