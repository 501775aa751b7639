//! The log on standard error: for people, or JSON for machines.

use crate::{
    access::AUDIT_TARGET,
    config::{Colour, LogFormat, LogSettings},
    output,
};
use std::io;
use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

/// Libraries that tell at `info` what helps nobody here; who asks for one by its name gets more of it.
const LIBRARIES: &str = "fjall=warn,lsm_tree=warn";

/// Why the log cannot begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TelemetryError {
    #[error("log-level {level:?}")]
    Level { level: String, source: ParseError },
    #[error("the log has begun already")]
    Begun,
}

/// Begins the log of this process.
///
/// # Errors
/// [`TelemetryError::Level`] where the level cannot be read.
pub(crate) fn begin(settings: &LogSettings) -> Result<(), TelemetryError> {
    // A level for everything does not silence the log of actions; its own name does.
    let directives = format!("{LIBRARIES},{AUDIT_TARGET}=info,{}", settings.level);
    let filter = EnvFilter::try_new(directives).map_err(|source| TelemetryError::Level {
        level: settings.level.clone(),
        source,
    })?;
    let colours = match settings.colour {
        Colour::Auto => output::watched() && output::colours_wanted(),
        Colour::Always => true,
        Colour::Never => false,
    };
    let log = fmt().with_env_filter(filter).with_writer(io::stderr);
    let begun = match settings.format {
        LogFormat::Human => log.with_ansi(colours).with_target(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    begun.map_err(|_| TelemetryError::Begun)
}
